"""Panics of py-rattler: Rust's way to say that a program has a defect.

A panic arrives as an exception that is no ``Exception``, after its text was printed to standard error by Rust itself.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_lock = threading.Lock()
#: How many blocks have standard error set aside, and the descriptor that leads to where it was.
_aside: list[int] = [0, -1]


def is_panic(error: BaseException) -> bool:
    """Whether an exception is a panic of a Rust library."""
    return type(error).__name__ == "PanicException" and not isinstance(error, Exception)


def panic_text(error: BaseException) -> str:
    """What a panic says, in one line."""
    return " ".join(str(error).split())[:300] or "it does not say why"


@contextmanager
def stderr_to(descriptor: int | None) -> Iterator[None]:
    """Have what libraries print to standard error go to another descriptor for a while; nowhere where that is None.

    Blocks of several threads may overlap; the first decides where it goes. What has a descriptor of its own for
    standard error writes there as before.
    """
    with _lock:
        if not _aside[0]:
            _aside[1] = _redirect(descriptor)
        _aside[0] += 1
    try:
        yield
    finally:
        with _lock:
            _aside[0] -= 1
            if not _aside[0] and _aside[1] >= 0:
                with suppress(OSError):
                    os.dup2(_aside[1], 2, inheritable=True)
                os.close(_aside[1])


def _redirect(descriptor: int | None) -> int:
    """A descriptor that leads to where standard error was; -1 where it could not be changed."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    saved = opened = -1
    try:
        saved = os.dup(2)
        opened = os.open(os.devnull, os.O_WRONLY) if descriptor is None else descriptor
        os.dup2(opened, 2, inheritable=True)
    except OSError:  # there is none, or no descriptor is left: then what is printed is seen
        if saved >= 0:
            os.close(saved)
        saved = -1
    if descriptor is None and opened >= 0:
        os.close(opened)
    return saved
