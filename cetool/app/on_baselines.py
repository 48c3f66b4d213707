"""Environments on baselines: which content counts for a script, what stays of it, and what is put in.

The content that a script's environment was first made from goes on to count, whatever becomes of the baseline, until
``--refresh``. That it has changed is found out in the background, and the next run says so.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

from cetool.app.baseline_news import see_to_news
from cetool.app.baselines import Baseline, baseline_store, fetch_baseline, key_of, locate, parsed, read_local
from cetool.app.consent import consent_to
from cetool.app.decision import BaselineOptions, BaselineUse, Decision, OnBaselines
from cetool.app.reporting import Reporter
from cetool.app.world import ABSENT, Evidence, World, seen_files
from cetool.base.durations import format_duration
from cetool.base.errors import EngineError, MetadataError, StoreError, UsageError
from cetool.base.process import Consent
from cetool.base.text import normalized
from cetool.base.urls import redact
from cetool.base.values import Value
from cetool.declare.baselines import canonical_baseline, canonical_pattern, is_remote, taken_out
from cetool.declare.environment import EnvironmentSpec, Over, Solve
from cetool.declare.match_specs import spec_name
from cetool.declare.requirements import Requirements
from cetool.engines.explicit import additions
from cetool.fetch.scripts import UnreachableError
from cetool.lock.baseline import Combined, combine
from cetool.packages.prefix import read_records
from cetool.store.keyed import BaselineStore, Copy, use_key

_MOST_NAMES = 5
_NAME = re.compile(r"[a-z0-9_.-]+")


class Terms(Value):
    """For whom baselines are opened, and how."""

    #: The script's absolute path or URL, None for what has no name.
    about: str | None = None
    #: Whether they count as they are now, whatever counted so far.
    refresh: bool = False
    #: Whether they may come over plain http.
    insecure: bool = False
    #: The platform of the packages, this machine's where None.
    platform: str | None = None


def with_baselines(needs: Requirements, given: BaselineOptions) -> Requirements:
    """The requirements with the options' baselines; paths start from the working directory. Raises UsageError."""
    try:
        baselines = tuple(canonical_baseline(text, os.getcwd()) for text in given.named)
        without = tuple(canonical_pattern(text) for text in given.without)
    except MetadataError as error:
        raise error.turned_into(UsageError, where=None) from None
    needs = needs.plus(Requirements(baselines=baselines, without=without))
    if not needs.baselines:
        raise UsageError("--without takes packages out of a baseline, and none is named", hint="--baseline FILE")
    return needs


def on_baselines(decision: Decision, terms: Terms, world: World, reporter: Reporter) -> Decision:
    """The decision on what is declared on top of its baselines: exact where nothing is added to them.

    Raises CetoolError where a baseline cannot be had or read, and where what is asked for does not fit it.
    """
    needs, spec = decision.requirements, decision.spec
    opener = _Opener(world, reporter, terms)
    agreed = decision.agreed
    if agreed is None and opener.asks_servers(needs.baselines):
        agreed = consent_to(decision, world, reporter)
    baselines, combined = opener.combined(needs, agreed)
    if not combined.conda and not combined.pypi and not spec.packages and not spec.pypi:
        raise UsageError("nothing is left of the baseline", hint="'without' takes out all of it: name fewer packages.")
    spec, added = _laid_on(spec, combined)
    count = len(combined.conda) + len(combined.pypi)
    shown = tuple(each.shown for each in baselines)
    on = OnBaselines(shown, count, tuple(combined.removed), added, tuple(opener.uses))
    return decision._replace(spec=spec, on_baselines=on, agreed=agreed).on(opener.evidence)


