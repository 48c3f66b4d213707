"""Locks for tests: packages of the local channel as lines of an explicit spec, and damaged packages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cetool.declare.metadata import read_metadata
from cetool.declare.package import Package, PypiPackage
from cetool.declare.source import read_script
from cetool.lock.conda_lock import write_conda_lock
from cetool.lock.model import Lock, PlatformLock
from support.channel import Channel


def locked(channel: Channel, *names: str, url: str | None = None) -> tuple[Package, ...]:
    """Return the packages of the local channel with these names (``six=1.16.0``: that version, else the newest)."""
    records = _records(channel)
    found = []
    for name, _, version in (each.partition("=") for each in names):
        fitting = [item for item in records if item[2]["name"] == name and version in ("", item[2]["version"])]
        subdir, file_name, record = max(fitting, key=lambda item: item[2]["version"])
        found.append(_locked(f"{url or channel.url}/{subdir}/{file_name}", record))
    return tuple(found)


def lines(channel: Channel, *names: str, url: str | None = None) -> tuple[str, ...]:
    """Return the same as lines of an explicit spec."""
    return tuple(package.line for package in locked(channel, *names, url=url))


def lock_script(script: Path, packages: Sequence[Package], channel: Channel, pypi: Sequence[PypiPackage] = ()) -> Path:
    """Write a fitting lock next to a script."""
    request = read_metadata(read_script(script)).requirements.digest
    platform = PlatformLock(channel.subdir, tuple(packages), tuple(pypi), request)
    path = script.with_name(script.name + ".conda-lock.yml")
    path.write_text(write_conda_lock(Lock((platform,), channels=(channel.url,))), encoding="utf-8")
    return path


def flip(path: Path, at: int | bytes) -> None:
    """Flip a bit of a file: at an offset, or in the first byte of a text in it."""
    data = bytearray(path.read_bytes())
    data[data.index(at) if isinstance(at, bytes) else at] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))


def explicit_list(prefix: Path) -> list[str]:
    """Return what ``conda list --explicit --sha256`` prints for an environment, sorted."""
    records = [json.loads(path.read_bytes()) for path in (prefix / "conda-meta").glob("*.json")]
    return sorted(f"{record['url']}#{record['sha256']}" for record in records)


def _records(channel: Channel) -> list[tuple[str, str, dict[str, Any]]]:
    found = []
    for subdir in (channel.subdir, "noarch"):
        repodata = json.loads((channel.path / subdir / "repodata.json").read_text())
        for kind in ("packages", "packages.conda"):
            found += [(subdir, name, record) for name, record in repodata[kind].items()]
    return found


def _locked(url: str, record: dict[str, Any]) -> Package:
    return Package(
        name=record["name"],
        version=record["version"],
        build=record["build"],
        subdir=record["subdir"],
        url=url,
        sha256=record["sha256"],
        md5=record["md5"],
        size=record["size"],
        depends=tuple(record["depends"]),
        noarch=record.get("noarch"),
    )
