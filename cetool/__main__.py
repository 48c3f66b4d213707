"""Entry points of the executables ``cetool``, ``cex``, ``conda-execute`` and ``conda-tmpenv``.

The warm path is tried before anything else is imported; the command line handles the rest.
"""

# Annotations are evaluated or quoted, because `from __future__ import annotations` would be another import.
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import NoReturn

QUIET = ("-q", "--quiet")
VERBOSE = ("-v", "--verbose")


def isolate() -> None:
    """Remove the working directory, PYTHONPATH and the user's site-packages, so that imports come from cetool's
    installation.

    The executables that installers write start Python without ``-I``, so each calls this first. It cannot undo what
    Python itself imports before (``sitecustomize``, ``.pth`` files), nor another ``cetool`` on PYTHONPATH. If cetool
    itself was installed there (``pip install --user`` or ``--target``), so were its dependencies: those entries stay,
    but after the standard library.
    """
    library = getattr(os, "__file__", None)
    if sys.flags.isolated or not library:
        return
    path, library = sys.path, os.path.dirname(library)
    major, minor = sys.version_info[:2]
    archive = os.path.join(os.path.dirname(library), f"python{major}{minor}.zip")
    start = archive if archive in path else library
    if start not in path:
        return
    before, after = path[: path.index(start)], path[path.index(start) :]
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    site = sys.modules.get("site")
    user = site.USER_SITE if site is not None and site.ENABLE_USER_SITE else None
    if site is not None and user in after:  # with what its .pth files added, which follows it
        at, others = after.index(user), site.getsitepackages()
        end = next((n for n in range(at, len(after)) if after[n] in others), len(after))
        if home not in after[at:end]:
            del after[at:end]
    if site is not None and (len(before) > 1 or home not in after):  # the script's directory is the first entry
        own = site.getsitepackages()
        named = [os.path.normpath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        by_path = home in named and home not in own and home not in after
        # an entry that is on the path twice only stays at its first place
        kept = named if by_path else (*own, library, os.path.join(library, "lib-dynload"))
        at = next((n for n, entry in enumerate(after) if entry.endswith("-packages")), len(after))
        after[at:at] = [entry for entry in before if entry in kept and os.path.isabs(entry)]
        if home not in after:
            after.append(home)
    path[:] = after


def main() -> "NoReturn":
    """Run ``cetool``: become the named script, or run the command line and exit with its status."""
    isolate()
    _keep_clear_of_standard_streams()
    words = sys.argv[1:]
    named = words[:1] == ["run"]
    at = _script_in(words, 1 if named else 0)
    from cetool.warm import COMMANDS

    plain = at < len(words) and (named or words[at] not in COMMANDS)
    if plain:
        _try_warm(words, at)
    elif words[:1] == ["exec"]:
        _try_warm_tool(words[1:])

    def obey() -> int:
        import gc

        # imports create thousands of lasting objects, and scanning them again and again is slow
        gc.set_threshold(50_000)
        # skips reading other command lines; the options of a notebook may follow its name
        if plain and not words[at].endswith(".ipynb"):
            gc.disable()
            from cetool.app.running import run
            from cetool.app.sources import open_source
            from cetool.app.starting import RunOptions
            from cetool.cli.voice import start

            world, voice = start({"verbosity": _verbosity(words, at)})
            source, world = open_source(words[at], world, voice)
            run(source, words[at + 1 :], RunOptions(), world, voice)
        from cetool.cli.app import run_app

        return run_app(words)

    enter(obey)


def exec_main() -> "NoReturn":
    """Run ``cex``, short for ``cetool exec``."""
    isolate()
    _keep_clear_of_standard_streams()
    words = sys.argv[1:]
    _try_warm_tool(words)

    def obey() -> int:
        from cetool.cli.tools import cex

        return cex(words)

    enter(obey)


def execute_main() -> "NoReturn":
    """Run ``conda-execute``, the command of conda-execute."""
    isolate()
    _keep_clear_of_standard_streams()
    words = sys.argv[1:]
    at = _script_in(words, 0)
    if at < len(words):
        _try_warm(words, at, original=True)

    def obey() -> int:
        from cetool.cli.compat import execute

        return execute(words)

    enter(obey)


def tmpenv_main() -> "NoReturn":
    """Run ``conda-tmpenv``, the other command of conda-execute."""
    isolate()
    _keep_clear_of_standard_streams()

    def obey() -> int:
        from cetool.cli.compat import tmpenv

        return tmpenv(sys.argv[1:])

    enter(obey)


def _script_in(words: list[str], start: int) -> int:
    """Return the index of the script if at most an option for verbosity precedes it; else the end."""
    at = start + 1 if words[start : start + 1] and words[start] in (*QUIET, *VERBOSE) else start
    return len(words) if at < len(words) and words[at].startswith("-") else at


def _verbosity(words: list[str], at: int) -> str | None:
    before = words[at - 1] if at else ""
    return "quiet" if before in QUIET else "verbose" if before in VERBOSE else None


def _try_warm(words: list[str], at: int, original: bool = False) -> None:
    """Become the script at once if possible; else return. With --verbose the cold path reports what is done."""
    if at and words[at - 1] in VERBOSE:
        return
    try:
        from cetool.warm import launch

        launch(words[at], words[at + 1 :], original)
    except KeyboardInterrupt:
        os._exit(130)


def _try_warm_tool(words: list[str]) -> None:
    """Become the tool at once if possible; else return."""
    try:
        from cetool.warm import launch_tool

        launch_tool(words)
    except KeyboardInterrupt:
        os._exit(130)


def enter(obey: "Callable[[], int]") -> "NoReturn":
    """Run a command line to its end: print errors on standard error, and exit with a status."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - stays open until the process ends
    status = _status_of(obey)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = 128 + 13  # the reader has gone: as if by the signal that Python ignores
    except OSError as error:
        from cetool.base.errors import CetoolError
        from cetool.cli.failure import tell

        status = status or tell(CetoolError(f"cannot write to standard output: {error.strerror}"))
    # Skip Python's own shutdown: py-rattler's threads outlive it and can crash it, and Python would try again to write
    # what could not be written, and report that again.
    os._exit(status)


def _status_of(obey: "Callable[[], int]") -> int:
    import signal

    try:
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            # a signal that the caller ignores (nohup) stays ignored
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _interrupt)
        return obey()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 128 + 13
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # py-rattler's, see panics.py
            raise
        from cetool.cli.failure import tell

        return tell(error)


def _keep_clear_of_standard_streams() -> None:
    """Reopen standard streams that the caller closed, so that no file of cetool gets their numbers and readers.

    exec closes the replacement again: the script finds the stream as the caller left it.
    """
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        while os.open(os.devnull, os.O_RDWR) <= 2:
            pass


def _interrupt(number: int, frame: "FrameType | None") -> None:
    from cetool.base.errors import Interrupted

    raise Interrupted(number)


if __name__ == "__main__":
    main()
