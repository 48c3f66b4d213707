"""Remembered solutions: while the channels do not change, a request has the solution that it had before.

A solution is kept with the state of the channels' indexes, as rattler keeps them: the ETag or the digest of each
``repodata.json``, the digests of all shards (CEP 16), and the times of local files. rattler checks with the server
whether an index has changed, as before each solve. The request itself, the virtual packages, the options of the solver
and the versions of rattler and cetool are the key. The packages are kept as a ``repodata.json``, which rattler reads.

Nothing of a file is believed until the digest of the key, the state and all packages, as rattler has read them, is
right: a file may be damaged, cut off, or replaced by another process.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Container, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cetool import __version__
from cetool.base.codec import canonical_json, sha256_of
from cetool.base.files import put_file
from cetool.base.limits import NOTE, PACKAGE, read_json
from cetool.base.text import pattern
from cetool.declare.package import local_path

if TYPE_CHECKING:
    from rattler import RepoDataRecord

#: What tells the content of an index, by its URL.
_States = dict[str, list[str]]
#: Below the directory with metadata, so that collections remove them.
_PLACE = "solutions"
_SCHEMA = 2
#: How rattler's files with the shards of a channel begin; the length of what HTTP said about them follows.
_SHARDS = b"SHARD-CACHE-V1"
_SHARDS_URL = re.compile(rb"(https?://[\x21-\x7e]+/)repodata_shards\.msgpack\.zst")
_REPODATA = pattern(r"(.+/)(?:current_)?repodata\.json(?:\.zst|\.bz2)?\Z")
#: The files of a local channel that rattler may read.
_LOCAL = ("repodata_shards.msgpack.zst", "repodata.json.zst", "repodata.json.bz2", "repodata.json")


class Solutions:
    """The solutions of one request; ``metadata`` is rattler's directory, ``asked`` identifies the request.

    ``places`` are the URLs of the channels' subdirs, which end with a slash.
    """

    def __init__(self, metadata: Path, asked: Sequence[object], places: Iterable[str]) -> None:
        import rattler

        self._metadata = metadata
        self._places = sorted(set(places))
        found = {place: local_path(place) for place in self._places}
        self._local = {place: path for place, path in found.items() if path is not None}
        self._remote = [place for place in self._places if place not in self._local]
        versions = [_SCHEMA, __version__, rattler.__version__]
        text = canonical_json([versions, self._places, list(map(repr, asked))])
        self._path = metadata / _PLACE / f"{sha256_of(text.encode())[:40]}.json"
        #: The states of the indexes before and after rattler has read them.
        self._before: _States | None = None
        self._after: _States | None = None
        #: What a solution is kept with.
        self._kept_with: str | None = None

    def look(self) -> None:
        """Note the states of the indexes. Call this before rattler reads them."""
        self._before = self._states()

    def have_changed(self) -> bool:
        """Note the states again; return whether an index has changed, so that rattler may have read another one."""
        self._after = self._states()
        return self._after is not None and self._after != self._before

    def unsure(self) -> list[str]:
        """Return the places that may have no packages although rattler keeps an index: if they have no shards.

        rattler keeps the ``repodata.json`` that a server has removed.
        """
        if self._after is None:
            return []
        found = {place: self._after[place] for place in self._remote}
        return [place for place, states in found.items() if not any(each.startswith("shards ") for each in states)]

    def find(self, empty: Iterable[str] = ()) -> list[RepoDataRecord] | None:
        """Return the packages, if the states of the indexes are still the same.

        Call this when rattler has checked the indexes. ``empty`` are the places in which it has found nothing.
        """
        if self._after is None:
            return None
        state = sha256_of(canonical_json([self._path.stem, self._after, sorted(empty)]).encode())
        self._kept_with = state if self._after == self._before else None
        try:
            return _read(self._path, state)
        except Exception:  # rattler has several for files that it cannot read
            return None

    def remember(self, records: Sequence[RepoDataRecord]) -> None:
        """Keep the packages that were solved, unless an index has changed since before rattler read it."""
        if self._kept_with is not None and self._states() == self._before:
            with suppress(OSError):
                self._path.parent.mkdir(mode=0o700, exist_ok=True)
                put_file(self._path, _document(self._kept_with, records), sync=False)

    def _states(self) -> _States | None:
        """Return the states of all indexes, each of which changes with the index; None if one is unknown."""
        known = _remote_states(self._metadata, self._remote) if self._remote else {}
        known |= {place: _local_state(path) for place, path in self._local.items()}
        return {place: sorted(known[place]) for place in self._places} if all(map(known.get, self._places)) else None


def _local_state(directory: Path) -> list[str]:
    found = []
    for name in _LOCAL:
        with suppress(OSError):
            status = os.stat(directory / name)
            found.append(f"{name} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}")
    return found


def _remote_states(metadata: Path, places: Container[str]) -> _States:
    """Return the states of the indexes of these subdirs that rattler keeps, by their URL."""
    found: _States = {}
    with suppress(OSError):
        for path in metadata.iterdir():
            with suppress(OSError, ValueError, KeyError, TypeError):
                state = None
                if path.name.endswith(".shards-cache-v1"):
                    state = _shards_state(path, places)
                elif path.name.endswith(".info.json"):
                    state = _repodata_state(read_json(path, NOTE, exact=True))
                if state is not None and state[0] in places:
                    found.setdefault(state[0], []).append(state[1])
    return found


def _shards_state(path: Path, places: Container[str]) -> tuple[str, str] | None:
    """Return the URL of the subdir, and the state of its index of shards."""
    with path.open("rb") as file:
        start = file.read(len(_SHARDS) + 4)
        if not start.startswith(_SHARDS):
            return None
        address = _SHARDS_URL.search(file.read(min(int.from_bytes(start[len(_SHARDS) :], "little"), NOTE)))
        place = address[1].decode("ascii") if address is not None else ""
        if place not in places:
            return None
        index = file.read()
    # a server without shards leaves no index here
    return place, f"shards {sha256_of(index)}" if b"shards" in index else "no shards"


def _repodata_state(told: dict[str, Any]) -> tuple[str, str] | None:
    address = _REPODATA.match(told["url"])
    if address is None:
        return None
    return address[1], f"repodata {told.get('blake2_hash') or (told.get('etag'), told['size'], told['mtime_ns'])}"


def _document(state: str, records: Sequence[RepoDataRecord]) -> bytes:
    packages = {record.file_name: _entry(record) for record in records}
    old = {name: packages.pop(name) for name in list(packages) if name.endswith(".tar.bz2")}
    kept = {
        "digest": _digest(state, records),
        "order": [(record.file_name, record.url, record.channel) for record in records],
    }
    info = {"subdir": "noarch"}  # each record has its own
    document = {"info": info, "packages": old, "packages.conda": packages, "cetool": kept}
    return json.dumps(document).encode()


def _entry(record: RepoDataRecord) -> dict[str, Any]:
    told = json.loads(record.to_json())
    return {key: value for key, value in told.items() if key not in ("fn", "url", "channel")}


def _read(path: Path, state: str) -> list[RepoDataRecord] | None:
    """Return the packages of a solution in their order; None if they are not those for this state."""
    from rattler import Channel, SparseRepoData

    kept = read_json(path, PACKAGE, exact=True)["cetool"]
    with SparseRepoData(Channel("file:///"), "noarch", path) as repodata:
        found = {record.file_name: record for record in repodata.load_all_records()}
    records = []
    for name, url, channel in kept["order"]:
        record = found.pop(name)
        record.url, record.channel = url, channel
        records.append(record)
    return records if kept["digest"] == _digest(state, records) else None


def _digest(state: str, records: Sequence[RepoDataRecord]) -> str:
    return sha256_of("\n".join([state, *(record.to_json() for record in records)]).encode())
