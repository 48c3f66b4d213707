"""The embedded engine with a real channel, from disk and over HTTP, and its failures."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.requests import HOLD, request_for
from support.server import ChannelServer, Fault

from cetool.base.errors import EngineError, Interrupted
from cetool.engines.protocol import SilentProgress
from cetool.engines.rattler.engine import RattlerEngine

Create = Callable[..., Path]


class Listening(SilentProgress):
    """Progress that is recorded."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.counted = 0
        self.downloads: list[tuple[int, int | None]] = []
        self.links: list[tuple[int, int]] = []

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def packages(self, count: int) -> None:
        self.counted = count

    def download(self, done: int, total: int | None) -> None:
        self.downloads.append((done, total))

    def link(self, done: int, total: int) -> None:
        self.links.append((done, total))


@pytest.fixture
def create(tmp_path: Path, channel: Path) -> Create:
    """``create(*specs, channels=..., env=..., progress=..., **request)`` makes an environment, returns its prefix."""
    (tmp_path / "home").mkdir()
    made = iter(range(100))

    def run(
        *specs: str,
        channels: tuple[str, ...] = ("conda-forge",),
        env: dict[str, str] | None = None,
        progress: Any = None,
        **request: Any,
    ) -> Path:
        environ = {
            "HOME": str(tmp_path / "home"),
            "PATH": os.defpath,
            "CONDA_CHANNEL_ALIAS": channel.as_uri(),
            "CONDA_REMOTE_MAX_RETRIES": "0",
            **(env or {}),
        }
        number = next(made)
        wanted = request_for(
            prefix=tmp_path / f"env-{number}",
            packages=specs,
            channels=channels,
            log=tmp_path / f"log-{number}",
            **request,
        )
        RattlerEngine(environ, tmp_path / "cache").create(wanted, progress or Listening(), HOLD)
        return wanted.prefix

    return run


def fails(create: Create, *specs: str, **options: Any) -> EngineError:
    with pytest.raises(EngineError) as caught:
        create(*specs, **options)
    return caught.value


def traces(root: Path, *secrets: str) -> list[str]:
    """Yield the files below root that contain one of the secrets, also in their names."""
    found = []
    for path in root.rglob("*"):
        text = path.name.encode() + (path.read_bytes() if path.is_file() and not path.is_symlink() else b"")
        found += [str(path) for secret in secrets if secret.encode() in text]
    return found


