"""Know the languages of scripts: suffixes, comments, the programs that run them, and the packages of these programs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from cetool.base.text import pattern
from cetool.base.values import Value
from cetool.declare.source import Script

PYTHON = "python"


class Language(Value):
    """A language of scripts."""

    #: The marker of a line comment.
    comment: str
    #: The conda package that runs or compiles scripts; None if unknown.
    package: str | None
    #: The words before the script's path; empty if no program runs such files directly.
    command: tuple[str, ...] = ()

    @property
    def is_python(self) -> bool:
        """Whether a script can have a PEP 723 block."""
        return self.package == PYTHON


_UNKNOWN = Language("#", None)

# comment, package, command, suffixes, programs that run such scripts
_TABLE: tuple[tuple[str, str | None, str, str, str], ...] = (
    ("#", "python", "python", ".py .pyw", "python pythonw pypy ipython"),
    ("#", "r-base", "Rscript", ".r", "rscript r littler"),
    ("#", "r-rmarkdown", "", ".rmd", ""),
    ("#", "quarto", "", ".qmd", ""),
    ("#", "julia", "julia", ".jl", "julia"),
    ("#", "bash", "bash", ".sh .bash", "bash"),
    ("#", "zsh", "zsh", ".zsh", "zsh"),
    ("#", "ksh", "ksh", ".ksh", "ksh"),
    ("#", "fish", "fish", ".fish", "fish"),
    ("#", "ruby", "ruby", ".rb", "ruby"),
    ("#", "perl", "perl", ".pl", "perl"),
    ("#", "perl", "", ".pm", ""),
    ("#", "tk", "tclsh", ".tcl", "tclsh wish"),
    ("#", "gawk", "awk -f", ".awk", "gawk awk"),
    ("#", "sed", "sed -f", ".sed", "sed"),
    ("#", "make", "make -f", ".mk", "make"),
    ("#", "powershell", "pwsh -File", ".ps1", "pwsh"),
    ("#", "nushell", "nu", ".nu", "nu"),
    ("#", "xonsh", "xonsh", ".xsh", "xonsh"),
    ("#", "elixir", "elixir", ".exs", "elixir"),
    ("#", "elixir", "", ".ex", ""),
    ("#", "gnuplot", "gnuplot", ".gp .gnuplot", "gnuplot"),
    ("#", "snakemake-minimal", "snakemake -s", ".smk", "snakemake"),
    ("#", "cmake", "cmake -P", ".cmake", ""),
    ("//", "nodejs", "node", ".js .mjs .cjs", "node nodejs"),
    ("//", "nodejs", "", ".ts", ""),
    ("//", "deno", "deno run", "", ""),
    ("//", "bun", "bun", "", ""),
    ("//", "php", "php", ".php", "php"),
    ("//", "c-compiler", "", ".c .h", ""),
    ("//", "cxx-compiler", "", ".cc .cpp .cxx .hpp", ""),
    ("//", "go", "go run", ".go", "go"),
    ("//", "openjdk", "java", ".java", "java"),
    ("//", "rust", "", ".rs", ""),
    ("//", "nextflow", "nextflow run", ".nf", "nextflow"),
    ("//", "kotlin", "", ".kts", ""),
    ("//", None, "", ".cs .swift .scala .sc .dart .zig", ""),
    ("--", "lua", "lua", ".lua", "lua"),
    ("--", "ghc", "runghc", ".hs", "runghc runhaskell"),
    ("--", None, "", ".sql .elm .adb .ads", ""),
    (";;", "racket", "racket", ".rkt", "racket"),
    (";;", "guile", "guile", ".scm", "guile"),
    (";;", None, "", ".lisp .el .clj", ""),
    ("%", "octave", "octave", ".m", "octave"),
    ("%", None, "", ".tex .erl .pro", ""),
    ("!", "fortran-compiler", "", ".f90 .f95 .f03 .f08", ""),
    ("'", None, "", ".vb .bas", ""),
)

_SUFFIXES: dict[str, Language] = {}
_PROGRAMS: dict[str, Language] = {}
#: By package, the languages whose scripts a program runs directly.
_RUNNABLE: dict[str, Language] = {}
for _comment, _package, _command, _suffixes, _programs in _TABLE:
    _language = Language(_comment, _package, tuple(_command.split()))
    _SUFFIXES.update(dict.fromkeys(_suffixes.split(), _language))
    _PROGRAMS.update(dict.fromkeys(_programs.split(), _language))
    if _package is not None and _command:
        _RUNNABLE[_package] = _language

#: More packages that bring the interpreter of a language, in addition to those of the table.
_ALSO = {
    **dict.fromkeys(("r", "r-essentials"), "r-base"),
    **dict.fromkeys(("pypy", "cpython", "anaconda", "miniconda"), "python"),
    **{"snakemake": "snakemake-minimal", "tcl": "tk"},
}
_PYPY = pattern(r"pypy[0-9.]*\Z")
#: Special-purpose programs that an environment often has next to the interpreter; they count only alone.
_TOOLS = frozenset({"gawk", "sed", "make", "gnuplot", "snakemake-minimal", "cmake", "nextflow", "tk"})
#: Packages whose programs accept only files with the right suffix.
_BY_SUFFIX_ONLY = frozenset({"go", "openjdk", "cmake"})

#: The package of a program, if it is not the language's package or has another name than the program.
_PACKAGES = {
    **dict.fromkeys(("c++", "g++"), "cxx-compiler"),
    **dict.fromkeys(("cc", "gcc"), "c-compiler"),
    **dict.fromkeys(("cargo", "rustc"), "rust"),
    **dict.fromkeys(("erl", "escript"), "erlang"),
    **dict.fromkeys(("npm", "npx"), "nodejs"),
    **{"clang++": "clangxx", "gfortran": "fortran-compiler", "javac": "openjdk", "jupyter": "jupyter_core"},
    **{"magick": "imagemagick", "psql": "postgresql", "sqlite3": "sqlite", "swipl": "swi-prolog"},
    **{name: name for name in ("bun", "clang", "cmake", "deno", "dotnet", "ghc", "git", "ksh", "ninja", "pkg-config")},
    **{name: name for name in ("ipython", "snakemake", "pypy", "zig", "littler", "tcsh", "dash")},
}

#: POSIX programs that every machine has, so that an environment does not need its own.
POSIX_PROGRAMS = frozenset({"sh", "bash", "dash", "awk", "sed", "make", "env"})


def language_of(script: Script) -> Language:
    """Return the script's language by its suffix, else by its shebang; unknown ones have comments with ``#``."""
    known = _SUFFIXES.get(script.path.suffix.lower())
    if known is not None:
        return known
    first = script.text.split("\n", 1)[0]
    words = re.split(r"[\s/\\]+", first[2:]) if first.startswith("#!") else []
    return next((found for word in words if (found := language_of_program(word)) is not None), _UNKNOWN)


