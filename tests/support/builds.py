"""Builds in a server's database, without a server: namespaces, requests, and results that look real."""

from __future__ import annotations

import sqlalchemy as sa

from cetool.declare.environment import EnvironmentSpec, Solve
from cetool.declare.package import Package
from cetool.lock.model import PlatformLock
from cetool.server.data import environments, namespaces
from cetool.server.data.asking import Asked, ask
from cetool.server.data.builds import BuildPlatform, NewBuild
from cetool.server.data.database import now
from cetool.server.data.leases import Claim, Result
from cetool.server.data.locks import Realization
from cetool.server.data.schema import specification

HERE = "linux-64"


def package(name: str, version: str = "1.0") -> Package:
    """Return a package that no channel has."""
    url = f"https://conda.example/channel/noarch/{name}-{version}-0.conda"
    return Package(name, version, "0", "noarch", url, sha256="a" * 64, size=1000)


def locked(*names: str, platform: str = HERE) -> PlatformLock:
    """Return a lock of such packages; ``name=2.0`` gives one a version."""
    parts = (name.partition("=") for name in names)
    return PlatformLock(platform, tuple(package(name, version or "1.0") for name, _, version in parts))


def result(claim: Claim, *names: str, record: bool = True) -> dict[str, Result]:
    """Return the results of a build with these packages on each of its platforms."""
    found = {}
    for each in claim.platforms:
        lock = locked(*names, platform=each.platform)
        made = Realization(f"{lock.digest[:20]}", 1000 * len(names), len(names)) if each.platform == HERE else None
        text = f'{{"build": {claim.build_id}}}' if record else None
        found[each.platform] = Result(lock, text, made)
    return found


def requested(*specs: str, platforms: tuple[str, ...] = (HERE,)) -> tuple[BuildPlatform, ...]:
    """Return the request for match specs on some platforms."""
    found = EnvironmentSpec(Solve(specs), channels=("conda-forge",))
    return tuple(BuildPlatform(each, found.digest, found.as_dict()) for each in platforms)


def posted(
    tx: sa.Connection,
    place: str,
    *specs: str,
    platforms: tuple[str, ...] = (HERE,),
    refresh: bool = False,
    by: str = "ana",
) -> Asked:
    """Ask for a build for ``namespace/name``, as a request does."""
    space, _, name = place.partition("/")
    found = namespaces.ensure(tx, space, by=by)
    environment = environments.ensure(tx, found.id, name, by=by) if name else None
    text = " ".join(specs)
    row = tx.execute(sa.select(specification.c.id).where(specification.c.sha256 == text)).first()
    if row is None:
        values = {"sha256": text, "kind": "specs", "name": name, "text": text, "data": {}, "created": now(tx)}
        tx.execute(specification.insert().values(values))
        row = tx.execute(sa.select(specification.c.id).where(specification.c.sha256 == text)).one()
    new = NewBuild(
        found.id,
        None if environment is None else environment.id,
        name or None,
        row.id,
        requested(*specs, platforms=platforms),
        by,
        "api",
        refresh,
        realize=HERE,
    )
    return ask(tx, new)
