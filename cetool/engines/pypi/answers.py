"""Parse the output of uv and pip: uv's dry run, ``pylock.toml`` (PEP 751), pip's report, and their errors."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from cetool.base.errors import EngineError
from cetool.base.limits import parse_json
from cetool.base.text import normalized
from cetool.base.urls import strip_credentials
from cetool.base.values import Value
from cetool.declare.package import PypiPackage
from cetool.engines.conflicts import Node, draw, either
from cetool.engines.subprocesses import Ended
from cetool.packages.distributions import Distribution
from cetool.packages.hashing import digest_of

#: The exceptions that parsing unexpected output raises.
NOT_UNDERSTOOD = (OSError, ValueError, KeyError, TypeError, AttributeError, EngineError)
#: A line of uv's dry run: `` + six==1.17.0 (from file:///...)``.
_PLANNED = re.compile(r"^ [+~] (\S+?)==(\S+?)(?: \(from (.+)\))?$", re.MULTILINE)
_UV_CROSS = "\N{MULTIPLICATION SIGN}"
_UV_DRAWING = re.compile(rf"^[\s{_UV_CROSS}╰├│─▶╭·]+", re.MULTILINE)
#: The traceback of a package's build, without its last line, which is the error.
_TRACEBACK = re.compile(
    r"(?:^[ \t]*\[std\w+\]\n)?^(?P<indent>[ \t]*)Traceback \(most recent call last\):\n(?:(?P=indent)[ \t]+.*\n)+",
    re.MULTILINE,
)
#: Errors of newer versions of pip: what happened follows a cross, the reason follows an arrow.
_PIP_CROSS = re.compile(rf"^{_UV_CROSS} (?P<what>.+)\n(?:.*\n)*?╰─> (?P<why>.+)$", re.MULTILINE)
_PIP_CONFLICT = re.compile(r"The conflict is caused by:\n((?:    .*\n)+)")
#: Messages of uv and pip about packages that no index has.
_ABSENT = re.compile(
    r"no versions? of ([^\s,]+)|Because (\S+) was not found|No matching distribution found for ([^\s,;]+)"
)
#: uv's derivation of a conflict, up to its hints.
_UV_CONFLICT = re.compile(
    r"No solution found[^\n]*\n\W*(?:cause: +)?(?P<why>Because .*?)(?=\n\s*\n|\n\s*hint: |\Z)", re.DOTALL
)


class Planned(Value):
    """A package that an installer would install, or has installed."""

    #: Its URL may have credentials. It is empty in uv's dry run for a package from an index.
    package: PypiPackage
    #: Whether it was required by its URL, so that indexes are not used for it.
    is_direct: bool = False
    is_directory: bool = False


def read_dry_run(text: str) -> list[Planned]:
    """Return the packages that uv would install."""
    return [
        Planned(PypiPackage(normalized(name), version, url), is_direct=bool(url))
        for name, version, url in _PLANNED.findall(text)
    ]


def read_report(text: bytes) -> list[Planned]:
    """Read pip's installation report (version 1). Raises ValueError, KeyError, TypeError, AttributeError."""
    found = []
    for item in parse_json(text)["install"]:
        metadata, source = item["metadata"], item["download_info"]
        url, sha256 = str(source["url"]), None
        if "vcs_info" in source:
            url = f"{source['vcs_info']['vcs']}+{url}@{source['vcs_info']['commit_id']}"
        elif "dir_info" not in source:
            sha256 = source.get("archive_info", {}).get("hashes", {}).get("sha256") or _sha256_of(url)
        below = source.get("subdirectory")
        package = PypiPackage(
            name=normalized(metadata["name"]),
            version=str(metadata["version"]),
            url=url + (f"#subdirectory={below}" if below else ""),
            sha256=sha256,
            requires=tuple(map(str, metadata.get("requires_dist", []))),
            requires_python=metadata.get("requires_python"),
        )
        found.append(Planned(package, bool(item.get("is_direct")), "dir_info" in source))
    return found


