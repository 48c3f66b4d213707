"""Asks uv or pip which packages must lie over a base, and has them laid there: the base's python is the one used.

Both take the base's packages for installed ones, which stay as they are wherever they fit. Nothing is ever installed
into the base: what is asked of it is a dry run, and what is installed goes to another prefix, without dependencies,
since all of them were named by the dry run.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from cetool.base.errors import EngineError
from cetool.declare.overlay import is_direct, is_editable, local_path
from cetool.engines.pypi.answers import Planned
from cetool.engines.pypi.driver import Call, Installer, Pip, PypiRequest, find_installer
from cetool.engines.pypi.files import GET_UV
from cetool.engines.pypi.install import keep_origins
from cetool.overlays.base import Base


class Layering:
    """An installer that lays packages over a base."""

    def __init__(self, base: Base, request: PypiRequest) -> None:
        """``request.prefix`` is the overlay. Raises EngineError where no installer can be used."""
        pip = base.distributions.get("pip")
        installer = find_installer(request, base.python, None if pip is None else pip.version)
        if installer is None:
            raise EngineError(
                f"the base {base.prefix} has no pip, and uv is not found",
                code="installer-missing",
                hint=f"{GET_UV} It needs only the python of the base.",
            )
        if isinstance(installer, Pip) and not installer.reports:
            raise EngineError(
                f"the base has pip {installer.version}, which cannot tell what it would install; pip 22.2 could",
                code="installer-missing",
                hint=f"{GET_UV} It needs only the python of the base.",
            )
        self.installer: Installer = installer
        self.request = request
        #: Those that are on this machine: uv would take what it built of them before, whatever changed in them since.
        self.local: list[str] = []

    def resolve(self, entries: Sequence[str]) -> list[Planned]:
        """The packages that these entries need and the base lacks, or has in a version that does not fit.

        Raises EngineError where there is no such set.
        """
        plan = self.installer.resolve(Call(list(map(line_of, entries)), self.request.settings))
        self.local = [each.package.name for each in plan if each.package.url.startswith("file:")]
        return plan

    def install(self, entries: Sequence[str]) -> None:
        """Install exactly these into the overlay. Raises EngineError where one cannot be."""
        prefix = self.request.prefix
        lines = list(map(line_of, entries))
        call = Call(lines, self.request.settings, alone=True, target=prefix, rebuilt=self.local)
        keep_origins(prefix, self.installer, self.installer.install(call))
        (prefix / ".lock").unlink(missing_ok=True)  # uv's own, which nothing needs any more


def line_of(entry: str) -> str:
    """A canonical entry as a line of a requirements file."""
    path = local_path(entry)
    if path is None or " @ " in entry:
        return entry
    text = entry.removeprefix("-e ")
    target = path.as_uri() if text == str(path) else text  # extras follow a path, not a URL
    return f"-e {target}" if is_editable(entry) else target


def to_install(plan: Sequence[Planned], entries: Sequence[str]) -> list[str]:
    """What has to be installed so that a plan comes true: exact versions, and what says itself where it is."""
    direct = [entry for entry in entries if is_direct(entry)]
    known = {_place(entry) for entry in direct}
    exact = [f"{each.package.name}=={each.package.version}" for each in plan if not each.is_direct]
    # of what a requirement elsewhere led to: those of the entries themselves are installed as they were asked for
    elsewhere = [each.package for each in plan if each.is_direct and _place(each.package.url) not in known]
    others = [f"{package.name} @ {package.url}" for package in elsewhere]
    return [*direct, *exact, *others]


def _place(text: str) -> str:
    path = local_path(text) or local_path(f"_ @ {text}")
    if path is not None:
        return str(path)
    url = text.rpartition(" @ ")[2].partition("#")[0]
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path.partition('@')[0]}"
