"""``cetool upgrade``: newer packages in a script's lock, or in its environment, and a line for each that changed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from engines import install_fakes
from support.archive import Package, write_package, write_repodata
from support.home import Home
from support.scripts import environments, started, told

SCRIPT = "#!/bin/sh\n# conda execute\n# channels: [./channel, nodefaults]\n# env: [tool, other]\n{}\n"
LOCK = "a.sh.conda-lock.yml"


def publish(home: Home, *more: Package) -> None:
    """Index the channel of `tool` 1, `lib` 1 and `other` 1, and what was published since."""
    packages = (Package("tool", "1", depends=("lib",)), Package("lib", "1"), Package("other", "1"), *more)
    path = home.path / "channel"
    write_repodata({f"{each.stem}{each.suffix}": write_package(each, path) for each in packages}, "noarch", path)
    for subdir in ("linux-64",):
        write_repodata({}, subdir, path)


NEW = (
    Package("tool", "2", depends=("lib >=2", "extra")),
    Package("lib", "2"),
    Package("other", "2"),
    Package("extra", "1"),
)


@pytest.fixture
def here(home: Home) -> Home:
    """A home with a channel, and a script of two packages."""
    publish(home)
    home.write("a.sh", SCRIPT.format("true"))
    return home


def upgrade(home: Home, *words: str | Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = home.cetool("upgrade", *words)
    assert done.returncode == status, done.stderr
    return done


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    assert done.stdout == ""
    return done.stderr.splitlines()


def versions(home: Home, prefix: Path | str | None = None) -> dict[str, str]:
    found = Path(prefix or home.cetool("path", "a.sh").stdout.strip(), "conda-meta").glob("*.json")
    records = [json.loads(path.read_text()) for path in found]
    return {each["name"]: each["version"] for each in records}


def test_the_lock_of_a_script_is_upgraded_and_each_change_reported(here: Home) -> None:
    assert here.cetool("lock", "a.sh").returncode == 0
    before = (here.path / LOCK).read_text()
    assert lines(upgrade(here, "a.sh")) == ["Already up to date"]
    assert (here.path / LOCK).read_text() == before
    publish(here, *NEW)
    would = ["Would add extra 1", "Would update lib 1 -> 2", "Would update other 1 -> 2", "Would update tool 1 -> 2"]
    assert lines(upgrade(here, "a.sh", "--dry-run")) == would
    assert (here.path / LOCK).read_text() == before
    changed = ["Added extra 1", "Updated lib 1 -> 2", "Updated other 1 -> 2", "Updated tool 1 -> 2", f"Updated {LOCK}"]
    assert lines(upgrade(here, "a.sh")) == changed
    assert environments(here) == {}
    assert here.cetool("lock", "--check", "a.sh").returncode == 0
    assert lines(upgrade(here, "-q", "a.sh")) == []


def test_a_lock_that_only_the_script_outdates_is_reported_as_updated(here: Home) -> None:
    assert here.cetool("lock", "a.sh").returncode == 0
    here.write("a.sh", SCRIPT.format("true").replace("tool,", "tool >=1,"))
    assert lines(upgrade(here, "a.sh", "--dry-run")) == [f"Would update {LOCK}"]
    assert lines(upgrade(here, "a.sh")) == [f"Updated {LOCK}"]
    assert lines(upgrade(here, "a.sh")) == ["Already up to date"]
    assert here.cetool("lock", "--check", "a.sh").returncode == 0


def test_of_a_lock_only_the_named_packages_and_what_they_need_are_upgraded(here: Home) -> None:
    assert here.cetool("lock", "a.sh", "--platform", "linux-64", "osx-arm64").returncode == 0
    publish(here, *NEW)
    assert lines(upgrade(here, "a.sh", "other")) == ["Updated other 1 -> 2", f"Updated {LOCK}"]
    document = json.loads(upgrade(here, "--json", "a.sh", "Tool").stdout)
    assert (document["schema"], document["changed"], document["dry_run"]) == ("cetool.upgrade/1", True, False)
    assert document["lock"] == str(here.path / LOCK) and document["prefix"] is None
    assert {(each["platform"], each["name"], each["after"]) for each in document["changes"]} == {
        (platform, name, f"{version} 0")
        for platform in ("linux-64", "osx-arm64")
        for name, version in (("extra", "1"), ("lib", "2"), ("tool", "2"))
    }
    done = upgrade(here, "a.sh", "tol", status=2)
    assert told(done.stderr) == [f"cetool: {LOCK} has no package 'tol'", "Did you mean 'tool'?"]
    done = upgrade(here, "--with", "extra", "a.sh", status=2)
    assert told(done.stderr)[0] == f"cetool: {LOCK} cannot be combined with --with"


@pytest.mark.parametrize("engine", ["rattler", "micromamba"])
def test_without_a_lock_the_environment_is_upgraded(engine: str, here: Home) -> None:
    if engine != "rattler":
        install_fakes(here.bin, engine)
    words = ("--engine", engine, "a.sh")
    assert lines(upgrade(here, "--dry-run", *words)) == ["a.sh has no environment yet"]
    assert environments(here) == {}
    assert told(upgrade(here, *words, "tool", status=2).stderr)[0] == "cetool: a.sh has no environment yet"
    (created,) = lines(upgrade(here, *words))
    assert created.startswith("Created ")
    assert versions(here) == {"lib": "1", "other": "1", "tool": "1"}
    before = environments(here)
    assert lines(upgrade(here, *words)) == ["Already up to date"]
    publish(here, *NEW)
    assert "Would update other 1 -> 2" in lines(upgrade(here, "--dry-run", *words))
    assert environments(here) == before
    assert [line for line in lines(upgrade(here, *words, "other")) if not line.startswith("Created")] == [
        "Updated other 1 -> 2"
    ]
    assert versions(here) == {"lib": "1", "other": "2", "tool": "1"}
    document = json.loads(upgrade(here, "--json", *words).stdout)
    assert [each["name"] for each in document["changes"]] == ["extra", "lib", "tool"]
    assert versions(here, document["prefix"]) == {"extra": "1", "lib": "2", "other": "2", "tool": "2"}
    # one environment, of the name that the script asks for
    (row,) = json.loads(here.cetool("list", "--json").stdout)["environments"]
    assert row["prefix"] == here.cetool("name", "a.sh").stdout.strip() and row["packages"] == 4
    assert here.cetool("verify", "a.sh").returncode == 0


def test_a_running_script_keeps_its_environment(here: Home) -> None:
    here.write("a.sh", SCRIPT.format('echo "$CONDA_PREFIX"; read line; ls "$CONDA_PREFIX/conda-meta"'))
    with started(here, "run", "a.sh", stdin=subprocess.PIPE) as running:
        assert running.stdin is not None and running.stdout is not None
        prefix = running.stdout.readline().strip()
        publish(here, *NEW)
        document = json.loads(upgrade(here, "--json", "a.sh").stdout)
        assert document["prefix"] != prefix
        running.stdin.write("go\n")
        running.stdin.close()
        assert "tool-1-0.json" in running.stdout.read()
    assert versions(here)["tool"] == "2"


def test_packages_from_pypi_are_upgraded_too(home: Home) -> None:
    home.write("a.py", "# conda execute\n# env: [python, {pip: ['six <1.17']}]\nimport six\nprint(six.__version__)\n")
    assert home.cetool("run", "a.py").stdout == "1.16.0\n"
    assert lines(upgrade(home, "a.py")) == ["Already up to date"]
    assert home.cetool("lock", "a.py").returncode == 0
    text = (home.path / "a.py").read_text()
    home.write("a.py", text.replace("six <1.17", "six"))
    assert "Updated six 1.16.0 -> 1.17.0" in lines(upgrade(home, "a.py", "six"))
    assert home.cetool("run", "--locked", "a.py").stdout == "1.17.0\n"


def test_an_environment_on_a_baseline_follows_the_baseline(here: Home) -> None:
    prefix = here.cetool("path", "a.sh").stdout.strip()
    assert here.cetool("baseline", "create", prefix, "--output", "base.txt").returncode == 0
    script = here.write(
        "b.sh", "#!/bin/sh\n# conda execute\n# channels: [./channel, nodefaults]\n# baseline: base.txt\ntrue\n"
    )
    assert here.cetool("run", script).returncode == 0
    assert lines(upgrade(here, script)) == ["Already up to date"]
    publish(here, *NEW)
    newer = upgrade(here, "--json", "a.sh")
    assert here.cetool("baseline", "create", json.loads(newer.stdout)["prefix"], "--output", "base.txt").returncode == 0
    assert "Would update tool 1 -> 2" in lines(upgrade(here, "--dry-run", script))
    done = upgrade(here, script, "tool", status=2)
    assert "starts from a baseline, so single packages cannot be upgraded" in done.stderr
    assert "Updated tool 1 -> 2" in lines(upgrade(here, script))
    assert lines(upgrade(here, script)) == ["Already up to date"]


def test_what_cannot_be_upgraded_ends_in_a_sentence(here: Home) -> None:
    here.write("plain.py", "print(1)\n")
    assert "plain.py declares no environment" in upgrade(here, "plain.py", status=125).stderr
    assert "the script does not exist" in upgrade(here, "missing.py", status=127).stderr
    done = upgrade(here, "a.sh", "tool >=2", status=2)
    assert told(done.stderr)[0] == "cetool: 'tool >=2' is not a package name"
    prefix = here.cetool("path", "a.sh").stdout.strip()
    here.write("over.py", f"# conda execute\n# base: {prefix}\n# overlay: [six]\n")
    done = upgrade(here, "over.py", status=2)
    assert "over.py runs in an overlay" in done.stderr and "cetool run --refresh over.py" in done.stderr
