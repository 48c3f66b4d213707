"""Asks uv or pip which packages must lie over a base, and has them laid there: the base's python is the one used.

Both take the base's packages for installed ones, which stay as they are wherever they fit. Nothing is ever installed
into the base: what is asked of it is a dry run, and what is installed goes to another prefix, without dependencies,
since all of them were named by the dry run.
"""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from cetool.base.errors import EngineError
from cetool.base.limits import PACKAGE, read_json
from cetool.base.process import own_module, python_command
from cetool.declare.overlay import is_direct, is_editable, local_path
from cetool.engines.pypi.files import GET_UV, has_files_of_uv, tell_pip, tell_uv
from cetool.engines.pypi.install import (
    UV_ASTRAY,
    PypiRequest,
    installer_environ,
    refuse_old_uv,
    run_installer,
    uv_install,
    wanted_uv,
)
from cetool.engines.pypi.origins import Asking, keep_origins
from cetool.engines.pypi.pip import pip_install
from cetool.engines.pypi.words import explain_failure
from cetool.engines.subprocesses import Ended, Invocation
from cetool.overlays.base import Base
from cetool.packages.distributions import normalized

#: The first pip that has --dry-run and --report.
_PIP_WITH_REPORTS = (22, 2)
_PLANNED = re.compile(r"^ [+~] (\S+?)==(\S+?)(?: \(from (.+)\))?$", re.MULTILINE)


@dataclass(frozen=True)
class Planned:
    """A package that must lie over the base; ``url`` is where one comes from that no index has."""

    name: str
    version: str
    url: str | None = None


class Installer(Protocol):
    """uv or pip, for one base and one overlay."""

    #: ``uv`` or ``pip``, and its version: what the marker keeps.
    name: str
    version: str

    def resolve(self, entries: Sequence[str]) -> list[Planned]:
        """The packages that these entries need and the base lacks, or has in a version that does not fit.

        Raises EngineError where there is no such set.
        """

    def install(self, entries: Sequence[str]) -> None:
        """Install exactly these into the overlay. Raises EngineError where one cannot be."""


def find_installer(base: Base, request: PypiRequest) -> Installer:
    """The installer that serves: uv where it is found (or asked for), else the base's pip, else cetool's own.

    The request's ``prefix`` is the overlay, its requirements do not matter. Raises EngineError where there is none.
    """
    uv = wanted_uv(request)
    if uv is not None:
        from cetool.engines.subprocesses import ask_version

        version = ask_version([str(uv)], dict(request.environ)).split()
        return _Uv(base, request, uv, version[1] if len(version) > 1 else version[0])
    pip = base.distributions.get("pip")
    if pip is not None:
        return _Pip(base, request, tuple(python_command(base.python, "-m", "pip")), pip.version)
    if importlib.util.find_spec("pip") is not None:
        from importlib.metadata import version as installed_version

        command = tuple(own_module("pip", "--python", str(base.python)))
        return _Pip(base, request, command, installed_version("pip"))
    raise EngineError(
        f"the base {base.prefix} has no pip, and uv is not found",
        code="installer-missing",
        hint=f"{GET_UV} It needs only the python of the base.",
    )


def line_of(entry: str) -> str:
    """A canonical entry as a line of a requirements file."""
    path = local_path(entry)
    if path is None or " @ " in entry:
        return entry
    text = entry.removeprefix("-e ")
    target = path.as_uri() if text == str(path) else text  # extras follow a path, not a URL
    return f"-e {target}" if is_editable(entry) else target


