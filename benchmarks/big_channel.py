"""A synthetic channel with the size and shape of conda-forge, the same for the same seed.

At scale 1 it has 31,771 names, about 596,000 records for ``linux-64`` and 215,000 for ``noarch``. There are libraries
with major versions that exclude each other, extensions with a build for each Python, pure Python packages, variants
that a mutex package keeps apart, and constraints. The newest build of every name fits the newest of all others, so
every set of names has a solution.

It has ``repodata.json.zst`` and, below ``shards``, sharded repodata (CEP 16). No package can be installed: only solved.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import zstandard

NAMES = 31_771
#: The Pythons, oldest first, and the part of the channel's history at which each begins.
PYTHONS = (("3.8", 0.0), ("3.9", 0.15), ("3.10", 0.3), ("3.11", 0.5), ("3.12", 0.7), ("3.13", 0.9))
SUBDIRS = ("linux-64", "osx-arm64", "win-64")
#: Names that are always there; everything else depends on the first of them most often.
CORE = ("python", "libgcc", "libstdcxx", "zlib", "openssl", "xz", "readline", "libffi", "numpy", "libblas")
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


def write_big_channel(root: Path, *, scale: float = 0.1, seed: int = 1) -> Path:
    """Write the channel into a directory below ``root``, unless it is there; return the directory."""
    place = root / f"big-{seed}-{scale:g}"
    if (place / "complete").exists():
        return place
    draw = random.Random(seed)
    names = _names(draw, max(len(CORE), int(NAMES * scale)))
    for subdir in (*SUBDIRS, "noarch"):
        records = _records(names, subdir, seed)
        write_subdir(place / subdir, subdir, records)
    (place / "complete").write_text(str(len(names)))
    return place


def chosen(count: int, *, scale: float = 0.1, seed: int = 1) -> list[str]:
    """Return names for a script: python, numpy, and packages that need many others."""
    names = _names(random.Random(seed), max(len(CORE), int(NAMES * scale)))
    extra = [each.name for each in names[100::13] if each.kind in ("extension", "pure")]
    return ["python", "numpy", *extra][:count]


# --- names ------------------------------------------------------------------------------------------------------------


def _names(draw: random.Random, count: int) -> list[Named]:
    found: list[Named] = []
    for number in range(count):
        core = number < len(CORE)
        name = CORE[number] if core else f"pkg-{_spelled(number)}"
        kind = "library" if core else draw.choices(_KINDS, _WEIGHTS)[0]
        if name in ("numpy", "python"):
            kind = "extension" if name == "numpy" else "python"
        named = Named(name, kind, _releases(draw, number, kind))
        if number and kind != "python":
            # names near the beginning are needed far more often
            wanted = min(number, draw.choice((2, 3, 4, 6, 8, 12)))
            chosen = {int(number * draw.random() ** 2.2) for _ in range(wanted)}
            named.needs = [found[each].name for each in sorted(chosen) if found[each].kind != "python"]
            if draw.random() < 0.05:
                named.constrains = found[draw.randrange(number)].name
        found.append(named)
    return found


def _spelled(number: int) -> str:
    """Return letters for a number, so that names do not sort by popularity."""
    return hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()[:7]


def _releases(draw: random.Random, number: int, kind: str) -> list[Release]:
    if kind == "python":
        return [
            Release(f"{version}.{micro}", min(1.0, since + micro * 0.02), 3)
            for version, since in PYTHONS
            for micro in range(12)
        ]
    count = max(1, min(120, int(draw.lognormvariate(2.15 if number > 400 else 3.2, 0.9))))
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
        last = named.releases[-1]
        for release in named.releases:
            # the newest version was built again for the newest of what it needs
            for at in {release.at, 1.0} if release is last else {release.at}:
                yield from _builds(draw, named, release, at, known, subdir)
    if subdir != "noarch":
        for number, variant in enumerate(("mkl", "openblas")):
            yield _record(draw, ("blas-mutex", "1.0", variant, number), subdir, 0.0, [])


def _builds(
    draw: random.Random, named: Named, release: Release, at: float, known: dict[str, Named], subdir: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 1 if at == 1.0 and release.at != 1.0 else 0
    depends = [_need(known[name], at) for name in named.needs]
    extra: dict[str, Any] = {}
    if named.constrains:
        extra["constrains"] = [f"{named.constrains} >={known[named.constrains].releases[0].version}"]
    mark = f"h{draw.getrandbits(28):07x}"
    if named.kind == "extension":
        for version, since in PYTHONS:
            if since <= at < since + 0.5 or (at == 1.0 and since >= 0.3):
                low, high = version, f"3.{int(version[2:]) + 1}"
                python = f"python >={low},<{high}.0a0"
                build = f"py{version.replace('.', '')}{mark}_{number}"
                yield _record(draw, (named.name, release.version, build, number), subdir, at, [*depends, python], extra)
    elif named.kind == "pure":
        extra["noarch"] = "python"
        build = f"pyhd8ed1ab_{number}"
        yield _record(draw, (named.name, release.version, build, number), subdir, at, [*depends, "python >=3.8"], extra)
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
        for again in (number, number + 10)[: draw.choice((1, 1, 2))]:
            yield _record(draw, (named.name, release.version, f"{mark}_{again}", again), subdir, at, depends, extra)


def _need(named: Named, at: float) -> str:
    """Return the dependency on what was the newest version of a name at that time."""
    there = [each for each in named.releases if each.at <= at] or named.releases[:1]
    newest = there[-1]
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
    record = {
        "name": name,
        "version": version,
        "build": text,
        "build_number": number,
        "depends": depends,
        "constrains": [],
        "subdir": subdir,
        "timestamp": int(_BEGIN + at * _SPAN),
        "license": "BSD-3-Clause",
        "size": draw.randrange(10_000, 30_000_000),
        "md5": f"{draw.getrandbits(128):032x}",
        "sha256": f"{draw.getrandbits(256):064x}",
        **{key: value for key, value in (extra or {}).items() if value},
    }
    return f"{name}-{version}-{text}.conda", record


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
    document = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": whole, "repodata_version": 1}
    (place / "repodata.json.zst").write_bytes(_COMPRESS.compress(json.dumps(document).encode()))
    index = {}
    for name, packages in by_name.items():
        kept = {file: _with_bytes(record) for file, record in packages.items()}
        data = _COMPRESS.compress(msgpack.packb({"packages": {}, "packages.conda": kept, "removed": []}))
        digest = hashlib.sha256(data)
        index[name] = digest.digest()
        (shards / f"{digest.hexdigest()}.msgpack.zst").write_bytes(data)
    head = {"subdir": subdir, "base_url": "./", "shards_base_url": "./shards/"}
    packed = msgpack.packb({"info": head, "shards": index})
    (place / "repodata_shards.msgpack.zst").write_bytes(_COMPRESS.compress(packed))


def read_subdir(place: Path) -> dict[str, dict[str, Any]]:
    """Return the records of a subdir by file name."""
    data = zstandard.ZstdDecompressor().stream_reader((place / "repodata.json.zst").read_bytes()).read()
    packages: dict[str, dict[str, Any]] = json.loads(data)["packages.conda"]
    return packages


def _with_bytes(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record as shards have it, with digests as bytes."""
    return {**record, "md5": bytes.fromhex(record["md5"]), "sha256": bytes.fromhex(record["sha256"])}
