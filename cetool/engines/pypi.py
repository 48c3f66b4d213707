"""Installs PyPI requirements into a finished conda prefix, by uv where it is found, else by the prefix's own pip.

The step is pinned to the prefix: no user site, no other environment, none of the options that would lead elsewhere.
Where packages come from (indexes, mirrors, certificates) stays as the user configured it. What conda put there is
pinned by a constraints file, so that the step fails rather than replacing it.
"""

from __future__ import annotations

import configparser
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cetool.engines.base import CreateRequest, Progress
from cetool.engines.subprocesses import Ended, Invocation, clean_environ, run_engine
from cetool.errors import EngineError
from cetool.spec.channels import redact
from cetool.spec.environment import PypiSettings

#: Options of pip that would install elsewhere, install something else, or write where nothing was asked for.
_PIP_ASTRAY = frozenset(
    (
        *("target", "prefix", "root", "user", "python", "require-virtualenv", "src", "log", "report", "dry-run"),
        *("requirement", "constraint", "build-constraint", "editable", "no-deps", "ignore-installed"),
        *("force-reinstall", "upgrade", "upgrade-strategy", "root-user-action"),
    )
)
#: The same of uv, and what chooses another environment.
_UV_ASTRAY = (
    *("UV_PROJECT_ENVIRONMENT", "UV_PROJECT", "UV_WORKING_DIR", "UV_WORKING_DIRECTORY", "UV_PYTHON"),
    *("UV_SYSTEM_PYTHON", "UV_TARGET", "UV_PREFIX", "UV_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE", "UV_EXCLUDE_NEWER"),
    *("UV_UPGRADE", "UV_REINSTALL", "UV_NO_DEPS", "UV_DRY_RUN", "UV_OFFLINE", "UV_LOG_CONTEXT", "RUST_LOG"),
)
_ELSEWHERE = ("VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYTHONUSERBASE")
_UV_CROSS = "\N{MULTIPLICATION SIGN}"
_UV_DRAWING = re.compile(rf"^[\s{_UV_CROSS}╰├│─▶╭·]+", re.MULTILINE)
#: The first pip that knows --uploaded-prior-to.
_PIP_WITH_DATES = 26


@dataclass(frozen=True)
class PypiRequest:
    """What is to be installed into ``prefix``, which has a python.

    ``requirements`` are canonical PEP 508 requirements; ``installer`` is ``auto``, ``uv`` or ``pip``; ``environ`` the
    user's environment; ``log``, ``inherit`` and ``stall_timeout`` are as in
    :class:`~cetool.engines.base.CreateRequest`.
    """

    prefix: Path
    requirements: tuple[str, ...]
    log: Path
    environ: Mapping[str, str]
    settings: PypiSettings = field(default_factory=PypiSettings)
    offline: bool = False
    installer: str = "auto"
    inherit: tuple[int, ...] = ()
    stall_timeout: float = 300.0


def find_uv(environ: Mapping[str, str]) -> Path | None:
    """The uv that serves: what ``UV`` names, the first on the PATH, the one installed beside cetool."""
    named = environ.get("UV")
    if named and Path(named).is_absolute() and os.access(named, os.X_OK):
        return Path(named)
    program = "uv.exe" if os.name == "nt" else "uv"
    found = shutil.which("uv", path=environ.get("PATH", os.defpath))
    if found:
        return Path(os.path.abspath(found))
    beside = Path(sys.prefix, "Scripts" if os.name == "nt" else "bin", program)
    return beside if os.access(beside, os.X_OK) else None


def needs_pip(environ: Mapping[str, str], installer: str) -> bool:
    """Whether ``pip`` has to be among the conda packages of an environment that gets PyPI packages."""
    return installer == "pip" or (installer == "auto" and find_uv(environ) is None)


