"""What is in an environment, as a lock says it: by conda's package records, and by what Python distributions tell.

A distribution does not tell which file it was installed from, unless that was named by its URL (PEP 610). So whoever
installs PyPI packages keeps that in :data:`ORIGINS`, beside the package records but without their suffix: conda takes
every ``conda-meta/*.json`` for one of those.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cetool.base.below import read_below, write_below
from cetool.base.errors import StoreError
from cetool.base.limits import NOTE, PACKAGE, parse_json, read_json
from cetool.base.urls import strip_credentials
from cetool.declare.package import Package, PypiPackage
from cetool.lock.model import PlatformLock
from cetool.lock.records import in_order

#: Where the files that PyPI packages were installed from are noted: ``{"schema": 1, "packages": [...]}``.
ORIGINS = "conda-meta/cetool-pypi"
_SCHEMA = 1

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Distribution:
    """A Python distribution that no conda package brought.

    ``name`` is normalized (PEP 503); ``directory`` its ``.dist-info``; ``tags`` those of the wheel that it was
    (``py3-none-any``); ``origin`` what it tells itself of where it came from, the URL being empty where it tells
    nothing.
    """

    name: str
    version: str
    directory: Path
    tags: frozenset[str]
    origin: PypiPackage


@dataclass(frozen=True)
class Installed:
    """The packages of an environment; ``unknown`` are the PyPI packages whose file nobody noted."""

    lock: PlatformLock
    unknown: tuple[Distribution, ...] = ()

    def completed(self, found: Mapping[str, PypiPackage]) -> Installed:
        """The same where the files of unknown packages, by name, were found meanwhile."""
        known = [found[each.name]._replace(**_needs(each.origin)) for each in self.unknown if each.name in found]
        pypi = sorted((*self.lock.pypi, *known), key=lambda package: package.name)
        unknown = tuple(each for each in self.unknown if each.name not in found)
        return Installed(self.lock._replace(pypi=tuple(pypi)), unknown)


def read_installed(prefix: Path, platform: str) -> Installed:
    """What is in the environment at ``prefix``, made for ``platform``. Raises StoreError where a record is broken."""
    records = package_records(prefix)
    noted = read_origins(prefix)
    known, unknown = [], []
    for each in distributions(prefix, records):
        origin = _noted(each.origin, noted.get(each.name))
        if origin.url:
            known.append(origin)
        else:
            unknown.append(each)
    conda = in_order(map(_locked, records))
    pypi = tuple(sorted(known, key=lambda package: package.name))
    return Installed(PlatformLock(platform, conda, pypi), tuple(unknown))


def package_records(prefix: Path) -> list[dict[str, Any]]:
    """The records of the environment's conda packages (``conda-meta/*.json``), by file name. Raises StoreError."""
    records = []
    for path in sorted((prefix / "conda-meta").glob("*.json")):
        try:
            record = read_json(path, PACKAGE)
            if not _is_record(record):
                raise ValueError("it is not a package record")
        except (OSError, ValueError) as error:
            raise StoreError(
                f"the package record {path} cannot be read: {error}",
                code="environment-damaged",
                hint="Make the environment anew with --refresh.",
            ) from None
        records.append(record)
    return records


def _is_record(record: Any) -> bool:
    """Whether this is a package record: what is used of it here and above has the types that it should have."""
    if not isinstance(record, dict) or not all(
        isinstance(record.get(key), str) for key in ("name", "version", "build")
    ):
        return False
    lists = [record[key] for key in ("files", "depends", "constrains") if record.get(key) is not None]
    return all(isinstance(each, list) and all(isinstance(text, str) for text in each) for each in lists)


def _locked(record: dict[str, Any]) -> Package:
    url = record.get("url")
    size = record.get("size")
    return Package(
        name=str(record["name"]),
        version=str(record["version"]),
        build=str(record["build"]),
        subdir=str(record.get("subdir") or ""),
        url=strip_credentials(url) if isinstance(url, str) else "",
        sha256=_text(record.get("sha256")),
        md5=_text(record.get("md5")),
        size=size if isinstance(size, int) else None,
        depends=_texts(record.get("depends")),
        constrains=_texts(record.get("constrains")),
        noarch=_noarch(record),
    )


def _noarch(record: dict[str, Any]) -> str | None:
    """``python`` or ``generic``; older packages of the latter kind have ``true``."""
    told = record.get("noarch")
    return "generic" if told is True else _text(told)