def language_of_suffix(suffix: str) -> Language | None:
    """Return the language of files with this suffix (``.py``); None if unknown."""
    return _SUFFIXES.get(suffix.lower())


def language_of_program(program: str) -> Language | None:
    """Return the language whose scripts a program runs, with any directory and version; None if unknown."""
    name = program.replace("\\", "/").rpartition("/")[2].removesuffix(".exe").lower()
    return _PROGRAMS.get(name) or _PROGRAMS.get(re.sub(r"[0-9.]+w?\Z", "", name))


def package_of_program(program: str) -> str | None:
    """Return the conda package that brings a program; None if unknown."""
    name = program.replace("\\", "/").rpartition("/")[2].removesuffix(".exe")
    known = _PACKAGES.get(name) or _PACKAGES.get(re.sub(r"[0-9.]+\Z", "", name.lower()))
    if known is not None:
        return known
    language = language_of_program(name)
    return None if language is None else language.package


def languages_of_packages(names: Iterable[str]) -> tuple[Language, ...]:
    """Return the languages whose interpreters are among these packages, each once, in the table's order.

    R packages (``r-ggplot2``) imply R, and a tool such as make counts for itself, if there is no interpreter.
    """
    listed = [_ALSO.get(name, "python" if _PYPY.match(name) else name) for name in names]
    found = {name for name in listed if name in _RUNNABLE and name not in _BY_SUFFIX_ONLY}
    found = found - _TOOLS or found
    if not found and any(name.startswith(("r-", "bioconductor-")) for name in listed):
        found = {"r-base"}
    return tuple(language for name, language in _RUNNABLE.items() if name in found)