def to_be_locked(
    spec: EnvironmentSpec, needs: Requirements, terms: Terms, world: World, reporter: Reporter, consent: Consent
) -> EnvironmentSpec:
    """For a lock: the spec of what stays of the baselines, and what is added. Raises CetoolError."""
    opener = _Opener(world, reporter, terms)
    _, combined = opener.combined(needs, consent)
    result, _ = _laid_on(spec, combined)
    pypi = tuple(package.line for package in combined.pypi)
    added = Solve(spec.packages, (*pypi, *(() if result.is_locked else result.pypi)))
    return spec._replace(what=Over(combined.conda, combined.pypi, added))


def _laid_on(spec: EnvironmentSpec, combined: Combined) -> tuple[EnvironmentSpec, tuple[str, ...]]:
    """The spec on top of the packages that stay, and what it adds to them. Raises EngineError for what does not fit."""
    conda, pypi = combined.conda, combined.pypi
    added = additions(spec.packages, conda)
    added_pypi = tuple(text for text in spec.pypi if not _is_there(text, combined))
    if conda and not added and not added_pypi:
        return spec.exactly(conda, pypi), ()
    return spec.over(conda, pypi, added_pypi), (*added, *added_pypi)


def _is_there(text: str, combined: Combined) -> bool:
    """Whether a PyPI package of the baseline is what a requirement asks for. Raises EngineError for another version."""
    requirement = Requirement(text)
    name = normalized(requirement.name)
    package = next((each for each in combined.pypi if each.name == name), None)
    if package is None or requirement.marker is not None:
        return False
    if requirement.url is not None or not requirement.specifier.contains(package.version, prereleases=True):
        raise EngineError(
            f"{redact(text)!r} does not fit the baseline, which has {name} {package.version} from PyPI",
            code="baseline-conflict",
            hint=f"Take the baseline's out, and what is asked for is put in: without: [{name}].",
        )
    return not requirement.extras


class _Opener:
    """Opens baselines on the same terms, and collects what that rests on and what is to be remembered of it."""

    def __init__(self, world: World, reporter: Reporter, terms: Terms) -> None:
        self._world = world
        self._reporter = reporter
        self._terms = terms
        self._store: BaselineStore = baseline_store(world)
        self.platform = terms.platform or world.platform
        self.evidence = Evidence()
        #: What is to be remembered once the environment is made.
        self.uses: list[BaselineUse] = []

    def asks_servers(self, names: Sequence[str]) -> bool:
        """Whether one of these is fetched, unless there is a copy that will do."""
        return any(is_remote(named) and self._counted(named) is None for named in names)

    def combined(self, needs: Requirements, consent: Consent | None) -> tuple[tuple[Baseline, ...], Combined]:
        """The baselines, and what they come to; what is to be said of that is said."""
        baselines = tuple(self._open(each, consent) for each in needs.baselines)
        combined = combine([(each.shown, each.platform(self.platform)) for each in baselines], needs.without)
        for text in _warnings(baselines, combined, self.platform):
            self._reporter.warn(text)
        return baselines, combined

    def _counted(self, named: str) -> Copy | None:
        """The content that counts for the script already, None where it is looked up."""
        use = self._use(named)
        return None if use is None or self._terms.refresh else self._store.uses.find(use)

    def _use(self, named: str) -> str | None:
        about = self._terms.about
        return None if about is None else use_key(about, key_of(named, insecure=self._terms.insecure)[0])

    def _open(self, named: str, consent: Consent | None) -> Baseline:
        store, world, terms = self._store, self._world, self._terms
        key, shown = key_of(named, insecure=terms.insecure)
        use, counted, local = self._use(named), self._counted(named), not is_remote(named)
        watched = [named] if local else []
        if use is not None and counted is not None:
            watched.append(str(store.news_path(use)))
        self.evidence = self.evidence.plus(seen_files(watched))
        if counted is not None:
            data = counted.data
        elif local:
            data = read_local(named)
        else:
            data = self._fetched(named, consent)
        baseline = Baseline(shown, key, data, parsed(data, named, shown, self.platform))
        if use is not None and counted is not None:
            self.evidence = self.evidence.plus(
                see_to_news(baseline, named if local else None, store, use, world, self._reporter)
            )
        elif use is not None and terms.about is not None:
            self.uses.append(BaselineUse(use, key, terms.about, shown, data))
            # once it is remembered which content counts there is no news
            self.evidence = self.evidence.plus(Evidence(files={os.fsencode(store.news_path(use)): ABSENT}))
        return baseline

    def _fetched(self, named: str, consent: Consent | None) -> bytes:
        store, world, terms = self._store, self._world, self._terms
        address = locate(named, insecure=terms.insecure)
        last = store.copies.find(address.key)
        if world.offline:
            if last is None:
                raise UsageError(
                    "the baseline is at a URL, nothing may be downloaded (--offline), and there is no copy of it here",
                    code="offline-missing",
                    where=address.where,
                    hint="A run without --offline keeps one. Or save it, and name its path.",
                )
            return last.data
        if last is not None and terms.about is None and not terms.refresh and not store.is_due(address.key):
            return last.data
        try:
            assert consent is not None
            return fetch_baseline(address, store, world, consent, insecure=terms.insecure).data
        except UnreachableError as error:
            if last is None or terms.refresh:
                raise
            age = format_duration(time.time() - last.checked)
            self._reporter.warn(f"{address.shown}: {error.message}; so the copy counts that came {age} ago")
            return last.data


