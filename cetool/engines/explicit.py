"""Packages that are named exactly: how an engine gets them, and whether it linked just these, as they were packed.

Engines check what they download. What none checks (what is kept unpacked), and what conda does not (archives of
``file://`` channels), is checked here before one starts, and what was linked when it has ended.
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
    """Raise EngineError where an engine is too old to know SHA-256 in an explicit file.

    Such a conda refuses the lines; such a mamba installs what it gets without a look at it.
    """
    known = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if known < since and any(package.sha256 for package in packages):
        raise EngineError(
            f"{engine} {version} cannot verify the packages of a lock: it does not know SHA-256 in an explicit file",
            code="engine-too-old",
            hint="Update it, or use --engine rattler, which is built in.",
        )


def explicit_file(files: PrivateFiles, request: EngineRequest, channels: Sequence[str]) -> Path:
    """The ``@EXPLICIT`` file of a request, for the user's eyes only: credentials of ``channels`` (URLs) are put back
    into the URLs of their packages.
    """
    lines = [with_credentials(package.line, channels) for package in request.exact]
    return files.write("explicit.txt", "\n".join([MARKER, *lines, ""]))


def with_credentials(url: str, channels: Sequence[str]) -> str:
    """The URL with the credentials of the channel that it is in: on the same scheme, host and port, below its path."""
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
    """The error for an archive that is not the one that was asked for."""
    wanted = package.sha256 if algorithm == "sha256" else package.md5
    return EngineError(
        f"the package {package.file_name} of {redact(package.channel)} is not the one that was asked for: "
        f"its {algorithm.upper().replace('SHA', 'SHA-')} is {found}, and not {wanted}",
        code="digest-mismatch",
        hint="The download was damaged, or the file was replaced in the channel. If the new file is wanted, "
        "write its digest; `cetool lock` updates a lock.",
    )


def distinct(packages: Sequence[Package]) -> Sequence[Package]:
    """The packages. Raises EngineError for one named twice."""
    names = [package.name for package in packages]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise EngineError(f"the lock names {', '.join(twice)} more than once", code="lock-malformed", hint="Lock anew.")
    return packages


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


def additions(specs: Iterable[str], pinned: Sequence[Package]) -> tuple[str, ...]:
    """The match specs that ask for a package which is not among the pinned ones.

    Raises EngineError, with the way out, where one asks for another version than is pinned.
    """
    there = {package.name: package for package in pinned}
    found = []
    for text in specs:
        if PACKAGE_NAME.fullmatch(text):  # a name alone: told without the import of a parser
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
                f"{redact(text)!r} does not fit the baseline, which has {name} {kept.version} ({kept.build})",
                code="baseline-conflict",
                hint=f"Take the baseline's out, and what is asked for is put in: without: [{name}]. "
                "Or ask for a version that fits.",
            )
    return tuple(found)
