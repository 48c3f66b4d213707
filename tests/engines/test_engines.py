"""Engines that are programs: what they get, what they make, and how failures are reported."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.channel import Channel
from support.home import Home
from support.requests import HOLD, request_for
from support.server import ChannelServer, Fault

from cetool.base.errors import EngineError, Interrupted
from cetool.base.process import issue
from cetool.engines.build import build_environment
from cetool.engines.choice import choose_engine
from cetool.engines.protocol import Engine, EngineRequest, Hold, SilentProgress
from cetool.packages.integrity import check_complete
from engines import install_fakes

ALL = ("conda", "mamba", "micromamba")


class Heard(SilentProgress):
    """Progress that is recorded; ``on_stage`` is called with the text of each stage."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []
        self.count = 0
        self.linked = (0, 0)
        self.interruption: BaseException | None = None

    def stage(self, text: str) -> None:
        """Record it; raise an interruption if requested."""
        self.stages.append(text)
        if self.interruption is not None and not text.startswith("Waiting"):
            raise self.interruption

    def packages(self, count: int) -> None:
        """Record it."""
        self.count = count

    def note(self, text: str) -> None:
        """Record it."""
        self.notes.append(text)

    def link(self, done: int, total: int) -> None:
        """Record it."""
        self.linked = (done, total)


@dataclass
class World:
    """A home with fake engines on its PATH, and what they got."""

    home: Home
    channel: Channel
    env: dict[str, str] = field(default_factory=dict)

    def engine(self, name: str) -> Engine:
        """Choose the engine of that name as cetool does."""
        return choose_engine(name, self.env, lock_dir=self.home.path / "locks", cache_dir=self.home.path / "cache")[0]

    def request(self, *packages: str, **changes: Any) -> EngineRequest:
        """Return a request for these packages of the local channel."""
        directory = self.home.path / "environments"
        directory.mkdir(exist_ok=True)
        number = len(list(directory.iterdir()))
        prefix = changes.pop("prefix", directory / f"e{number}-{threading.get_ident()}")
        channels = changes.pop("channels", (self.channel.url,))
        return request_for(
            prefix, packages, channels, self.home.path / "engine.log", **{"stall_timeout": 60, **changes}
        )

    @property
    def log(self) -> str:
        """The output of the engines."""
        return (self.home.path / "engine.log").read_text()

    @property
    def asked(self) -> list[dict[str, Any]]:
        """What the fake engines recorded about each creation."""
        path = Path(self.env["FAKE_ENGINE_LOG"])
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def alive(self) -> list[int]:
        """Return the running processes of the fake engines, including children."""
        pids = [entry.get("pid") or entry["child"] for entry in self.asked]
        return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def world(home: Home, local_channel: Channel) -> World:
    """A user with conda, mamba and micromamba on the PATH."""
    install_fakes(home.bin, *ALL)
    env = home.environment({"FAKE_ENGINE_LOG": str(home.path / "asked.jsonl"), "PATH": f"{home.bin}:/usr/bin:/bin"})
    return World(home, local_channel, env)


@pytest.mark.parametrize("name", ALL)
def test_engines_make_a_complete_environment(world: World, name: str) -> None:
    """The environment works, is not in conda's list, and progress was reported."""
    heard = Heard()
    request = world.request("python", "hello-bin")
    world.engine(name).create(request, heard, HOLD)
    done = subprocess.run([request.prefix / "bin" / "hello", "a b"], capture_output=True, text=True, check=True)
    assert done.stdout == f"hello from {request.prefix}\n<a b>\n"
    version = subprocess.run([request.prefix / "bin" / "python", "-c", "print(6 * 7)"], capture_output=True, check=True)
    assert version.stdout.strip() == b"42"
    assert [stage.split()[0] for stage in heard.stages] == ["Fetching", "Solving", "Downloading", "Linking"]
    assert heard.count >= 2
    assert not (world.home.path / ".conda" / "environments.txt").exists()
    assert stat.S_IMODE(request.log.stat().st_mode) == 0o600
    assert "Solving" in world.log or "Resolving" in world.log
    assert not list(world.home.path.glob("engine-input-*"))


@pytest.mark.parametrize("name", ALL)
def test_an_environment_without_packages_is_complete(world: World, name: str) -> None:
    """A request without packages gives an empty environment."""
    request = world.request()
    world.engine(name).create(request, Heard(), HOLD)
    assert (request.prefix / "conda-meta" / "history").exists()