def remember(on: OnBaselines, world: World, reporter: Reporter) -> None:
    """Remember which content counts for a script whose environment is made."""
    store = baseline_store(world)
    for use in on.uses:
        try:
            store.use(use.key, Copy(use.shown, use.baseline, use.about, use.data, time.time()))
        except (StoreError, OSError) as error:
            reporter.detail(f"That {use.about} has this content of {use.shown} could not be noted: {error}")


# --- what is said -----------------------------------------------------------------------------------------------------


def _warnings(baselines: Sequence[Baseline], combined: Combined, platform: str) -> list[str]:
    texts = [f"'without' names {name}, and no package of the baseline is called so" for name in combined.unmatched]
    if combined.clashes:
        told = [f"{each.name} {each.lost} of {each.earlier} gives way to {each.won}" for each in combined.clashes]
        told[_MOST_NAMES:] = [f"{len(told) - _MOST_NAMES} more"] if len(told) > _MOST_NAMES else []
        last = combined.clashes[-1].later
        texts.append(f"baselines differ, and the later one wins ({last}): {'; '.join(told)}")
    for baseline in baselines:
        unknown = baseline.platform(platform).without_digest
        if unknown:
            names = ", ".join(unknown[:_MOST_NAMES]) + (", ..." if len(unknown) > _MOST_NAMES else "")
            texts.append(f"{baseline.shown} has no digests of {names}: they cannot be verified")
    return texts


def after_removal(prefix: Path, needs: Requirements) -> list[str]:
    """What there is to say of a finished environment whose baseline had packages taken out: which of them packages that
    stayed need, and which are back because something that was put in needs them.
    """
    records = read_records(prefix)
    versions = {record.name: record.version for record in records}
    asked = set(map(spec_name, needs.packages))
    needed: dict[str, set[str]] = {}
    for record in records:
        for text in record.depends:
            match = _NAME.match(text.rpartition("::")[2].strip().lower())
            if match is not None and match[0] not in asked and taken_out(match[0], needs.without):
                needed.setdefault(match[0], set()).add(record.name)
    missed, back = [], []
    for name, by in sorted(needed.items()):
        whom = f"needed by {', '.join(sorted(by)[:_MOST_NAMES])}"
        if name in versions:
            back.append(f"{name} {versions[name]} ({whom})")
        else:
            missed.append(f"{name} ({whom})")
    told = [("taken out of the baseline, and missed", missed), ("taken out of the baseline, and put in again", back)]
    return [f"{what}: {'; '.join(found[:_MOST_NAMES])}" for what, found in told if found]
