"""What an overlay records about itself: its base, the base's state, and its packages.

It is ``conda-meta/overlay`` in the overlay, JSON, written before the marker that makes the overlay complete.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from cetool.base.below import read_below, write_below
from cetool.base.codec import decode, encode
from cetool.base.limits import NOTE, parse_json
from cetool.overlays.base import Fingerprint, changes_between, fingerprint_of, python_of, site_directories
from cetool.overlays.guard import guard_of

ABOUT = "conda-meta/overlay"
SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Layer:
    """A package in an overlay."""

    name: str
    version: str
    #: ``pypi`` or ``conda``.
    kind: str
    #: The base's version of it; None if the base does not have it.
    shadows: str | None = None
    #: Why it is there although it was not requested.
    why: str | None = None
    #: What it was installed from, if not an index.
    source: str | None = None


@dataclass(frozen=True, slots=True)
class About:
    """What an overlay contains, and its base."""

    base: str
    #: Version of the base's Python, for which it was made; None for a base without Python.
    python: str | None
    fingerprint: Fingerprint
    layers: tuple[Layer, ...]

    @property
    def changes(self) -> list[str]:
        """What has changed in the base since, one text for each package."""
        return changes_between(self.fingerprint, fingerprint_of(Path(self.base)))


def read_about(prefix: Path) -> About | None:
    """Return the record of the overlay at ``prefix``; None if it cannot be read."""
    try:
        return decode(About, parse_json(read_below(prefix, ABOUT, limit=NOTE), exact=True), schema=SCHEMA)
    except (OSError, ValueError):
        return None


def write_about(prefix: Path, about: About) -> None:
    """Write the record. Raises OSError."""
    write_below(prefix, ABOUT, json.dumps(encode(about, schema=SCHEMA), indent=1).encode(), parents=True)


def what_is_lacking(prefix: Path, about: About | None) -> str | None:
    """Return what an overlay lacks and cannot work without; None if it is complete."""
    if about is None:
        return "its record conda-meta/overlay cannot be read"
    if about.python is not None and not (guard_of(prefix) / "sitecustomize.py").is_file():
        return "its sitecustomize.py is missing"
    return None


def why_unusable(about: About) -> str | None:
    """Return why an overlay made for an earlier state of its base cannot be used with this one; None if it can.

    The base's Python must have the minor version that the overlay was made for: no other finds its packages.
    """
    if about.python is None:
        return None
    base = Path(about.base)
    if not os.access(python_of(base), os.X_OK):
        return f"base {base} no longer has Python"
    minor = ".".join(about.python.split(".")[:2])
    if any(place.parent.name == f"python{minor}" for place in site_directories(base)):
        return None
    return f"the overlay was made for Python {minor}, and base {base} no longer has that version"
