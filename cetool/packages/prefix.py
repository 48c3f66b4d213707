"""Read the conda packages of a prefix from ``conda-meta``: the only reader of package records and of the history."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cetool.base.errors import StoreError
from cetool.base.limits import PACKAGE, read_json, read_regular
from cetool.base.text import pattern
from cetool.base.urls import strip_credentials
from cetool.base.values import Value
from cetool.declare.package import Package

# Files that linking creates or removes, whatever the package record says.
_VOLATILE = pattern(r"\.pyc$|(?:^|/)\.[^/]*-(?:pre|post)-(?:link|unlink)\.(?:sh|bat)$|\.messages\.txt$")
#: Fields that a package record must have, and the lists that are read from it.
_TEXTS = ("name", "version", "build")
_LISTS = ("files", "depends", "constrains")


class PackageRecordError(StoreError):
    """A package record that cannot be read; ``problem`` says why."""

    code = "environment-damaged"

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(
            f"cannot read the package record {path}: {problem}", hint="Re-create the environment with --refresh."
        )
        self.path = path
        self.problem = problem


class PackagePath(Value):
    """One path of a package."""

    #: Path below the prefix, with slashes.
    path: str
    #: Name, version and build of the package: the stem of its record's file name.
    package: str
    #: The record's ``path_type``: ``hardlink``, ``softlink``, ``directory``.
    kind: str
    #: SHA-256 of the file in the package, lowercase hex digits; None if not recorded.
    sha256: str | None = None
    #: SHA-256 of the file in the prefix; differs from ``sha256`` if the prefix was written into the file.
    expected: str | None = None
    #: The text in the package that linking replaced by the prefix; None if there is none.
    placeholder: str | None = None
    #: Whether the placeholder was replaced as in a binary file, which keeps its size.
    binary: bool = False


class PrefixRecord(Value):
    """The record of an installed package: ``conda-meta/NAME-VERSION-BUILD.json``."""

    path: Path
    #: The whole document.
    data: Mapping[str, Any]

    @property
    def stem(self) -> str:
        """Name, version and build: the stem of the record's file name."""
        return self.path.stem

    @property
    def name(self) -> str:
        """The package's name."""
        return str(self.data["name"])

    @property
    def version(self) -> str:
        """The package's version."""
        return str(self.data["version"])

    @property
    def build(self) -> str:
        """The package's build string."""
        return str(self.data["build"])

    @property
    def files(self) -> Sequence[str]:
        """The paths of its files below the prefix."""
        return self.data.get("files") or ()

    @property
    def depends(self) -> Sequence[str]:
        """Match specs of its dependencies."""
        return self.data.get("depends") or ()

    @property
    def entries(self) -> list[dict[str, Any]]:
        """The items of ``paths_data``."""
        data = self.data.get("paths_data")
        entries = data.get("paths") if isinstance(data, dict) else None
        return [each for each in entries if isinstance(each, dict)] if isinstance(entries, list) else []

    @property
    def source(self) -> Path | None:
        """The unpacked package that it was linked from; None if the record does not say."""
        link = self.data.get("link")
        named = (link.get("source") if isinstance(link, dict) else None) or self.data.get("extracted_package_dir")
        return Path(named) if isinstance(named, str) and os.path.isabs(named) else None

    def text(self, key: str) -> str | None:
        """Return a string field; None if it is empty or not a string."""
        value = self.data.get(key)
        return value if isinstance(value, str) and value else None

    def digest(self, algorithm: str) -> str | None:
        """Return the archive's digest as recorded, lowercase hex digits."""
        value = self.text(algorithm)
        return value.lower() if value else None

    @property
    def package(self) -> Package:
        """The package as a lock lists it."""
        size = self.data.get("size")
        noarch = "generic" if self.data.get("noarch") is True else self.text("noarch")  # true in older packages
        return Package(
            name=self.name,
            version=self.version,
            build=self.build,
            subdir=str(self.data.get("subdir") or ""),
            url=strip_credentials(self.text("url") or ""),
            sha256=self.digest("sha256"),
            md5=self.digest("md5"),
            size=size if isinstance(size, int) else None,
            depends=tuple(self.depends),
            constrains=tuple(self.data.get("constrains") or ()),
            noarch=noarch.lower() if noarch else None,
        )


