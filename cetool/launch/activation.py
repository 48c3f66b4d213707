"""The variables that an environment sets, read from its prefix, and what a process in it is given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from cetool.errors import Location, StoreError
from cetool.spec.blocks import CONDA_EXECUTE
from cetool.values import Value
from cetool.warm.environ import activated, path_dirs, read_variables, scripts_in, variable_files

#: The variable that holds the environment's prefix for a script with a ``# conda execute`` block.
PREFIX = "PREFIX"
#: Keeps a python from adding the user's own site-packages (``~/.local/lib/python3.X/site-packages``).
NO_USER_SITE = "PYTHONNOUSERSITE"


class Activation(Value):
    """What ``conda activate`` would do for an environment, apart from the shell it is called in.

    ``set`` are pairs of name and value; ``scripts`` absolute paths of the files in ``etc/conda/activate.d`` to
    source, in order; ``path`` the directories that come first on the PATH. All of it is plain data that holds until
    the environment changes, which it never does: it can be written down for the next run.
    """

    prefix: Path
    set: tuple[tuple[str, str], ...] = ()
    scripts: tuple[str, ...] = ()
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
