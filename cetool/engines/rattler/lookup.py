"""Look up packages in the metadata of channels, without solving, and in the package cache, without hashing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cetool.base.limits import NOTE, read_json
from cetool.declare.environment import Solve
from cetool.declare.package import Package
from cetool.engines.protocol import EngineRequest
from cetool.engines.rattler.client import access_to
from cetool.engines.rattler.creation import Connection
from cetool.engines.rattler.errors import explain
from cetool.engines.rattler.kept import SCHEMA
from cetool.engines.rattler.request import Plan, make_plan
from cetool.engines.rattler.thread import Pulse, attend
from cetool.packages.cache import METADATA, embedded_cache, in_use
from cetool.settings.condarc import Condarc


def digests_in_channels(
    request: EngineRequest, packages: Sequence[Package], condarc: Condarc
) -> set[tuple[str, str | None]]:
    """Return file name and SHA-256 of all packages in the request's channels that have the names of these packages.

    Raises EngineError if the metadata cannot be fetched.
    """
    assert request.cache is not None
    plan = make_plan(request.of(Solve()), condarc, request.environ, access_to(condarc))
    caches = embedded_cache(condarc, request.environ, request.cache)
    pulse = Pulse()
    connection = Connection(plan, request.environ, caches, pulse.beat)
    with in_use(caches):
        try:
            return attend(
                _found(plan, packages, connection, pulse),
                lambda: pulse.still_for(caches / METADATA) > request.stall_timeout,
            )
        except Exception as error:
            raise explain(error, plan) from None


async def _found(
    plan: Plan, packages: Sequence[Package], connection: Connection, pulse: Pulse
) -> set[tuple[str, str | None]]:
    from rattler import Channel, Subdir

    subdirs = [Subdir(plan.subdir) if plan.subdir else Subdir.current(), Subdir("noarch")]
    names = [package.name for package in packages]
    channels = [Channel(url) for url, _ in plan.channels]
    with pulse.watched():
        found = await connection.gateway.query(channels, subdirs, names, recursive=False, channel_relations="disabled")
    return {(each.file_name, each.sha256.hex() if each.sha256 else None) for records in found for each in records}


def is_noted(cache: Path, package: Package) -> bool:
    """Return whether the cache seems to have a package, by its digest; the engine looks closer."""
    try:
        told = read_json(cache / f"{package.stem}.cetool", NOTE, exact=True)
        return bool(package.sha256) and told["schema"] == SCHEMA and told["sha256"] == package.sha256
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
