"""Convert wheels from PyPI to conda packages.

They are downloaded once into a cache directory by pip and serve from there without a network ever after.
"""

from __future__ import annotations

import configparser
import email.parser
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.message import Message
from pathlib import Path

from support.archive import PLACEHOLDER, Entry, Package
from support.interpreter import current_subdir, site_packages

_SCRIPT = """\
#!{prefix}/bin/python
import sys

from {module} import {name}

if __name__ == "__main__":
    sys.exit({function}())
"""


#: The names of packages that conda-forge names differently from PyPI.
_CONDA_NAMES = {
    "jupyter-client": "jupyter_client",
    "jupyter-core": "jupyter_core",
    "prompt-toolkit": "prompt_toolkit",
    "ruamel-yaml": "ruamel.yaml",
}

#: Half the files of a notebook's dependencies: only completion at a prompt, or time zones, use them.
_LEFT_OUT = ("jedi/third_party/", "tzdata/zoneinfo/")


def download_wheels(requirements: tuple[str, ...], cache: Path) -> list[Path]:
    """Return one wheel for each requirement, without dependencies. Raises RuntimeError if pip cannot get it.

    The cache records the wheel of each requirement, so that the next call needs no request.
    """
    directory = cache / f"{sys.implementation.cache_tag}-{current_subdir()}"
    directory.mkdir(parents=True, exist_ok=True)
    notes = directory / "wheels.json"
    known: dict[str, str] = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else {}
    for requirement in requirements:
        if requirement not in known or not (directory / known[requirement]).exists():
            known[requirement] = _download(requirement, directory)
            notes.write_text(json.dumps(known, indent=1), encoding="utf-8")
    return [directory / known[requirement] for requirement in requirements]


def download_families(requirements: tuple[str, ...], cache: Path) -> list[Path]:
    """Return the wheels of each requirement and its dependencies, resolved together. Raises RuntimeError."""
    directory = cache / f"{sys.implementation.cache_tag}-{current_subdir()}"
    directory.mkdir(parents=True, exist_ok=True)
    notes = directory / "families.json"
    known: dict[str, list[str]] = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else {}
    for requirement in requirements:
        if requirement not in known or not all((directory / name).exists() for name in known[requirement]):
            known[requirement] = _fetch(requirement, directory)
            notes.write_text(json.dumps(known, indent=1), encoding="utf-8")
    return [directory / name for name in dict.fromkeys(name for each in requirements for name in known[each])]


