"""Environments on a baseline: which content of it counts for a script, what stays of it, and what there is to say.

The content that a script's environment was first made from goes on to count, whatever becomes of the baseline, until
``--refresh``. That it has changed is found out in the background, and told by the next run.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cetool.base.durations import format_duration
from cetool.base.errors import CetoolError, EngineError, MetadataError, ScriptNotFoundError, StoreError, UsageError
from cetool.base.process import Consent
from cetool.base.text import normalized, printable
from cetool.base.urls import redact
from cetool.base.values import Value
from cetool.declare.baselines import is_remote
from cetool.declare.environment import EnvironmentSpec, Over, Solve
from cetool.declare.requirements import Requirements
from cetool.declare.source import read_bytes
from cetool.lock.baseline import Combined, combine
from cetool.lock.find import lock_in
from cetool.lock.model import Lock, PlatformLock
from cetool.store.baselines import BaselineStore, path_key, use_key
from cetool.store.keyed import Copy

if TYPE_CHECKING:  # what fetches is for baselines at a URL
    from cetool.app.session import Session
    from cetool.fetch.addresses import Address

_MOST_NAMES = 5
_NAME = re.compile(r"[a-z0-9_.-]+")


class Wish(Value):
    """For whom a baseline is wanted: ``about`` is the script's absolute path or URL, None for what has no name.

    ``refresh``: as it is now, whatever counted so far; ``insecure`` lets plain http pass;
    ``platform`` is that of the packages, this machine's where None.
    """

    about: str | None = None
    refresh: bool = False
    insecure: bool = False
    platform: str | None = None


class Baseline(Value):
    """A baseline with the content that counts. ``shown`` is how messages call it, ``key`` what it is kept by;
    ``kept`` whether that is the content which the script's environment was made from before.
    """

    shown: str
    key: str
    data: bytes
    lock: Lock
    kept: bool = False

    def platform(self, platform: str) -> PlatformLock:
        """Its packages for a platform. Raises MetadataError where it has none."""
        locked = self.lock.platform(platform)
        if locked is None:
            there = ", ".join(each.platform for each in self.lock.platforms) or "no platform"
            raise MetadataError(
                f"the baseline {self.shown} has nothing for {platform}, only for {there}", code="lock-platform-missing"
            )
        return locked


class OnBaselines(Value):
    """An environment's baselines and what became of them: ``added`` are the match specs and requirements put in."""

    baselines: tuple[Baseline, ...]
    combined: Combined
    added: tuple[str, ...]


def on_baselines(spec: EnvironmentSpec, needs: Requirements, session: Session, wish: Wish) -> EnvironmentSpec:
    """The spec of what is declared on top of its baselines: exact where nothing is added to them.

    Raises CetoolError where a baseline cannot be had or read, and where what is asked for does not fit it.
    """
    baselines, combined = _combined(needs, session, wish)
    if not combined.conda and not combined.pypi and not spec.packages and not spec.pypi:
        raise UsageError("nothing is left of the baseline", hint="'without' takes out all of it: name fewer packages.")
    result, added = laid_on(spec, combined)
    session.on_baselines = OnBaselines(baselines, combined, added)
    return result


def to_be_locked(spec: EnvironmentSpec, needs: Requirements, session: Session, wish: Wish) -> EnvironmentSpec:
    """For a lock: the spec of what stays of the baselines, and what is added. Raises CetoolError."""
    _, combined = _combined(needs, session, wish)
    result, _ = laid_on(spec, combined)
    pypi = tuple(package.line for package in combined.pypi)
    added = Solve(spec.packages, (*pypi, *(() if result.is_locked else result.pypi)))
    return spec._replace(what=Over(combined.conda, combined.pypi, added))


def _combined(needs: Requirements, session: Session, wish: Wish) -> tuple[tuple[Baseline, ...], Combined]:
    """The baselines, and what they come to; what is to be said of that is said."""
    platform = wish.platform or session.platform
    baselines = tuple(open_baseline(each, session, wish) for each in needs.baselines)
    combined = combine([(each.shown, each.platform(platform)) for each in baselines], needs.without)
    _tell(baselines, combined, platform, session)
    return baselines, combined


