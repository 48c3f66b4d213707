"""The lock of a script, and the locks in files of all formats: which file it is, what is in it, and writing it.

A script's lock is the block embedded in it, else ``SCRIPT.conda-lock.yml`` beside it, else ``SCRIPT.pixi.lock``: the
first that is there counts, and the others are told of.
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
    """The first match spec or PyPI requirement that no locked package fits, None where all have one.

    Specs that hold only under a condition, and requirements whose markers say they do not apply, are left aside.
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
    """A format of lock files; :data:`~cetool.lock.SUFFIXES` has those that a script can have beside it."""

    #: What the command line calls it.
    name: str
    #: What its files have in them, and those of the formats after it in :data:`FORMATS` have not.
    mark: re.Pattern[str]
    #: Reads the text of a file with this name at this path, or as much as one platform needs. Raises MetadataError.
    read: Callable[[str, str, Path, str | None], Lock]
    #: Whether it is YAML, whose lines are counted before a parser gets them.
    is_yaml: bool = True


#: The format of the lock in a script, and those of files.
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
        # version 3 has the keys of a conda-lock.yml, whose only version is 1
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
    #: What messages call it.
    where: str
    #: The name of a format, or ``embedded``.
    format: str
    #: The file that holds it, of an embedded one the script.
    path: Path
    #: Sentences that the user is to see.
    notes: tuple[str, ...] = ()

    def matches(self, requirements: Requirements, platform: str | None = None) -> bool | None:
        """Whether the lock was made for what is asked for on a platform (this one where None).

        True or False where the lock keeps the digest of its request. One that keeps none, as every other tool writes
        it, gives False where something that is asked for is not in it or nothing is locked for the platform, else None.
        """
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


def open_lock(path: str | os.PathLike[str], *, platform: str | None = None) -> FoundLock:
    """The lock in a file of any format, recognised by what is in it: for ``--lock-file``.

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
            raise malformed(
                f"the lock file cannot be read: {error}",
                Location(name, error.line),
                "`cetool lock` writes a lock again.",
            ) from None


def _lock_in(data: bytes, path: Path, name: str, platform: str | None) -> tuple[Lock, str]:
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise malformed("the lock file is not UTF-8 text", Location(name, line)) from None
    if "\0" in text:
        raise malformed("the lock file holds a NUL character: it is no text", Location(name))
    for format in FORMATS:
        if format.is_yaml:
            check_lines(text)
        if format.mark.search(text):
            return format.read(text, name, path, platform), format.name
    raise MetadataError(
        "this is no lock file",
        code="lock-unrecognized",
        where=Location(name),
        hint="It can be a conda-lock.yml, a pixi.lock, or an @EXPLICIT file; `cetool lock SCRIPT` writes one.",
    )


# --- writing ----------------------------------------------------------------------------------------------------------


class LockNotWrittenError(CetoolError):
    """A lock was to be written and was not: what was there is as it was."""

    code = "write-failed"


def write_lock_file(path: Path, text: str, old: bytes | None) -> None:
    """Write a lock file in one step, in the place of ``old``, what was in it when it was read; None for no file.

    A symbolic link is followed; the mode of a file that is there stays. Raises LockNotWrittenError, where it is not
    the old one any more too.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(13, "it is read-only")
        replace_file(target, old, text.encode())
    except ChangedError:
        raise LockNotWrittenError(
            "the lock was changed by another process meanwhile, so nothing was written",
            where=Location(printable(str(path))),
            hint="Run the same command again.",
        ) from None
    except OSError as error:
        raise LockNotWrittenError(
            f"the lock cannot be written: {error.strerror or error}",
            where=Location(printable(str(path))),
            hint=f"A new file has to be made in {printable(str(target.parent))}; --lock-file names another place.",
        ) from None
