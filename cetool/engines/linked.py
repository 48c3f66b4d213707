"""Check that conda and mamba linked the requested packages, by comparing their package caches with the archives.

Their package caches belong to the user, and other programs fill them too. conda uses an unpacked package if the MD5 in
its record matches, or if the record has none; mamba trusts the record's digests; conda computes no digests of
``file://`` archives. Therefore, after linking, each package's archive is compared with the digests of the channel or
lock, and the unpacked package with the archive. What does not match is removed from the package cache, so that the
engine fetches it again.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cetool.base.below import write_below
from cetool.base.errors import EngineError
from cetool.declare.package import local_path
from cetool.engines.explicit import mismatch
from cetool.engines.protocol import EngineRequest, Explain, Progress
from cetool.packages.hashing import digest_of, in_parallel
from cetool.packages.integrity import damaged_files, is_damaged
from cetool.packages.prefix import PackageRecordError, PrefixRecord, read_records

_SUFFIXES = (".conda", ".tar.bz2")
_REFUSED = re.compile(r"The package for \S+ located at (?P<path>/.+?|[A-Za-z]:\\.+?)\s*\n\s*appears to be corrupted")
#: Seconds for which a directory must not change: another conda may be unpacking it.
_STILL = 1.0


@dataclass(frozen=True, slots=True)
class _Linked:
    """A package of an environment and its archive: the file in the channel, or the copy in the package cache."""

    record: PrefixRecord
    archive: Path | None

    @property
    def stem(self) -> str:
        return self.record.stem

    @property
    def channel_file(self) -> bool:
        """Whether the archive is the file in a ``file://`` channel."""
        return self.archive is not None and self.archive == _channel_file(self.record)


def verified(make: Callable[[EngineRequest], Explain], request: EngineRequest, progress: Progress) -> Explain:
    """Make the environment; if packages do not match, remove them from the package cache and make it again.

    Raises EngineError if they still do not match.
    """
    explain = make(request)
    odd = _not_verified(request.prefix, ())
    if not odd:
        return explain
    names = ", ".join(package.stem for package in odd)
    progress.note(f"Fetching packages again that do not match their digests in the package cache: {names}")
    for package in odd:
        _remove(package)
    shutil.rmtree(request.prefix, ignore_errors=True)
    explain = make(request)
    odd = _not_verified(request.prefix, {package.stem for package in odd})
    if odd:
        names = ", ".join(package.stem for package in odd)
        raise EngineError(
            f"packages in the package cache do not match their digests: {names}",
            code="digest-mismatch",
            hint="Remove them from the package cache, or use --engine rattler, which has its own package cache.",
            log=str(request.log),
        )
    return explain


def _not_verified(prefix: Path, fresh: Collection[str]) -> list[_Linked]:
    """Return the packages that may not be the requested ones.

    ``fresh`` are those that the engine has just fetched: unless the channel is ``file://``, it has compared their
    digests. Raises EngineError if a file in a channel does not match the channel's metadata.
    """
    try:
        packages = list(map(_linked, read_records(prefix)))
    except PackageRecordError:  # the check of the whole environment gives a better message
        return []
    sums = in_parallel(_digests, packages, lambda package: str(package.archive or prefix))
    odd = []
    for package, (sha256, md5) in zip(packages, sums, strict=True):
        if sha256 is None:
            if package.stem not in fresh:
                odd.append(package)
            continue
        claims = ((package.record.digest("sha256"), sha256), (package.record.digest("md5"), md5))
        agrees = [claimed == found for claimed, found in claims if claimed]
        if not all(agrees):
            if package.channel_file:
                raise _refused(package, sha256, md5)
            odd.append(package)
        elif (not agrees and not package.channel_file and package.stem not in fresh) or not _is_unpacked_from(package):
            odd.append(package)
        elif not (package.record.digest("sha256") and package.record.digest("md5")):
            _state(package.record, sha256, md5)
    return odd


def _linked(record: PrefixRecord) -> _Linked:
    archive, name = _channel_file(record), record.text("fn")
    if archive is None and record.source is not None and name and "/" not in name:
        kept = record.source.parent / name
        archive = kept if kept.is_file() else None
    return _Linked(record, archive)


def _channel_file(record: PrefixRecord) -> Path | None:
    """Return the package's file in a ``file://`` channel, None if there is none."""
    url = record.text("url")
    path = local_path(url) if url else None
    return path if path is not None and path.is_file() else None