def laid_on(spec: EnvironmentSpec, combined: Combined) -> tuple[EnvironmentSpec, tuple[str, ...]]:
    """The spec on top of the packages that stay, and what it adds to them. Raises EngineError for what does not fit."""
    from cetool.engines.additions import additions

    conda, pypi = combined.conda, combined.pypi
    added = additions(spec.packages, conda)
    added_pypi = tuple(text for text in spec.pypi if not _is_there(text, combined))
    if conda and not added and not added_pypi:
        return spec.exactly(conda, pypi), ()
    return spec.over(conda, pypi, added_pypi), (*added, *added_pypi)


def _is_there(text: str, combined: Combined) -> bool:
    """Whether a PyPI package of the baseline is what a requirement asks for. Raises EngineError for another version."""
    from packaging.requirements import Requirement

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


# --- its content ------------------------------------------------------------------------------------------------------


def baseline_store(session: Session) -> BaselineStore:
    """What is kept of baselines."""
    return BaselineStore(session.paths.baselines, trust=session.settings.trust_cache_dir)


def open_baseline(named: str, session: Session, wish: Wish) -> Baseline:
    """A baseline with the content that counts for whom it is wanted. What a first use, or ``--refresh``, takes is
    remembered once the environment is made.
    """
    store = baseline_store(session)
    address = locate(named, insecure=wish.insecure) if is_remote(named) else None
    key, shown = key_of(named, insecure=wish.insecure)
    use = None if wish.about is None else use_key(wish.about, key)
    used = store.uses.find(use) if use is not None else None
    if address is None:
        session.watch_files([named])
    if use is not None:
        session.watch_files([str(store.news_path(use))])
    if used is not None and not wish.refresh:
        data = used.data
    elif address is None:
        data = read_local(named)
    else:
        data = _remote(address, store, session, wish)
    lock = parsed(data, named, shown, wish.platform or session.platform)
    baseline = Baseline(shown, key, data, lock, kept=used is not None and not wish.refresh)
    if use is None or wish.about is None:
        return baseline
    if baseline.kept:
        from cetool.app.baseline_news import see_to_news

        see_to_news(baseline, named if address is None else None, store, use, session)
    else:
        copy = Copy(shown, key, wish.about, data, time.time())
        session.once_made.append(_remembering(store, use, copy, session))
    return baseline


def key_of(named: str, *, insecure: bool) -> tuple[str, str]:
    """What a baseline is kept by, and how messages call it. Raises MetadataError for a URL that cannot be used."""
    if not is_remote(named):
        return path_key(named), printable(named)
    address = locate(named, insecure=insecure)
    return address.key, address.shown


def locate(named: str, *, insecure: bool) -> Address:
    """The address of a baseline. Raises MetadataError for a URL that cannot be used."""
    from cetool.fetch.scripts import locate_script

    try:
        return locate_script(named, insecure=insecure, what="baseline")
    except UsageError as error:
        raise _about_baseline(error) from None


def read_local(path: str) -> bytes:
    """The content of a baseline at a path. Raises MetadataError where it cannot be read."""
    try:
        return read_bytes(path, printable(path), "baseline")
    except CetoolError as error:
        raise error.turned_into(MetadataError, code="baseline-invalid") from None


def fetch_baseline(
    address: Address,
    store: BaselineStore,
    session: Session,
    consent: Consent,
    *,
    insecure: bool,
    key: str | None = None,
) -> Copy:
    """The content of a baseline at a URL as it is now; it is kept by ``key``, the address's own where None.

    Raises CetoolError where it cannot be had.
    """
    from cetool.fetch.scripts import Known, fetch_script

    key = key or address.key
    last = store.copies.find(key)
    known = None if last is None else Known(last.address, last.data, last.etag, last.modified)
    store.asked(key)
    try:
        fetched = fetch_script(address, insecure=insecure, known=known, environ=session.environ)
    except CetoolError as error:
        raise _about_baseline(error) from None
    told = fetched.known
    copy = Copy(fetched.url, told.address, fetched.name, fetched.data, time.time(), told.etag, told.modified)
    with contextlib.suppress(StoreError, OSError):  # it serves all the same
        store.keep(key, copy)
    return copy


