"""What was taken away from an environment after it was made: by hand, by a cleaner of old files, by a failing disk."""

from __future__ import annotations

import os
from pathlib import Path

from cetool.cache.marker import Marker

_PYTHON = "python.exe" if os.name == "nt" else "bin/python"


def what_is_lost(prefix: Path, marker: Marker) -> str | None:
    """What the environment lacks, as far as a look at its package records and its python tells; None for nothing."""
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
