"""What of an environment is not as it was made: files of conda packages and of PyPI packages that are changed or gone,
files and packages that came later.

conda's files are compared with ``paths_data`` (:mod:`cetool.packages.intact`), those of PyPI packages with the RECORD
of
their distribution (PEP 376, PEP 627). What no package brought was made by a link script, or it came later: the times of
the files tell, which the kernel sets.
"""

from __future__ import annotations

import base64
import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cetool.base.limits import PACKAGE, read_json, read_regular, read_text
from cetool.packages.installed import Distribution, distributions, read_origins
from cetool.packages.intact import CHANGED as CHANGED
from cetool.packages.intact import MISSING, changed_files, digest_of, in_parallel, package_paths, sha256_of

REMOVED, ADDED = "removed", "added"

#: Files of conda's and of cetool's own beside the package records.
_OWN = frozenset(
    f"conda-meta/{name}"
    for name in ("history", "frozen", "state", "pinned", "created_at", "cetool", "cetool-pypi", "cetool.new")
)
#: Told in a package's stead where a distribution has no conda package.
_PYPI = "{0.name} {0.version} (PyPI)"


@dataclass(frozen=True, order=True)
class Difference:
    """A file that is not as it was: ``path`` below the prefix, with slashes; ``state`` one of ``changed``, ``removed``
    and ``added``; ``package`` whose it is, None where it is nobody's; ``cached`` the file in the package cache that is
    damaged in the same way, so that making the environment anew would not mend it.
    """

    path: str
    state: str
    package: str | None = None
    cached: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What a look at an environment found: how many ``files`` were compared, the ``differences`` by path, and what is
    there besides and may be: ``made`` by link scripts when the environment was, and ``compiled`` by Python.
    """

    files: int
    differences: tuple[Difference, ...]
    made: tuple[str, ...] = ()
    compiled: tuple[str, ...] = ()


def verify_files(prefix: Path, complete: Path, packages: int) -> Verdict:
    """Compare the environment at ``prefix``, which was made with so many conda packages; ``complete`` is the file that
    was written last when it was.

    Raises OSError where that file, or a directory, cannot be looked at.
    """
    records, broken = _records(prefix)
    if broken:  # nothing more is known of the files of this package
        return Verdict(len(broken), tuple(Difference(path, CHANGED) for path in broken))
    since = os.stat(complete).st_ctime_ns
    pypi = list(distributions(prefix, records.values()))
    listed = {each: list(_listed(prefix, each)) for each in pypi}
    sound, found = _compare_distributions(prefix, listed)
    whole = {path for path, _ in sound}
    for altered in changed_files(prefix):
        if altered.path not in whole:  # else a PyPI package has put its own there
            state = REMOVED if altered.state == MISSING else altered.state
            cached = _damaged_source(altered.path, records[altered.package]) if state == CHANGED else None
            found.append(Difference(altered.path, state, altered.package, cached))
    found += _packages(prefix, records, pypi, since)
    if len(records) < packages and not any(each.state == REMOVED and each.path.endswith(".json") for each in found):
        found.append(Difference("conda-meta", REMOVED))  # a record, and nothing tells which
    conda = package_paths(prefix)
    known = _OWN | {f"conda-meta/{stem}.json" for stem in records} | {entry.path for entry in conda}
    known |= {name for record in records.values() for name in _names(record)}
    known |= {path for rows in listed.values() for path, _ in rows}
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
    count = len({entry.path for entry in conda} | {path for rows in listed.values() for path, _ in rows})
    return Verdict(count, tuple(sorted(set(found), key=lambda each: each.path)), tuple(sorted(made)), tuple(compiled))


def _records(prefix: Path) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The package records by the stems of their files, and the paths of those that are none."""
    records, broken = {}, []
    for path in sorted((prefix / "conda-meta").glob("*.json")):
        try:
            record = read_json(path, PACKAGE)
            if not isinstance(record, dict) or "name" not in record:
                raise ValueError("it is none")
            records[path.stem] = record
        except (OSError, ValueError):
            broken.append(f"conda-meta/{path.name}")
    return records, broken


def _names(record: Mapping[str, Any]) -> list[str]:
    files = record.get("files")
    return [name for name in files if isinstance(name, str)] if isinstance(files, list) else []


