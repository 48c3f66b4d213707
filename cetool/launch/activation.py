"""The variables that an environment sets, with those of an overlay, and what a process in it gets."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from cetool.base.errors import Location, StoreError
from cetool.base.values import Value
from cetool.declare.blocks import CONDA_EXECUTE
from cetool.warm.environ import OVERLAY_GUARD, activated, path_dirs, read_variables, scripts_in, variable_files

#: The variable that holds the environment's prefix for a script with a ``# conda execute`` block.
PREFIX = "PREFIX"
#: Keeps a python from adding the user's own site-packages (``~/.local/lib/python3.X/site-packages``).
NO_USER_SITE = "PYTHONNOUSERSITE"


class Activation(Value):
    """What ``conda activate`` would do for an environment, apart from the shell it is called in.

    It holds until the environment changes, which it never does: it can be written down for the next run.
    """

    prefix: Path
    #: Pairs of name and value.
    set: tuple[tuple[str, str], ...] = ()
    #: Absolute paths of the files in ``etc/conda/activate.d`` to source, in order.
    scripts: tuple[str, ...] = ()
    #: The directories that come first on the PATH.
    path: tuple[str, ...] = ()


def variables_of(
    declared: tuple[tuple[str, str], ...], dialect: str | None, prefix: str | os.PathLike[str]
) -> dict[str, str]:
    """The variables of a script's spec, with those that its dialect sets.

    conda-execute set PREFIX to the environment's prefix, and its scripts rely on that: without it, a shell makes
    ``/lib`` of ``$PREFIX/lib``. A script that declares PREFIX itself gets what it declares; in the other dialects the
    caller's PREFIX stays.
    """
    variables = dict(declared)
    if dialect == CONDA_EXECUTE:
        variables.setdefault(PREFIX, os.fspath(prefix))
    return variables


def read_activation(prefix: Path, variables: Mapping[str, str], *, user_site: bool = False) -> Activation:
    """The activation of the environment at ``prefix`` (an absolute path), ``variables`` being those of its spec.

    Unless ``user_site``, a python in it is not to import what ``pip install --user`` put into the home directory in
    place of the environment's packages. Later ones win: that, the packages' (``etc/conda/env_vars.d``), conda's own
    (``conda-meta/state``), the spec's. Raises StoreError where one of the files is damaged, or where the prefix's path
    cannot be an entry of PATH.
    """
    text = os.fspath(prefix)
    if os.pathsep in text:
        raise StoreError(
            f"the environment's path has a {os.pathsep!r} in it, which separates the entries of PATH",
            code="environment-damaged",
            where=Location(text),
            hint="Choose another cache directory (CETOOL_CACHE_DIR, or the setting env-dir).",
        )
    merged: dict[str, str | None] = {} if user_site else {NO_USER_SITE: "1"}
    for file in variable_files(text):
        try:
            merged.update(read_variables(file))
        except (OSError, ValueError) as error:
            raise StoreError(
                f"the variables of this environment cannot be read: {error}",
                code="environment-damaged",
                where=Location(file),
                hint="Make the environment anew with --refresh.",
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
    """The caller's environment for a program that runs without activation: isolated from the user's packages alone."""
    return {**base, **{name: value for name, value in activation.set if name == NO_USER_SITE}}


def activated_environ(activation: Activation, base: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The environment for a program in this environment, and the steps a shell takes before it starts the program.

    ``base`` is the caller's environment (:func:`cetool.warm.environ.caller_environ`); nothing of an outer conda or
    virtual environment stays in it. See :func:`cetool.warm.environ.activated` for what a step is.
    """
    return activated(os.fspath(activation.prefix), activation.path, activation.set, activation.scripts, base)


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
