"""Watched files become environments, and again whenever they change; what is broken or gone does no harm."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.home import Home
from support.serving import RunningServer, running_server

PATIENCE = 60.0


def listed(*packages: str, name: str = "") -> str:
    """An environment.yml."""
    return (f"name: {name}\n" if name else "") + f"dependencies: [{', '.join(packages)}]\n"


@dataclass
class Watching:
    """A server with watched directories: ``flat``, ``deep`` (recursive, with scripts), ``polled``, and one file."""

    server: RunningServer
    root: Path

    def builds(self, name: str, namespace: str = "filesystem") -> list[dict[str, Any]]:
        """The builds for a name, the latest first."""
        path = f"/cetool/1/builds?namespace={namespace}&name={name}"
        found: list[dict[str, Any]] = self.server.get(path).json["builds"]
        return found

    def completed(self, name: str, count: int = 1, namespace: str = "filesystem") -> dict[str, Any]:
        """Wait until a name has so many builds, of which the last is completed; return that."""

        def done() -> bool:
            found = self.builds(name, namespace)
            return len(found) >= count and found[0]["status"] not in ("QUEUED", "BUILDING")

        until(done, self.server)
        last = self.builds(name, namespace)
        assert len(last) == count and last[0]["status"] == "COMPLETED", last
        return last[0]

    def said(self, event: str, path: Path) -> list[dict[str, str]]:
        """The events about a path in the journal."""
        found = [fields_of(line) for line in self.server.log.read_text().splitlines() if f" event={event} " in line]
        return [each for each in found if each.get("path") == str(path)]

    def until_said(self, event: str, path: Path, count: int = 1) -> dict[str, str]:
        """Wait until the journal has so many such events; return the last."""
        until(lambda: len(self.said(event, path)) >= count, self.server)
        found = self.said(event, path)
        assert len(found) == count
        return found[-1]


def fields_of(line: str) -> dict[str, str]:
    """The fields of a line of the journal."""
    found: dict[str, str] = {}
    rest = line
    while "=" in rest:
        key, _, rest = rest.partition("=")
        if rest.startswith('"'):
            value, end = json.JSONDecoder().raw_decode(rest)
            rest = rest[end:]
        else:
            value, _, rest = rest.partition(" ")
        found[key.strip()] = value
    return found


def until(happens: Callable[[], bool], server: RunningServer) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not happens():
        assert time.monotonic() < deadline, server.log.read_text()[-3000:]
        time.sleep(0.1)


def watched(root: Path, **more: Any) -> dict[str, str]:
    """The variable that configures the watches."""
    entries = [
        {"path": str(root / "flat")},
        {"path": str(root / "deep"), "namespace": "deep", "recursive": True, "scripts": True},
        {"path": str(root / "polled"), "namespace": "polled", "poll": 0.2},
        {"path": str(root / "one" / "file.yml"), "namespace": "one"},
    ]
    return {"CETOOL_SERVER_WATCH": json.dumps(entries), **more}


@pytest.fixture(scope="module")
def watching(settled: Home) -> Iterator[Watching]:
    root = settled.path / "watched"
    for name in ("flat", "deep", "polled", "one"):
        (root / name).mkdir(parents=True)
    with running_server(settled, data=settled.path / "watch-data", env=watched(root)) as server:
        yield Watching(server, root)


def test_a_file_becomes_an_environment_of_its_name_or_stem(watching: Watching) -> None:
    (watching.root / "flat" / "some.yml").write_text(listed("hello-bin", name="named"))
    (watching.root / "flat" / "stem.yaml").write_text(listed("hello-bin"))
    assert watching.completed("named")["origin"] == "watch"
    watching.completed("stem")
    found = watching.server.get("/cetool/1/environments?namespace=filesystem").json["environments"]
    assert {"named", "stem"} <= {each["name"] for each in found} and "some" not in {each["name"] for each in found}


def test_a_change_is_built_and_an_unchanged_file_is_not(watching: Watching) -> None:
    file = watching.root / "flat" / "changing.yml"
    file.write_text(listed("hello-bin"))
    watching.completed("changing")
    os.utime(file)
    file.write_text(listed("hello-bin"))  # a new file with the same content
    (watching.root / "flat" / "notes.txt").write_text("ignored")
    (watching.root / "flat" / ".hidden.yml").write_text(listed("hello-bin"))
    file.write_text(listed("hello-bin", "six"))
    watching.completed("changing", 2)
    # an editor writes a new file, and renames it over the old one
    file.with_name(".changing.swp").write_text(listed("six"))
    os.replace(file.with_name(".changing.swp"), file)
    watching.completed("changing", 3)
    # other editors move the old one away first
    file.rename(file.with_suffix(".yml~"))
    time.sleep(0.5)
    file.write_text(listed("hello-bin", "six"))
    watching.completed("changing", 4)
    assert watching.said("watch-file-removed", file) == [] and watching.builds(".hidden") == []


def test_a_broken_file_is_reported_once_and_the_last_good_build_stays(watching: Watching) -> None:
    file = watching.root / "flat" / "broken.yml"
    file.write_text(listed("hello-bin"))
    good = watching.completed("broken")
    file.write_text("name: broken\ndependencies:\n  - six\n  - [\n")
    said = watching.until_said("watch-file-refused", file)
    assert said["reason"].startswith("line ") and said["environment"] == "filesystem/broken"
    os.utime(file)
    file.write_text("dependencies: [no such spec here <<<]\n")
    watching.until_said("watch-file-refused", file, 2)
    found = watching.server.get("/cetool/1/environments/filesystem/broken").json
    assert found["build"] == good["id"]
    file.write_text(listed("hello-bin", "six"))
    watching.completed("broken", 2)


def test_a_file_is_not_read_while_it_is_written(watching: Watching) -> None:
    file = watching.root / "flat" / "slow.yml"
    with file.open("w") as writing:
        for part in ("dependencies:\n", "  - hello-", "bin\n", "  - s", "ix\n"):
            writing.write(part)
            writing.flush()
            time.sleep(0.15)
    watching.completed("slow")
    assert watching.said("watch-file-refused", file) == []


def test_two_files_of_one_name_are_reported_and_the_other_follows(watching: Watching) -> None:
    one, other = (watching.root / "flat" / name for name in ("twin-a.yml", "twin-b.yml"))
    one.write_text(listed("hello-bin", name="twin"))
    first = watching.completed("twin")
    other.write_text(listed("six", name="twin"))
    said = watching.until_said("watch-file-refused", other)
    assert said["reason"] == f"{one} also defines the environment filesystem/twin"
    assert watching.server.get("/cetool/1/environments/filesystem/twin").json["build"] == first["id"]
    one.unlink()
    watching.completed("twin", 2)


def test_a_renamed_file_keeps_its_environment(watching: Watching) -> None:
    file = watching.root / "flat" / "before.yml"
    file.write_text(listed("hello-bin", name="renamed"))
    watching.completed("renamed")
    after = file.rename(file.with_name("after.yml"))
    assert watching.until_said("watch-file-renamed", after)["before"] == str(file)
    after.write_text(listed("hello-bin", "six", name="renamed"))
    watching.completed("renamed", 2)
    after.write_text(listed("hello-bin", "six", name="other"))
    watching.completed("other")
    assert watching.server.get("/cetool/1/environments/filesystem/renamed").status == 200


def test_an_environment_stays_when_its_file_is_removed(watching: Watching) -> None:
    file = watching.root / "flat" / "leaving.yml"
    file.write_text(listed("hello-bin"))
    watching.completed("leaving")
    file.unlink()
    watching.until_said("watch-file-removed", file)
    assert watching.server.get("/cetool/1/environments/filesystem/leaving").status == 200
    file.write_text(listed("hello-bin"))
    watching.until_said("watch-file-returned", file)
    watching.completed("leaving")


def test_directories_below_are_watched_and_may_come_and_go(watching: Watching) -> None:
    deep = watching.root / "deep"
    file = deep / "a" / "b" / "lower.yml"
    file.parent.mkdir(parents=True)
    file.write_text(listed("hello-bin"))
    watching.completed("lower", namespace="deep")
    (deep / "script.py").write_text("# /// script\n# dependencies = []\n# ///\n")
    (deep / "plain.py").write_text("print()\n")
    watching.completed("script", namespace="deep")
    elsewhere = deep.rename(deep.with_name("elsewhere"))
    watching.until_said("watch-unreadable", deep)
    elsewhere.rename(deep)
    watching.until_said("watch-readable", deep)
    file.write_text(listed("hello-bin", "six"))
    watching.completed("lower", 2, namespace="deep")
    assert watching.said("watch-file-removed", file) == [] and watching.builds("plain", "deep") == []
    shutil.rmtree(deep / "a")
    watching.until_said("watch-file-removed", file)


def test_links_to_files_are_followed(watching: Watching) -> None:
    """As in Kubernetes, where a link to a directory is replaced by one to another."""
    for number, package in enumerate(("hello-bin", "six")):
        target = watching.root / "flat" / f"..data-{number}"
        target.mkdir()
        (target / "linked.yml").write_text(listed(package))
    data, file = watching.root / "flat" / "..data", watching.root / "flat" / "linked.yml"
    data.symlink_to("..data-0")
    file.symlink_to("..data/linked.yml")
    watching.completed("linked")
    data.with_name("..new").symlink_to("..data-1")
    os.replace(data.with_name("..new"), data)
    watching.completed("linked", 2)


def test_polling_finds_changes_too(watching: Watching) -> None:
    file = watching.root / "polled" / "slowly.yml"
    file.write_text(listed("hello-bin"))
    watching.completed("slowly", namespace="polled")
    file.write_text(listed("hello-bin", "six"))
    watching.completed("slowly", 2, namespace="polled")


def test_a_single_file_may_appear_later_and_be_replaced(watching: Watching) -> None:
    file = watching.root / "one" / "file.yml"
    (file.parent / "other.yml").write_text(listed("hello-bin"))
    file.write_text(listed("hello-bin", name="single"))
    watching.completed("single", namespace="one")
    file.with_name("new").write_text(listed("six", name="single"))
    os.replace(file.with_name("new"), file)
    watching.completed("single", 2, namespace="one")
    assert watching.builds("other", "one") == []


def test_files_that_cannot_be_read_are_reported(watching: Watching) -> None:
    large, pipe = watching.root / "flat" / "large.yml", watching.root / "flat" / "pipe.yml"
    large.write_text(listed("hello-bin") + "#" * (1 << 20))
    os.mkfifo(pipe)
    assert "larger than 1 MiB" in watching.until_said("watch-file-refused", large)["reason"]
    secret = watching.root / "flat" / "secret.yml"
    secret.write_text(listed("hello-bin"))
    if os.geteuid() != 0:
        secret.chmod(0)
        watching.until_said("watch-file-refused", secret)
    assert watching.said("watch-file-refused", pipe) == []
    assert watching.server.get("/health", token=None).status == 200


def test_a_restart_builds_what_changed_meanwhile_and_nothing_else(home: Home) -> None:
    root = home.path / "watched"
    for name in ("flat", "deep", "polled", "one"):
        (root / name).mkdir(parents=True)
    for name in ("same", "changed", "removed"):
        (root / "flat" / f"{name}.yml").write_text(listed("hello-bin"))
    with running_server(home, env=watched(root)) as server:
        for name in ("same", "changed", "removed"):
            Watching(server, root).completed(name)
        token = server.token
    (root / "flat" / "changed.yml").write_text(listed("hello-bin", "six"))
    (root / "flat" / "new.yml").write_text(listed("hello-bin"))
    (root / "flat" / "removed.yml").unlink()
    with running_server(home, env=watched(root), token=token) as server:
        again = Watching(server, root)
        again.completed("changed", 2)
        again.completed("new")
        again.until_said("watch-file-removed", root / "flat" / "removed.yml")
        assert [len(again.builds(name)) for name in ("same", "removed")] == [1, 1]


def test_many_files_are_built(home: Home, scale: int) -> None:
    root = home.path / "watched"
    count = 150 * scale
    for name in ("flat", "deep", "polled", "one"):
        (root / name).mkdir(parents=True)
    for number in range(count):
        (root / "deep" / f"env-{number}.yml").write_text(listed("hello-bin"))
    with running_server(home, env=watched(root)) as server:
        done = f'cetool_builds{{status="COMPLETED"}} {count}.0'
        until(lambda: done in server.get("/metrics", token=None).text, server)
