"""Notice files in watched directories: which there are, which changed, and when they are complete enough to read.

Events of the file system only say that it is time to look; what a scan finds is the truth. So nothing is missed when
the system drops events, a directory disappears and returns, or the file system sends no events at all.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cetool.declare.languages import language_of_suffix
from cetool.declare.source import NOTEBOOK_SUFFIX
from cetool.server.config_values import Watch
from cetool.server.file_events import Events, Tell, has_no_events

#: Suffixes of environment files (CEP 24).
ENVIRONMENT_SUFFIXES = (".yml", ".yaml")
#: The most files and directories that one watched directory may have.
MOST_FILES, MOST_DIRECTORIES = 50_000, 20_000
#: Seconds for which a file must be unchanged before it is read.
_SETTLED = 0.3
#: Seconds between two scans of a directory that is polled, or absent; and of one with events, in case some were lost.
_POLL, _RESCAN = 2.0, 30.0
#: A scan may take at most this part of the time.
_SHARE = 0.02
#: Seconds for which a file must be absent before it counts as removed: editors move a file away before they replace it.
_GONE = 2.0


class Signature(NamedTuple):
    """What changes when a file does."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> Signature:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(slots=True)
class Sighting:
    """A file as last seen."""

    path: str
    #: The index of its watch.
    watch: int
    signature: Signature
    #: When to read it, by the monotonic clock; None once that is done.
    due: float | None
    #: When this signature was first seen.
    since: float
    #: When it was first found missing; None while it is there.
    missing: float | None = None


@dataclass(slots=True)
class _Scan:
    """What a scan of one watch found."""

    files: dict[str, Signature] = field(default_factory=dict)
    #: The directories whose events matter.
    directories: set[str] = field(default_factory=set)
    #: Why the watched path cannot be read; None if it can.
    problem: str | None = None
    #: Directories below it that cannot be read, and other things to say once.
    notes: list[str] = field(default_factory=list)


class Files:
    """The files of all watches: :meth:`look` scans what is due, :attr:`sightings` is what was found."""

    def __init__(self, watches: Sequence[Watch], tell: Tell) -> None:
        self.watches = watches
        self._tell = tell
        self.sightings: dict[str, Sighting] = {}
        #: By watch: why its path cannot be read.
        self.problems: dict[int, str] = {}
        #: By watch: whether it is polled.
        self.polled: dict[int, bool] = {}
        self._due = dict.fromkeys(range(len(watches)), 0.0)
        self._scans: dict[int, _Scan] = {}
        self._noted: set[str] = set()
        self._events = Events(tell)

    def close(self) -> None:
        """Stop receiving events."""
        self._events.close()

    def look(self) -> list[Sighting]:
        """Scan what is due; return the files that disappeared and stayed away, which are forgotten."""
        for number, due in self._due.items():
            if time.monotonic() >= due:
                self._look_at(number)
        wanted = {
            directory
            for number, scan in self._scans.items()
            if not self.polled[number]
            for directory in scan.directories
        }
        if self._events.receive_from(wanted):  # what changed before that sent no events
            for number in self._scans:
                if not self.polled[number]:
                    self._look_at(number)
        now = time.monotonic()
        gone = [each for each in self.sightings.values() if each.missing is not None and now >= each.missing + _GONE]
        for each in gone:
            del self.sightings[each.path]
        return gone

    def due(self) -> list[Sighting]:
        """Return the files that are there, unchanged for long enough, and not yet read, in the order of their paths."""
        now = time.monotonic()
        ready = (each for each in self.sightings.values() if each.due is not None and each.missing is None)
        return sorted((each for each in ready if each.due is not None and each.due <= now), key=lambda each: each.path)

    def wait(self, stop: threading.Event, at_most: float = _RESCAN) -> None:
        """Wait until an event arrives, or something is due."""
        times = [*self._due.values()]
        for each in self.sightings.values():
            if each.missing is not None:
                times.append(each.missing + _GONE)
            elif each.due is not None:
                times.append(each.due)
        until = min([time.monotonic() + at_most, *times])
        for path in self._events.wait(until, stop):
            self._wake(path)

    def _wake(self, path: str) -> None:
        """Scan the watches that an event is about as soon as possible."""
        for number, watch in enumerate(self.watches):
            root = os.path.abspath(watch.path)
            if path == root or path.startswith(root.rstrip(os.sep) + os.sep) or os.path.dirname(root) == path:
                self._due[number] = 0.0

    def is_unchanged(self, sighting: Sighting) -> bool:
        """Return whether the file is still the one that was seen; if not, it is due again once it is settled."""
        try:
            signature = Signature.of(os.stat(sighting.path))
        except OSError:
            signature = None
        if signature == sighting.signature:
            return True
        self._due[sighting.watch] = 0.0
        return False

    def _look_at(self, number: int) -> None:
        watch = self.watches[number]
        started = time.monotonic()
        before = self._scans.get(number)
        scan = self._scans[number] = scan_watch(watch)
        now = time.monotonic()
        if before is None or (before.problem is None) != (scan.problem is None):
            self.polled[number] = watch.poll is not None or has_no_events(watch.path)
        if scan.problem is not None:
            # the files may return, with the file system that they are on
            if self.problems.get(number) != scan.problem:
                self._tell("watch-unreadable", path=watch.path, reason=scan.problem)
            self.problems[number] = scan.problem
            for each in self.sightings.values():
                if each.watch == number:  # perhaps missed while the directory was being removed
                    each.missing = None
        else:
            if self.problems.pop(number, None) is not None:
                self._tell("watch-readable", path=watch.path)
            self._compare(number, scan.files, now)
        for note in scan.notes:
            if note not in self._noted:
                self._noted.add(note)
                self._tell("watch-note", path=watch.path, reason=note)
        self._due[number] = now + max(self._pause(number), (now - started) / _SHARE)

    def _pause(self, number: int) -> float:
        """Return the seconds until the next scan of a watch."""
        if self.watches[number].poll is not None:
            return self.watches[number].poll or _POLL
        return _POLL if self.polled[number] or self._events.refused or number in self.problems else _RESCAN

    def _compare(self, number: int, found: dict[str, Signature], now: float) -> None:
        pause = self._pause(number)
        # where the server polls, a file must be the same in two scans
        settled = _SETTLED if pause == _RESCAN else 1.25 * pause
        for path, signature in found.items():
            known = self.sightings.get(path)
            if known is None:
                self.sightings[path] = Sighting(path, number, signature, now + settled, now)
            elif known.watch != number:
                continue  # the first watch that has a file takes it
            elif known.signature != signature:
                known.signature, known.due, known.since, known.missing = signature, now + settled, now, None
            elif known.missing is not None:
                known.missing = None
        for each in self.sightings.values():
            if each.watch == number and each.path not in found and each.missing is None:
                each.missing = now


