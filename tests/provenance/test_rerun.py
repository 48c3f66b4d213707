"""``cetool rerun``: repeat a recorded run with exactly the same packages."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.channel import Channel
from support.home import Home, make_home, remove_home
from support.records import SCRIPT, read_document
from support.scripts import shell_script, told, unconfirmed

from cetool.provenance.record import RecordError, read_record


@pytest.fixture
def elsewhere(local_channel: Channel, tmp_path: Path) -> Iterator[Home]:
    """The home of another user, without anything of the first one's."""
    made = make_home(Path(os.path.realpath(tmp_path)) / "there", local_channel)
    yield made
    remove_home(made)


def test_a_record_is_enough_to_rerun_elsewhere(settled: Home, elsewhere: Home) -> None:
    folder = settled.path / "project"
    folder.mkdir()
    settled.write("project/job.py", SCRIPT)
    assert settled.cetool("run", "--record", "job.json", "job.py", "0", cwd=folder).returncode == 0
    shutil.copy(folder / "job.json", elsewhere.path / "job.json")
    shutil.rmtree(folder)
    done = elsewhere.cetool("rerun", "--record", "again.json", "job.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"['0'] {elsewhere.path} forty-two job.py\n"
    assert f"{folder}/job.py no longer exists: running the copy in the record" in done.stderr
    assert f"running in this directory instead of {folder}" in done.stderr
    first, second = json.loads((elsewhere.path / "job.json").read_text()), read_document(elsewhere.path / "again.json")
    assert first["packages"] == second["packages"]
    assert first["variables"].pop("PREFIX") != second["variables"].pop("PREFIX") and "PREFIX" not in first["variables"]
    assert first["variables"] == second["variables"]
    # a record of the second run is equivalent, and other arguments are passed to the script
    done = elsewhere.cetool("rerun", "-q", "again.json", "5", "--here")
    assert (done.returncode, done.stdout) == (5, f"['5', '--here'] {elsewhere.path} forty-two job.py\n")


@pytest.mark.real_conda
def test_another_engine_makes_the_same_environment(settled: Home, elsewhere: Home, real_conda: str) -> None:
    settled.write("job.py", SCRIPT.replace("six", "six, postlink, numpy"))
    assert settled.cetool("run", "--record", "conda.json", "job.py", "0").returncode == 0
    env = {"CONDA_EXE": real_conda, "CETOOL_ENGINE": "conda"}
    done = elsewhere.cetool("rerun", "--record", "again.json", settled.path / "conda.json", env=env)
    assert done.returncode == 0, done.stderr
    first, second = read_document(settled.path / "conda.json"), read_document(elsewhere.path / "again.json")
    assert second["engine"]["name"] == "conda"
    keys = ("name", "version", "build", "url", "sha256")
    both = [{tuple(each[key] for key in keys) for each in record["packages"]} for record in (first, second)]
    assert both[0] == both[1]


def test_a_rerun_uses_the_original_directory_on_the_same_machine(settled: Home, tmp_path: Path) -> None:
    settled.write("here.py", SCRIPT)
    assert settled.cetool("run", "--record", "here.json", "here.py", "0").returncode == 0
    before = set((settled.cache / "envs").iterdir())
    done = settled.cetool("rerun", settled.path / "here.json", cwd=tmp_path)
    assert (done.stdout, unconfirmed(done.stderr)) == (f"['0'] {settled.path} forty-two here.py\n", "")
    done = settled.cetool("rerun", "--here", settled.path / "here.json", cwd=tmp_path)
    assert done.stdout == f"['0'] {tmp_path} forty-two here.py\n"
    assert set((settled.cache / "envs").iterdir()) == before
    with (settled.path / "here.py").open("a") as file:
        file.write("print('changed')\n")
    done = settled.cetool("rerun", "here.json")
    assert "changed" not in done.stdout and "here.py has changed: running the copy" in done.stderr


def test_the_exit_status_is_compared(settled: Home) -> None:
    settled.write("flip.sh", shell_script("test -e flag || { touch flag; exit 3; }"))
    assert settled.cetool("run", "--record", "flip.json", "flip.sh").returncode == 3
    done = settled.cetool("rerun", "flip.json")
    assert done.returncode == 0
    assert done.stderr == "cetool: warning: the script ended with status 0, but with status 3 in the recorded run\n"
    (settled.path / "flag").unlink()
    done = settled.cetool("rerun", "-v", "flip.json")
    assert done.returncode == 3 and "Ended with status 3, as recorded" in done.stderr


def test_a_changed_or_invalid_record_is_refused(settled: Home) -> None:
    settled.write("hello.sh", shell_script("touch ran"))
    assert settled.cetool("run", "--record", "good.json", "hello.sh").returncode == 0
    (settled.path / "ran").unlink()
    good = read_document(settled.path / "good.json")

    def package(**changes: object) -> list[dict[str, object]]:
        return [{**good["packages"][0], **changes}]

    other = "osx-arm64" if good["platform"] != "osx-arm64" else "linux-64"
    for change, reason in (
        ({"script": {**good["script"], "text": shell_script("touch ran #")}}, "is not the one that ran"),
        ({"script": {**good["script"], "sha256": "0" * 64}}, "is not the one that ran"),
        ({"script": {**good["script"], "sha256": "x"}}, "SHA-256"),
        ({"schema": "cetool.record/2"}, "has schema 'cetool.record/2'"),
        ({"schema": "cetool.list/1"}, "not a run record"),
        ({"packages": package(url=None)}, "has no URL for hello-bin"),
        ({"packages": package(url="file:///x\n--x")}, "URL of hello-bin is not valid"),
        ({"packages": package(name="x\n- y")}, "is not a valid package name"),
        ({"packages": package(sha256="../../x")}, "SHA-256 of hello-bin"),
        ({"packages": [1]}, r"'packages\[0\]' is not an object"),
        ({"arguments": "rm"}, "'arguments'"),
        ({"arguments": ["a\0b"]}, r"'arguments\[0\]' contains a NUL character"),
        ({"run_with": None}, "neither 'run_with' nor 'entrypoint'"),
        ({"exit_status": "x"}, "'exit_status'"),
    ):
        bad = settled.write("bad.json", json.dumps({**good, **change}))
        with pytest.raises(RecordError, match=reason):
            read_record(str(bad))
    for text in ("{", "[]", "null", "[" * 100_000, "\xff"):
        with pytest.raises(RecordError, match="not a run record|nested too deeply"):
            read_record(str(settled.write("bad.json", text)))
    settled.write("other.json", json.dumps({**good, "platform": other}))
    lost = [{"name": "six", "version": "1", "url": None, "sha256": None}]
    settled.write("lost.json", json.dumps({**good, "pypi_packages": lost}))
    for name, reason in (
        ("bad.json", "not a run record"),
        ("other.json", f"the run was recorded on {other}"),
        ("lost.json", "the source of six 1"),
    ):
        done = settled.cetool("rerun", name)
        assert done.returncode == 125 and reason in told(done.stderr)[0], done.stderr
    assert settled.cetool("rerun", "missing.json").returncode == 127
    assert not (settled.path / "ran").exists()
    settled.write("more.json", json.dumps({**good, "virtual_packages": {"__glibc": "999=0", "__cuda": "12.4=0"}}))
    done = settled.cetool("rerun", "more.json")
    assert done.returncode == 0 and (settled.path / "ran").exists()
    assert "a machine with __glibc 999, and this one has 2." in done.stderr
    assert "a machine with __cuda 12.4, and this one has none" in done.stderr


def test_missing_and_changed_packages_are_reported(home: Home, tmp_path: Path, local_channel: Channel) -> None:
    ours = shutil.copytree(local_channel.root, tmp_path / "root", copy_function=os.link)
    home.condarc.write_text(local_channel.condarc.replace(local_channel.root.as_uri(), ours.as_uri()))
    home.write("hello.sh", shell_script("touch ran"))
    assert home.cetool("run", "--record", "run.json", "hello.sh").returncode == 0
    (home.path / "ran").unlink()
    shutil.rmtree(home.cache)
    (package,) = (ours / "conda-forge/noarch").glob("hello-bin-*")
    data = package.read_bytes()
    package.unlink()
    done = home.cetool("rerun", "run.json")
    assert done.returncode == 125
    assert "the recorded packages cannot be installed" in told(done.stderr)[0] and "hello-bin" in done.stderr
    package.write_bytes(bytes([*data[:-1], data[-1] ^ 1]))
    done = home.cetool("rerun", "run.json")
    assert done.returncode == 125 and "hello-bin" in told(done.stderr)[0]
    assert not (home.path / "ran").exists()
    package.unlink()
    package.write_bytes(data)
    done = home.cetool("rerun", "run.json")
    assert (done.returncode, unconfirmed(done.stderr)) == (0, "") and (home.path / "ran").exists()


# --- PyPI -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_pypi_packages_have_url_and_digest(installer: str, home: Home, elsewhere: Home) -> None:
    home.write(
        "table.py",
        '# /// script\n# requires-python = ">=3"\n# dependencies = ["tabulate==0.9.0"]\n# ///\n'
        "import tabulate\nprint(tabulate.__version__)\n",
    )
    env = {"CETOOL_PIP_INSTALLER": installer}
    done = home.cetool("run", "--record", "table.json", "table.py", env=env)
    assert (done.returncode, done.stdout) == (0, "0.9.0\n"), done.stderr
    (package,) = read_document(home.path / "table.json")["pypi_packages"]
    assert (package["name"], package["version"]) == ("tabulate", "0.9.0")
    assert package["url"].endswith("/tabulate-0.9.0-py3-none-any.whl")
    assert package["sha256"] == "024ca478df22e9340661486f85298cff5f6dcdba14f3813e8830015b9ed1948f"
    if installer == "pip":
        return
    # the origin is looked up for an environment that was made before it was noted
    (Path(home.cetool("name", "table.py").stdout.strip()) / "conda-meta/cetool-pypi").unlink()
    assert unconfirmed(home.cetool("run", "--record", "table.json", "table.py").stderr) == ""
    assert read_document(home.path / "table.json")["pypi_packages"] == [package]
    done = elsewhere.cetool("rerun", "--record", "again.json", home.path / "table.json")
    assert (done.returncode, done.stdout) == (0, "0.9.0\n"), done.stderr
    assert read_document(elsewhere.path / "again.json")["pypi_packages"] == [package]
