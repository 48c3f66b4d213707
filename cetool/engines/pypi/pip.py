"""Runs pip: which one installs into a prefix, with which options, and with what of the user's configuration."""

from __future__ import annotations

import configparser
import io
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cetool.base.errors import EngineError
from cetool.base.process import python_command
from cetool.base.urls import scrub
from cetool.engines.pypi.exact import pip_from_elsewhere
from cetool.engines.pypi.files import GET_UV, write_private
from cetool.engines.subprocesses import Invocation

if TYPE_CHECKING:
    from cetool.engines.pypi.install import PypiRequest

#: Options of pip that would install elsewhere, install something else, or write where nothing was asked for.
_PIP_ASTRAY = frozenset(
    (
        *("target", "prefix", "root", "user", "python", "require-virtualenv", "src", "log", "report", "dry-run"),
        *("requirement", "constraint", "build-constraint", "editable", "no-deps", "ignore-installed"),
        *("force-reinstall", "upgrade", "upgrade-strategy", "root-user-action"),
    )
)
#: The first pip that knows --uploaded-prior-to.
_PIP_WITH_DATES = 26
#: The first pip whose --report is no experiment.
_PIP_WITH_REPORTS = (23, 0)


def find_pip(python: Path, request: PypiRequest, installed: Mapping[str, str]) -> list[str]:
    """The beginning of a command line that is pip for the environment."""
    if "pip" in installed:
        return python_command(python, "-m", "pip")
    # what a lock names is all that is to be in the environment, so that pip is not added to it
    elsewhere = pip_from_elsewhere(request.prefix, python) if request.exactly else None
    if elsewhere is None:
        raise EngineError(
            "PyPI packages were asked for, but the environment has no pip and uv is not found",
            code="installer-missing",
            hint=f"Add pip to the conda packages. {GET_UV}",
        )
    return elsewhere


def pip_invocation(
    pip: list[str],
    more: tuple[str, ...],
    environ: Mapping[str, str],
    report: Path,
    request: PypiRequest,
    installed: Mapping[str, str],
) -> Invocation:
    if not request.exactly and tuple(map(int, re.findall(r"\d+", installed["pip"])[:2])) >= _PIP_WITH_REPORTS:
        more += ("--report", str(report))
    return pip_install(tuple(pip), installed.get("pip", ""), report.parent, request, more, environ)


def pip_install(
    command: tuple[str, ...],
    version: str,
    directory: Path,
    request: PypiRequest,
    more: tuple[str, ...],
    environ: Mapping[str, str],
) -> Invocation:
    """``pip install`` by a pip of this version, with options besides those that the request stands for.

    Raises EngineError where that pip cannot do what is asked.
    """
    argv = [*command, "install", "--no-input", "--disable-pip-version-check", "--no-user"]
    argv += ["--progress-bar=off", "--no-warn-script-location", *more]
    if request.offline and "--no-index" not in argv:
        argv.append("--no-index")
    if request.settings.exclude_newer and not request.exactly:
        if int(re.split(r"\D", version)[0]) < _PIP_WITH_DATES:
            raise EngineError(
                f"exclude-newer needs uv, or pip {_PIP_WITH_DATES}; the environment has pip {version}",
                code="installer-missing",
                hint=f"{GET_UV} Or ask for a newer pip among the conda packages.",
            )
        argv.append(f"--uploaded-prior-to={request.settings.exclude_newer}")
    dropped = [name for name in request.environ if name.startswith("PIP_") and _option(name[4:]) in _PIP_ASTRAY]
    environ = {name: value for name, value in environ.items() if name not in dropped}
    environ["PIP_CONFIG_FILE"] = str(pip_config(directory, request.environ))
    # the prefix is ours, whatever an EXTERNALLY-MANAGED file in it says; older pips know no such option
    environ.update(PIP_BREAK_SYSTEM_PACKAGES="1", PIP_ROOT_USER_ACTION="ignore", PIP_REQUIRE_VIRTUALENV="0")
    return Invocation(tuple(argv), environ, watched=(request.prefix,))


def _option(key: str) -> str:
    return key.lower().replace("_", "-")


def pip_config(directory: Path, environ: Mapping[str, str]) -> Path:
    """The user's pip configuration without the options that lead elsewhere; pip reads it in place of the user's."""
    home = environ.get("HOME") or environ.get("USERPROFILE") or ""
    config = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    files = [f"{home}/.pip/pip.conf", f"{config}/pip/pip.conf"]
    if sys.platform == "darwin":
        files.append(f"{home}/Library/Application Support/pip/pip.conf")
    if os.name == "nt":
        files = [f"{home}/pip/pip.ini", f"{environ.get('APPDATA', '')}/pip/pip.ini"]
    named = environ.get("PIP_CONFIG_FILE")
    parser = configparser.RawConfigParser()
    for name in [named] if named else files:
        try:
            parser.read(name, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError) as error:
            reason = scrub(str(error)).splitlines()[0]
            raise EngineError(f"pip's configuration {name} cannot be read: {reason}", code="setting-invalid") from None
    for section in parser.sections():
        for key in list(parser[section]):
            if _option(key) in _PIP_ASTRAY:
                parser.remove_option(section, key)
    path = directory / "pip.conf"
    text = io.StringIO()
    parser.write(text)
    write_private(path, text.getvalue())
    return path
