"""What a script's suffix or shebang tells of its language: its comments, and the package that runs or compiles it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cetool.spec.source import Script

PYTHON = "python"


@dataclass(frozen=True)
class Language:
    """How a line comment starts, and the conda package without which a script is nothing; None where it is not known.

    ``name`` is ``python`` for Python, else the package or nothing.
    """

    comment: str
    package: str | None

    @property
    def is_python(self) -> bool:
        """Whether a PEP 723 block can stand in it."""
        return self.package == PYTHON


_UNKNOWN = Language("#", None)

_SUFFIXES: dict[str, Language] = {
    suffix: Language(comment, package)
    for comment, package, suffixes in (
        ("#", "python", ".py .pyw"),
        ("#", "r-base", ".r"),
        ("#", "julia", ".jl"),
        ("#", "bash", ".sh .bash"),
        ("#", "zsh", ".zsh"),
        ("#", "fish", ".fish"),
        ("#", "ruby", ".rb"),
        ("#", "perl", ".pl .pm"),
        ("#", "tk", ".tcl"),
        ("#", "gawk", ".awk"),
        ("#", "sed", ".sed"),
        ("#", "make", ".mk"),
        ("#", "powershell", ".ps1"),
        ("#", "nushell", ".nu"),
        ("#", "xonsh", ".xsh"),
        ("#", "elixir", ".exs .ex"),
        ("#", "gnuplot", ".gp .gnuplot"),
        ("#", "snakemake-minimal", ".smk"),
        ("#", "cmake", ".cmake"),
        ("//", "nodejs", ".js .mjs .cjs .ts"),
        ("//", "php", ".php"),
        ("//", "c-compiler", ".c .h"),
        ("//", "cxx-compiler", ".cc .cpp .cxx .hpp"),
        ("//", "go", ".go"),
        ("//", "openjdk", ".java"),
        ("//", "rust", ".rs"),
        ("//", "nextflow", ".nf"),
        ("//", "kotlin", ".kts"),
        ("//", None, ".cs .swift .scala .sc .dart .zig"),
        ("--", "lua", ".lua"),
        ("--", "ghc", ".hs"),
        ("--", None, ".sql .elm .adb .ads"),
        (";;", None, ".lisp .el .clj .scm .rkt"),
        ("%", "octave", ".m"),
        ("%", None, ".tex .erl .pro"),
        ("!", "fortran-compiler", ".f90 .f95 .f03 .f08"),
        ("'", None, ".vb .bas"),
    )
    for suffix in suffixes.split()
}

_PROGRAMS: dict[str, Language] = {
    program: _SUFFIXES[suffix]
    for program, suffix in (
        ("python", ".py"),
        ("pypy", ".py"),
        ("rscript", ".r"),
        ("r", ".r"),
        ("julia", ".jl"),
        ("bash", ".sh"),
        ("zsh", ".zsh"),
        ("fish", ".fish"),
        ("ruby", ".rb"),
        ("perl", ".pl"),
        ("tclsh", ".tcl"),
        ("gawk", ".awk"),
        ("awk", ".awk"),
        ("sed", ".sed"),
        ("make", ".mk"),
        ("pwsh", ".ps1"),
        ("nu", ".nu"),
        ("xonsh", ".xsh"),
        ("elixir", ".exs"),
        ("gnuplot", ".gp"),
        ("snakemake", ".smk"),
        ("node", ".js"),
        ("nodejs", ".js"),
        ("php", ".php"),
        ("go", ".go"),
        ("java", ".java"),
        ("nextflow", ".nf"),
        ("lua", ".lua"),
        ("runghc", ".hs"),
        ("octave", ".m"),
        ("racket", ".rkt"),
        ("guile", ".scm"),
    )
}

#: Programs whose packages are called otherwise, besides those of :data:`_PROGRAMS`.
_COMPILERS = {"cc": "c-compiler", "gcc": "gcc", "g++": "gxx", "clang": "clang", "gfortran": "gfortran", "cargo": "rust"}


def language_of(script: Script) -> Language:
    """The script's language: by its suffix, else by the program in its shebang; comments start with ``#`` in others."""
    known = _SUFFIXES.get(script.path.suffix.lower())
    if known is not None:
        return known
    first = script.text.split("\n", 1)[0]
    words = re.split(r"[\s/\\]+", first[2:]) if first.startswith("#!") else []
    return next((found for word in words if (found := language_of_program(word)) is not None), _UNKNOWN)


def language_of_program(program: str) -> Language | None:
    """The language of the scripts that a program runs, whatever directory and version its name has; None if unknown."""
    name = program.replace("\\", "/").rpartition("/")[2].removesuffix(".exe").lower()
    return _PROGRAMS.get(name) or _PROGRAMS.get(re.sub(r"[0-9.]+w?\Z", "", name))


def package_of_program(program: str) -> str | None:
    """The conda package that brings a program which runs or compiles scripts; None where that is not known."""
    name = program.rpartition("/")[2]
    language = language_of_program(name)
    return _COMPILERS.get(name) if language is None else language.package
