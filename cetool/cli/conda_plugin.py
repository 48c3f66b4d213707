"""Make ``conda execute`` and ``conda tmpenv`` commands of the conda in whose Python cetool is installed.

Until 26.1 conda ran any executable ``conda-NAME`` on the PATH as ``conda NAME``; since 26.3 it only asks its plugins.
conda imports this module at each start, so it imports nothing else of cetool before one of the commands is called.
Reference: https://docs.conda.io/projects/conda/en/stable/dev-guide/plugins/subcommands.html
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

# Only conda imports this module; with an older conda these imports fail, and conda skips the plugin.
from conda.plugins import hookimpl  # type: ignore[import-not-found]
from conda.plugins.types import CondaSubcommand  # type: ignore[import-not-found]


def _execute(arguments: tuple[str, ...]) -> int:
    return _become("execute_main", arguments)


def _tmpenv(arguments: tuple[str, ...]) -> int:
    return _become("tmpenv_main", arguments)


def _become(entry: str, arguments: tuple[str, ...]) -> int:
    """Run an entry point of cetool in a separate process, without conda, as conda ran executables."""
    from cetool.base.process import own_program

    argv = own_program(*arguments, entry=entry)
    if os.name == "nt":
        return subprocess.call(argv)
    sys.stdout.flush()
    os.execv(argv[0], argv)


@hookimpl  # type: ignore[untyped-decorator]
def conda_subcommands() -> Iterator[Any]:
    """Register the commands of conda-execute, which parse their own arguments."""
    for name, summary, action in (
        ("execute", "Execute a script in a temporary conda environment.", _execute),
        ("tmpenv", "Manage temporary conda environments.", _tmpenv),
    ):
        yield CondaSubcommand(name=name, summary=summary, action=action)
