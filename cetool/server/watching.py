"""Make environments of files in watched directories, and again whenever a file changes.

A file defines one environment: that of its ``name:``, else of its stem. A file that is broken is reported once, and the
last good build stays. A file that is removed leaves its environment: users may still need it. ``watch_file`` remembers
what was built, so that a restart only builds what changed meanwhile.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace

from cetool.base.codec import sha256_of
from cetool.base.errors import CetoolError, Location
from cetool.base.limits import ENVIRONMENT_FILE, read_regular
from cetool.declare.nodes import parse_yaml
from cetool.declare.source import decode, size_limit
from cetool.server.access import Grant, Principal
from cetool.server.config_values import Watch
from cetool.server.data import environments
from cetool.server.data.watched import (
    REMOVED,
    WatchedFile,
    forget_removed_files,
    forget_watched_files,
    save_watched_file,
    watched_files,
)
from cetool.server.noticing import ENVIRONMENT_SUFFIXES, Files, Sighting, is_script
from cetool.server.server import Server
from cetool.server.submitting import Submission, submit

#: Who asks for builds of watched files.
WATCHER = "watch"
#: Seconds for which a file may be malformed before that is reported: some programs write slowly.
_PATIENCE = 3.0
#: Seconds after which a file that was refused is tried again: settings may have changed.
_RETRY = 600.0
#: Seconds to wait after a failure of the server, such as a full disk, at first and at most.
_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
#: Seconds after which the server counts as failing if the watcher is silent.
_SILENT = 600.0
#: Seconds for which removed files are remembered.
_REMEMBERED = 30 * 86400.0
#: Codes of errors that are not about the file.
_PASSING = frozenset(("database-busy", "disk-full", "cache-not-writable", "file-lock-failed", "rate-limited"))


class Watcher:
    """Watches the configured files and directories in a thread."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._files = Files(server.config.watch, server.journal.write)
        self._rows: dict[str, WatchedFile] = {}
        #: The files that wait for a name that another file has.
        self._blocked: dict[str, tuple[str, str]] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _tell(self, event: str, **fields: object) -> None:
        self._server.journal.write(event, **fields)

    def start(self) -> None:
        """Start to watch; returns at once."""
        if self._files.watches:
            self._thread = threading.Thread(target=self._run, name="cetool-watch", daemon=True)
            self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Stop watching; a file that is being submitted is finished first."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout)

    def _show_state(self) -> None:
        """Show what the watcher knows in the metrics, and that it works."""
        counts, rows = self._server.counts, [row for row in self._rows.values() if not row.is_removed]
        counts.beat("watching of files", _SILENT)
        counts.set("watched_files", len(rows))
        counts.set("watched_files_refused", sum(row.problem is not None for row in rows))
        counts.set("watched_paths_unreadable", len(self._files.problems))
        counts.set("watched_paths_polled", sum(self._files.polled.values()))

    def _run(self) -> None:
        pause, ready = _PAUSE, False
        while not self._stop.is_set():
            try:
                if not ready:
                    self._catch_up()
                    ready = True
                self._show_state()
                self._round()
                pause = _PAUSE
            except Exception as error:  # a thread that ended would watch nothing until the next restart
                if isinstance(error, CetoolError):
                    self._tell("watch-waits", reason=str(error), code=error.code, seconds=pause)
                else:
                    self._server.journal.defect(error, part="watch")
                self._stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        self._files.close()
        self._server.counts.rest("watching of files")

    def _catch_up(self) -> None:
        """Load what was known before the last stop, and note which files have been removed since."""
        with self._server.database.write() as tx:
            forget_removed_files(tx, _REMEMBERED)
            self._rows = {row.path: row for row in watched_files(tx)}
        self._files.look()
        strangers = []
        for path, row in self._rows.items():
            numbers = [number for number, watch in enumerate(self._files.watches) if _is_below(path, watch)]
            if not numbers:
                strangers.append(path)  # no longer configured
            elif path not in self._files.sightings and not self._files.problems.keys() & set(numbers):
                self._removed(row)
        for path in strangers:
            del self._rows[path]
        if strangers:
            with self._server.database.write() as tx:
                forget_watched_files(tx, strangers)

    def _round(self) -> None:
        for gone in self._files.look():
            row = self._rows.get(gone.path)
            if row is not None:
                self._removed(row)
            self._blocked.pop(gone.path, None)
        for path, (namespace, name) in list(self._blocked.items()):
            if self._owner(namespace, name, path) is None:
                del self._blocked[path]
                self._files.sightings[path].due = 0.0
        for sighting in self._files.due():
            if self._stop.is_set():
                return
            self._take(sighting)
        self._files.wait(self._stop)

    def _removed(self, row: WatchedFile) -> None:
        """Note that a file is gone; its environment stays."""
        if not row.is_removed:
            self._save(replace(row, problem=REMOVED))
            self._tell("watch-file-removed", **_about(row))

    def _take(self, sighting: Sighting) -> None:
        """Read a file, and submit its content unless that was built before."""
        watch = self._files.watches[sighting.watch]
        path, digest, name = sighting.path, None, None
        try:
            data = read_regular(path, _limit(path))
            if not self._files.is_unchanged(sighting):
                return  # it is being written
            digest = sha256_of(data)
            row = self._rows.get(path)
            if row is not None and row.sha256 == digest and row.namespace == watch.namespace and self._stands(row):
                sighting.due = None
                return
            text = decode(data, path)
            name = _name_in(text, path)
            self._claim(watch.namespace, name, path)
            self._submit(sighting, watch, name, text, digest)
        except FileNotFoundError:
            sighting.due = None  # the next scan finds that
        except OSError as error:
            self._refuse(sighting, watch, digest, CetoolError(f"cannot read it: {error.strerror or error}"))
        except CetoolError as error:
            if error.code in _PASSING:
                sighting.due = time.monotonic() + _LONGEST_PAUSE / 4
                self._tell("watch-waits", path=path, reason=str(error), code=error.code, seconds=_LONGEST_PAUSE / 4)
            elif error.code == "block-missing" and is_script(os.path.basename(path)):
                sighting.due = None  # a script that declares nothing
            else:
                self._refuse(sighting, watch, digest, error)

    def _stands(self, row: WatchedFile) -> bool:
        """Return whether what was built from this content still holds."""
        if row.problem is None:
            return True
        if not row.is_removed or row.name is None or self._owner(row.namespace, row.name, row.path) is not None:
            return False
        with self._server.database.read() as tx:
            exists = environments.find(tx, row.namespace, row.name) is not None
        if exists:
            self._save(replace(row, problem=None))
            self._tell("watch-file-returned", **_about(row))
        return exists

    def _owner(self, namespace: str, name: str, path: str) -> str | None:
        """Return the path of another file that defines this environment."""
        for row in self._rows.values():
            same = row.name == name and row.namespace == namespace and row.path != path
            if same and not row.is_removed and os.path.lexists(row.path):
                return row.path
        return None

    def _claim(self, namespace: str, name: str, path: str) -> None:
        """Raise CetoolError if another file defines this environment."""
        owner = self._owner(namespace, name, path)
        if owner is not None:
            self._blocked[path] = (namespace, name)
            raise CetoolError(
                f"{owner} also defines the environment {namespace}/{name}",
                code="conflict",
                hint="Change `name:` in one of the two files.",
            )

    def _submit(self, sighting: Sighting, watch: Watch, name: str, text: str, digest: str) -> None:
        path = sighting.path
        moved = self._moved(watch.namespace, name, digest)
        if moved is not None:  # a renamed file; what it defines is unchanged
            file = replace(moved, path=path, watch=str(watch.path), problem=None)
            with self._server.database.write() as tx:
                forget_watched_files(tx, [moved.path])
            del self._rows[moved.path]
            self._save(file)
            sighting.due = None
            self._tell("watch-file-renamed", before=moved.path, **_about(file))
            return
        submission = Submission(
            namespace=watch.namespace,
            name=name,
            kind="script" if is_script(os.path.basename(path)) else None,
            text=text,
            platforms=watch.platforms,
            profile=watch.profile,
            by=_principal(watch.namespace),
            origin="watch",
            filename=path,
        )
        result = submit(self._server, submission)
        before = self._rows.get(path)
        file = WatchedFile(path, str(watch.path), digest, watch.namespace, name, result.build_id)
        self._save(file)
        sighting.due = None
        other = None if before is None or before.name == name else before.name
        self._tell("watch-file-submitted", **_about(file), created=result.created, name_before=other)

    def _moved(self, namespace: str, name: str, digest: str) -> WatchedFile | None:
        """Return a file that is gone, and had this content and name."""
        for row in self._rows.values():
            same = row.sha256 == digest and row.name == name and row.namespace == namespace
            if same and row.problem in (None, REMOVED) and not os.path.lexists(row.path):
                with self._server.database.read() as tx:
                    return None if environments.find(tx, namespace, name) is None else row
        return None

    def _refuse(self, sighting: Sighting, watch: Watch, digest: str | None, error: CetoolError) -> None:
        """Report a file that cannot be built, once for each content; it may only be half-written."""
        now = time.monotonic()
        if now < sighting.since + _PATIENCE and sighting.path not in self._blocked:
            sighting.due = now + _PATIENCE / 6
            return
        sighting.due = now + _RETRY
        problem = str(error) if error.where is None else f"line {error.where.line}: {error.message}"
        before = self._rows.get(sighting.path)
        if before is not None and before.problem == problem and before.sha256 == digest:
            return
        name = None if before is None or sighting.path in self._blocked else before.name
        build_id = None if before is None else before.build_id
        file = WatchedFile(sighting.path, str(watch.path), digest, watch.namespace, name, build_id, problem)
        self._save(file)
        self._tell("watch-file-refused", **_about(file), reason=problem, code=error.code, hint=error.hint)

    def _save(self, file: WatchedFile) -> None:
        with self._server.database.write() as tx:
            save_watched_file(tx, file)
        self._rows[file.path] = file
        self._server.news.publish("events")


