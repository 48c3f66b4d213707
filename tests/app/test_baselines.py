"""Environments on a baseline, through the command line: their packages, when a solve happens, and messages."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import real_engine
from engines import install_fakes
from support.baselines import Shelf, explicit, small
from support.home import Home
from support.locked import explicit_list
from support.scripts import unconfirmed
from support.server import ChannelServer, serving

from cetool.base.below import walk
from cetool.lock.conda_lock import write_conda_lock
from cetool.lock.explicit import read_explicit
from cetool.lock.model import Lock
from cetool.lock.pixi import write_pixi_lock
from cetool.packages.hashing import KnownHashes, digest_of
from cetool.packages.integrity import changed_files
from cetool.packages.prefix import read_records

FAKES = ("conda", "mamba", "micromamba")
NUMBER = 60


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Sixty packages that need each other in a chain, and some to add to them."""
    made = Shelf(tmp_path_factory.mktemp("shelf"), {})
    made.put(
        *(small(f"p{n:02}", "1.0", *([f"p{n - 1:02} >=1"] if n else [])) for n in range(NUMBER)),
        small("p07", "2.0", "p06"),
        small("extra", "1.0", "helper", "p05 >=1"),
        small("helper", "3.0"),
        small("wants-new", "1.0", "p07 >=2"),
        small("picky", "1.0", constrains=["helper <3"]),
    )
    return made


@pytest.fixture(scope="module")
def server(shelf: Shelf) -> Iterator[ChannelServer]:
    """The channel over HTTP."""
    with serving(shelf.root) as running:
        yield running


@pytest.fixture
def standard(home: Home, shelf: Shelf, server: ChannelServer) -> Path:
    """The baseline of sixty packages."""
    server.requests.clear()
    return home.write("standard.txt", explicit(shelf.lines(server.url, sixty(shelf))))


def sixty(shelf: Shelf) -> list[str]:
    return [name for name in shelf.records if name.startswith("p") and "-1.0-" in name and name[1].isdigit()]


def script(home: Home, server: ChannelServer, keys: str, name: str = "a.sh") -> Path:
    """A script that prints the packages of its environment."""
    block = "".join(f"# {line}\n" for line in keys.splitlines())
    body = "cd $CONDA_PREFIX/conda-meta && ls *.json | sed 's/-[^-]*$//'\n"
    channels = f"# channels: ['{server.url}/shelf', nodefaults]\n"
    return home.write(name, f"#!/bin/sh\n# conda execute\n{block}{channels}\n{body}")


def run(home: Home, *args: str | Path, status: int = 0, **more: Any) -> tuple[list[str], str]:
    """Return the packages that a script printed, and cetool's messages."""
    done = home.cetool(*args, **more)
    assert done.returncode == status, done.stderr
    return done.stdout.split(), unconfirmed(done.stderr)


def prefix_of(home: Home, path: Path) -> Path:
    return Path(home.cetool("name", path).stdout.strip())


def metadata_asked(server: ChannelServer) -> list[str]:
    return [path for path in server.requests if not path.endswith((".conda", ".tar.bz2"))]


# --- sixty packages, two removed, one added ---------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["rattler", *FAKES])
def test_packages_can_be_removed_and_added(
    home: Home, shelf: Shelf, server: ChannelServer, standard: Path, engine: str
) -> None:
    """Removing needs no solver; additions are solved once, and each engine gets an exact list."""
    install_fakes(home.bin, *FAKES)
    log = home.path / "calls"
    env = {"CETOOL_ENGINE": engine, "FAKE_ENGINE_LOG": str(log), "CONDA_PKGS_DIRS": str(home.path / "pkgs")}
    kept = [line for line in standard.read_text().splitlines()[2:] if "/p59-" not in line and "/p58-" not in line]

    path = script(home, server, "baseline: standard.txt\nwithout: [p58, p59]")
    found, said = run(home, "-v", path, env=env)
    assert len(found) == NUMBER - 2 and "Solving" not in said and metadata_asked(server) == []
    assert explicit_list(prefix_of(home, path)) == sorted(line.replace("#sha256:", "#") for line in kept)

    path = script(home, server, "baseline: standard.txt\nwithout: [p58, p59]\nenv: [extra]")
    found, said = run(home, "-v", path, env=env)
    added = shelf.lines(server.url, ("extra-", "helper-"))
    assert said.count("Solving") == 1 and "extra" in said
    assert explicit_list(prefix_of(home, path)) == sorted(line.replace("#sha256:", "#") for line in [*kept, *added])
    calls = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    made = [call["argv"] for call in calls if "create" in call.get("argv", ())]
    assert len(made) == (0 if engine == "rattler" else 2)
    assert all(any("explicit.txt" in word for word in argv) for argv in made)


