"""Replace this process by a program: the last thing that cetool does on POSIX systems.

The warm path uses this module, so it only imports ``os``, ``sys`` and the C module of ``signal``. It raises plain
OSErrors; :mod:`cetool.launch.process` turns them into messages.
"""

# Annotations are evaluated or quoted, because `from __future__ import annotations` would be another import.
import os
import sys

try:  # the C module: ``signal`` itself imports enum
    import _signal as signals  # type: ignore[import-not-found]
except ImportError:  # pragma: no cover - Python without it
    import signal as signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

#: Signals that Python ignores from its start, while programs expect the default.
IGNORED_BY_PYTHON = tuple(getattr(signals, name) for name in ("SIGPIPE", "SIGXFZ", "SIGXFSZ") if hasattr(signals, name))

# Both take steps, then "--", then the program and its arguments; see cetool.warm.environ.activated for steps. A failing
# script does not stop the run, like in `conda activate`; one that calls `exit` does, with a message. The scripts get no
# arguments, and shell options set by one do not reach the next.
_BASH = """\
set +peu
__cetool_args=("$@") __cetool_at=0
set --
trap 'printf "cetool: %s ended the shell that sourced it\\n" "${__cetool_args[__cetool_at]}" >&2; exit 125' EXIT
while [[ ${__cetool_args[__cetool_at]} != -- ]]; do
  case ${__cetool_args[__cetool_at]} in
  /*) if [[ -r ${__cetool_args[__cetool_at]} ]]; then . "${__cetool_args[__cetool_at]}" || :; fi ;;
  *) export "${__cetool_args[__cetool_at]}" ;;
  esac
  set +eu
  __cetool_at=$((__cetool_at + 1))
done
trap - EXIT
exec "${__cetool_args[@]:__cetool_at + 1}"
"""
# No arrays here: a function hides the arguments (in bash, variables that a script declares would be local to it).
_SH = """\
set +eu
__cetool_source() { command . "$__cetool_step" || :; }
trap 'printf "cetool: %s ended the shell that sourced it\\n" "$__cetool_step" >&2; exit 125' EXIT
while [ "$1" != -- ]; do
  __cetool_step=$1
  shift
  case $__cetool_step in
  /*) if [ -r "$__cetool_step" ]; then __cetool_source; fi ;;
  *) export "$__cetool_step" ;;
  esac
  set +eu
done
shift
unset __cetool_step
trap - EXIT
exec "$@"
"""


def find_shell(environ: "Mapping[str, str]") -> str:
    """Return the shell that sources activation scripts: bash, for which many are written, else ``/bin/sh``."""
    for folder in (environ.get("PATH") or os.defpath).split(os.pathsep):
        if folder.startswith("/"):
            shell = folder + "/bash"
            if os.access(shell, os.X_OK) and os.path.isfile(shell):
                return shell
    return "/bin/sh"


def sourcing_argv(shell: str, steps: "Sequence[str]", argv: "Sequence[str]") -> list[str]:
    """Return the command line of a shell that takes the steps and becomes ``argv``, whose first word is a path.

    Everything is passed as arguments: no text of the caller is read as shell code. Privileged mode keeps bash from
    reading BASH_ENV and from importing functions and options; they pass through to the program.
    """
    if shell.endswith("/bash"):
        return [shell, "-p", "-c", _BASH, "cetool", *steps, "--", *argv]
    return [shell, "-c", _SH, "cetool", *steps, "--", *argv]


def replace_process(
    program: str, argv: "Sequence[str]", environ: "Mapping[str, str]", steps: "Sequence[str]", keep: "Sequence[int]"
) -> "NoReturn":
    """Become ``program``, through a shell if there are steps to take first. Raises OSError or ValueError.

    Descriptors in ``keep`` stay open in the program. Signals that Python ignores are reset to their defaults; exec
    removes handlers, and what the caller ignored (nohup) stays ignored.
    """
    for descriptor in keep:
        os.set_inheritable(descriptor, True)
    if steps:
        shell = find_shell(environ)
        program, argv = shell, sourcing_argv(shell, steps, [program, *argv[1:]])
    flush_streams()
    before = [(number, signals.signal(number, signals.SIG_DFL)) for number in IGNORED_BY_PYTHON]
    try:
        os.execve(program, list(argv), environ)
    finally:  # only if exec failed
        for number, handler in before:
            signals.signal(number, handler)


def flush_streams() -> None:
    """Write out the buffers of the standard streams, which the next program does not have."""
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105 - contextlib would be another import
            stream.flush()
        except (OSError, ValueError, AttributeError):  # closed or without a reader: the program will find out
            pass
