"""Find and install all packages that must be laid over a base.

uv or pip reports what the entries need in addition to the base's packages, which stay unchanged wherever they fit.
Nothing is ever installed into the base: its Python only makes a dry run, and packages are installed into another
prefix, without dependencies, since the dry run named all of them.

The resolver ignores packages of the base that it was not asked about: one of them may require an older version of a
package that is now shadowed, or may have been compiled for it. So the result is checked as a whole, like ``pip check``
does. If a package of the base no longer fits, it is requested too, so that the resolver can choose another version of
it, until everything fits or there is no solution.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cetool.base.errors import EngineError
from cetool.base.text import counted, normalized
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

#: Maximum number of rounds: each requests a package of the base, and those that depend on each other together.
_MOST_ROUNDS = 20
#: Maximum number of reasons in a message.
_MOST_TOLD = 3


@dataclass(frozen=True, slots=True)
class Laid:
    """What was laid over a base."""

    #: By normalized name.
    distributions: Mapping[str, Distribution]
    #: Why a package is there that was not requested.
    reasons: Mapping[str, str]


def installer_of(base: Base, request: EngineRequest, hold: Hold) -> Installer:
    """Return uv, or a pip that works for the base; ``request.prefix`` is the overlay. Raises EngineError."""
    pip = base.distributions.get("pip")
    installer = find_installer(request, hold, base.python, None if pip is None else pip.version)
    hint = f"{GET_UV} It only needs the base's Python."
    if installer is None:
        raise EngineError(f"uv was not found, and base {base.prefix} has no pip", code="installer-missing", hint=hint)
    if isinstance(installer, Pip) and not installer.reports:
        raise EngineError(
            f"the base's pip {installer.version} cannot report what it would install; pip 22.2 or later can",
            code="installer-missing",
            hint=hint,
        )
    return installer


def lay_over(base: Base, entries: Sequence[str], installer: Installer, progress: Progress) -> Laid:
    """Install exactly what the entries need over the base, at the prefix of the installer's request.

    Raises EngineError with the conflict if no set of packages fits the base.
    """
    return _Laying(base, entries, installer, progress).lay()


@dataclass
class _Also:
    """A package of the base that must be replaced: the requirements to try in order, and why."""

    why: str
    tries: list[str]
    #: Installed in any case: the base's version, rebuilt.
    exact: str | None = None


@dataclass
class _Laying:
    """An overlay being made."""

    base: Base
    entries: Sequence[str]
    installer: Installer
    progress: Progress
    also: dict[str, _Also] = field(default_factory=dict)
    #: Local packages: uv would reuse its earlier builds even if the sources have changed.
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
        """Install what the entries and the added packages need, replacing the packages of an earlier round."""
        plan = self._resolved()
        self.local = [each.package.name for each in plan if each.package.url.startswith("file:")]
        wanted = to_install(plan, self.entries)
        wanted += [item.exact for item in self.also.values() if item.exact is not None]
        shutil.rmtree(self.prefix, ignore_errors=True)
        (self.prefix / "conda-meta").mkdir(parents=True)  # for the record of what they came from
        if wanted:
            self.progress.stage(f"Laying {counted(len(wanted), 'package')} over the base")
            self._put(wanted)

    def _resolved(self) -> list[Planned]:
        """Return the packages that the base lacks, or has in a version that does not fit."""
        while True:
            asked = [*self.entries, *(item.tries[0] for item in self.also.values() if item.tries)]
            self.progress.stage("Resolving the overlay")
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
        (self.prefix / ".lock").unlink(missing_ok=True)  # uv's own lock, no longer needed

    def _try_next(self) -> bool:
        """Drop the latest bound that cannot be fulfilled; return whether there was one."""
        for item in reversed(self.also.values()):
            if len(item.tries) > 1:
                item.tries.pop(0)
                return True
        return False

    def _take_up(
        self, breached: Sequence[Breach], below: Mapping[str, Distribution], over: Mapping[str, Distribution]
    ) -> bool:
        """Request the packages of the base whose requirements no longer hold; return whether there are new ones."""
        fresh = {item.name: item for item in breached if item.name in below and item.name not in {*over, *self.also}}
        for name, item in fresh.items():
            version = below[name].version
            newer = item.needs in over and item.needs in below and _is_newer(over[item.needs], below[item.needs])
            why = f"the base's {name} {version} requires {item.requirement}"
            # older versions may only seem to fit because they declare no requirement: they are the last resort
            self.also[name] = _Also(why, [f"{name}>={version}", name] if newer else [name])
        return bool(fresh)

    def _check_asked(self, merged: Mapping[str, Distribution]) -> None:
        """Check that everything requested by name is there, rather than trust the installer's output."""
        from packaging.requirements import Requirement

        for entry in self.entries:
            if is_direct(entry):
                continue
            wanted = Requirement(entry)
            if wanted.marker is not None and not wanted.marker.evaluate(dict(self.base.markers)):
                continue
            found = merged.get(normalized(wanted.name))
            if found is None or not wanted.specifier.contains(found.version, prereleases=True):
                there = "is missing" if found is None else f"has version {found.version}"
                raise EngineError(
                    f"{self.installer.name} reported success, but {redact(entry)} {there}",
                    code="installer-failed",
                )

    def _exchange(self, broken: Sequence[Failure], below: Mapping[str, Distribution]) -> None:
        """Rebuild packages of the base that were compiled for versions that the overlay replaces."""
        for item in broken:
            before = self.also.get(item.name)
            why = f"the base's {item.name} {item.version} fails with the overlay ({item.reason})"
            same = f"{item.name}=={item.version}"
            if before is None and item.rebuilt and self._is_to_be_had(same):
                self.also[item.name] = _Also(why, [], exact=same)
            elif before is None:
                self.also[item.name] = _Also(why, [f"{item.name}!={item.version}"])
            elif before.exact is not None:
                self.also[item.name] = _Also(before.why, [f"{item.name}!={item.version}"])
            else:
                raise self._conflict([f"{item.name} {item.version} fails with the overlay ({item.reason})"], None)

    def _is_to_be_had(self, requirement: str) -> bool:
        """Return whether an index has it; the next round removes what this leaves in the overlay."""
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
        more = "" if error is None else f"; no packages fit both: {error.message}"
        return EngineError(
            f"the overlay conflicts with base {self.base.prefix}: {told}; the overlay requests {asked}{more}",
            code="overlay-conflict",
            hint="Request another version, or add a version of the other package that fits to the overlay.",
            log=None if error is None else error.log,
        )


