"""Remembered solutions: while the channels do not change, a request has the solution that it had before.

A solution is kept with the state of the channels' indexes, as rattler keeps them: the ETag or the digest of each
``repodata.json``, the digests of all shards (CEP 16), and the times of local files. rattler checks with the server
whether an index has changed, as before each solve. The request itself, the virtual packages, the options of the solver
and rattler's version are the key. The packages are kept as small ``repodata.json`` files, which rattler reads.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cetool.base.codec import canonical_json, sha256_of
from cetool.base.limits import NOTE, read_json
from cetool.base.text import pattern
from cetool.declare.package import local_path

if TYPE_CHECKING:
    from rattler import RepoDataRecord

#: Below the directory with metadata, so that collections remove them.
_PLACE = "solutions"
_SCHEMA = 1
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

        text = canonical_json({"schema": _SCHEMA, "rattler": rattler.__version__, "asked": list(map(repr, asked))})
        self._metadata = metadata
        self._path = metadata / _PLACE / sha256_of(text.encode())[:40]
        self._places = sorted(set(places))
        self._state: str | None = None

    def find(self) -> list[RepoDataRecord] | None:
        """Return the packages, if the state of the indexes is still the same.

        Call this when rattler has checked the indexes.
        """
        self._state = state_of(self._metadata, self._places)
        if self._state is None:
            return None
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept = read_json(self._path / "solution.json", NOTE, exact=True)
            if kept["state"] == self._state:
                return _read(self._path, kept)
        return None

    def remember(self, records: Sequence[RepoDataRecord]) -> None:
        """Keep the packages that were solved, unless an index has changed meanwhile or they cannot be kept exactly."""
        if self._state is None or state_of(self._metadata, self._places) != self._state:
            return
        with suppress(OSError):
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            new = Path(tempfile.mkdtemp(prefix=".new-", dir=self._path.parent))
            try:
                _write(new, self._state, records)
                kept = read_json(new / "solution.json", NOTE, exact=True)
                if [each.to_json() for each in _read(new, kept) or ()] == [each.to_json() for each in records]:
                    shutil.rmtree(self._path, ignore_errors=True)
                    new.rename(self._path)
            finally:
                shutil.rmtree(new, ignore_errors=True)


def state_of(metadata: Path, places: Sequence[str]) -> str | None:
    """Return a digest of the state of these indexes, which changes with any of them; None if one is unknown."""
    known = _remote_states(metadata) if any(local_path(place) is None for place in places) else {}
    found = []
    for place in places:
        local = local_path(place)
        state = known.get(place) if local is None else _local_state(local)
        if not state:
            return None
        found.append((place, sorted(state)))
    return sha256_of(canonical_json({"places": found}).encode())


def _local_state(directory: Path) -> list[str]:
    found = []
    for name in _LOCAL:
        with suppress(OSError):
            status = os.stat(directory / name)
            found.append(f"{name} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}")
    return found


def _remote_states(metadata: Path) -> dict[str, list[str]]:
    """Return the states of the indexes that rattler keeps, by the URL of their subdir."""
    found: dict[str, list[str]] = {}
    with suppress(OSError):
        for path in metadata.iterdir():
            with suppress(OSError, ValueError, KeyError, TypeError):
                if path.name.endswith(".shards-cache-v1"):
                    _note_shards(path.read_bytes(), found)
                elif path.name.endswith(".info.json"):
                    _note_repodata(read_json(path, NOTE, exact=True), found)
    return found


def _note_shards(data: bytes, found: dict[str, list[str]]) -> None:
    length = int.from_bytes(data[len(_SHARDS) : len(_SHARDS) + 4], "little")
    begin = len(_SHARDS) + 4 + length
    address = _SHARDS_URL.search(data[:begin])
    if data.startswith(_SHARDS) and address is not None:
        # without an index, the server said that there is none
        state = f"shards {sha256_of(data[begin:])}" if b"shards" in data[begin:] else "no shards"
        found.setdefault(address[1].decode("ascii"), []).append(state)


def _note_repodata(told: dict[str, Any], found: dict[str, list[str]]) -> None:
    address = _REPODATA.match(told["url"])
    if address is not None:
        state = told.get("blake2_hash") or f"{told.get('etag')} {told['size']} {told['mtime_ns']}"
        found.setdefault(address[1], []).append(f"repodata {state}")


def _write(directory: Path, state: str, records: Sequence[RepoDataRecord]) -> None:
    parts: dict[tuple[str, str], dict[str, Any]] = {}
    order = []
    for record in records:
        told = json.loads(record.to_json())
        parts.setdefault((str(record.channel), record.subdir), {})[record.file_name] = told
        order.append(record.file_name)
    named = []
    for number, ((channel, subdir), packages) in enumerate(parts.items()):
        old = {name: each for name, each in packages.items() if name.endswith(".tar.bz2")}
        new = {name: each for name, each in packages.items() if name not in old}
        document = {"info": {"subdir": subdir}, "packages": old, "packages.conda": new}
        (directory / f"{number}.json").write_text(json.dumps(document), encoding="utf-8")
        named.append({"channel": channel, "subdir": subdir, "file": f"{number}.json"})
    kept = {"state": state, "parts": named, "order": order}
    (directory / "solution.json").write_text(json.dumps(kept), encoding="utf-8")


def _read(directory: Path, kept: dict[str, Any]) -> list[RepoDataRecord] | None:
    """Return the packages of a solution in their order; None if one is missing."""
    from rattler import Channel, SparseRepoData

    found: dict[str, RepoDataRecord] = {}
    for part in kept["parts"]:
        path = directory / part["file"]
        path.stat()
        with SparseRepoData(Channel(part["channel"]), part["subdir"], path) as repodata:
            for record in repodata.load_all_records():
                found[record.file_name] = record
    return [found[name] for name in kept["order"]] if len(found) == len(kept["order"]) else None
