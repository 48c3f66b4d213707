"""Whether a lock that keeps no digest of its request can be the lock of what is asked for.

Which lock belongs to a script, and the lock in a file of any format.

A script's lock is the block embedded in it, else ``SCRIPT.conda-lock.yml`` beside it, else ``SCRIPT.pixi.lock``: the
first that is there counts, and the others are told of.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from cetool.base.errors import CetoolError, Location, MetadataError, ScriptNotFoundError, ScriptNotReadableError
from cetool.base.limits import LOCK, LimitError, check_lines
from cetool.base.text import normalized, printable
from cetool.base.values import Value
from cetool.declare.match_fields import read_fields
from cetool.declare.match_specs import IDENTITY, is_same_file
from cetool.declare.package import Package
from cetool.declare.requirements import Requirements
from cetool.declare.source import Script, foreign_text, is_url, read_bytes
from cetool.lock import SUFFIXES as SUFFIXES
from cetool.lock import lock_paths as lock_paths
from cetool.lock.model import Lock, PlatformLock
from cetool.lock.records import record_of


def what_is_missing(locked: PlatformLock, requirements: Requirements) -> str | None:
    """The first match spec or PyPI requirement that no locked package fits, None where all have one.

    Specs that hold only under a condition, and requirements whose markers say they do not apply, are left aside.
    """
    from rattler import MatchSpec

    try:
        packages = {package.name: package for package in locked.conda}
        records = {name: record_of(package) for name, package in packages.items()}
    except CetoolError as error:
        return error.message
    for text in requirements.packages:
        spec = MatchSpec(text)
        name = getattr(spec.name, "normalized", None)
        if spec.condition is not None or name is None or name.startswith("__"):
            continue
        record, package = records.get(name), packages.get(name)
        if record is None or package is None or not _fits(spec.version, spec.build, record):
            return text
        if not _has(text, package) or not is_same_file(spec, text, package.url, package.sha256, package.md5):
            return text
    return next((text for text in requirements.pypi if not _is_installed(text, locked)), None)


def _fits(version: str | None, build: str | None, record: object) -> bool:
    """By version and build alone: a lock tells by its URLs, not by names, which channel a package is from."""
    from fnmatch import fnmatchcase

    from rattler import Version, VersionSpec

    text = str(record.version)  # type: ignore[attr-defined]
    if version is not None and not VersionSpec(version).matches(Version(text)):
        return False
    wanted = build is None or build.startswith("^") or fnmatchcase(str(record.build), build)  # type: ignore[attr-defined]
    return wanted


def _has(text: str, package: Package) -> bool:
    """Whether a locked package has what the fields of a spec say, those aside that a lock does not tell."""
    told = {"subdir": package.subdir, "fn": package.url.rpartition("/")[2]}
    others = [(key, value) for key, value in read_fields(text).others if key not in IDENTITY]
    return all(told.get(key, value) == value for key, value in others)


def _is_installed(text: str, locked: PlatformLock) -> bool:
    from packaging.requirements import Requirement

    requirement = Requirement(text)
    if requirement.marker is not None:
        return True
    name = normalized(requirement.name)
    for package in locked.pypi:
        if package.name == name:
            return requirement.url is not None or requirement.specifier.contains(package.version, prereleases=True)
    return any(package.name == name for package in locked.conda)


#: The formats by the names that the command line has for them.
EMBEDDED, CONDA_LOCK, PIXI, EXPLICIT = "embedded", "conda-lock", "pixi", "explicit"

#: pixi.lock version 3 has the keys of a conda-lock.yml, whose only version is 1.
_PIXI = re.compile(
    r"^(?:(?:environments|platforms)[ \t]*:|version[ \t]*:[ \t]*['\"]?(?:[3-9]|[1-9]\d+)\b)", re.MULTILINE
)
_CONDA_LOCK = re.compile(r"^(?:metadata|package)[ \t]*:", re.MULTILINE)
_EXPLICIT = re.compile(r"^[ \t]*@EXPLICIT[ \t]*$", re.MULTILINE)


class FoundLock(Value):
    """A lock and where it was found.

    ``where`` is what messages call it; ``format`` one of ``embedded``, ``conda-lock``, ``pixi`` and ``explicit``;
    ``path`` the file that holds it, of an embedded one the script; ``notes`` sentences that the user is to see.
    """

    lock: Lock
    where: str
    format: str
    path: Path
    notes: tuple[str, ...] = ()

    def matches(self, requirements: Requirements, platform: str | None = None) -> bool | None:
        """Whether the lock was made for what is asked for on a platform (this one where None).

        True or False where the lock keeps the digest of its request. One that keeps none, as every other tool writes
        it, gives False where something that is asked for is not in it or nothing is locked for the platform, else None.
        """
        from cetool.declare.platforms import current_platform

        locked = self.lock.platform(platform or current_platform())
        if locked is None:
            return False
        if locked.request is not None:
            return requirements.is_request(locked.request)

        return None if what_is_missing(locked, requirements) is None else False


def find_lock(script: Script, *, beside: bool = True, platform: str | None = None) -> FoundLock | None:
    """The lock of a script, None where it has none. With ``beside`` false (a script that is no file here) only an
    embedded one counts. Where only one ``platform`` matters, the others' packages may be missing in what is found.

    Raises MetadataError, with file and line, for one that cannot be read.
    """
    from cetool.lock.embedded import has_mark, read_embedded

    lock = read_embedded(script) if has_mark(script.text) else None
    # lstat: a link that leads nowhere is a lock that is missing, which is to be said
    there = [path for path in lock_paths(script.path) if os.path.lexists(path)] if beside else []
    if lock is not None:
        return FoundLock(lock, f"the lock in {script.name}", EMBEDDED, script.path, _others(there, "the script itself"))
    if not there:
        return None
    # a link may be beside the script that it leads to, whose lock is not named after the link
    beside_link = there[0].parent == script.path.parent and there[0].name.startswith(script.path.name)
    name = f"{script.name}{there[0].name[len(script.path.name) :]}" if beside_link else printable(str(there[0]))
    lock, kind = _read(there[0], name, platform)
    return FoundLock(lock, name, kind, there[0], _others(there[1:], there[0].name))


def read_lock(path: str | os.PathLike[str]) -> Lock:
    """The lock in a file of any format, recognised by what is in it. Raises CetoolError as :func:`open_lock` does."""
    return open_lock(path).lock


def open_lock(path: str | os.PathLike[str], *, platform: str | None = None) -> FoundLock:
    """The same as :func:`read_lock` with where it was found: for ``--lock-file``.

    ``platform`` is as with :func:`find_lock`. Raises MetadataError, with file and line, for a file that is not there,
    cannot be read, or is no lock.
    """
    given = os.fspath(path)
    name = printable(given)
    lock, kind = _read(Path(given), name, platform)
    return FoundLock(lock, name, kind, Path(os.path.abspath(given)))


def _others(paths: list[Path], used: str) -> tuple[str, ...]:
    names = " and ".join(printable(path.name) for path in paths)
    return (f"{names} {'is' if len(paths) == 1 else 'are'} left aside: the lock is in {used}",) if paths else ()


def _read(path: Path, name: str, platform: str | None) -> tuple[Lock, str]:
    """The lock in a file and its format."""
    try:
        data = read_bytes(os.fspath(path), name, "lock file", limit=LOCK)
    except (ScriptNotFoundError, ScriptNotReadableError) as error:
        # 126 and 127 are about the script itself
        raise error.turned_into(MetadataError, code="lock-missing") from None
    return lock_in(data, path, name, platform)


def lock_in(data: bytes, path: Path, name: str, platform: str | None = None) -> tuple[Lock, str]:
    """The lock in the bytes of a file, and its format. ``path`` is where the file lies, ``name`` what it is called;
    ``platform`` is as with :func:`find_lock`.

    Raises MetadataError, with file and line, for what is no lock.
    """
    with foreign_text(is_url(name)):
        try:
            return _lock_in(data, path, name, platform)
        except LimitError as error:
            raise MetadataError(
                f"the lock file cannot be read: {error}",
                code="lock-malformed",
                where=Location(name, error.line),
                hint="`cetool lock` writes a lock again.",
            ) from None


def _lock_in(data: bytes, path: Path, name: str, platform: str | None) -> tuple[Lock, str]:
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MetadataError(
            "the lock file is not UTF-8 text", code="lock-malformed", where=Location(name, line)
        ) from None
    if "\0" in text:
        raise MetadataError(
            "the lock file holds a NUL character: it is no text", code="lock-malformed", where=Location(name)
        )
    if _EXPLICIT.search(text):
        from cetool.lock.explicit import read_explicit

        return read_explicit(text, name), EXPLICIT
    check_lines(text)
    if _PIXI.search(text):
        from cetool.lock.pixi import read_pixi_lock

        return read_pixi_lock(path, text, name), PIXI
    if _CONDA_LOCK.search(text):
        from cetool.lock.conda_lock import read_conda_lock

        return read_conda_lock(text, name, platform), CONDA_LOCK
    raise MetadataError(
        "this is no lock file",
        code="lock-unrecognized",
        where=Location(name),
        hint="It can be a conda-lock.yml, a pixi.lock, or an @EXPLICIT file; `cetool lock SCRIPT` writes one.",
    )