def _limit(path: str) -> int:
    return ENVIRONMENT_FILE if path.lower().endswith(ENVIRONMENT_SUFFIXES) else size_limit(path)


def _name_in(text: str, path: str) -> str:
    """Return the name of the environment that a file defines. Raises CetoolError for malformed YAML."""
    stem = os.path.splitext(os.path.basename(path))[0]
    if not path.lower().endswith(ENVIRONMENT_SUFFIXES):
        return stem
    root = parse_yaml(text, name=path, aliases=True)
    if root is None or root.kind == "nothing":
        raise CetoolError("the file is empty", code="environment-file-malformed", where=Location(path))
    named = root.as_mapping("the environment file").get("name")
    if named is None or named.kind == "nothing":
        return stem
    return named.text if named.kind == "number" else named.as_text("name").strip()


def _principal(namespace: str) -> Principal:
    """Return who asks: the operator, who configured the watch, for everything in its namespace."""
    return Principal(WATCHER, namespace=namespace, grants=(Grant(f"{namespace}/*", "admin"),), authenticated=True)


def _is_below(path: str, watch: Watch) -> bool:
    root = os.path.abspath(watch.path)
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def _about(file: WatchedFile) -> dict[str, object]:
    """Return the fields of a line in the log."""
    environment = f"{file.namespace}/{file.name}" if file.name else None
    return {"path": file.path, "environment": environment, "build": file.build_id}
