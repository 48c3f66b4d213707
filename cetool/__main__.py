"""The door: what the executables ``cetool``, ``conda-execute`` and ``conda-tmpenv`` go through."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn


def main() -> NoReturn:
    """``cetool``: obey the command line and end with its status."""

    def obey() -> int:
        from cetool.cli.app import run_app

        return run_app(sys.argv[1:])

    enter(obey)


def enter(obey: Callable[[], int]) -> NoReturn:
    """Run a command line to its end: errors become a paragraph on standard error, everything an exit status."""
    _leave(_status_of(obey))


def _status_of(obey: Callable[[], int]) -> int:
    try:
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # what the caller ignores (nohup) stays ignored
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _interrupt)
        return obey()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # whoever read standard output has left; as if by the signal that the interpreter ignores
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + 13
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except Exception as error:
        from cetool.cli.failure import tell

        return tell(error)


def _interrupt(number: int, frame: FrameType | None) -> None:
    from cetool.errors import Interrupted

    raise Interrupted(number)


def _leave(status: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    if "rattler" in sys.modules:
        # its threads outlive the interpreter, and can crash it on its way out
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
