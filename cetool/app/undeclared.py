"""Scripts without a block: the command line says what is in their environment."""

from __future__ import annotations

import os

from cetool.app.decision import Wish
from cetool.base.text import pattern
from cetool.declare.languages import POSIX_PROGRAMS, Language, language_in_text, language_of, languages_of_packages
from cetool.declare.match_specs import canonical_spec, spec_name
from cetool.declare.metadata import UNDECLARED, Choice, ScriptMetadata, choose_program, metadata_from_file
from cetool.declare.requirements import Requirements
from cetool.declare.source import Script, is_notebook

#: The package that runs a text without suffix and shebang, by the language that it is clearly in.
_BY_TEXT = {"Python": "python", "R": "r-base"}
#: Several statements of Python in one line, which no shell would take.
_ONE_LINE = pattern(r"(?:import [\w.]+(?: as \w+)?|from [\w.]+ import [\w., ]+)\s*;")


def undeclared_metadata(script: Script, wish: Wish) -> ScriptMetadata:
    """Return the metadata of a script without a block, for the packages, baselines or lock file of the wish.

    The interpreter of the script's language is among the requirements, as in the blocks that `cetool init` writes,
    unless ``--with`` names it or a lock file lists all packages. A Python script runs by the environment's python,
    whichever its shebang names.
    """
    language = language_of(script)
    more = () if wish.lock.file is not None else _interpreter(script, language, wish)
    own = Requirements(packages=more)
    if is_notebook(script):
        return metadata_from_file(script, own)._replace(dialect=UNDECLARED)
    needs = own.plus(Requirements(packages=_named(wish)))
    choice = _in_environment(choose_program(script, needs, python=language.is_python))
    return ScriptMetadata(UNDECLARED, str(script.path), None, own, None).run_by(choice)


def _interpreter(script: Script, language: Language, wish: Wish) -> tuple[str, ...]:
    """Return the package that runs the script's language, unless the wish has one."""
    written = "Python" if _ONE_LINE.match(script.text) else language_in_text(script.text)
    package = language.package or _BY_TEXT.get(written or "")
    named = list(map(spec_name, _named(wish)))
    if package is None or package in named or package in {each.package for each in languages_of_packages(named)}:
        return ()
    return (package,)


def _named(wish: Wish) -> tuple[str, ...]:
    """Return the match specs of ``--with`` in canonical form."""
    return tuple(canonical_spec(text, base_dir=os.getcwd()) for text in wish.extra)


def _in_environment(choice: Choice) -> Choice:
    """Replace the path of an interpreter that a shebang names by its name: the machine's own sees no packages."""
    if choice.by not in ("shebang", "dialect") or not choice.words:
        return choice
    path, *options = choice.words
    program = os.path.basename(path)
    return choice if program in POSIX_PROGRAMS else choice._replace(words=(program, *options))
