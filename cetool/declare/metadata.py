"""Read what a script declares, in any dialect: the environment that it needs, and how it runs.

A script that names no program is run by that of its shebang, its suffix or its packages.
"""

from __future__ import annotations

import os
import re
import shlex
from importlib import import_module

from cetool.base.errors import MetadataError
from cetool.base.text import pattern
from cetool.base.urls import check_hosts
from cetool.base.values import Value
from cetool.declare.blocks import PEP723, find_block, near_miss, near_miss_advice, read_block
from cetool.declare.languages import (
    PYTHON,
    Language,
    language_in_text,
    language_of,
    language_of_suffix,
    languages_of_packages,
)
from cetool.declare.match_specs import spec_name
from cetool.declare.requirements import Requirements
from cetool.declare.source import Script, foreign_text, is_notebook, is_url

#: Programs that would read the script's metadata themselves, or run it in an environment of their own.
LAUNCHERS = frozenset(
    (
        *("cetool", "cetool-run", "cex", "ce", "conda", "conda-execute", "conda-exec", "conda-run", "conda-runx"),
        *("mamba", "micromamba", "pixi", "uv", "uvx", "pipx", "pdm", "hatch", "rye", "poetry", "pipenv", "pip-run"),
        *("fades", "viv", "juv", "marimo", "nox", "tox", "nix", "nix-shell", "guix", "devbox"),
    )
)
#: Those that are cetool, by any of its names.
_SELF = frozenset({"cetool", "cetool-run", "conda-execute"})
_PYTHON = pattern(r"(?:python|pypy)[0-9.]*w?\Z")
#: The packages of programs that run scripts clearly written in a language.
_JAVASCRIPT = ("nodejs", "deno", "bun")
_RUN_BY = {"Python": (PYTHON, "xonsh"), "R": ("r-base",), "JavaScript": _JAVASCRIPT, "TypeScript": _JAVASCRIPT}

#: The reason for a failed choice if there was nothing to choose from.
NO_INTERPRETER = "its packages include no interpreter"


class Choice(Value):
    """The program that runs a script."""

    #: The words of the command before the script's path; None if unknown.
    words: tuple[str, ...] | None
    #: ``declared`` (run_with), ``shebang``, ``dialect``, ``suffix``, ``packages``, ``shell`` (conda-execute's default)
    #: or ``nothing``.
    by: str
    #: Why nothing was chosen.
    reason: str = ""


def choose_program(script: Script, needs: Requirements, *, python: bool = False) -> Choice:
    """Choose the program of a script that names none; ``python`` says that its dialect implies Python (PEP 723).

    The order is: the shebang, unless it names a launcher such as cetool or uv; the suffix; the one interpreter among
    the packages. A shebang of conda-execute means ``/bin/sh``, as it did there.
    """
    if python:
        return _of_python(script)
    words = _shebang_words(script)
    if words is not None:
        return Choice(words, "shebang")
    known = _language_of_paths(script)
    if known is not None and known.command:
        return Choice(known.command, "suffix")
    if is_original(script):
        return shell_choice(script)
    return _of_packages(script, needs, known)


def shell_choice(script: Script) -> Choice:
    """Choose ``/bin/sh``, which conda-execute ran scripts with; nothing for a text clearly in another language."""
    other = language_in_text(script.text)
    if other is not None:
        return Choice(None, "nothing", f"it looks like {other}, which /bin/sh cannot run")
    if os.name == "nt":
        return Choice(None, "nothing", "Windows has no /bin/sh")
    return Choice(("/bin/sh",), "shell")


def not_chosen(script: Script, line: int | None, choice: Choice) -> MetadataError:
    """Return the error for a script without a program; ``line`` is that of its block."""
    reason = f": {choice.reason}" if choice.reason else ""
    hint = "Add `run_with: PROGRAM` to its block, as in `run_with: python`."
    if line is None:
        hint = "Name an interpreter, as in `--with python`, or give the script a shebang."
    return MetadataError(
        f"cannot tell which program runs this script{reason}",
        code="program-unnamed",
        where=script.at(line),
        hint=hint,
    )


def is_own_program(name: str) -> bool:
    """Return whether a program's name or path is cetool or one of its other names."""
    return _basename(name) in _SELF


def shebang_program(script: Script) -> str:
    """Return the name of the program in the script's shebang; empty if it has none."""
    return _program(_shebang(script))[0]


