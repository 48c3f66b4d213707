"""Whether conda and mamba linked the packages that were asked for: what they keep, compared with its archive.

Their package caches are the user's, and filled by other programs, too. conda takes what is unpacked there if the MD5
in its record agrees, or if that has none; mamba believes the record's digests; conda computes no digest of ``file://``
archives. So once they have linked, each package's archive is hashed and compared with the digests that the channel or
the lock gave, and what is unpacked with the archive. What does not agree is removed from the package cache, so that the
engine fetches it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from cetool.base.errors import EngineError
from cetool.base.values import Value
from cetool.declare.package import Package, local_path
from cetool.engines.explicit import mismatch
from cetool.engines.protocol import CreateRequest, Explain, Progress
from cetool.packages.intact import damaged_files, digest_of, in_parallel, package_records
from cetool.packages.verify import linked_from

_SUFFIXES = (".conda", ".tar.bz2")


class _Linked(Value):
    """A package of an environment: its record's file, the record, the archive and where it is unpacked."""

    path: Path
    record: Mapping[str, Any]
    source: Path | None
    archive: Path | None

    @property
    def stem(self) -> str:
        return self.path.stem

    def claimed(self, algorithm: str) -> str | None:
        """The digest in the record, which the channel or the lock gave."""
        value = self.record.get(algorithm)
        return value.lower() if isinstance(value, str) and value else None


def verified(make: Callable[[CreateRequest], Explain], request: CreateRequest, progress: Progress) -> Explain:
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
    explain = make(request._replace(meanwhile=None))
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
        records = package_records(prefix)
    except (OSError, ValueError):  # the look at the whole environment says it better
        return []
    packages = [_linked(prefix, stem, record) for stem, record in records.items()]
    sums = in_parallel(_digests, packages, lambda package: str(package.archive or prefix))
    odd = []
    for package, (sha256, md5) in zip(packages, sums, strict=True):
        if sha256 is None:
            if package.stem not in fresh:
                odd.append(package)
            continue
        agrees = [
            wanted == found for kind, found in (("sha256", sha256), ("md5", md5)) if (wanted := package.claimed(kind))
        ]
        local = package.archive is not None and package.archive == _channel_file(package.record)
        if not all(agrees):
            if local:
                raise _refused(package, sha256, md5)
            odd.append(package)
        elif (not agrees and not local and package.stem not in fresh) or not _is_unpacked_from(package):
            odd.append(package)
        elif not (package.claimed("sha256") and package.claimed("md5")):
            _state(package, sha256, md5)
    return odd


def _linked(prefix: Path, stem: str, record: Mapping[str, Any]) -> _Linked:
    source = linked_from(record)
    archive = _channel_file(record)
    if archive is None and source is not None:
        name = record.get("fn")
        kept = source.parent / name if isinstance(name, str) and "/" not in name else None
        archive = kept if kept is not None and kept.is_file() else None
    return _Linked(prefix / "conda-meta" / f"{stem}.json", record, source, archive)


def _channel_file(record: Mapping[str, Any]) -> Path | None:
    """The file that a ``file://`` channel has of the package."""
    url = record.get("url")
    path = local_path(url) if isinstance(url, str) else None
    return path if path is not None and path.is_file() else None


def _digests(package: _Linked) -> tuple[str | None, str | None]:
    try:
        if package.archive is None:
            return None, None
        md5 = digest_of(package.archive, "md5") if package.claimed("md5") or not package.claimed("sha256") else None
        return digest_of(package.archive, "sha256"), md5
    except OSError:
        return None, None


def _is_unpacked_from(package: _Linked) -> bool:
    """Whether what was linked was unpacked from the archive, by the hashes of its files that both have."""
    if package.source is None or package.archive is None:
        return False
    names = ("info/index.json", "info/paths.json", "info/files")
    try:
        packed = _read(package.archive, names)
        for name in names:
            path = package.source / name
            if packed.get(name) != (path.read_bytes() if path.is_file() else None):
                return False
        others = [package.source.with_name(package.source.name + suffix) for suffix in _SUFFIXES]
        # of two archives either can be unpacked there; a package of old has no hashes, so its files have to be there
        doubtful = all(path.exists() for path in others) or packed.get("info/paths.json") is None
        return not doubtful or not damaged_files(package.source)
    except Exception:  # whatever is wrong with an archive: the engine can fetch it again
        return False


def _read(archive: Path, names: Iterable[str]) -> dict[str, bytes | None]:
    import asyncio

    from rattler.package_streaming import PackageArchive

    async def read() -> dict[str, bytes | None]:
        return await (await PackageArchive.from_path(archive)).read_files(names)

    return asyncio.run(read())


def _state(package: _Linked, sha256: str, md5: str | None) -> None:
    """Complete a record by the digests that were computed."""
    record = {**package.record, "sha256": sha256, **({"md5": md5} if md5 else {})}
    package.path.write_text(json.dumps(record, indent=2), encoding="utf-8")


def _refused(package: _Linked, sha256: str, md5: str | None) -> EngineError:
    name, version, build, subdir, url = (
        str(package.record.get(key)) for key in ("name", "version", "build", "subdir", "url")
    )
    claimed = Package(name, version, build, subdir, url, package.claimed("sha256"), package.claimed("md5"))
    if claimed.sha256 and claimed.sha256 != sha256:
        return mismatch(claimed, "sha256", sha256)
    return mismatch(claimed, "md5", str(md5))


def _remove(package: _Linked) -> None:
    """Take a package out of the package cache. Renamed first: no program should find it half removed."""
    if package.source is None:
        return
    beside = [package.source.with_name(package.source.name + suffix) for suffix in _SUFFIXES]
    there = [path for path in (package.source, *beside) if path.exists()]
    try:
        if there:
            aside = tempfile.mkdtemp(prefix=".removed-", dir=package.source.parent)
            for path in there:
                path.rename(Path(aside, path.name))
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise EngineError(
            f"the package cache has another {package.stem} than the one that was asked for, "
            f"and it cannot be removed: {package.source}: {error.strerror}",
            code="digest-mismatch",
            hint="Ask its owner to remove it, or use --engine rattler, which has a package cache of its own.",
        ) from None
