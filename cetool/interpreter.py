"""How cetool starts a Python: the only place that puts such a command line together.

Whatever Python it is, it imports nothing that the caller's PYTHONPATH, the user's own site-packages or the working
directory offer, and one of another installation writes no byte code into it.
"""

from __future__ import annotations

import os
import site
import sys
from collections.abc import Mapping

import cetool

#: Variables that would lead a Python astray, or the engines that are written in it.
_ASTRAY = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONEXECUTABLE", "PYTHONSAFEPATH", "__PYVENV_LAUNCHER__")
#: With -c the working directory is in front of the path where the interpreter is not isolated.
_ENTRY = "import sys; sys.path = [entry for entry in sys.path if entry]; from cetool.__main__ import {0}; {0}()"


def own_python() -> str:
    """The path of the Python that cetool runs on, for programs that are told which one to use."""
    return sys.executable


def own_code(code: str, *arguments: str) -> list[str]:
    """The command that runs code in cetool's own Python, with nothing but the standard library."""
    return [sys.executable, "-I", "-S", "-c", code, *arguments]


def own_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of cetool's own installation."""
    return [sys.executable, "-I", "-m", module, *arguments]


def own_program(*arguments: str, entry: str = "main") -> list[str]:
    """The command that runs cetool itself, by one of the functions of :mod:`cetool.__main__`."""
    return [sys.executable, *_isolation(), "-c", _ENTRY.format(entry), *arguments]


def python_command(python: str | os.PathLike[str], *arguments: str) -> list[str]:
    """The command that runs another installation's Python, or an environment's, for cetool's own purposes.

    Its variables have to be those of :func:`clean_environ`, which what it starts in its turn gets as well.
    """
    return [os.fspath(python), "-I", "-B", *arguments]


def guarded_command(python: str | os.PathLike[str], *arguments: str) -> list[str]:
    """As :func:`python_command`, for a base's Python that is to see the overlay that PYTHONPATH leads it to.

    It has to be started in a directory that nobody else can write to: with -c, modules are looked for there first.
    """
    return [os.fspath(python), "-s", "-B", *arguments]


def clean_environ(environ: Mapping[str, str], *, drop: tuple[str, ...] | list[str] = ()) -> dict[str, str]:
    """The variables for an engine, an installer or a Python: nothing leads their own Python astray, and no byte code
    is written into an installation that is not cetool's. The names in ``drop`` are taken out as well."""
    clean = {name: value for name, value in environ.items() if name not in _ASTRAY and name not in drop}
    return {**clean, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1"}


def _isolation() -> tuple[str, ...]:
    """``-I``, unless cetool is installed where an isolated Python does not look: see ``cetool.__main__.isolate``."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(cetool.__file__)))
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if home in (entry and os.path.abspath(entry) for entry in named) and home not in site.getsitepackages():
        return ()
    if site.ENABLE_USER_SITE and home == site.getusersitepackages():
        return ("-E",)
    return ("-I",)
