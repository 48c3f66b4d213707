"""Exactly the packages of a lock with every engine: no solver, every digest verified, damage detected early."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from engines import install_fakes
from support.channel import Channel
from support.home import Home
from support.locked import explicit_list, flip, lines
from support.requests import HOLD, request_for
from support.server import ChannelServer, Fault

from cetool.base.errors import EngineError
from cetool.declare.package import Package
from cetool.engines.build import build_environment
from cetool.engines.choice import choose_engine
from cetool.engines.protocol import Engine, EngineRequest, Explain, Hold, Progress, SilentProgress
from cetool.packages.cache import DamagedPackages
from cetool.packages.integrity import Altered
from cetool.packages.integrity import changed_files as changed_of
from cetool.packages.prefix import package_paths, read_records

FAKES = ("conda", "mamba", "micromamba")
ALL = ("rattler", *FAKES)
#: mamba is the same program as micromamba.
DIFFERENT = ("rattler", "conda", "micromamba")
#: What a link script of the package ``postlink`` leaves behind.
RAN = "postlink.txt"

Make = Callable[..., Path]


def changed_files(prefix: Path) -> list[Altered]:
    return changed_of(prefix, read_records(prefix))


class Notes(SilentProgress):
    """Progress that records notes and stages."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: list[str] = []

    def note(self, text: str) -> None:
        """Record it."""
        self.notes.append(text)

    def stage(self, text: str) -> None:
        """Record it."""
        self.stages.append(text)


@pytest.fixture
def environ(home: Home) -> dict[str, str]:
    """A user with conda, mamba and micromamba on the PATH, which share a package cache."""
    install_fakes(home.bin, *FAKES)
    return home.environment({"PATH": f"{home.bin}:/usr/bin:/bin", "CONDA_PKGS_DIRS": str(home.path / "pkgs")})


@pytest.fixture
def make(home: Home, environ: dict[str, str], channel_url: str) -> Make:
    """``make(engine, lines)`` makes an environment of exactly these packages, and returns its prefix."""

    def run(name: str, explicit: tuple[str, ...], progress: Progress | None = None, **changes: Any) -> Path:
        number = sum(1 for _ in home.path.glob("e[0-9]*"))
        changes = {"channels": (channel_url,), "prefix": home.path / f"e{number}", "stall_timeout": 60, **changes}
        prefix, packages, channels = changes.pop("prefix"), changes.pop("packages", ()), changes.pop("channels")
        request = request_for(prefix, packages, channels, home.path / "log", exact=_packages(explicit), **changes)
        engine(home, environ, name).create(request, progress or SilentProgress(), HOLD)
        return request.prefix

    return run


def _packages(lines: tuple[str, ...]) -> tuple[Package, ...]:
    return tuple(map(Package.from_line, lines))


def engine(home: Home, environ: dict[str, str], name: str) -> Engine:
    """Choose the engine of that name as cetool does."""
    return choose_engine(name, environ, lock_dir=home.path / "locks", cache_dir=home.path / "cache")[0]


def unpacked(home: Home, stem: str) -> list[Path]:
    """Return where a package is kept unpacked."""
    return [path for path in home.path.rglob(stem) if (path / "info").is_dir()]


# --- what is made ---------------------------------------------------------------------------------------------------


def test_every_engine_makes_the_same_environment(
    home: Home, make: Make, local_channel: Channel, server: ChannelServer
) -> None:
    """The same packages by URL and digest, with complete records; only packages are requested."""
    names = ("python", "six=1.16.0", "hello-bin", "postlink", "activated")
    explicit = lines(local_channel, *names, url=f"{server.url}/conda-forge")
    wanted = sorted(f"{url}#{digest}" for url, _, digest in (line.partition("#sha256:") for line in explicit))
    for name in ALL:
        heard = Notes()
        prefix = make(name, explicit, heard)
        assert explicit_list(prefix) == wanted, name
        assert changed_files(prefix) == [], name
        record = json.loads((prefix / "conda-meta" / "six-1.16.0-pyh_0.json").read_bytes())
        assert record["depends"] and record["license"] == "NOASSERTION" and record["noarch"] == "python"
        assert (prefix / RAN).read_text() == "postlink\n"
        assert "Solving" not in heard.stages
        asked = subprocess.run([prefix / "bin/python", "-c", "import six; print(six.__version__)"], capture_output=True)
        assert asked.stdout == b"1.16.0\n"
        shutil.rmtree(home.path / "pkgs", ignore_errors=True)
    assert server.requests and all(path.endswith((".conda", ".tar.bz2")) for path in server.requests)


