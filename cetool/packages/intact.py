"""Compares the files of an environment, or of an unpacked package, with the hashes that their package recorded.

The hashes are those of ``info/paths.json`` (SHA-256), which engines repeat in ``conda-meta/*.json`` as ``paths_data``,
with ``sha256_in_prefix`` for files into which they wrote the prefix.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from cetool.base.limits import PACKAGE, parse_json, read_json, read_regular
from cetool.base.values import Value
from cetool.packages.hashed import Hashed
from cetool.packages.verify import is_volatile

CHANGED = "changed"
MISSING = "missing"

_BLOCK = 1 << 20
#: Bytes from which on a file is for a thread.
_LARGE = 1 << 18
_EMPTY = hashlib.sha256().hexdigest()
#: Pairs of a directory in packages and the one in the prefix where its files go.
Places = tuple[tuple[str, str], ...]
_T = TypeVar("_T")
_R = TypeVar("_R")


class Altered(Value):
    """A file that is not as its package has it: ``path`` below the prefix, with slashes; ``package`` the name, version
    and build of the package, as its record's file is called; ``state`` either ``changed`` or ``missing``.
    """

    path: str
    package: str
    state: str


class PackagePath(Value):
    """One path of a package: ``sha256`` is what the file has in the package, ``expected`` what it has in the prefix,
    both lowercase hex digits, None where that is not recorded; ``kind`` the record's ``path_type``.
    """

    path: str
    package: str
    kind: str
    sha256: str | None = None
    expected: str | None = None


def changed_files(
    prefix: Path, records: Mapping[str, dict[str, Any]] | None = None, hashed: Hashed | None = None
) -> list[Altered]:
    """What is not as the packages' ``records`` have it, by path; where they are None they are read, and OSError or
    ValueError is raised for one that is broken.

    Files that Python or linking make and take away again are left out. One that several packages brought is whole if
    it is as one of them has it. A file without a recorded hash only has to be there. What ``hashed`` knows is not read,
    and it learns what was.
    """
    records = package_records(prefix) if records is None else records
    places = _python_places(records.values())
    whole, rest = ({}, records.keys()) if hashed is None else _known_to_be_whole(records, places, hashed)
    owners: dict[str, list[PackagePath]] = {}
    for package in rest:
        for entry in _paths_of(records[package], package, places, whole):
            owners.setdefault(entry.path, []).append(entry)
    states = in_parallel(
        lambda entries: _state(prefix, entries, owners, whole),
        list(owners.values()),
        lambda entries: f"{prefix}/{entries[0].path}",
    )
    altered = []
    for entries, state in zip(owners.values(), states, strict=True):
        entry = entries[-1]
        if state:
            altered.append(Altered(entry.path, entry.package, state))
        elif hashed is not None and len(entries) == 1 and _is_as_packed(entry):
            hashed.learn(entry.package, entry.path, str(entry.sha256))
    return sorted(altered)


def _is_as_packed(entry: PackagePath) -> bool:
    return entry.kind == "hardlink" and entry.sha256 is not None and entry.sha256 == entry.expected


def package_paths(prefix: Path) -> list[PackagePath]:
    """All paths of the environment's conda packages, by their records; raises OSError or ValueError for broken ones."""
    records = package_records(prefix)
    places = _python_places(records.values())
    return [entry for package, record in records.items() for entry in _paths_of(record, package, places)]


def package_records(prefix: Path) -> dict[str, dict[str, Any]]:
    """The package records by the stems of their files; raises OSError or ValueError for broken ones."""
    records: dict[str, dict[str, Any]] = {}
    for path in sorted((prefix / "conda-meta").glob("*.json")):
        records[path.stem] = record = read_json(path, PACKAGE)
        if not isinstance(record, dict):
            raise ValueError(f"{path.name} is no package record")
    return records