def scan_watch(watch: Watch) -> _Scan:
    """Return the files of a watch with their signatures.

    Hidden files, backups of editors, and directories that are environments do not count; links to files are followed,
    links to directories are not (except for the watched path), so that they cannot form a circle.
    """
    scan, root = _Scan(), os.path.abspath(watch.path)
    try:
        status = os.stat(root)
        if not stat.S_ISDIR(status.st_mode):
            scan.files[root] = Signature.of(status)
            # an editor replaces the file, so that events of the file itself would end
            scan.directories.add(os.path.dirname(root))
            return scan
        os.scandir(root).close()
    except OSError as error:
        scan.problem = "it does not exist" if error.errno == errno.ENOENT else str(error.strerror or error)
        return scan
    for entry in _walk(root, watch.recursive, scan):
        wanted = entry.name.lower().endswith(ENVIRONMENT_SUFFIXES) or (watch.scripts and is_script(entry.name))
        if not wanted or not _is_utf8(entry.path, scan):
            continue
        if len(scan.files) >= MOST_FILES:
            scan.notes.append(f"{root} has more than {MOST_FILES} files: the others are ignored")
            break
        try:
            status = entry.stat()
        except OSError:  # a broken link, or removed in between
            continue
        if stat.S_ISREG(status.st_mode):
            scan.files[entry.path] = Signature.of(status)
    return scan


def is_script(name: str) -> bool:
    """Return whether the name of a file is that of a script or notebook."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix == NOTEBOOK_SUFFIX or language_of_suffix(suffix) is not None


def _walk(root: str, recursive: bool, scan: _Scan) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of a directory that may be files; note the directories that were read."""
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        if len(scan.directories) >= MOST_DIRECTORIES:
            scan.notes.append(f"{root} has more than {MOST_DIRECTORIES} directories: the others are ignored")
            return
        try:
            with os.scandir(directory) as listing:
                entries = sorted(listing, key=lambda each: each.name)
        except OSError as error:
            if error.errno != errno.ENOENT:
                scan.notes.append(f"cannot read {directory}: {error.strerror or error}")
            continue
        if directory != root and any(each.name == "conda-meta" for each in entries):
            continue
        scan.directories.add(directory)
        for entry in entries:
            if entry.name.startswith((".", "#")) or entry.name.endswith("~"):
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting += [entry.path] if recursive else []
            else:
                yield entry


def _is_utf8(path: str, scan: _Scan) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        scan.notes.append(f"{shown} is ignored: its name is not UTF-8")
        return False
    return True