def _sha256_of(url: str) -> str | None:
    """Return the digest of a local archive, for which pip reports none."""
    path = unquote(urlsplit(url).path) if url.startswith("file://") else ""
    return digest_of(path) if os.path.isfile(path) else None


class Pinned(Value):
    """A package of a ``pylock.toml``.

    ``files`` are the URLs and SHA-256 digests of its files, wheels first; or the URL of a repository or directory.
    """

    name: str
    #: None if it is in the package's own metadata: for a repository, a directory, an archive.
    version: str | None
    files: tuple[tuple[str, str | None], ...]
    is_directory: bool = False
    is_repository: bool = False
    #: A direct reference, which is its own pin.
    is_direct: bool = False


def read_pylock(text: str, directory: Path) -> list[Pinned]:
    """Read a ``pylock.toml`` with paths relative to ``directory``. Raises ValueError and KeyError."""
    import tomli

    return [_pinned(package, directory) for package in tomli.loads(text).get("packages", ())]


def _pinned(package: Mapping[str, Any], directory: Path) -> Pinned:
    name, version = normalized(package["name"]), package.get("version")
    if vcs := package.get("vcs"):
        url = f"{vcs['type']}+{vcs['url'].removeprefix('git+')}@{vcs['commit-id']}{_below(vcs)}"
        return Pinned(name, version, ((url, None),), is_repository=True, is_direct=True)
    if "directory" in package:
        return Pinned(
            name, version, ((_url(package["directory"], directory), None),), is_directory=True, is_direct=True
        )
    files = [package[key] for key in ("archive",) if key in package]
    files += [*package.get("wheels", ()), *(package[key] for key in ("sdist",) if key in package)]
    pairs = ((_url(file, directory) + _below(file), file.get("hashes", {}).get("sha256")) for file in files)
    return Pinned(name, version, tuple(pairs), is_direct="archive" in package or version is None)


def _url(file: Mapping[str, Any], directory: Path) -> str:
    url = file.get("url")
    return str(url) if url else Path(os.path.normpath(directory / file["path"])).as_uri()


def _below(file: Mapping[str, Any]) -> str:
    return f"#subdirectory={file['subdirectory']}" if file.get("subdirectory") else ""


def sources_of(wanted: Sequence[Distribution], pinned: Sequence[Pinned]) -> dict[str, PypiPackage]:
    """Return the files of these installed distributions, by name, as far as the pinned packages have them."""
    installed = {each.name: each for each in wanted}
    found = {}
    for package in pinned:
        each = installed.get(package.name)
        if each is not None and package.version in (None, each.version) and package.files:
            fitting = [pair for pair in package.files if _fits(pair[0], each)]
            url, sha256 = (fitting or package.files)[0]
            found[each.name] = PypiPackage(each.name, each.version, strip_credentials(url), sha256)
    return found


