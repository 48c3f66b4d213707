"""The door: what the executables ``cetool``, ``cex``, ``conda-execute`` and ``conda-tmpenv`` go through.

The warm path is tried before anything is imported; only what it leaves goes on to the command line proper.
"""

# Annotations are evaluated, or quoted, where `from __future__ import annotations` would be an import more.
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
    """Import from cetool's own installation only: take the working directory, PYTHONPATH and the user's site out.

    The executables that installers write start Python without ``-I``, so this comes first in each of them. It cannot
    undo what Python itself imports before (``sitecustomize``, ``.pth`` files), nor another ``cetool`` on PYTHONPATH.
    Where cetool itself was installed there (``pip install --user`` or ``--target``), so were its dependencies: those
    entries stay, but behind the standard library.
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
    if site is not None and (len(before) > 1 or home not in after):  # the script's directory is the first
        own = site.getsitepackages()
        named = [os.path.normpath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
        by_path = home in named and home not in own and home not in after
        # an entry that is on the path twice is so only once, at its first place
        kept = named if by_path else (*own, library, os.path.join(library, "lib-dynload"))
        at = next((n for n, entry in enumerate(after) if entry.endswith("-packages")), len(after))
        after[at:at] = [entry for entry in before if entry in kept and os.path.isabs(entry)]
        if home not in after:
            after.append(home)
    path[:] = after


def main() -> "NoReturn":
    """``cetool``: become the script that is named, or obey the command line and end with its status."""
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

        # imports make thousands of objects that stay: looking through them again and again takes long
        gc.set_threshold(50_000)
        # leaves out what reads other command lines; a notebook's options may stand after it
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
    """``cex``, which is short for ``cetool exec``."""
    isolate()
    _keep_clear_of_standard_streams()
    words = sys.argv[1:]
    _try_warm_tool(words)

    def obey() -> int:
        from cetool.cli.tools import cex

        return cex(words)

    enter(obey)


def execute_main() -> "NoReturn":
    """``conda-execute``, as conda-execute was called."""
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
    """``conda-tmpenv``, as conda-execute's other program was called."""
    isolate()
    _keep_clear_of_standard_streams()

    def obey() -> int:
        from cetool.cli.compat import tmpenv

        return tmpenv(sys.argv[1:])

    enter(obey)


def _script_in(words: list[str], start: int) -> int:
    """Where the script stands if no options but one on how much is said stand before it; else the end."""
    at = start + 1 if words[start : start + 1] and words[start] in (*QUIET, *VERBOSE) else start
    return len(words) if at < len(words) and words[at].startswith("-") else at


def _verbosity(words: list[str], at: int) -> str | None:
    before = words[at - 1] if at else ""
    return "quiet" if before in QUIET else "verbose" if before in VERBOSE else None


def _try_warm(words: list[str], at: int, original: bool = False) -> None:
    """Become the script at once if that can be; else return. Who asks what is done is told it by the cold path."""
    if at and words[at - 1] in VERBOSE:
        return
    try:
        from cetool.warm import launch

        launch(words[at], words[at + 1 :], original)
    except KeyboardInterrupt:
        os._exit(130)


def _try_warm_tool(words: list[str]) -> None:
    """Become the tool at once if that can be; else return."""
    try:
        from cetool.warm import launch_tool

        launch_tool(words)
    except KeyboardInterrupt:
        os._exit(130)


def enter(obey: "Callable[[], int]") -> "NoReturn":
    """Run a command line to its end: errors become a paragraph on standard error, everything an exit status."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it lasts as long as the process
    status = _status_of(obey)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = 128 + 13  # whoever read it has left: as if by the signal that the interpreter ignores
    except OSError as error:
        from cetool.base.errors import CetoolError
        from cetool.cli.failure import tell

        status = status or tell(CetoolError(f"what was to be printed could not be: {error.strerror}"))
    # Not by way of the interpreter's own end: py-rattler's threads outlive it, and can crash it; and what could not be
    # written would be tried, and told, once more.
    os._exit(status)


def _status_of(obey: "Callable[[], int]") -> int:
    import signal

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
        return 128 + 13
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # py-rattler's, see panics.py
            raise
        from cetool.cli.failure import tell

        return tell(error)


def _keep_clear_of_standard_streams() -> None:
    """Where the caller closed a standard stream, see that no file of ours gets its number, and with it its readers.

    What takes its place is closed again by exec: the script finds the stream as the caller left it.
    """
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        while os.open(os.devnull, os.O_RDWR) <= 2:
            pass


def _interrupt(number: int, frame: "FrameType | None") -> None:
    from cetool.base.errors import Interrupted

    raise Interrupted(number)


if __name__ == "__main__":
    main()
