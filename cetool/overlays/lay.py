"""Finds the whole set of packages that must lie over a base, and lays it.

uv or pip is asked what the entries need in addition to what the base has; that stays as it is wherever it fits. Nothing
is ever installed into the base: what is asked of its python is a dry run, and what is installed goes to another prefix,
without dependencies, since the dry run named all of them.

The resolver does not look at packages of the base that it was not asked about: one of them may require an older version
of what is shadowed now, or have been compiled for it. So the result is looked at as a whole, as ``pip check`` does; a
package of the base that no longer fits is asked for too, which leaves the resolver free to choose another version of
it, until everything fits, or there is no such set.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cetool.base.errors import EngineError
from cetool.base.text import normalized
from cetool.base.urls import redact
from cetool.declare.overlay import is_direct, is_editable, local_path
from cetool.engines.protocol import EngineRequest, Hold, Progress
from cetool.engines.pypi.answers import Planned
from cetool.engines.pypi.driver import Installer, Pip, find_installer
from cetool.engines.pypi.files import GET_UV, Call
from cetool.engines.pypi.install import keep_origins
from cetool.overlays.base import Base, site_directories
from cetool.overlays.guard import write_guard
from cetool.overlays.probe import Failure, failures
from cetool.packages.distributions import Distribution, distributions_by_name

#: Rounds after which it is given up: each adds a package of the base, and those that depend on each other go together.
_MOST_ROUNDS = 20
#: Reasons told in a message.
_MOST_TOLD = 3


@dataclass(frozen=True, slots=True)
class Laid:
    """What lies over a base."""

    #: By normalized name.
    distributions: Mapping[str, Distribution]
    #: Why those are there that were not asked for.
    reasons: Mapping[str, str]


def installer_of(base: Base, request: EngineRequest, hold: Hold) -> Installer:
    """uv, or a pip that can work for the base; ``request.prefix`` is the overlay. Raises EngineError."""
    pip = base.distributions.get("pip")
    installer = find_installer(request, hold, base.python, None if pip is None else pip.version)
    hint = f"{GET_UV} It needs only the python of the base."
    if installer is None:
        raise EngineError(
            f"the base {base.prefix} has no pip, and uv is not found", code="installer-missing", hint=hint
        )
    if isinstance(installer, Pip) and not installer.reports:
        raise EngineError(
            f"the base has pip {installer.version}, which cannot tell what it would install; pip 22.2 could",
            code="installer-missing",
            hint=hint,
        )
    return installer


def lay_over(base: Base, entries: Sequence[str], installer: Installer, progress: Progress) -> Laid:
    """Lay what the entries need over the base, at the prefix of the installer's request; exactly that.

    Raises EngineError, which names the conflict, where there is no set of packages that goes with the base.
    """
    return _Laying(base, entries, installer, progress).lay()


@dataclass
class _Also:
    """A package of the base that has to be another one: the requirements to try, one after the other, and why."""

    why: str
    tries: list[str]
    #: Installed as well, whatever the resolver makes of it: the same version as the base's, built anew.
    exact: str | None = None


@dataclass
class _Laying:
    """An overlay in the making."""

    base: Base
    entries: Sequence[str]
    installer: Installer
    progress: Progress
    also: dict[str, _Also] = field(default_factory=dict)
    #: Those that are on this machine: uv would take what it built of them before, whatever changed in them since.
    local: list[str] = field(default_factory=list)

    @property
    def prefix(self) -> Path:
        """Where the overlay is made."""
        return self.installer.request.prefix

    def lay(self) -> Laid:
        below = self.base.distributions
        for _ in range(_MOST_ROUNDS):
            self._install()
            over = distributions_by_name(site_directories(self.prefix))
            breached = new_breaches(below, over, self.base.markers)
            if self._take_up(breached, below, over):
                continue
            if breached:
                raise self._conflict([str(item) for item in breached], None)
            self._check_asked({**below, **over})
            write_guard(self.prefix, self.base)
            broken = failures(self.base, self.prefix, below, over, self.installer.request.environ, also=set(self.also))
            if not broken:
                return Laid(over, {name: item.why for name, item in self.also.items() if name in over})
            self._exchange(broken, below)
        raise self._conflict([item.why for item in self.also.values()], None)

    def _install(self) -> None:
        """Lay what the entries and the packages added to them need; what an earlier round laid is gone."""
        plan = self._resolved()
        self.local = [each.package.name for each in plan if each.package.url.startswith("file:")]
        wanted = to_install(plan, self.entries)
        wanted += [item.exact for item in self.also.values() if item.exact is not None]
        shutil.rmtree(self.prefix, ignore_errors=True)
        (self.prefix / "conda-meta").mkdir(parents=True)  # where it is noted what they came from
        if wanted:
            self.progress.stage(f"Laying {len(wanted)} package{'' if len(wanted) == 1 else 's'} over the base")
            self._put(wanted)

    def _resolved(self) -> list[Planned]:
        """The packages that the base lacks, or has in a version that does not fit."""
        while True:
            asked = [*self.entries, *(item.tries[0] for item in self.also.values() if item.tries)]
            self.progress.stage("Resolving what is to be laid over")
            try:
                return self.installer.resolve(
                    Call(list(map(line_of, asked)), self.installer.request.spec.pypi_settings)
                )
            except EngineError as error:
                if not self._try_next():
                    raise self._conflict([item.why for item in self.also.values()], error) from None

    def _put(self, entries: Sequence[str]) -> None:
        """Install exactly these."""
        lines, settings = list(map(line_of, entries)), self.installer.request.spec.pypi_settings
        call = Call(lines, settings, alone=True, target=self.prefix, rebuilt=self.local)
        keep_origins(self.prefix, self.installer, self.installer.install(call))
        (self.prefix / ".lock").unlink(missing_ok=True)  # uv's own, which nothing needs any more

    def _try_next(self) -> bool:
        """Let go of the latest bound that nothing fulfils; whether there was one to let go of."""
        for item in reversed(self.also.values()):
            if len(item.tries) > 1:
                item.tries.pop(0)
                return True
        return False

    def _take_up(
        self, breached: Sequence[Breach], below: Mapping[str, Distribution], over: Mapping[str, Distribution]
    ) -> bool:
        """Ask for the packages of the base whose requirements no longer hold; whether there are new ones."""
        fresh = {item.name: item for item in breached if item.name in below and item.name not in {*over, *self.also}}
        for name, item in fresh.items():
            version = below[name].version
            newer = item.needs in over and item.needs in below and _is_newer(over[item.needs], below[item.needs])
            why = f"{name} {version} of the base requires {item.requirement}"
            # an older version of it may only seem to fit, by not saying what it needs: it is the last resort
            self.also[name] = _Also(why, [f"{name}>={version}", name] if newer else [name])
        return bool(fresh)

    def _check_asked(self, merged: Mapping[str, Distribution]) -> None:
        """See that everything asked for by name is there: what the installers print is not believed alone."""
        from packaging.requirements import Requirement

        for entry in self.entries:
            if is_direct(entry):
                continue
            wanted = Requirement(entry)
            if wanted.marker is not None and not wanted.marker.evaluate(dict(self.base.markers)):
                continue
            found = merged.get(normalized(wanted.name))
            if found is None or not wanted.specifier.contains(found.version, prereleases=True):
                there = "is not there" if found is None else f"is {found.version} there"
                raise EngineError(
                    f"{self.installer.name} laid what it planned, and {redact(entry)} {there}",
                    code="installer-failed",
                )

    def _exchange(self, broken: Sequence[Failure], below: Mapping[str, Distribution]) -> None:
        """Have packages of the base that were compiled for others than lie over it now built for those."""
        for item in broken:
            before = self.also.get(item.name)
            why = f"{item.name} {item.version} of the base fails beside it ({item.reason})"
            same = f"{item.name}=={item.version}"
            if before is None and item.rebuilt and self._is_to_be_had(same):
                self.also[item.name] = _Also(why, [], exact=same)
            elif before is None:
                self.also[item.name] = _Also(why, [f"{item.name}!={item.version}"])
            elif before.exact is not None:
                self.also[item.name] = _Also(before.why, [f"{item.name}!={item.version}"])
            else:
                raise self._conflict([f"{item.name} {item.version} fails beside it ({item.reason})"], None)

    def _is_to_be_had(self, requirement: str) -> bool:
        """Whether an index has it; what this leaves in the overlay is cleared by the next round."""
        try:
            self._put([requirement])
        except EngineError:
            return False
        return True

    def _conflict(self, reasons: Sequence[str], error: EngineError | None) -> EngineError:
        if not reasons and error is not None:
            return error
        asked = ", ".join(redact(entry) for entry in self.entries if not is_direct(entry)) or ", ".join(
            redact(entry) for entry in self.entries
        )
        told = "; ".join(reasons[:_MOST_TOLD])
        more = "" if error is None else f"; no set of packages fits both: {error.message}"
        return EngineError(
            f"this cannot be laid over {self.base.prefix}: {told}, and the overlay asks for {asked}{more}",
            code="overlay-conflict",
            hint="Ask for another version, or lay a version over it that fits as well.",
            log=None if error is None else error.log,
        )


def _is_newer(over: Distribution, below: Distribution) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(over.version) > Version(below.version)
    except InvalidVersion:
        return False


# --- what is to be installed ------------------------------------------------------------------------------------------


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


# --- what does not fit ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Breach:
    """A requirement that does not hold: of which distribution, and which version there is (None: it is missing)."""

    name: str
    version: str
    requirement: str
    needs: str
    found: str | None

    def __str__(self) -> str:
        what = f"{self.needs} is {self.found}" if self.found else f"there is no {self.needs}"
        return f"{self.name} {self.version} requires {self.requirement}, and {what}"


def breaches(distributions: Mapping[str, Distribution], markers: Mapping[str, str]) -> list[Breach]:
    """The requirements of these distributions that none of them fulfils; extras ask for nothing."""
    from packaging.markers import UndefinedEnvironmentName
    from packaging.requirements import InvalidRequirement, Requirement

    environment = {**markers, "extra": ""}
    found = []
    for distribution in distributions.values():
        for text in distribution.requires:
            try:
                requirement = Requirement(text)
                if requirement.marker is not None and not requirement.marker.evaluate(environment):
                    continue
            except (InvalidRequirement, UndefinedEnvironmentName):
                continue  # of old packages; no installer looks at it either
            needed = distributions.get(normalized(requirement.name))
            if needed is None or not requirement.specifier.contains(needed.version, prereleases=True):
                requirement.marker = None
                version = None if needed is None else needed.version
                needs = normalized(requirement.name)
                found.append(Breach(distribution.name, distribution.version, str(requirement), needs, version))
    return found


def new_breaches(
    below: Mapping[str, Distribution], over: Mapping[str, Distribution], markers: Mapping[str, str]
) -> list[Breach]:
    """The requirements that do not hold in the merged view and that the base by itself did not already leave open."""
    merged = {**below, **over}
    old = {(item.name, item.version, item.requirement) for item in breaches(below, markers)}
    return [item for item in breaches(merged, markers) if (item.name, item.version, item.requirement) not in old]
