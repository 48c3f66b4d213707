"""A synthetic channel with the size and shape of conda-forge, the same for the same seed.

At scale 1 it has 31,771 names, about 600,000 records for ``linux-64`` and 220,000 for ``noarch``. There are libraries
with major versions that exclude each other, extensions with a build for each Python, pure Python packages, variants
that a mutex package keeps apart, and constraints. Names that many others need have many versions, so the packages of a
script with ten names depend on about 30,000 records.

Some libraries have a new major version that only a part of the channel was built for. Every name also has a build for
the major versions before those, so every set of names has a solution, but the newest builds do not fit together.

It has ``repodata.json.zst`` and, below ``shards``, sharded repodata (CEP 16). The newest builds of names that many
others need can be installed: :func:`archive` makes the files when they are asked for.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import zstandard

NAMES = 31_771
#: The Pythons, oldest first, and the part of the channel's history at which each begins.
PYTHONS = (("3.9", 0.0), ("3.10", 0.15), ("3.11", 0.3), ("3.12", 0.5), ("3.13", 0.7), ("3.14", 0.9))
#: Names that are always there; everything else depends on the first of them most often. Engines add pip to python.
_OF_PYTHON = (
    *("libgcc", "libstdcxx", "zlib", "openssl", "xz", "readline", "libffi", "bzip2", "ncurses", "sqlite", "tk"),
    *("libexpat", "libuuid", "libnsl", "ca-certificates", "tzdata", "icu"),
)
CORE = ("python", *_OF_PYTHON, "libgfortran", "libopenblas", "libblas", "libcblas", "liblapack", "numpy", "pip")
_KINDS_OF_CORE = {"python": "python", "numpy": "extension", "pip": "pure", "tzdata": "data", "ca-certificates": "data"}
#: Names that many others need: how many there are at most, and the part of all names.
_POPULAR, _POPULAR_PART = 2000, 0.12
#: How many names have builds that can be installed.
_INSTALLABLE = 1500
#: Times of builds: for the versions that the whole channel is built for, and for the newest of everything.
_PINNED, _NEWEST = 1.0, 2.0
#: Builds before this time are ``.tar.bz2`` files.
_CONDA_FILES = 0.4
_SYSTEM = {"linux-64": "__glibc >=2.17,<3.0.a0", "osx-arm64": "__osx >=11.0", "win-64": "__win"}
_KINDS = ("library", "extension", "pure", "data")
_WEIGHTS = (30, 28, 38, 4)
#: Milliseconds from the first record to the last: ten years.
_SPAN, _BEGIN = 315_360_000_000, 1_450_000_000_000
_COMPRESS = zstandard.ZstdCompressor(level=3)


@dataclass
class Release:
    """A version of a name: when it was published (0 to 1), and its major version."""

    version: str
    at: float
    major: int


@dataclass
class Named:
    """A name: its kind, its versions, oldest first, and the names that it depends on."""

    name: str
    kind: str
    releases: list[Release]
    needs: list[str] = field(default_factory=list)
    constrains: str = ""
    installable: bool = False
    migrated: bool = False

    @property
    def pinned(self) -> Release:
        """The release that the whole channel is built for: not of a new major version of a library."""
        last = self.releases[-1]
        older = [each for each in self.releases if each.major < last.major]
        begun = next(each.at for each in self.releases if each.major == last.major)
        return older[-1] if self.kind == "library" and older and begun > 0.9 else last


def write_big_channel(
    root: Path, *, scale: float = 0.1, seed: int = 1, subdirs: Sequence[str] = ("linux-64", "osx-arm64", "win-64")
) -> Path:
    """Write the channel into a directory below ``root``, unless it is there; return the directory."""
    place = root / f"big-{seed}-{scale:g}"
    if (place / "complete").exists():
        return place
    names = _names(scale, seed)
    for subdir in (*subdirs, "noarch"):
        records = _records(names, subdir, seed)
        write_subdir(place / subdir, subdir, records)
    (place / "complete").write_text(str(len(names)))
    return place


def chosen(count: int, *, scale: float = 0.1, seed: int = 1) -> list[str]:
    """Return names for a script: python, numpy, and packages that need many others."""
    return ["python", "numpy", *(each.name for each in _wanted(scale, seed))][:count]


def impossible(count: int, *, scale: float = 0.1, seed: int = 1) -> list[str]:
    """Return match specs without a solution: a version of one of the packages was built for old Pythons only."""
    wanted = _wanted(scale, seed)[: count - 2]
    extensions = (each for each in wanted if each.kind == "extension" and len(each.releases) > 1)
    old = next(each for each in extensions if each.releases[0].at < PYTHONS[1][1])
    specs = [f"{each.name} =={each.releases[0].version}" if each is old else each.name for each in wanted]
    return [f"python >={PYTHONS[-1][0]}", "numpy", *specs]


def _wanted(scale: float, seed: int) -> list[Named]:
    """Return what scripts may ask for in addition to python and numpy."""
    return [each for each in _names(scale, seed)[200::13] if each.kind in ("extension", "pure")]


# --- names ------------------------------------------------------------------------------------------------------------


def _names(scale: float, seed: int) -> list[Named]:
    draw, count = random.Random(seed), max(len(CORE), int(NAMES * scale))
    found: list[Named] = []
    for number in range(count):
        core = number < len(CORE)
        name = CORE[number] if core else f"pkg-{_spelled(number)}"
        kind = _KINDS_OF_CORE.get(name, "library") if core else draw.choices(_KINDS, _WEIGHTS)[0]
        popular = number < min(_POPULAR, count * _POPULAR_PART)
        releases = _releases(draw, kind, 4.25 if popular else 1.95)
        named = Named(name, kind, releases, installable=number < _INSTALLABLE, migrated=draw.random() < 0.5)
        if kind == "python":
            named.needs = list(_OF_PYTHON)
        elif number:
            # names near the beginning are needed far more often
            wanted = min(number, draw.choice((1, 2, 3, 4, 5, 6) if core else (3, 4, 6, 8, 12, 16)))
            chosen = {int(number * draw.random() ** 2.2) for _ in range(wanted)}
            named.needs = [found[each].name for each in sorted(chosen) if found[each].kind != "python"]
            if draw.random() < 0.05:
                named.constrains = found[draw.randrange(number)].name
        found.append(named)
    return found


def _spelled(number: int) -> str:
    """Return letters for a number, so that names do not sort by popularity."""
    return hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()[:9]


def _releases(draw: random.Random, kind: str, logarithm: float) -> list[Release]:
    """Return releases; ``logarithm`` is that of the median of their number."""
    if kind == "python":
        return [
            Release(f"{version}.{micro}", min(1.0, since + micro * 0.02), 3)
            for version, since in PYTHONS
            for micro in range(12)
        ]
    count = max(1, min(250, int(draw.lognormvariate(logarithm, 0.9))))
    times = sorted(draw.random() for _ in range(count))
    major, minor, found = 1, 0, []
    for at in times:
        if draw.random() < 0.08:
            major, minor = major + 1, 0
        found.append(Release(f"{major}.{minor}.{draw.randrange(4)}", at, major))
        minor += 1
    return list({each.version: each for each in found}.values())


# --- records ----------------------------------------------------------------------------------------------------------


def _records(names: list[Named], subdir: str, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the file name and the record of every package in a subdir."""
    draw = random.Random(f"{seed} {subdir}")
    known = {each.name: each for each in names}
    for named in names:
        if (named.kind in ("pure", "data")) != (subdir == "noarch"):
            continue
        last, pinned = named.releases[-1], named.pinned
        for release in named.releases:
            yield from _builds(draw, named, release, release.at, known, subdir)
            if release is last or release is pinned:  # was built again
                yield from _builds(draw, named, release, _PINNED, known, subdir)
        if named.migrated:
            yield from _builds(draw, named, last, _NEWEST, known, subdir)
    if subdir != "noarch":
        for number, variant in enumerate(("mkl", "openblas")):
            yield _record(draw, ("blas-mutex", "1.0", variant, number), subdir, _PINNED, [], {"real": True})
    else:
        for version, since in PYTHONS:
            build = f"8_cp{version.replace('.', '')}"
            extra = {"noarch": "generic", "constrains": [f"python {version}.*"], "real": True}
            yield _record(draw, ("python_abi", version, build, 8), subdir, max(since, _CONDA_FILES), [], extra)