def _digests(package: _Linked) -> tuple[str | None, str | None]:
    try:
        if package.archive is None:
            return None, None
        record = package.record
        md5 = digest_of(package.archive, "md5") if record.digest("md5") or not record.digest("sha256") else None
        return digest_of(package.archive), md5
    except OSError:
        return None, None


def _is_unpacked_from(package: _Linked) -> bool:
    """Return whether the linked package was unpacked from its archive, judging by the file hashes in both."""
    source = package.record.source
    if source is None or package.archive is None:
        return False
    names = ("info/index.json", "info/paths.json", "info/files")
    try:
        packed = _read(package.archive, names)
        for name in names:
            path = source / name
            if packed.get(name) != (path.read_bytes() if path.is_file() else None):
                return False
        others = [source.with_name(source.name + suffix) for suffix in _SUFFIXES]
        # of two archives, either may have been unpacked; an older package has no hashes, but its files must exist
        doubtful = all(path.exists() for path in others) or packed.get("info/paths.json") is None
        return not doubtful or not damaged_files(source)
    except Exception:  # whatever is wrong with the archive: the engine can fetch it again
        return False


def _read(archive: Path, names: Iterable[str]) -> dict[str, bytes | None]:
    import asyncio

    from rattler.package_streaming import PackageArchive

    async def read() -> dict[str, bytes | None]:
        return await (await PackageArchive.from_path(archive)).read_files(names)

    return asyncio.run(read())


def _state(record: PrefixRecord, sha256: str, md5: str | None) -> None:
    """Add the computed digests to a record."""
    stated = {**record.data, "sha256": sha256, **({"md5": md5} if md5 else {})}
    write_below(record.path.parent, record.path.name, json.dumps(stated, indent=2).encode())


def _refused(package: _Linked, sha256: str, md5: str | None) -> EngineError:
    claimed = package.record.package
    if claimed.sha256 and claimed.sha256 != sha256:
        return mismatch(claimed, "sha256", sha256)
    return mismatch(claimed, "md5", str(md5))


def _remove(package: _Linked) -> None:
    """Remove a package from the package cache. Raises EngineError if this fails."""
    source = package.record.source
    if source is None:
        return
    try:
        _take_out(source, *(source.with_name(source.name + suffix) for suffix in _SUFFIXES))
    except OSError as error:
        raise EngineError(
            f"the package {package.stem} in the package cache does not match its digest, and cannot be removed: "
            f"{source}: {error.strerror}",
            code="digest-mismatch",
            hint="Ask its owner to remove it, or use --engine rattler, which has its own package cache.",
        ) from None


def _take_out(*paths: Path) -> None:
    """Remove these paths if they exist. They are renamed first, so that no program finds them half removed.

    Raises OSError.
    """
    there = [path for path in paths if path.exists()]
    if there:
        aside = tempfile.mkdtemp(prefix=".removed-", dir=there[0].parent)
        for path in there:
            path.rename(Path(aside, path.name))
        shutil.rmtree(aside, ignore_errors=True)


# --- packages that a killed conda left partly unpacked ----------------------------------------------------------------
# conda considers a directory a complete package once its metadata exist, and then refuses to link it because files are
# missing: every later creation fails until the directory is removed. conda then unpacks the archive next to it again.


def refused_packages(words: str) -> list[Path]:
    """Return the directories that conda reported as incomplete packages."""
    return [Path(path) for path in dict.fromkeys(found["path"] for found in _REFUSED.finditer(words))]


def remove_refused(words: str) -> list[str]:
    """Remove those directories from their package caches; return the names of the removed packages.

    A directory is kept if it is not an unpacked package in a package cache, is complete now, is not writable, or is
    still changing.
    """
    found = [path for path in refused_packages(words) if _is_kept_unpacked(path) and is_damaged(path)]
    before = [_times(path) for path in found]
    if found:
        time.sleep(_STILL)
    removed = []
    for path, state in zip(found, before, strict=True):
        with suppress(OSError):
            if _times(path) == state:
                _take_out(path)
                removed.append(path.name)
    return removed


def _is_kept_unpacked(path: Path) -> bool:
    return (path / "info" / "index.json").is_file() and (path.parent / "urls.txt").is_file() and not path.is_symlink()


def _times(path: Path) -> dict[Path, int]:
    """Return the files below a directory with their times, to detect changes."""
    return {each: each.lstat().st_mtime_ns for each in path.rglob("*") if each.is_symlink() or each.exists()}
