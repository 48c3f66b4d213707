"""The merged view of a base and what lies over it: which requirements of its distributions hold (``pip check``).

Finds the whole set of packages that must lie over a base, and lays it.

The resolver is asked what the entries need beside what the base has. It does not look at those packages of the base
that nobody asked about: one of them may require an older version of what is shadowed now, or have been compiled for it.
So what came of it is looked at as a whole; a package of the base that no longer fits is asked for too, which leaves the
resolver free to choose another version of it, until everything fits, or there is no such set.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cetool.base.errors import EngineError
from cetool.base.text import normalized
from cetool.base.urls import redact
from cetool.declare.overlay import is_direct
from cetool.engines.protocol import Progress
from cetool.overlays.base import Base, site_directories
from cetool.overlays.guard import write_guard
from cetool.overlays.installers import Layering, to_install
from cetool.overlays.probe import Failure, failures
from cetool.packages.distributions import Distribution, distributions_by_name


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


#: Rounds after which it is given up: each adds a package of the base, and those that depend on each other go together.
_MOST_ROUNDS = 20
#: Reasons told in a message.
_MOST_TOLD = 3


@dataclass(frozen=True)
class Laid:
    """What lies over the base: its distributions by normalised name, and why those are there that nobody asked for."""

    distributions: Mapping[str, Distribution]
    reasons: Mapping[str, str]


@dataclass
class _Also:
    """A package of the base that has to be another one: the requirements to try, one after the other, and why."""

    why: str
    tries: list[str]
    #: Installed as well, whatever the resolver makes of it: the same version as the base's, built anew.
    exact: str | None = None


@dataclass
class _Layer:
    """An overlay in the making."""

    base: Base
    entries: Sequence[str]
    installer: Layering
    prefix: Path
    environ: Mapping[str, str]
    progress: Progress
    also: dict[str, _Also] = field(default_factory=dict)

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
            broken = failures(self.base, self.prefix, below, over, self.environ, also=set(self.also))
            if not broken:
                return Laid(over, {name: item.why for name, item in self.also.items() if name in over})
            self._exchange(broken, below)
        raise self._conflict([item.why for item in self.also.values()], None)

    def _install(self) -> None:
        """Lay what the entries and the packages besides them come to; what an earlier round laid is gone."""
        while True:
            asked = [*self.entries, *(item.tries[0] for item in self.also.values() if item.tries)]
            self.progress.stage("Resolving what is to be laid over")
            try:
                plan = self.installer.resolve(asked)
            except EngineError as error:
                if self._try_next():
                    continue
                raise self._conflict([item.why for item in self.also.values()], error) from None
            wanted = to_install(plan, self.entries)
            wanted += [item.exact for item in self.also.values() if item.exact is not None]
            shutil.rmtree(self.prefix, ignore_errors=True)
            self.prefix.mkdir(mode=0o777, parents=True)
            if wanted:
                self.progress.stage(f"Laying {len(wanted)} package{'' if len(wanted) == 1 else 's'} over the base")
                self.installer.install(wanted)
            return

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
                    f"{self.installer.installer.name} laid what it planned, and {redact(entry)} {there}",
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
            self.installer.install([requirement])
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


def lay_over(
    base: Base,
    entries: Sequence[str],
    installer: Layering,
    prefix: Path,
    environ: Mapping[str, str],
    progress: Progress,
) -> Laid:
    """Lay what the entries need over the base, at ``prefix``; exactly that.

    Raises EngineError, which names the conflict, where there is no set of packages that goes with the base.
    """
    return _Layer(base, entries, installer, prefix, environ, progress).lay()