# Patterns of lines that are in one language and not in a shell's. Each is matched at the beginning of a line.
_NAME = r"[A-Za-z_]\w*"
_SIGNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("Python", pattern(r"[rRuUbB]?(?:\"\"\"|''')")),
    ("Python", pattern(rf"from \.*{_NAME}(?:\.{_NAME})* import \S|from \.+ import \S|@{_NAME}[\w.]*(?:\(.*\))?\s*$")),
    ("Python", pattern(rf"(?:async )?def {_NAME}\(.*:|class {_NAME}(?:\(.*\))?:|if __name__ == ")),
    ("Python", pattern(r"print\(\s*[^)\s]")),
    ("C or C++", pattern(r"#\s*include\s*[<\"]|int main\s*\(|using namespace |#pragma |template\s*<")),
    ("R", pattern(r"(?:suppressPackageStartupMessages|library|require|source)\(\s*[^)\s]|[A-Za-z.][\w.]* <- ")),
    (
        "JavaScript",
        pattern(r"(?:const|var) [\w{\[$].*=|let [\w{\[$]\S* = |import .* from ['\"]|import ['\"]|console\.log\("),
    ),
    (
        "JavaScript",
        pattern(r"(?:export )?(?:async )?function\s+\w+\s*\(\s*[^)\s].*\{|\"use strict\"|module\.exports\b"),
    ),
    ("TypeScript", pattern(r"(?:export )?(?:interface|enum|type) \w+ (?:=|\{)")),
    ("Rust", pattern(r"(?:pub )?fn \w+\s*[(<]|use (?:std|core|crate)::|(?:pub )?struct \w+")),
    ("Fortran", pattern(r"program \w+\s*$|implicit none\b", re.IGNORECASE)),
    ("Go", pattern(r"package \w+\s*$|func \w*\(")),
    ("Java", pattern(r"(?:public |final |abstract )+class |import (?:static )?java[\w.]*;|package [\w.]+;")),
    ("Julia", pattern(r"using [A-Z]\w*(?:[:,.].*)?$|println\(\s*[^)\s]")),
    ("Perl", pattern(r"use (?:strict|warnings|utf8|v?5[\w.]*|[A-Z]\w*(?:::\w+)+).*;|my [$@%]\w+|package [\w:]+;")),
    ("Ruby", pattern(r"require(?:_relative)? ['\"]|puts ['\"]|def \w+[!?]?\s*$|class [A-Z]\w*(?: < [\w:]+)?\s*$")),
    ("PHP", pattern(r"<\?php")),
    ("Lua", pattern(r"local (?:function )?\w+ (?:= |\()|local \w+ *= *require")),
    ("Haskell", pattern(r"module [A-Z][\w.]*.* where|main *:: *IO|import qualified |\{-#")),
    ("R Markdown", pattern(r"---\s*$|```\{")),
    ("XML or HTML", pattern(r"<(?:!DOCTYPE|\?xml|html)\b", re.IGNORECASE)),
)
_MODULE = rf"{_NAME}(?:\.{_NAME})*(?: as {_NAME})?"
_IMPORT = pattern(rf"import {_MODULE}(?:\s*,\s*{_MODULE})*\s*;?\s*(?:#.*)?$")
#: ImageMagick's ``import`` takes a picture of the screen.
_PICTURE = pattern(r"import \S+\.(?:png|jpe?g|gif|tiff?|bmp|webp|xwd|ppm|pdf|e?ps|svg|miff)\s*$", re.IGNORECASE)
_INCLUDE = pattern(r"#\s*include\s*[<\"][\w./+-]+[>\"]\s*(?:(?://|/\*).*)?$")
_OTHER_COMMENT = pattern(r"[ \t]*(//|--|;;?|%|!|')[ \t]*(?:conda execute:?|/// conda-script)[ \t]*$")
_MOST_LINES = 400


def language_in_text(text: str) -> str | None:
    """Return the language, as messages name it, of a text that is clearly not a shell script; None if it may be one.

    The first lines at the top level decide. Text after a here-document or an open quote is ignored: it may be a program
    in another language that a shell script contains.
    """
    for row in text.split("\n", _MOST_LINES)[:_MOST_LINES]:
        line = row.rstrip()
        if other := _OTHER_COMMENT.match(line):
            return f"a language whose comments start with {other[1]}"
        if _INCLUDE.match(line):
            return "C or C++"
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if _IMPORT.match(line) and not _PICTURE.match(line):
            return "Python"
        for name, sign in _SIGNS:
            if sign.match(line):
                return name
        if "<<" in line or line.endswith("\\") or line.count('"') % 2 or line.count("'") % 2 or line.count("`") % 2:
            return None
    return None