def _builds(
    draw: random.Random, named: Named, release: Release, at: float, known: dict[str, Named], subdir: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 50 * int(at) if at >= _PINNED else 0  # the last builds of a version count most
    depends = [_need(known[name], at) for name in named.needs]
    extra: dict[str, Any] = {"real": named.installable and at >= _PINNED}
    if named.constrains:
        extra["constrains"] = [_need(known[named.constrains], at)]
    mark = f"h{draw.getrandbits(28):07x}"
    if named.kind == "extension":
        for version, since in PYTHONS:
            if since <= at < since + 0.5 or (at >= _PINNED and since >= 0.3):
                low, high, short = version, f"3.{int(version[2:]) + 1}", version.replace(".", "")
                python = [f"python >={low},<{high}.0a0", f"python_abi {version}.* *_cp{short}"]
                build = f"py{short}{mark}_{number}"
                needs = [*depends, *python]
                yield _record(draw, (named.name, release.version, build, number), subdir, at, needs, extra)
    elif named.kind == "pure":
        extra["noarch"] = "python"
        build = f"pyhd8ed1ab_{number}"
        yield _record(draw, (named.name, release.version, build, number), subdir, at, [*depends, "python >=3.9"], extra)
    elif named.kind == "data":
        extra["noarch"] = "generic"
        yield _record(draw, (named.name, release.version, f"{number}", number), subdir, at, depends, extra)
    elif named.name == "libblas":
        for variant in ("mkl", "openblas"):
            extra["track_features"] = "blas_mkl" if variant == "mkl" else ""
            needs = [*depends, f"blas-mutex * {variant}"]
            build = f"{number}_{variant}"
            yield _record(draw, (named.name, release.version, build, number), subdir, at, needs, extra)
    else:
        depends.append(_SYSTEM[subdir])
        most = 4 if named.kind == "python" else draw.choice((1, 1, 2))
        for again in range(number, number + 10 * most, 10):
            yield _record(draw, (named.name, release.version, f"{mark}_{again}", again), subdir, at, depends, extra)


def _need(named: Named, at: float) -> str:
    """Return the dependency on the version of a name that was built for at that time."""
    there = [each for each in named.releases if each.at <= at] or named.releases[:1]
    newest = named.pinned if at == _PINNED else there[-1]
    upper = f",<{newest.major + 1}.0a0" if named.kind == "library" else ""
    return f"{named.name} >={newest.version}{upper}"


def _record(
    draw: random.Random,
    build: tuple[str, str, str, int],
    subdir: str,
    at: float,
    depends: list[str],
    extra: dict[str, Any] | None = None,
) -> tuple[str, dict[str, Any]]:
    name, version, text, number = build
    file = f"{name}-{version}-{text}.{'conda' if at >= _CONDA_FILES else 'tar.bz2'}"
    extra = dict(extra or {})
    data = archive(file, subdir) if extra.pop("real", False) else None
    record = {
        "name": name,
        "version": version,
        "build": text,
        "build_number": number,
        "depends": depends,
        "constrains": [],
        "subdir": subdir,
        "timestamp": int(_BEGIN + min(at, 1.0) * _SPAN),
        "license": "BSD-3-Clause",
        "size": draw.randrange(10_000, 30_000_000) if data is None else len(data),
        "md5": f"{draw.getrandbits(128):032x}"
        if data is None
        else hashlib.md5(data, usedforsecurity=False).hexdigest(),
        "sha256": f"{draw.getrandbits(256):064x}" if data is None else hashlib.sha256(data).hexdigest(),
        **{key: value for key, value in extra.items() if value},
    }
    return file, record


# --- files ------------------------------------------------------------------------------------------------------------


def write_subdir(place: Path, subdir: str, records: Iterator[tuple[str, dict[str, Any]]]) -> None:
    """Write a subdir's repodata, whole and sharded; shards that are there already stay."""
    shards = place / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    by_name: dict[str, dict[str, dict[str, Any]]] = {}
    whole: dict[str, dict[str, Any]] = {}
    for file, record in records:
        whole[file] = record
        by_name.setdefault(record["name"], {})[file] = record
    document = {"info": {"subdir": subdir}, **_by_kind(whole), "repodata_version": 1}
    (place / "repodata.json.zst").write_bytes(_COMPRESS.compress(json.dumps(document).encode()))
    index = {}
    for name, packages in by_name.items():
        kept = {file: _with_bytes(record) for file, record in packages.items()}
        data = _COMPRESS.compress(msgpack.packb({**_by_kind(kept), "removed": []}))
        digest = hashlib.sha256(data)
        index[name] = digest.digest()
        (shards / f"{digest.hexdigest()}.msgpack.zst").write_bytes(data)
    head = {"subdir": subdir, "base_url": "./", "shards_base_url": "./shards/"}
    packed = msgpack.packb({"info": head, "shards": index})
    (place / "repodata_shards.msgpack.zst").write_bytes(_COMPRESS.compress(packed))


def read_subdir(place: Path) -> dict[str, dict[str, Any]]:
    """Return the records of a subdir by file name."""
    data = zstandard.ZstdDecompressor().stream_reader((place / "repodata.json.zst").read_bytes()).read()
    document = json.loads(data)
    return {**document["packages"], **document["packages.conda"]}


def _by_kind(records: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    old = {file: record for file, record in records.items() if file.endswith(".tar.bz2")}
    return {"packages": old, "packages.conda": {file: each for file, each in records.items() if file not in old}}


def archive(file: str, subdir: str) -> bytes:
    """Return the package (``.conda``) of this name: two small files."""
    stem = file.removesuffix(".conda")
    name, version, build = stem.rsplit("-", 2)
    files = {f"share/{name}/{stem}.txt": stem.encode(), f"bin/{name}": f"#!/bin/sh\necho {stem}\n".encode()}
    number = int(build.rpartition("_")[2]) if build.rpartition("_")[2].isdigit() else 0
    index = {"name": name, "version": version, "build": build, "build_number": number, "subdir": subdir}
    paths = [
        {"_path": path, "path_type": "hardlink", "sha256": hashlib.sha256(data).hexdigest(), "size_in_bytes": len(data)}
        for path, data in files.items()
    ]
    about = {
        "info/index.json": json.dumps({**index, "depends": []} | ({"noarch": "generic"} if subdir == "noarch" else {})),
        "info/paths.json": json.dumps({"paths": paths, "paths_version": 1}),
        "info/files": "".join(f"{path}\n" for path in files),
    }
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as together:
        together.writestr(zipfile.ZipInfo("metadata.json"), '{"conda_pkg_format_version": 2}')
        for kind, parts in (("pkg", files), ("info", {path: text.encode() for path, text in about.items()})):
            together.writestr(zipfile.ZipInfo(f"{kind}-{stem}.tar.zst"), _COMPRESS.compress(_tar(parts)))
    return whole.getvalue()


def _tar(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o755 if path.startswith("bin/") else 0o644
            tar.addfile(entry, io.BytesIO(data))
    return packed.getvalue()


def _with_bytes(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record as shards have it, with digests as bytes."""
    return {**record, "md5": bytes.fromhex(record["md5"]), "sha256": bytes.fromhex(record["sha256"])}
