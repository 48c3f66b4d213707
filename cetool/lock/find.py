"""Find and read the lock of a script, read lock files of all formats, and write lock files.

A script's lock is the block embedded in it, or else ``SCRIPT.conda-lock.yml``, or else ``SCRIPT.pixi.lock`` next to
it. The first one that exists is used; a note reports the others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from cetool.base.errors import CetoolError, Location, MetadataError, ScriptNotFoundError, ScriptNotReadableError
from cetool.base.files import ChangedError, replace_file
from cetool.base.limits import LOCK, LimitError, check_lines
from cetool.base.text import normalized, pattern, printable
from cetool.base.values import Value
from cetool.declare.platforms import current_platform
from cetool.declare.requirements import Requirements
from cetool.declare.source import Script, foreign_text, is_url, read_bytes
from cetool.lock import SUFFIXES as SUFFIXES
from cetool.lock import lock_paths as lock_paths
from cetool.lock.conda_lock import read_conda_lock
from cetool.lock.embedded import has_mark, read_embedded
from cetool.lock.explicit import read_explicit
from cetool.lock.model import Lock, PlatformLock, malformed
from cetool.lock.pixi import read_pixi_lock
from cetool.lock.records import fits, record_of


def what_is_missing(locked: PlatformLock, requirements: Requirements) -> str | None:
    """Return the first match spec or PyPI requirement that no locked package satisfies, None if all are satisfied.

    Conditional match specs and requirements with markers are ignored.
    """
    from rattler import MatchSpec

    try:
        for package in locked.conda:
            record_of(package)
    except CetoolError as error:
        return error.message
    packages = {package.name: package for package in locked.conda}
    for text in requirements.packages:
        spec = MatchSpec(text)
        name = getattr(spec.name, "normalized", None)
        if spec.condition is not None or name is None or name.startswith("__"):
            continue
        if name not in packages or not fits(spec, text, packages[name]):
            return text
    return next((text for text in requirements.pypi if not _is_installed(text, locked)), None)


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


class LockFormat(Value):
    """A format of lock files; :data:`~cetool.lock.SUFFIXES` has the formats that are found next to a script."""

    #: Its name on the command line.
    name: str
    #: Matches files of this format, and no files of the formats that follow it in :data:`FORMATS`.
    mark: re.Pattern[str]
    #: Reads a lock from text, name and path of a file, perhaps for one platform only. Raises MetadataError.
    read: Callable[[str, str, Path, str | None], Lock]
    #: Whether it is YAML: its lines are counted before it is parsed.
    is_yaml: bool = True


#: The format of a lock embedded in a script, and the formats of files.
EMBEDDED, CONDA_LOCK, PIXI, EXPLICIT = "embedded", "conda-lock", "pixi", "explicit"
FORMATS = (
    LockFormat(
        EXPLICIT,
        pattern(r"^[ \t]*@EXPLICIT[ \t]*$", re.MULTILINE),
        lambda text, name, path, platform: read_explicit(text, name),
        is_yaml=False,
    ),
    LockFormat(
        PIXI,
        # version 3 has the keys of conda-lock.yml, whose only version is 1
        pattern(r"^(?:(?:environments|platforms)[ \t]*:|version[ \t]*:[ \t]*['\"]?(?:[3-9]|[1-9]\d+)\b)", re.MULTILINE),
        lambda text, name, path, platform: read_pixi_lock(path, text, name),
    ),
    LockFormat(
        CONDA_LOCK,
        pattern(r"^(?:metadata|package)[ \t]*:", re.MULTILINE),
        lambda text, name, path, platform: read_conda_lock(text, name, platform),
    ),
)


class FoundLock(Value):
    """A lock and where it was found."""

    lock: Lock
    #: Its name in messages.
    where: str
    #: The name of a format, or ``embedded``.
    format: str
    #: The file that contains it; for an embedded lock this is the script.
    path: Path
    #: Notes for the user.
    notes: tuple[str, ...] = ()

    def matches(self, requirements: Requirements, platform: str | None = None) -> bool | None:
        """Return whether the lock was made for these requirements on a platform (the current one if None).

        The result is True or False if the lock contains the digest of its request. Locks of other tools do not: then
        it is False if a requirement is not satisfied or the platform is not locked, and None otherwise.
        """
        locked = self.lock.platform(platform or current_platform())
        if locked is None:
            return False
        if locked.request is not None:
            return requirements.is_request(locked.request)

        return None if what_is_missing(locked, requirements) is None else False


def find_lock(script: Script, *, beside: bool = True, platform: str | None = None) -> FoundLock | None:
    """Return the lock of a script, None if it has none.

    Unless ``beside``, only an embedded lock is considered: the script is not a local file. If one ``platform`` is
    given, packages of other platforms may be missing from the result. Raises MetadataError, with file and line, if the
    lock cannot be read.
    """
    lock = read_embedded(script) if has_mark(script.text) else None
    # lexists: a broken symbolic link is reported as a missing lock
    there = [path for path in lock_paths(script.path) if os.path.lexists(path)] if beside else []
    if lock is not None:
        return FoundLock(lock, f"the lock in {script.name}", EMBEDDED, script.path, _others(there, "the script itself"))
    if not there:
        return None
    # a symbolic link to a script may be in the same directory; the script's lock is not named after the link
    beside_link = there[0].parent == script.path.parent and there[0].name.startswith(script.path.name)
    name = f"{script.name}{there[0].name[len(script.path.name) :]}" if beside_link else printable(str(there[0]))
    lock, kind = _read(there[0], name, platform)
    return FoundLock(lock, name, kind, there[0], _others(there[1:], there[0].name))


def open_lock(path: str | os.PathLike[str], *, platform: str | None = None) -> FoundLock:
    """Read a lock file whose format is detected by its content, for ``--lock-file``.

    ``platform`` is as in :func:`find_lock`. Raises MetadataError, with file and line, if the file is missing, cannot
    be read, or is not a lock.
    """
    given = os.fspath(path)
    name = printable(given)
    lock, kind = _read(Path(given), name, platform)
    return FoundLock(lock, name, kind, Path(os.path.abspath(given)))


def _others(paths: list[Path], used: str) -> tuple[str, ...]:
    names = " and ".join(printable(path.name) for path in paths)
    return (f"{names} {'is' if len(paths) == 1 else 'are'} ignored: the lock is in {used}",) if paths else ()


def _read(path: Path, name: str, platform: str | None) -> tuple[Lock, str]:
    """Return the lock in a file and its format."""
    try:
        data = read_bytes(os.fspath(path), name, "lock file", limit=LOCK)
    except (ScriptNotFoundError, ScriptNotReadableError) as error:
        # exit statuses 126 and 127 are reserved for the script itself
        raise error.turned_into(MetadataError, code="lock-missing") from None
    return lock_in(data, path, name, platform)


def lock_in(data: bytes, path: Path, name: str, platform: str | None = None) -> tuple[Lock, str]:
    """Return the lock in the bytes of a file, and its format.

    ``path`` is the path of the file, ``name`` its name in messages; ``platform`` is as in :func:`find_lock`. Raises
    MetadataError, with file and line, if it is not a lock.
    """
    with foreign_text(is_url(name)):
        try:
            return _lock_in(data, path, name, platform)
        except LimitError as error:
            raise malformed(
                f"cannot read the lock file: {error}",
                Location(name, error.line),
                "Run `cetool lock SCRIPT` to write it again.",
            ) from None


def _lock_in(data: bytes, path: Path, name: str, platform: str | None) -> tuple[Lock, str]:
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise malformed("the lock file is not UTF-8 text", Location(name, line)) from None
    if "\0" in text:
        raise malformed("the lock file is not text: it contains a NUL character", Location(name))
    for format in FORMATS:
        if format.is_yaml:
            check_lines(text)
        if format.mark.search(text):
            return format.read(text, name, path, platform), format.name
    raise MetadataError(
        "not a lock file",
        code="lock-unrecognized",
        where=Location(name),
        hint="cetool reads conda-lock.yml, pixi.lock and @EXPLICIT files. Run `cetool lock SCRIPT` to write one.",
    )


# --- writing ----------------------------------------------------------------------------------------------------------


class LockNotWrittenError(CetoolError):
    """A lock could not be written; the existing file is unchanged."""

    code = "write-failed"


def write_lock_file(path: Path, text: str, old: bytes | None) -> None:
    """Write a lock file atomically. ``old`` is its content when it was read; None if there was no file.

    A symbolic link is followed; the mode of an existing file is kept. Raises LockNotWrittenError, also if the file has
    changed since it was read.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(13, "the file is read-only")
        replace_file(target, old, text.encode())
    except ChangedError:
        raise LockNotWrittenError(
            "another process has changed the lock meanwhile; nothing was written",
            where=Location(printable(str(path))),
            hint="Run the command again.",
        ) from None
    except OSError as error:
        raise LockNotWrittenError(
            f"cannot write the lock: {error.strerror or error}",
            where=Location(printable(str(path))),
            hint=f"cetool must be able to write to {printable(str(target.parent))}. --lock-file names another file.",
        ) from None
