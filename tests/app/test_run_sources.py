"""Sources of scripts and declarations: lines, standard input, a URL, a file next to the script; and careless input."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.home import Home
from support.scripts import SEEDS, bound_by_modes, environments, shell_script, told
from support.server import ChannelServer, Fault, serving

LINES = ("# conda execute", "# env: [hello-bin]", "# run_with: /bin/sh", 'hello "$@"; echo "$0"')
STDIN = "\n".join(LINES) + "\n"
PLAIN = "import os, six; print(six.__version__, os.environ.get('A'))\n"
ENVIRONMENT = "name: any\nchannels: [conda-forge]\ndependencies: [python >=3, six 1.16.*]\nvariables: {A: b}\n"


@pytest.fixture
def site(settled: Home) -> Iterator[ChannelServer]:
    """A web server for the directory ``site`` in the home."""
    (settled.path / "site").mkdir(exist_ok=True)
    with serving(settled.path / "site") as server:
        yield server


# --- command line and standard input ----------------------------------------------------------------------------------


def test_lines_on_the_command_line_run(settled: Home) -> None:
    done = settled.cetool("run", "-v", "-c", *LINES)
    assert done.returncode == 0, done.stderr
    hello, file = done.stdout.splitlines()
    assert hello.startswith("hello from ")
    assert Path(file).read_text() == STDIN and Path(file).is_relative_to(settled.cache)
    assert "run_with: [/bin/sh]" in done.stderr
    # the same code is stored once, and its first line can run it
    assert settled.cetool("-c", *LINES).stdout == done.stdout
    assert settled.cetool("run", "-c", "\n".join(LINES)).stdout == done.stdout


def test_standard_input_can_be_a_script(settled: Home) -> None:
    for words in (["run", "-"], ["-"], ["run", "-c"], ["-c"]):
        done = settled.cetool(*words, input=STDIN)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("hello from ")
    done = settled.cetool("run", "-", "--help", "a b", input=STDIN)
    assert "<--help>\n<a b>\n" in done.stdout
    # a script that reads its standard input finds the end
    done = settled.cetool("run", "-", input=STDIN + "cat; echo end\n")
    assert done.stdout.endswith("end\n")


@pytest.mark.parametrize("words", [("run", "-"), ("run", "-c"), ("run", "-c", "")])
def test_a_missing_script_is_an_error(settled: Home, words: tuple[str, ...]) -> None:
    done = settled.cetool(*words)
    assert done.returncode == 125
    assert re.search("is empty|declares no environment", told(done.stderr)[0])


def test_lines_without_a_block_are_an_error(settled: Home) -> None:
    done = settled.cetool("run", "-c", "print('hello')")
    assert done.returncode == 125
    assert "declares no environment" in told(done.stderr)[0] and "# conda execute" in done.stderr


def test_relative_channels_of_typed_code_start_at_the_working_directory(settled: Home, channel: Path) -> None:
    lines = (LINES[0], "# channels: [./conda-forge]", *LINES[1:])
    done = settled.cetool("run", "-c", *lines, cwd=channel)
    assert done.stdout.startswith("hello from "), done.stderr
    assert settled.cetool("run", "-", cwd=channel, input="\n".join(lines)).stdout.startswith("hello from ")


# --- URLs -------------------------------------------------------------------------------------------------------------


def test_a_script_at_a_url_runs(settled: Home, site: ChannelServer) -> None:
    settled.write("site/some/hello.sh", STDIN)
    url = f"{site.url}/some/hello.sh"
    refused = settled.cetool("run", url)
    assert refused.returncode == 2
    assert "--insecure" in told(refused.stderr)[1] and not site.requests
    done = settled.cetool("run", "--yes", "--insecure", url, "an argument")
    assert done.returncode == 0, done.stderr
    assert "<an argument>\n" in done.stdout
    assert done.stdout.endswith("/hello.sh\n")
    shown = json.loads(settled.cetool("show", "--insecure", "--json", url).stdout)
    assert shown["specs"] == ["hello-bin"]


def test_credentials_in_a_url_are_sent_and_not_shown(settled: Home, site: ChannelServer) -> None:
    settled.write("site/private.sh", STDIN)
    site.credentials = ("user", "sEcReT")
    url = f"{site.secret_url}/private.sh"
    done = settled.cetool("run", "-v", "--yes", "--insecure", url)
    assert done.stdout.startswith("hello from "), done.stderr
    wrong = settled.cetool("run", "--insecure", url.replace("sEcReT", "wRoNg"))
    assert wrong.returncode == 125
    everything = [done.stderr, wrong.stderr, *_texts(settled)]
    assert not any("sEcReT" in text or "wRoNg" in text for text in everything)


def _texts(home: Home) -> Iterator[str]:
    for directory, _, names in os.walk(home.cache):
        for name in names:
            if Path(directory).name in ("logs", "spool", "locks", "conda-meta", home.cache.name):
                yield Path(directory, name).read_bytes().decode("latin-1")


def test_urls_without_a_script_are_errors(settled: Home, site: ChannelServer) -> None:
    settled.write("site/page.html", "<html></html>")
    settled.write("site/broken.sh", STDIN)
    site.faults += [Fault("/broken.sh", "truncate"), Fault("/busy.sh", "status", 503)]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    expected = [
        (f"{site.url}/missing.sh", 127, "the script was not found on"),
        (f"{site.url}/broken.sh", 125, "was lost"),
        (f"{site.url}/busy.sh", 125, "503"),
        (f"http://127.0.0.1:{port}/x.sh", 125, "refused the connection"),
        ("ftp://example.org/x.sh", 2, "not an https:// URL"),
        ("file:///tmp/x.sh", 2, "file:// URLs are not supported"),
    ]
    for url, status, words in expected:
        done = settled.cetool("run", "--insecure", url)
        assert done.returncode == status, done.stderr
        assert words in told(done.stderr)[0]
    done = settled.cetool("run", "--offline", "--insecure", f"{site.url}/broken.sh")
    assert done.returncode == 2
    assert "--offline" in told(done.stderr)[0]


# --- environment files and --with -------------------------------------------------------------------------------------


def test_an_environment_file_can_replace_a_block(settled: Home) -> None:
    script = settled.write("file/plain.py", PLAIN)
    file = settled.write("file/environment.yml", ENVIRONMENT)
    done = settled.cetool("run", "--env-file", file, script)
    assert done.stdout == "1.16.0 b\n", done.stderr
    text = settled.write("file/specs.txt", "# needs\npython >=3\nsix 1.16.*  # old\n")
    done = settled.cetool("run", "-v", "--env-file", text, script)
    assert done.stdout == "1.16.0 None\n", done.stderr
    assert "env: [python >=3, six 1.16.*]\nrun_with: [" in done.stderr
    done = settled.cetool("run", "--env-file", text, "-", input=f"#!/usr/bin/env python\n{PLAIN}")
    assert done.stdout == "1.16.0 None\n", done.stderr
    done = settled.cetool("run", "--env-file", text, "--with", "hello-bin", "-c", "#!/bin/sh", "hello")
    assert done.stdout.startswith("hello from "), done.stderr


def test_invalid_environment_files_are_errors(settled: Home) -> None:
    plain = settled.write("file/plain.py", PLAIN)
    seeds = settled.write("file/seeds.py", SEEDS)
    good = settled.write("file/good.yml", ENVIRONMENT)
    broken = settled.write("file/broken.yml", "dependencies:\n  - python\n - numpy\n")
    typo = settled.write("file/typo.yml", "channels: []\ndependencys: [python]\n")
    spec = settled.write("file/spec.txt", "python\nnumpy >>2\n")
    for file, script, status, words in [
        (good, seeds, 2, f"seeds.py has one \\(lines {_block(SEEDS)}\\)"),
        (settled.path / "missing.yml", plain, 125, "missing.yml: the environment file does not exist"),
        (settled.path, plain, 125, "this is a directory"),
        (broken, plain, 125, r"broken.yml:3: "),
        (typo, plain, 125, "typo.yml:2: .*dependencys"),
        (spec, plain, 125, "spec.txt:2: 'numpy >>2' is not a match spec"),
    ]:
        done = settled.cetool("run", "--env-file", file, script)
        assert done.returncode == status, done.stderr
        assert re.search(words, told(done.stderr)[0])


def _block(text: str) -> str:
    lines = text.split("\n")
    first = lines.index("# conda execute") + 1
    return f"{first} to {first + 3}"


def test_with_adds_to_the_declaration(settled: Home) -> None:
    script = settled.write("with.sh", shell_script('hello; echo "$ACTIVATED"'))
    before = environments(settled)
    assert settled.cetool("run", "--with", "activated", "--with=many-files", script).stdout.endswith("yes\n")
    assert settled.cetool("run", "--with", "many-files", "--with", "activated", script).stdout.endswith("yes\n")
    assert len(environments(settled)) == len(before) + 1
    for spec in ("numpy >>2", "--yes", "a\nb", ""):
        done = settled.cetool("run", f"--with={spec}", script)
        assert done.returncode == 125
        assert re.search("is not a match spec|the match spec is empty", told(done.stderr)[0])


# --- careless input ---------------------------------------------------------------------------------------------------


def test_files_that_are_not_scripts_are_errors(settled: Home) -> None:
    os.mkfifo(settled.path / "pipe")
    settled.write("empty.py", "")
    settled.write("nothing.py", "print(1)\n")
    settled.path.joinpath("binary").write_bytes(b"\x7fELF\2\1\1\0\0")
    settled.path.joinpath("latin.sh").write_bytes(b"#!/bin/sh\n# conda execute\n# env: [caf\xe9]\n")
    settled.path.joinpath("loop").symlink_to("loop")
    settled.path.joinpath("utf16.py").write_bytes(SEEDS.encode("utf-16"))
    expected = [
        (".", 126, "this is a directory"),
        ("pipe", 125, "a pipe"),
        ("/dev/null", 125, "a device"),
        ("empty.py", 125, "is empty"),
        ("binary", 125, "NUL byte"),
        ("latin.sh", 125, "latin.sh:3: byte 0xe9"),
        ("utf16.py", 125, "UTF-16"),
        ("nothing.py", 125, "declares no environment"),
        ("missing.py", 127, "missing.py: the script does not exist"),
        ("empty.py/x", 127, "the script does not exist"),
        ("loop", 126, "symbolic links"),
        ("x" * 300, 126, "too long"),
        ("", 127, "the script's path is empty"),
    ]
    for name, status, words in expected:
        done = settled.cetool("run", name)
        assert done.returncode == status, (name, done.stderr)
        assert words in told(done.stderr)[0]


def test_a_missing_file_is_reported_with_the_one_that_was_meant(home: Home) -> None:
    home.write("plots/normal.py", "# conda execute\n# env: [python]\n")
    for command in ("run", "show", "lock", "convert --to pep723", "path", "list", "tree", "upgrade"):
        for asked in ("plots/normla.py", "plots/normal", "plots/Normal.PY", f"{home.path}/plots/norml.py"):
            done = home.cetool(*command.split(), asked)
            assert done.returncode in (125, 127), (command, done)
            assert "normal.py?" in told(done.stderr)[1], (command, done.stderr)
    done = home.cetool("rum", "x")
    assert "Did you mean `cetool run`?" in done.stderr or "If a command was meant: `cetool run`" in done.stderr


def test_an_unreadable_script_is_an_error(settled: Home) -> None:
    script = settled.write("unreadable.sh", shell_script("true"))
    script.chmod(0o000)
    done = settled.run(*bound_by_modes(), "cetool", "run", script)
    assert done.returncode == 126
    assert "cannot read the script: permission denied" in told(done.stderr)[0]


def test_a_broken_specification_names_file_and_line(settled: Home) -> None:
    for text, words in [
        ("# conda execute\n# env:\n#  - python\n#  numpy\n", r"broken.py:4: "),
        ("# conda execute\n# env: [python\nprint()\n", r"broken.py:[23]: "),
        ("\n# conda execute\n# enf: [python]\n", r"broken.py:3: .*enf"),
        ("# conda execute\n# env: [numpy >>2]\n", r"broken.py:2: 'numpy >>2' is not a match spec"),
        ("# conda execute\n# env: [--yes]\n", r"broken.py:2: .*--yes"),
        ("# conda execute\n# run_with: python\n", "the '# conda execute' block declares no environment"),
        ("# /// script\n# dependencies = [\n# ///\n", r"broken.py:[23]: "),
        ("# /// script\n# dependencies = []\n# ///\n\n# conda execute\n# env: [python]\n", r"broken.py:5: .*line 1"),
        ("# /// conda-script\n# entrypoint = 'a'\n# /// end-conda-script\n", "has no channels"),
        ("# /// conda-script\n# channels = ['a']\n# entrypoint = 'echo $X'\n# /// end-conda-script\n", "column 6"),
    ]:
        before = environments(settled)
        done = settled.cetool("run", settled.write("broken.py", text), cwd=settled.path)
        assert done.returncode == 125, done.stderr
        assert re.search(words, told(done.stderr)[0]), done.stderr
        assert environments(settled) == before


def test_meaningless_command_lines_are_errors(settled: Home) -> None:
    settled.write("echo.sh", shell_script("true"))
    for words, status, said in [
        ((), 2, "Usage: cetool"),
        (("run",), 2, "no script was given"),
        (("run", "--nope", "echo.sh"), 2, "--nope"),
        (("--nope",), 2, "--nope"),
        (("-vx", "echo.sh"), 2, "-x"),
        (("run", "-v", "-q", "echo.sh"), 2, "cannot be used together"),
        (("run", "--engine"), 2, "--engine"),
        (("run", "--engine", "nope", "echo.sh"), 2, "'nope'"),
        (("run", "--engine", "conda", "--refresh", "echo.sh"), 125, "conda was not found"),
        (("lits",), 127, "`cetool list`"),
        (("list", "x"), 125, "no environment or script called 'x'"),
        (("gc", "x"), 2, "unexpected argument: x"),
        (("show",), 2, "SCRIPT|NAME is missing"),
        (("create",), 2, "no packages were given"),
        (("name",), 2, "no packages were given"),
        (("remove",), 2, "NAME|PREFIX|SCRIPT"),
    ]:
        done = settled.cetool(*words, cwd=settled.path)
        assert done.returncode == status, (words, done.stderr)
        assert said in done.stderr + done.stdout
        assert "Traceback" not in done.stderr and "defect" not in done.stderr


_STANDARD = "(for n in 0 1 2; do readlink /proc/$$/fd/$n; done >closed.txt) 2>/dev/null; echo lost"


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&-", "<&- >&- 2>&-", "| head -n 0"])
def test_closed_streams_do_no_harm(settled: Home, streams: str) -> None:
    script = settled.write("closed.sh", shell_script(_STANDARD))
    done = settled.run("sh", "-c", f"cetool run {script} {streams}")
    assert done.stdout in ("", "lost\n") and "cetool: " not in done.stderr
    if Path("/proc/self/fd").exists():  # no file of cetool replaced the closed streams
        assert "/cetool/" not in (settled.path / "closed.txt").read_text()
    for command in ("list", "list --json", "info", f"name {script}"):
        done = settled.run("sh", "-c", f"cetool {command} {streams}")
        assert "Traceback" not in done.stderr and "defect" not in done.stderr, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
def test_a_full_disk_is_an_error(settled: Home) -> None:
    settled.cetool("create", "hello-bin")  # so that there is something to list
    for command in ("list", "list --json", "name hello-bin"):
        done = settled.run("sh", "-c", f"cetool {command} >/dev/full")
        assert (done.returncode, told(done.stderr)) == (125, ["cetool: No space left on device"])