# --- packages ---------------------------------------------------------------------------------------------------------


def _packages(
    prefix: Path, records: Mapping[str, Any], pypi: Sequence[Distribution], since: int
) -> Iterator[Difference]:
    """Package records that are gone, were changed or came later, and the like of PyPI packages."""
    linked = _linked(prefix)
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
    """Whether something was written there later. Not the time of its last change: a file that has another name in the
    installer's cache gets that whenever it is linked once more."""
    try:
        return os.stat(path).st_mtime_ns > since
    except OSError:
        return False


def _linked(prefix: Path) -> set[str]:
    """The stems of the packages that the history has as linked when the environment was made; none where it is silent.

    Its lines are conda's: ``+channel/subdir::name-version-build``.
    """
    try:
        text = read_regular(prefix / "conda-meta" / "history", PACKAGE).decode("utf-8", "replace")
    except OSError:
        return set()
    first = text.split("\n==> ")[0]
    return {line.rpartition("::")[2].strip() for line in first.splitlines() if line.startswith("+") and "::" in line}


def _damaged_source(path: str, record: Mapping[str, Any]) -> str | None:
    """The file in the package cache that was linked to ``path``, if that is not as its package has it either."""
    link = record.get("link")
    source = (link.get("source") if isinstance(link, dict) else None) or record.get("extracted_package_dir")
    if not isinstance(source, str):
        return None
    try:
        listing = read_json(Path(source, "info", "paths.json"), PACKAGE)["paths"]
        names = _names(record)
        for number, entry in enumerate(listing):
            mapped = names[number] if len(names) >= len(listing) else entry["_path"]
            if path in (mapped, entry["_path"]) and entry.get("sha256"):
                cached = os.path.join(source, entry["_path"])
                return None if sha256_of(cached) == entry["sha256"] else cached
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None


# --- PyPI -------------------------------------------------------------------------------------------------------------


def _listed(prefix: Path, distribution: Distribution) -> Iterator[tuple[str, str]]:
    """The files in a distribution's RECORD: the path below the prefix, and ``ALGORITHM=DIGEST``, empty where there is
    none. Files outside the prefix are passed over."""
    place = distribution.directory.parent
    try:
        text = read_text(distribution.directory / "RECORD", PACKAGE)
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except (OSError, ValueError, csv.Error):
        rows = []
        yield (distribution.directory / "RECORD").relative_to(prefix).as_posix(), ""
    top = os.path.normpath(prefix)
    for row in rows:
        if not row or not row[0]:
            continue
        path = os.path.relpath(os.path.normpath(os.path.join(place, row[0])), top).replace(os.sep, "/")
        if not path.startswith("../"):
            yield path, row[1] if len(row) > 1 else ""


def _compare_distributions(
    prefix: Path, listed: Mapping[Distribution, list[tuple[str, str]]]
) -> tuple[list[tuple[str, str]], list[Difference]]:
    """The rows that are as listed, and the differences. What lists no hash has to be there, compiled files do not."""
    rows = [(each, path, digest) for each, entries in listed.items() for path, digest in entries]
    states = in_parallel(lambda row: _state(f"{prefix}/{row[1]}", row[2]), rows, lambda row: f"{prefix}/{row[1]}")
    sound, found = [], []
    for (each, path, digest), state in zip(rows, states, strict=True):
        if state is None:
            sound.append((path, digest))
        elif not path.endswith(".pyc"):
            found.append(Difference(path, state, _PYPI.format(each)))
    whole = {path for path, _ in sound}
    return sound, [each for each in found if each.path not in whole]


def _state(path: str, listed: str) -> str | None:
    algorithm, _, expected = listed.partition("=")
    try:
        if not os.path.lexists(path):
            return REMOVED
        if not expected or path.endswith(".pyc"):
            return None
        digest = base64.urlsafe_b64encode(bytes.fromhex(digest_of(path, algorithm))).rstrip(b"=").decode()
        return None if digest == expected.rstrip("=") else CHANGED
    except (OSError, ValueError):  # no file any more, or one that may not be read
        return CHANGED


# --- all files --------------------------------------------------------------------------------------------------------


def _files(prefix: Path) -> Iterator[tuple[str, int]]:
    """Every file and link below the prefix with the time of its last change, in nanoseconds. Raises OSError."""
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