def test_fetched_packages_are_used_offline(make: Make, local_channel: Channel, server: ChannelServer) -> None:
    explicit = lines(local_channel, "hello-bin", "activated", url=f"{server.url}/conda-forge")
    with pytest.raises(EngineError, match=r"hello-bin-1.0-0.tar.bz2 is not in the package cache|activated"):
        make("rattler", explicit, offline=True)
    first = make("rattler", explicit)
    server.requests.clear()
    assert explicit_list(make("rattler", explicit, offline=True)) == explicit_list(first)
    assert server.requests == []


def test_packages_cached_by_a_solve_are_used(
    make: Make, local_channel: Channel, server: ChannelServer, channel_url: str
) -> None:
    """The embedded engine recognizes packages by their digests."""
    channel = f"{server.url}/conda-forge"
    solved = make("rattler", (), packages=("hello-bin",), channels=(channel,))
    server.requests.clear()
    locked = make("rattler", lines(local_channel, "hello-bin", url=channel))
    assert explicit_list(locked) == explicit_list(solved)
    assert server.requests == []
    # and the reverse: a solve uses packages cached for a lock
    make("rattler", lines(local_channel, "activated", url=channel))
    make("rattler", (), packages=("activated",), channels=(channel,))
    assert server.count("*activated*") == 1


@pytest.mark.parametrize("name", DIFFERENT)
def test_credentials_of_the_channel_are_used_and_not_shown(
    home: Home, make: Make, local_channel: Channel, server: ChannelServer, name: str
) -> None:
    """A lock's URLs have none; those of their channel are added."""
    server.credentials = ("user", "pa$HOME")
    explicit = lines(local_channel, "hello-bin", url=f"{server.url}/conda-forge")
    prefix = make(name, explicit, channels=(f"{server.secret_url}/conda-forge",))
    assert len(explicit_list(prefix)) == 1
    kept = [path.read_text() for path in (home.path / "log", *(prefix / "conda-meta").iterdir())]
    assert not any("pa$HOME" in text or "pa%24HOME" in text for text in kept)
    assert not list(home.path.glob("engine-input-*"))


def test_a_denied_channel_is_refused_in_locks(home: Home, make: Make, local_channel: Channel) -> None:
    home.condarc.write_text(f"{home.condarc.read_text()}denylist_channels: [{local_channel.url}]\n")
    with pytest.raises(EngineError, match="does not allow the channel"):
        make("rattler", lines(local_channel, "hello-bin"), channels=())


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIFFERENT)
@pytest.mark.parametrize("scheme", ["file", "http"])
@pytest.mark.parametrize("digest", ["sha256", "md5"])
def test_a_flipped_bit_in_the_channel_is_detected(
    home: Home, make: Make, local_channel: Channel, name: str, scheme: str, digest: str, tmp_path: Path
) -> None:
    """With each kind of digest in the lock, and from each kind of URL."""
    from support.locked import locked
    from support.server import serving

    (package,) = locked(local_channel, "postlink")
    copy = tmp_path / "conda-forge" / "noarch" / package.url.rpartition("/")[2]
    copy.parent.mkdir(parents=True)
    shutil.copy(local_channel.path / "noarch" / copy.name, copy)
    flip(copy, b'echo "$PKG_NAME"')
    with serving(tmp_path) as server:
        base = server.url if scheme == "http" else tmp_path.as_uri()
        package = package._replace(url=f"{base}/conda-forge/noarch/{copy.name}")
        package = package._replace(sha256=None) if digest == "md5" else package
        with pytest.raises(EngineError, match=r"has a wrong digest|is damaged"):
            make(name, (package.line,))
    assert not list(home.path.glob(f"e*/{RAN}"))


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_flipped_bit_in_an_unpacked_package_is_detected(
    home: Home, make: Make, local_channel: Channel, name: str
) -> None:
    """Before its link script runs. The embedded engine fetches it again; other caches belong to the user."""
    explicit = lines(local_channel, "postlink", "hello-bin")
    shutil.rmtree(make(name, explicit))
    (kept,) = unpacked(home, "postlink-1.0-0")
    flip(kept / "bin/.postlink-post-link.sh", b"echo")
    if name == "rattler":
        assert (make(name, explicit) / RAN).read_text() == "postlink\n"
        return
    with pytest.raises(DamagedPackages, match=r"postlink-1.0-0 are missing or changed") as caught:
        make(name, explicit)
    assert caught.value.directories == (kept,)
    assert not list(home.path.glob(f"e*/{RAN}"))


