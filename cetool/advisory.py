"""Advisory locks on open files: ``flock``, or what portalocker makes of it on Windows.

A lock belongs to an open file description, so that subprocesses that inherit the descriptor hold it as well.
"""

from __future__ import annotations

import sys

if sys.platform != "win32":  # portalocker takes longer to import than all that is done here
    import fcntl


def take(fd: int, *, shared: bool) -> bool:
    """Take the lock of an open file if it is free; whether it was. Raises OSError where there are no locks."""
    if sys.platform == "win32":
        import portalocker

        flags = portalocker.LockFlags.SHARED if shared else portalocker.LockFlags.EXCLUSIVE
        try:
            portalocker.lock(fd, flags | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.AlreadyLocked:
            return False
        except portalocker.LockException as error:
            raise OSError(str(error)) from error
        return True
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def share(fd: int) -> None:
    """Turn an exclusive lock into a shared one. The kernel does it in two steps: another may come between them."""
    if sys.platform == "win32":  # a region must be unlocked before it is locked in another manner
        import portalocker

        portalocker.unlock(fd)
        portalocker.lock(fd, portalocker.LockFlags.SHARED)
    else:
        fcntl.flock(fd, fcntl.LOCK_SH)