def _fits(url: str, installed: Distribution) -> bool:
    """Return whether a file may be the one that was installed: sources, or a wheel for the same platforms."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename

    name = url.partition("#")[0].rpartition("/")[2].replace("%2B", "+")
    try:
        return not name.endswith(".whl") or bool(installed.tags & set(map(str, parse_wheel_filename(name)[3])))
    except InvalidWheelFilename:
        return False


# --- errors -----------------------------------------------------------------------------------------------------------


def explain(
    ended: Ended, installer: str, pins: Mapping[str, str], *, log: Path, offline: bool, what: str
) -> EngineError:
    """Return the error for a failure of the installer (``uv`` or ``pip``).

    ``pins`` are the packages that had to stay unchanged, ``what`` is ``installed`` or ``resolved``.
    """
    if ended.status is None:
        return EngineError(f"{installer} was killed by signal {ended.signum}", log=str(log))
    reason = uv_reason(ended.stderr.strip()) if installer == "uv" else pip_reason(f"{ended.stdout}\n{ended.stderr}")
    code, hint = "pypi-failed", f"See the log for the complete output of {installer}."
    pinned = [name for name, version in pins.items() if f"{name}=={version}" in reason.lower()]
    if offline and re.search(r"network was disabled|offline|in the cache|No matching", reason, re.IGNORECASE):
        code = "offline-missing"
        hint = "Run once without --offline" + ("." if installer == "uv" else "; only uv can install from its cache.")
    elif pinned:
        code = "pypi-conflict"
        names, verb = ", ".join(pinned), "is" if len(pinned) == 1 else "are"
        hint = f"{names} {verb} installed by conda and cannot change: make the versions agree, or require only one."
    elif re.search(r"dns error|connect|failed to fetch|cannot be reached", reason, re.IGNORECASE):
        code = "index-unreachable"
        hint = "Check the network and the index, or use --offline to install from uv's cache."
    elif re.search(r"not found in the package registry|No matching distribution|is available|no versions? of", reason):
        code = "pypi-not-found"
        hint = "Check its name and version, or add the index that has it."
    if what == "resolved" and re.search(r"unexpected argument|invalid value", reason):
        code = "installer-too-old"
        hint = "This version of uv cannot resolve for locks: update uv."
    message, steps = f"PyPI packages could not be {what}: {reason}", _conflict(ended, installer)
    if len(steps) > 1 or (steps and code in ("pypi-conflict", "pypi-failed")):
        message = "these PyPI packages conflict"
        hint = _relaxing(steps) if code == "pypi-failed" else hint
        return EngineError(message, code=code, details=draw([Node(step) for step in steps]), hint=hint, log=str(log))
    if code == "pypi-not-found" and (absent := _ABSENT.search(reason)):
        named = next(filter(None, absent.groups()))
        return EngineError(f"PyPI package {named!r} was not found", code=code, about=named, hint=hint, log=str(log))
    return EngineError(message, code=code, hint=hint, log=str(log))


def _conflict(ended: Ended, installer: str) -> list[str]:
    """Return the steps by which an installer explains a conflict; empty if it failed for another reason."""
    if installer == "uv":
        found = _UV_CONFLICT.search(ended.stderr)
        words = " ".join(_UV_DRAWING.sub("", found["why"]).split()) if found else ""
        return [step.rstrip(".") for step in re.split(r"(?<=\.) (?=And )", words) if step]
    listed = _PIP_CONFLICT.search(f"{ended.stdout}\n{ended.stderr}")
    return [line.strip() for line in listed[1].splitlines()] if listed else []


def _relaxing(steps: Sequence[str]) -> str:
    """Return the suggestion with the requirements: ``Relax 'a==1' or 'b<2'.``"""
    asked: dict[str, None] = {}
    for step in steps:
        given = step.partition(", we can conclude")[0]
        for found in re.finditer(r"(?:you require|The user requested) (\S+(?: and (?!you )\S+)*)", given):
            asked.update(dict.fromkeys(found[1].split(" and ")))
    return f"Relax {either(list(asked))}." if asked else "Relax one of the requirements."


def uv_reason(text: str) -> str:
    """Return uv's error as one sentence: the text after its cross, without the drawing."""
    text = _TRACEBACK.sub("", text)
    start = max(text.find(_UV_CROSS), 0) or max(text.find("error: "), 0)
    sentence = " ".join(_UV_DRAWING.sub("", text[start:]).split())
    sentence = re.sub(r"^(error: )?No solution found when resolving dependencies:?( cause:)? |^error: ", "", sentence)
    sentence = re.sub(r", we can conclude that [^.]*unsatisfiable", "", sentence.split(" hint: ")[0])
    return _short(sentence.replace(" cause: ", ": "))


def pip_reason(text: str) -> str:
    """Return pip's errors as one sentence."""
    if conflict := _PIP_CONFLICT.search(text):
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