@pytest.mark.parametrize("name", ALL)
def test_every_form_of_spec_reaches_the_solver(world: World, name: str) -> None:
    """Ranges, builds, channels and bracketed keys are passed as they are."""
    python = world.channel.python
    [archive] = world.channel.path.glob("noarch/six-1.16.0-*")
    specs = (
        f"python >=3,<{int(python.split('.')[0]) + 1}",
        f"python {python.rpartition('.')[0]}.*",
        "hello-bin ==1.0 *",
        'activated[build_number=">=0"]',
        f'six[channel="{world.channel.url}"]',
        f'six[url="{archive.as_uri()}"]',
    )
    request = world.request(*specs)
    world.engine(name).create(request, Heard(), HOLD)
    names = {path.name.rsplit("-", 2)[0] for path in (request.prefix / "conda-meta").glob("*.json")}
    assert {"python", "hello-bin", "activated", "six"} <= names
    assert (request.prefix / "conda-meta" / "six-1.16.0-pyh_0.json").exists()


@pytest.mark.parametrize("name", ALL)
def test_virtual_packages_are_overridden(world: World, name: str) -> None:
    """``__cuda`` is that of the specification, not that of the machine."""
    with pytest.raises(EngineError) as missing:
        world.engine(name).create(world.request("needs-cuda", virtual_packages=(("__cuda", "11.0"),)), Heard(), HOLD)
    assert "__cuda >=12" in f"{missing.value} {missing.value.hint}"
    world.engine(name).create(world.request("needs-cuda", virtual_packages=(("__cuda", "12.4"),)), Heard(), HOLD)


@pytest.mark.parametrize("name", ALL)
def test_variables_that_would_change_the_run_are_removed(world: World, name: str) -> None:
    """The user's settings stay, except those for JSON, quiet and dry runs, and another Python."""
    bent = {"CONDA_JSON": "1", "CONDA_DRY_RUN": "1", "PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere"}
    world.env |= {**bent, "CONDA_SSL_VERIFY": "false"}
    world.engine(name).create(world.request("hello-bin"), Heard(), HOLD)
    environ = world.asked[-1]["environ"]
    assert not bent.keys() & environ.keys()
    assert environ["CONDA_SSL_VERIFY"] == "false"


@pytest.mark.parametrize("name", ["mamba", "micromamba"])
def test_environments_are_removed_from_condas_list(world: World, name: str) -> None:
    """After success, failure or interruption; all other lines are unchanged."""
    registry = world.home.path / ".conda" / "environments.txt"
    registry.parent.mkdir()
    others = b"/somewhere/\xffelse \r\n\n/and here"
    registry.write_bytes(others + b"\n")
    registry.chmod(0o640)
    world.engine(name).create(world.request("hello-bin"), Heard(), HOLD)
    world.env["FAKE_ENGINE_FAULT"] = "transcript:h04-badpkg"
    with pytest.raises(EngineError):
        world.engine(name).create(world.request("hello-bin"), Heard(), HOLD)
    world.env["FAKE_ENGINE_FAULT"] = "hang-after-registering"
    with pytest.raises(EngineError, match="no progress"):
        world.engine(name).create(world.request("hello-bin", stall_timeout=1.5), Heard(), HOLD)
    assert registry.read_bytes() == others + b"\n"
    assert stat.S_IMODE(registry.stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("no-env", "reported success, but .*incomplete"),
        ("late", "reported success, but .*files of hello-bin are missing"),
        ("half", "reported success, but .*files of hello-bin are missing"),
        ("transcript:h04-badjson", "(crashed|SIGSEGV) while it read the package lists? of file:"),
        ("transcript:h04-badpkg", "hello-bin-2.0-0.conda is damaged"),
        ("transcript:24-bad-option", "does not support --nosuchoption"),
    ],
)
def test_a_failed_run_is_an_error(world: World, name: str, fault: str, words: str) -> None:
    """Independent of the exit status, there is one paragraph and the log."""
    world.env["FAKE_ENGINE_FAULT"] = fault
    request = world.request("hello-bin", environ=world.env)
    with pytest.raises(EngineError, match=words) as caught:
        build_environment(world.engine(name), request, Heard(), HOLD)
    assert "\n" not in str(caught.value)
    assert caught.value.log == str(request.log)
    assert not world.alive()


