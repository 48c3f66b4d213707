"""Environments on baselines: which content of a baseline a script uses, what stays of it, and what is added.

A script keeps using the content that its environment was first created from, whatever happens to the baseline, until
``--refresh``. Changes are detected in the background, and the next run reports them.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from cetool.app.baseline_news import see_to_news
from cetool.app.baselines import (
    Baseline,
    baseline_store,
    fetch_baseline,
    fetch_named,
    key_of,
    locate,
    parsed,
    read_local,
)
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
from cetool.declare.named import is_named
from cetool.declare.requirements import Requirements
from cetool.engines.explicit import additions
from cetool.fetch.scripts import UnreachableError
from cetool.lock.baseline import Combined, combine
from cetool.packages.prefix import read_records
from cetool.store.keyed import BaselineStore, Copy, use_key

_MOST_NAMES = 5
_NAME = re.compile(r"[a-z0-9_.-]+")


class Terms(Value):
    """How baselines are opened, and for which script."""

    #: The script's absolute path or URL, if it has one.
    about: str | None = None
    #: Whether to use their current content.
    refresh: bool = False
    #: Whether plain http is allowed.
    insecure: bool = False
    #: The platform of the packages; None for this machine's.
    platform: str | None = None


def with_baselines(needs: Requirements, given: BaselineOptions) -> Requirements:
    """Add the baselines of the options; paths are relative to the working directory. Raises UsageError."""
    try:
        baselines = tuple(canonical_baseline(text, os.getcwd()) for text in given.named)
        without = tuple(canonical_pattern(text) for text in given.without)
    except MetadataError as error:
        raise error.turned_into(UsageError, where=None) from None
    needs = needs.plus(Requirements(baselines=baselines, without=without))
    if not needs.baselines:
        raise UsageError("--without needs a baseline", hint="Name one with `--baseline FILE`.")
    return needs


def on_baselines(decision: Decision, terms: Terms, world: World, reporter: Reporter) -> Decision:
    """Put what is declared on top of its baselines; the packages are exact if nothing is added.

    Raises CetoolError for a baseline that cannot be fetched or read, and for requests that conflict with it.
    """
    needs, spec = decision.requirements, decision.spec
    opener = _Opener(world, reporter, terms)
    agreed = decision.agreed
    if agreed is None and opener.asks_servers(needs.baselines):
        agreed = consent_to(decision, world, reporter)
    baselines, combined = opener.combined(needs, agreed)
    if not combined.conda and not combined.pypi and not spec.packages and not spec.pypi:
        raise UsageError("'without' removes every package of the baseline", hint="Name fewer packages in 'without'.")
    spec, added = _laid_on(spec, combined)
    count = len(combined.conda) + len(combined.pypi)
    shown = tuple(each.shown for each in baselines)
    on = OnBaselines(shown, count, tuple(combined.removed), added, tuple(opener.uses))
    named = opener.answer if spec.is_locked else None
    return decision._replace(spec=spec, on_baselines=on, agreed=agreed, named=named).on(opener.evidence)


def to_be_locked(
    spec: EnvironmentSpec, needs: Requirements, terms: Terms, world: World, reporter: Reporter, consent: Consent
) -> EnvironmentSpec:
    """Return, for a lock, the specification of what stays of the baselines and what is added. Raises CetoolError."""
    opener = _Opener(world, reporter, terms)
    _, combined = opener.combined(needs, consent)
    result, _ = _laid_on(spec, combined)
    pypi = tuple(package.line for package in combined.pypi)
    added = Solve(spec.packages, (*pypi, *(() if result.is_locked else result.pypi)))
    return spec._replace(what=Over(combined.conda, combined.pypi, added))


def _laid_on(spec: EnvironmentSpec, combined: Combined) -> tuple[EnvironmentSpec, tuple[str, ...]]:
    """Return the specification on top of the packages that stay, and what it adds. Raises EngineError."""
    conda, pypi = combined.conda, combined.pypi
    added = additions(spec.packages, conda)
    added_pypi = tuple(text for text in spec.pypi if not _is_there(text, combined))
    if conda and not added and not added_pypi:
        return spec.exactly(conda, pypi), ()
    return spec.over(conda, pypi, added_pypi), (*added, *added_pypi)


def _is_there(text: str, combined: Combined) -> bool:
    """Return whether a PyPI package of the baseline meets a requirement. Raises EngineError for another version."""
    requirement = Requirement(text)
    name = normalized(requirement.name)
    package = next((each for each in combined.pypi if each.name == name), None)
    if package is None or requirement.marker is not None:
        return False
    if requirement.url is not None or not requirement.specifier.contains(package.version, prereleases=True):
        raise EngineError(
            f"{redact(text)!r} conflicts with the baseline, which has {name} {package.version} from PyPI",
            code="baseline-conflict",
            hint=f"To replace the baseline's package, add `without: [{name}]`.",
        )
    return not requirement.extras


class _Opener:
    """Opens baselines on the same terms, and collects the evidence and what to remember."""

    def __init__(self, world: World, reporter: Reporter, terms: Terms) -> None:
        self._world = world
        self._reporter = reporter
        self._terms = terms
        self._store: BaselineStore = baseline_store(world)
        self.platform = terms.platform or world.platform
        self.evidence = Evidence()
        #: What to remember when the environment is created.
        self.uses: list[BaselineUse] = []
        #: The server's environment among them, whose packages it has.
        self.answer: Any = None

    def asks_servers(self, names: Sequence[str]) -> bool:
        """Return whether one of these is fetched from a server."""
        return any(is_remote(named) and self._counted(named) is None for named in names)

    def combined(self, needs: Requirements, consent: Consent | None) -> tuple[tuple[Baseline, ...], Combined]:
        """Return the baselines, and their packages combined; warn of conflicts."""
        baselines = tuple(self._open(each, consent) for each in needs.baselines)
        combined = combine([(each.shown, each.platform(self.platform)) for each in baselines], needs.without)
        for text in _warnings(baselines, combined, self.platform):
            self._reporter.warn(text)
        return baselines, combined

    def _counted(self, named: str) -> Copy | None:
        """Return the content that the script uses already, None if it has to be read."""
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
        if is_named(named):
            from cetool.app.named import answer_in_baseline  # few baselines are environments of a server

            self.answer = answer_in_baseline(data, world, self._reporter)
        if use is not None and counted is not None:
            self.evidence = self.evidence.plus(
                see_to_news(baseline, named if local else None, store, use, world, self._reporter)
            )
        elif use is not None and terms.about is not None:
            self.uses.append(BaselineUse(use, key, terms.about, shown, data))
            # there is no news once the content is remembered
            self.evidence = self.evidence.plus(Evidence(files={os.fsencode(store.news_path(use)): ABSENT}))
        return baseline

    def _fetched(self, named: str, consent: Consent | None) -> bytes:
        store, world, terms = self._store, self._world, self._terms
        if is_named(named):
            return fetch_named(named, store, world, self._reporter, self.platform).data
        address = locate(named, insecure=terms.insecure)
        last = store.copies.find(address.key)
        if world.offline:
            if last is None:
                raise UsageError(
                    "the baseline is at a URL and has no copy here, and --offline forbids downloads",
                    code="offline-missing",
                    where=address.where,
                    hint="Run once without --offline to keep a copy, or save the baseline and name its path.",
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
            self._reporter.warn(f"{address.shown}: {error.message}; using the copy from {age} ago")
            return last.data


def remember(on: OnBaselines, world: World, reporter: Reporter) -> None:
    """Remember which content a script uses, when its environment is created."""
    store = baseline_store(world)
    for use in on.uses:
        try:
            store.use(use.key, Copy(use.shown, use.baseline, use.about, use.data, time.time()))
        except (StoreError, OSError) as error:
            reporter.detail(f"Which content of {use.shown} {use.about} uses could not be saved: {error}")


# --- messages ---------------------------------------------------------------------------------------------------------


def _warnings(baselines: Sequence[Baseline], combined: Combined, platform: str) -> list[str]:
    texts = [f"'without' names {name}, which is not in the baseline" for name in combined.unmatched]
    if combined.clashes:
        lost = [f"{each.name} {each.won} instead of {each.lost} ({each.earlier})" for each in combined.clashes]
        lost[_MOST_NAMES:] = [f"{len(lost) - _MOST_NAMES} more"] if len(lost) > _MOST_NAMES else []
        last = combined.clashes[-1].later
        texts.append(f"baselines differ, and the last one is used ({last}): {'; '.join(lost)}")
    for baseline in baselines:
        unknown = baseline.platform(platform).without_digest
        if unknown:
            names = ", ".join(unknown[:_MOST_NAMES]) + (", ..." if len(unknown) > _MOST_NAMES else "")
            texts.append(f"{baseline.shown} has no digest for {names}, so these packages are not verified")
    return texts


def after_removal(prefix: Path, needs: Requirements) -> list[str]:
    """Return warnings about packages that 'without' removed from a baseline: those that remaining packages need, and
    those that were installed again because an added package needs them.
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
        needed_by = f"needed by {', '.join(sorted(by)[:_MOST_NAMES])}"
        if name in versions:
            back.append(f"{name} {versions[name]} ({needed_by})")
        else:
            missed.append(f"{name} ({needed_by})")
    kinds = (
        ("removed from the baseline, but needed", missed),
        ("removed from the baseline, but installed again", back),
    )
    return [f"{what}: {'; '.join(found[:_MOST_NAMES])}" for what, found in kinds if found]
