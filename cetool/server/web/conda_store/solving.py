"""Solve a specification without building it, in a process of its own, while the server goes on."""

from __future__ import annotations

import secrets
import time
from typing import Any

from cetool.base.errors import CetoolError
from cetool.declare.environment import EnvironmentSpec
from cetool.lock.model import PlatformLock
from cetool.server.builds.child import Child, failure_of, is_end, lock_of, why_not_confined
from cetool.server.builds.wishes import request_of
from cetool.server.data import namespaces
from cetool.server.jobs import Jobs
from cetool.server.policies import policy_of
from cetool.server.server import Server
from cetool.server.specifying import Declared, specifications, virtual_packages
from cetool.server.web.conda_store.rows import PYPI, number_of
from cetool.server.web.conda_store.settings import effective

#: Solves at the same time, and how many more may wait: each takes a process.
_AT_ONCE, _WAITING = 2, 16


class Solver:
    """Solves for a server."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.jobs = Jobs("solve", _AT_ONCE, _WAITING)

    def specified(self, text: str, namespace: str) -> EnvironmentSpec:
        """Return the specification of an ``environment.yml`` under the settings of a namespace. Raises CetoolError."""
        server = self._server
        with server.database.read() as tx:
            levels = namespaces.levels(tx, namespace)
        platform = server.world.platform
        declared = Declared("environment-yaml", text, "environment.yml")
        virtual = virtual_packages(server.config.profiles, "plain")
        return specifications(declared, (platform,), policy_of(server.config, levels), virtual)[platform]

    def solve(self, spec: EnvironmentSpec) -> PlatformLock:
        """Return the packages that solve a specification. Raises CetoolError."""
        child = Child()
        try:
            why_not_confined(child, self._server.config)
            child.send(self._request(spec))
            return self._locked(child)
        finally:
            child.close()

    def _request(self, spec: EnvironmentSpec) -> dict[str, Any]:
        platform = self._server.world.platform
        return {
            **request_of(self._server.config),
            # of its scratch directory: no build has such a number
            "build": -1 - secrets.randbelow(1 << 40),
            "platforms": [{"platform": platform, "request": spec.digest, "spec": spec.as_dict()}],
        }

    def _locked(self, child: Child) -> PlatformLock:
        with self._server.database.read() as tx:
            seconds = effective(self._server, tx)["conda_max_solve_time"]
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            event = child.event(left)
            if event is None:
                continue
            if is_end(event):
                raise CetoolError(f"the solver ended: {child.how()}", code="build-crashed")
            if event["event"] == "lock":
                return lock_of(event["platform"], event["lock"])
            if event["event"] == "failed":
                raise failure_of(event)
        raise CetoolError(
            f"the solve took longer than {seconds} seconds",
            code="build-timed-out",
            hint="An administrator can raise the setting conda_max_solve_time.",
        )


def solved_packages(lock: PlatformLock) -> list[dict[str, Any]]:
    """Return packages as ``GET /specification/`` lists them, those from PyPI last."""
    found: list[dict[str, Any]] = [
        {
            "id": number_of(each.url),
            "package_id": number_of(each.channel, each.name, each.version),
            "name": each.name,
            "version": each.version,
            "build": each.build,
            "build_number": _build_number(each.build),
            "channel_id": number_of(each.channel),
            "constrains": list(each.constrains),
            "depends": list(each.depends),
            "md5": each.md5,
            "sha256": each.sha256,
            "size": each.size or 0,
            "subdir": each.subdir,
            "timestamp": None,
        }
        for each in lock.conda
    ]
    return found + [
        {
            "id": number_of(each.url),
            "package_id": number_of(PYPI, each.name, each.version),
            "name": each.name,
            "version": each.version,
            "build": "pypi",
            "build_number": 0,
            "channel_id": number_of(PYPI),
            "constrains": [],
            "depends": list(each.requires),
            "md5": None,
            "sha256": each.sha256,
            "size": 0,
            "subdir": "noarch",
            "timestamp": None,
        }
        for each in lock.pypi
    ]


def _build_number(build: str) -> int:
    """Return the number that conda-build appends to build strings; 0 if there is none."""
    last = build.rpartition("_")[2]
    return int(last) if last.isascii() and last.isdigit() and len(last) < 10 else 0
