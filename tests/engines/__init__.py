"""Executables named conda, mamba and micromamba for machines without them: see :mod:`engines.fake_engine`."""

from __future__ import annotations

import sys
from pathlib import Path

FAKE = Path(__file__).with_name("fake_engine.py")


def install_fakes(directory: Path, *names: str) -> None:
    """Write executables of these names to a directory, for a PATH."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = directory / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" {name} "$@"\n', encoding="utf-8")
        path.chmod(0o755)
