"""The marker that an environment has when it is complete, and what was taken away from it since.

It is ``conda-meta/cetool``, JSON without a suffix, like conda's own ``state`` and ``frozen``: every file there that
ends in ``.json`` is taken for a package record, and conda, mamba and rattler give up on a prefix with one that they
cannot read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cetool.base.codec import decode, encode
from cetool.base.limits import NOTE, parse_json, read_regular
from cetool.base.values import Value
from cetool.declare.environment import EnvironmentSpec

#: Raised when the file's meaning changes; a marker of another schema makes its environment count as absent.
MARKER_SCHEMA = 1
MARKER = "conda-meta/cetool"
#: CEP 22: environments with this file are not to be changed by conda clients.
FROZEN = "conda-meta/frozen"


#: What reading a file that is not a marker raises.
_BROKEN = (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError)


class Marker(Value):
    """What is known of a complete environment."""

    #: The spec's.
    name: str
    #: The directory that it was made for: a prefix cannot be moved.
    prefix: str
    #: conda's name of the platform.
    subdir: str
    spec: EnvironmentSpec
    engine: str
    engine_version: str
    #: Seconds since 1970.
    created: float
    #: How long it took.
    seconds: float
    #: The number of its package records.
    packages: int
    #: Bytes on disk, hard links counted once.
    size: int
    #: The version of cetool that made it.
    cetool: str

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return encode(self, schema=MARKER_SCHEMA)

    @classmethod
    def from_dict(cls, data: object) -> Marker:
        """The marker that :meth:`as_dict` wrote. Raises ValueError where it is not one."""
        marker = decode(cls, data, schema=MARKER_SCHEMA)
        # an SQLite integer has 64 bits
        for number in (marker.created, marker.seconds, marker.packages, marker.size):
            if not 0 <= number < 2**63:
                raise ValueError(f"{number} is out of range")
        for text in (marker.name, marker.subdir, marker.engine, marker.engine_version, marker.cetool):
            text.encode()  # raises UnicodeEncodeError for a byte of a path
        return marker


def read_marker(prefix: Path) -> Marker | None:
    """The environment's marker, or None where there is none that this cetool understands."""
    try:
        return Marker.from_dict(_read(prefix))
    except _BROKEN:
        return None


def is_marked(prefix: Path) -> bool:
    """Whether the environment has a marker of its own, whatever is in that: who looks at thousands looks no closer."""
    try:
        data = _read(prefix)
        return data["schema"] == MARKER_SCHEMA and _is_same(data["prefix"], prefix)
    except _BROKEN:
        return False


def valid_marker(prefix: Path) -> Marker | None:
    """The marker of a complete environment that was made for this very directory, else None."""
    marker = read_marker(prefix)
    return marker if marker is not None and _is_same(marker.prefix, prefix) else None


def _is_same(marked: str, prefix: Path) -> bool:
    """Whether a marker is the directory's own: the paths inside one copied or moved from elsewhere are another's."""
    return marked == str(prefix) or os.path.realpath(marked) == os.path.realpath(prefix)


def _read(prefix: Path) -> Any:
    """The document in the marker's file. Raises one of _BROKEN."""
    return parse_json(read_regular(f"{prefix}/{MARKER}", NOTE, follow=False), exact=True)


_PYTHON = "python.exe" if os.name == "nt" else "bin/python"


def what_is_lost(prefix: Path, marker: Marker) -> str | None:
    """What the environment lacks, by a look at its package records and its python; None for nothing."""
    try:
        records = [name for name in os.listdir(prefix / "conda-meta") if name.endswith(".json")]
    except OSError as error:
        return f"its package records cannot be read: {error.strerror}"
    missing = marker.packages - len(records)
    if missing > 0:
        return f"{missing} of its {marker.packages} package records are gone"
    has_python = any(name.startswith("python-") and name[7:8].isdigit() for name in records)
    if has_python and not (prefix / _PYTHON).exists():
        return f"its {_PYTHON} is gone"
    return None
