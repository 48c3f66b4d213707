"""Requests to engines are data, which can be passed to another process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.locks import REPOSITORY, SIX, WHEEL, YES

from cetool.declare.environment import EnvironmentSpec, Exact, Over, Overlay, Solve
from cetool.declare.package import Package, PypiPackage
from cetool.declare.pypi import PypiSettings
from cetool.declare.requirements import Solving
from cetool.engines.protocol import EngineRequest

ASKED = Solve(("numpy", 'x[channel="https://user:secret@host/c/"]'), ("six",))


@pytest.mark.parametrize(
    "what",
    [
        ASKED,
        Exact((SIX, YES), (WHEEL, REPOSITORY), ASKED),
        Over((SIX,), (WHEEL,), ASKED),
        Overlay("/base", ("numpy",), ("libtiff",), ("python >=3",), (("/a.whl", "1"),)),
    ],
    ids=["solve", "exact", "over", "overlay"],
)
def test_a_request_is_unchanged_after_json(what: Solve | Exact | Over | Overlay) -> None:
    """Including credentials, which the engine needs."""
    spec = EnvironmentSpec(
        what,
        ("https://user:secret@host/channel",),
        PypiSettings(index_url="https://user:secret@host/simple").with_options(no_build=True),
        (("A", "1"),),
        (("__cuda", "12"),),
        "2026-01-01T00:00:00Z",
        Solving(("a >1",), "strict", "lowest"),
    )
    environ = {"type": "x", "PATH": "/bin"}
    request = EngineRequest(spec, Path("/p"), Path("/l"), environ, Path("/c"), True, 1.5, "uv", "linux-64", (SIX,))
    assert EngineRequest.from_dict(json.loads(json.dumps(request.as_dict()))) == request
    assert EngineRequest.from_dict(json.loads(json.dumps(EngineRequest(spec).as_dict()))) == EngineRequest(spec)


@pytest.mark.parametrize("package", [SIX, YES, SIX._replace(sha256=None), SIX._replace(sha256=None, md5=None)])
def test_a_conda_package_is_unchanged_after_its_line(package: Package) -> None:
    again = Package.from_line(package.line)
    assert again.line == package.line
    assert again[:5] == package[:5] and (again.stem, again.channel) == (package.stem, package.channel)


@pytest.mark.parametrize(
    "package",
    [
        WHEEL,
        REPOSITORY,
        PypiPackage("a-b", "1", "https://h/a_b-1.tar.gz#subdirectory=x", "56" * 32),
    ],
)
def test_a_pypi_package_is_unchanged_after_its_line(package: PypiPackage) -> None:
    again = PypiPackage.from_line(package.line)
    assert (again.line, again.name, again.is_built) == (package.line, package.name, package.is_built)
