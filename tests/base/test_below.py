"""Promises of cetool.base.below: what a package ships never makes cetool write, read or remove anything elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.archive import Entry, Package, write_package, write_repodata
from support.home import Home

from cetool.base.below import read_below, remove_below, write_below
from cetool.base.errors import EngineError
from cetool.declare.platforms import current_platform
from cetool.engines.pypi.install import refuse_links

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links and pipes of POSIX")


def test_a_link_in_the_place_of_a_file_is_replaced_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    prefix = tmp_path / "prefix"
    (prefix / "conda-meta").mkdir(parents=True)
    (prefix / "conda-meta" / "frozen").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"):
        read_below(prefix, "conda-meta/frozen")
    write_below(prefix, "conda-meta/frozen", b"ours", mode=0o640)
    assert read_below(prefix, "conda-meta/frozen") == b"ours"
    assert (prefix / "conda-meta" / "frozen").stat().st_mode & 0o777 == 0o640
    (prefix / "conda-meta" / "cetool").symlink_to(precious)
    remove_below(prefix, "conda-meta/cetool")
    remove_below(prefix, "conda-meta/cetool")
    assert precious.read_text() == "mine" and os.listdir(prefix / "conda-meta") == ["frozen"]


def test_a_link_in_the_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "cetool").write_text("mine")
    prefix = tmp_path / "prefix"
    prefix.mkdir()
    (prefix / "conda-meta").symlink_to(elsewhere)
    for act in (
        lambda: write_below(prefix, "conda-meta/cetool", b"ours", parents=True),
        lambda: write_below(prefix, "conda-meta/a/b", b"ours", parents=True),
        lambda: remove_below(prefix, "conda-meta/cetool"),
        lambda: read_below(prefix, "conda-meta/cetool"),
    ):
        with pytest.raises(OSError, match="a package has put a link or a file where the directory"):
            act()
    with pytest.raises(ValueError, match="not a path below"):
        write_below(prefix, "../elsewhere/cetool", b"ours")
    assert [(path.name, path.read_text()) for path in elsewhere.iterdir()] == [("cetool", "mine")]


def test_neither_a_pipe_nor_a_huge_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read_below(tmp_path, "pipe")
    (tmp_path / "huge").write_bytes(b"123")
    with pytest.raises(OSError, match="too large"):
        read_below(tmp_path, "huge", limit=2)
    write_below(tmp_path, "pipe", b"ours", sync=True)
    assert read_below(tmp_path, "pipe", limit=4) == b"ours"


def test_a_package_cannot_make_cetool_overwrite_a_file_of_the_user(home: Home) -> None:
    channel, mine = home.path / "channel", home.path / "mine"
    mine.mkdir()
    names = ("frozen", "history", "cetool", "cetool-pypi", "state", "evil-1-0.json")
    links = tuple(Entry(f"conda-meta/{name}", link=str(mine / name)) for name in names)
    records = {}
    for package in (
        Package("evil", "1", entries=links),
        Package("meta", "1", entries=(Entry("conda-meta", link=str(mine)),)),
    ):
        records[package.stem + package.suffix] = write_package(package, channel)
    for subdir in ("noarch", current_platform()):
        write_repodata(records, subdir, channel)
    for name in names:
        (mine / name).write_text("{}")
    for package_name in ("evil", "meta"):
        for variables in ("", "# variables: {A: b}\n"):
            text = f"# conda execute\n# env: [{package_name}]\n# channels: [file://{channel}]\n{variables}"
            done = home.cetool("run", home.write("s.sh", f"{text}# run_with: /bin/sh\necho ran\n"))
            assert "Traceback" not in done.stderr and "defect" not in done.stderr
            # what conda keeps the variables in cannot be a link
            assert (done.stdout, done.returncode) == (
                ("ran\n", 0) if package_name == "evil" and not variables else ("", 125)
            )
    assert {path.name: path.read_text() for path in mine.iterdir()} == dict.fromkeys(names, "{}")


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (Entry("bin/tool", link="{}/file"), ("tool = os:getcwd",), True),
        (Entry("bin/tool", link="{}/file"), ("tool = os:getcwd",), False),
        (Entry("share/x", link="{}"), Entry("share/x/file", b"evil"), False),
        (Entry("share/x", link="y"), Entry("share/x/file", b"evil"), False),
        (Entry("lib/python3.11/site-packages/x", link="{}"), Entry("site-packages/x/file", b"evil"), False),
    ],
    ids=["its own entry point", "an entry point", "a directory", "a chain", "site-packages"],
)
def test_no_package_writes_through_a_link_that_leads_outside(
    settled: Home, tmp_path: Path, first: Entry, second: Entry | tuple[str, ...], together: bool
) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("mine")
    link = Entry(first.path, link=str(first.link).format(victim))
    links = (link, Entry("share/y", link=str(victim)))
    points, files = (second, ()) if isinstance(second, tuple) else ((), (second,))
    python: dict[str, Any] = {"noarch": "python", "entry_points": points, "depends": ("python",)}
    there = [Package("zzz", "1", entries=(*files, *(links if together else ())), **python)]
    there += [] if together else [Package("aaa", "1", entries=links, noarch="generic")]
    channel = tmp_path / "channel"
    records = {f"{each.stem}{each.suffix}": write_package(each, channel) for each in there}
    for subdir in ("noarch", current_platform()):
        write_repodata(records, subdir, channel)
    specs = [package.name for package in there]
    done = settled.cetool("create", "--refresh", *specs, "--channel", channel.as_uri(), "--channel", "conda-forge")
    assert done.returncode == 125 and "cannot install" in done.stderr, done
    assert "a link" in done.stderr
    assert [(path.name, path.read_text()) for path in victim.iterdir()] == [("file", "mine")]


def test_installers_of_pypi_packages_follow_no_link_out_of_the_prefix(tmp_path: Path) -> None:
    site = tmp_path / "prefix/lib/python3.12/site-packages"
    site.mkdir(parents=True)
    (site / "inside").symlink_to(site)
    refuse_links(tmp_path / "prefix")
    (site / "package").mkdir()
    (site / "package" / "data").symlink_to(tmp_path)
    with pytest.raises(EngineError, match=r"site-packages/package/data, which is a link to"):
        refuse_links(tmp_path / "prefix")
