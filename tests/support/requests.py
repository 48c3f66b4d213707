"""Requests to engines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cetool.base.process import issue
from cetool.declare.environment import EnvironmentSpec, Exact, Solve
from cetool.declare.package import Package
from cetool.engines.protocol import EngineRequest, Hold

HOLD = Hold(issue("a test"))


def request_for(
    prefix: Path,
    packages: tuple[str, ...],
    channels: tuple[str, ...],
    log: Path,
    *,
    exact: tuple[Package, ...] = (),
    **changes: Any,
) -> EngineRequest:
    """Return a request for these match specs or exact packages, with some fields of it or its specification changed."""
    spec = EnvironmentSpec(Exact(exact) if exact else Solve(packages), channels)
    of_spec = {name: value for name, value in changes.items() if name in EnvironmentSpec._fields}
    others = {name: value for name, value in changes.items() if name not in of_spec}
    return EngineRequest(spec._replace(**of_spec), prefix, log)._replace(**others)