def install_pypi(request: PypiRequest, progress: Progress) -> None:
    """Install the requirements. Raises EngineError when they cannot be had, or not beside what conda installed."""
    if not request.requirements:
        return
    for requirement in request.requirements:
        if requirement.lstrip().startswith("-") or any(ord(char) < 32 for char in requirement):
            raise EngineError(f"{redact(requirement)!r} is not a requirement")
    python = _python(request.prefix)
    uv = wanted_uv(request)
    installed = _installed(request.prefix)
    _refuse_conflicts(request.requirements, installed)
    count = len(request.requirements)
    progress.stage(f"Installing {count} PyPI package{'' if count == 1 else 's'}")
    with tempfile.TemporaryDirectory(prefix="pypi-", dir=request.log.parent) as directory:
        files = _write_files(Path(directory), request, installed)
        if uv is not None:
            progress.note(f"PyPI packages are installed by {uv}.")
            invocation = _uv(uv, python, files, request)
        else:
            progress.note("PyPI packages are installed by the environment's pip.")
            invocation = _pip(python, files, request, installed)
        ended = run_installer(invocation, request)
    if ended.status != 0:
        raise explain_failure(ended, request, installed, "uv" if uv is not None else "pip")


def wanted_uv(request: PypiRequest) -> Path | None:
    """The uv that is to install, None where that is pip's task. Raises EngineError where it must be uv and is not."""
    uv = None if request.installer == "pip" else find_uv(request.environ)
    if request.installer == "uv" and uv is None:
        raise EngineError(
            "uv was asked for to install PyPI packages, but it is not found",
            hint="Install uv (https://docs.astral.sh/uv/), or set pip-installer to auto or pip.",
        )
    return uv


def run_installer(invocation: Invocation, request: PypiRequest) -> Ended:
    """Run uv or pip to its end; what it prints is in the log."""
    return run_engine(invocation, _as_engine_request(request), _unheard)


def _unheard(*_: object) -> None:
    """What the installer prints is in the log, and told of when it fails."""


def _as_engine_request(request: PypiRequest) -> CreateRequest:
    return CreateRequest(
        prefix=request.prefix,
        packages=request.requirements,
        channels=(),
        log=request.log,
        offline=request.offline,
        stall_timeout=request.stall_timeout,
        inherit=request.inherit,
    )


def _python(prefix: Path) -> Path:
    python = prefix / "python.exe" if os.name == "nt" else prefix / "bin" / "python"
    if not os.access(python, os.X_OK):
        raise EngineError(
            "PyPI packages were asked for, but the environment has no python", hint="Add python to the conda packages."
        )
    return python


def _installed(prefix: Path) -> dict[str, str]:
    """The Python distributions that conda installed: normalised name to version."""
    from importlib.metadata import distributions

    places = [*prefix.glob("lib/python3*/site-packages"), prefix / "Lib" / "site-packages"]
    found: dict[str, str] = {}
    for distribution in distributions(path=[str(place) for place in places if place.is_dir()]):
        name, version = distribution.metadata["Name"], distribution.version
        if name and version:
            found[_normalised(name)] = version
    return found


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _refuse_conflicts(requirements: tuple[str, ...], installed: Mapping[str, str]) -> None:
    """Say at once what the installer would take long to say: that conda's package is another version."""
    from packaging.requirements import InvalidRequirement, Requirement

    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise EngineError(f"{redact(text)!r} is not a requirement: {redact(str(error)).splitlines()[0]}") from None
        version = installed.get(_normalised(requirement.name))
        if version is None or requirement.marker is not None or requirement.url is not None:
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            raise EngineError(
                f"the PyPI requirement {text!r} does not fit {requirement.name} {version}, which conda installed",
                hint=f"Ask for {requirement.name} among the conda packages only, or let the two agree.",
            )


@dataclass(frozen=True)
class Files:
    """The files that tell the installer what to do; they are readable by their owner only and gone afterwards."""

    directory: Path
    requirements: Path
    constraints: Path


def _write_files(directory: Path, request: PypiRequest, installed: Mapping[str, str]) -> Files:
    """Requirements and where they come from, in the format that pip and uv share: never on a command line."""
    lines = source_lines(request.settings)
    files = Files(directory, directory / "requirements.txt", directory / "constraints.txt")
    write_private(files.requirements, "\n".join([*lines, *request.requirements, ""]))
    write_private(files.constraints, "".join(f"{name}=={version}\n" for name, version in sorted(installed.items())))
    return files


def source_lines(settings: PypiSettings) -> list[str]:
    """The lines of a requirements file that say where packages come from. Raises EngineError for what is no place."""
    lines = []
    for option, values in (
        ("--index-url", [settings.index_url] if settings.index_url else []),
        ("--extra-index-url", settings.extra_index_urls),
        ("--find-links", settings.find_links),
    ):
        for value in values:
            if re.search(r"\s", value) or value.startswith("-"):
                raise EngineError(f"{redact(value)!r} is no place for packages", hint="A URL or a path without blanks.")
            lines.append(f"{option} {value}")
    return lines