class _Driver:
    """What uv and pip have in common here."""

    name = ""

    def __init__(self, base: Base, request: PypiRequest) -> None:
        self.base = base
        self.request = replace(
            request,
            # byte code of the base's modules is not written either
            environ={**request.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def _run(self, invocation: Invocation) -> Ended:
        # without PYTHON* of the caller's, but for this one: builds start the base's python as well
        environ = {**invocation.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        ended = run_installer(invocation._replace(environ=environ), self.request)
        if ended.status != 0:
            raise explain_failure(ended, self.request, {}, self.name)
        return ended

    def _scratch(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="overlay-", dir=self.request.log.parent)


class _Uv(_Driver):
    name = "uv"

    def __init__(self, base: Base, request: PypiRequest, uv: Path, version: str) -> None:
        super().__init__(base, request)
        self.uv = uv
        self.version = version
        #: Those that lie on this machine: uv would take what it built of them before, whatever changed in them since.
        self.local: list[str] = []

    def resolve(self, entries: Sequence[str]) -> list[Planned]:
        with self._scratch() as scratch:
            ended = self._run(self._invocation(Path(scratch), entries, "--dry-run"))
        found = _PLANNED.findall(f"{ended.stdout}\n{ended.stderr}")
        self.local = [normalized(name) for name, _, url in found if url.startswith("file:")]
        return [Planned(normalized(name), version, url or None) for name, version, url in found]

    def _invocation(self, scratch: Path, entries: Sequence[str], *more: str) -> Invocation:
        request = self.request
        told = tell_uv(scratch, request.settings, map(line_of, entries), installer_environ(request, *UV_ASTRAY))
        if has_files_of_uv(request.settings):
            refuse_old_uv(self.uv, scratch, told.environ)
        return uv_install(self.uv, self.base.python, scratch, request, (*more, *told.arguments), told.environ)

    def install(self, entries: Sequence[str]) -> None:
        prefix = str(self.request.prefix)
        with self._scratch() as scratch:
            anew = tuple(f"--refresh-package={name}" for name in self.local)
            if anew and self.request.offline:  # uv does not take both
                environ = installer_environ(self.request, *UV_ASTRAY)
                self._run(Invocation((str(self.uv), "cache", "clean", *self.local), environ))
                anew = ()
            invocation = self._invocation(Path(scratch), entries, "--prefix", prefix, "--no-deps", *anew)
            self._run(invocation)
        # its cache knows
        asking = Asking(self.uv, self.base.python, invocation.environ, self.request.settings, offline=True)
        keep_origins(self.request.prefix, asking, None)
        (self.request.prefix / ".lock").unlink(missing_ok=True)  # uv's own, of which nobody has need any more


class _Pip(_Driver):
    name = "pip"

    def __init__(self, base: Base, request: PypiRequest, command: tuple[str, ...], version: str) -> None:
        super().__init__(base, request)
        self.command = command
        self.version = version
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
        if numbers < _PIP_WITH_REPORTS:
            raise EngineError(
                f"the base has pip {version}, which cannot tell what it would install; pip 22.2 could",
                code="installer-missing",
                hint=f"{GET_UV} It needs only the python of the base.",
            )

    def resolve(self, entries: Sequence[str]) -> list[Planned]:
        with self._scratch() as scratch:
            report = Path(scratch, "report.json")
            self._run(self._invocation(Path(scratch), entries, "--dry-run", "--report", str(report)))
            try:
                items: list[dict[str, Any]] = read_json(report, PACKAGE)["install"]
                return [_reported(item) for item in items]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise EngineError(
                    f"pip's report cannot be read: {error}", code="installer-failed", log=str(self.request.log)
                ) from None

    def _invocation(self, scratch: Path, entries: Sequence[str], *more: str) -> Invocation:
        request = self.request
        told = tell_pip(scratch, request.settings, map(line_of, entries), installer_environ(request))
        return pip_install(self.command, self.version, scratch, request, (*more, *told.arguments), told.environ)

    def install(self, entries: Sequence[str]) -> None:
        with self._scratch() as scratch:
            alone = ("--ignore-installed", "--no-deps", "--no-compile")
            report = Path(scratch, "report.json")
            where = ("--prefix", str(self.request.prefix), "--report", str(report))
            self._run(self._invocation(Path(scratch), entries, *where, *alone))
            keep_origins(self.request.prefix, Asking(None, self.base.python, self.request.environ), report)


def _reported(item: dict[str, Any]) -> Planned:
    metadata = item["metadata"]
    url = str(item["download_info"]["url"]) if item.get("is_direct") else None
    vcs = item["download_info"].get("vcs_info")
    if url is not None and vcs:
        url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    return Planned(normalized(str(metadata["name"])), str(metadata["version"]), url)


def to_install(plan: Sequence[Planned], entries: Sequence[str]) -> list[str]:
    """What has to be installed so that a plan comes true: exact versions, and what says itself where it is."""
    direct = [entry for entry in entries if is_direct(entry)]
    known = {_place(entry) for entry in direct}
    exact = [f"{item.name}=={item.version}" for item in plan if item.url is None]
    # of what a requirement elsewhere led to: those of the entries themselves are installed as they were asked for
    others = [f"{item.name} @ {item.url}" for item in plan if item.url is not None and _place(item.url) not in known]
    return [*direct, *exact, *others]


def _place(text: str) -> str:
    path = local_path(text) or local_path(f"_ @ {text}")
    if path is not None:
        return str(path)
    url = text.rpartition(" @ ")[2].partition("#")[0]
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path.partition('@')[0]}"
