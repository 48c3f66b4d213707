"""The variables that an overlay sets over those of its base."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from cetool.launch.activation import NO_USER_SITE, Activation, read_activation
from cetool.warm.environ import OVERLAY_GUARD, path_dirs

_NEEDED = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")


def read_overlay_activation(base: Path, overlay: Path, variables: Mapping[str, str], *, user_site: bool) -> Activation:
    """The activation of the environment at ``base`` with what lies over it, ``variables`` being those of its spec.

    The prefix that is active is the base's; the overlay's programs come before the base's, and PYTHONPATH leads the
    base's python, and no other, to the overlay's packages. Scripts of the overlay's own conda packages are sourced
    after the base's, with their own prefix for CONDA_PREFIX. Raises StoreError as :func:`read_activation`.
    """
    below = read_activation(base, {}, user_site=user_site)
    above = read_activation(overlay, variables, user_site=True)
    merged = {**dict(below.set), **dict(above.set)}
    guard = f"{overlay}{OVERLAY_GUARD}"
    if os.path.isdir(guard):
        own = merged.get("PYTHONPATH")
        merged["PYTHONPATH"] = f"{guard}{os.pathsep}{own}" if own else guard
    if _writes_byte_code(base):
        merged["PYTHONDONTWRITEBYTECODE"] = "1"
    scripts = below.scripts
    if above.scripts:
        scripts += (f"CONDA_PREFIX={overlay}", *above.scripts, f"CONDA_PREFIX={base}")
    return below._replace(set=tuple(merged.items()), scripts=scripts, path=(*path_dirs(str(overlay)), *below.path))


def overlaid_environ(activation: Activation, base: Mapping[str, str]) -> dict[str, str]:
    """The caller's environment with no more than what the overlay needs to be seen: for a run without activation."""
    own = dict(activation.set)
    needed: dict[str, str] = {name: own[name] for name in (*_NEEDED, NO_USER_SITE) if name in own}
    if "PYTHONPATH" in needed and base.get("PYTHONPATH"):
        needed["PYTHONPATH"] += os.pathsep + base["PYTHONPATH"]
    return {**base, **needed}


def _writes_byte_code(base: Path) -> bool:
    """Whether a python of this user's would write its byte code into the base: root's would, and its owner's."""
    places = [*base.glob("lib/python*"), base / "Lib"]
    return any(place.is_dir() and os.access(place, os.W_OK) for place in places)
