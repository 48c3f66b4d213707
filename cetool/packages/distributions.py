"""Read the metadata of Python distributions in an environment: the only module that does.

A distribution does not record which file it was installed from, unless it was installed from a URL (PEP 610).
Therefore :mod:`cetool.engines.pypi` records this in :data:`ORIGINS`, next to the package records but without their
suffix: conda reads every ``conda-meta/*.json`` as a package record.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from cetool.base.below import read_below, write_below
from cetool.base.limits import NOTE, PACKAGE, parse_json, read_text
from cetool.base.text import normalized
from cetool.base.urls import strip_credentials
from cetool.declare.package import PypiPackage
from cetool.packages.prefix import PrefixRecord

if TYPE_CHECKING:
    from importlib.metadata import Distribution as Metadata

#: Records which files PyPI packages were installed from: ``{"schema": 1, "packages": [...]}``.
ORIGINS = "conda-meta/cetool-pypi"
_SCHEMA = 1
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
#: Suffixes of metadata directories, including those of eggs.
_INFO = (".dist-info", ".egg-info")
#: Metadata files that are read completely.
_READ = ("METADATA", "PKG-INFO", "WHEEL", "direct_url.json", "INSTALLER", "requires.txt")


@dataclass(frozen=True)
class Distribution:
    """An installed Python distribution."""

    #: Normalized (PEP 503).
    name: str
    version: str
    #: Its ``.dist-info`` or ``.egg-info``.
    directory: Path

    @functools.cached_property
    def _metadata(self) -> Metadata:
        return _metadata_in(self.directory)

    @property
    def place(self) -> Path:
        """The directory that it is imported from."""
        return self.directory.parent

    @functools.cached_property
    def requires(self) -> tuple[str, ...]:
        """Its requirements (PEP 508)."""
        return tuple(self._metadata.requires or ())

    @property
    def requires_python(self) -> str | None:
        """The Python versions that it supports (PEP 440)."""
        return self._metadata.metadata["Requires-Python"]

    @property
    def tags(self) -> frozenset[str]:
        """The tags of its wheel, such as ``py3-none-any``."""
        lines = (self._metadata.read_text("WHEEL") or "").splitlines()
        return frozenset(line.partition(":")[2].strip() for line in lines if line.startswith("Tag:"))

    @property
    def listed(self) -> Sequence[PurePosixPath]:
        """The files that it lists, relative to the directory that it is imported from."""
        return self._metadata.files or ()

    @property
    def installer(self) -> str:
        """The program that installed it; empty if not recorded."""
        return (self._metadata.read_text("INSTALLER") or "").strip()

    @property
    def direct_url(self) -> dict[str, Any]:
        """The content of ``direct_url.json`` (PEP 610); empty if it is missing or malformed."""
        try:
            data = parse_json(self._metadata.read_text("direct_url.json") or "")
        except ValueError:
            return {}
        return data if isinstance(data, dict) else {}

    @property
    def origin(self) -> PypiPackage:
        """The file that it was installed from, according to its own metadata; the URL is empty if they do not say."""
        url, sha256 = _origin(self.direct_url)
        return PypiPackage(self.name, self.version, url, sha256, self.requires, self.requires_python)

    def files(self, prefix: Path) -> Iterator[tuple[str, str]]:
        """Yield the files in its RECORD (PEP 376): path below the prefix, and ``ALGORITHM=DIGEST`` (may be empty).

        Files outside the prefix are skipped.
        """
        record = self.directory / "RECORD"
        try:
            rows = list(csv.reader(io.StringIO(read_text(record, PACKAGE), newline="")))
        except (OSError, ValueError, csv.Error):
            rows = []
            yield record.relative_to(prefix).as_posix(), ""
        top = os.path.normpath(prefix)
        for row in rows:
            if row and row[0]:
                path = os.path.relpath(os.path.normpath(os.path.join(self.place, row[0])), top).replace(os.sep, "/")
                if not path.startswith("../"):
                    yield path, row[1] if len(row) > 1 else ""


def _metadata_in(directory: Path) -> Metadata:
    from importlib.metadata import Distribution as Metadata  # parses mail: 20 ms

    return Metadata.at(directory)


def site_packages(prefix: Path) -> list[Path]:
    """Return the environment's ``site-packages``, each once: conda-forge links ``lib/python3.1`` to ``python3.11``."""
    places = [*sorted(prefix.glob("lib/python3*/site-packages")), prefix / "Lib" / "site-packages"]
    return list({place.resolve(): place for place in reversed(places) if place.is_dir()}.values())


