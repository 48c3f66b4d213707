"""Looks over an unpacked package before an engine links it: what it says it is, and where its files want to go.

What gets past here could make rattler abort, or write outside of the prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cetool.engines.explicit import ExplicitPackage
from cetool.errors import EngineError
from cetool.limits import PACKAGE, read_json, read_regular
from cetool.spec.nodes import shorten
from cetool.spec.urls import redact

_ABSOLUTE = re.compile(r"[/\\]|[A-Za-z]:")
_NAME = re.compile(r"[A-Za-z0-9_][^/\\\x00-\x1f\x7f]*")
_LONGEST = 240
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def check_names(package: ExplicitPackage) -> None:
    """Raise EngineError where a package's names, which a channel chooses, cannot be those of a file."""
    for name in (package.stem, package.file_name):
        if not _NAME.fullmatch(name) or len(name) > _LONGEST:
            raise EngineError(
                f"{shorten(name)!r} of {redact(package.channel)} cannot be the name of a package file",
                hint="Report it to the channel's owner.",
            )


def check_site_packages(path: str | None, package: ExplicitPackage) -> None:
    """Raise EngineError where a python says that Python packages go outside of the prefix."""
    if path is not None:
        _check_paths((path,), package)


def check_unpacked(directory: Path, package: ExplicitPackage) -> None:
    """Raise EngineError unless the package is the one that its file is named after and stays within its prefix."""
    index = _json(directory, "info/index.json", package)
    if index is None:
        raise _bad(package, "it has no info/index.json")
    own = "-".join(str(index.get(key, "")) for key in ("name", "version", "build"))
    if own.lower() != package.stem.lower():
        raise _bad(package, f"it is {shorten(own, 200)} inside")
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
    link = _json(directory, "info/link.json", package)
    noarch = link.get("noarch") if link is not None else None
    points = noarch.get("entry_points") if isinstance(noarch, dict) else None
    for point in points if isinstance(points, list) else ():
        command = str(point).partition("=")[0].strip()
        if not command or re.search(r"[/\\\x00-\x1f]", command) or command in (".", ".."):
            raise _bad(package, f"its entry point {shorten(str(point))!r} is not the name of a program")


def _check_paths(paths: Iterable[object], package: ExplicitPackage) -> None:
    for path in paths:
        if not isinstance(path, str) or not path or _CONTROL.search(path):
            raise _bad(package, f"{shorten(str(path))!r} cannot be the path of a file")
        if _ABSOLUTE.match(path) or ".." in re.split(r"[/\\]", path):
            raise _bad(package, f"its path {shorten(path)!r} leads outside of the environment")


def _json(directory: Path, name: str, package: ExplicitPackage) -> dict[str, Any] | None:
    """The object in a file of the package; None where there is no such file."""
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


def _bad(package: ExplicitPackage, reason: str) -> EngineError:
    return EngineError(
        f"the package {package.file_name} of {redact(package.channel)} cannot be installed: {reason}",
        hint="Report it to the channel's owner, or ask for another version.",
    )