@pytest.mark.parametrize("name", ALL)
def test_the_environment_is_checked_while_the_engine_exits(
    world: World, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the engine has reported the end; and not again if nothing was added or removed since."""
    looks = []

    def look(*values: Any, **named: Any) -> tuple[int, int]:
        looks.append("there" in named)  # which only the early check passes
        return check_complete(*values, **named)

    monkeypatch.setattr("cetool.engines.build.check_complete", look)
    request = world.request("hello-bin", environ=world.env)
    packages, size = build_environment(world.engine(name), request, Heard(), HOLD)
    assert packages == 1 and size > 0
    assert looks == [True]


@pytest.mark.parametrize("name", ALL)
def test_a_crash_after_the_end_is_not_a_failure(world: World, name: str) -> None:
    """conda with the rattler solver sometimes does this; only `-v` reports it."""
    world.env["FAKE_ENGINE_FAULT"] = "signal-after"
    heard = Heard()
    world.engine(name).create(world.request("hello-bin"), heard, HOLD)
    assert any("SIGSEGV" in note and "complete" in note for note in heard.notes)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("fault", ["hang", "stubborn"])
@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), Interrupted(signal.SIGTERM)])
def test_an_interruption_leaves_no_process(world: World, name: str, fault: str, interruption: BaseException) -> None:
    """Not even one that ignores SIGINT and SIGTERM, nor its children; the interruption is raised again."""
    if fault == "stubborn" and name == "mamba":
        pytest.skip("the same program as micromamba")
    world.env["FAKE_ENGINE_FAULT"] = fault
    heard = Heard()
    heard.interruption = interruption
    with pytest.raises(type(interruption)):
        world.engine(name).create(world.request("hello-bin"), heard, HOLD)
    assert world.asked
    assert not world.alive()


@pytest.mark.parametrize("name", ["conda", "micromamba"])
def test_an_engine_without_progress_is_killed(world: World, name: str) -> None:
    """A server that does not answer can block an engine for minutes; the time limit is for no progress."""
    world.env["FAKE_ENGINE_FAULT"] = "hang"
    with pytest.raises(EngineError, match="no progress for 1.5 seconds"):
        world.engine(name).create(world.request("hello-bin", stall_timeout=1.5), Heard(), HOLD)
    assert not world.alive()


def test_a_slow_download_counts_as_progress(world: World, server: ChannelServer) -> None:
    """Slowly arriving bytes are progress, even if nothing is printed."""
    server.faults.append(Fault("*bigpkg*.conda", "slow", seconds=7))
    request = world.request("bigpkg", channels=(f"{server.url}/conda-forge",), stall_timeout=4)
    world.engine("micromamba").create(request, Heard(), HOLD)


_DRIVER = """
import os, sys
from pathlib import Path
from cetool.base.process import issue
from support.requests import HOLD, request_for
from cetool.engines.protocol import SilentProgress
from cetool.engines.choice import choose_engine
name, directory, channel = sys.argv[1:]
directory = Path(directory)
engine, _ = choose_engine(name, os.environ, lock_dir=directory / "locks", cache_dir=directory)
request = request_for(directory / "p", ("hello-bin",), (channel,), directory / "log")
engine.create(request, SilentProgress(), HOLD)
"""


@pytest.mark.skipif(os.name == "nt", reason="there are no process groups")
@pytest.mark.parametrize("name", ["conda", "micromamba"])
def test_killing_cetool_kills_the_engine(world: World, name: str) -> None:
    """``kill -9`` leaves cetool no chance to clean up, but the engine dies and its file lock is released."""
    env = {**world.env, "FAKE_ENGINE_FAULT": "hang", "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", _DRIVER, name, str(world.home.path), world.channel.url]
    with subprocess.Popen(arguments, env=env) as driver:
        _eventually(lambda: len(world.asked) == 2)
        leader = world.asked[0]["pid"]
        driver.kill()
    _eventually(lambda: leader not in world.alive())
    _eventually(lambda: not world.alive())  # its children die with it
    world.engine(name).create(world.request("hello-bin"), Heard(), HOLD)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_engines_inherit_descriptors_of_file_locks(world: World, tmp_path: Path) -> None:
    """File locks of the caller, and that of conda's package cache, are held as long as the engine runs."""
    lock = (tmp_path / "lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    world.env["FAKE_ENGINE_FAULT"] = "hang"
    open_files: set[str] = set()

    class Looking(Heard):
        def stage(self, text: str) -> None:
            directory = Path("/proc", str(world.asked[0]["pid"]), "fd")
            open_files.update(os.readlink(entry) for entry in directory.iterdir() if entry.is_symlink())
            raise KeyboardInterrupt

    with lock, pytest.raises(KeyboardInterrupt):
        world.engine("conda").create(world.request("hello-bin"), Looking(), Hold(issue("a test"), (lock.fileno(),)))
    assert str(tmp_path / "lock") in open_files
    assert any("/locks/packages-" in name for name in open_files)


def test_only_one_conda_uses_a_package_cache_at_a_time(world: World) -> None:
    """conda fails if two processes fill a cache at once: one waits and reports it, and both succeed."""
    heard = [Heard() for _ in range(4)]
    failures: list[BaseException] = []
    requests = [world.request("hello-bin", prefix=world.home.path / f"turn{number}") for number in range(4)]

    def create(number: int) -> None:
        try:
            world.engine("conda").create(requests[number], heard[number], HOLD)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    waited = [each for each in heard if any(stage.startswith("Waiting for another conda") for stage in each.stages)]
    assert len(waited) == 3


@pytest.mark.parametrize("name", ALL)
def test_credentials_are_hidden_from_other_users(world: World, server: ChannelServer, name: str) -> None:
    """Engines get them (the fake refuses them on a command line), but no log or record contains them."""
    server.credentials = ("user", "pass$HOME")
    request = world.request("hello-bin", channels=(f"{server.secret_url}/conda-forge", world.channel.url))
    world.engine(name).create(request, Heard(), HOLD)
    assert "conda-forge/noarch/hello-bin-1.0-0.tar.bz2" in "\n".join(server.requests)
    kept = [world.log, *(path.read_text() for path in (request.prefix / "conda-meta").iterdir())]
    assert not any("pass$HOME" in text or "pass%24HOME" in text for text in kept)
    assert not list(world.home.path.glob("engine-input-*"))


@pytest.mark.parametrize("name", ["conda", "micromamba"])
def test_an_existing_condarc_stays_effective(world: World, server: ChannelServer, name: str) -> None:
    """Temporary files with credentials do not hide the user's CONDARC and .netrc."""
    own = world.home.write("own-condarc.yml", "custom_channels:\n  lab: https://lab.example\nssl_verify: true\n")
    world.home.write(".netrc", "machine example.org login me password mine\n")
    server.credentials = ("user", "secret")
    world.env["CONDARC"] = str(own)
    world.env["FAKE_ENGINE_KEEP"] = str(world.home.path / "kept")
    request = world.request("hello-bin", channels=(f"{server.secret_url}/conda-forge",))
    world.engine(name).create(request, Heard(), HOLD)
    if name == "conda":
        condarc = (world.home.path / "kept" / "CONDARC").read_text()
        assert "lab: https://lab.example" in condarc and "ssl_verify: true" in condarc
        assert "machine example.org" in (world.home.path / "kept" / "NETRC").read_text()
    else:
        assert world.asked[-1]["environ"]["CONDARC"] == str(own)


@pytest.mark.real_conda
def test_a_real_conda(world: World, server: ChannelServer, real_conda: str) -> None:
    """Success, failure and credentials with a real conda."""
    world.env |= {"CONDA_EXE": real_conda, "PATH": f"{Path(real_conda).parent}:/usr/bin:/bin"}
    _real(world, server, "conda")
    assert str(world.home.path / "environments") not in _registry(world)


@pytest.mark.real_mamba
def test_a_real_mamba(world: World, server: ChannelServer, real_mamba: str) -> None:
    """Success, failure, credentials and registration with a real mamba."""
    world.env |= {"MAMBA_EXE": real_mamba, "MAMBA_ROOT_PREFIX": str(world.home.path / "mamba")}
    _real(world, server, Path(real_mamba).name)
    assert str(world.home.path / "environments") not in _registry(world)


def _real(world: World, server: ChannelServer, name: str) -> None:
    world.env["CONDA_PKGS_DIRS"] = str(world.home.path / "pkgs")
    engine = world.engine(name)
    heard = Heard()
    request = world.request("python", "hello-bin ==1.0", "six >=1,<2")
    engine.create(request, heard, HOLD)
    assert (request.prefix / "bin" / "hello").exists()
    assert heard.stages[-1] == "Linking"
    with pytest.raises(EngineError, match="'nosuchpackage' was not found"):
        engine.create(world.request("nosuchpackage"), Heard(), HOLD)
    with pytest.raises(EngineError) as missing:
        engine.create(world.request("missingdep"), Heard(), HOLD)
    assert "does-not-exist >=1" in str(missing.value.details) and "does-not-exist >=1" in str(missing.value.hint)
    with pytest.raises(EngineError, match="these packages conflict: ") as conflict:
        engine.create(world.request("conflict-a", "conflict-b"), Heard(), HOLD)
    assert "shared-lib" in str(conflict.value.details)
    # engines name them in different orders
    assert re.search("'conflict-[ab]' or 'conflict-[ab]'", str(conflict.value.hint))
    server.credentials = ("user", "secret")
    channel = f"{server.url}/conda-forge"
    with pytest.raises(EngineError, match=f"{channel} refuses access"):
        engine.create(world.request("activated", channels=(channel,)), Heard(), HOLD)
    engine.create(world.request("activated", channels=(f"{server.secret_url}/conda-forge",)), Heard(), HOLD)
    assert "secret" not in world.log


def _registry(world: World) -> str:
    path = world.home.path / ".conda" / "environments.txt"
    return path.read_text() if path.exists() else ""


def _eventually(condition: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@pytest.fixture(autouse=True)
def no_process_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Kill what a failing test leaves running."""
    yield
    world = request.node.funcargs.get("world") if isinstance(request.node, pytest.Function) else None
    if isinstance(world, World):
        for pid in world.alive():
            os.kill(pid, signal.SIGKILL)
