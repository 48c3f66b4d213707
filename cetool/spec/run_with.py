"""With what a script runs where it does not say so itself: its shebang, else its suffix, else the shell."""

from __future__ import annotations

import os
import shlex

from cetool.errors import MetadataError
from cetool.spec.source import Script

#: Programs that would read the script's metadata in their turn: cetool and what it replaces.
SELF = frozenset({"conda", "conda-execute", "cetool", "cetool-run"})
#: Others that do so with PEP 723 metadata.
RUNNERS = SELF | {"uv", "uvx", "pixi", "pipx", "pdm", "hatch", "conda-exec", "conda-runx"}

_SUFFIXES: dict[str, tuple[str, ...]] = {
    ".py": ("python",),
    ".pyw": ("python",),
    ".r": ("Rscript",),
    ".jl": ("julia",),
    ".sh": ("bash",),
    ".bash": ("bash",),
    ".zsh": ("zsh",),
    ".ksh": ("ksh",),
    ".fish": ("fish",),
    ".js": ("node",),
    ".mjs": ("node",),
    ".cjs": ("node",),
    ".rb": ("ruby",),
    ".pl": ("perl",),
    ".lua": ("lua",),
    ".php": ("php",),
    ".tcl": ("tclsh",),
    ".awk": ("awk", "-f"),
    ".sed": ("sed", "-f"),
    ".ps1": ("pwsh", "-File"),
    ".nu": ("nu",),
    ".xsh": ("xonsh",),
    ".exs": ("elixir",),
    ".hs": ("runghc",),
    ".go": ("go", "run"),
    ".java": ("java",),
    ".m": ("octave",),
    ".rkt": ("racket",),
    ".gp": ("gnuplot",),
    ".mk": ("make", "-f"),
    ".smk": ("snakemake", "-s"),
    ".nf": ("nextflow", "run"),
}

# env's options that take the next word as their value
_ENV_VALUED = frozenset({"-u", "--unset", "-C", "--chdir", "-P", "-a", "--argv0"})


def default_run_with(script: Script) -> tuple[str, ...]:
    """The command for a script that names none: its shebang (unless that is cetool's own), its suffix, ``/bin/sh``.

    Raises MetadataError on Windows, which has no shell to fall back on.
    """
    command = shebang_command(script, SELF)
    return suffix_command(script) if command is None else command


def pep723_run_with(script: Script) -> tuple[str, ...]:
    """The same for a PEP 723 script, which is Python: its shebang unless a program like uv stands there, ``python``."""
    return shebang_command(script, RUNNERS) or ("python",)


def shebang_command(script: Script, ignored: frozenset[str]) -> tuple[str, ...] | None:
    """The words of the shebang; None where there is none, or where its program is one of ``ignored``."""
    first = script.text.split("\n", 1)[0]
    if not first.startswith("#!"):
        return None
    words = tuple(first[2:].split())
    if not words or _program(first[2:]) in ignored:
        return None
    if _basename(words[0]) != "env":
        return words
    rest = first[2:].strip()[len(words[0]) :].strip()
    if os.name == "nt":
        return tuple(_split(rest.removeprefix("-S"))) or None
    # -S splits one word by rules of its own: hand it over whole, as the kernel does
    return (words[0], rest) if rest.startswith(("-S", "-vS", "--split-string")) else words


def suffix_command(script: Script) -> tuple[str, ...]:
    """The command that the file's suffix stands for, ``/bin/sh`` for others. Raises MetadataError on Windows.

    A link without a suffix that means anything (``~/bin/report`` to ``report.py``) has that of the file it leads to.
    """
    for path in (os.fspath(script.path), os.path.realpath(script.path)):
        known = _SUFFIXES.get(os.path.splitext(path)[1].lower())
        if known is not None:
            return known
    if os.name == "nt":
        raise MetadataError(
            "nothing says with what to run this file", where=script.at(), hint="Add `run_with:` to its specification."
        )
    return ("/bin/sh",)


def _program(shebang: str) -> str:
    """The name of the program that a shebang starts, seen through env, without directories and ``.exe``."""
    words = _split(shebang)
    if not words:
        return ""
    if _basename(words[0]) != "env":
        return _basename(words[0])
    words = words[1:]
    while words:
        word = words.pop(0)
        if word in _ENV_VALUED:
            words = words[1:]
        elif word.startswith("--split-string="):
            words = _split(word.partition("=")[2]) + words
        elif word.startswith("-S") and len(word) > 2:
            words = _split(word[2:]) + words
        elif not word.startswith("-") and "=" not in word:
            return _basename(word)
    return ""


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _basename(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2].removesuffix(".exe")
