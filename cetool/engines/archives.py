"""Check an unpacked package before it is linked: its identity, and where its files would be written.

A malicious package could otherwise make rattler abort, or write files outside the prefix.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cetool.base.errors import EngineError
from cetool.base.limits import PACKAGE, read_json, read_regular
from cetool.base.text import pattern, shorten
from cetool.base.urls import redact
from cetool.declare.package import Package

_ABSOLUTE = pattern(r"[/\\]|[A-Za-z]:")
_NAME = pattern(r"[A-Za-z0-9_][^/\\\x00-\x1f\x7f]*")
_LONGEST = 240
#: Metadata files that list a package's files with their hashes, and how they are linked.
_LISTING = ("index.json", "paths.json", "files", "link.json", "has_prefix")
#: The number of symbolic links that Linux follows in one path.
_MOST_LINKS = 40
#: Directories of noarch packages (CEP 20).
_SITE = pattern(r"\Asite-packages(?=/|\Z)")
_SCRIPTS = pattern(r"\Apython-scripts(?=/|\Z)")
_PYTHONS = pattern(r"\Alib/python3(?:\.[0-9]+)?(?=/|\Z)")
_CONTROL = pattern(r"[\x00-\x1f\x7f]")


def check_names(package: Package) -> None:
    """Raise EngineError if a package's names, which the channel chooses, are not valid file names."""
    for name in (package.stem, package.file_name):
        if not _NAME.fullmatch(name) or len(name) > _LONGEST:
            raise EngineError(
                f"{shorten(name)!r} from {redact(package.channel)} is not a valid name for a package file",
                code="package-damaged",
                hint="Report it to the owner of the channel.",
            )


def check_site_packages(path: str | None, package: Package) -> None:
    """Raise EngineError if a python package sets ``site-packages`` to a directory outside the prefix."""
    if path is not None:
        _check_paths((path,), package)


def check_unpacked(directory: Path, package: Package) -> None:
    """Raise EngineError unless the package is what its file name says, and all its files are inside the prefix."""
    index = _json(directory, "info/index.json", package)
    if index is None:
        raise _bad(package, "it has no info/index.json")
    own = "-".join(str(index.get(key, "")) for key in ("name", "version", "build"))
    if own.lower() != package.stem.lower():
        raise _bad(package, f"it contains {shorten(own, 200)}")
    paths = _json(directory, "info/paths.json", package)
    if paths is not None:
        entries = paths.get("paths")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise _bad(package, "its info/paths.json is malformed")
        _check_paths((entry.get("_path") for entry in entries), package)
    else:
        try:
            names = read_regular(directory / "info" / "files", PACKAGE).decode("utf-8", "surrogateescape").splitlines()
        except FileNotFoundError:
            return  # packages without files
        except OSError:
            raise _bad(package, "its info/files cannot be read") from None
        _check_paths((name for name in names if name), package)
    for point in _entry_points(directory, package):
        command = str(point).partition("=")[0].strip()
        if not command or re.search(r"[/\\\x00-\x1f]", command) or command in (".", ".."):
            raise _bad(package, f"its entry point {shorten(str(point))!r} is not a valid program name")
        if any((directory / folder / command).is_symlink() for folder in ("bin", "python-scripts", "Scripts")):
            raise _bad(package, f"its entry point {shorten(str(point))!r} has the same path as a link in the package")


