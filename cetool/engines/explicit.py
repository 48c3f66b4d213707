"""Exact packages: pass them to an engine, and check that it linked exactly these and that their files are intact.

Engines verify downloads. This module checks before the start what no engine verifies (unpacked packages) and what conda
does not verify (archives of ``file://`` channels), and afterwards what was linked.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cetool.base.errors import EngineError
from cetool.base.urls import redact, split_url, strip_credentials
from cetool.declare.match_fields import PACKAGE_NAME
from cetool.declare.package import Package
from cetool.engines.errors import UnsatisfiableError
from cetool.engines.private import PrivateFiles
from cetool.engines.protocol import EngineRequest, Progress
from cetool.lock.records import fits
from cetool.packages.cache import DamagedPackages
from cetool.packages.hashing import KnownHashes, digest_of
from cetool.packages.integrity import changed_files, damaged_files
from cetool.packages.prefix import PrefixRecord

MARKER = "@EXPLICIT"


def require_sha256(packages: Iterable[Package], engine: str, version: str, since: tuple[int, int]) -> None:
    """Raise EngineError if an engine is too old to support SHA-256 in an explicit file.

    Such a conda rejects the lines; such a mamba installs the packages without verifying them.
    """
    known = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if known < since and any(package.sha256 for package in packages):
        raise EngineError(
            f"{engine} {version} cannot verify locked packages: it does not support SHA-256 in explicit files",
            code="engine-too-old",
            hint=f"Update {engine} to {since[0]}.{since[1]} or later, or use --engine rattler, which is built in.",
        )


def explicit_file(files: PrivateFiles, request: EngineRequest, channels: Sequence[str]) -> Path:
    """Write the ``@EXPLICIT`` file of a request, readable only for the user.

    The URLs of packages get the credentials of their channels in ``channels`` (URLs).
    """
    lines = [with_credentials(package.line, channels) for package in request.exact]
    return files.write("explicit.txt", "\n".join([MARKER, *lines, ""]))


def with_credentials(url: str, channels: Sequence[str]) -> str:
    """Return the URL with the credentials of its channel: same scheme, host and port, and below its path."""
    try:
        package = split_url(url)
        for channel in channels:
            bare = split_url(strip_credentials(channel).rstrip("/"))
            if strip_credentials(channel) != channel and package.is_below(bare):
                below = package._replace(path=package.path[len(bare.path) :]).joined()
                return channel.rstrip("/") + below[len(f"{package.scheme}://{package.place}") :]
    except ValueError:
        return url
    return url


def mismatch(package: Package, algorithm: str, found: str) -> EngineError:
    """Return the error for an archive with a wrong digest."""
    wanted = package.sha256 if algorithm == "sha256" else package.md5
    return EngineError(
        f"the package {package.file_name} from {redact(package.channel)} has a wrong digest: "
        f"its {algorithm.upper().replace('SHA', 'SHA-')} is {found}, expected {wanted}",
        code="digest-mismatch",
        hint="The download was damaged, or the file in the channel was replaced. To accept the new file, update the "
        "digest; `cetool lock SCRIPT` updates a lock.",
    )


def distinct(packages: Sequence[Package]) -> Sequence[Package]:
    """Return the packages. Raises EngineError for a duplicate."""
    names = [package.name for package in packages]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise EngineError(
            f"the lock contains {', '.join(twice)} more than once",
            code="lock-malformed",
            hint="Run `cetool lock SCRIPT` to write the lock again.",
        )
    return packages


def check_local_archives(packages: Iterable[Package]) -> None:
    """Raise EngineError if the archive of a ``file://`` URL is missing or has a wrong digest."""
    for package in packages:
        if package.local is not None:
            check_archive(package, package.local)


def check_archive(package: Package, path: Path) -> None:
    """Raise EngineError if the file is not the package's archive."""
    algorithm, wanted = package.digest or ("sha256", None)
    try:
        found = digest_of(path, algorithm)
    except OSError as error:
        raise EngineError(
            f"cannot read the package {package.file_name}: {path}: {error.strerror}",
            code="cache-not-writable",
            hint="The channel may have removed it. If it is in a lock, run `cetool lock SCRIPT` to solve again.",
        ) from None
    if wanted is not None and found != wanted:
        raise mismatch(package, algorithm, found)