def distributions_in(places: Iterable[str | Path]) -> Iterator[Distribution]:
    """Yield the distributions in these directories, sorted by the names of their metadata directories."""
    for place in places:
        try:
            names = sorted(os.listdir(place))
        except OSError:
            continue
        is_egg = os.fspath(place).endswith(".egg")
        for name in names:
            if name.endswith(_INFO) or (is_egg and name.lower() == "egg-info"):
                found = _read(Path(place, name))
                if found is not None:
                    yield found


def distributions_by_name(places: Iterable[str | Path]) -> dict[str, Distribution]:
    """Return the distributions in these directories by name; for duplicates the first, which is the one imported."""
    found: dict[str, Distribution] = {}
    for each in distributions_in(places):
        found.setdefault(each.name, each)
    return found


def _read(directory: Path) -> Distribution | None:
    """Return the distribution with these metadata; None unless all are regular files of acceptable size."""
    files = [directory / name for name in _READ] if directory.is_dir() else [directory]
    if not all(map(_is_readable, files)):
        return None
    metadata = _metadata_in(directory).metadata
    name, version = metadata["Name"], metadata["Version"]
    return Distribution(normalized(name), version, directory) if name and version else None


def _is_readable(path: Path) -> bool:
    """Return whether a file can be read completely, or is missing."""
    try:
        info = path.stat()
    except OSError:
        return True
    return stat.S_ISREG(info.st_mode) and info.st_size <= NOTE


def distributions_of(record: PrefixRecord) -> set[str]:
    """Return the names of the Python distributions in a conda package."""
    folders = {name.rpartition("/")[0].rpartition("/")[2] for name in record.files}
    return {normalized(each.rpartition(".")[0].partition("-")[0]) for each in folders if each.endswith(_INFO)}


def pypi_distributions(prefix: Path, records: Iterable[PrefixRecord]) -> Iterator[Distribution]:
    """Yield the distributions in an environment that belong to none of these packages."""
    owned = {name for record in records for name in record.files if ".dist-info/" in name}
    for place in site_packages(prefix):
        below = place.relative_to(prefix).as_posix()
        for each in distributions_in([place]):
            if each.directory.suffix == ".dist-info" and f"{below}/{each.directory.name}/METADATA" not in owned:
                yield each


# --- where they came from ---------------------------------------------------------------------------------------------


def _origin(told: Mapping[str, Any]) -> tuple[str, str | None]:
    """Return the URL and SHA-256 in a ``direct_url.json``; the URL is empty if it has none."""
    try:
        url = strip_credentials(str(told["url"]))
        below = f"#subdirectory={told['subdirectory']}" if told.get("subdirectory") else ""
        if "vcs_info" in told:
            return f"{told['vcs_info']['vcs']}+{url}@{told['vcs_info']['commit_id']}{below}", None
        archive = told.get("archive_info") or {}
        sha256 = (archive.get("hashes") or {}).get("sha256")
        if not sha256 and str(archive.get("hash", "")).startswith("sha256="):
            sha256 = archive["hash"].removeprefix("sha256=")
        return url.partition("#")[0] + below, sha256 if sha256 and _SHA256.match(sha256) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", None


def read_origins(prefix: Path) -> dict[str, PypiPackage]:
    """Read what :func:`write_origins` wrote, by name; empty if it is missing or damaged."""
    try:
        data = parse_json(read_below(prefix, ORIGINS, limit=PACKAGE))
        if data["schema"] != _SCHEMA:
            return {}
        found = [PypiPackage(*(each[key] for key in ("name", "version", "url", "sha256"))) for each in data["packages"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {
        each.name: each
        for each in found
        if each.url
        and isinstance(each.sha256, str | None)
        and all(isinstance(text, str) for text in (each.name, each.version, each.url))
    }


def write_origins(prefix: Path, packages: Iterable[PypiPackage]) -> None:
    """Record which files PyPI packages were installed from, without credentials. Raises OSError."""
    listed = [
        {"name": each.name, "version": each.version, "url": strip_credentials(each.url), "sha256": each.sha256}
        for each in sorted(packages, key=lambda package: package.name)
    ]
    text = json.dumps({"schema": _SCHEMA, "packages": listed}, indent=1) + "\n"
    write_below(prefix, ORIGINS, text.encode())
