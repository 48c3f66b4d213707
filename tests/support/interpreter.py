"""Make the conda package ``python`` from the running interpreter.

It works for builds of python.org's source (pyenv, setup-python), uv's and Debian's, shared or static. Test suites, Tk
and the like stay out, as does what marks an interpreter as managed by a distribution.
"""

from __future__ import annotations

import os
import platform
import re
import site
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from support.archive import Entry, Package

#: ``3.11`` of the running interpreter.
SHORT_VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"

_LEFT_OUT = re.compile(
    r"(test|tests|idlelib|lib2to3|tkinter|turtledemo|pydoc_data|ensurepip|site-packages|dist-packages|__pycache__"
    r"|config-.*|EXTERNALLY-MANAGED|sitecustomize\.py|.*\.a)\Z"
)
# Debian: outside a venv, packages are installed below local/ and found in dist-packages
_DEBIAN_TEST = b'sys.base_prefix != sys.prefix or hasattr(sys, "real_prefix")'


def current_subdir() -> str:
    """Return conda's name of this platform (``linux-64``, ``osx-arm64``, ...). Raises RuntimeError if unknown."""
    machine = platform.machine().lower()
    names = {
        ("linux", "x86_64"): "linux-64",
        ("linux", "aarch64"): "linux-aarch64",
        ("linux", "ppc64le"): "linux-ppc64le",
        ("darwin", "x86_64"): "osx-64",
        ("darwin", "arm64"): "osx-arm64",
    }
    try:
        return names[sys.platform, machine]
    except KeyError:
        raise RuntimeError(f"the test channel cannot be built on {sys.platform} {machine}") from None


def python_executable() -> Path:
    """Return the interpreter itself, independent of the venv or link that it was started by."""
    return Path(os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable))


def site_packages() -> str:
    """Return the directory of packages in a prefix, relative to it."""
    scheme = sysconfig.get_path("purelib", "posix_prefix", {"base": "", "platbase": ""})
    return scheme.lstrip("/")


def python_package() -> Package:
    """Return the running interpreter as a package that works at any prefix."""
    entries = {entry.path: entry for entry in (*_standard_library(), *_programs(), *_shared_library())}
    for entry in _site_directories():
        entries[entry.path] = entry
    return Package(
        "python",
        platform.python_version().rstrip("+"),
        entries=tuple(entries[path] for path in sorted(entries)),
        build="0_test",
        subdir=current_subdir(),
        noarch=None,
        extra={"python_site_packages_path": site_packages()},
    )


def _site_directories() -> Iterator[Entry]:
    """Return site-packages, and what makes Debian's interpreter use it: its ``site`` module is frozen."""
    yield Entry(f"{site_packages()}/README.txt", b"Packages are installed here.\n")
    if any("dist-packages" in directory for directory in site.getsitepackages([sys.base_prefix])):
        code = f"import site, sys; site.addsitedir(sys.prefix + '/{site_packages()}')\n"
        yield Entry(f"lib/python{SHORT_VERSION}/dist-packages/site-packages.pth", code.encode())


def _programs() -> Iterator[Entry]:
    name = f"python{SHORT_VERSION}"
    yield Entry(f"bin/{name}", _relocated(python_executable().read_bytes()), executable=True)
    for link in ("python", f"python{sys.version_info[0]}"):
        yield Entry(f"bin/{link}", link=name)


def _relocated(program: bytes) -> bytes:
    """Return the program with the place of its libpython in an ELF RUNPATH made relative to itself."""
    library_dir = str(sysconfig.get_config_var("LIBDIR") or "").encode()
    relative = b"$ORIGIN/../lib"
    if not program.startswith(b"\x7fELF") or len(library_dir) < len(relative) or not _find_shared_library():
        return program
    return program.replace(library_dir + b"\0", relative.ljust(len(library_dir) + 1, b"\0"), 1)


def _find_shared_library() -> Path | None:
    name = sysconfig.get_config_var("INSTSONAME")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED") or not name:
        return None
    path = Path(str(sysconfig.get_config_var("LIBDIR")), str(name))
    # Debian's interpreter contains the library that it also ships: then its own bytes do not name it
    return path if path.is_file() and path.name.encode() in python_executable().read_bytes() else None


def _shared_library() -> Iterator[Entry]:
    path = _find_shared_library()
    if path is not None:
        yield Entry(f"lib/{path.name}", path.read_bytes(), executable=True)
        if path.name.endswith(".so.1.0"):
            yield Entry(f"lib/{path.name[: -len('.1.0')]}", link=path.name)


def _standard_library() -> Iterator[Entry]:
    base = {"base": "", "platbase": "", "installed_base": "", "installed_platbase": ""}
    for key in ("stdlib", "platstdlib"):
        source = Path(sysconfig.get_path(key))
        target = sysconfig.get_path(key, "posix_prefix", base).lstrip("/")
        for path in _files(source):
            relative = path.relative_to(source).as_posix()
            yield _library_entry(f"{target}/{relative}", path)


def _files(directory: Path) -> Iterator[Path]:
    for path in sorted(directory.iterdir()):
        if _LEFT_OUT.match(path.name):
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.is_file():
            yield path


def _library_entry(target: str, path: Path) -> Entry:
    data = path.read_bytes()
    if path.name == "sysconfig.py" or path.parent.name == "sysconfig":
        data = data.replace(_DEBIAN_TEST, b"True")
    placeholder = None
    # /usr as a placeholder would also hit /usr/bin/install and the like
    if path.name.startswith("_sysconfigdata") and len(sys.base_prefix) > 8 and sys.base_prefix.encode() in data:
        placeholder = sys.base_prefix
    return Entry(target, data, executable=os.access(path, os.X_OK), placeholder=placeholder)
