"""Whether exactly named packages are what they should be: what an engine is to link, and the environment that it made.

Engines check what they download. What none checks (what is kept unpacked), and what conda does not (archives of
``file://`` channels), is checked here before one starts, and what was linked when it has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from cetool.base.errors import EngineError
from cetool.declare.package import Package
from cetool.engines.explicit import mismatch
from cetool.engines.protocol import Progress
from cetool.packages.cache import DamagedPackages
from cetool.packages.hashing import KnownHashes, digest_of
from cetool.packages.integrity import changed_files, damaged_files
from cetool.packages.prefix import PrefixRecord


def check_local_archives(packages: Iterable[Package]) -> None:
    """Raise EngineError where the archive of a ``file://`` URL is not there, or not the one that was asked for."""
    for package in packages:
        if package.local is not None:
            check_archive(package, package.local)


def check_archive(package: Package, path: Path) -> None:
    """Raise EngineError where the file is not the package's archive."""
    algorithm, wanted = package.digest or ("sha256", None)
    try:
        found = digest_of(path, algorithm)
    except OSError as error:
        raise EngineError(
            f"the package {package.file_name} cannot be fetched: {path}: {error.strerror}",
            code="cache-not-writable",
            hint="The channel may have removed it; if a lock names it, `cetool lock` solves again.",
        ) from None
    if wanted is not None and found != wanted:
        raise mismatch(package, algorithm, found)


def refuse_damaged(packages: Iterable[Package], places: Callable[[Package], Iterable[Path]]) -> None:
    """Raise DamagedPackages where what an engine has kept unpacked of a package is not what was packed.

    Engines link it without a look at it, and run its link scripts. ``places`` tells the directories in which the
    package can be kept; the first that has it is the one that is used.
    """
    kept = [
        next((path for place in places(each) if ((path := place / each.stem) / "info").is_dir()), None)
        for each in packages
    ]
    damaged = [path for path in kept if path is not None and damaged_files(path)]
    if damaged:
        raise DamagedPackages(damaged, how="missing or changed")


def check_exactly(records: Iterable[PrefixRecord], packages: Sequence[Package], log: Path) -> None:
    """Raise EngineError unless the records of an environment are of these packages, by their digests, and no other."""
    wanted = {package.stem: package for package in packages}
    found = {f"{record.name}-{record.version}-{record.build}": record.digest("sha256") for record in records}
    odd = sorted(wanted.keys() ^ found.keys())
    for stem, package in wanted.items():
        if package.sha256 and found.get(stem) not in (None, package.sha256):
            odd.append(stem)
    if odd:
        raise EngineError(
            f"the environment is not as it was locked: {', '.join(odd)}",
            code="environment-damaged",
            hint="Another version of the engine may do better: see cetool info, and --engine.",
            log=str(log),
        )


def check_intact(
    prefix: Path,
    records: Sequence[PrefixRecord],
    packages: Sequence[Package],
    known: KnownHashes,
    progress: Progress,
) -> bool:
    """See that what was linked is what the packages had, and tell where nothing says what that is. ``records`` are the
    environment's. False where a link script has changed files.

    Raises DamagedPackages where it was linked from packages that are damaged, and EngineError where files were changed
    since. A package's own link script may change files: where one has run, changed files are told and left alone.
    """
    unknown = [package.file_name for package in packages if package.digest is None]
    if unknown:
        progress.note(f"The lock has no digests of {', '.join(unknown)}: nothing was there to check them by.")
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
            f"the environment is not as it was packed: {told} changed while it was made",
            code="environment-damaged",
            hint="Run the same command again; it is made anew.",
        )
    progress.note(f"Changed since it was linked, as a package's link script may do: {told}")
    return False
