"""Receive the file system's events about directories, as far as it sends any (watchfiles)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from watchfiles.main import FileChange

#: Seconds between two attempts to receive events after the system refused.
_RETRY_EVENTS = 600.0
#: File systems that do not report changes made by other machines.
_WITHOUT_EVENTS = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smbfs", "smb2", "smb3", "afs", "ncpfs", "webdav", "davfs", "ceph", "glusterfs"),
        *("lustre", "gpfs", "beegfs", "orangefs", "pvfs2", "ocfs2", "gfs2", "9p", "virtiofs", "vboxsf", "drvfs"),
        *("prl_fs", "fakeowner", "osxfs", "fuse", "fuseblk", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.ceph"),
        *("fuse.rclone", "fuse.glusterfs", "fuse.vmhgfs-fuse", "fuse.osxfs", "fuse.grpcfuse"),
    )
)


class Tell(Protocol):
    """Writes an event to the server's journal."""

    def __call__(self, event: str, **fields: Any) -> None: ...


def has_no_events(path: Path) -> bool:
    """Return whether a path is on a file system that does not report all changes."""
    import psutil

    real, found, kind = os.path.realpath(path), "", ""
    try:
        for each in psutil.disk_partitions(all=True):
            # the last mount at a directory hides the earlier ones
            below = real == each.mountpoint or real.startswith(each.mountpoint.rstrip(os.sep) + os.sep)
            if below and len(each.mountpoint) >= len(found):
                found, kind = each.mountpoint, each.fstype.lower()
    except OSError:
        return False
    return kind in _WITHOUT_EVENTS


class Events:
    """The events of directories (not of those below them), as far as the system sends them."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._directories: set[str] = set()
        self._stop = threading.Event()
        self._changes: Generator[set[FileChange], None, None] | None = None
        self._refused_at: float | None = None

    @property
    def refused(self) -> bool:
        """Whether the system does not send events now, so that everything must be polled."""
        return self._refused_at is not None

    def receive_from(self, directories: set[str]) -> bool:
        """Receive the events of these directories; return whether that differs from before."""
        from watchfiles import watch  # imports anyio: only where something is watched

        retry = self._refused_at is not None and time.monotonic() >= self._refused_at + _RETRY_EVENTS
        if directories == self._directories and not retry:
            return False
        self.close()
        self._directories, self._refused_at = directories, None
        if not directories:
            return False
        changes = watch(
            *sorted(directories),
            watch_filter=None,
            debounce=400,
            step=50,
            rust_timeout=100,
            yield_on_timeout=True,
            raise_interrupt=False,
            recursive=False,
            force_polling=False,
            # if true, the limits of the system are ignored, too; the directories can be read, since they were
            ignore_permission_denied=False,
            stop_event=self._stop,
        )
        try:
            next(changes)  # makes the watches
            self._changes = changes
        except FileNotFoundError:  # removed since the scan: the next one finds that
            self._directories = set()
        except (OSError, RuntimeError) as error:
            self._refused_at = time.monotonic()
            hint = "On Linux, raise fs.inotify.max_user_watches and fs.inotify.max_user_instances."
            self._tell("watch-polls", directories=len(directories), reason=str(error), hint=hint)
        return True

    def wait(self, until: float, stop: threading.Event) -> set[str]:
        """Return the paths of the next events; none if the time is over or ``stop`` is set."""
        while not stop.is_set():
            if self._changes is None:
                left = until - time.monotonic()
                if left <= 0:
                    break
                stop.wait(min(left, 1.0))
                continue
            try:
                changes = next(self._changes, None)
            except (OSError, RuntimeError) as error:
                self._tell("watch-events-ended", reason=str(error))
                changes = None
            if changes is None:
                self.close()
                return {os.path.join(each, "") for each in self._directories} | self._directories
            if changes:
                return {path for _, path in changes}
            if time.monotonic() >= until:  # not earlier: events would never be seen where something is always due
                break
        return set()

    def close(self) -> None:
        """Receive no more events."""
        changes, self._changes = self._changes, None
        if changes is not None:
            changes.close()
        self._directories = set()
