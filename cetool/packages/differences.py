"""Find how an environment has changed since it was made: files changed, removed or added, and packages likewise.

Files of conda packages are compared with ``paths_data`` (:mod:`cetool.packages.integrity`), files of PyPI packages
with the RECORD of their distribution (PEP 376, PEP 627). A file that belongs to no package was either made by a link
script or added later; the kernel's change time (``ctime``) distinguishes the two.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cetool.packages.distributions import Distribution, pypi_distributions, read_origins
from cetool.packages.hashing import Watch, digest_of, in_parallel
from cetool.packages.integrity import CHANGED, MISSING, changed_files, listed_files
from cetool.packages.prefix import PrefixRecord, package_paths, read_history, sound_records

REMOVED, ADDED = "removed", "added"

#: Files in ``conda-meta`` other than package records, written by conda and by cetool.
_OWN = frozenset(
    f"conda-meta/{name}"
    for name in ("history", "frozen", "state", "pinned", "created_at", "cetool", "cetool-pypi", "cetool.new")
)
#: How a distribution from PyPI is shown where a conda package would be named.
_PYPI = "{0.name} {0.version} (PyPI)"


@dataclass(frozen=True, order=True)
class Difference:
    """A file that differs from the file in its package."""

    #: Path below the prefix, with slashes.
    path: str
    #: ``changed``, ``removed`` or ``added``.
    state: str
    #: The package that contains it; None if no package does.
    package: str | None = None
    #: The file in the package cache that has the same damage: re-creating the environment would not repair it.
    cached: str | None = None


@dataclass(frozen=True)
class Verdict:
    """The result of comparing an environment with its packages."""

    #: The number of files compared.
    files: int
    #: Sorted by path.
    differences: tuple[Difference, ...]
    #: Files of no package that are legitimate: those that link scripts made, and those that Python compiled.
    made: tuple[str, ...] = ()
    compiled: tuple[str, ...] = ()


def verify_files(prefix: Path, complete: Path, packages: int, watch: Watch | None = None) -> Verdict:
    """Compare the environment at ``prefix`` with its packages.

    ``complete`` is the file that was written last when the environment was made, ``packages`` the number of conda
    packages that it was made with. Raises OSError if that file or a directory cannot be read.
    """
    sound_list, broken = sound_records(prefix)
    if broken:  # the files of this package are unknown
        return Verdict(len(broken), tuple(Difference(f"conda-meta/{path.name}", CHANGED) for path in broken))
    records = {record.stem: record for record in sound_list}
    since = os.stat(complete).st_ctime_ns
    pypi = list(pypi_distributions(prefix, records.values()))
    listed = {each: list(each.files(prefix)) for each in pypi}
    whole, found = _compare_distributions(prefix, listed)
    for altered in changed_files(prefix, records.values(), watch=watch):
        if altered.path not in whole:  # otherwise a PyPI package has overwritten it
            state = REMOVED if altered.state == MISSING else altered.state
            cached = _damaged_source(altered.path, records[altered.package]) if state == CHANGED else None
            found.append(Difference(altered.path, state, altered.package, cached))
    found += _packages(prefix, records, pypi, since)
    if len(records) < packages and not any(each.state == REMOVED and each.path.endswith(".json") for each in found):
        found.append(Difference("conda-meta", REMOVED))  # a package record is gone, but which one is unknown
    compared = {entry.path for entry in package_paths(records.values())}
    compared |= {path for rows in listed.values() for path, _ in rows}
    known = compared | _OWN | {name for record in records.values() for name in record.files}
    made, compiled = [], []
    for path, born in _files(prefix):
        if path in known or (path.startswith("conda-meta/") and path.endswith(".json")):
            continue
        if path.endswith(".pyc"):
            compiled.append(path)
        elif born <= since:
            made.append(path)
        else:
            found.append(Difference(path, ADDED))
    differences = tuple(sorted(set(found), key=lambda each: each.path))
    return Verdict(len(compared), differences, tuple(sorted(made)), tuple(compiled))


# --- packages ---------------------------------------------------------------------------------------------------------


def _packages(
    prefix: Path, records: Mapping[str, PrefixRecord], pypi: Sequence[Distribution], since: int
) -> Iterator[Difference]:
    """Yield package records that were removed, changed or added, and the same for PyPI packages."""
    linked = linked_packages(prefix)
    for stem in sorted(linked - records.keys()):
        yield Difference(f"conda-meta/{stem}.json", REMOVED, stem)
    for stem in records:
        path = f"conda-meta/{stem}.json"
        if linked and stem not in linked:
            yield Difference(path, ADDED, stem)
        elif _written(prefix / path, since):
            yield Difference(path, CHANGED, stem)
    there = {each.name for each in pypi}
    noted = read_origins(prefix)
    for name, origin in noted.items():
        if name not in there:
            yield Difference(f"{name}-{origin.version}.dist-info", REMOVED, _PYPI.format(origin))
    for each in pypi:
        path = each.directory.relative_to(prefix).as_posix()
        known = noted.get(each.name)
        if noted and (known is None or known.version != each.version):
            yield Difference(path, ADDED, _PYPI.format(each))
        elif _written(each.directory, since):
            yield Difference(path, ADDED if known is None else CHANGED, _PYPI.format(each))
        elif _written(each.directory / "RECORD", since):
            yield Difference(f"{path}/RECORD", CHANGED, _PYPI.format(each))


def _written(path: Path, since: int) -> bool:
    """Return whether something was written there later.

    This compares the modification time, not the change time: a file hard-linked from the installer's cache gets a new
    change time whenever it is linked again.
    """
    try:
        return os.stat(path).st_mtime_ns > since
    except OSError:
        return False


def linked_packages(prefix: Path) -> set[str]:
    """Return the stems of the packages that were linked when the environment was made, according to its history.

    conda writes these lines as ``+channel/subdir::name-version-build``. The set is empty if there are no such lines.
    """
    first = read_history(prefix).split("\n==> ")[0]
    return {line.rpartition("::")[2].strip() for line in first.splitlines() if line.startswith("+") and "::" in line}


def _damaged_source(path: str, record: PrefixRecord) -> str | None:
    """Return the file in the package cache that was linked to ``path``, if it is damaged too."""
    if record.source is None:
        return None
    try:
        listed, placed = listed_files(record.source), record.files
        for number, entry in enumerate(listed):
            mapped = placed[number] if len(placed) >= len(listed) else entry.path
            if path in (mapped, entry.path) and entry.sha256:
                cached = os.path.join(record.source, entry.path)
                return None if digest_of(cached) == entry.sha256 else cached
    except (OSError, ValueError):
        return None
    return None


# --- PyPI -------------------------------------------------------------------------------------------------------------


def _compare_distributions(
    prefix: Path, listed: Mapping[Distribution, list[tuple[str, str]]]
) -> tuple[set[str], list[Difference]]:
    """Return the paths that match their RECORD, and the differences.

    A file listed without a hash only has to exist; a compiled file may be missing.
    """
    rows = [(each, path, digest) for each, entries in listed.items() for path, digest in entries]
    states = in_parallel(lambda row: _state(f"{prefix}/{row[1]}", row[2]), rows, lambda row: f"{prefix}/{row[1]}")
    whole = {path for (_, path, _), state in zip(rows, states, strict=True) if state is None}
    found = [
        Difference(path, state, _PYPI.format(each))
        for (each, path, _), state in zip(rows, states, strict=True)
        if state is not None and path not in whole and not path.endswith(".pyc")
    ]
    return whole, found


def _state(path: str, listed: str) -> str | None:
    algorithm, _, expected = listed.partition("=")
    try:
        if not os.path.lexists(path):
            return REMOVED
        if not expected or path.endswith(".pyc"):
            return None
        digest = base64.urlsafe_b64encode(bytes.fromhex(digest_of(path, algorithm))).rstrip(b"=").decode()
        return None if digest == expected.rstrip("=") else CHANGED
    except (OSError, ValueError):  # not a file any more, or not readable
        return CHANGED


# --- all files --------------------------------------------------------------------------------------------------------


def _files(prefix: Path) -> Iterator[tuple[str, int]]:
    """Yield every file and link below the prefix with its change time in nanoseconds. Raises OSError."""
    pending: list[str] = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(os.path.join(prefix, folder)) as entries:
            for entry in _sorted(entries):
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path)
                else:
                    yield path, entry.stat(follow_symlinks=False).st_ctime_ns


def _sorted(entries: Iterable[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
    return sorted(entries, key=lambda entry: entry.name)
