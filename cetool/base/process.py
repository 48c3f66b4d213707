"""Handle processes: consent to start them, command lines of Pythons, running processes, panics of Rust libraries."""

from __future__ import annotations

import os
import site
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

from cetool.base.errors import EngineError

# --- consent ------------------------------------------------------------------------------------------------------

_KEY = object()


@final
class Consent:
    """The user agrees to what is about to be executed or fetched.

    Everything that starts an engine, an installer, a base's interpreter or the script requires one. Only the question
    about scripts from URLs creates it (:mod:`cetool.app.consent`).

    ``how`` is the reason: ``own`` if everything is the user's own, else ``asked``, ``--yes``, ``--sha256``, ``always``
    (the setting), ``before`` (a remembered answer) or ``unasked`` (conda-execute without a terminal).
    """

    __slots__ = ("how",)
    how: str

    def __init__(self, key: object, how: str) -> None:
        if key is not _KEY:
            raise TypeError("only cetool.app.consent creates a Consent")
        object.__setattr__(self, "how", how)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Consent cannot be changed: {name}")

    def __repr__(self) -> str:
        return f"Consent({self.how!r})"


def issue(how: str) -> Consent:
    """Return a consent; only for :mod:`cetool.app.consent`, which knows the answer, and for tests."""
    return Consent(_KEY, how)


# --- Pythons ------------------------------------------------------------------------------------------------------

#: Variables that would make a Python, or an engine written in Python, import the wrong code.
_ASTRAY = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONEXECUTABLE", "PYTHONSAFEPATH", "__PYVENV_LAUNCHER__")
#: With -c, an interpreter that is not isolated has the working directory first on its path.
_ENTRY = "import sys; sys.path = [entry for entry in sys.path if entry]; from {1} import {0}; {0}()"


def own_python() -> str:
    """Return the path of the Python that runs cetool, for programs that need one."""
    return sys.executable


def own_code(code: str, *arguments: str) -> list[str]:
    """Return the command that runs code in cetool's own Python with only the standard library."""
    return [sys.executable, "-I", "-S", "-c", code, *arguments]