def wheel_package(wheel: Path, siblings: frozenset[str] = frozenset()) -> Package:
    """Return the wheel as a conda package: ``noarch: python`` if it is pure, or for this platform and Python.

    It depends on those of its requirements that are among the ``siblings``, which it was resolved together with.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        dist_info = next(name.split("/")[0] for name in names if name.split("/")[0].endswith(".dist-info"))
        metadata = email.parser.Parser().parsestr(archive.read(f"{dist_info}/METADATA").decode())
        points = f"{dist_info}/entry_points.txt"
        scripts = _console_scripts(archive.read(points).decode() if points in names else "")
        pure = wheel.stem.endswith("-none-any")
        root = "site-packages" if pure else site_packages()
        entries = [_installed(name, archive.read(name), root) for name in names if not name.startswith(_LEFT_OUT)]
    entries.append(Entry(f"{root}/{dist_info}/INSTALLER", b"conda\n"))
    if not pure:
        entries += [_launcher(name, target) for name, target in scripts.items()]
    return Package(
        _conda_name(metadata["Name"]),
        metadata["Version"],
        entries=tuple(sorted(entries, key=lambda entry: entry.path)),
        depends=(_python_spec(metadata, pure, siblings), *_needed(metadata, siblings)),
        build="pyh_0" if pure else f"py{sys.version_info[0]}{sys.version_info[1]}_0",
        subdir="noarch" if pure else current_subdir(),
        noarch="python" if pure else None,
        entry_points=tuple(f"{name} = {target}" for name, target in scripts.items()) if pure else (),
    )


def _download(requirement: str, directory: Path) -> str:
    (name,) = _fetch(requirement, directory, "--no-deps")
    return name


def _fetch(requirement: str, directory: Path, *more: str) -> list[str]:
    """Download wheels with pip into the directory and return their names; only one with ``--no-deps``."""
    staging = directory / "staging"
    shutil.rmtree(staging, ignore_errors=True)
    options = ["--quiet", "--disable-pip-version-check", "--only-binary", ":all:", *more, "--dest", str(staging)]
    command = [*_pip(), "download", *options, requirement]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    found = sorted(staging.glob("*.whl")) if staging.is_dir() else []
    if done.returncode or not found or (more and len(found) != 1):
        raise RuntimeError(f"{' '.join(command)} brought {len(found)} wheels\n{done.stdout}{done.stderr}")
    for wheel in found:
        wheel.replace(directory / wheel.name)
    shutil.rmtree(staging)
    return [wheel.name for wheel in found]


def _pip() -> list[str]:
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    uv = shutil.which("uv")
    if uv is None:
        raise RuntimeError(f"{sys.executable} has no pip, and there is no uv on the PATH to get wheels from PyPI with")
    return [uv, "tool", "run", "--quiet", "--python", sys.executable, "pip"]


def _installed(name: str, data: bytes, root: str) -> Entry:
    """Return where a file of the wheel goes, including ``.data`` directories of the wheel standard."""
    top, _, rest = name.partition("/")
    if not top.endswith(".data"):
        return Entry(f"{root}/{name}", data)
    kind, _, rest = rest.partition("/")
    if kind == "scripts":
        placeholder = PLACEHOLDER if data.startswith(b"#!python") else None
        if placeholder:
            data = data.replace(b"#!python", f"#!{PLACEHOLDER}/bin/python".encode(), 1)
        return Entry(f"bin/{rest}", data, executable=True, placeholder=placeholder)
    where = {"purelib": f"{root}/", "platlib": f"{root}/", "data": "", "headers": "include/"}[kind]
    return Entry(where + rest, data)


def _console_scripts(text: str) -> dict[str, str]:
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return dict(parser["console_scripts"]) if parser.has_section("console_scripts") else {}


def _launcher(name: str, target: str) -> Entry:
    module, _, function = target.partition(":")
    first = function.split(".")[0]
    text = _SCRIPT.format(prefix=PLACEHOLDER, module=module, name=first, function=function)
    return Entry(f"bin/{name}", text.encode(), executable=True, placeholder=PLACEHOLDER)


def _conda_name(name: str) -> str:
    plain = re.sub(r"[-_.]+", "-", name).lower()
    return _CONDA_NAMES.get(plain, plain)


def _needed(metadata: Message, siblings: frozenset[str]) -> tuple[str, ...]:
    """Return the requirements that were resolved with this wheel: their versions match, so names are enough."""
    wanted = [text for text in metadata.get_all("Requires-Dist", []) if "extra ==" not in text]
    names = [_conda_name(re.split(r"[^A-Za-z0-9._-]", text, maxsplit=1)[0]) for text in wanted]
    return tuple(sorted({name for name in names if name in siblings}))


def _python_spec(metadata: Message, pure: bool, siblings: frozenset[str]) -> str:
    unconditional = [text for text in metadata.get_all("Requires-Dist", []) if ";" not in text]
    if unconditional and not siblings:
        raise RuntimeError(
            f"{metadata['Name']} needs {', '.join(unconditional)}: only wheels that need nothing will do"
        )
    if not pure:
        major, minor = sys.version_info[:2]
        return f"python >={major}.{minor},<{major}.{minor + 1}.0a0"
    return f"python {(metadata['Requires-Python'] or '>=3').replace(' ', '')}"


def wheel_packages(requirements: tuple[str, ...], cache: Path) -> Iterator[Package]:
    """Return the packages of these requirements."""
    return map(wheel_package, download_wheels(requirements, cache))


def family_packages(requirements: tuple[str, ...], cache: Path) -> Iterator[Package]:
    """Return the packages of these requirements and of all their dependencies."""
    wheels = download_families(requirements, cache)
    siblings = frozenset(_conda_name(wheel.name.split("-")[0]) for wheel in wheels)
    return (wheel_package(wheel, siblings) for wheel in wheels)