def record_files(prefix: Path) -> list[Path]:
    """Return the files of the package records in a prefix, sorted. Raises OSError if ``conda-meta`` cannot be read."""
    meta = prefix / "conda-meta"
    names = sorted(name for name in os.listdir(meta) if name.endswith(".json") and name != "cetool.json")
    return [meta / name for name in names]


def read_record(path: Path) -> PrefixRecord:
    """Read a package record. Raises PackageRecordError, which names the field, if it is malformed."""
    try:
        data = read_json(path, PACKAGE)
    except (OSError, ValueError) as error:
        raise PackageRecordError(path, str(error)) from None
    if not isinstance(data, dict):
        raise PackageRecordError(path, "not a package record")
    for key in _TEXTS:
        if not isinstance(data.get(key), str):
            raise PackageRecordError(path, f"not a package record: '{key}' is not a string")
    for key in _LISTS:
        value = data.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(each, str) for each in value)):
            raise PackageRecordError(path, f"not a package record: '{key}' is not a list of strings")
    return PrefixRecord(path, data)


def read_records(prefix: Path) -> list[PrefixRecord]:
    """Return the records of a prefix by file name; none if ``conda-meta`` is missing. Raises PackageRecordError."""
    try:
        paths = record_files(prefix)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise PackageRecordError(prefix / "conda-meta", str(error)) from None
    return list(map(read_record, paths))


def sound_records(prefix: Path) -> tuple[list[PrefixRecord], list[Path]]:
    """Return the readable records of a prefix, and the files of the unreadable ones."""
    sound, broken = [], []
    try:
        paths = record_files(prefix)
    except OSError:
        return [], []
    for path in paths:
        try:
            sound.append(read_record(path))
        except PackageRecordError:
            broken.append(path)
    return sound, broken


def read_history(prefix: Path) -> str:
    """Return the text of ``conda-meta/history``; empty if it cannot be read."""
    try:
        return read_regular(prefix / "conda-meta" / "history", PACKAGE).decode("utf-8", "replace")
    except OSError:
        return ""


# --- the files of packages --------------------------------------------------------------------------------------------


def is_volatile(path: str) -> bool:
    """Return whether Python or linking creates and removes files with such a path."""
    return _VOLATILE.search(path) is not None


def package_paths(records: Iterable[PrefixRecord]) -> Iterator[PackagePath]:
    """Yield the paths of these packages, without the volatile ones (see :func:`is_volatile`)."""
    records = list(records)
    places = _python_places(records)
    for record in records:
        yield from _paths_of(record, places)


def _paths_of(record: PrefixRecord, places: tuple[tuple[str, str], ...]) -> Iterator[PackagePath]:
    package, data = record.stem, record.data
    if data.get("noarch") != "python" and data.get("package_type") != "noarch_python":
        places = ()
    listed = set()
    for entry in record.entries:
        name = entry.get("_path")
        if not isinstance(name, str) or not name:
            continue
        for packed, placed in places:  # conda records the paths inside the package
            if name.startswith(packed):
                name = placed + name.removeprefix(packed)
                break
        listed.add(name)
        own = entry.get("sha256") or None
        expected = entry.get("sha256_in_prefix") or (None if entry.get("prefix_placeholder") else own)
        kind = str(entry.get("path_type", "hardlink"))
        if not is_volatile(name) and kind != "pyc_file":
            placeholder = entry.get("prefix_placeholder") or None
            yield PackagePath(name, package, kind, own, expected, placeholder, entry.get("file_mode") == "binary")
    for name in record.files:
        if name not in listed and not is_volatile(name):
            yield PackagePath(name, package, "hardlink")


def _python_places(records: Iterable[PrefixRecord]) -> tuple[tuple[str, str], ...]:
    """Return where files of noarch Python packages go: pairs of a directory in the package and one in the prefix."""
    python = next((record.data for record in records if record.name == "python"), {})
    version = ".".join(str(python.get("version", "")).split(".")[:2])
    windows = str(python.get("subdir", "")).startswith("win")
    packages = python.get("python_site_packages_path")
    if not isinstance(packages, str) or not packages:
        packages = "Lib/site-packages" if windows else f"lib/python{version}/site-packages"
    return (("site-packages/", packages + "/"), ("python-scripts/", "Scripts/" if windows else "bin/"))