def _is_newer(over: Distribution, below: Distribution) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return Version(over.version) > Version(below.version)
    except InvalidVersion:
        return False


# --- what to install --------------------------------------------------------------------------------------------------


def line_of(entry: str) -> str:
    """Return a canonical entry as a line of a requirements file."""
    path = local_path(entry)
    if path is None or " @ " in entry:
        return entry
    text = entry.removeprefix("-e ")
    target = path.as_uri() if text == str(path) else text  # extras may follow a path, not a URL
    return f"-e {target}" if is_editable(entry) else target


def to_install(plan: Sequence[Planned], entries: Sequence[str]) -> list[str]:
    """Return what must be installed to carry out a plan: exact versions, and direct references."""
    direct = [entry for entry in entries if is_direct(entry)]
    known = {_place(entry) for entry in direct}
    exact = [f"{each.package.name}=={each.package.version}" for each in plan if not each.is_direct]
    # direct references from requirements of other packages: the entries' own are installed as requested
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
    """A requirement that does not hold: of which distribution, and the existing version (None: missing)."""

    name: str
    version: str
    requirement: str
    needs: str
    found: str | None

    def __str__(self) -> str:
        what = f"{self.needs} is {self.found}" if self.found else f"{self.needs} is missing"
        return f"{self.name} {self.version} requires {self.requirement}, but {what}"


def breaches(distributions: Mapping[str, Distribution], markers: Mapping[str, str]) -> list[Breach]:
    """Return the requirements of these distributions that none of them fulfils; extras are not requested."""
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
                continue  # in old packages; installers ignore it too
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
    """Return the requirements that the overlay breaks, without those that the base itself does not fulfil."""
    merged = {**below, **over}
    old = {(item.name, item.version, item.requirement) for item in breaches(below, markers)}
    return [item for item in breaches(merged, markers) if (item.name, item.version, item.requirement) not in old]
