"""Where ``cetool lock`` puts the lock of a script, and what is there already."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from cetool.app.reporting import Reporter
from cetool.app.sources import Source
from cetool.base.errors import MetadataError, UsageError
from cetool.base.files import read_if_there
from cetool.base.text import printable
from cetool.lock.find import CONDA_LOCK, EMBEDDED, EXPLICIT, PIXI, SUFFIXES, FoundLock, find_lock, open_lock
from cetool.lock.model import Lock


@dataclass(frozen=True, slots=True)
class LockWish:
    """What the command line asks for, of every script."""

    platforms: tuple[str, ...]
    update_all: bool
    update: frozenset[str]
    exclude_newer: datetime | None
    embed: bool
    format: str | None
    lock_file: Path | None
    virtual_packages: tuple[tuple[str, str], ...]
    env_file: Path | None
    check: bool

    @property
    def solves_anew(self) -> bool:
        """Whether a lock that matches may still change."""
        return self.update_all or bool(self.update or self.exclude_newer or self.virtual_packages)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a script's lock is written."""

    path: Path
    #: What messages call it.
    name: str
    format: str
    #: The lock that is there.
    old: Lock | None
    #: The lock that counted until now, there or elsewhere.
    before: Lock | None
    notes: tuple[str, ...] = ()
    #: What is in the lock file, None where it does not exist.
    content: bytes | None = None


def target_of(source: Source, wish: LockWish, reporter: Reporter) -> Target:
    """Where the lock goes: where the command line says, else where there is one, else beside the script."""
    target = _target_of(source, wish, reporter)
    return target if target.format == EMBEDDED else replace(target, content=read_if_there(target.path))


def _target_of(source: Source, wish: LockWish, reporter: Reporter) -> Target:
    script = source.script
    if wish.lock_file is not None:
        return _named_target(wish.lock_file, wish)
    if source.data is not None:
        raise UsageError(
            f"{script.name} is no file here, so its lock has no place", hint="Say where it goes with --lock-file FILE."
        )
    found = _readable(lambda: find_lock(script), wish, reporter)
    form = EMBEDDED if wish.embed else wish.format or (found.format if found is not None else CONDA_LOCK)
    path = script.path if form == EMBEDDED else script.path.with_name(script.path.name + SUFFIXES[form])
    name = script.name if form == EMBEDDED else script.name + SUFFIXES[form]
    before = None if found is None else found.lock
    if found is not None and found.format == form:  # a link's may be beside the file that it leads to
        path, name = found.path, name if found.path == path else printable(str(found.path))
    if found is None or found.format == form:
        return Target(path, name, form, before, before, () if found is None else found.notes)
    other = "the lock in the script" if found.format == EMBEDDED else printable(found.path.name)
    order = (EMBEDDED, CONDA_LOCK, PIXI)
    counts = "counts no longer" if order.index(form) < order.index(found.format) else "still counts before the new one"
    note = f"{other} is left as it is and {counts}: remove it if it is not wanted"
    there = _readable(lambda: open_lock(path), wish, reporter) if form != EMBEDDED and path.exists() else None
    return Target(path, name, form, None if there is None else there.lock, before, (note,))


def _named_target(path: Path, wish: LockWish) -> Target:
    """The file that --lock-file names. One that is there and is no lock is not overwritten: it is an error."""
    name = printable(str(path))
    there = open_lock(path) if path.exists() and path.stat().st_size else None
    form = wish.format or (there.format if there is not None else PIXI if path.suffix == ".lock" else CONDA_LOCK)
    if form == EXPLICIT:
        raise UsageError(f"{name} is an @EXPLICIT file, which is no whole lock", hint="Name another file.")
    lock = None if there is None else there.lock
    old = lock if there is not None and there.format == form else None
    return Target(Path(os.path.abspath(path)), name, form, old, lock)


def _readable(read: Callable[[], FoundLock | None], wish: LockWish, reporter: Reporter) -> FoundLock | None:
    """The lock that is read; one that is broken is told of, and made anew."""
    try:
        return read()
    except MetadataError as error:
        if wish.check:
            raise
        reporter.warn(f"{error}: it is made anew")
        return None
