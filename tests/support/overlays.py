"""For tests of overlays: bases, hand-made wheels, and the exact state of a directory."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import uv

from cetool.engines.protocol import SilentProgress
from cetool.engines.rattler.engine import RattlerEngine
from support.channel import Channel
from support.requests import HOLD, request_for


def make_wheel(
    directory: Path,
    name: str,
    version: str,
    requires: Iterable[str] = (),
    *,
    files: Mapping[str, str | bytes] | None = None,
    scripts: Mapping[str, str] | None = None,
) -> Path:
    """Return a wheel of a module that knows its ``version``, or of these files; ``scripts`` are its entry points."""
    directory.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    content: dict[str, str | bytes] = dict(files or {f"{name}.py": f"version = {version!r}\n"})
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    content[f"{info}/METADATA"] = metadata + "".join(f"Requires-Dist: {each}\n" for each in requires)
    content[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if scripts:
        lines = "".join(f"{script} = {target}\n" for script, target in scripts.items())
        content[f"{info}/entry_points.txt"] = f"[console_scripts]\n{lines}"
    content[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in (*content, f"{info}/RECORD"))
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, data in content.items():
            archive.writestr(inner, data)
    return path


def compiled_module(directory: Path, name: str, interface: int) -> bytes:
    """Return a C module that only loads if the module ``ovcore`` has this ``interface``."""
    source = f"""
    #include <Python.h>
    static struct PyModuleDef definition = {{PyModuleDef_HEAD_INIT, "{name}", NULL, -1, NULL}};
    PyMODINIT_FUNC PyInit_{name}(void) {{
        PyObject *core = PyImport_ImportModule("ovcore");
        if (core == NULL) return NULL;
        PyObject *found = PyObject_GetAttrString(core, "interface");
        if (found == NULL) return NULL;
        if (PyLong_AsLong(found) != {interface}) {{
            PyErr_SetString(PyExc_ImportError, "compiled for interface {interface} of ovcore");
            return NULL;
        }}
        return PyModule_Create(&definition);
    }}
    """
    directory.mkdir(parents=True, exist_ok=True)
    code, library = directory / f"{name}.c", directory / f"{name}.so"
    code.write_text(source)
    include = sysconfig.get_path("include")
    subprocess.run(["cc", "-shared", "-fPIC", f"-I{include}", str(code), "-o", str(library)], check=True)
    return library.read_bytes()


def can_compile() -> bool:
    """Return whether C modules for this Python can be compiled here."""
    return shutil.which("cc") is not None and Path(sysconfig.get_path("include"), "Python.h").exists()


#: Suffix of C modules for this Python.
EXT_SUFFIX = str(sysconfig.get_config_var("EXT_SUFFIX"))


#: What the base's Python imports when cetool starts it, or compiles an overlay.
_STARTED = "compileall, concurrent.futures.process, importlib.metadata, importlib.resources, json, platform, subprocess"


def make_base(prefix: Path, channel: Channel, *packages: str, wheels: Iterable[Path | str] = ()) -> Path:
    """Make a conda environment with python, pip and these packages, and install wheels into it."""
    environ = {"HOME": str(prefix.parent), "PATH": os.defpath, "CONDA_CHANNEL_ALIAS": channel.root.as_uri()}
    log = prefix.parent / f"{prefix.name}.log"
    request = request_for(prefix, ("python", "pip", *packages), ("conda-forge",), log)
    RattlerEngine(environ, prefix.parent / "pkgs").create(request, SilentProgress(), HOLD)
    # as in a real base, modules imported at each start are compiled: later nothing can be written there
    subprocess.run([prefix / "bin/python", "-I", "-c", f"import {_STARTED}"], check=True)
    add_to_base(prefix, *wheels)
    return prefix


def add_to_base(prefix: Path, *wheels: Path | str, upgrade: bool = False) -> None:
    """Install wheels or requirements into the base, as an administrator would."""
    if wheels:
        command = [
            uv.find_uv_bin(),
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--break-system-packages",
            "--link-mode=copy",
        ]
        command += ["--python", str(prefix / "bin/python"), *(["--upgrade"] if upgrade else [])]
        subprocess.run([*command, *map(str, wheels)], check=True)


def snapshot(root: Path) -> dict[str, tuple[object, ...]]:
    """Return every file and directory below a directory, including itself: type, owner, times and content."""
    found: dict[str, tuple[object, ...]] = {}
    pending = [root]
    while pending:
        path = pending.pop()
        info = path.lstat()
        content: str | None = None
        if stat.S_ISDIR(info.st_mode):
            pending += path.iterdir()
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        name = str(path.relative_to(root))
        found[name] = (info.st_mode, info.st_uid, info.st_gid, info.st_size, info.st_mtime_ns, content)
    return found


def protect(root: Path) -> None:
    """Make a tree unwritable, as far as modes can."""
    for directory, _, files in os.walk(root):
        for path in (directory, *(os.path.join(directory, name) for name in files)):
            if not os.path.islink(path):
                os.chmod(path, stat.S_IMODE(os.lstat(path).st_mode) & ~0o222)


def site_packages_of(overlay: Path) -> Path:
    """Return the directory of an overlay's packages."""
    return overlay / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
