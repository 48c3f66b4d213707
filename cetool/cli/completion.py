"""For which shell ``--install-completion`` and ``--show-completion`` work, also where no shell is a parent process.

Typer looks for a shell among the parent processes, and finds none under cron, ``nohup`` or an IDE.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from cetool.base.errors import UsageError

OPTIONS = ("--install-completion", "--show-completion")
SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
#: Has Typer take the shell's name as the option's value.
_BY_NAME = "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"


def with_shell(words: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """The words with the shell's name behind the option, if they start with one of these options.

    The shell is the one that is named (``--install-completion zsh``), else the parent process, else ``SHELL``, else
    the user's login shell. Raises UsageError where none of these is a shell that can complete.
    """
    if not words or words[0].partition("=")[0] not in OPTIONS:
        return list(words)
    option, _, shell = words[0].partition("=")
    rest = list(words[1:])
    if not shell and rest and not rest[0].startswith("-"):
        shell = rest.pop(0)
    if not shell:
        found = (_parent(), environ.get("SHELL", ""), _login_shell())
        shell = next((name for each in found if (name := os.path.basename(each)) in SHELLS), "")
    if shell not in SHELLS:
        problem = f"{shell!r} is not a shell that completion works in" if shell else "the shell is not known"
        raise UsageError(problem, hint=f"Name it: cetool {option} bash (or {', '.join(SHELLS[1:])}).")
    os.environ[_BY_NAME] = "1"
    return [option, shell, *rest]


def _login_shell() -> str:
    """The path of the shell in the user's entry of the password database, empty where there is none."""
    if sys.platform == "win32":
        return ""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_shell
    except KeyError:
        return ""


def _parent() -> str:
    """The shell among the parent processes, empty where there is none."""
    import shellingham  # type: ignore[import-untyped]

    try:
        return str(shellingham.detect_shell()[0])
    except (shellingham.ShellDetectionFailure, OSError):
        return ""
