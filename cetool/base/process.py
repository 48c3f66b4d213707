"""Processes: consent to start them, command lines of Pythons, which processes run, and panics of Rust in this one."""

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

    Whatever starts an engine, an installer, a base's interpreter or the script itself wants one. The question about
    scripts from URLs is the only way to it (:mod:`cetool.app.consent`).

    ``how`` tells by what: ``own`` where all of it is the user's own, else ``asked``, ``--yes``, ``--sha256``,
    ``always`` (the setting), ``before`` (an answer that was kept) or ``unasked`` (conda-execute without a terminal).
    """

    __slots__ = ("how",)
    how: str

    def __init__(self, key: object, how: str) -> None:
        if key is not _KEY:
            raise TypeError("a consent comes from the question: cetool.app.consent")
        object.__setattr__(self, "how", how)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a consent cannot be changed: {name}")

    def __repr__(self) -> str:
        return f"Consent({self.how!r})"


def issue(how: str) -> Consent:
    """A consent, for :mod:`cetool.app.consent` alone (and for tests of what wants one): it knows the answer."""
    return Consent(_KEY, how)


# --- Pythons ------------------------------------------------------------------------------------------------------

#: Variables that would lead a Python astray, or the engines that are written in it.
_ASTRAY = ("PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONEXECUTABLE", "PYTHONSAFEPATH", "__PYVENV_LAUNCHER__")
#: With -c the working directory is in front of the path where the interpreter is not isolated.
_ENTRY = "import sys; sys.path = [entry for entry in sys.path if entry]; from {1} import {0}; {0}()"


def own_python() -> str:
    """The path of the Python that cetool runs on, for programs that are told which one to use."""
    return sys.executable


def own_code(code: str, *arguments: str) -> list[str]:
    """The command that runs code in cetool's own Python, with nothing but the standard library."""
    return [sys.executable, "-I", "-S", "-c", code, *arguments]


def own_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of cetool's own installation."""
    return [sys.executable, "-I", "-m", module, *arguments]


def own_program(*arguments: str, entry: str = "main", module: str = "cetool.__main__") -> list[str]:
    """The command that runs cetool itself, by a function of one of its modules."""
    return [sys.executable, *_isolation(), "-c", _ENTRY.format(entry, module), *arguments]


def python_command(python: str | os.PathLike[str], *arguments: str) -> list[str]:
    """The command that runs another installation's Python, or an environment's, for cetool's own purposes.

    It imports nothing that PYTHONPATH, the user's site-packages or the working directory offer, and writes no byte code
    into an installation that is not cetool's. Its variables have to be those of :func:`clean_environ`, which what it
    starts in its turn gets as well.
    """
    return [os.fspath(python), "-I", "-B", *arguments]


def guarded_command(python: str | os.PathLike[str], *arguments: str) -> list[str]:
    """As :func:`python_command`, for a base's Python that is to see the overlay that PYTHONPATH leads it to.

    It has to be started in a directory that nobody else can write to: with -c, modules are looked for there first.
    """
    return [os.fspath(python), "-s", "-B", *arguments]


def clean_environ(environ: Mapping[str, str], *, drop: tuple[str, ...] | list[str] = ()) -> dict[str, str]:
    """The variables for an engine, an installer or a Python: nothing leads their own Python astray, and no byte code
    is written into an installation that is not cetool's. The names in ``drop`` are taken out as well."""
    clean = {name: value for name, value in environ.items() if name not in _ASTRAY and name not in drop}
    return {**clean, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1"}


def ask_version(argv: Sequence[str], environ: Mapping[str, str], *, timeout: float = 20.0) -> str:
    """What a program prints for ``--version``. Raises EngineError where it cannot be run, fails or does not answer."""
    import subprocess

    command = [*argv, "--version"]
    try:
        done = subprocess.run(
            command, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = "it gives no answer" if isinstance(error, subprocess.TimeoutExpired) else error.strerror
        raise EngineError(f"{argv[0]} cannot be used: {reason}", code="engine-not-working") from error
    text = done.stdout.decode(errors="replace").strip()
    if done.returncode != 0 or not text:
        words = (done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise EngineError(
            f"{argv[0]} cannot be used: asked for its version, it answered: {words}", code="engine-not-working"
        )
    return text


def _isolation() -> tuple[str, ...]:
    """``-I``, unless cetool is installed where an isolated Python does not look: see ``cetool.__main__.isolate``."""
    home = str(Path(__file__).absolute().parents[2])
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if home in (entry and os.path.abspath(entry) for entry in named) and home not in site.getsitepackages():
        return ()
    if site.ENABLE_USER_SITE and home == site.getusersitepackages():
        return ("-E",)
    return ("-I",)


# --- processes by PID and start time, since PIDs are used again ---------------------------------------------------

_LINUX = os.path.isdir("/proc/self")


def start_time(pid: int) -> str:
    """When a process started, as text to compare for equality: clock ticks since boot on Linux, else seconds since
    1970.

    An empty text stands for a process that is not there. A process keeps it through exec.
    """
    if _LINUX:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                data = file.read()
        except OSError:
            return ""
        fields = data[data.rindex(b")") + 2 :].split()
        # a zombie has ended; only its parent has not looked yet
        return "" if fields[0] in (b"Z", b"X") else fields[19].decode()
    import psutil

    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return ""


def is_running(pid: int, start: str) -> bool:
    """Whether the process with this PID is the one that started then."""
    return bool(start) and start_time(pid) == start


def running_processes() -> Iterator[tuple[int, str]]:
    """All processes that can be seen, by PID and start time."""
    for pid in _pids():
        start = start_time(pid)
        if start:
            yield pid, start


def processes_in(prefixes: Iterable[Path]) -> dict[Path, list[int]]:
    """Return the PIDs of the processes whose program is below one of these prefixes, as far as they may be looked at.

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
    """Return the name of the program that a process runs, empty where that may not be known."""
    return os.path.basename(_program(pid).removesuffix(" (deleted)"))


def is_in_environment_of_any(text: str) -> bool:
    """Whether a process that may be looked at was started with this text in one of its variables.

    That is how what was started from a shell is known, which took up an environment without a lock. Linux alone tells;
    elsewhere it is False.
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
    """The file that a process was started from; empty where that may not be known."""
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


# --- panics, which Rust prints and raises as exceptions that are no Exception -------------------------------------

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
