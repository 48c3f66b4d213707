"""Which environment a script gets: the one that its lock names, where it has a lock that fits what it declares."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cetool.app.session import Session
from cetool.app.sources import Source
from cetool.base.errors import LockError, UsageError
from cetool.base.values import Value
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.requirements import Requirements
from cetool.lock import EMBEDDED_MARK, SUFFIXES, lock_paths

if TYPE_CHECKING:  # few scripts have a lock
    from cetool.lock.find import FoundLock
    from cetool.lock.model import PlatformLock


class LockChoice(Value):
    """What a command line says of locks: ``ignored`` with ``--no-lock``, ``file`` the one of ``--lock-file``.

    ``--locked`` and ``--frozen`` are settings as well: see :attr:`cetool.settings.settings.Settings.locked`.
    """

    file: Path | None = None
    ignored: bool = False


class Asked(Value):
    """What a script asks for: ``declared`` by itself (or by ``--env-file``), ``all`` of it with what the command line
    adds; ``additions`` are the options that do, as they are called. ``exclude_newer`` is the day it is solved as of.
    ``refresh``: baselines count as they are now; ``insecure``: they may come over plain http.
    """

    declared: Requirements
    all: Requirements
    additions: tuple[str, ...] = ()
    exclude_newer: str | None = None
    refresh: bool = False
    insecure: bool = False


def spec_of(source: Source, asked: Asked, choice: LockChoice, session: Session) -> tuple[EnvironmentSpec, str | None]:
    """The complete request, and where the lock is that decides it; None for one that has to be solved.

    Raises LockError where a lock was insisted on (``--locked``, ``--frozen``, ``--lock-file``) and cannot be used, and
    CetoolError for a baseline that cannot.
    """
    if asked.all.overlay is not None:
        if choice.file is not None or session.settings.locked or session.settings.frozen:
            refuse_overlay(asked.all, source.script.name, "it has no lock")
        if asked.all.baselines:
            refuse_overlay(asked.all, source.script.name, "it goes with no baseline")
        if asked.exclude_newer is not None:
            refuse_overlay(asked.all, source.script.name, "--exclude-newer does not solve for it")
        return session.spec_of(asked.all), None
    spec, where = _locked_spec(source, asked, choice, session)
    if where is None and asked.all.baselines:
        from cetool.app.baselines import Wish, on_baselines

        spec = on_baselines(spec, asked.all, session, Wish(identity(source), asked.refresh, asked.insecure))
    return spec, where


def identity(source: Source) -> str | None:
    """What a script is known by from one run to the next: its path or URL; None for one that has no name."""
    if source.origin is not None:
        return source.origin.asked.shown
    return os.path.abspath(source.script.path) if source.data is None else None


def _locked_spec(
    source: Source, asked: Asked, choice: LockChoice, session: Session
) -> tuple[EnvironmentSpec, str | None]:
    """What is declared, or what its lock says, without a look at baselines."""
    fresh = session.spec_of(asked.all, exclude_newer=asked.exclude_newer)
    states = _watched(source, session) if choice.file is None else {}
    if choice.ignored:
        return fresh, None
    found = _find(source, choice, states, session.platform)
    if found is None:
        if session.settings.locked or session.settings.frozen:
            raise LockError(
                f"{source.script.name} has no lock",
                about=source.script.name,
                code="lock-missing",
                hint=f"`cetool lock {source.given}` writes one.",
            )
        return fresh, None
    for note in found.notes:
        session.voice.warn(note)
    reason = _reason_against(found, asked, session, _relocking(found, source, choice))
    if reason is None:
        platform = session.platform
        locked = found.lock.platform(platform)
        assert locked is not None
        warn_of_missing_digests(found, locked, session)
        return fresh.exactly(locked.conda, locked.pypi), found.where
    if choice.file is not None or session.settings.locked or session.settings.frozen:
        raise LockError(reason.sentence, code="lock-stale", hint=reason.way_out)
    session.repeats_itself = True  # until the lock fits again
    session.voice.warn(f"{reason.sentence}: it is solved anew" + (f". {reason.way_out}" if reason.way_out else ""))
    return fresh, None


def refuse_overlay(needs: Requirements, name: str, what: str) -> None:
    """Raise UsageError where the environment lies over another: it is not made of packages that can be listed."""
    if needs.overlay is not None:
        raise UsageError(
            f"{name} runs in what lies over {needs.overlay.base}, and {what}",
            hint="`cetool overlay freeze SCRIPT` writes down the two as one ordinary environment.",
        )


class _Reason(Value):
    """Why a lock cannot be used, and what can be done about it."""

    sentence: str
    way_out: str


def _reason_against(found: FoundLock, asked: Asked, session: Session, command: str) -> _Reason | None:
    """Why the lock is not to be used here; None where it is. ``command`` writes it anew."""
    if asked.additions:
        options = " and ".join(asked.additions)
        return _Reason(f"{found.where} does not have what {options} asks for", f"Leave {options} out to use the lock.")
    platform = session.platform
    if found.lock.platform(platform) is None:
        there = ", ".join(each.platform for each in found.lock.platforms) or "none"
        return _Reason(
            f"{found.where} locks nothing for {platform} (but for {there})",
            f"`{command} --platform {platform}` adds it.",
        )
    if not session.settings.frozen and found.matches(asked.declared, platform) is False:
        return _Reason(
            f"{found.where} does not fit what the script declares",
            f"`{command}` writes it anew; --frozen uses it as it is.",
        )
    return None


def warn_of_missing_digests(found: FoundLock, locked: PlatformLock, session: Session) -> None:
    """Warn of files that the lock has no digest of. A commit of a repository needs none.

    Every run warns: nothing else would say that these packages are not verified.
    """
    conda = [package.name for package in locked.conda if not package.sha256 and not package.md5]
    pypi = [each.name for each in locked.pypi if not each.sha256 and not each.url.startswith("git+")]
    if unknown := [*conda, *pypi]:
        told = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        session.repeats_itself = True
        session.voice.warn(f"{found.where} has no digests of {told}: they cannot be verified")


def _relocking(found: FoundLock, source: Source, choice: LockChoice) -> str:
    """The command line that writes this lock anew."""
    command = f"cetool lock {source.given}"
    if found.format == "embedded":
        return f"{command} --embed"
    return f"{command} --lock-file {choice.file}" if choice.file is not None and found.format in SUFFIXES else command


def _watched(source: Source, session: Session) -> Mapping[bytes, bytes]:
    """The states of the files that would be the script's lock, before they are read; the session remembers them."""
    if source.data is not None:
        return {}
    return session.watch_locks([str(path) for path in lock_paths(source.script.path)])


def _find(source: Source, choice: LockChoice, states: Mapping[bytes, bytes], platform: str) -> FoundLock | None:
    if choice.file is not None:
        from cetool.lock.find import open_lock

        return open_lock(choice.file, platform=platform)
    beside = any(state != b"-" for state in states.values()) or any(map(os.path.islink, states))
    if not beside and EMBEDDED_MARK not in source.script.text:
        return None
    from cetool.lock.find import find_lock

    return find_lock(source.script, beside=source.data is None, platform=platform)