def own_module(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of this installation of cetool."""
    return [sys.executable, "-I", "-m", module, *arguments]


def own_program(*arguments: str, entry: str = "main", module: str = "cetool.__main__") -> list[str]:
    """Return the command that runs cetool itself, by a function of one of its modules."""
    return [sys.executable, *_isolation(), "-c", _ENTRY.format(entry, module), *arguments]


def python_command(python: str | os.PathLike[str], *arguments: str) -> list[str]:
    """Return the command that runs the Python of an environment or another installation for cetool's purposes.

    It imports nothing from PYTHONPATH, the user's site-packages or the working directory, and writes no byte code into
    an installation that is not cetool's. It needs the variables of :func:`clean_environ`, which its child processes
    inherit.
    """
    return [os.fspath(python), "-I", "-B", *arguments]


def guarded_command(python: str | os.PathLike[str], *arguments: str) -> list[str]:
    """Return a command as :func:`python_command` does, for a base's Python that must see the overlay on PYTHONPATH.

    Start it in a directory that no other user can write to: with -c, Python looks for modules there first.
    """
    return [os.fspath(python), "-s", "-B", *arguments]


def clean_environ(environ: Mapping[str, str], *, drop: tuple[str, ...] | list[str] = ()) -> dict[str, str]:
    """Return the variables for an engine, an installer or a Python, without those in ``drop``.

    Nothing makes their Python import the wrong code, and it writes no byte code into an installation that is not
    cetool's.
    """
    clean = {name: value for name, value in environ.items() if name not in _ASTRAY and name not in drop}
    return {**clean, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1"}


def ask_version(argv: Sequence[str], environ: Mapping[str, str], *, timeout: float = 20.0) -> str:
    """Return what a program prints for ``--version``. Raises EngineError if it cannot run, fails or does not answer."""
    import subprocess

    command = [*argv, "--version"]
    try:
        done = subprocess.run(
            command, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        late = f"no answer within {timeout:g} seconds"
        reason = late if isinstance(error, subprocess.TimeoutExpired) else error.strerror
        raise EngineError(f"{argv[0]} cannot be used: {reason}", code="engine-not-working") from error
    text = done.stdout.decode(errors="replace").strip()
    if done.returncode != 0 or not text:
        words = (done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise EngineError(f"{argv[0]} cannot be used: `{argv[0]} --version` failed: {words}", code="engine-not-working")
    return text


def _isolation() -> tuple[str, ...]:
    """Return ``-I``, unless an isolated Python would miss cetool's installation: see ``cetool.__main__.isolate``."""
    home = str(Path(__file__).absolute().parents[2])
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if home in (entry and os.path.abspath(entry) for entry in named) and home not in site.getsitepackages():
        return ()
    if site.ENABLE_USER_SITE and home == site.getusersitepackages():
        return ("-E",)
    return ("-I",)


# --- processes by PID and start time, since PIDs are reused -------------------------------------------------------

_LINUX = os.path.isdir("/proc/self")


def start_time(pid: int) -> str:
    """Return when a process started, as a string to compare for equality; empty if the process does not exist.

    It is in clock ticks since boot on Linux, else in seconds since 1970. It stays the same through exec.
    """
    if _LINUX:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                data = file.read()
        except OSError:
            return ""
        fields = data[data.rindex(b")") + 2 :].split()
        # a zombie has ended; its parent has not collected its status yet
        return "" if fields[0] in (b"Z", b"X") else fields[19].decode()
    import psutil

    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return ""


def is_running(pid: int, start: str) -> bool:
    """Return whether the process with this PID is the one that started at this time."""
    return bool(start) and start_time(pid) == start


def running_processes() -> Iterator[tuple[int, str]]:
    """Yield the PID and start time of all visible processes."""
    for pid in _pids():
        start = start_time(pid)
        if start:
            yield pid, start


def processes_in(prefixes: Iterable[Path]) -> dict[Path, list[int]]:
    """Return the PIDs of processes that run a program below one of these prefixes, as far as they are visible.

    A file lock shows most uses of a prefix. This also finds daemons that have closed all inherited descriptors, the
    lock's among them.
    """
    parents: dict[str, str] = {}  # thousands of prefixes share one directory
    wanted: dict[str, Path] = {}
    for prefix in prefixes:
        parent, name = os.path.split(prefix)
        if parent not in parents:
            parents[parent] = os.path.realpath(parent)
        path = os.path.join(parents[parent], name)
        wanted[os.path.realpath(path) if os.path.islink(path) else path] = prefix
    found: dict[Path, list[int]] = {}
    for pid in _pids() if wanted else ():
        place = _program(pid)
        while len(place) > 1 and place != (above := os.path.dirname(place)):
            place = above
            if place in wanted:
                found.setdefault(wanted[place], []).append(pid)
    return found


def program_name(pid: int) -> str:
    """Return the name of the program that a process runs, empty if that is not visible."""
    return os.path.basename(_program(pid).removesuffix(" (deleted)"))


def is_in_environment_of_any(text: str) -> bool:
    """Return whether a visible process was started with this text in one of its variables.

    This finds processes started from a shell that entered an environment without a lock. Linux only; elsewhere False.
    """
    wanted = os.fsencode(text)
    own = os.getpid()
    for pid in _pids() if _LINUX else ():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                if pid != own and wanted in file.read():
                    return True
        except OSError:
            continue
    return False


def _pids() -> Iterable[int]:
    if _LINUX:
        return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]
    import psutil

    return psutil.pids()


def _program(pid: int) -> str:
    """Return the file that a process was started from; empty if that is not visible."""
    if _LINUX:
        try:
            return os.readlink(f"/proc/{pid}/exe")
        except OSError:
            return ""
    import psutil

    try:
        return psutil.Process(pid).exe()
    except (psutil.Error, OSError):
        return ""


# --- panics, which Rust prints and raises as exceptions that do not derive from Exception -------------------------

_lock = threading.Lock()
#: How many blocks have redirected standard error, and the descriptor of the original one.
_aside: list[int] = [0, -1]


def is_panic(error: BaseException) -> bool:
    """Return whether an exception is a panic of a Rust library."""
    return type(error).__name__ == "PanicException" and not isinstance(error, Exception)


def panic_text(error: BaseException) -> str:
    """Return a panic's message on one line."""
    return " ".join(str(error).split())[:300] or "without a reason"


@contextmanager
def stderr_to(descriptor: int | None) -> Iterator[None]:
    """Redirect what libraries print to standard error to another descriptor; discard it if that is None.

    Blocks of several threads may overlap; the first decides where the output goes. Code that has its own descriptor for
    standard error is not affected.
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
    """Redirect standard error and return a descriptor of the original one; -1 if that failed."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.flush()
    saved = opened = -1
    try:
        saved = os.dup(2)
        opened = os.open(os.devnull, os.O_WRONLY) if descriptor is None else descriptor
        os.dup2(opened, 2, inheritable=True)
    except OSError:  # it is closed, or no descriptor is left: then the output stays visible
        if saved >= 0:
            os.close(saved)
        saved = -1
    if descriptor is None and opened >= 0:
        os.close(opened)
    return saved