def _known_to_be_whole(
    records: Mapping[str, dict[str, Any]], places: Places, hashed: Hashed
) -> tuple[dict[str, tuple[str, str]], Collection[str]]:
    """The paths of which it is known that they are whole: the package, and the hash that the file has in it.

    With them come the packages that have any other.
    """
    whole: dict[str, tuple[str, str]] = {}
    rest = []
    for package, record in records.items():
        entries = _entries(record)
        hashes = {
            _placed(entry["_path"], record, places): entry["sha256"]
            for entry in entries
            if entry.get("sha256") and not entry.get("prefix_placeholder") and isinstance(entry.get("_path"), str)
        }
        found = {path: (package, hashes[path]) for path in hashed.whole(package, record, hashes.items())}
        whole.update(found)
        files = record.get("files")
        listed = files if isinstance(files, list) else ()
        if len(found) < len(entries) or not all(name in found for name in listed if isinstance(name, str)):
            rest.append(package)
    return whole, rest


def damaged_files(directory: Path) -> list[str]:
    """The paths of an unpacked package, as it lies in a package cache, that are missing or not as its own
    ``info/paths.json`` has them. A package of old, which has no such file, is only looked at for what is missing.
    """
    try:
        listing = read_regular(directory / "info" / "paths.json", PACKAGE)
    except FileNotFoundError:
        return _missing_files(directory)
    except OSError:
        return ["info/paths.json"]
    try:
        entries = [
            PackagePath(entry["_path"], directory.name, entry["path_type"], entry.get("sha256"), entry.get("sha256"))
            for entry in parse_json(listing)["paths"]
        ]
        for entry in entries:
            if not all(isinstance(text, str) for text in (entry.path, entry.kind, entry.sha256 or "")):
                raise ValueError(f"an entry of {directory.name} is not one")
    except (ValueError, KeyError, TypeError, AttributeError):
        return ["info/paths.json"]
    owners = {entry.path: [entry] for entry in entries}
    states = in_parallel(
        lambda entry: _state(directory, [entry], owners, {}), entries, lambda entry: f"{directory}/{entry.path}"
    )
    return [entry.path for entry, state in zip(entries, states, strict=True) if state]


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file's content, 64 hex digits. Raises OSError."""
    return digest_of(path, "sha256")


