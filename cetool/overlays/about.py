"""What an overlay says of itself: its base and the state that was in, and which packages lie over which.

It is ``conda-meta/overlay`` in the overlay, JSON, written before the marker that makes the overlay complete.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cetool.below import read_below, write_below
from cetool.limits import NOTE, parse_json
from cetool.overlays.base import Fingerprint

ABOUT = "conda-meta/overlay"
SCHEMA = 1


@dataclass(frozen=True)
class Layer:
    """A package that lies over the base: ``kind`` is ``pypi`` or ``conda``.

    ``shadows`` is the version that the base has of it, None where it has none; ``why`` tells of one that nobody asked
    for why it is there; ``source`` is what it was installed from where that was no index.
    """

    name: str
    version: str
    kind: str
    shadows: str | None = None
    why: str | None = None
    source: str | None = None


@dataclass(frozen=True)
class About:
    """What was laid over what. ``python`` is the base's version, for which the overlay was made; None without one."""

    base: str
    python: str | None
    fingerprint: Fingerprint
    layers: tuple[Layer, ...]

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "schema": SCHEMA,
            "base": self.base,
            "python": self.python,
            "fingerprint": self.fingerprint.as_dict(),
            "layers": [asdict(layer) for layer in self.layers],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> About:
        """What :meth:`as_dict` wrote. Raises KeyError, TypeError or ValueError where it is none."""
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']!r}")
        layers = tuple(Layer(**layer) for layer in data["layers"])
        return cls(str(data["base"]), data["python"], Fingerprint.from_dict(data["fingerprint"]), layers)


def read_about(prefix: Path) -> About | None:
    """What the overlay at ``prefix`` says of itself, None where nothing of it can be read."""
    try:
        return About.from_dict(parse_json(read_below(prefix, ABOUT, limit=NOTE), exact=True))
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None


def write_about(prefix: Path, about: About) -> None:
    """Write it. Raises OSError."""
    write_below(prefix, ABOUT, json.dumps(about.as_dict(), indent=1).encode(), parents=True)