def test_an_environment_works_and_is_complete_for_conda(create: Create) -> None:
    progress = Listening()
    prefix = create("python >=3", "numpy", "six", progress=progress)
    code = "import numpy, six; print(numpy.arange(3).sum())"
    printed = subprocess.run([prefix / "bin/python", "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout == "3\n"
    history = (prefix / "conda-meta/history").read_text()
    assert history.startswith("==> ") and "\n+conda-forge/noarch::six-" in history
    assert "# update specs: ['python >=3', 'numpy', 'six']" in history
    assert progress.stages[0] == "Solving" and "Linking" in progress.stages
    assert progress.counted == len(list((prefix / "conda-meta").glob("*.json"))) == progress.links[-1][0]


def test_post_link_scripts_run_as_under_conda(create: Create) -> None:
    assert any(create("postlink").rglob("postlink.txt"))


def test_downloads_are_counted_and_cached_packages_work_offline(create: Create, server: ChannelServer) -> None:
    url = f"{server.url}/conda-forge"
    progress = Listening()
    create("bigpkg", channels=(url,), progress=progress)
    done, total = progress.downloads[-1]
    assert done == total and done > 5_000_000
    asked = len(server.requests)
    assert (create("bigpkg", channels=(url,), offline=True) / "conda-meta/history").stat().st_size
    assert len(server.requests) == asked
    error = fails(create, "many-files", channels=(url,), offline=True)
    assert "many-files" in str(error) and "package cache" in str(error) and "--offline" in str(error.hint)
    error = fails(create, "bigpkg", channels=(f"{server.url}/other",), offline=True)
    assert f"the metadata of {server.url}/other are not cached" in str(error)


@pytest.mark.parametrize("verify", ["true", "false"])
def test_credentials_are_sent_to_the_server_only(
    create: Create, server: ChannelServer, tmp_path: Path, verify: str
) -> None:
    server.token, server.credentials = "tok-SECRET", ("user", "pass-SECRET")
    url = f"{server.secret_url}/conda-forge"
    prefix = create("hello-bin", f"{url}::postlink", channels=(url,), env={"CONDA_SSL_VERIFY": verify})
    record = json.loads(next((prefix / "conda-meta").glob("hello-bin-*.json")).read_text())
    assert record["url"].startswith(f"{server.url}/conda-forge/")
    assert traces(tmp_path, "SECRET") == []
    server.credentials = ("user", "other")
    error = fails(create, "bigpkg", channels=(url.replace("/conda-forge", "/conda-forge/label/x"),))
    assert "refuses access" in str(error) or "was not found" in str(error)
    assert "SECRET" not in f"{error} {error.hint}" and traces(tmp_path, "SECRET") == []


def test_credentials_in_netrc_are_used(create: Create, server: ChannelServer, tmp_path: Path) -> None:
    server.credentials = ("user", "SECRET")
    netrc = tmp_path / "netrc-file"
    netrc.write_text("machine 127.0.0.1 login user password SECRET\n")
    url = f"{server.url}/conda-forge"
    create("hello-bin", channels=(url,), env={"NETRC": str(netrc)})
    netrc.unlink()
    error = fails(create, "bigpkg", channels=(url,))
    assert "refuses access" in str(error) and "401" in str(error) and "netrc" in str(error.hint)


def test_threads_use_their_own_variables_and_keep_those_of_the_process(
    create: Create, server: ChannelServer, tmp_path: Path
) -> None:
    server.credentials = ("user", "SECRET")
    before, url, told = dict(os.environ), f"{server.url}/conda-forge", {}

    def work(password: str) -> None:
        netrc = tmp_path / f"netrc-{password}"
        netrc.write_text(f"machine 127.0.0.1 login user password {password}\n")
        heard = Listening()
        try:
            create("hello-bin", channels=(url,), env={"NETRC": str(netrc)}, progress=heard)
            told[password] = heard.stages
        except EngineError as error:
            told[password] = [error.code]

    threads = [threading.Thread(target=work, args=(password,)) for password in ("SECRET", "WRONG")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "Linking" in told["SECRET"] and told["WRONG"] == ["channel-unauthorized"]
    assert dict(os.environ) == before


def test_mirrors_custom_channels_and_package_directories_of_condarc(
    create: Create, server: ChannelServer, tmp_path: Path
) -> None:
    (tmp_path / "home/.condarc").write_text(
        f"custom_channels:\n  conda-forge: http://nowhere.invalid\n"
        f"mirrored_channels:\n  conda-forge: ['{server.url}/conda-forge']\n"
        f"pkgs_dirs: ['{tmp_path}/mine']\n"
    )
    prefix = create("hello-bin")
    record = json.loads(next((prefix / "conda-meta").glob("hello-bin-*.json")).read_text())
    assert record["url"].startswith("http://nowhere.invalid/conda-forge/")
    assert server.count("*.tar.bz2") == 1
    assert list((tmp_path / "mine/rattler/pkgs").glob("hello-bin-*"))


def test_a_denied_channel_is_refused(create: Create) -> None:
    error = fails(create, "hello-bin", env={"CONDA_DENYLIST_CHANNELS": "conda-forge"})
    assert "does not allow the channel 'conda-forge'" in str(error)


def test_virtual_packages_can_be_overridden(create: Create) -> None:
    create("needs-cuda", virtual_packages=(("__cuda", "12.4"),))
    create("hello-bin", 'six[when="__cuda >=99"]', virtual_packages=(("__cuda", "12.4"),))
    assert "__cuda" in str(fails(create, "needs-cuda", virtual_packages=(("__cuda", ""),)).hint)


@pytest.mark.parametrize(
    ("specs", "message", "hint"),
    [
        (("nmupy",), "package 'nmupy' was not found in conda-forge", "numpy"),
        (("six >=99",), "package 'six >=99' was not found in conda-forge", "1.16.0"),
        (("missingdep",), "'missingdep' cannot be installed", "add a channel that has 'does-not-exist >=1'"),
        (("conflict-a", "conflict-b"), "these packages conflict: conflict-a, conflict-b", "Leave out 'conflict-a'"),
    ],
)
def test_unsatisfiable_specs_are_explained(create: Create, specs: tuple[str, ...], message: str, hint: str) -> None:
    error = fails(create, *specs)
    assert message in str(error) and hint in str(error.hint)
    assert error.log is not None and stat.S_IMODE(Path(error.log).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("*.tar.bz2", "status", status=404), "lists hello-bin"),
        (Fault("*.tar.bz2", "status", status=403), "refuses access for hello-bin"),
        (Fault("*.tar.bz2", "status", status=500), "answered for hello-bin"),
        (Fault("*.tar.bz2", "corrupt"), "hello-bin"),
        (Fault("*.tar.bz2", "truncate"), "is damaged"),
        (Fault("*repodata*", "status", status=503), "503"),
        (Fault("*repodata*", "status", status=404), "was not found"),
    ],
)
def test_failures_of_a_server_are_explained(create: Create, server: ChannelServer, fault: Fault, message: str) -> None:
    server.faults.append(fault)
    error = fails(create, "hello-bin", channels=(f"{server.url}/conda-forge",))
    assert message in str(error) and "\n" not in str(error)


def test_a_missing_server_is_reported(create: Create) -> None:
    error = fails(create, "hello-bin", channels=("http://127.0.0.1:1/conda-forge",))
    assert "cannot reach the channel http://127.0.0.1:1/conda-forge" in str(error)


@pytest.mark.parametrize("pattern", ["*repodata*", "*.tar.bz2"])
def test_a_server_that_hangs_times_out(create: Create, server: ChannelServer, pattern: str) -> None:
    server.faults.append(Fault(pattern, "hang"))
    error = fails(create, "hello-bin", channels=(f"{server.url}/conda-forge",), stall_timeout=0.5)
    assert "no data arrived from" in str(error) and error.log is not None


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, lambda: Interrupted(signal.SIGTERM)])
def test_a_signal_stops_it_and_nothing_is_written_afterwards(
    create: Create, server: ChannelServer, tmp_path: Path, interruption: Callable[[], BaseException]
) -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals are taken by the main thread")
    server.faults.append(Fault("*.tar.bz2", "hang"))

    def stop(signum: int, frame: object) -> None:
        raise interruption()

    class Signalling(Listening):
        def stage(self, text: str) -> None:
            if text == "Downloading":
                os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with pytest.raises((KeyboardInterrupt, Interrupted)):
            create("hello-bin", "many-files", channels=(f"{server.url}/conda-forge",), progress=Signalling())
    finally:
        signal.signal(signal.SIGUSR1, before)
    left = sorted((tmp_path / "env-0").rglob("*"))
    time.sleep(0.5)
    assert sorted((tmp_path / "env-0").rglob("*")) == left
    assert not (tmp_path / "env-0/conda-meta/hello-bin-1.0-0.json").exists()


def test_many_processes_share_one_cold_cache(tmp_path: Path, server: ChannelServer) -> None:
    code = (
        "import sys; from pathlib import Path; from cetool.engines.rattler.engine import RattlerEngine;"
        "from cetool.engines.protocol import SilentProgress; root = Path(sys.argv[1]);"
        "from support.requests import HOLD, request_for;"
        "RattlerEngine({'HOME': str(root)}, root / 'cache').create(request_for(root / ('e' + sys.argv[2]),"
        "('many-files', 'hello-bin'), (sys.argv[3],), root / ('l' + sys.argv[2])), SilentProgress(), HOLD)"
    )
    url = f"{server.url}/conda-forge"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    running = [subprocess.Popen([sys.executable, "-c", code, tmp_path, str(each), url], env=env) for each in range(6)]
    assert [process.wait(120) for process in running] == [0] * 6
    for each in range(6):
        assert (tmp_path / f"e{each}/bin/hello").exists() and (tmp_path / f"e{each}/conda-meta/history").stat().st_size


def test_a_directory_that_is_not_writable_is_named(create: Create, tmp_path: Path) -> None:
    (tmp_path / "env-0").write_text("in the way")
    error = fails(create, "hello-bin")
    assert str(tmp_path / "env-0") in str(error)