def digest_of(path: str | Path, algorithm: str) -> str:
    """The digest of a file's content by an algorithm of hashlib, lowercase hex digits. Raises OSError."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    # environments have thousands of small files, of which a file object would cost more than the digest
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe in a file's place would hold us
    try:
        size = min(os.fstat(descriptor).st_size + 1, _BLOCK)
        while block := os.read(descriptor, size):
            digest.update(block)
    finally:
        os.close(descriptor)
    return digest.hexdigest()


def _python_places(records: Iterable[dict[str, Any]]) -> Places:
    """Where the files of a noarch Python package go: pairs of the directory in the package and that in the prefix."""
    python = next((record for record in records if record.get("name") == "python"), {})
    version = ".".join(str(python.get("version", "")).split(".")[:2])
    windows = str(python.get("subdir", "")).startswith("win")
    packages = python.get("python_site_packages_path")
    if not isinstance(packages, str) or not packages:
        packages = "Lib/site-packages" if windows else f"lib/python{version}/site-packages"
    return (("site-packages/", packages + "/"), ("python-scripts/", "Scripts/" if windows else "bin/"))


def _placed(name: str, record: dict[str, Any], places: Places) -> str:
    """The path in the prefix. Of noarch Python packages conda records paths as they are in the package."""
    if record.get("noarch") == "python" or record.get("package_type") == "noarch_python":
        for packed, placed in places:
            if name.startswith(packed):
                return placed + name.removeprefix(packed)
    return name


def _entries(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    data = record.get("paths_data")
    entries = data.get("paths") if isinstance(data, dict) else None
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _paths_of(
    record: dict[str, Any], package: str, places: Places, whole: Container[str] = ()
) -> Iterator[PackagePath]:
    """The paths of a package but for those that are ``whole``."""
    listed = set()
    for entry in _entries(record):
        name = entry.get("_path")
        if not isinstance(name, str) or not name:
            continue
        name = _placed(name, record, places)
        listed.add(name)
        if name in whole:
            continue
        own = entry.get("sha256")
        replaced = entry.get("prefix_placeholder")
        expected = entry.get("sha256_in_prefix") or (None if replaced else own)
        kind = str(entry.get("path_type", "hardlink"))
        if not is_volatile(name) and kind != "pyc_file":
            yield PackagePath(name, package, kind, own or None, expected or None)
    files = record.get("files")
    for name in files if isinstance(files, list) else ():
        if isinstance(name, str) and name not in listed and name not in whole and not is_volatile(name):
            yield PackagePath(name, package, "hardlink")


def _state(
    root: Path,
    entries: Sequence[PackagePath],
    owners: Mapping[str, list[PackagePath]],
    whole: Mapping[str, tuple[str, str]],
) -> str | None:
    """What is wrong with a path that these packages brought; None where it is as one of them has it."""
    states = [_state_of(root, entry, owners, whole) for entry in entries]
    return None if None in states else states[-1]


def _state_of(
    root: Path,
    entry: PackagePath,
    owners: Mapping[str, list[PackagePath]],
    whole: Mapping[str, tuple[str, str]],
) -> str | None:
    path = f"{root}/{entry.path}"
    try:
        if not os.path.lexists(path):
            return MISSING
        if entry.kind == "directory":
            return None if os.path.isdir(path) else CHANGED
        if entry.kind == "softlink":
            return _link_state(root, path, entry, owners, whole)
        if entry.expected is None:
            return None
        return None if sha256_of(path) == entry.expected else CHANGED
    except (OSError, ValueError):  # a directory in its place, a link to nowhere, a file that may not be read
        return CHANGED


def _link_state(
    root: Path,
    path: str,
    entry: PackagePath,
    owners: Mapping[str, list[PackagePath]],
    whole: Mapping[str, tuple[str, str]],
) -> str | None:
    """A symbolic link's recorded hash is that of the file it led to when the package was built."""
    if not os.path.islink(path):
        return CHANGED
    if entry.sha256 in (None, _EMPTY):  # it led to a directory, or nowhere
        return None
    top = os.path.realpath(root)
    target = os.path.relpath(os.path.realpath(path), top).replace(os.sep, "/")
    there = [(each.package, each.sha256) for each in owners.get(target, ())]
    there += [whole[target]] if target in whole else []
    if there:
        # what that file has in it is told for the file itself; one of another package may be of another version
        of_same = [sha256 for package, sha256 in there if package == entry.package and sha256 is not None]
        return None if not of_same or entry.sha256 in of_same else CHANGED
    if target.startswith("../"):  # the machine's own
        return None
    return None if os.path.isfile(path) and sha256_of(path) == entry.sha256 else CHANGED


def _missing_files(directory: Path) -> list[str]:
    try:
        names = read_regular(directory / "info" / "files", PACKAGE).decode("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ["info/files"]
    return [name for name in names if name and not os.path.lexists(directory / name)]


def in_parallel(work: Callable[[_T], _R], items: Sequence[_T], path_of: Callable[[_T], str]) -> list[_R]:
    """The results in the order of the items, each of which has a file at ``path_of`` it.

    Hashing a large file leaves Python's lock: threads do that. Of small ones, which are most, threads would only
    quarrel about it. Where it is interrupted, what has not begun is not begun any more.
    """
    from concurrent.futures import ThreadPoolExecutor

    large = [number for number, item in enumerate(items) if _size(path_of(item)) > _LARGE]
    pool = ThreadPoolExecutor(max_workers=min(8, (os.cpu_count() or 1) + 2)) if len(large) > 1 else None
    try:
        begun = {} if pool is None else {number: pool.submit(work, items[number]) for number in large}
        results = [None if number in begun else work(item) for number, item in enumerate(items)]
        for number, future in begun.items():
            results[number] = future.result()
        return cast("list[_R]", results)
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return 0