@pytest.mark.real_conda
def test_a_real_conda_makes_the_environment(home: Home, shelf: Shelf, server: ChannelServer, standard: Path) -> None:
    conda = real_engine("real_conda")
    assert conda is not None
    (home.bin / "conda").symlink_to(conda)
    path = script(home, server, "baseline: standard.txt\nwithout: [p58, p59]\nenv: [extra]")
    env = {"CETOOL_ENGINE": "conda", "CONDA_PKGS_DIRS": str(home.path / "pkgs")}
    found, said = run(home, "-v", path, env=env)
    assert len(found) == NUMBER and said.count("Solving") == 1
    (listed,) = json.loads(home.cetool("list", "--json").stdout)["environments"]
    assert listed["engine"].startswith("conda")


def test_a_baseline_works_offline(home: Home, server: ChannelServer, standard: Path) -> None:
    """One download is enough, for other selections from the baseline as well."""
    run(home, script(home, server, "baseline: standard.txt\nenv: [extra]"))
    server.requests.clear()
    path = script(home, server, "baseline: standard.txt\nwithout: [p59]\nenv: [extra]", "b.sh")
    found, _ = run(home, "run", "--offline", path)
    assert len(found) == NUMBER + 1 and server.requests == []


# --- constraints ------------------------------------------------------------------------------------------------------


def test_an_existing_package_is_not_added(home: Home, server: ChannelServer, standard: Path) -> None:
    path = script(home, server, "baseline: standard.txt\nenv: ['p07 <2', p08]")
    _, said = run(home, "-v", path)
    assert "Solving" not in said and metadata_asked(server) == []


@pytest.mark.parametrize("wanted", ["p07 >=2", "wants-new"])
def test_a_conflict_names_the_package_and_a_fix(home: Home, server: ChannelServer, standard: Path, wanted: str) -> None:
    """Removing it allows another version, without changing the other packages."""
    _, said = run(home, script(home, server, f"baseline: standard.txt\nenv: ['{wanted}']"), status=125)
    assert "p07 1.0" in said and "without: [p07]" in said and wanted.split()[0] in said
    assert not list((home.cache / "envs").glob("[0-9a-f]*"))
    path = script(home, server, f"baseline: standard.txt\nwithout: p07\nenv: ['{wanted}']")
    found, said = run(home, path)
    assert "p07-2.0" in found and "p08-1.0" in found and len(found) == NUMBER + (wanted == "wants-new")
    assert "missed" not in said
    if wanted == "wants-new":
        assert "installed again: p07 2.0 (needed by p08, wants-new)" in said


def test_remaining_packages_constrain_additions(home: Home, shelf: Shelf, server: ChannelServer) -> None:
    """A package's run_constrained counts, read from the channel or, later, from the package itself."""
    home.write("small.txt", explicit(shelf.lines(server.url, ("picky-", "p00-1.0"))))
    path = script(home, server, "baseline: small.txt\nenv: [helper]")
    for _ in range(2):
        _, said = run(home, path, status=125)
        assert "picky 1.0" in said and "without: [picky]" in said
        run(home, script(home, server, "baseline: small.txt", "fetch.sh"))


def test_a_removed_dependency_is_reported_and_stays_out(home: Home, server: ChannelServer, standard: Path) -> None:
    path = script(home, server, "baseline: standard.txt\nwithout: [p10, 'nothing-*']\nenv: [helper]")
    found, said = run(home, path)
    assert "p10-1.0" not in found and "p11-1.0" in found and "helper-3.0" in found
    assert "p10 (needed by p11)" in said and "nothing-*" in said
    _, again = run(home, "run", "--with", "helper", path)
    assert "needed by" not in again  # reported when the environment is made


def test_globs_can_remove_everything(home: Home, server: ChannelServer, standard: Path) -> None:
    assert run(home, script(home, server, "baseline: standard.txt\nwithout: ['p[1-5]*', P0?]\nenv: [helper]"))[0] == [
        "helper-3.0"
    ]
    _, said = run(home, script(home, server, "baseline: standard.txt\nwithout: p*"), status=2)
    assert "'without' removes every package of the baseline" in said


