"""Finds out which files PyPI packages were installed from: URL and SHA-256, which an installation does not tell.

pip says it in a report of what it installs. uv says it as a lock (``pylock.toml``, PEP 751) of what is installed: right
after the installation out of its cache alone, later by asking the indexes again.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from cetool.base.errors import EngineError, StoreError
from cetool.base.limits import parse_json
from cetool.base.process import clean_environ, python_command
from cetool.base.text import normalized
from cetool.base.urls import strip_credentials
from cetool.declare.package import PypiPackage
from cetool.declare.pypi import PypiSettings
from cetool.engines.pypi.files import tell_pip, tell_uv
from cetool.packages.distributions import Distribution, pypi_distributions, read_origins, write_origins
from cetool.packages.prefix import read_records

#: Seconds that uv or pip may take to tell.
_PATIENCE = 120.0
_DIGEST = re.compile(r"(?<=[#&])sha256=(?P<digest>[0-9a-fA-F]{64})&?")
#: What reading something else than was expected raises.
NOT_UNDERSTOOD = (OSError, ValueError, KeyError, TypeError, AttributeError, EngineError)


@dataclass(frozen=True)
class Asking:
    """Whom to ask and how: ``uv`` (None: the environment's pip), ``python`` of the environment, the ``environ`` of the
    subprocess, ``settings`` those that say where packages come from.
    """

    uv: Path | None
    python: Path
    environ: Mapping[str, str]
    settings: PypiSettings = field(default_factory=PypiSettings)
    offline: bool = False


def keep_origins(prefix: Path, asking: Asking, report: Path | None) -> None:
    """Note in the environment where what was just installed came from; what cannot be found out is left out.

    ``report`` is what pip wrote of its installation.
    """
    try:
        if report is not None:
            found = read_report(report.read_bytes())
        else:
            found = find_origins(list(pypi_distributions(prefix, read_records(prefix))), asking)
        if found:  # beside what an earlier step noted
            write_origins(prefix, {**read_origins(prefix), **found}.values())
    except (*NOT_UNDERSTOOD, StoreError):  # the environment is complete without, and can be asked later
        return


def keep_named(prefix: Path, references: Sequence[str]) -> None:
    """Note of packages that were installed from direct references (PEP 508) what these say: uv forgets digests."""
    named = {}
    for reference in references:
        name, _, url = reference.partition("@")
        digest = _DIGEST.search(url)
        url = _DIGEST.sub("", url).strip().replace("#&", "#").rstrip("#&")
        named[normalized(name.strip())] = (url, digest["digest"].lower() if digest else None)
    try:
        found = pypi_distributions(prefix, read_records(prefix))
        write_origins(
            prefix, [PypiPackage(each.name, each.version, *named[each.name]) for each in found if each.name in named]
        )
    except (*NOT_UNDERSTOOD, StoreError):
        return


def find_origins(wanted: Sequence[Distribution], asking: Asking) -> dict[str, PypiPackage]:
    """The files of these distributions, by name, as far as uv or pip can tell them.

    Raises one of :data:`NOT_UNDERSTOOD` where what they print is not understood.
    """
    pins = [
        f"{each.name} @ {each.origin.url}" if each.origin.url else f"{each.name}=={each.version}" for each in wanted
    ]
    if not pins:
        return {}
    with tempfile.TemporaryDirectory(prefix="cetool-origins-") as directory:
        place = Path(directory)
        if asking.uv is not None:
            told = tell_uv(place, asking.settings, pins, asking.environ, exactly=True)
            argv = [str(asking.uv), "pip", "compile", "--quiet", "--no-deps", "--no-header", "--no-annotate"]
            argv += ["--format", "pylock.toml", "--python", str(asking.python), "--directory", directory]
            argv += told.arguments_of_compile
            output = _ask([*argv, *(["--offline"] if asking.offline else [])], told.environ)
            return {} if output is None else read_pylock(output, wanted)
        if asking.offline:
            return {}
        told = tell_pip(place, asking.settings, pins, asking.environ, exactly=True)
        argv = python_command(asking.python, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed")
        argv += ["--no-deps", "--no-input", "--disable-pip-version-check", "--report", "-", *told.arguments]
        output = _ask(argv, told.environ)
        return {} if output is None else read_report(output)


def _ask(argv: Sequence[str], environ: Mapping[str, str]) -> bytes | None:
    try:
        known = clean_environ(environ)
        done = subprocess.run(argv, env=known, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def read_report(text: bytes) -> dict[str, PypiPackage]:
    """The files in pip's installation report (version 1), by name. Raises ValueError, KeyError or TypeError."""
    found = {}
    for each in parse_json(text)["install"]:
        about, came = each["metadata"], each["download_info"]
        name = normalized(about["name"])
        url, sha256 = strip_credentials(came["url"]), None
        if "vcs_info" in came:
            url = f"{came['vcs_info']['vcs']}+{url}@{came['vcs_info']['commit_id']}"
        else:
            sha256 = came.get("archive_info", {}).get("hashes", {}).get("sha256") or _of_file(url)
        below = came.get("subdirectory")
        url += f"#subdirectory={below}" if below else ""
        found[name] = PypiPackage(name, about["version"], url, sha256)
    return found


def _of_file(url: str) -> str | None:
    """The SHA-256 of an archive on this machine, of which pip tells none."""
    path = unquote(urlsplit(url).path) if url.startswith("file://") else ""
    if not os.path.isfile(path):
        return None
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def read_pylock(text: bytes, wanted: Sequence[Distribution]) -> dict[str, PypiPackage]:
    """The files that a ``pylock.toml`` has for the wanted distributions, by name. Raises ValueError and KeyError."""
    import tomli

    by_name = {each.name: each for each in wanted}
    found = {}
    for package in tomli.loads(text.decode()).get("packages", ()):
        name = normalized(package["name"])
        each = by_name.get(name)
        if each is not None and package.get("version", each.version) == each.version:
            url, sha256 = _file_of(package, each)
            if url:
                found[name] = PypiPackage(name, each.version, strip_credentials(url), sha256)
    return found


def _file_of(package: Mapping[str, Any], installed: Distribution) -> tuple[str, str | None]:
    """The file of a package that the installed distribution is of: URL, empty where there is none, and SHA-256."""
    if "vcs" in package:
        vcs = package["vcs"]
        below = f"#subdirectory={vcs['subdirectory']}" if vcs.get("subdirectory") else ""
        return f"{vcs['type']}+{vcs['url']}@{vcs['commit-id']}{below}", None
    if "directory" in package:
        return _url(package["directory"]), None
    archives = [package["archive"]] if "archive" in package else []
    wheels = list(package.get("wheels", ()))
    archives += [wheel for wheel in wheels if _tags(_url(wheel)) & installed.tags]
    archives += [package["sdist"]] if "sdist" in package else []
    for archive in archives or wheels:
        below = f"#subdirectory={archive['subdirectory']}" if archive.get("subdirectory") else ""
        return _url(archive) + below, archive.get("hashes", {}).get("sha256")
    return "", None


def _url(file: Mapping[str, Any]) -> str:
    url = file.get("url")
    return str(url) if url else Path(os.path.abspath(file["path"])).as_uri()


def _tags(url: str) -> set[str]:
    """The tags that a wheel's file name stands for, none where it is not one."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    try:
        return set(map(str, parse_wheel_filename(url.rpartition("/")[2].replace("%2B", "+"))[3]))
    except InvalidWheelFilename:
        return set()
