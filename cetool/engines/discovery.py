"""Find the engines on this machine, and the reasons why some cannot be used.

The order is mamba, micromamba, conda, then rattler, which is built in. The others are searched for where their
variables point (``MAMBA_EXE``, ``CONDA_EXE``), on the PATH, and in the usual installation directories.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path

from cetool.base.errors import EngineError
from cetool.base.process import ask_version, clean_environ, python_command
from cetool.base.text import pattern
from cetool.base.values import Value
from cetool.engines.protocol import Found, root_of

#: The engines' names in the order in which they are tried.
NAMES = ("mamba", "micromamba", "conda", "rattler")

#: Text in conda's script, or in one that calls it; and the first bytes of binaries, which micromamba and mamba 2 are.
_OWN_WORDS = (b"from conda.cli", b"-m conda ")
_BINARIES = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"MZ")
#: What each program prints for ``--version``, with the version in a group. PyPI has a test runner named mamba, at 0.11
#: since 2020. mamba 1 prints conda's version too.
_VERSIONS = {
    "conda": pattern(r"^conda (\d\S*)", re.MULTILINE),
    "mamba": pattern(r"^mamba (1\.\S*)|\A([2-9]\d*\.\d\S*)\s*\Z", re.MULTILINE),
    "micromamba": pattern(r"\A([1-9]\d*\.\d\S*)\s*\Z"),
}
#: Variables that would change the form in which programs print their versions.
_OTHER_FORMS = ("CONDA_JSON", "CONDA_QUIET", "MAMBA_JSON", "MAMBA_QUIET")
#: The variable that names the executable of each program.
VARIABLES = {"mamba": "MAMBA_EXE", "micromamba": "MAMBA_EXE", "conda": "CONDA_EXE"}
_WINDOWS = os.name == "nt"
_IN_HOME = ("miniforge3", "mambaforge", "miniconda3", "anaconda3", "micromamba", "mamba", ".local", "bin", "conda")
ELSEWHERE = (
    "/opt/conda",
    "/opt/miniforge3",
    "/opt/mambaforge",
    "/opt/miniconda3",
    "/opt/anaconda3",
    "/opt/homebrew",
    "/opt/homebrew/Caskroom/miniforge/base",
    "/opt/homebrew/Caskroom/miniconda/base",
    "/usr/local",
    "/usr/local/miniconda3",
    "/usr/local/Caskroom/miniconda/base",
    "/home/linuxbrew/.linuxbrew",
)


class _Candidate(Value):
    """A file that may be the engine."""

    #: The start of its command line.
    argv: tuple[str, ...]
    #: How it was found.
    how: str
    #: Why it cannot be used.
    problem: str | None = None
    #: Whether it looks like the engine and not like another program of the same name.
    genuine: bool = False

    @property
    def path(self) -> str:
        return self.argv[0]


def find_engines(environ: Mapping[str, str], *, with_versions: bool = False) -> list[Found]:
    """Return all engines in order: where and how each was found, or why it cannot be used.

    Only files are examined. With ``with_versions`` each program is asked for its version, which also detects other
    programs of the same name.
    """
    return [find_engine(name, environ, with_version=with_versions) for name in NAMES]


def command_of(found: Found) -> tuple[str, ...]:
    """Return the start of the engine's command line."""
    assert found.path is not None
    module = found.details.get("module")
    return tuple(python_command(found.path, "-m", module)) if module else (found.path,)


def find_engine(name: str, environ: Mapping[str, str], *, with_version: bool = False, trusting: bool = False) -> Found:
    """Find one engine. If ``trusting``, it is not asked for its version if it looks genuine or a record has it."""
    if name == "rattler":
        return _embedded(with_version)
    faulty: Found | None = None
    seen: set[str] = set()
    for candidate in _candidates(name, environ):
        if candidate.path in seen:
            continue
        seen.add(candidate.path)
        details = {"module": candidate.argv[-1]} if len(candidate.argv) > 1 else {}
        found = Found(name, candidate.path, candidate.how, problem=candidate.problem, details=details)
        if with_version and found.problem is None:
            recorded = _recorded_version(found) if trusting else None
            if recorded is not None:
                found = found._replace(version=recorded)
            elif not (trusting and candidate.genuine):
                found = _with_version(found, environ)
        if found.problem is None:
            return found
        faulty = faulty or found
    if faulty is not None:
        return faulty
    variable = VARIABLES[name]
    named = f"{variable} is {'' if environ.get(variable) else 'not '}set"
    if environ.get(variable):
        named = f"{variable} is set to {environ[variable]}"
    problem = f"{name} was not found ({named}, and {name} is not on the PATH or in a usual directory)"
    return Found(name, None, "not found", problem=problem)


