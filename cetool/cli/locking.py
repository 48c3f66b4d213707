"""``cetool lock``: writes down exactly which packages a script runs with, for this platform and others."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cetool.app.lock_places import Target, Wish, target_of
from cetool.app.lock_report import Outcome, changes_between, document_of, tell
from cetool.app.locked import identity, refuse_overlay
from cetool.app.session import Session
from cetool.app.sources import Source, open_source
from cetool.base.durations import exclude_newer as read_day
from cetool.base.durations import rfc3339
from cetool.base.errors import EngineError, Location, UsageError
from cetool.base.text import nearest, printable
from cetool.base.urls import redact, strip_credentials
from cetool.cli import options
from cetool.cli.options import option
from cetool.cli.output import print_json
from cetool.declare.blocks import find_block
from cetool.declare.channels import resolve_channel
from cetool.declare.metadata import read_metadata
from cetool.declare.platforms import PLATFORMS, current_platform
from cetool.declare.requirements import Requirements
from cetool.lock.find import CONDA_LOCK, EMBEDDED, PIXI
from cetool.lock.model import Lock, PlatformLock
from cetool.settings.condarc import load_condarc

if TYPE_CHECKING:
    from cetool.engines.protocol import Progress

#: The note in a lock of the day that it was solved as of.
AS_OF = "cetool_exclude_newer"
#: Where PyPI packages come from unless someone says otherwise.
PYPI = "https://pypi.org/simple"

_VIRTUAL = re.compile(r"(?P<name>__[a-z0-9_]+)(?:==?(?P<version>[A-Za-z0-9_.!+-]*))?")


class Format(str, Enum):
    """The formats of lock files by the names that the command line has for them."""

    conda_lock = CONDA_LOCK
    pixi = PIXI


@dataclass(frozen=True)
class LockOptions(options.Output):
    """The options of ``cetool lock``."""

    platform: Annotated[
        list[str] | None,
        option("--platform", metavar="PLATFORM", help="A platform to lock for: linux-64; repeat for more."),
    ] = None
    update: Annotated[bool, option("--update", help="Look for newer versions: of the packages named, else of all.")] = (
        False
    )
    update_package: Annotated[
        list[str] | None,
        option("-P", "--update-package", metavar="PKG", help="Look for a newer version of this; repeat."),
    ] = None
    exclude_newer: Annotated[
        str | None,
        option("--exclude-newer", metavar="DATE", help="Leave aside what was published after this day."),
    ] = None
    embed: Annotated[bool, option("--embed", help="Put the lock at the end of the script itself.")] = False
    check: Annotated[
        bool, option("--check", help="Write nothing; the exit status is 1 where the lock is not up to date.")
    ] = False
    form: Annotated[
        Format | None, option("--format", help="How the lock file is written.", show_default="conda-lock")
    ] = None
    lock_file: Annotated[Path | None, option("--lock-file", metavar="FILE", help="Write the lock to this file.")] = None
    virtual_package: Annotated[
        list[str] | None,
        option("--virtual-package", metavar="NAME=VERSION", help="What machines have: __cuda=12.4; repeat."),
    ] = None
    channel: options.Channels = None
    env_file: options.EnvFile = None
    as_json: options.AsJson = False
    offline: options.Offline = False
    insecure: Annotated[bool, option("--insecure", help="Let a script come over plain http.")] = False
    sha256: options.Sha256 = None
    yes: options.Yes = False


@options.command
def lock(
    targets: Annotated[
        list[str], typer.Argument(metavar="SCRIPT", help="Scripts; behind --update also packages' names.")
    ],
    *,
    given: LockOptions,
) -> int:
    """Solve for each platform and write down exactly which packages a script runs with."""
    session = options.open_session(given)
    platforms, words = _more_platforms(given.platform or (), targets)
    scripts, packages = _told_apart(words, update=given.update)
    wish = Wish(
        platforms=_checked_platforms(platforms),
        update_all=given.update and not packages and not given.update_package,
        update=frozenset(name.lower() for name in (*packages, *(given.update_package or ()))),
        exclude_newer=None if given.exclude_newer is None else read_day(given.exclude_newer),
        embed=given.embed,
        format=None if given.form is None else given.form.value,
        lock_file=given.lock_file,
        virtual_packages=tuple(map(_virtual_package, given.virtual_package or ())),
        env_file=given.env_file,
        check=given.check,
    )
    if not scripts:
        raise UsageError("no script was given", hint="cetool lock SCRIPT")
    _refuse_clashes(wish, scripts)
    if given.sha256 is not None and len(scripts) > 1:
        raise UsageError("--sha256 pins the content of one script")
    outcomes = []
    for script in scripts:
        outcomes.append(
            _lock_one(open_source(script, session, insecure=given.insecure, sha256=given.sha256), wish, session)
        )
    if given.as_json:
        print_json(document_of(outcomes))
    return 1 if given.check and any(outcome.changed for outcome in outcomes) else 0


def _more_platforms(named: Sequence[str], words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The platforms and the other words: behind ``--platform`` several may stand, ``--platform linux-64 osx-arm64``."""
    more = [word for word in words if named and word in PLATFORMS and not os.path.isfile(word)]
    return [*named, *more], [word for word in words if word not in more]


