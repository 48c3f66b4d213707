"""Which engine serves on this machine: what is found, in which order, and why one is taken.

The order is mamba, micromamba, conda, then rattler, which is built in. Each of the others is looked for where its own
variable points (``MAMBA_EXE``, ``CONDA_EXE``), on the PATH, and in the usual places of installation.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import PathFinder
from pathlib import Path

from cetool.base.errors import EngineError, UsageError
from cetool.base.process import python_command
from cetool.base.values import Value
from cetool.engines.program import ProgramEngine, version_of
from cetool.engines.protocol import Engine, Found, root_of
from cetool.engines.rattler.engine import RattlerEngine

#: The engines' names in the order in which they are tried.
NAMES = ("mamba", "micromamba", "conda", "rattler")

#: What conda's own script has in it, or one that calls it; and how the binaries begin that micromamba and mamba 2 are.
_OWN_WORDS = (b"from conda.cli", b"-m conda ")
_BINARIES = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"MZ")
_VARIABLES = {"mamba": "MAMBA_EXE", "micromamba": "MAMBA_EXE", "conda": "CONDA_EXE"}
_WINDOWS = os.name == "nt"
_IN_HOME = ("miniforge3", "mambaforge", "miniconda3", "anaconda3", "micromamba", "mamba", ".local", "bin", "conda")
_ELSEWHERE = (
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
    """A file that could be the engine: ``argv`` starts it, ``problem`` says why it cannot.

    ``genuine``: it looks like what makes environments, and not like another program of the name.
    """

    argv: tuple[str, ...]
    how: str
    problem: str | None = None
    genuine: bool = False

    @property
    def path(self) -> str:
        return self.argv[0]


def find_engines(environ: Mapping[str, str], *, with_versions: bool = False) -> list[Found]:
    """Every engine, in order: where it was found and how, or why it does not serve.

    Looks at files only, unless ``with_versions`` asks each program for its version, which also unmasks those that
    merely bear the name.
    """
    return [_found(name, environ, with_versions) for name in NAMES]


def choose_engine(
    wanted: str | None, environ: Mapping[str, str], *, lock_dir: Path, cache_dir: Path, trusting: bool = True
) -> tuple[Engine, str]:
    """The engine that serves, ready to use, and a sentence on why it was taken.

    ``wanted`` is its name, or None for the first that is found and answers. ``lock_dir`` is where creations by conda
    take turns, ``cache_dir`` where the embedded engine keeps its packages. One that looks genuine need not answer,
    unless ``trusting`` is false: asking takes time, and that it works is seen soon enough. Raises UsageError for a name
    that there is not, and EngineError where the wanted engine is not found or does not answer.
    """
    if wanted is not None:
        name = _known(wanted)
        found = _found(name, environ, True, trusting=trusting)
        if found.problem is not None:
            raise EngineError(
                f"the engine {name} does not serve: {found.problem}",
                about=name,
                code="engine-missing",
                hint="Install it, set its variable (MAMBA_EXE, CONDA_EXE), or leave --engine and CETOOL_ENGINE out.",
            )
        engine = _engine(found, environ, lock_dir, cache_dir)
        return engine, f"{name} was asked for" + (f", and found at {found.path} ({found.how})" if found.path else "")
    passed_over: list[str] = []
    for name in NAMES:
        found = _found(name, environ, True, trusting=trusting)
        if found.problem is None:
            return _engine(found, environ, lock_dir, cache_dir), _reason(found, passed_over)
        if found.path is not None:
            passed_over.append(f"{found.path}: {found.problem}")
    raise EngineError(
        "no engine serves: there is no mamba, micromamba or conda, and py-rattler is not installed",
        code="engine-missing",
        hint="Install micromamba or Miniforge, or cetool with its dependencies (pip install --force-reinstall cetool).",
    )


def choose_anew(
    engine: Engine, wanted: str | None, environ: Mapping[str, str], *, lock_dir: Path, cache_dir: Path
) -> tuple[Engine, str] | None:
    """As :func:`choose_engine`, after one that was taken on trust has failed; None where it is what it was taken for.

    Raises EngineError where there is no other.
    """
    if not getattr(engine, "on_trust", False):
        return None
    try:
        _ = engine.version
    except EngineError:
        return choose_engine(wanted, environ, lock_dir=lock_dir, cache_dir=cache_dir, trusting=False)
    return None


def _reason(found: Found, passed_over: list[str]) -> str:
    if found.path is None:
        reason = "it is built in, and no mamba, micromamba or conda was found"
        if passed_over:
            reason = "it is built in, and no other engine serves"
    else:
        reason = f"it was found at {found.path} ({found.how})"
    return reason + (f"; passed over: {'; '.join(passed_over)}" if passed_over else "")


def _known(wanted: str) -> str:
    name = wanted.strip().lower()
    if name in NAMES:
        return name
    import difflib

    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.5)
    raise UsageError(
        f"there is no engine {wanted!r}",
        hint=(f"Did you mean {near[0]}? " if near else "") + f"Engines: {', '.join(NAMES)}.",
    )


def _engine(found: Found, environ: Mapping[str, str], lock_dir: Path, cache_dir: Path) -> Engine:
    if found.name == "rattler":
        return RattlerEngine(environ, cache_dir)
    argv = _argv(found)
    return ProgramEngine(found.name, argv, environ, lock_dir=lock_dir, version=found.version)


def _argv(found: Found) -> tuple[str, ...]:
    assert found.path is not None
    module = found.details.get("module")
    return tuple(python_command(found.path, "-m", module)) if module else (found.path,)


def _found(name: str, environ: Mapping[str, str], with_version: bool, *, trusting: bool = False) -> Found:
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
    variable = _VARIABLES[name]
    return Found(
        name,
        None,
        "not found",
        problem=f"it is not what {variable} names, not on the PATH, and in none of the usual places",
    )


def _recorded_version(found: Found) -> str | None:
    """The version that the installation's own package record tells, where the engine is a package in one."""
    assert found.path is not None
    try:
        names = os.listdir(root_of(found.path) / "conda-meta")
    except OSError:
        return None
    records = (name.removesuffix(".json").rsplit("-", 2) for name in names if name.endswith(".json"))
    versions = [record[1] for record in records if len(record) == 3 and record[0] == found.name]
    return versions[0] if len(versions) == 1 else None


