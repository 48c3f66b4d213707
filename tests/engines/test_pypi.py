"""PyPI requirements in addition to conda packages: with uv and pip, from PyPI and from a directory of wheels."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.pypi import wheel
from support.requests import HOLD, request_for
from support.server import ChannelServer

from cetool.base.errors import EngineError
from cetool.declare.pypi import PypiSettings
from cetool.engines.protocol import SilentProgress
from cetool.engines.pypi.driver import find_uv, needs_pip
from cetool.engines.pypi.install import install_pypi
from cetool.engines.rattler.engine import RattlerEngine

Install = Callable[..., Path]


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A directory with wheels for tests, which need no index."""
    directory = tmp_path / "wheels"
    wheel(directory, "ours", "1.0")
    wheel(directory, "needs_old_six", "1.0", "six <1.17")
    return directory


@pytest.fixture
def environment(tmp_path: Path, channel: Path) -> Path:
    """A conda environment with python, pip, and six 1.17."""
    prefix = tmp_path / "env"
    environ = {"HOME": str(tmp_path), "PATH": os.defpath, "CONDA_CHANNEL_ALIAS": channel.as_uri()}
    request = request_for(prefix, ("python", "pip", "six >=1.17"), ("conda-forge",), tmp_path / "conda.log")
    RattlerEngine(environ, tmp_path / "cache").create(request, SilentProgress(), HOLD)
    (marker,) = prefix.glob("lib/python3*")
    (marker / "EXTERNALLY-MANAGED").write_text("[externally-managed]\nError=hands off\n")
    return prefix


@pytest.fixture
def install(environment: Path, tmp_path: Path) -> Install:
    """``install(*requirements, installer=..., env=..., **request)`` into the environment; returns its prefix."""

    def run(*requirements: str, installer: str, env: dict[str, str] | None = None, **request: Any) -> Path:
        environ = {**os.environ, "HOME": str(tmp_path), **(env or {})}
        settings = request.pop("settings", PypiSettings())
        wanted = request_for(environment, (), (), tmp_path / "pypi.log", pypi_settings=settings, environ=environ)
        wanted = wanted._replace(installer=installer, **request)
        install_pypi(wanted, requirements, SilentProgress(), HOLD)
        return environment

    return run