def _remote(address: Address, store: BaselineStore, session: Session, wish: Wish) -> bytes:
    from cetool.fetch.scripts import UnreachableError

    last = store.copies.find(address.key)
    consent = session.consent()
    if session.offline:
        if last is None:
            raise UsageError(
                "the baseline is at a URL, nothing may be downloaded (--offline), and there is no copy of it here",
                code="offline-missing",
                where=address.where,
                hint="A run without --offline keeps one. Or save it, and name its path.",
            )
        return last.data
    if last is not None and wish.about is None and not wish.refresh and not store.is_due(address.key):
        return last.data
    try:
        return fetch_baseline(address, store, session, consent, insecure=wish.insecure).data
    except UnreachableError as error:
        if last is None or wish.refresh:
            raise
        age = format_duration(time.time() - last.checked)
        session.voice.warn(f"{address.shown}: {error.message}; so the copy counts that came {age} ago")
        return last.data


def _about_baseline(error: CetoolError) -> CetoolError:
    """An error of fetching as one of a baseline: 126 and 127 are about the script itself."""
    if isinstance(error, (ScriptNotFoundError, UsageError)):
        return error.turned_into(MetadataError, code="baseline-invalid")
    return error


def parsed(data: bytes, named: str, shown: str, platform: str) -> Lock:
    """The packages in the content of a baseline. Raises MetadataError, with file and line, where it is none."""
    path = Path(named) if not is_remote(named) else Path(shown.rpartition("/")[2] or "baseline")
    try:
        return lock_in(data, path, shown, platform)[0]
    except MetadataError as error:
        if error.code != "lock-unrecognized":
            raise
        raise error.but(
            message="this is no baseline",
            code="baseline-invalid",
            hint="It can be an @EXPLICIT file, a conda-lock.yml or a pixi.lock: `cetool baseline create` writes one.",
        ) from None


def _remembering(store: BaselineStore, use: str, copy: Copy, session: Session) -> Callable[[], None]:
    def remember() -> None:
        try:
            store.use(use, copy)
        except (StoreError, OSError) as error:
            session.voice.detail(f"That {copy.name} has this content of {copy.url} could not be noted: {error}")
        session.watch_files([str(store.news_path(use))])

    return remember


# --- what is said -----------------------------------------------------------------------------------------------------


def _tell(baselines: Sequence[Baseline], combined: Combined, platform: str, session: Session) -> None:
    for name in combined.unmatched:
        session.voice.warn(f"'without' names {name}, and no package of the baseline is called so")
    if combined.clashes:
        told = [f"{each.name} {each.lost} of {each.earlier} gives way to {each.won}" for each in combined.clashes]
        told[_MOST_NAMES:] = [f"{len(told) - _MOST_NAMES} more"] if len(told) > _MOST_NAMES else []
        last = combined.clashes[-1].later
        session.voice.warn(f"baselines differ, and the later one wins ({last}): {'; '.join(told)}")
    for baseline in baselines:
        locked = baseline.platform(platform)
        unknown = [each.name for each in locked.conda if not each.sha256 and not each.md5]
        unknown += [each.name for each in locked.pypi if not each.sha256 and not each.url.startswith("git+")]
        if unknown:
            names = ", ".join(unknown[:_MOST_NAMES]) + (", ..." if len(unknown) > _MOST_NAMES else "")
            session.voice.warn(f"{baseline.shown} has no digests of {names}: they cannot be verified")


def after_removal(prefix: Path, needs: Requirements) -> list[str]:
    """What there is to say of a finished environment whose baseline had packages taken out: which of them packages that
    stayed need, and which are back because something that was put in needs them.
    """
    from cetool.declare.baselines import taken_out
    from cetool.declare.match_specs import spec_name
    from cetool.packages.prefix import read_records

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