def test_another_package_of_the_same_name_in_the_cache_is_not_used(
    make: Make, local_channel: Channel, tmp_path: Path
) -> None:
    """Name, version and build do not distinguish packages of two channels."""
    from support.archive import Entry, Package, write_package

    record = write_package(Package("hello-bin", "1.0", entries=(Entry("other", b"other"),)), tmp_path)
    other = f"{tmp_path.as_uri()}/noarch/hello-bin-1.0-0.conda#sha256:{record['sha256']}"
    ours = lines(local_channel, "hello-bin")
    for explicit, path in ((ours, "bin/hello"), ((other,), "other"), (ours, "bin/hello")):
        assert (make("rattler", explicit) / path).exists()


def test_an_incomplete_download_is_an_error(make: Make, local_channel: Channel, server: ChannelServer) -> None:
    server.faults.append(Fault("*bigpkg*.conda", "truncate"))
    with pytest.raises(EngineError, match="bigpkg"):
        make("rattler", lines(local_channel, "bigpkg", url=f"{server.url}/conda-forge"))


def test_many_processes_fill_one_cache(home: Home, make: Make, local_channel: Channel, server: ChannelServer) -> None:
    """At the same time, with common packages: each gets all of its packages."""
    import threading

    common = ("bigpkg", "many-files", "hello-bin")
    made: dict[int, list[str]] = {}

    def one(number: int) -> None:
        explicit = lines(
            local_channel, *common, *(("activated",) if number % 2 else ()), url=f"{server.url}/conda-forge"
        )
        made[number] = explicit_list(make("rattler", explicit, prefix=home.path / f"at-once-{number}"))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: len(found) for number, found in made.items()} == {0: 3, 1: 4, 2: 3, 3: 4}
    assert all(changed_files(home.path / f"at-once-{number}") == [] for number in made)


def test_a_missing_locked_package_is_an_error(make: Make, local_channel: Channel, server: ChannelServer) -> None:
    (line,) = lines(local_channel, "hello-bin")
    for name in ALL:
        with pytest.raises(EngineError, match=r"hello-bin-9.0-0.tar.bz2:"):
            make(name, (line.replace("1.0-0", "9.0-0"),))
    gone = f"{server.url}/conda-forge/noarch/hello-bin-9.0-0.tar.bz2"
    with pytest.raises(EngineError, match="404"):
        make("rattler", (gone,))


@pytest.mark.parametrize(("name", "version"), [("conda", "conda 24.7.1"), ("micromamba", "2.0.8")])
def test_an_engine_that_ignores_sha256_is_refused(
    make: Make, environ: dict[str, str], local_channel: Channel, name: str, version: str
) -> None:
    environ["FAKE_ENGINE_VERSION"] = version
    with pytest.raises(EngineError, match="cannot verify locked packages"):
        make(name, lines(local_channel, "hello-bin"))


class Meddling:
    """The embedded engine, with a change to the environment before it is checked."""

    name = "rattler"
    version = "1"

    def __init__(self, inner: Engine, meddle: Callable[[Path], None]) -> None:
        self._inner = inner
        self._meddle = meddle

    def create(self, request: EngineRequest, progress: Progress, hold: Hold) -> Explain:
        """Make the environment and change it."""
        explain = self._inner.create(request, progress, hold)
        self._meddle(request.prefix)
        return explain


def build(home: Home, environ: dict[str, str], explicit: tuple[str, ...], meddle: Callable[[Path], None]) -> Notes:
    heard = Notes()
    made = Meddling(engine(home, environ, "rattler"), meddle)
    request = request_for(home.path / "built", (), (), home.path / "log", exact=_packages(explicit), environ=environ)
    build_environment(made, request, heard, HOLD)
    return heard


def replaced(path: Path) -> None:
    """Replace a file by another one, without changing the package cache."""
    text = path.read_bytes()
    path.unlink()
    path.write_bytes(text + b"#")


def test_linked_files_are_verified(home: Home, environ: dict[str, str], local_channel: Channel) -> None:
    explicit = lines(local_channel, "activated")
    where = "etc/conda/activate.d/activated.sh"
    with pytest.raises(EngineError, match=f"files differ from their packages, .*: {where}"):
        build(home, environ, explicit, lambda prefix: replaced(prefix / where))
    shutil.rmtree(home.path / "built")
    # a link script may change files
    heard = build(
        home, environ, (*explicit, *lines(local_channel, "postlink")), lambda prefix: replaced(prefix / where)
    )
    assert any(where in note for note in heard.notes)


def test_an_archive_without_a_digest_is_reported(home: Home, environ: dict[str, str], local_channel: Channel) -> None:
    heard = build(home, environ, (lines(local_channel, "activated")[0].partition("#")[0],), lambda prefix: None)
    assert any("no digests: activated-1.0-0.conda" in note for note in heard.notes)


# --- lines ----------------------------------------------------------------------------------------------------------