def _with_version(found: Found, environ: Mapping[str, str]) -> Found:
    try:
        return found._replace(version=version_of(found.name, _argv(found), environ))
    except EngineError as error:
        return found._replace(problem=error.message)


def _embedded(with_version: bool) -> Found:
    if PathFinder.find_spec("rattler") is None:
        return Found("rattler", None, "built in", problem="py-rattler is not installed")
    if not with_version:
        return Found("rattler", None, "built in")
    try:
        import rattler  # it would be loaded next; the metadata of distributions take long to read
    except ImportError as error:
        return Found("rattler", None, "built in", problem=f"py-rattler does not load: {error}")
    return Found("rattler", None, "built in", version=str(rattler.__version__))


def _candidates(name: str, environ: Mapping[str, str]) -> Iterator[_Candidate]:
    """The files that could be the engine, best first."""
    variable = _VARIABLES[name]
    named = environ.get(variable)
    if named and Path(named).stem.lower() == name:
        if _is_program(Path(named)):
            yield _examined(name, Path(named), variable)
        else:
            yield _Candidate((named,), variable, f"{variable} names it, but it is no program")
    for entry in environ.get("PATH", os.defpath).split(os.pathsep):
        if os.path.isabs(entry):  # "" and "." would be the directory one happens to be in
            yield from _in(name, entry.rstrip(os.sep), "on the PATH")
    for root in _usual_roots(environ):
        for below in ("/condabin", "/bin", "/Scripts", "/Library/bin", ""):
            yield from _in(name, os.path.normpath(root + below), "in a usual place")


def _in(name: str, directory: str, how: str) -> Iterator[_Candidate]:
    for suffix in (".exe", ".bat") if _WINDOWS else ("",):
        path = f"{directory}{os.sep}{name}{suffix}"
        if os.access(path, os.X_OK) and _is_program(Path(path)):  # most are not there: the quick look first
            yield _examined(name, Path(path), how)


def _usual_roots(environ: Mapping[str, str]) -> Iterator[str]:
    for variable in ("MAMBA_ROOT_PREFIX", "CONDA_ROOT"):
        if environ.get(variable):
            yield environ[variable]
    home = environ.get("HOME") or environ.get("USERPROFILE")
    if home:
        yield from (os.path.join(home, name) for name in _IN_HOME)
    if sys.platform != "win32":
        yield from _ELSEWHERE


def _is_program(path: Path) -> bool:
    try:
        return path.is_file() and os.access(path, os.X_OK)
    except (OSError, ValueError):
        return False


def _examined(name: str, path: Path, how: str) -> _Candidate:
    """The candidate at a path, after a look at its first lines: what kind of script it is decides how to call it."""
    try:
        with path.open("rb") as file:
            start = file.read(2048)
    except OSError:
        start = b""
    if start.startswith(b"#!"):
        if b"pyenv" in start and b"exec" in start:
            return _Candidate((str(path),), how, "it is a pyenv shim, which works in some directories only")
        if name == "conda" and b"main_pip" in start:
            # Its own script would refuse: «Conda has not been initialized»
            python = path.with_name("python")
            if _is_program(python):
                return _Candidate(tuple(python_command(python, "-m", "conda")), how, genuine=True)
            return _Candidate((str(path),), how, "it was installed by pip and refuses to work from there")
    genuine = any(map(start.__contains__, _OWN_WORDS)) if name == "conda" else start.startswith(_BINARIES)
    return _Candidate((str(path),), how, genuine=genuine)