def _recorded_version(found: Found) -> str | None:
    """Return the version in the installation's package record of the engine, None if there is no such record."""
    assert found.path is not None
    try:
        names = os.listdir(root_of(found.path) / "conda-meta")
    except OSError:
        return None
    records = (name.removesuffix(".json").rsplit("-", 2) for name in names if name.endswith(".json"))
    versions = [record[1] for record in records if len(record) == 3 and record[0] == found.name]
    return versions[0] if len(versions) == 1 else None


def version_of(name: str, executable: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """Return the version of a program of this name. Raises EngineError if it does not answer, or is another program."""
    text = ask_version(executable, clean_environ(environ, drop=_OTHER_FORMS))
    found = _VERSIONS[name].search(text)
    if found is None:
        raise EngineError(
            f"it is another program of the same name (its version is {text.splitlines()[0]!r})",
            code="engine-not-working",
        )
    return str(next(filter(None, found.groups())))


def _with_version(found: Found, environ: Mapping[str, str]) -> Found:
    try:
        return found._replace(version=version_of(found.name, command_of(found), environ))
    except EngineError as error:
        return found._replace(problem=error.message)


def _embedded(with_version: bool) -> Found:
    if PathFinder.find_spec("rattler") is None:
        return Found("rattler", None, "built in", problem="py-rattler is not installed")
    if not with_version:
        return Found("rattler", None, "built in")
    try:
        import rattler  # will be imported anyway; reading the distribution's metadata would take longer
    except ImportError as error:
        return Found("rattler", None, "built in", problem=f"py-rattler cannot be imported: {error}")
    return Found("rattler", None, "built in", version=str(rattler.__version__))


def _candidates(name: str, environ: Mapping[str, str]) -> Iterator[_Candidate]:
    """Yield the files that may be the engine, best first."""
    variable = VARIABLES[name]
    named = environ.get(variable)
    if named and Path(named).stem.lower() == name:
        if _is_program(Path(named)):
            yield _examined(name, Path(named), variable)
        else:
            yield _Candidate((named,), variable, "it is not an executable file")
    for entry in environ.get("PATH", os.defpath).split(os.pathsep):
        if os.path.isabs(entry):  # "" and "." would be the current directory
            yield from _in(name, entry.rstrip(os.sep), "on the PATH")
    for root in _usual_roots(environ):
        for below in ("/condabin", "/bin", "/Scripts", "/Library/bin", ""):
            yield from _in(name, os.path.normpath(root + below), "in a usual directory")


def _in(name: str, directory: str, how: str) -> Iterator[_Candidate]:
    for suffix in (".exe", ".bat") if _WINDOWS else ("",):
        path = f"{directory}{os.sep}{name}{suffix}"
        if os.access(path, os.X_OK) and _is_program(Path(path)):  # most do not exist: the fast check first
            yield _examined(name, Path(path), how)


def _usual_roots(environ: Mapping[str, str]) -> Iterator[str]:
    for variable in ("MAMBA_ROOT_PREFIX", "CONDA_ROOT"):
        if environ.get(variable):
            yield environ[variable]
    home = environ.get("HOME") or environ.get("USERPROFILE")
    if home:
        yield from (os.path.join(home, name) for name in _IN_HOME)
    if sys.platform != "win32":
        yield from ELSEWHERE


def _is_program(path: Path) -> bool:
    try:
        return path.is_file() and os.access(path, os.X_OK)
    except (OSError, ValueError):
        return False


def _examined(name: str, path: Path, how: str) -> _Candidate:
    """Return the candidate at a path; the kind of script, seen in its first lines, decides how to call it."""
    try:
        with path.open("rb") as file:
            start = file.read(2048)
    except OSError:
        start = b""
    if start.startswith(b"#!"):
        if b"pyenv" in start and b"exec" in start:
            return _Candidate((str(path),), how, "it is a pyenv shim, which works only in some directories")
        if name == "conda" and b"main_pip" in start:
            # the script itself would fail: «Conda has not been initialized»
            python = path.with_name("python")
            if _is_program(python):
                return _Candidate(tuple(python_command(python, "-m", "conda")), how, genuine=True)
            return _Candidate((str(path),), how, "it was installed by pip, which conda does not support")
    genuine = any(map(start.__contains__, _OWN_WORDS)) if name == "conda" else start.startswith(_BINARIES)
    return _Candidate((str(path),), how, genuine=genuine)
