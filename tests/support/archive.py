"""Writes conda packages and the repodata of a channel, with nothing but the standard library.

A package is a ``.conda`` file (CEP 35: an uncompressed zip of two zstandard tarballs) or a ``.tar.bz2``. Zstandard's
raw blocks need no compressor, so a ``.conda`` costs no more than copying its files. Everything is deterministic:
times, owners and order are fixed.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: The placeholder for the prefix in files of packages, replaced when they are linked.
PLACEHOLDER = "/opt/cetool-test-channel/" + "placehold_" * 22
#: The time of every file and package, in seconds since the epoch.
TIMESTAMP = 1_700_000_000

_BLOCK = 1 << 17


@dataclass(frozen=True)
class Entry:
    """One file of a package: its path in the prefix with its bytes, or the target of a symbolic link.

    ``placeholder`` is the text in it that linking replaces by the prefix; in a file that is no UTF-8 text it is
    replaced as in a binary.
    """

    path: str
    data: bytes = b""
    executable: bool = False
    link: str | None = None
    placeholder: str | None = None

    def as_path_record(self) -> dict[str, Any]:
        """Return the file's record in ``info/paths.json``."""
        record: dict[str, Any] = {
            "_path": self.path,
            "path_type": "hardlink" if self.link is None else "softlink",
            "sha256": hashlib.sha256(self.data).hexdigest(),
            "size_in_bytes": len(self.data),
        }
        if self.placeholder is not None:
            record["file_mode"] = "text" if _is_text(self.data) else "binary"
            record["prefix_placeholder"] = self.placeholder
        return record


@dataclass(frozen=True)
class Package:
    """A conda package: its record and its files. ``noarch`` is ``python``, ``generic`` or None."""

    name: str
    version: str
    entries: tuple[Entry, ...] = ()
    depends: tuple[str, ...] = ()
    build: str = "0"
    subdir: str = "noarch"
    noarch: str | None = "generic"
    entry_points: tuple[str, ...] = ()
    suffix: str = ".conda"
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """``name-version-build``."""
        return f"{self.name}-{self.version}-{self.build}"

    def index(self) -> dict[str, Any]:
        """Return the contents of ``info/index.json``."""
        record: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "build": self.build,
            "build_number": 0,
            "depends": list(self.depends),
            "subdir": self.subdir,
            "timestamp": TIMESTAMP * 1000,
            "license": "NOASSERTION",
            **self.extra,
        }
        if self.noarch:
            record["noarch"] = self.noarch
        return record


def write_package(package: Package, channel: Path) -> dict[str, Any]:
    """Write the package into its directory of the channel and return its record for repodata."""
    info = [Entry(f"info/{name}", content) for name, content in _info_files(package).items()]
    files = list(package.entries)
    if package.suffix == ".conda":
        data = _conda(package.stem, _tar(files), _tar(info))
    else:
        data = _tar([*info, *files], compressed=True)
    directory = channel / package.subdir
    directory.mkdir(parents=True, exist_ok=True)
    (directory / (package.stem + package.suffix)).write_bytes(data)
    return {
        **package.index(),
        "md5": hashlib.md5(data, usedforsecurity=False).hexdigest(),
        "sha256": hashlib.sha256(data).hexdigest(),
        "size": len(data),
    }


def write_repodata(records: Mapping[str, Mapping[str, Any]], subdir: str, channel: Path) -> None:
    """Write ``repodata.json`` of one subdirectory: file names to records, without those of other subdirectories."""
    mine = {name: dict(record) for name, record in sorted(records.items()) if record["subdir"] == subdir}
    repodata = {
        "info": {"subdir": subdir},
        "packages": {name: record for name, record in mine.items() if name.endswith(".tar.bz2")},
        "packages.conda": {name: record for name, record in mine.items() if name.endswith(".conda")},
        "removed": [],
        "repodata_version": 1,
    }
    (channel / subdir).mkdir(parents=True, exist_ok=True)
    (channel / subdir / "repodata.json").write_text(json.dumps(repodata, indent=1), encoding="utf-8")


def zstd_stored(data: bytes) -> bytes:
    """Return the data as a zstandard frame of raw blocks (RFC 8878, 3.1.1): valid, and made without a compressor."""
    # descriptor 0xC0: eight bytes of content size follow, no checksum; window 0x38: 128 KiB, as large as one block
    parts = [b"\x28\xb5\x2f\xfd\xc0\x38", len(data).to_bytes(8, "little")]
    starts = range(0, max(len(data), 1), _BLOCK)
    for start in starts:
        block = data[start : start + _BLOCK]
        last = start == starts[-1]
        parts += [(last | len(block) << 3).to_bytes(3, "little"), block]
    return b"".join(parts)


def _conda(stem: str, files: bytes, info: bytes) -> bytes:
    members = {
        "metadata.json": json.dumps({"conda_pkg_format_version": 2}).encode(),
        f"pkg-{stem}.tar.zst": zstd_stored(files),
        f"info-{stem}.tar.zst": zstd_stored(info),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, (2023, 11, 14, 22, 13, 20)), data)
    return buffer.getvalue()


def _info_files(package: Package) -> dict[str, bytes]:
    contents: dict[str, Any] = {
        "index.json": package.index(),
        "about.json": {"summary": f"{package.name}, made for cetool's tests"},
        "paths.json": {"paths": [entry.as_path_record() for entry in package.entries], "paths_version": 1},
    }
    if package.noarch == "python":
        noarch = {"type": "python", "entry_points": list(package.entry_points)}
        contents["link.json"] = {"noarch": noarch, "package_metadata_version": 1}
    files = {name: json.dumps(value, indent=1).encode() for name, value in contents.items()}
    files["files"] = "".join(f"{entry.path}\n" for entry in package.entries).encode()
    # the older form of prefix_placeholder, which conda still consults in .tar.bz2 packages
    replaced = [entry.as_path_record() for entry in package.entries if entry.placeholder is not None]
    if replaced:
        lines = (f'"{r["prefix_placeholder"]}" {r["file_mode"]} "{r["_path"]}"\n' for r in replaced)
        files["has_prefix"] = "".join(lines).encode()
    return files


def _tar(entries: list[Entry], *, compressed: bool = False) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for entry in entries:
            member = tarfile.TarInfo(entry.path)
            member.mtime = TIMESTAMP
            member.mode = 0o755 if entry.executable else 0o644
            if entry.link is not None:
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, entry.link, 0o777
            else:
                member.size = len(entry.data)
            archive.addfile(member, io.BytesIO(entry.data))
    return bz2.compress(buffer.getvalue()) if compressed else buffer.getvalue()


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in data