# --- several baselines, several formats -------------------------------------------------------------------------------


def test_the_last_baseline_wins_with_a_warning(home: Home, shelf: Shelf, server: ChannelServer) -> None:
    home.write("first.txt", explicit(shelf.lines(server.url, ("p07-1.0", "p00-1.0"))))
    home.write("second.txt", explicit(shelf.lines(server.url, ("p07-2.0", "helper-"))))
    found, said = run(home, script(home, server, "baseline: [first.txt, second.txt]"))
    assert found == ["helper-3.0", "p00-1.0", "p07-2.0"]
    assert "p07 2.0 0 instead of 1.0 0" in said and "first.txt" in said
    found, said = run(home, script(home, server, "baseline: [second.txt, first.txt]"))
    assert "p07-1.0" in found and "p07 1.0 0 instead of 2.0 0" in said


@pytest.mark.parametrize("form", ["conda-lock.yml", "pixi.lock", "md5.txt"])
def test_every_format_can_be_a_baseline(home: Home, shelf: Shelf, server: ChannelServer, form: str) -> None:
    lines = shelf.lines(server.url, ("p00-1.0", "p01-1.0", "extra", "helper"), "md5" if "md5" in form else "sha256")
    lock = read_explicit(explicit(lines), "x")
    lock = Lock(lock.platforms, (f"{server.url}/shelf",))
    write: dict[str, Callable[[], str]] = {
        "conda-lock.yml": lambda: write_conda_lock(lock),
        "pixi.lock": lambda: write_pixi_lock(lock, channel_urls=(f"{server.url}/shelf",)),
        "md5.txt": lambda: explicit(lines),
    }
    home.write(form, write[form]())
    found, said = run(home, script(home, server, f"baseline: {form}\nwithout: extra\nenv: [picky]"), status=125)
    assert "helper 3.0" in said or "picky" in said
    found, said = run(home, script(home, server, f"baseline: {form}\nwithout: [extra, helper]\nenv: [picky]"))
    assert found == ["p00-1.0", "p01-1.0", "picky-1.0"] and said == ""


def test_packages_without_digests_are_reported_as_unverified(home: Home, shelf: Shelf, server: ChannelServer) -> None:
    home.write("bare.txt", explicit(shelf.lines(server.url, ("p00-1.0",), "")))
    found, said = run(home, script(home, server, "baseline: bare.txt"))
    assert found == ["p00-1.0"] and "no digest for p00" in said
    home.write("wrong.txt", explicit(line[:-4] + "0000" for line in shelf.lines(server.url, ("p00-1.0",))))
    _, said = run(home, script(home, server, "baseline: wrong.txt"), status=125)
    assert "has a wrong digest" in said


# --- dialects ---------------------------------------------------------------------------------------------------------


def test_every_dialect_and_the_command_line_are_equivalent(home: Home, server: ChannelServer, standard: Path) -> None:
    channel = f"{server.url}/shelf"
    keys = '# [tool.cetool]\n# baseline = "standard.txt"\n# without = ["p59", "p1*"]\n# env = ["helper"]\n'
    plain = script(home, server, "baseline: standard.txt\nwithout: [p59, p1*]\nenv: [helper]")
    toml = home.write("b.sh", f'# /// conda-script\n# channels = ["{channel}"]\n{keys}# /// end-conda-script\n')
    given = script(home, server, "env: [helper]", "c.sh")
    options = ("--baseline", standard, "--without", "p59", "--without", "p1*")
    names = {
        json.loads(home.cetool("show", "--json", *words).stdout)["name"]
        for words in ((plain,), (toml,), (*options, given), ("--baseline", standard.as_uri(), *options[2:], given))
    }
    assert len(names) == 1
    done = home.cetool("create", "--channel", channel, *options, "helper")
    assert done.returncode == 0 and Path(done.stdout.strip()).name in names, done.stderr
    shown = json.loads(home.cetool("show", "--json", plain).stdout)
    assert shown["baselines"] == [str(standard)] and shown["baseline_packages"] == NUMBER - 11
    assert shown["without"] == [f"p{n:02} 1.0" for n in (*range(10, 20), 59)] and shown["added"] == ["helper"]
    assert "p59 1.0" in home.cetool("show", plain).stdout
    python = home.write("d.py", f"# /// script\n{keys}# ///\n")
    _, said = run(home, "check", python, status=1)
    assert "no-python" not in said


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("without: [p01]", "a.sh:3: 'without' removes packages from a baseline, but there is no 'baseline'"),
        ("baseline: {a: b}", "a.sh:3: baseline must be a string or a list of strings"),
        ("baseline: ftp://example.org/a.txt", "cannot be a baseline: ftp URLs are not supported"),
        ("baseline: standard.txt\nwithout: ['p01 >=1']", "a.sh:4: 'p01 >=1' is not a package name"),
        ("baseline: http://example.org/a.txt", "http"),
        ("baseline: missing.txt", "missing.txt"),
        ("baseline: a.sh", "not a baseline"),
        ("baseline: osx.txt", "has no packages for linux-64, only for osx-arm64"),
    ],
)
def test_errors_have_the_line(home: Home, server: ChannelServer, standard: Path, keys: str, message: str) -> None:
    home.write("osx.txt", "# platform: osx-arm64\n@EXPLICIT\nhttps://example.org/c/osx-arm64/a-1-0.conda\n")
    _, said = run(home, script(home, server, keys), status=125)
    assert message in said and "Traceback" not in said


