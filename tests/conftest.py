"""Fixtures that all tests share: the local channel, a server of it, a home of one's own, cetool's command line."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.channel import Channel, shared_channel
from support.home import Home, make_home, remove_home
from support.server import ChannelServer, Fault, serving

import cetool

#: What ``run_cetool`` is: arguments, and ``env``, ``input``, ``cwd``, ``timeout`` by name.
RunCetool = Callable[..., "subprocess.CompletedProcess[str]"]

_REAL_ENGINES = {
    "real_conda": ("CETOOL_TEST_CONDA", ("conda",)),
    "real_mamba": ("CETOOL_TEST_MAMBA", ("micromamba", "mamba")),
}


def real_engine(marker: str) -> str | None:
    """The path of the program that tests with this marker need, None where the machine has none."""
    variable, names = _REAL_ENGINES[marker]
    candidates = (os.environ.get(variable), *map(shutil.which, names))
    return next((path for path in candidates if path), None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--long``: the tests of load and faults at ten times their size."""
    parser.addoption("--long", action="store_true", help="run the tests of load and faults at ten times their size")


#: Seconds that a test of load and faults may take with ``--long``; pyproject.toml has the limit of all others.
_LONG = 3600


def pytest_configure() -> None:
    """Start from default signals; refuse to test the source tree where the installed package is meant to be tested."""
    reset_signals()
    if os.environ.get("CETOOL_TEST_INSTALLED"):
        found = Path(cetool.__path__[0]).resolve()
        if found.is_relative_to(Path(__file__).resolve().parents[1] / "cetool"):
            raise pytest.UsageError(f"the tests are to run on the installed cetool, but import {found}")


def reset_signals() -> None:
    """Undo what ``nohup``, ``trap`` or a shell's background job did to signals: programs under test inherit it.

    A signal that is ignored gets a handler, which exec turns into the signal's default. So a hang-up still does not
    stop the tests under ``nohup``, but it stops the programs that they start. Signals that Python itself ignores stay.
    """
    if os.name == "nt":
        return
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD}:
        if signal.getsignal(number) is signal.SIG_IGN:
            with contextlib.suppress(OSError, ValueError):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else _pass)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())


def _pass(number: int, frame: object) -> None:
    """Do nothing."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests that need an engine which is not here; give all of them more time with ``--long``."""
    if config.getoption("--long"):
        for item in items:
            item.add_marker(pytest.mark.timeout(_LONG))
    for marker in _REAL_ENGINES:
        if real_engine(marker) is None:
            skip = pytest.mark.skip(reason=f"no {' or '.join(_REAL_ENGINES[marker][1])} on the PATH")
            for item in items:
                if item.get_closest_marker(marker):
                    item.add_marker(skip)


@pytest.fixture(scope="session")
def scale(request: pytest.FixtureRequest) -> int:
    """How many times their usual size the tests of load and faults have: 10 with ``--long``."""
    return 10 if request.config.getoption("--long") else 1


@pytest.fixture(scope="session")
def local_channel() -> Channel:
    """The local channel and what it offers."""
    return shared_channel()


@pytest.fixture(scope="session")
def channel(local_channel: Channel) -> Path:
    """The local channel's root: what ``channel_alias`` names; the channel itself is its ``conda-forge``."""
    return local_channel.root


@pytest.fixture(scope="session")
def channel_url(local_channel: Channel) -> str:
    """The local channel's ``file://`` URL."""
    return local_channel.url


@pytest.fixture
def server(channel: Path) -> Iterator[ChannelServer]:
    """An HTTP server of the channel's root (the channel is ``URL/conda-forge``), without faults at first."""
    with serving(channel) as running:
        yield running


@pytest.fixture
def home(local_channel: Channel) -> Iterator[Home]:
    """A home directory of this test's own, in which conda-forge is the local channel."""
    # a short path: prefixes below it have to fit into a shebang line
    made = make_home(Path(tempfile.mkdtemp(prefix="cetool-")).resolve() / "home", local_channel)
    yield made
    remove_home(made)
    shutil.rmtree(made.path.parent, ignore_errors=True)


@pytest.fixture(scope="session")
def settled(local_channel: Channel) -> Iterator[Home]:
    """A home that tests share which only add environments, or run in them: each is made once."""
    made = make_home(Path(tempfile.mkdtemp(prefix="cetool-")).resolve() / "home", local_channel)
    yield made
    # what a test leaves in the user's site-packages, the Pythons of all later tests could import
    left = [*made.user_site.glob("*")]
    remove_home(made)
    shutil.rmtree(made.path.parent, ignore_errors=True)
    assert not left, left


@pytest.fixture
def slow(home: Home, server: ChannelServer) -> ChannelServer:
    """A channel whose repodata and largest package take a while."""
    home.condarc.write_text(f"channel_alias: {server.url}\nchannels: [conda-forge]\n")
    server.faults += [Fault("*/repodata.json*", "slow", seconds=0.3), Fault("*bigpkg*", "slow", seconds=1.0)]
    return server


@pytest.fixture
def run_cetool(home: Home) -> RunCetool:
    """``run_cetool(*args, env=..., input=..., cwd=...)`` runs cetool's real command line in ``home`` to its end."""
    return home.cetool


@pytest.fixture
def real_conda() -> str:
    """The path of a real conda."""
    path = real_engine("real_conda")
    assert path is not None
    return path


@pytest.fixture
def real_mamba() -> str:
    """The path of a real mamba or micromamba."""
    path = real_engine("real_mamba")
    assert path is not None
    return path