def _text(value: object) -> str | None:
    return value.lower() if isinstance(value, str) and value else None


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


# --- PyPI -------------------------------------------------------------------------------------------------------------


def site_packages(prefix: Path) -> list[Path]:
    """The environment's ``site-packages``, each once: conda-forge has ``lib/python3.1`` lead to ``lib/python3.11``."""
    places = [*sorted(prefix.glob("lib/python3*/site-packages")), prefix / "Lib" / "site-packages"]
    return list({place.resolve(): place for place in reversed(places) if place.is_dir()}.values())


def distributions(prefix: Path, records: Iterable[Mapping[str, Any]]) -> Iterator[Distribution]:
    """The distributions in the environment that no package of these records brought, by directory."""
    owned: set[str] = set()
    for record in records:
        files = record.get("files")
        owned.update(name for name in files if ".dist-info/" in str(name)) if isinstance(files, list) else None
    for place in site_packages(prefix):
        below = place.relative_to(prefix).as_posix()
        for directory in sorted(place.glob("*.dist-info")):
            if f"{below}/{directory.name}/METADATA" not in owned and (found := _distribution(directory)) is not None:
                yield found


def _distribution(directory: Path) -> Distribution | None:
    from importlib.metadata import Distribution as Metadata

    if not all(_is_small(directory / file) for file in ("METADATA", "WHEEL", "direct_url.json")):
        return None
    metadata = Metadata.at(directory)
    name, version = metadata.metadata["Name"], metadata.metadata["Version"]
    if not name or not version:
        return None
    wheel = metadata.read_text("WHEEL") or ""
    origin = PypiPackage(
        name=normalized(name),
        version=version,
        url="",
        requires=tuple(metadata.requires or ()),
        requires_python=metadata.metadata["Requires-Python"],
    )
    told = _direct(metadata.read_text("direct_url.json"))
    if told is not None:
        origin = origin._replace(url=told[0], sha256=told[1])
    tags = frozenset(line.partition(":")[2].strip() for line in wheel.splitlines() if line.startswith("Tag:"))
    return Distribution(origin.name, version, directory, tags, origin)


def _is_small(path: Path) -> bool:
    """Whether a file of a distribution can be read whole, or is not there."""
    try:
        info = path.stat()
    except OSError:
        return True
    return stat.S_ISREG(info.st_mode) and info.st_size <= NOTE


def normalized(name: str) -> str:
    """A distribution's name as PEP 503 has it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _direct(text: str | None) -> tuple[str, str | None] | None:
    """The URL and SHA-256 that a ``direct_url.json`` (PEP 610) tells."""
    try:
        data = parse_json(text or "")
        url = strip_credentials(str(data["url"]))
        below = f"#subdirectory={data['subdirectory']}" if data.get("subdirectory") else ""
        if "vcs_info" in data:
            return f"{data['vcs_info']['vcs']}+{url}@{data['vcs_info']['commit_id']}{below}", None
        archive = data.get("archive_info") or {}
        sha256 = (archive.get("hashes") or {}).get("sha256")
        if not sha256 and str(archive.get("hash", "")).startswith("sha256="):
            sha256 = archive["hash"].removeprefix("sha256=")
        return url.partition("#")[0] + below, sha256 if sha256 and _SHA256.match(sha256) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _noted(origin: PypiPackage, noted: PypiPackage | None) -> PypiPackage:
    """What a distribution tells itself, completed by what was noted of it when it was installed."""
    if noted is None or noted.version != origin.version:
        return origin
    return origin._replace(url=noted.url, sha256=noted.sha256)


def _needs(origin: PypiPackage) -> dict[str, Any]:
    return {"requires": origin.requires, "requires_python": origin.requires_python}


def read_origins(prefix: Path) -> dict[str, PypiPackage]:
    """What :func:`write_origins` noted, by name; nothing where that is missing or damaged."""
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
    """Note which files PyPI packages were installed from, credentials left out. Raises OSError."""
    listed = [
        {"name": each.name, "version": each.version, "url": strip_credentials(each.url), "sha256": each.sha256}
        for each in sorted(packages, key=lambda package: package.name)
    ]
    text = json.dumps({"schema": _SCHEMA, "packages": listed}, indent=1) + "\n"
    write_below(prefix, ORIGINS, text.encode())
