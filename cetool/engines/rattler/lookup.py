"""Look up packages in the metadata of channels, without solving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cetool.declare.environment import Solve
from cetool.declare.package import Package
from cetool.engines.output import Log
from cetool.engines.protocol import EngineRequest
from cetool.engines.rattler.client import make_client
from cetool.engines.rattler.errors import explain
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
    plan = make_plan(request.of(Solve()), condarc, request.environ)
    assert request.cache is not None
    caches = embedded_cache(condarc, request.environ, request.cache)
    pulse = Pulse()
    with in_use(caches), Log(request.log):
        try:
            return attend(
                _found(plan, packages, caches, request, pulse),
                lambda: pulse.still_for(caches / METADATA) > request.stall_timeout,
            )
        except Exception as error:
            raise explain(error, plan) from None


async def _found(
    plan: Plan, packages: Sequence[Package], caches: Path, request: EngineRequest, pulse: Pulse
) -> set[tuple[str, str | None]]:
    from rattler import Channel, Gateway, PackageName, SourceConfig, Subdir

    client = make_client(plan.access, plan.condarc, request.environ, offline=plan.offline, alive=pulse.beat)
    action = "force-cache-only" if plan.offline else "cache-or-fetch"
    config = SourceConfig(cache_action=action)  # type: ignore[arg-type]
    gateway = Gateway(cache_dir=caches / METADATA, default_config=config, client=client)
    subdirs = [Subdir(plan.subdir) if plan.subdir else Subdir.current(), Subdir("noarch")]
    names = [PackageName(package.name) for package in packages]
    with pulse.watched():
        records = await gateway.query(
            [Channel(url) for url, _ in plan.channels], subdirs, names, recursive=False, channel_relations="disabled"
        )
    return {(record.file_name, record.sha256.hex() if record.sha256 else None) for found in records for record in found}
