"""Match specs for comparing parsers: a few thousand from a seed, and records to match."""

from __future__ import annotations

import hashlib
import random
from functools import lru_cache
from typing import Any

_VERSIONS = (
    "1.8",
    "1.8.0",
    "1.8.1",
    "1.8.10",
    "1.9",
    "1.80",
    "2",
    "2.0",
    "2.0.1",
    "2.1a1",
    "2.1",
    "0.10",
    "1!1.0",
    "1",
)
_BUILDS = ("0", "py38_0", "py39h1234_1", "h00_2")
_SUBDIRS = ("linux-64", "noarch")


def _record(number: int, version: str, build: str, subdir: str) -> dict[str, Any]:
    name = f"pkg-{version}-{build}"
    return {
        "name": "pkg",
        "version": version,
        "build": build,
        "build_number": int(build.rpartition("_")[2]),
        "subdir": subdir,
        "fn": f"{name}.conda",
        "channel": "conda-forge",
        "url": f"https://conda.anaconda.org/conda-forge/{subdir}/{name}.conda",
        "md5": hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest(),
        "sha256": hashlib.sha256(str(number).encode()).hexdigest(),
        "license": ("MIT", "BSD-3-Clause", "GPL-3.0-only")[number % 3],
        "depends": [],
    }


#: The records, in conda's form.
RECORDS = [
    _record(number, version, build, _SUBDIRS[number % 2])
    for number, (version, build) in enumerate((version, build) for version in _VERSIONS for build in _BUILDS)
]


def generated(count: int, seed: int = 29) -> list[str]:
    """Return this many different specs: common ones, and slightly wrong ones."""
    chance = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        found[_spec(chance)] = None
    return list(found)


def _spec(chance: random.Random) -> str:
    name = chance.choice(("pkg", "pkg", "pkg", "Pkg", "PKG", "conda-forge::pkg", "conda-forge/linux-64::pkg", "ns:pkg"))
    form = chance.random()
    if form < 0.1:
        text = name
    elif form < 0.35:
        text = f"{name}{chance.choice(('=', '==', ' ', ' =', ' ==', '= ', '=='))}{_literal(chance)}"
        if chance.random() < 0.5:
            text += chance.choice(("=", " ", " ", " = ", "  ")) + _build(chance)
    else:
        clauses = _expression(chance)
        text = name + ("" if clauses[0] in "<>=!~" else " ") + chance.choice(("", "", " ")) + clauses
        if chance.random() < 0.3:
            text += chance.choice((" ", " ", "=", " =")) + _build(chance)
    return text + (_brackets(chance) if chance.random() < 0.25 else "")


def _literal(chance: random.Random) -> str:
    version = chance.choice(_VERSIONS)
    return version + chance.choice(("", "", "", "", "", "", ".*", ".*", "*", ".", "RC1", "-1"))


def _clause(chance: random.Random) -> str:
    operator = chance.choice(("", ">=", ">=", "<", "<=", ">", "==", "!=", "~=", "="))
    return operator + chance.choice(("", "", "", " ")) + _literal(chance)


def _expression(chance: random.Random) -> str:
    text = _clause(chance)
    for _ in range(chance.choice((0, 0, 1, 1, 2))):
        text += chance.choice((",", ",", ",", "|", " , ", ", ", " | ", " ")) + _clause(chance)
    return text


def _build(chance: random.Random) -> str:
    return chance.choice((*_BUILDS, "*", "py38*", "*_0", "py*_1", "a-b", "3.9", "*h1234*"))


def _brackets(chance: random.Random) -> str:
    record = chance.choice(RECORDS)
    fields = {
        "version": chance.choice(("1.8", "'>=1.8,<2'", '"=1.8"', "'1.8.*|2.*'", "1.8.*", "'(>=1.8,<1.9)|2'")),
        "build": chance.choice(("py38_0", '"*_0"', "'^py3[89].*$'")),
        "build_number": chance.choice(("1", "'>=1'", "'!=0'", "0")),
        "subdir": chance.choice(("linux-64", "noarch", "win-64")),
        "md5": record["md5"],
        "sha256": record["sha256"],
        "fn": record["fn"],
        "license": chance.choice(("MIT", "mit", "'BSD*'")),
        "channel": chance.choice(("conda-forge", "bioconda")),
    }
    keys = chance.sample(sorted(fields), chance.choice((1, 1, 2)))
    pairs = chance.choice((", ", ",")).join(f"{key}={fields[key]}" for key in keys)
    return chance.choice(("", " ")) + f"[{pairs}]"


@lru_cache(maxsize=1)
def _rattler_records() -> list[Any]:
    from rattler import PackageRecord, RepoDataRecord
    from rattler.package import BuildString

    found = []
    for record in RECORDS:
        package = PackageRecord(
            name=record["name"],
            version=record["version"],
            build=BuildString(record["build"]),
            build_number=record["build_number"],
            subdir=record["subdir"],
            md5=bytes.fromhex(record["md5"]),
            sha256=bytes.fromhex(record["sha256"]),
            license=record["license"],
        )
        found.append(RepoDataRecord(package, record["fn"], record["url"], "https://conda.anaconda.org/conda-forge/"))
    return found


def ours(canonical: str) -> list[int]:
    """Return the records that a canonical spec matches in cetool."""
    from rattler import MatchSpec

    from cetool.declare.match_fields import read_fields
    from cetool.engines.rattler.sources import fits

    fields = read_fields(canonical)
    spec = MatchSpec(fields.text("license", "license_family"))
    return [
        number
        for number, record in enumerate(_rattler_records())
        if spec.matches(record) and fits(fields, record) and fields.channel in (None, "conda-forge")
    ]


def pyrattler(text: str) -> list[int] | None:
    """Return the records that a spec matches in py-rattler; None if it refuses the spec."""
    from rattler import MatchSpec

    try:
        spec = MatchSpec(text)
    except Exception:  # each reason has its own exception
        return None
    return [number for number, record in enumerate(_rattler_records()) if spec.matches(record)]