def _of_python(script: Script) -> Choice:
    """Choose python for a script whose dialect implies it, with the options of a shebang that names python."""
    words = _shebang_words(script)
    program, options = _program(_shebang(script))
    if words is None or not _PYTHON.match(program):
        return Choice((PYTHON,), "dialect")
    # the environment's python, even if the shebang names another version or implementation
    return Choice(words if program in (PYTHON, "python3") else (PYTHON, *options), "dialect")


def _of_packages(script: Script, needs: Requirements, known: Language | None) -> Choice:
    """Choose the one interpreter among the packages. ``known`` is the suffix's language, if no program runs it."""
    names = [spec_name(spec) for spec in needs.packages]
    if needs.overlay is not None:
        names += [spec_name(spec) for spec in needs.overlay.conda]
    if needs.pypi or (needs.overlay is not None and needs.overlay.entries):
        names.append(PYTHON)
    found = languages_of_packages(names)
    if not found:
        return Choice(None, "nothing", NO_INTERPRETER)
    if len(found) > 1:
        listed = ", ".join(str(language.package) for language in found)
        return Choice(None, "nothing", f"its packages include several interpreters ({listed})")
    (language,) = found
    if known is not None and known.package not in (language.package, "nodejs"):
        other = language_in_text(script.text)
        if other is not None and language.package not in _RUN_BY.get(other, ()):
            return Choice(None, "nothing", f"it looks like {other}, which {language.command[0]} cannot run")
    return Choice(language.command, "packages")


# options of env whose value is the next word
_ENV_VALUED = frozenset({"-u", "--unset", "-C", "--chdir", "-P", "-a", "--argv0"})
_SPLITS = pattern(r"-[iv0]*S")


def _shebang(script: Script) -> str:
    """Return the text after ``#!`` in the first line; empty if there is none."""
    first = script.text.split("\n", 1)[0]
    return first[2:].strip() if first.startswith("#!") else ""


def _shebang_words(script: Script) -> tuple[str, ...] | None:
    """Return the words of the shebang; None if there is none, or if it names a launcher."""
    shebang = _shebang(script)
    words = tuple(shebang.split())
    if not words or _program(shebang)[0] in LAUNCHERS:
        return None
    if _basename(words[0]) != "env":
        return words
    rest = shebang[len(words[0]) :].strip()
    if os.name == "nt":
        return tuple(_split(rest.removeprefix("-S"))) or None
    # -S splits one word by its own rules: pass it whole, as the kernel does
    return (words[0], rest) if rest.startswith(("-S", "-vS", "--split-string")) else words


def is_original(script: Script) -> bool:
    """Return whether the script's shebang names conda-execute, or ``conda execute``."""
    program, rest = _program(_shebang(script))
    return program == "conda-execute" or (program == "conda" and rest[:1] == ("execute",))


def _language_of_paths(script: Script) -> Language | None:
    """Return the language of the file's suffix or, for a link with an unknown suffix, of its target's."""
    paths = (os.fspath(script.path), os.path.realpath(script.path))
    found = (language_of_suffix(os.path.splitext(path)[1]) for path in paths)
    return next((known for known in found if known is not None), None)


def _program(shebang: str) -> tuple[str, tuple[str, ...]]:
    """Return the program that a shebang starts (through env, without directories and ``.exe``), and its other words."""
    words = _split(shebang)
    if not words:
        return "", ()
    if _basename(words[0]) != "env":
        return _basename(words[0]), tuple(words[1:])
    words = words[1:]
    while words:
        word = words.pop(0)
        if word in _ENV_VALUED:
            words = words[1:]
        elif word.startswith("--split-string="):
            words = _split(word.partition("=")[2]) + words
        elif _SPLITS.match(word) or word == "--split-string":
            text = word.partition("S")[2] if word.startswith("-") and not word.startswith("--") else ""
            words = (_split(text) if text else _split(words.pop(0)) if words else []) + words
        elif not word.startswith("-") and "=" not in word:
            return _basename(word), tuple(words)
    return "", ()


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _basename(path: str) -> str:
    return re.sub(r"\.(?:exe|cmd|bat)\Z", "", path.replace("\\", "/").rpartition("/")[2].lower())


#: The dialect of a script whose environment comes from an environment file.
ENVIRONMENT_FILE = "environment.yml"
#: The dialect of a script that declares nothing, whose environment the command line describes.
UNDECLARED = "none"
#: The reader of notebooks, imported only for them.
_NOTEBOOK = "cetool.declare.dialects.notebook"
_HOSTS = "In a password write %2F, %5C, %3F and %23 instead; remove a colon without a port."


