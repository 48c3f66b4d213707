"""Packages that were damaged where they are kept unpacked: by a power cut, a failing disk, a cleaner of old files.

Engines link what they find there without a look at it, so that every environment made from then on would lack the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from cetool.errors import EngineError


class DamagedPackages(EngineError):
    """What was to be linked is not what the packages had; ``directories`` are where they are kept unpacked, ``how``
    what is wrong with their files.
    """

    def __init__(self, directories: Iterable[Path], how: str = "missing or cut off") -> None:
        self.directories = tuple(directories)
        names = ", ".join(directory.name for directory in self.directories)
        where = self.directories[0].parent
        super().__init__(
            f"the package cache {where} is damaged: files of {names} are {how}",
            hint="Remove these directories there (or all of it), and run the same command again.",
        )


def is_cut_off(status: os.stat_result, size: object) -> bool:
    """Whether a file is what a power cut leaves of one of this size: it ends early, with a block of the disk.

    One that ends early somewhere else was changed by a program, through another of its names.
    """
    return stat.S_ISREG(status.st_mode) and isinstance(size, int) and status.st_size < size and not status.st_size % 512


def is_damaged(directory: Path) -> bool:
    """Whether files of an unpacked package are missing or cut off. A package that is not there is not damaged."""
    if not directory.is_dir():
        return False
    try:
        listing = (directory / "info" / "paths.json").read_bytes()
    except FileNotFoundError:  # packages of old have none
        return _lacks_files(directory)
    except OSError:
        return True
    try:
        for entry in json.loads(listing)["paths"]:
            if is_cut_off(os.lstat(f"{directory}/{entry['_path']}"), entry.get("size_in_bytes")):
                return True
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return True
    return False


def _lacks_files(directory: Path) -> bool:
    try:
        names = (directory / "info" / "files").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return True
    return not all(os.path.lexists(directory / name) for name in names if name)


def distrust(directories: Iterable[Path]) -> None:
    """Have the embedded engine fetch these packages again: it takes one without this file for not yet unpacked."""
    for directory in directories:
        with contextlib.suppress(FileNotFoundError):
            (directory / "info" / "index.json").unlink()
