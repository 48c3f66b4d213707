"""What activation does to the variables of a process, as plain data and with almost no imports.

The warm path uses this module, so it must not import more than ``os`` (the module that reads JSON is imported only if
there is a JSON file). Prefixes are strings, environments are dictionaries of strings.
"""

# Annotations are evaluated or quoted, because `from __future__ import annotations` would be another import.
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ON_WINDOWS = os.name == "nt"
#: conda's value for a variable that was removed by ``conda env config vars unset``.
UNSET_MARKER = "***unset***"
#: Suffix of the files in ``activate.d`` for this system's shell.
SCRIPT_SUFFIX = ".bat" if ON_WINDOWS else ".sh"
#: Directories that stay on the PATH even if an outer environment contains them (CONDA_PREFIX=/usr/local).
_SYSTEM_DIRS = frozenset({"/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin"})
#: Belong to an outer Python or virtual environment; PYTHONPATH stays, as in ``conda run``.
_FOREIGN = ("PYTHONHOME", "VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "__PYVENV_LAUNCHER__")
_OUTER = ("CONDA_PROMPT_MODIFIER", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_SHLVL")
#: Path of the guard in an overlay: the only entry of PYTHONPATH that belongs to cetool.
OVERLAY_GUARD = "/lib/cetool-overlay"
#: How many runs of cetool contain this process, and how many may (by default 100, as in uv).
DEPTH = "CETOOL_RUN_RECURSION_DEPTH"
MOST_DEPTH = "CETOOL_RUN_MAX_RECURSION_DEPTH"
_OUTER_NUMBERED = ("CONDA_PREFIX", "CONDA_STACKED")


def caller_environ() -> dict[str, str]:
    """Return the environment as cetool's caller set it.

    In the C locale Python sets LC_CTYPE (PEP 538), which a script must not inherit. Only Linux shows the caller's
    value; elsewhere it stays.
    """
    environ = dict(os.environ)
    if environ.get("LC_CTYPE") in ("C.UTF-8", "C.utf8", "UTF-8"):
        try:
            with open("/proc/self/environ", "rb") as file:
                first = file.read()
        except OSError:
            return environ
        _, found, rest = (b"\0" + first).partition(b"\0LC_CTYPE=")
        if found:
            environ["LC_CTYPE"] = os.fsdecode(rest.partition(b"\0")[0])
        else:
            del environ["LC_CTYPE"]
    return environ


def count_run(environ: "dict[str, str]") -> bool:
    """Count a run in the variables for its program; return False if too many runs are nested."""
    depth = environ.get(DEPTH, "0")
    most = environ.get(MOST_DEPTH, "")
    depth = depth if _is_number(depth) else "0"
    environ[DEPTH] = str(int(depth) + 1)
    return int(depth) < (int(most) if _is_number(most) else 100)


def path_dirs(prefix: str) -> tuple[str, ...]:
    """Return the directories of an environment that belong on the PATH, in order."""
    if not ON_WINDOWS:
        return (prefix + "/bin",)
    library = os.path.join(prefix, "Library")
    msys = [
        name for name in ("ucrt64", "clang64", "mingw64", "clangarm64") if os.path.isdir(os.path.join(library, name))
    ]
    parts = [os.path.join(library, *rest) for rest in (*((name, "bin") for name in msys[:1]), ("mingw-w64", "bin"))]
    return (
        prefix,
        *parts,
        os.path.join(library, "usr", "bin"),
        os.path.join(library, "bin"),
        os.path.join(prefix, "Scripts"),
        os.path.join(prefix, "bin"),
    )


def scripts_in(prefix: str, folder: str) -> list[str]:
    """Return the scripts in ``etc/conda/<folder>`` (``activate.d``, ``deactivate.d``) for this system's shell."""
    directory = os.path.join(prefix, "etc", "conda", folder)
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return [os.path.join(directory, name) for name in sorted(names) if name.endswith(SCRIPT_SUFFIX)]


def variable_files(prefix: str) -> list[str]:
    """Return the JSON files with an environment's variables, in increasing precedence: packages', then conda's."""
    directory = os.path.join(prefix, "etc", "conda", "env_vars.d")
    try:
        files = [os.path.join(directory, name) for name in sorted(os.listdir(directory))]
    except OSError:
        files = []
    state = os.path.join(prefix, "conda-meta", "state")
    return [*files, state] if os.path.isfile(state) else files


def read_variables(file: str) -> dict[str, str | None]:
    """Return the variables in one of :func:`variable_files`; None stands for a variable that must not be set.

    Raises OSError, or ValueError if the file is malformed.
    """
    import json

    from cetool.base.limits import NOTE, read_json

    data = read_json(file, NOTE)
    if os.path.basename(file) == "state" and isinstance(data, dict):
        data = data.get("env_vars") or {}
    if not isinstance(data, dict):
        raise ValueError("not a JSON object of names and values")
    variables: dict[str, str | None] = {}
    for name, value in data.items():
        # PATH is reserved (conda ignores it too); the other names are not valid for variables
        if name and name != "PATH" and not any(c in name for c in "=\0"):
            text = value if isinstance(value, str) else None if value is None else json.dumps(value)
            variables[name] = None if text is None or text == UNSET_MARKER or "\0" in text else text
    return variables


def outer_levels(environ: "Mapping[str, str]") -> list[tuple[int, str, bool]]:
    """Return the environments that are active in ``environ``, innermost first: level, prefix, stacked on the next."""
    names = {name: name.removeprefix("CONDA_PREFIX_") for name in environ if name.startswith("CONDA_PREFIX_")}
    below = sorted(((int(number), name) for name, number in names.items() if _is_number(number)), reverse=True)
    shlvl = environ.get("CONDA_SHLVL", "").strip()
    level = int(shlvl) if _is_number(shlvl) else below[0][0] + 1 if below else 1
    levels = []
    if environ.get("CONDA_PREFIX"):  # pixi does not set CONDA_SHLVL
        level = max(level, 1)
        levels.append((level, environ["CONDA_PREFIX"], f"CONDA_STACKED_{level}" in environ))
    levels += [(at, environ[name], f"CONDA_STACKED_{at}" in environ) for at, name in below if environ[name]]
    return levels


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 5


def deactivated(base: "Mapping[str, str]") -> tuple[dict[str, str], tuple[str, ...]]:
    """Return ``base`` without its outer conda and virtual environments, and the deactivation scripts of the former.

    Like ``conda deactivate``: variables that an environment set get the value that conda kept for them, or are removed.
    Only scripts of environments that are in effect run: the innermost, and those that it is stacked on.
    """
    environ = dict(base)
    dirs: set[str] = set()
    scripts: list[str] = []
    in_force = True
    for level, prefix, stacked in outer_levels(base):
        dirs.update(map(_normal, path_dirs(prefix)))
        if in_force:
            scripts += reversed(scripts_in(prefix, "deactivate.d"))
        in_force = in_force and stacked
        for name in _outer_names(prefix):
            kept = base.get(f"__CONDA_SHLVL_{level - 1}_{name}")
            if kept:
                environ[name] = kept
            else:
                environ.pop(name, None)
    if base.get("VIRTUAL_ENV"):
        dirs.add(_normal(os.path.join(base["VIRTUAL_ENV"], "Scripts" if ON_WINDOWS else "bin")))
    for name in list(environ):
        stem, _, number = name.rpartition("_")
        numbered = stem in _OUTER_NUMBERED and _is_number(number)
        if numbered or name in _FOREIGN or name in _OUTER or name.startswith("__CONDA_SHLVL_"):
            del environ[name]
    dirs -= _SYSTEM_DIRS
    if OVERLAY_GUARD in base.get("PYTHONPATH", ""):
        parts = base["PYTHONPATH"].split(os.pathsep)
        dirs.update(_normal(part.removesuffix(OVERLAY_GUARD) + "/bin") for part in parts if _is_guard(part))
        environ["PYTHONPATH"] = os.pathsep.join(part for part in parts if not _is_guard(part))
        if not environ["PYTHONPATH"]:
            del environ["PYTHONPATH"]
    if "PATH" in base:
        parts = base["PATH"].split(os.pathsep)
        # an empty part means the working directory, and is deliberate
        environ["PATH"] = os.pathsep.join(part for part in parts if not part or _normal(part) not in dirs)
    return environ, tuple(scripts)


def _is_guard(entry: str) -> bool:
    return entry.endswith(OVERLAY_GUARD)


def _outer_names(prefix: str) -> "Iterator[str]":
    for file in variable_files(prefix):
        try:
            yield from read_variables(file)
        except (OSError, ValueError):  # another tool's environment: what it set is unknown
            continue


def _normal(path: str) -> str:
    return os.path.normcase(os.path.normpath(path))


def activated(
    prefix: str,
    path: tuple[str, ...],
    variables: tuple[tuple[str, str], ...],
    scripts: tuple[str, ...],
    base: "Mapping[str, str]",
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the environment of a process in ``prefix``, for a caller with the environment ``base``, and the shell's
    steps.

    A step is the absolute path of a script to source, or a setting ``NAME=value`` to export before the next step.
    Settings occur only around an outer environment's scripts, which must see their own CONDA_PREFIX and must not undo
    what this environment sets; without such scripts the dictionary is complete.
    """
    environ, endings = deactivated(base)
    kept = environ.get("PYTHONPATH")
    ours = (*variables, ("CONDA_PREFIX", prefix), ("CONDA_DEFAULT_ENV", prefix), ("CONDA_SHLVL", "1"))
    environ.update(ours)
    if kept and _is_guard(environ["PYTHONPATH"]):  # an overlay's entry comes first, and the others stay
        environ["PYTHONPATH"] += os.pathsep + kept
    environ["PATH"] = os.pathsep.join((*path, environ.get("PATH") or os.defpath))
    if not endings:
        return environ, scripts
    settings = tuple(f"{name}={environ[name]}" for name, _ in ours if name.isascii() and name.isidentifier())
    return environ, (f"CONDA_PREFIX={base.get('CONDA_PREFIX', '')}", *endings, *settings, *scripts)