def test_a_scripts_lock_takes_precedence(home: Home, server: ChannelServer, standard: Path) -> None:
    """It is made from the baseline, and is valid until it is re-created."""
    path = script(home, server, "baseline: standard.txt\nwithout: [p59]\nenv: [extra]")
    assert home.cetool("lock", path).returncode == 0
    standard.write_text("gone\n")
    server.requests.clear()
    found, said = run(home, path)
    assert len(found) == NUMBER + 1 and "extra-1.0" in found and said == "" and metadata_asked(server) == []
    moved = home.write("elsewhere/a.sh", path.read_text())
    home.write("elsewhere/a.sh.conda-lock.yml", (home.path / "a.sh.conda-lock.yml").read_text())
    assert run(home, moved) == (found, "")  # its directory moves with the script
    path.write_text(path.read_text().replace("[p59]", "[p58]"))
    _, said = run(home, path, status=125)
    assert "does not match what the script declares" in said


def test_edits_and_conversions_keep_the_baseline(home: Home, server: ChannelServer, standard: Path) -> None:
    path = script(home, server, "baseline: standard.txt\nwithout: [p59, p1*]\nenv: [helper]")
    before = prefix_of(home, path)
    for dialect in ("conda-script", "conda-execute"):
        done = home.cetool("convert", "--to", dialect, path)
        assert done.returncode == 0 and prefix_of(home, path) == before, done.stderr
    assert (
        home.cetool("add", path, "picky <1").returncode == home.cetool("drop", path, "picky", "helper").returncode == 0
    )
    assert home.cetool("add", path, "helper").returncode == 0 and prefix_of(home, path) == before


def test_hashed_files_are_not_read_again_until_they_change(
    home: Home, server: ChannelServer, standard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashes are stored when files are first linked, reused, and no more than that."""
    path = script(home, server, "baseline: standard.txt")
    run(home, path)
    for kept in home.path.rglob("share/p*/version"):  # like packages that were not unpacked a moment ago
        os.utime(kept, (1e9, 1e9))
    for _ in range(2):  # the first one stores the hashes
        run(home, "run", "--refresh", path)
    prefix = prefix_of(home, path)
    notes = sorted(home.path.rglob("p*/info/cetool-hashes.json"))
    assert len(notes) == NUMBER
    packages = notes[0].parents[2]

    read: list[str] = []

    def digest(path: str | Path) -> str:
        read.append(str(path))
        return digest_of(path)

    def look() -> list[str]:
        monkeypatch.setattr("cetool.packages.integrity.digest_of", digest)
        read.clear()
        records = read_records(prefix)
        assert changed_files(prefix, records, KnownHashes(records, dict(walk(prefix)))) == []
        return sorted(Path(path).parent.name for path in read)

    assert look() == []
    notes[0].write_bytes(b'{"version": 1, "files": [[1, 2')
    notes[1].write_text(json.dumps({"version": 1, "files": [[1, 2, 3, 4, 5]]}))
    notes[2].unlink()
    assert look() == ["p00", "p01", "p02"]
    damaged = packages / "p20-1.0-0" / "share" / "p20" / "version"
    damaged.write_text("9.9")  # of the same size, and in the environment as well
    server.requests.clear()
    run(home, "run", "--refresh", path)
    assert (prefix_of(home, path) / "share/p20/version").read_text() == "1.0"
    assert server.count("*/p20-*") == 1