def write_private(path: Path, text: str) -> None:
    """Write a new file that nobody else may read. Raises OSError where there is one."""
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text, encoding="utf-8")


def _environ(request: PypiRequest, *more: str) -> dict[str, str]:
    environ = clean_environ(request.environ, drop=(*_ELSEWHERE, *more))
    environ.update(PYTHONNOUSERSITE="1", NO_COLOR="1")
    return environ


def _uv(uv: Path, python: Path, files: Files, request: PypiRequest) -> Invocation:
    more = ("--constraint", str(files.constraints), "--requirement", str(files.requirements))
    return uv_install(uv, python, files.directory, request, more)


def uv_install(uv: Path, python: Path, directory: Path, request: PypiRequest, more: tuple[str, ...] = ()) -> Invocation:
    """``uv pip install`` for this python, with options besides those that the request stands for."""
    argv = [str(uv), "pip", "install", "--no-progress", "--break-system-packages", "--python", str(python)]
    # from another directory, so that no pyproject.toml or uv.toml of the project at hand has a say
    argv += ["--directory", str(directory), *more]
    if request.offline:
        argv.append("--offline")
    if request.settings.exclude_newer:
        argv.append(f"--exclude-newer={request.settings.exclude_newer}")
    return Invocation(tuple(argv), _environ(request, *_UV_ASTRAY), watched=(request.prefix,))


def _pip(python: Path, files: Files, request: PypiRequest, installed: Mapping[str, str]) -> Invocation:
    if "pip" not in installed:
        raise EngineError(
            "PyPI packages were asked for, but the environment has no pip and uv is not found",
            hint="Add pip to the conda packages, or install uv (https://docs.astral.sh/uv/).",
        )
    more = ("--constraint", str(files.constraints), "--requirement", str(files.requirements))
    command = (str(python), "-I", "-m", "pip")
    return pip_install(command, installed["pip"], files.directory, request, more)


def pip_install(
    command: tuple[str, ...], version: str, directory: Path, request: PypiRequest, more: tuple[str, ...] = ()
) -> Invocation:
    """``pip install`` by a pip of this version, with options besides those that the request stands for.

    Raises EngineError where that pip cannot do what is asked.
    """
    argv = [*command, "install", "--no-input", "--disable-pip-version-check", "--no-user"]
    argv += ["--progress-bar=off", "--no-warn-script-location", *more]
    if request.offline:
        argv.append("--no-index")
    if request.settings.exclude_newer:
        if int(re.split(r"\D", version)[0]) < _PIP_WITH_DATES:
            raise EngineError(
                f"exclude-newer needs uv, or pip {_PIP_WITH_DATES}; the environment has pip {version}",
                hint="Install uv (https://docs.astral.sh/uv/), or ask for a newer pip among the conda packages.",
            )
        argv.append(f"--uploaded-prior-to={request.settings.exclude_newer}")
    dropped = [name for name in request.environ if name.startswith("PIP_") and _option(name[4:]) in _PIP_ASTRAY]
    environ = _environ(request, *dropped)
    environ["PIP_CONFIG_FILE"] = str(_pip_config(directory, request.environ))
    # the prefix is ours, whatever an EXTERNALLY-MANAGED file in it says; older pips know no such option
    environ.update(PIP_BREAK_SYSTEM_PACKAGES="1", PIP_ROOT_USER_ACTION="ignore", PIP_REQUIRE_VIRTUALENV="0")
    return Invocation(tuple(argv), environ, watched=(request.prefix,))


def _option(key: str) -> str:
    return key.lower().replace("_", "-")


def _pip_config(directory: Path, environ: Mapping[str, str]) -> Path:
    """The user's pip configuration without the options that lead elsewhere; pip reads it in place of the user's."""
    home = environ.get("HOME") or environ.get("USERPROFILE") or ""
    config = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    files = [f"{home}/.pip/pip.conf", f"{config}/pip/pip.conf"]
    if sys.platform == "darwin":
        files.append(f"{home}/Library/Application Support/pip/pip.conf")
    if os.name == "nt":
        files = [f"{home}/pip/pip.ini", f"{environ.get('APPDATA', '')}/pip/pip.ini"]
    named = environ.get("PIP_CONFIG_FILE")
    parser = configparser.RawConfigParser()
    for name in [named] if named else files:
        try:
            parser.read(name, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError) as error:
            reason = redact(str(error)).splitlines()[0]
            raise EngineError(f"pip's configuration {name} cannot be read: {reason}") from None
    for section in parser.sections():
        for key in list(parser[section]):
            if _option(key) in _PIP_ASTRAY:
                parser.remove_option(section, key)
    path = directory / "pip.conf"
    text = io.StringIO()
    parser.write(text)
    write_private(path, text.getvalue())
    return path


