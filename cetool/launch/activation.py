"""Read the variables that an environment and its overlay set, and apply them to a process's environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from cetool.base.errors import Location, StoreError
from cetool.base.values import Value
from cetool.declare.blocks import CONDA_EXECUTE
from cetool.warm.environ import OVERLAY_GUARD, activated, path_dirs, read_variables, scripts_in, variable_files

#: Holds the environment's prefix for a script with a ``# conda execute`` block.
PREFIX = "PREFIX"
#: Keeps Python from adding the user's own site-packages (``~/.local/lib/python3.X/site-packages``).
NO_USER_SITE = "PYTHONNOUSERSITE"


class Activation(Value):
    """What ``conda activate`` would do for an environment, whatever the shell.

    It stays valid until the environment changes, which it never does, so it can be stored for the next run.
    """

    prefix: Path
    #: Pairs of name and value.
    set: tuple[tuple[str, str], ...] = ()
    #: Absolute paths of the files in ``etc/conda/activate.d`` to source, in order.
    scripts: tuple[str, ...] = ()
    #: Directories to put first on the PATH.
    path: tuple[str, ...] = ()


def variables_of(
    declared: tuple[tuple[str, str], ...], dialect: str | None, prefix: str | os.PathLike[str]
) -> dict[str, str]:
    """Return the variables of a script's specification, with those that its dialect sets.

    conda-execute set PREFIX to the environment's prefix, and its scripts rely on that: without it, a shell turns
    ``$PREFIX/lib`` into ``/lib``. A declared PREFIX takes precedence; in the other dialects the caller's PREFIX stays.
    """
    variables = dict(declared)
    if dialect == CONDA_EXECUTE:
        variables.setdefault(PREFIX, os.fspath(prefix))
    return variables


def read_activation(prefix: Path, variables: Mapping[str, str], *, user_site: bool = False) -> Activation:
    """Return the activation of the environment at ``prefix`` (an absolute path); ``variables`` come from its
    specification.

    Unless ``user_site`` is true, Python does not import packages that ``pip install --user`` installed. Sources of
    variables, in increasing precedence: that one, packages (``etc/conda/env_vars.d``), conda (``conda-meta/state``),
    the specification. Raises StoreError if one of the files is damaged, or if the prefix cannot be an entry of PATH.
    """
    text = os.fspath(prefix)
    if os.pathsep in text:
        raise StoreError(
            f"the environment's path contains {os.pathsep!r}, which separates entries of PATH",
            code="environment-damaged",
            where=Location(text),
            hint="Choose another directory with CETOOL_CACHE_DIR or the setting env-dir.",
        )
    merged: dict[str, str | None] = {} if user_site else {NO_USER_SITE: "1"}
    for file in variable_files(text):
        try:
            merged.update(read_variables(file))
        except (OSError, ValueError) as error:
            raise StoreError(
                f"cannot read the variables of this environment: {error}",
                code="environment-damaged",
                where=Location(file),
                hint="Re-create the environment with --refresh.",
            ) from error
    merged.update(variables)
    merged.pop("PATH", None)
    return Activation(
        prefix=Path(text),
        set=tuple((name, value) for name, value in merged.items() if value is not None),
        scripts=tuple(scripts_in(text, "activate.d")),
        path=path_dirs(text),
    )


def unactivated_environ(activation: Activation, base: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's environment for a program without activation: only isolated from the user's site-packages."""
    return {**base, **{name: value for name, value in activation.set if name == NO_USER_SITE}}


def activated_environ(activation: Activation, base: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the environment for a program in this environment, and the steps that a shell takes before it.

    ``base`` is the caller's environment (:func:`cetool.warm.environ.caller_environ`); variables of an outer conda or
    virtual environment are removed. See :func:`cetool.warm.environ.activated` for the steps.
    """
    return activated(os.fspath(activation.prefix), activation.path, activation.set, activation.scripts, base)


_NEEDED = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")


def read_overlay_activation(base: Path, overlay: Path, variables: Mapping[str, str], *, user_site: bool) -> Activation:
    """Return the activation of the environment at ``base`` with its overlay; ``variables`` come from its specification.

    The active prefix is the base's. The overlay's programs come before the base's, and PYTHONPATH leads the base's
    Python, and no other, to the overlay's packages. Activation scripts of conda packages in the overlay are sourced
    after the base's, with CONDA_PREFIX set to the overlay. Raises StoreError like :func:`read_activation`.
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
    """Return the caller's environment for a run without activation, with only what the overlay needs to be found."""
    own = dict(activation.set)
    needed: dict[str, str] = {name: own[name] for name in (*_NEEDED, NO_USER_SITE) if name in own}
    if "PYTHONPATH" in needed and base.get("PYTHONPATH"):
        needed["PYTHONPATH"] += os.pathsep + base["PYTHONPATH"]
    return {**base, **needed}


def _writes_byte_code(base: Path) -> bool:
    """Return whether Python, run by this user, would write byte code into the base: true for root and its owner."""
    places = [*base.glob("lib/python*"), base / "Lib"]
    return any(place.is_dir() and os.access(place, os.W_OK) for place in places)
