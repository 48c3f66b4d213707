"""Look up packages in the metadata of channels, without solving, and in the package cache, without hashing."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

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

if TYPE_CHECKING:
    from rattler import Channel, Subdir

_T = TypeVar("_T")
#: Seconds after which the names in channels are read again.
_KEPT = 600.0


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


class Names:
    """The names of packages in channels, and their versions."""

    def __init__(self, request: EngineRequest, condarc: Condarc) -> None:
        assert request.cache is not None
        self._stall = request.stall_timeout
        self._plan = make_plan(request, condarc, request.environ, access_to(condarc))
        self._caches = embedded_cache(condarc, request.environ, request.cache)
        self._pulse = Pulse()
        self._connection = Connection(self._plan, request.environ, self._caches, self._pulse.beat)
        self._names: tuple[float, tuple[str, ...]] | None = None

    def containing(self, text: str, *, exact: bool) -> list[str]:
        """Return the names that contain a text, or are it, sorted. Raises EngineError."""
        text = text.lower()
        if self._names is None or time.monotonic() - self._names[0] > _KEPT:
            self._names = time.monotonic(), tuple(sorted(self._run(self._all_names())))
        return [name for name in self._names[1] if (name == text if exact else text in name)]

    def versions(self, names: Sequence[str]) -> list[tuple[str, str, list[str]]]:
        """Return channel, name and versions of packages, the oldest version first. Raises EngineError."""
        return self._run(self._versions(names)) if names else []

    async def _all_names(self) -> set[str]:
        found = await self._connection.gateway.names(*self._places(), channel_relations="disabled")
        return {each.normalized for each in found}

    async def _versions(self, names: Sequence[str]) -> list[tuple[str, str, list[str]]]:
        found = await self._connection.gateway.query(
            *self._places(), list(names), recursive=False, channel_relations="disabled"
        )
        known: dict[tuple[str, str], dict[str, Any]] = {}
        for each in (record for records in found for record in records):
            channel = str(each.channel or "").rstrip("/")
            known.setdefault((channel, each.name.normalized), {})[str(each.version)] = each.version
        return [(*key, sorted(versions, key=lambda text: versions[text])) for key, versions in sorted(known.items())]

    def _places(self) -> tuple[list[Channel], list[Subdir]]:
        from rattler import Channel, Subdir

        return [Channel(url) for url, _ in self._plan.channels], [Subdir.current(), Subdir("noarch")]

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        async def watched() -> _T:
            with self._pulse.watched():
                return await work

        with in_use(self._caches):
            try:
                return attend(watched(), lambda: self._pulse.still_for(self._caches / METADATA) > self._stall)
            except Exception as error:
                raise explain(error, self._plan) from None


def is_noted(cache: Path, package: Package) -> bool:
    """Return whether the cache seems to have a package, by its digest; the engine looks closer."""
    try:
        told = read_json(cache / f"{package.stem}.cetool", NOTE, exact=True)
        return bool(package.sha256) and told["schema"] == SCHEMA and told["sha256"] == package.sha256
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
