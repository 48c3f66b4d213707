"""What an overlay says of itself: its base and the state that was in, and which packages lie over which.

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
    """A package that lies over the base."""

    name: str
    version: str
    #: ``pypi`` or ``conda``.
    kind: str
    #: The version that the base has of it, None where it has none.
    shadows: str | None = None
    #: Why it is there although it was not asked for.
    why: str | None = None
    #: What it was installed from where that was no index.
    source: str | None = None


@dataclass(frozen=True, slots=True)
class About:
    """What was laid over what."""

    base: str
    #: The version of the base's python, for which it was made; None for a base without one.
    python: str | None
    fingerprint: Fingerprint
    layers: tuple[Layer, ...]

    @property
    def changes(self) -> list[str]:
        """What has changed in the base since, a text for each package."""
        return changes_between(self.fingerprint, fingerprint_of(Path(self.base)))


def read_about(prefix: Path) -> About | None:
    """What the overlay at ``prefix`` says of itself, None where nothing of it can be read."""
    try:
        return decode(About, parse_json(read_below(prefix, ABOUT, limit=NOTE), exact=True), schema=SCHEMA)
    except (OSError, ValueError):
        return None


def write_about(prefix: Path, about: About) -> None:
    """Write it. Raises OSError."""
    write_below(prefix, ABOUT, json.dumps(encode(about, schema=SCHEMA), indent=1).encode(), parents=True)


def what_is_lacking(prefix: Path, about: About | None) -> str | None:
    """What an overlay cannot do without and has lost; None where it has all."""
    if about is None:
        return "what it says of itself cannot be read"
    if about.python is not None and not (guard_of(prefix) / "sitecustomize.py").is_file():
        return "what puts it into the base's python is gone"
    return None


def why_unusable(about: About) -> str | None:
    """Why an overlay that was made for another state of its base cannot be used with this one; None where it can.

    The base's python has to be of the minor version that the overlay was made for: no other looks at its packages.
    """
    if about.python is None:
        return None
    base = Path(about.base)
    if not os.access(python_of(base), os.X_OK):
        return f"the base {base} has no python any more"
    minor = ".".join(about.python.split(".")[:2])
    if any(place.parent.name == f"python{minor}" for place in site_directories(base)):
        return None
    return f"the python of the base {base} is no python {minor} any more, which the overlay was made for"
