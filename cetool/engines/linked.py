"""Whether conda and mamba linked the packages that were asked for: what they keep, compared with its archive.

Their package caches are the user's, and filled by other programs, too. conda takes what is unpacked there if the MD5
in its record agrees, or if that has none; mamba believes the record's digests; conda computes no digest of ``file://``
archives. So once they have linked, each package's archive is hashed and compared with the digests that the channel or
the lock gave, and what is unpacked with the archive. What does not agree is removed from the package cache, so that the
engine fetches it.
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
#: Seconds for which a directory must not change: another conda may be unpacking it this moment.
_STILL = 1.0


@dataclass(frozen=True, slots=True)
class _Linked:
    """A package of an environment, and its archive: the channel's own file, or what is kept of it."""

    record: PrefixRecord
    archive: Path | None

    @property
    def stem(self) -> str:
        return self.record.stem

    @property
    def channel_file(self) -> bool:
        """Whether the archive is the file that a ``file://`` channel has."""
        return self.archive is not None and self.archive == _channel_file(self.record)


def verified(make: Callable[[EngineRequest], Explain], request: EngineRequest, progress: Progress) -> Explain:
    """Have the environment made, and made once more without what was not verified in the package cache.

    Raises EngineError where that does not help.
    """
    explain = make(request)
    odd = _not_verified(request.prefix, ())
    if not odd:
        return explain
    names = ", ".join(package.stem for package in odd)
    progress.note(f"Not what was asked for in the package cache, so fetched again: {names}")
    for package in odd:
        _remove(package)
    shutil.rmtree(request.prefix, ignore_errors=True)
    explain = make(request)
    odd = _not_verified(request.prefix, {package.stem for package in odd})
    if odd:
        names = ", ".join(package.stem for package in odd)
        raise EngineError(
            f"the package cache has other packages than those that were asked for: {names}",
            code="digest-mismatch",
            hint="Remove them there, or use --engine rattler, which has a package cache of its own.",
            log=str(request.log),
        )
    return explain


def _not_verified(prefix: Path, fresh: Collection[str]) -> list[_Linked]:
    """The packages of which it is not known that they are those that were asked for.

    ``fresh`` are those that the engine has fetched just now: the digests of a channel that is not ``file://`` it has
    compared itself. Raises EngineError where a channel's own file is not what its metadata say.
    """
    try:
        packages = list(map(_linked, read_records(prefix)))
    except PackageRecordError:  # the look at the whole environment says it better
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
    """The file that a ``file://`` channel has of the package."""
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
    """Whether what was linked was unpacked from the archive, by the hashes of its files that both have."""
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
        # of two archives either can be unpacked there; a package of old has no hashes, so its files have to be there
        doubtful = all(path.exists() for path in others) or packed.get("info/paths.json") is None
        return not doubtful or not damaged_files(source)
    except Exception:  # whatever is wrong with an archive: the engine can fetch it again
        return False


def _read(archive: Path, names: Iterable[str]) -> dict[str, bytes | None]:
    import asyncio

    from rattler.package_streaming import PackageArchive

    async def read() -> dict[str, bytes | None]:
        return await (await PackageArchive.from_path(archive)).read_files(names)

    return asyncio.run(read())


def _state(record: PrefixRecord, sha256: str, md5: str | None) -> None:
    """Complete a record by the digests that were computed."""
    stated = {**record.data, "sha256": sha256, **({"md5": md5} if md5 else {})}
    write_below(record.path.parent, record.path.name, json.dumps(stated, indent=2).encode())


def _refused(package: _Linked, sha256: str, md5: str | None) -> EngineError:
    claimed = package.record.package
    if claimed.sha256 and claimed.sha256 != sha256:
        return mismatch(claimed, "sha256", sha256)
    return mismatch(claimed, "md5", str(md5))


def _remove(package: _Linked) -> None:
    """Take a package out of the package cache. Raises EngineError where that cannot be done."""
    source = package.record.source
    if source is None:
        return
    try:
        _take_out(source, *(source.with_name(source.name + suffix) for suffix in _SUFFIXES))
    except OSError as error:
        raise EngineError(
            f"the package cache has another {package.stem} than the one that was asked for, "
            f"and it cannot be removed: {source}: {error.strerror}",
            code="digest-mismatch",
            hint="Ask its owner to remove it, or use --engine rattler, which has a package cache of its own.",
        ) from None


def _take_out(*paths: Path) -> None:
    """Remove what is there of these. Renamed first: no program should find it half removed. Raises OSError."""
    there = [path for path in paths if path.exists()]
    if there:
        aside = tempfile.mkdtemp(prefix=".removed-", dir=there[0].parent)
        for path in there:
            path.rename(Path(aside, path.name))
        shutil.rmtree(aside, ignore_errors=True)


# --- packages that a conda which was killed left half unpacked --------------------------------------------------------
# conda takes a directory for a whole package as soon as its metadata are in it, and refuses to link what it then
# misses: every later creation fails, until the directory is removed. It unpacks it again from the archive next to it.


def refused_packages(words: str) -> list[Path]:
    """The directories that are not whole packages, by what conda said when it verified them."""
    return [Path(path) for path in dict.fromkeys(found["path"] for found in _REFUSED.finditer(words))]


def remove_refused(words: str) -> list[str]:
    """Take those directories out of the package cache that they lie in; the names of what is gone from there.

    What is no unpacked package in a package cache, is whole by now, may not be changed, or still changes stays.
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
    """The files below a directory, with their times: those that come or grow change it."""
    return {each: each.lstat().st_mtime_ns for each in path.rglob("*") if each.is_symlink() or each.exists()}