def explain_failure(ended: Ended, request: PypiRequest, installed: Mapping[str, str], installer: str) -> EngineError:
    """What the installer (``uv`` or ``pip``) failed at, in a sentence; ``installed`` is what was to stay as it is."""
    if ended.status is None:
        return EngineError(f"{installer} was ended by signal {ended.signum}", log=str(request.log))
    reason = _uv_reason(ended.stderr.strip()) if installer == "uv" else _pip_reason(f"{ended.stdout}\n{ended.stderr}")
    hint = "Look at the log; it has everything that was printed."
    pinned = [name for name, version in installed.items() if f"{name}=={version}" in reason.lower()]
    if request.offline and re.search(r"network was disabled|offline|in the cache|No matching", reason, re.IGNORECASE):
        hint = "Run it once without --offline" + ("." if installer == "uv" else "; only uv can install from its cache.")
    elif pinned:
        hint = f"{', '.join(pinned)} came with conda and must stay: let the versions agree, or leave it to one of them."
    elif re.search(r"dns error|connect|failed to fetch|cannot be reached", reason, re.IGNORECASE):
        hint = "Check the network and the index; --offline works with what uv has cached."
    elif re.search(r"not found in the package registry|No matching distribution|is available|no versions? of", reason):
        hint = "Check the name and the versions; is it on another index?"
    return EngineError(f"the PyPI packages cannot be installed: {reason}", hint=hint, log=str(request.log))


#: The traceback of a package's own build, but for its last line, which says what went wrong in it.
_TRACEBACK = re.compile(
    r"(?:^[ \t]*\[std\w+\]\n)?^(?P<indent>[ \t]*)Traceback \(most recent call last\):\n(?:(?P=indent)[ \t]+.*\n)+",
    re.MULTILINE,
)
#: pip's newer errors: what happened follows a cross, the reason an arrow.
_PIP_CROSS = re.compile(rf"^{_UV_CROSS} (?P<what>.+)\n(?:.*\n)*?╰─> (?P<why>.+)$", re.MULTILINE)


def _uv_reason(text: str) -> str:
    """uv's error as one sentence: what follows its cross, without the drawing."""
    text = _TRACEBACK.sub("", text)
    start = max(text.find(_UV_CROSS), 0) or max(text.find("error: "), 0)
    sentence = " ".join(_UV_DRAWING.sub("", text[start:]).split())
    sentence = re.sub(r"^(error: )?No solution found when resolving dependencies:?( cause:)? |^error: ", "", sentence)
    sentence = re.sub(r", we can conclude that [^.]*unsatisfiable", "", sentence.split(" hint: ")[0])
    return _short(sentence.replace(" cause: ", ": "))


def _pip_reason(text: str) -> str:
    """pip's errors as one sentence; where it has several lines for one, the first says most."""
    conflict = re.search(r"The conflict is caused by:\n((?:    .*\n)+)", text)
    if conflict:
        return _short("; ".join(line.strip() for line in conflict[1].splitlines()))
    errors = [line.removeprefix("ERROR: ").strip() for line in text.splitlines() if line.startswith("ERROR: ")]
    if not errors and (told := _PIP_CROSS.search(text)):
        errors = [f"{told['what'].rstrip('.')}: {told['why']}"]
    errors = errors or [line.strip() for line in text.splitlines()[-1:]]
    trouble = re.search(r"WARNING: Retrying .* after connection broken by '(\w+)[^']*?(: [^':]+)?'", text)
    if built := _TRACEBACK.search(text):
        errors.append(text[built.end() :].partition("\n")[0].strip())
    if trouble and "from versions: none" in text:
        errors.insert(0, f"the index cannot be reached ({trouble[1]})")
    return _short("; ".join(dict.fromkeys(errors)))


def _short(sentence: str) -> str:
    sentence = sentence.strip().rstrip(".")
    return sentence if len(sentence) <= 600 else sentence[:597] + "..."