def test_lines_are_parsed() -> None:
    md5, sha256 = "0123456789abcdefABCDEF0123456789", "ab" * 32
    url = "https://c.example/label/x/linux-64/a-b-1.0_1!2-h0_1.conda"
    for text, digest in ((f"#{md5}", ("md5", md5.lower())), (f"#sha256:{sha256}", ("sha256", sha256)), ("", None)):
        package = Package.from_line(url + text)
        assert (package.name, package.stem, package.subdir) == ("a-b", "a-b-1.0_1!2-h0_1", "linux-64")
        assert (package.channel, package.digest) == ("https://c.example/label/x", digest)
    assert Package.from_line(f"{url}#{sha256}").sha256 == sha256
    for wrong in ("a-1-0.conda", "https://x/y.conda", f"{url}#123", f"{url} ", "https://u:secret@x/linux-64/a.zip"):
        if wrong.strip() == url:
            continue
        with pytest.raises(ValueError) as caught:
            Package.from_line(wrong)
        assert "secret" not in str(caught.value)


# --- what is intact -------------------------------------------------------------------------------------------------


def test_changed_files_are_found(make: Make, local_channel: Channel) -> None:
    prefix = make("rattler", lines(local_channel, "python", "six=1.16.0", "hello-bin", "activated"))
    site = next(prefix.glob("lib/python3*/site-packages"))
    (site / "six.py").unlink()
    replaced(prefix / "etc/conda/activate.d/activated.sh")
    (prefix / "share/hello/prefix.txt").write_text("/elsewhere\n")
    (site / "__pycache__").mkdir(exist_ok=True)
    (site / "__pycache__" / "new.pyc").write_bytes(b"")
    assert changed_files(prefix) == [
        Altered("etc/conda/activate.d/activated.sh", "activated-1.0-0", "changed"),
        Altered(f"{site.relative_to(prefix)}/six.py", "six-1.16.0-pyh_0", "missing"),
        Altered("share/hello/prefix.txt", "hello-bin-1.0-0", "changed"),
    ]
    assert {path.package for path in package_paths(read_records(prefix))} >= {"six-1.16.0-pyh_0", "activated-1.0-0"}


def test_links_are_verified_by_their_targets(make: Make, tmp_path: Path) -> None:
    """The recorded hash of a link is that of its target in the package."""
    from support.archive import Entry, Package, write_package

    entries = (Entry("lib/real.txt", b"real"), Entry("lib/link.txt", b"real", link="real.txt"), Entry("lib/o", b"o"))
    record = write_package(Package("linked", "1", entries=entries), tmp_path)
    prefix = make("rattler", (f"{tmp_path.as_uri()}/noarch/linked-1-0.conda#sha256:{record['sha256']}",))
    assert changed_files(prefix) == []
    link = prefix / "lib/link.txt"
    for target in ("o", "../elsewhere"):
        link.unlink()
        link.symlink_to(target)
        (prefix / "elsewhere").write_bytes(b"else")
        assert changed_files(prefix) == [Altered("lib/link.txt", "linked-1-0", "changed")]
    link.unlink()
    link.write_bytes(b"real")
    assert [each.path for each in changed_files(prefix)] == ["lib/link.txt"]


# --- the real ones --------------------------------------------------------------------------------------------------


@pytest.mark.real_conda
def test_a_real_conda(
    home: Home, make: Make, environ: dict[str, str], local_channel: Channel, server: ChannelServer, real_conda: str
) -> None:
    """``conda list --explicit --sha256`` is the same for it and the embedded engine; damage is detected."""
    environ |= {"CONDA_EXE": real_conda, "PATH": f"{Path(real_conda).parent}:/usr/bin:/bin"}
    names = ("python", "six=1.16.0", "hello-bin", "postlink", "activated")
    explicit = lines(local_channel, *names, url=f"{server.url}/conda-forge")
    listed = []
    for name in ("rattler", "conda"):
        prefix = make(name, explicit)
        assert changed_files(prefix) == []
        done = subprocess.run(
            [real_conda, "list", "-p", prefix, "--explicit", "--sha256"], env=environ, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        listed.append([line for line in done.stdout.splitlines() if not line.startswith("#")])
    assert sorted(listed[0]) == sorted(listed[1]) and len(listed[0]) == len(names) + 1
    flip(home.path / "pkgs" / "postlink-1.0-0" / "bin/.postlink-post-link.sh", b"echo")
    with pytest.raises(DamagedPackages, match="postlink"):
        make("conda", explicit)
    server.credentials = ("user", "secret")
    secret = lines(local_channel, "bigpkg", url=f"{server.url}/conda-forge")
    make("conda", secret, channels=(f"{server.secret_url}/conda-forge",))
    assert "secret" not in (home.path / "log").read_text()
