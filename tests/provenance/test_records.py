"""``cetool run --record``: a record of what ran, for every kind of script; signals and terminals."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.home import Home
from support.records import SCRIPT, read_document
from support.scripts import eventually, shell_script, started, told, unconfirmed

from cetool import __version__
from cetool.base.errors import UsageError
from cetool.provenance.record import record_target

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "reference" / "json.md"
PYTHON = "# conda execute\n# env: [python]\n# run_with: python\n"
ENTRYPOINT = """\
# /// conda-script
# channels = ["conda-forge"]
# entrypoint = "python -c 'print(1)' && python ${SCRIPT}"
# [dependencies]
# python = "*"
# /// end-conda-script
import sys
print(sys.argv[1:])
sys.exit(4)
"""


def sha256(data: bytes) -> str:
    """Return the digest of some bytes."""
    return hashlib.sha256(data).hexdigest()


# --- contents ---------------------------------------------------------------------------------------------------------


def test_a_record_describes_the_run(settled: Home) -> None:
    settled.write("analysis.py", SCRIPT)
    words = ["3", "a b", "ünï", "--record", "\udcff"]
    done = subprocess.run(
        [sys.executable, "-m", "cetool", "run", "--record", "run.json", "analysis.py", *words],
        env={**settled.env, "MY_TOKEN": "hush"},
        cwd=settled.path,
        capture_output=True,
    )
    assert (done.returncode, unconfirmed(done.stderr.decode())) == (3, "")
    text = (settled.path / "run.json").read_text(encoding="utf-8")
    record = json.loads(text)
    prefix = Path(settled.cetool("name", "analysis.py").stdout.strip())
    assert next(iter(record.items())) == ("schema", "cetool.record/1")
    assert record["cetool"] == __version__
    data = SCRIPT.encode()
    assert record["script"] == {
        "name": "analysis.py",
        "given": "analysis.py",
        "path": str(settled.path / "analysis.py"),
        "url": None,
        "sha256": sha256(data),
        "size": len(data),
        "text": SCRIPT,
        "base64": None,
    }
    assert (record["arguments"], record["working_directory"]) == (words, str(settled.path))
    assert (record["exit_status"], record["signal"]) == (3, None)
    assert (record["dialect"], record["run_with"], record["entrypoint"]) == ("conda execute", ["python"], None)
    assert record["variables"] == {"ANSWER": "forty-two", "PREFIX": str(prefix), "PYTHONNOUSERSITE": "1"}
    assert record["environment"]["name"] == prefix.name and record["environment"]["prefix"] == str(prefix)
    assert record["environment"]["spec"]["packages"] == ["python", "six"]
    installed = {
        (each["name"], each["version"], each["build"], each["url"], each["sha256"])
        for each in (json.loads(path.read_bytes()) for path in prefix.glob("conda-meta/*.json"))
    }
    assert {tuple(each[k] for k in ("name", "version", "build", "url", "sha256")) for each in record["packages"]} == (
        installed
    )
    names = [each["name"] for each in record["packages"]]
    assert names.index("python") < names.index("six")
    marker = json.loads((prefix / "conda-meta/cetool").read_bytes())
    assert record["engine"] == {"name": marker["engine"], "version": marker["engine_version"]}
    assert record["platform"] == marker["subdir"] and "__glibc" in record["virtual_packages"]
    moment = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
    assert moment.fullmatch(record["start"]) and moment.fullmatch(record["end"]) and record["start"] < record["end"]
    assert record["seconds"] > 0
    # without the caller's variables and the machine's name
    assert "hush" not in text and "MY_TOKEN" not in text and os.uname().nodename not in record["host"].values()
    assert list(settled.path.glob(".run.json*")) == []


def test_the_docs_describe_every_field(settled: Home) -> None:
    settled.write("hello.sh", shell_script("echo hi"))
    assert settled.cetool("run", "--record", "hello.json", "hello.sh").returncode == 0
    section = re.search(r"^## The record of a run\n.*?(?=^## |\Z)", DOCUMENT.read_text("utf-8"), re.M | re.S)
    assert section is not None and "`cetool.record/1`" in section[0]
    described = set(re.findall(r"^\| `([^`]+)` \|", section[0], re.MULTILINE))
    record = read_document(settled.path / "hello.json")
    named = set()
    for key, value in record.items():
        if isinstance(value, dict) and key not in ("variables", "virtual_packages", "host"):
            named |= {f"{key}.{inner}" for inner in value}
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            named |= {key, *(f"{key}[].{inner}" for inner in value[0])}
        else:
            named.add(key)
    assert {name for name in described if not name.startswith("pypi_packages[].")} == named
    assert {name for name in described if name.startswith("pypi_packages[].")} == {
        f"pypi_packages[].{key}" for key in ("name", "version", "url", "sha256")
    }


@pytest.mark.parametrize("how", ["entrypoint", "stdin", "line", "plain"])
def test_scripts_of_every_kind_are_recorded_and_run_again(how: str, settled: Home) -> None:
    settled.write("entry.py", ENTRYPOINT)
    settled.write("more.yml", "dependencies: [python, six]\nvariables: {MORE: yes it is}\n")
    settled.write("plain.py", "import os, sys, six\nprint(os.environ.get('MORE'), 'CONDA_PREFIX' in os.environ)\n")
    calls: dict[str, tuple[list[str], str | None]] = {
        "entrypoint": (["entry.py", "x", "-y"], None),
        "stdin": (
            ["-", "x"],
            "# conda execute\n# env: [python]\n# run_with: python\nimport sys; print(sys.argv[1:])\n",
        ),
        "line": (["-c", "# conda execute", "# env: [python]", "# run_with: python", "print(6 * 7)"], None),
        "plain": (["--env-file", "more.yml", "--with", "hello-bin", "--no-activate", "plain.py"], None),
    }
    words, text = calls[how]
    done = settled.cetool("run", "--record", f"{how}.json", *words, input=text)
    shown = {"entrypoint": "1\n['x', '-y']\n", "stdin": "['x']\n", "line": "42\n", "plain": "None False\n"}[how]
    assert (done.returncode, done.stdout, unconfirmed(done.stderr)) == (4 if how == "entrypoint" else 0, shown, "")
    again = settled.cetool("rerun", "--record", f"{how}2.json", f"{how}.json")
    assert (again.returncode, again.stdout, unconfirmed(again.stderr)) == (done.returncode, shown, "")
    first, second = (read_document(settled.path / f"{how}{n}.json") for n in ("", "2"))
    for key in ("packages", "arguments", "exit_status", "run_with", "entrypoint", "activate", "variables"):
        assert first[key] == second[key], key
    assert first["script"]["sha256"] == second["script"]["sha256"]


def test_a_script_that_is_not_utf_8_is_recorded_in_base64(settled: Home) -> None:
    data = "# -*- coding: latin-1 -*-\r\n# conda execute\r\n# env: [python]\r\nprint(ascii('ü'))\r\n".encode("latin-1")
    path = settled.path / "latin.py"
    path.write_bytes(data)
    assert settled.cetool("run", "--record", "latin.json", "latin.py").stdout == "'\\xfc'\n"
    script = read_document(settled.path / "latin.json")["script"]
    assert script["text"] is None and script["sha256"] == sha256(data)
    path.unlink()
    assert settled.cetool("rerun", "-q", "latin.json").stdout == "'\\xfc'\n"


def test_a_record_contains_no_credentials(settled: Home) -> None:
    secret = "https://user:hush@example.org/data"
    settled.write("secret.sh", shell_script(f"echo $1 $URL # {secret}", more=f"# variables: {{URL: '{secret}'}}"))
    done = settled.cetool("run", "--record", "secret.json", "secret.sh", secret)
    assert done.stdout == f"{secret} {secret}\n"
    assert "secret.sh has credentials in a URL" in done.stderr
    assert "hush" not in (settled.path / "secret.json").read_text()
    done = settled.cetool("rerun", "secret.json")
    assert done.returncode == 2 and "the arguments of the recorded run contained credentials" in done.stderr
    # the script still exists: it provides what the record lacks
    assert settled.cetool("rerun", "secret.json", "given").stdout == f"given {secret}\n"
    (settled.path / "secret.sh").unlink()
    done = settled.cetool("rerun", "secret.json", "given")
    assert done.returncode == 125 and "does not include the script's text" in told(done.stderr)[0]


# --- times and places -------------------------------------------------------------------------------------------------


def test_a_record_exists_and_the_environment_stays_while_the_script_runs(settled: Home) -> None:
    body = f"cat live.json; {sys.executable} -m cetool remove live.sh"
    settled.write("live.sh", shell_script(body))
    done = settled.cetool("run", "--record", "live.json", "live.sh")
    document, _ = json.JSONDecoder().raw_decode(done.stdout)
    assert (document["end"], document["exit_status"], document["signal"]) == (None, None, None)
    assert document["start"] and "is in use" in done.stderr
    final = read_document(settled.path / "live.json")
    assert final["end"] > final["start"] and final["exit_status"] == 125
    assert {**final, "end": None, "seconds": None, "exit_status": None} == document


def test_a_record_that_cannot_be_written_is_refused_before_anything_runs(settled: Home) -> None:
    settled.write("touch.sh", shell_script("touch started; rm -rf gone", env="hello-bin, six"))
    settled.write("notes.txt", "mine\n")
    for target, reason in (
        ("touch.sh", "exists and is not a run record"),
        ("-", "--record needs a file name"),
    ):
        done = settled.cetool("run", "--record", target, "touch.sh")
        assert done.returncode == 2 and reason in told(done.stderr)[0], (target, done.stderr)
    for target, reason in (
        ("", "--record needs a file name"),
        ("notes.txt", "exists and is not a run record"),
        ("missing/run.json", "does not exist"),
        (".", "not a regular file"),
        ("/dev/null", "not a regular file"),
        ("notes.txt/run.json", "does not exist"),
    ):
        with pytest.raises(UsageError, match=reason):
            record_target(os.path.join(settled.path, target) if target else "")
    assert not (settled.path / "started").exists()
    assert (settled.path / "notes.txt").read_text() == "mine\n"
    # a record that cannot be completed does not change the script's status
    (settled.path / "gone").mkdir()
    done = settled.cetool("run", "--record", "gone/run.json", "touch.sh")
    assert done.returncode == 0 and "the record" in told(done.stderr)[0]


def test_a_record_replaces_a_record_and_follows_links(settled: Home) -> None:
    settled.write("hello.sh", shell_script("exit $1"))
    (settled.path / "real").mkdir()
    (settled.path / "link.json").symlink_to("real/run.json")
    for status in (1, 2):
        assert settled.cetool("run", "--record", "link.json", "hello.sh", str(status)).returncode == status
        assert read_document(settled.path / "real/run.json")["exit_status"] == status
    assert (settled.path / "link.json").is_symlink()


# --- signals and terminals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_ends_the_script_and_is_recorded(name: str, settled: Home) -> None:
    settled.write("sleep.sh", shell_script("echo here; exec sleep 600"))
    number = signal.Signals[name]
    with started(settled, "run", "--record", f"{name}.json", "sleep.sh") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.send_signal(number)
        assert process.wait(60) == -number
    record = read_document(settled.path / f"{name}.json")
    assert (record["exit_status"], record["signal"]) == (128 + number, name)
    done = settled.cetool("rerun", f"{name}.json", env={"PATH": "/nonexistent"})
    assert done.returncode == 127  # no sleep: another exit status, which is reported
    assert f"ended with status 127, but by {name} in the recorded run" in done.stderr


def test_a_slow_script_can_end_after_a_signal(settled: Home) -> None:
    settled.write("tidy.sh", shell_script("trap 'echo tidy; exit 9' TERM; echo here; while :; do sleep 0.05; done"))
    with started(settled, "run", "--record", "tidy.json", "tidy.sh") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        process.terminate()
        assert (process.stdout.read(), process.wait(60)) == ("tidy\n", 9)
    record = read_document(settled.path / "tidy.json")
    assert (record["exit_status"], record["signal"]) == (9, None)


def test_job_control_works_for_a_recorded_run(settled: Home) -> None:
    """Ctrl-Z stops it, ``fg`` continues it, it gets typed input, Ctrl-C ends it, and the shell sees the signal."""
    import pty
    import select

    settled.write("ask.sh", shell_script("test -t 0 && echo is a tty; read line; echo got $line; exec sleep 600"))
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        env={**settled.env, "PS1": "prompt> ", "TERM": "dumb"},
        cwd=settled.path,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=_own_the_terminal,
    )
    os.close(theirs)
    shown = b""

    def until(text: bytes) -> None:
        nonlocal shown
        deadline = time.monotonic() + 60
        while text not in shown:
            assert time.monotonic() < deadline, shown
            if select.select([ours], [], [], 1)[0]:
                shown += os.read(ours, 4096)
        shown = shown.partition(text)[2]

    try:
        until(b"prompt> ")
        os.write(ours, f"{sys.executable} -m cetool run --record tty.json ask.sh\n".encode())
        until(b"is a tty")
        os.write(ours, b"\x1a")
        until(b"Stopped")
        until(b"prompt> ")  # input typed earlier is discarded
        os.write(ours, b"fg\n")
        until(b"cetool run")
        os.write(ours, b"words\n")
        until(b"got words")
        os.write(ours, b"\x03")
        until(b"prompt> ")
        os.write(ours, b"echo status $?\n")
        until(b"status 130")
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)
    record = read_document(settled.path / "tty.json")
    assert (record["exit_status"], record["signal"]) == (130, "SIGINT")


def _own_the_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_warm_run_after_a_recorded_one_is_unchanged(settled: Home) -> None:
    settled.write("usual.sh", shell_script("echo $PPID; ps -o comm= -p $PPID || true"))
    assert settled.cetool("run", "--record", "usual.json", "usual.sh").returncode == 0
    with started(settled, "run", "usual.sh") as process:
        assert process.stdout is not None
        # without a record cetool becomes the script: its parent is this process
        assert process.stdout.readline() == f"{os.getpid()}\n"
        eventually(lambda: process.poll() is not None)
