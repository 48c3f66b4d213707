"""Reads what uv and pip answer: the lines of uv's dry run, ``pylock.toml`` (PEP 751), and pip's installation report."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from cetool.base.errors import EngineError
from cetool.base.limits import parse_json
from cetool.base.text import normalized
from cetool.base.urls import strip_credentials
from cetool.base.values import Value
from cetool.declare.package import PypiPackage
from cetool.packages.distributions import Distribution
from cetool.packages.hashing import digest_of

#: What reading something else than was expected raises.
NOT_UNDERSTOOD = (OSError, ValueError, KeyError, TypeError, AttributeError, EngineError)
#: Of uv's dry run: `` + six==1.17.0 (from file:///...)``.
_PLANNED = re.compile(r"^ [+~] (\S+?)==(\S+?)(?: \(from (.+)\))?$", re.MULTILINE)


class Planned(Value):
    """A package that an installer would install, or has installed."""

    #: Its URL may have credentials. uv's dry run tells none of a package from an index.
    package: PypiPackage
    #: It was named by its URL, so that no index has a say in it.
    is_direct: bool = False
    is_directory: bool = False


def read_dry_run(text: str) -> list[Planned]:
    """The packages that uv says it would install."""
    return [
        Planned(PypiPackage(normalized(name), version, url), is_direct=bool(url))
        for name, version, url in _PLANNED.findall(text)
    ]


def read_report(text: bytes) -> list[Planned]:
    """The packages in pip's installation report (version 1). Raises ValueError, KeyError, TypeError, AttributeError."""
    found = []
    for item in parse_json(text)["install"]:
        metadata, source = item["metadata"], item["download_info"]
        url, sha256 = str(source["url"]), None
        if "vcs_info" in source:
            url = f"{source['vcs_info']['vcs']}+{url}@{source['vcs_info']['commit_id']}"
        elif "dir_info" not in source:
            sha256 = source.get("archive_info", {}).get("hashes", {}).get("sha256") or _sha256_of(url)
        below = source.get("subdirectory")
        package = PypiPackage(
            name=normalized(metadata["name"]),
            version=str(metadata["version"]),
            url=url + (f"#subdirectory={below}" if below else ""),
            sha256=sha256,
            requires=tuple(map(str, metadata.get("requires_dist", []))),
            requires_python=metadata.get("requires_python"),
        )
        found.append(Planned(package, bool(item.get("is_direct")), "dir_info" in source))
    return found


def _sha256_of(url: str) -> str | None:
    """The digest of an archive on this machine, of which pip tells none."""
    path = unquote(urlsplit(url).path) if url.startswith("file://") else ""
    return digest_of(path) if os.path.isfile(path) else None


class Pinned(Value):
    """A package of a ``pylock.toml``: the URLs and SHA-256 digests of its files, wheels first; of a repository or a
    directory its one URL.
    """

    name: str
    #: None for one that its own metadata tell: a repository, a directory, an archive.
    version: str | None
    files: tuple[tuple[str, str | None], ...]
    is_directory: bool = False
    is_repository: bool = False
    #: A direct reference, which is its own pin.
    is_direct: bool = False


def read_pylock(text: str, directory: Path) -> list[Pinned]:
    """The packages of a ``pylock.toml``, relative paths starting from ``directory``. Raises ValueError and KeyError."""
    import tomli

    return [_pinned(package, directory) for package in tomli.loads(text).get("packages", ())]


def _pinned(package: Mapping[str, Any], directory: Path) -> Pinned:
    name, version = normalized(package["name"]), package.get("version")
    if vcs := package.get("vcs"):
        url = f"{vcs['type']}+{vcs['url'].removeprefix('git+')}@{vcs['commit-id']}{_below(vcs)}"
        return Pinned(name, version, ((url, None),), is_repository=True, is_direct=True)
    if "directory" in package:
        return Pinned(
            name, version, ((_url(package["directory"], directory), None),), is_directory=True, is_direct=True
        )
    files = [package[key] for key in ("archive",) if key in package]
    files += [*package.get("wheels", ()), *(package[key] for key in ("sdist",) if key in package)]
    pairs = ((_url(file, directory) + _below(file), file.get("hashes", {}).get("sha256")) for file in files)
    return Pinned(name, version, tuple(pairs), is_direct="archive" in package or version is None)


def _url(file: Mapping[str, Any], directory: Path) -> str:
    url = file.get("url")
    return str(url) if url else Path(os.path.normpath(directory / file["path"])).as_uri()


def _below(file: Mapping[str, Any]) -> str:
    return f"#subdirectory={file['subdirectory']}" if file.get("subdirectory") else ""


def sources_of(wanted: Sequence[Distribution], pinned: Sequence[Pinned]) -> dict[str, PypiPackage]:
    """The files that these installed distributions are of, by name, as far as they are among the pinned."""
    installed = {each.name: each for each in wanted}
    found = {}
    for package in pinned:
        each = installed.get(package.name)
        if each is not None and package.version in (None, each.version) and package.files:
            fitting = [pair for pair in package.files if _fits(pair[0], each)]
            url, sha256 = (fitting or package.files)[0]
            found[each.name] = PypiPackage(each.name, each.version, strip_credentials(url), sha256)
    return found


def _fits(url: str, installed: Distribution) -> bool:
    """Whether a file can be what was installed: sources, or a wheel for the same platforms."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    name = url.partition("#")[0].rpartition("/")[2].replace("%2B", "+")
    try:
        return not name.endswith(".whl") or bool(installed.tags & set(map(str, parse_wheel_filename(name)[3])))
    except InvalidWheelFilename:
        return False