def ask(prefix: Path, code: str) -> str:
    done = subprocess.run([prefix / "bin/python", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


both = pytest.mark.parametrize("installer", ["uv", "pip"])


@both
def test_packages_are_installed_only_into_the_prefix(
    install: Install, wheels: Path, tmp_path: Path, installer: str
) -> None:
    elsewhere = {
        "VIRTUAL_ENV": str(tmp_path / "venv"),
        "PYTHONPATH": str(tmp_path / "path"),
        "PYTHONUSERBASE": str(tmp_path / "user"),
        "PIP_TARGET": str(tmp_path / "target"),
        "PIP_USER": "1",
        "UV_TARGET": str(tmp_path / "target"),
        "UV_PROJECT_ENVIRONMENT": str(tmp_path / "project"),
    }
    config = tmp_path / ".config/pip/pip.conf"
    config.parent.mkdir(parents=True)
    config.write_text(f"[global]\nfind-links = {wheels}\n[install]\ntarget = {tmp_path / 'target'}\nuser = yes\n")
    settings = PypiSettings(find_links=(str(wheels),) if installer == "uv" else ())
    prefix = install(
        "ours ==1.0", installer=installer, env={**elsewhere, "PIP_FIND_LINKS": ""}, settings=settings, offline=True
    )
    assert Path(ask(prefix, "import ours; print(ours.__file__)")).is_relative_to(prefix)
    assert not any(Path(path).exists() for path in elsewhere.values())
    assert not list(tmp_path.glob("pypi-*")), "the files with the requirements are gone"


@both
def test_a_package_from_pypi_org(install: Install, installer: str) -> None:
    prefix = install("sortedcontainers==2.4.0", "six", installer=installer)
    assert ask(prefix, "import sortedcontainers; print(sortedcontainers.__version__)") == "2.4.0"


@both
def test_packages_of_conda_are_never_replaced(install: Install, wheels: Path, installer: str) -> None:
    """CEP 24: dependencies."""
    with pytest.raises(EngineError, match=r"'six<1.17' conflicts with six 1\.17.*, which conda installed"):
        install("six<1.17", installer=installer)
    with pytest.raises(EngineError) as caught:
        install("needs_old_six", installer=installer, settings=PypiSettings(find_links=(str(wheels),)))
    assert "six" in str(caught.value.details) and caught.value.log is not None


@both
def test_a_missing_package_is_named_and_secrets_are_hidden(install: Install, tmp_path: Path, installer: str) -> None:
    """PEP 723: script type."""
    with pytest.raises(EngineError, match="cetool-no-such-package") as caught:
        install("cetool-no-such-package", installer=installer)
    assert "name" in str(caught.value.hint)
    settings = PypiSettings(index_url="http://user:SECRET@127.0.0.1:1/simple")
    environ = {"UV_HTTP_RETRIES": "0", "PIP_RETRIES": "0"}
    with pytest.raises(EngineError) as caught:
        install("idna", installer=installer, settings=settings, env=environ)
    assert "SECRET" not in f"{caught.value} {caught.value.hint} {(tmp_path / 'pypi.log').read_text()}"


@both
def test_an_offline_failure_suggests_a_run_with_network(install: Install, tmp_path: Path, installer: str) -> None:
    with pytest.raises(EngineError) as caught:
        install("idna", installer=installer, offline=True, env={"UV_CACHE_DIR": str(tmp_path / "uv-cache")})
    assert "--offline" in str(caught.value.hint)


@both
def test_invalid_requirements_are_not_passed_to_installers(install: Install, installer: str) -> None:
    for evil in ("--index-url=http://evil", "-r/etc/passwd", "six\n-e .", "not a requirement"):
        with pytest.raises(EngineError, match="is not a requirement"):
            install(evil, installer=installer)


@both
def test_a_failed_build_is_explained_without_a_traceback(install: Install, tmp_path: Path, installer: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "ours"\nversion = "1"\n'
    )
    (source / "backend.py").write_text("def build_wheel(*_, **__):\n    raise RuntimeError('no compiler today')\n")
    with pytest.raises(EngineError, match="RuntimeError: no compiler today") as caught:
        install(f"ours @ {source.as_uri()}", installer=installer)
    assert "Traceback" not in str(caught.value) and "File" not in str(caught.value)


def test_uv_follows_exclude_newer(install: Install) -> None:
    prefix = install("idna", installer="uv", settings=PypiSettings(exclude_newer="2021-01-01T00:00:00Z"))
    assert ask(prefix, "import idna; print(idna.__version__)") == "2.10"


def test_when_pip_is_needed(tmp_path: Path) -> None:
    (tmp_path / "uv").write_text("#!/bin/sh\n")
    (tmp_path / "uv").chmod(0o755)
    assert find_uv({"UV": str(tmp_path / "uv"), "PATH": ""}) == tmp_path / "uv"
    assert find_uv({"PATH": str(tmp_path)}) == tmp_path / "uv"
    assert needs_pip({"PATH": str(tmp_path)}, "pip") and not needs_pip({"PATH": str(tmp_path)}, "auto")
    without = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.prefix = '/nowhere'; from cetool.engines.pypi.driver import needs_pip;"
            "print(needs_pip({'PATH': '/nowhere'}, 'auto'), needs_pip({'PATH': '/nowhere'}, 'uv'))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert without.stdout.split() == ["True", "False"]


# --- what comes from elsewhere is data, and passwords are not for everyone --------------------------------------------

NOT_EXPANDED = "${SECRET}/$SECRET"
PLACES: dict[str, Callable[[str], tuple[str, PypiSettings]]] = {
    "requirement": lambda url: (f"ours @ {url}/ours-1-py3-none-any.whl", PypiSettings()),
    "nameless": lambda url: (f"{url}/ours-1-py3-none-any.whl", PypiSettings()),
    "repository": lambda url: (f"ours @ git+{url}/ours.git", PypiSettings()),
    "index": lambda url: ("ours", PypiSettings(index_url=url)),
    "extra": lambda url: (
        "ours",
        PypiSettings("http://127.0.0.1:1", (url,)).with_options(index_strategy="first-index"),
    ),
    "links": lambda url: ("ours", PypiSettings(find_links=(url,)).with_options(no_index=True)),
    "table": lambda url: ("ours", PypiSettings().with_options(index=[{"url": url, "default": True, "format": "flat"}])),
    "constraint": lambda url: (
        "ours",
        PypiSettings().with_options(no_index=True, constraint_dependencies=[f"ours @ {url}/ours-1-py3-none-any.whl"]),
    ),
    "override": lambda url: (
        "ours",
        PypiSettings().with_options(no_index=True, override_dependencies=[f"ours @ {url}/ours-1-py3-none-any.whl"]),
    ),
}


@both
def test_variables_in_a_scripts_requirements_are_not_replaced(
    install: Install, server: ChannelServer, tmp_path: Path, installer: str
) -> None:
    environ = {"SECRET": "EXPANDED", "UV_HTTP_RETRIES": "0", "PIP_RETRIES": "0"}
    for name, make in PLACES.items():
        requirement, settings = make(f"{server.url}/{name}/{NOT_EXPANDED}")
        server.requests.clear()
        with pytest.raises(EngineError) as caught:
            install(requirement, installer=installer, settings=settings, env=environ)
        if "requires uv" in str(caught.value) and installer == "pip":
            continue
        asked = [path for path in server.requests if path.startswith(f"/{name}/")]
        assert asked and all(path.startswith(f"/{name}/{NOT_EXPANDED}") for path in asked), (name, server.requests)
        assert "EXPANDED" not in f"{caught.value}{server.requests}"
        if name == "requirement":  # not a URL, which each installer corrects differently
            with pytest.raises(EngineError) as caught:
                install(requirement.replace("$SECRET", "%SECRET%"), installer=installer, env=environ)
            assert len(server.requests) > len(asked) and "EXPANDED" not in f"{caught.value}{server.requests}"
    assert "EXPANDED" not in (tmp_path / "pypi.log").read_text()
    with pytest.raises(EngineError, match="would replace"):
        install("ours ; os_name == '${SECRET}'", installer=installer, env=environ)


@both
def test_a_directory_may_be_named_like_a_variable(install: Install, tmp_path: Path, installer: str) -> None:
    wheel(tmp_path / "${HOME}", "ours", "1.0")
    settings = PypiSettings(find_links=((tmp_path / "${HOME}").as_uri(),))
    prefix = install("ours", installer=installer, settings=settings.with_options(no_index=True))
    assert ask(prefix, "import ours; print(ours.version)") == "1.0"


@both
def test_git_gets_a_password_but_not_as_an_argument(
    install: Install, server: ChannelServer, tmp_path: Path, installer: str
) -> None:
    (tmp_path / "bin").mkdir()
    real, log = shutil.which("git"), tmp_path / "git.log"
    assert real is not None
    program = tmp_path / "bin/git"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {log}\nexec {real} "$@"\n')
    program.chmod(0o755)
    server.credentials = ("me", "pa@ss")
    url = f"git+http://me:pa%40ss@127.0.0.1:{server.port}/ours.git@main"
    environ = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "GIT_TERMINAL_PROMPT": "0"}
    with pytest.raises(EngineError) as caught:
        install(f"ours @ {url}", installer=installer, env=environ)
    words = log.read_text()
    assert f"127.0.0.1:{server.port}/ours.git" in words and "pa@ss" not in words and "pa%40ss" not in words
    sent = [path for path, header in zip(server.requests, server.authorizations, strict=True) if header is not None]
    assert sent and all(path.startswith("/ours.git/") for path in sent)
    assert "pa%40ss" not in f"{caught.value} {(tmp_path / 'pypi.log').read_text()}"


def test_a_password_for_an_index_is_not_sent_to_a_scripts_index_of_the_same_name(
    install: Install, server: ChannelServer
) -> None:
    index = {"name": "our-index", "url": f"{server.url}/simple", "explicit": True}
    settings = PypiSettings().with_options(index=[index], sources={"ours": [{"index": "our-index"}]})
    environ = {"UV_INDEX_OUR_INDEX_USERNAME": "me", "UV_INDEX_OUR_INDEX_PASSWORD": "SECRET"}
    with pytest.raises(EngineError):
        install("ours", installer="uv", settings=settings, env=environ)
    assert server.requests and not any(server.authorizations)


@both
def test_digests_are_verified(install: Install, wheels: Path, installer: str) -> None:
    settings = PypiSettings(find_links=(wheels.as_uri(),)).with_options(no_index=True)
    digest = hashlib.sha256(next(wheels.glob("ours-*.whl")).read_bytes()).hexdigest()
    wrong = settings.with_options(hashes={"ours==1.0": [f"sha256:{'0' * 64}"]})
    with pytest.raises(EngineError, match=r"(?i)hash"):
        install("ours==1.0", installer=installer, settings=wrong)
    kept = settings.with_options(hashes={"ours==1.0": [f"sha256:{digest}"]}, require_hashes=True)
    assert ask(install("ours==1.0", installer=installer, settings=kept), "import ours; print(ours.version)") == "1.0"


@both
def test_prefer_binary_prefers_wheels(install: Install, wheels: Path, installer: str) -> None:
    with tarfile.open(wheels / "ours-2.0.tar.gz", "w:gz") as archive:
        text = b"Metadata-Version: 2.2\nName: ours\nVersion: 2.0\n"
        info = tarfile.TarInfo("ours-2.0/PKG-INFO")
        info.size = len(text)
        archive.addfile(info, io.BytesIO(text))
    settings = PypiSettings(find_links=(wheels.as_uri(),)).with_options(no_index=True, prefer_binary=True)
    assert ask(install("ours", installer=installer, settings=settings), "import ours; print(ours.version)") == "1.0"
