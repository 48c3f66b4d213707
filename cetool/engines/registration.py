"""Takes an environment out of ``~/.conda/environments.txt``, conda's list of all environments of a user.

Ours are not to be in it, and micromamba puts every one in. Others append to that file without any lock while it is
being rewritten, so it is replaced by renaming, and what was appended to the old file meanwhile is carried over.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from cetool.base.limits import SETTINGS, read_regular


def registry_path(environ: Mapping[str, str]) -> Path | None:
    """The user's ``environments.txt``; None where there is no home."""
    home = environ.get("HOME") or environ.get("USERPROFILE")
    try:
        return Path(home or Path.home(), ".conda", "environments.txt")
    except RuntimeError:
        return None


def forget_registration(prefix: Path, environ: Mapping[str, str]) -> bool:
    """Take the prefix's line out; say whether there was one.

    Every other line stays as it is, byte for byte. A file that would be empty is removed, and its directory if nothing
    else is in it. A registry that cannot be read or written is left alone: the entry then points at what is gone sooner
    or later, which conda clears by itself.
    """
    registry = registry_path(environ)
    if registry is None:
        return False
    ours = {os.fsencode(prefix), os.fsencode(os.path.realpath(prefix))}
    found = False
    try:
        # Another round where something was written while we wrote: it could have been the same line.
        while _has_line(registry, ours):
            found = True
            with _locked(Path(os.path.realpath(registry))) as file:
                _rewrite(file, Path(os.path.realpath(registry)), ours)
    except OSError:
        return found
    if found:
        with contextlib.suppress(OSError):
            registry.parent.rmdir()
    return found


def _has_line(registry: Path, ours: set[bytes]) -> bool:
    try:
        return any(_is_ours(line, ours) for line in read_regular(registry, SETTINGS).splitlines())
    except FileNotFoundError:
        return False


def _is_ours(line: bytes, ours: set[bytes]) -> bool:
    return line.strip().rstrip(b"/\\") in ours


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[IO[bytes]]:
    """The file opened and locked against other cetools; the lock is on the file that bears the name now."""
    import portalocker  # takes long, and a line of ours is there after micromamba only

    while True:
        with path.open("r+b") as file:
            portalocker.lock(file, portalocker.LockFlags.EXCLUSIVE)
            try:
                current = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except FileNotFoundError:
                current = False
            if current:
                yield file
                return
            if not path.exists():
                raise FileNotFoundError(path)


def _rewrite(file: IO[bytes], path: Path, ours: set[bytes]) -> None:
    kept = _without(file.read(), ours)
    if kept:
        _replace(path, kept, os.fstat(file.fileno()).st_mode & 0o7777)
    else:
        path.unlink()
    late = _without(file.read(), ours)  # appended by someone who had the old file open
    if late:
        with path.open("ab") as new:
            new.write(late)


def _without(content: bytes, ours: set[bytes]) -> bytes:
    return b"".join(line for line in content.splitlines(keepends=True) if not _is_ours(line, ours))


def _replace(path: Path, content: bytes, mode: int) -> None:
    import tempfile

    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
