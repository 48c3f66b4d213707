"""Write an environment as a ``.tar.gz`` that works at any path, without copying or changing the environment.

Files of packages go in as they are in the packages, with the packages' own placeholders; other files that contain the
prefix get one of ours. So the bytes depend on the environment's exact packages and variables alone, not on where it
is, when it was made, or by which server.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import stat
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from cetool.base.below import walk
from cetool.packages.prefix import PackagePath, package_paths, read_record, record_files
from cetool.server.archive.scripts import activate, conda_unpack, deactivate

#: Counts the versions of this writer: archives of another version are written again.
WRITER = 1
#: Replaces the prefix in files that linking wrote, such as scripts of entry points.
PLACEHOLDER = "/cetool/prefix/placeholder"

_LEVEL = 4
_BLOCK = 1 << 20
#: Files larger than this (bytes) that no package lists are not searched for the prefix.
_SEARCHED = 64 << 20
_SCRIPTS = ("bin/activate", "bin/conda-unpack", "bin/deactivate")
#: What belongs to this place, this time or cetool's store, and what Python writes again.
_LEFT_OUT = re.compile(r"conda-meta/(?!history$)[^/]*(?<!\.json)$|conda-meta/cetool\.json$|CACHEDIR\.TAG$")
_BYTECODE = re.compile(r"(?:^|/)__pycache__(?:/|$)|\.pyc$")
#: Fields of package records that say where the package was, and when.
_LOCAL_FIELDS = ("extracted_package_dir", "package_tarball_full_path", "link", "requested_spec", "requested_specs")


def write_archive(prefix: Path, file: IO[bytes], variables: Mapping[str, str]) -> None:
    """Write the environment to a file open for writing; the caller holds the environment in use.

    Activation sets the variables, and those of the packages. Raises OSError.
    """
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="archive") as pool:
        compressed = _Gzip(file, pool)
        with tarfile.open(
            fileobj=cast("BinaryIO", compressed), mode="w|", format=tarfile.PAX_FORMAT, bufsize=_BLOCK
        ) as tar:
            _Packing(prefix, tar, variables).write()
        compressed.finish()


@dataclass(slots=True)
class _Packing:
    """One archive in the making."""

    prefix: Path
    tar: tarfile.TarFile
    #: The environment's own.
    variables: Mapping[str, str]
    #: What ``conda-unpack`` has to change: path, placeholder, whether it is binary.
    changed: list[tuple[str, str, bool]] = field(default_factory=list)

    def write(self) -> None:
        entries = sorted(walk(self.prefix))
        paths = list(map(read_record, record_files(self.prefix)))
        owned = {entry.path: entry for entry in package_paths(paths)}
        parents = {name.rpartition("/")[0] for name, _ in entries}
        installed = []
        for name, status in entries:
            if name in _SCRIPTS or _LEFT_OUT.match(name) or (_BYTECODE.search(name) and name not in owned):
                continue
            if stat.S_ISDIR(status.st_mode):
                if name not in parents:
                    self.tar.addfile(_member(name, tarfile.DIRTYPE, 0o755))
            elif stat.S_ISLNK(status.st_mode):
                self._link(name)
            elif name.endswith(".dist-info/RECORD") and name not in owned:
                installed.append((name, status))
            elif stat.S_ISREG(status.st_mode):
                self._file(name, status, owned.get(name))
        for name, _ in installed:
            # after the files that it lists
            self._add(name, self._record(name))
        self._scripts()

    def _link(self, name: str) -> None:
        target = os.readlink(self.prefix / name)
        if os.path.isabs(target) and Path(target).is_relative_to(self.prefix):
            target = os.path.relpath(target, (self.prefix / name).parent)
        member = _member(name, tarfile.SYMTYPE, 0o777)
        member.linkname = target
        self.tar.addfile(member)

    def _file(self, name: str, status: os.stat_result, entry: PackagePath | None) -> None:
        executable = bool(status.st_mode & 0o100)
        if name.startswith("conda-meta/"):
            return self._add(name, self._metadata(name))
        if entry is not None and entry.placeholder is not None:
            data = self._read(name)
            packed = as_packed(data, self.prefix, entry)
            if packed is not None:
                self.changed.append((name, entry.placeholder, entry.binary))
                return self._add(name, packed, executable)
            return self._add(name, self._marked(name, data), executable)
        written_by_linking = entry is None or entry.kind.endswith("entry_point")
        if written_by_linking and status.st_size <= _SEARCHED:
            return self._add(name, self._marked(name, self._read(name)), executable)
        member = _member(name, tarfile.REGTYPE, 0o755 if executable else 0o644)
        member.size = status.st_size
        with open(self.prefix / name, "rb") as file:
            self.tar.addfile(member, file)

    def _read(self, name: str) -> bytes:
        return (self.prefix / name).read_bytes()

    def _add(self, name: str, data: bytes, executable: bool = False) -> None:
        member = _member(name, tarfile.REGTYPE, 0o755 if executable else 0o644)
        member.size = len(data)
        self.tar.addfile(member, io.BytesIO(data))

    def _marked(self, name: str, data: bytes) -> bytes:
        """Return the bytes with our placeholder for the prefix; unchanged if they are not text."""
        prefix = os.fsencode(self.prefix)
        if prefix not in data or b"\0" in data:
            return data
        self.changed.append((name, PLACEHOLDER, False))
        return data.replace(prefix, PLACEHOLDER.encode())

    def _metadata(self, name: str) -> bytes:
        if not name.endswith(".json"):
            # history says when and by what command; conda requires the file
            return b"" if name.endswith("history") else self._read(name)
        data = {key: value for key, value in json.loads(self._read(name)).items() if key not in _LOCAL_FIELDS}
        for entry in (data.get("paths_data") or {}).get("paths", ()):
            for name in _fields_of_this_prefix(entry):
                entry.pop(name, None)
        return json.dumps(data, indent=2, sort_keys=True).encode()

    def _record(self, name: str) -> bytes:
        """Return a wheel's RECORD without the digests of the files that differ in each prefix."""
        top = os.path.dirname(os.path.dirname(name))
        changed = {path for path, _, _ in self.changed}
        lines = []
        for line in self._read(name).decode("utf-8", "surrogateescape").splitlines():
            path = line.rpartition(",")[0].rpartition(",")[0]
            if _BYTECODE.search(path):
                continue
            relative = os.path.normpath(os.path.join(top, path.strip('"')))
            lines.append(f"{path},,\n" if relative in changed else f"{line}\n")
        return "".join(sorted(lines)).encode("utf-8", "surrogateescape")

    def _scripts(self) -> None:
        variables = {**_package_variables(self.prefix), **self.variables}
        if self.variables:  # where conda and cetool keep them
            state = {"version": 1, "env_vars": dict(sorted(self.variables.items()))}
            self._add("conda-meta/state", json.dumps(state).encode())
        for name, text in (("bin/activate", activate(variables)), ("bin/deactivate", deactivate(variables))):
            self._add(name, self._marked(name, text.encode()))
        self._add("bin/conda-unpack", conda_unpack(sorted(self.changed)).encode(), executable=True)