class ScriptMetadata(Value):
    """What a script or notebook declares."""

    #: ``conda execute``, ``script`` (PEP 723), ``conda-script``, ``environment.yml`` or ``none``.
    dialect: str
    #: The absolute path of the script.
    path: str
    #: The first and last line of the block; None for an environment file.
    lines: tuple[int, int] | None
    requirements: Requirements
    #: The words of the command before the script's path. None with an entry point, and if unknown.
    run_with: tuple[str, ...] | None
    #: The command of conda-script, as written.
    entrypoint: str | None = None
    #: The number of the notebook's code cell that the lines refer to.
    cell: int | None = None
    #: The notebook's language, with a kernel among the requirements, and perhaps the kernel's name.
    language: str | None = None
    kernel: str | None = None
    #: How ``run_with`` was chosen, and why it was not: see :class:`~cetool.declare.metadata.Choice`.
    chosen: str = "declared"
    undecided: str = ""

    @property
    def choice(self) -> Choice:
        """The program that runs the script."""
        return Choice(self.run_with, self.chosen, self.undecided)

    def run_by(self, choice: Choice) -> ScriptMetadata:
        """Return the same with another program."""
        return self._replace(run_with=choice.words, chosen=choice.by, undecided=choice.reason)


def read_metadata(source: Script, platform: str | None = None) -> ScriptMetadata:
    """Read the metadata in a script's block, or in a notebook, for a platform (None: this one).

    Raises MetadataError, with file and line, if they are wrong.
    """
    with foreign_text(is_url(source.name)):
        metadata = _read_metadata(source, platform)
    try:
        for text in metadata.requirements.texts:
            if ":" in text:
                check_hosts(text)
    except ValueError as error:
        where = source.at(None if metadata.lines is None else metadata.lines[0])
        raise MetadataError(str(error), code="url-invalid", where=where, hint=_HOSTS) from None
    return metadata


def _read_metadata(source: Script, platform: str | None) -> ScriptMetadata:
    if is_notebook(source):
        found: ScriptMetadata = import_module(_NOTEBOOK).read_notebook_metadata(source, platform)
        return found
    block = find_block(source)
    if block is None:
        raise nothing_found(source)
    requirements, run_with, entrypoint = read_block(block, source, platform)
    if requirements.overlay is not None:
        requirements.refuse_packages(source.at(block.first))
    if requirements.environment is not None:
        requirements.refuse_more(source.at(block.first))
    lines = (block.first, block.last)
    metadata = ScriptMetadata(block.dialect, str(source.path), lines, requirements, run_with, entrypoint)
    if run_with is None and entrypoint is None:
        return metadata.run_by(choose_program(source, requirements, python=block.dialect == PEP723))
    return metadata


def metadata_from_file(source: Script, requirements: Requirements) -> ScriptMetadata:
    """Return the metadata of a script that declares no environment, with those of an environment file.

    Raises UsageError for a notebook that declares one.
    """
    if is_notebook(source):
        found: ScriptMetadata = import_module(_NOTEBOOK).notebook_in_file_environment(source, requirements)
        return found
    metadata = ScriptMetadata(ENVIRONMENT_FILE, str(source.path), None, requirements, None)
    return metadata.run_by(choose_program(source, requirements))


def nothing_found(source: Script) -> MetadataError:
    """Return the error for a script without a block, with a hint that shows a block and what works without one.

    If a line looks like a misspelt opening line, the error is about that line.
    """
    close = near_miss(source)
    if close is not None:
        problem, hint = near_miss_advice(source, close)
        where = source.at(close)
        return MetadataError(problem, code="block-missing", about=source.name, where=where, hint=hint)
    language = language_of(source)
    spec = "numpy" if language.is_python or language.package is None else "SPEC"
    ways = f"`--with {spec}` and `--env-file environment.yml` run it without one."
    if not (is_url(source.name) or source.name.startswith("<")):
        ways = f"`cetool add {shlex.quote(source.name)} {spec}` writes a block; {ways}"
    comment = language.comment
    block = f"{comment} conda execute\n{comment} env:\n{comment}  - {language.package or 'python'}"
    return MetadataError(
        f"{source.name} declares no environment",
        code="block-missing",
        about=source.name,
        hint=f"{ways}\nA block looks like this:\n{block}",
    )