def _told_apart(words: Sequence[str], *, update: bool) -> tuple[list[str], list[str]]:
    """The scripts and, behind ``--update``, the packages: what is no file, apart from the first that could be one."""
    if not update:
        return list(words), []
    scripts = [word for word in words if os.path.isfile(word) or "://" in word]
    scripts = scripts or list(words[:1])
    return scripts, [word for word in words if word not in scripts]


def _checked_platforms(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if name not in PLATFORMS:
            raise UsageError(f"{printable(name)!r} is no platform", hint=nearest(name, PLATFORMS))
    return tuple(sorted(set(names)))


def _virtual_package(text: str) -> tuple[str, str]:
    found = _VIRTUAL.fullmatch(text.strip().lower())
    if found is None:
        raise UsageError(
            f"{printable(text)!r} is no virtual package",
            hint="Write it as __cuda=12.4, __glibc=2.17 or __archspec=x86_64_v3; `__cuda=` says that there is none.",
        )
    return found["name"], found["version"] if found["version"] is not None else "0"


def _refuse_clashes(wish: Wish, scripts: Sequence[str]) -> None:
    if wish.embed and (wish.lock_file or wish.format):
        raise UsageError("--embed puts the lock into the script, so it goes with neither --lock-file nor --format")
    if wish.lock_file and len(scripts) > 1:
        raise UsageError("--lock-file is one file, which holds the lock of one script")


# --- one script -----------------------------------------------------------------------------------------------------


def _lock_one(source: Source, wish: Wish, session: Session) -> Outcome:
    """Lock one script: solve where that is called for, and write where something changed."""
    target = target_of(source, wish, session)
    platforms = wish.platforms or _kept_platforms(target.before, session)
    asked = {platform: _requirements(source, wish, platform) for platform in platforms}
    for foreign in session.foreign:
        if foreign.source is source:
            foreign.platforms = tuple(platforms)
    for warning in dict.fromkeys(each for needs in asked.values() for each in needs.warnings):
        session.voice.warn(str(warning))
    old = target.old
    if old is not None and not wish.solves_anew and _is_current(old, asked):
        new, changed = old, False
    elif wish.check and (old is None or _is_stale(old, asked)):
        new, changed = old or Lock(()), True
    else:
        with session.voice.progress() as progress:
            new = _solved(source, asked, target.before, wish, session, progress)
        # a pixi.lock keeps packages alone, and what another tool wrote need not keep more to be up to date
        loosely = target.format == PIXI or (wish.check and old is not None and not _keeps_requests(old))
        changed = old is None or _contents(new, loosely=loosely) != _contents(old, loosely=loosely)
    if changed and not wish.check:
        new = new._replace(created=rfc3339(datetime.now(timezone.utc)))
        _write(new, asked, target, source, session)
    for note in (*target.notes, *_not_there(wish.update, new)):
        session.voice.warn(note)
    name = redact(source.script.name)
    outcome = Outcome(name, target, new, changes_between(target.before, new), changed)
    tell(outcome, wish, session)
    return outcome


def _kept_platforms(before: Lock | None, session: Session) -> tuple[str, ...]:
    """The platforms that the lock has; this one where there is none."""
    if before is not None and before.platforms:
        return tuple(sorted(each.platform for each in before.platforms))
    return (session.platform,)


def _requirements(source: Source, wish: Wish, platform: str) -> Requirements:
    """What the script asks for on a platform."""
    if wish.env_file is None:
        requirements = read_metadata(source.script, platform).requirements
        refuse_overlay(requirements, source.script.name, "that cannot be locked")
        return requirements
    from cetool.declare.dialects.environment_yml import read_environment_file

    if find_block(source.script) is not None:
        raise UsageError(f"--env-file is for scripts without metadata of their own, and {source.script.name} has some")
    return read_environment_file(wish.env_file, platform)


def _is_current(lock: Lock, asked: dict[str, Requirements]) -> bool:
    """Whether the lock was made for just this, on just these platforms."""
    requests = {platform: needs.digest for platform, needs in asked.items()}
    return {each.platform: each.request for each in lock.platforms} == requests


def _is_stale(lock: Lock, asked: dict[str, Requirements]) -> bool:
    """Whether the lock itself says that it was made for something else."""
    return _keeps_requests(lock) and not _is_current(lock, asked)


def _keeps_requests(lock: Lock) -> bool:
    return all(each.request is not None for each in lock.platforms)


def _solved(
    source: Source,
    asked: dict[str, Requirements],
    before: Lock | None,
    wish: Wish,
    session: Session,
    progress: Progress,
) -> Lock:
    """The lock as it is to be: each platform solved towards what it was."""
    from cetool.engines.lock_solve import solve_lock
    from cetool.engines.protocol import Hold

    hold = Hold(session.consent())
    newest = None if wish.exclude_newer is None else rfc3339(wish.exclude_newer)
    found = []
    channels: dict[str, None] = {}
    for platform, needs in asked.items():
        spec = session.spec_of(needs, exclude_newer=newest)
        spec = spec._replace(
            virtual_packages=tuple(sorted({**dict(spec.virtual_packages), **dict(wish.virtual_packages)}.items()))
        )
        channels |= dict.fromkeys(map(strip_credentials, spec.channels))
        progress.note(f"Locking {source.script.name} for {platform}")
        kept = None if before is None or wish.update_all else _without(before.platform(platform), wish.update)
        if needs.baselines:
            from cetool.app.baselines import Wish as BaselineWish
            from cetool.app.baselines import to_be_locked

            about = BaselineWish(identity(source), refresh=wish.update_all, platform=platform)
            spec = to_be_locked(spec, needs, session, about)
        try:
            locked = solve_lock(session.request(spec)._replace(platform=platform), kept, progress, hold)
        except EngineError as error:
            if platform != current_platform():
                raise error.but(message=f"for {platform}: {error.message}") from None
            raise
        found.append(locked._replace(request=needs.digest))
    custom = ((AS_OF, rfc3339(wish.exclude_newer)),) if wish.exclude_newer is not None else ()
    return Lock(tuple(sorted(found, key=lambda each: each.platform)), tuple(channels), None, custom)


def _without(locked: PlatformLock | None, names: frozenset[str]) -> PlatformLock | None:
    """What is kept of a platform's packages where some are to be looked for anew."""
    if locked is None or not names:
        return locked
    return locked._replace(
        conda=tuple(package for package in locked.conda if package.name not in names),
        pypi=tuple(package for package in locked.pypi if package.name not in names),
    )


def _not_there(names: frozenset[str], lock: Lock) -> list[str]:
    """A sentence for what was to be updated and is not in the lock."""
    there = {package.name for each in lock.platforms for package in each.conda}
    there |= {package.name for each in lock.platforms for package in each.pypi}
    return [f"there is no package {printable(name)} in the lock" for name in sorted(names - there)]


def _contents(lock: Lock, *, loosely: bool) -> object:
    """What makes two locks different ones: not the time; ``loosely`` the packages alone, which every format keeps."""
    packages = [(each.platform, each.digest) for each in lock.platforms]
    requests = [each.request for each in lock.platforms]
    return packages if loosely else (packages, requests, lock.channels, sorted(lock.custom))


def _write(lock: Lock, asked: dict[str, Requirements], target: Target, source: Source, session: Session) -> None:
    """Put the lock where it belongs, whole or not at all."""
    if target.format == EMBEDDED:
        from cetool.edit.document import ScriptChangedError, read_document, write_document
        from cetool.lock.embedded import embed

        document = read_document(source.given)
        if document.script is None or document.script.text != source.script.text:
            raise ScriptChangedError(
                "the script was changed by someone else while it was being locked, so nothing was written",
                where=Location(source.script.name),
                hint="Run the same command again.",
            )
        for note in write_document(document, embed(document, lock)):
            session.voice.warn(note)
        return
    from cetool.lock.find import write_lock_file

    if target.format == PIXI:
        from cetool.lock.pixi import write_pixi_lock

        condarc = load_condarc(session.environ, mamba=True)
        urls = [strip_credentials(url) for channel in lock.channels for url in resolve_channel(channel, condarc)]
        settings = next(iter(asked.values())).pypi_settings
        named = any(index.get("default") for index in settings.named.get("index", []))
        indexes = [*([] if settings.index_url or named else [PYPI]), *settings.index_urls]
        text = write_pixi_lock(lock, indexes=tuple(map(strip_credentials, indexes)), channel_urls=tuple(urls))
    else:
        from cetool.lock.conda_lock import write_conda_lock

        text = write_conda_lock(lock, sources=_sources(source, target.path))
    write_lock_file(target.path, text, target.content)


def _sources(source: Source, path: Path) -> tuple[str, ...]:
    """The script's path from the lock's directory; the name of one that is no file."""
    if source.data is None:
        with contextlib.suppress(ValueError):  # it may be on another drive
            return (Path(os.path.relpath(source.script.path, path.parent)).as_posix(),)
    return (source.script.path.name,)
