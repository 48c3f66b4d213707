"""The request that a builder sends to the process: what to solve or link on each platform, and what it may use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from cetool.base.codec import encode
from cetool.declare.platforms import current_platform
from cetool.lock.model import PlatformLock
from cetool.server.config import ServerConfig
from cetool.server.data import answers
from cetool.server.data.leases import Claim
from cetool.server.data.schema import build, specification
from cetool.server.locked import locks_in
from cetool.server.server import Server

#: Bytes that stay free on the disk while builds run, if the configuration has a threshold.
_FREE = 200 << 20
_UNLIMITED = 1 << 60


def wishes_of(claim: Claim, server: Server) -> dict[str, Any]:
    """Return the request for a claimed build."""
    packages = _packages(claim, server)
    key = "before" if claim.origin == "upload" else "exact"
    platforms = []
    for each in claim.platforms:
        wish = {"platform": each.platform, "request": each.request, "spec": dict(each.spec or {})}
        if each.platform in packages:
            wish[key] = encode(packages[each.platform])
        platforms.append(wish)
    here = current_platform()
    return {
        **request_of(server.config),
        "build": claim.build_id,
        "attempt": claim.attempt,
        "platforms": platforms,
        "realize": here if here in {each.platform for each in claim.platforms} else None,
    }


def request_of(config: ServerConfig) -> dict[str, Any]:
    """Return what all requests to such processes have: where they work, what they may use, whether they confine."""
    limits = {
        "memory": config.build_memory or _UNLIMITED,
        "processes": config.build_processes,
        "seconds": config.build_timeout,
        "stall": config.stall_timeout,
        "output": config.build_output,
        "size": config.build_size or _UNLIMITED,
        "free": min(config.storage_threshold or 0, _FREE),
    }
    return {
        "schema": 1,
        "data": str(config.data),
        "limits": limits,
        "confined": config.sandbox != "off",
        "settings": {"stall-timeout": config.stall_timeout},
    }


def scratch_of(claim: Claim, server: Server) -> Path:
    """Return the directory for temporary files of an attempt, as the process names it."""
    return server.config.data / "scratch" / f"{claim.build_id}-{claim.attempt}"


def _packages(claim: Claim, server: Server) -> dict[str, PlatformLock]:
    """Return the packages of a lock that was submitted or uploaded, by platform; else those of known answers.

    A request with an answer is built to get a prefix, or the answer for another platform.
    """
    with server.database.read() as tx:
        chosen = sa.select(specification.c.kind, specification.c.text)
        source = specification.join(build, build.c.specification_id == specification.c.id)
        row = tx.execute(chosen.select_from(source).where(build.c.id == claim.build_id)).one()
        known = {} if claim.refresh or row.kind == "lock" else answers.known_locks(tx, claim.platforms)
    if row.kind != "lock":
        return dict(known)
    wanted = [each.platform for each in claim.platforms]
    return {each.platform: each for each in locks_in(row.text, wanted)}
