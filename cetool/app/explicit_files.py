"""``--file`` with an ``@EXPLICIT`` file (CEP 23): an environment of exactly its packages, without a solver."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from cetool.app.locked import warn_of_missing_digests
from cetool.app.session import Session
from cetool.base.errors import LockError, UsageError
from cetool.base.limits import LOCK, read_regular
from cetool.base.text import printable
from cetool.declare.environment import EnvironmentSpec, Exact

_MARK = re.compile(rb"^[ \t]*@EXPLICIT[ \t]*\r?$", re.MULTILINE)


def is_explicit(path: Path) -> bool:
    """Whether a file has a line that says ``@EXPLICIT`` and nothing else; one that cannot be read has none."""
    try:
        return _MARK.search(read_regular(path, LOCK)) is not None
    except (OSError, ValueError):
        return False


def explicit_spec(
    files: Sequence[Path], others: bool, session: Session, *, exclude_newer: str | None = None
) -> EnvironmentSpec | None:
    """The request for exactly the packages of an ``@EXPLICIT`` file; None where none of the files is one.

    ``others`` says whether something else is asked for as well. Raises UsageError where the file does not stand alone,
    and CetoolError for what it may not say.
    """
    found = next((path for path in files if is_explicit(path)), None)
    if found is None:
        return None
    name = printable(str(found))
    if others or len(files) > 1:
        raise UsageError(
            f"{name} names all packages of an environment (@EXPLICIT), so nothing can be added to it",
            hint="Give it alone; --baseline FILE starts from such a list and adds to it.",
        )
    if exclude_newer is not None:
        raise UsageError(f"{name} names its packages exactly (@EXPLICIT): --exclude-newer does not change them")
    from cetool.lock.find import open_lock

    lock = open_lock(found, platform=session.platform)
    locked = lock.lock.platform(session.platform)
    if locked is None:
        there = ", ".join(each.platform for each in lock.lock.platforms)
        raise LockError(f"{name} is for {there}, and this machine is {session.platform}", code="lock-platform-missing")
    if not locked.conda:
        raise UsageError(f"{name} names no packages", hint="Write the URL of a package file a line, below @EXPLICIT.")
    warn_of_missing_digests(lock, locked, session)
    return EnvironmentSpec(Exact(locked.conda))