def refuse_damaged(packages: Iterable[Package], places: Callable[[Package], Iterable[Path]]) -> None:
    """Raise DamagedPackages if an engine's unpacked packages are damaged.

    Engines link them unchecked, and run their link scripts. ``places`` returns the directories that may contain a
    package; the first one that does is used.
    """
    kept = [
        next((path for place in places(each) if ((path := place / each.stem) / "info").is_dir()), None)
        for each in packages
    ]
    damaged = [path for path in kept if path is not None and damaged_files(path)]
    if damaged:
        raise DamagedPackages(damaged, how="missing or changed")


def check_exactly(records: Iterable[PrefixRecord], packages: Sequence[Package], log: Path) -> None:
    """Raise EngineError unless the records of an environment are exactly those of these packages, by their digests."""
    wanted = {package.stem: package for package in packages}
    found = {f"{record.name}-{record.version}-{record.build}": record.digest("sha256") for record in records}
    odd = sorted(wanted.keys() ^ found.keys())
    for stem, package in wanted.items():
        if package.sha256 and found.get(stem) not in (None, package.sha256):
            odd.append(stem)
    if odd:
        raise EngineError(
            f"the environment differs from the locked packages: {', '.join(odd)}",
            code="environment-damaged",
            hint="Try another engine with --engine; `cetool info` lists them.",
            log=str(log),
        )


def check_intact(
    prefix: Path,
    records: Sequence[PrefixRecord],
    packages: Sequence[Package],
    known: KnownHashes,
    progress: Progress,
) -> bool:
    """Check that linked files match their packages; return False if a link script has changed some.

    ``records`` are those of the environment. Raises DamagedPackages if the unpacked packages are damaged, and
    EngineError if files were changed while linking. If a link script ran, which may change files, changed files are
    only reported. Packages without digests are reported too.
    """
    unknown = [package.file_name for package in packages if package.digest is None]
    if unknown:
        progress.note(f"Not verified, since the lock has no digests: {', '.join(unknown)}")
    altered = changed_files(prefix, records, known)
    if not altered:
        known.keep()
        return True
    changed = {each.package for each in altered}
    sources = [record.source for record in records if record.stem in changed]
    damaged = [source for source in sources if source and (source / "info").is_dir() and damaged_files(source)]
    if damaged:
        raise DamagedPackages(damaged, how="missing or changed")
    told = ", ".join(each.path for each in altered[:5]) + (", ..." if len(altered) > 5 else "")
    if not any(prefix.glob("bin/.*-post-link.sh")) and not any(prefix.glob("Scripts/.*-post-link.bat")):
        raise EngineError(
            f"files differ from their packages, since they were changed while the environment was made: {told}",
            code="environment-damaged",
            hint="Run the command again to re-create the environment.",
        )
    progress.note(f"Changed after linking, probably by a package's link script: {told}")
    return False


def additions(specs: Iterable[str], pinned: Sequence[Package]) -> tuple[str, ...]:
    """Return the match specs of packages that are not among the pinned ones.

    Raises EngineError, with a hint, if a match spec requires another version than the pinned one.
    """
    there = {package.name: package for package in pinned}
    found = []
    for text in specs:
        if PACKAGE_NAME.fullmatch(text):  # only a name: no need to import the parser
            if text not in there:
                found.append(text)
            continue
        from rattler import MatchSpec

        spec = MatchSpec(text)
        name = getattr(spec.name, "normalized", None)
        if name is None or spec.condition is not None or name not in there:
            found.append(text)
        elif not fits(spec, text, kept := there[name], strictly=True):
            raise UnsatisfiableError(
                f"{redact(text)!r} conflicts with the baseline, which has {name} {kept.version} ({kept.build})",
                code="baseline-conflict",
                hint=f"Remove the baseline's version with `without: [{name}]`, or request a version that matches.",
            )
    return tuple(found)