def as_packed(data: bytes, prefix: Path, entry: PackagePath) -> bytes | None:
    """Return a file as it is in its package, with the placeholder; None if it was changed since it was linked."""
    assert entry.placeholder is not None
    root, placeholder = os.fsencode(prefix), entry.placeholder.encode()
    if entry.binary:
        gap = len(placeholder) - len(root)

        def moved(match: re.Match[bytes]) -> bytes:
            text, zeros = match[1], match[2]
            room = gap * text.count(root)
            return text.replace(root, placeholder) + zeros[room:] if len(zeros) > room else match[0]

        restored = re.sub(b"(" + re.escape(root) + rb"[^\0]*)(\0+)", moved, data)
    else:
        restored = data.replace(root, placeholder)
    if entry.sha256 is not None and hashlib.sha256(restored).hexdigest() != entry.sha256:
        return None
    return restored


def _fields_of_this_prefix(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the fields of a path's record that depend on the prefix in its file."""
    if str(entry.get("path_type", "")).endswith("entry_point"):
        return "sha256_in_prefix", "size_in_bytes", "sha256"
    return ("sha256_in_prefix", "size_in_bytes") if entry.get("prefix_placeholder") else ("sha256_in_prefix",)


def _package_variables(prefix: Path) -> Mapping[str, str]:
    """Return the variables that packages set."""
    found: dict[str, str] = {}
    for path in sorted(prefix.glob("etc/conda/env_vars.d/*.json")):
        found |= {name: value for name, value in _object(path).items() if isinstance(value, str)}
    return found


def _object(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _member(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode = kind, mode
    return member


class _Gzip:
    """A file that compresses what is written to it in blocks, in threads: each block is a gzip member of its own."""

    def __init__(self, file: IO[bytes], pool: ThreadPoolExecutor) -> None:
        self._file, self._pool = file, pool
        self._block = bytearray()
        self._pending: list[Future[bytes]] = []

    def write(self, data: bytes) -> int:
        self._block += data
        while len(self._block) >= _BLOCK:
            self._send(bytes(self._block[:_BLOCK]))
            del self._block[:_BLOCK]
        return len(data)

    def finish(self) -> None:
        """Write what is left."""
        self._send(bytes(self._block))
        for block in self._done(0):
            self._file.write(block)

    def _send(self, block: bytes) -> None:
        for done in self._done(4):
            self._file.write(done)
        self._pending.append(self._pool.submit(gzip.compress, block, _LEVEL, mtime=0))

    def _done(self, most: int) -> Iterator[bytes]:
        """Yield compressed blocks, in order, until at most so many are pending: what is in memory stays bounded."""
        while len(self._pending) > most:
            yield self._pending.pop(0).result()
