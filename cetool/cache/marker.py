"""The marker that an environment carries when it is complete, and how it is put there so that no power cut forges it.

It is ``conda-meta/cetool``, JSON without a suffix, like conda's own ``state`` and ``frozen``: every file there that
ends in ``.json`` is taken for a package record, and conda, mamba and rattler give up on a prefix with one that they
cannot read.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cetool.spec.environment import EnvironmentSpec

#: Raised when the file's meaning changes; a marker of another schema makes its environment count as absent.
MARKER_SCHEMA = 1
MARKER = "conda-meta/cetool"
#: CEP 22: environments with this file are not to be changed by conda clients.
FROZEN = "conda-meta/frozen"
_FROZEN_MESSAGE = (
    "This environment was made by cetool for the scripts that declare it; its name is the digest of what they ask for, "
    "so it must never change. Declare other packages in the script, and the next run makes another environment."
)


@dataclass(frozen=True)
class Marker:
    """What is known of a complete environment.

    ``name`` is the spec's; ``prefix`` the directory it was made for (a prefix cannot be moved); ``subdir`` conda's name
    of the platform; ``created`` in seconds since 1970; ``seconds`` how long it took; ``size`` bytes on disk, hard links
    counted once; ``packages`` how many package records.
    """

    name: str
    prefix: str
    subdir: str
    spec: EnvironmentSpec
    engine: str
    engine_version: str
    created: float
    seconds: float
    packages: int
    size: int
    cetool: str

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"schema": MARKER_SCHEMA, **asdict(self), "spec": self.spec.as_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Marker:
        """The marker that :meth:`as_dict` wrote. Raises KeyError, TypeError or ValueError where it is not one."""
        if data["schema"] != MARKER_SCHEMA:
            raise ValueError(f"schema {data['schema']!r}")
        values = {name: data[name] for name in cls.__dataclass_fields__}
        return cls(**{**values, "spec": EnvironmentSpec.from_dict(data["spec"])})


def read_marker(prefix: Path) -> Marker | None:
    """The environment's marker, or None where there is none that this cetool understands."""
    try:
        data = json.loads((prefix / MARKER).read_bytes())
        return Marker.from_dict(data)
    except (OSError, KeyError, TypeError, ValueError):
        return None


def write_marker(prefix: Path, marker: Marker) -> None:
    """Freeze the environment (CEP 22) and mark it complete: everything else reaches the disk before the marker does."""
    frozen = json.dumps({"message": _FROZEN_MESSAGE}) + "\n"
    (prefix / FROZEN).write_text(frozen, encoding="utf-8")
    _sync_file_system(prefix)
    temporary = prefix / f"{MARKER}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(fd, json.dumps(marker.as_dict(), indent=1).encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(temporary, prefix / MARKER)
    sync_directory(prefix / "conda-meta")


def withdraw_marker(prefix: Path) -> None:
    """Make the environment count as incomplete without touching what runs in it."""
    with contextlib.suppress(OSError):
        (prefix / MARKER).unlink()
        sync_directory(prefix / "conda-meta")


def sync_directory(directory: Path) -> None:
    """Bring a directory's entries to the disk, where the system lets a directory be opened for that."""
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _sync_file_system(prefix: Path) -> None:
    """Bring to the disk what the engine wrote: thousands of files, so the whole file system at once where that
    exists.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            fd = os.open(prefix, os.O_RDONLY)
            try:
                if ctypes.CDLL(None).syncfs(fd) == 0:
                    return
            finally:
                os.close(fd)
    if hasattr(os, "sync"):
        os.sync()