def links_in(directory: Path) -> dict[str, str]:
    """Return the symbolic links of an unpacked package that do not lead to one of its files, with their targets."""
    found: dict[str, str] = {}
    ahead = [str(directory)]
    while ahead:
        with os.scandir(ahead.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    real = os.path.realpath(entry.path)
                    if not (real.startswith(f"{directory}{os.sep}") and os.path.isfile(real)):
                        found[Path(entry.path).relative_to(directory).as_posix()] = os.readlink(entry.path)
                elif entry.is_dir(follow_symlinks=False):
                    ahead.append(entry.path)
    return found


def check_together(cache: Path, packages: Sequence[Package], links: Mapping[str, Mapping[str, str]]) -> None:
    """Raise EngineError if a package has files below another package's link that leads outside the environment.

    ``links`` are the results of :func:`links_in` by stem; files are examined only if a link leads outside.
    """
    targets = {_linked_as(path): target for each in links.values() for path, target in each.items()}
    outside = {path for path in targets if _place_of(path, targets) is None}
    if not outside:
        return
    for package in packages:
        directory = cache / package.stem
        # a file replaces a link, but the program of an entry point is written through it
        written = [f"bin/{str(point).partition('=')[0].strip()}" for point in _entry_points(directory, package)]
        for path in (*_files_of(directory), *written):
            place = _linked_as(path) if path in written else _linked_as(path).rpartition("/")[0]
            if place and _place_of(place, targets) is None:
                raise _bad(package, f"a link of another package would place {shorten(path)!r} outside the environment")


def _place_of(path: str, targets: Mapping[str, str]) -> str | None:
    """Return where a path below the prefix leads with these links; None if outside the prefix, or nowhere."""
    ahead = path.split("/")[::-1]
    place: list[str] = []
    passed = 0
    while ahead:
        part = ahead.pop()
        if part in ("", "."):
            continue
        if part == "..":
            if not place:
                return None
            place.pop()
            continue
        place.append(part)
        target = targets.get(_linked_as("/".join(place)))
        if target is not None:
            passed += 1
            if passed > _MOST_LINKS or os.path.isabs(target):
                return None
            place.pop()
            ahead += target.split("/")[::-1]
    return "/".join(place)


def _linked_as(path: str) -> str:
    """Return the path below a prefix for a path in a package, the same for each version of python."""
    return _PYTHONS.sub("lib/python3", _SITE.sub("lib/python3/site-packages", _SCRIPTS.sub("bin", path)))


def _entry_points(directory: Path, package: Package) -> list[object]:
    link = _json(directory, "info/link.json", package)
    noarch = link.get("noarch") if link is not None else None
    points = noarch.get("entry_points") if isinstance(noarch, dict) else None
    return points if isinstance(points, list) else []


def _files_of(directory: Path) -> list[str]:
    """Return the files of an unpacked package according to its metadata, which were checked before."""
    try:
        return [str(entry["_path"]) for entry in read_json(directory / "info" / "paths.json", PACKAGE)["paths"]]
    except FileNotFoundError:
        pass
    try:
        return read_regular(directory / "info" / "files", PACKAGE).decode("utf-8", "surrogateescape").splitlines()
    except FileNotFoundError:
        return []


def listing_of(directory: Path) -> str:
    """Return the SHA-256 of a package's metadata, to detect whether its files are those of the archive."""
    digest = hashlib.sha256()
    for name in _LISTING:
        try:
            data = read_regular(f"{directory}/info/{name}", PACKAGE)
        except FileNotFoundError:
            data = b""
        digest.update(b"%d " % len(data) + data)
    return digest.hexdigest()


def has_link_script(directory: Path) -> bool:
    """Return whether an unpacked package has a script that runs when it is linked."""
    for folder in ("bin", "python-scripts", "Scripts"):
        try:
            if any(name.startswith(".") and "-link." in name for name in os.listdir(directory / folder)):
                return True
        except OSError:
            continue
    return False


def _check_paths(paths: Iterable[object], package: Package) -> None:
    for path in paths:
        if not isinstance(path, str) or not path or _CONTROL.search(path):
            raise _bad(package, f"{shorten(str(path))!r} is not a valid path")
        if _ABSOLUTE.match(path) or ".." in re.split(r"[/\\]", path):
            raise _bad(package, f"its path {shorten(path)!r} leads outside the environment")


def _json(directory: Path, name: str, package: Package) -> dict[str, Any] | None:
    """Read a JSON object from a file of the package; None if there is no such file."""
    path = directory / name
    try:
        if path.is_symlink():
            raise _bad(package, f"its {name} is a symbolic link")
        found = read_json(path, PACKAGE)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        raise _bad(package, f"its {name} cannot be read") from None
    if not isinstance(found, dict):
        raise _bad(package, f"its {name} is malformed")
    return found


def _bad(package: Package, reason: str) -> EngineError:
    return EngineError(
        f"cannot install the package {package.file_name} from {redact(package.channel)}: {reason}",
        code="package-damaged",
        hint="Report it to the owner of the channel, or request another version.",
    )
