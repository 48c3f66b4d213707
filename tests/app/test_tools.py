"""``cetool exec`` (``cex``) and ``path``: programs from packages, and facts for editors."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from support.channel import Channel
from support.home import Home
from support.scripts import environments, told, unconfirmed

from cetool import warm
from cetool.base.errors import UsageError
from cetool.launch.tools import Tool, programs_of, read_tool

JSON_PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "json.md"
HELLO = ("--spec", "hello-bin", "hello")


# --- programs and packages --------------------------------------------------------------------------------------------


def test_a_word_becomes_a_program_and_a_spec() -> None:
    for word, program, spec in (
        ("ruff", "ruff", "ruff"),
        ("ruff>=0.4,<1", "ruff", "ruff>=0.4,<1"),
        ("ruff 0.4.*", "ruff", "ruff 0.4.*"),
        ("python=3.12", "python", "python=3.12"),
        ("bioconda::samtools=1.20", "samtools", "bioconda::samtools=1.20"),
        ("https://host/some/channel::samtools", "samtools", "https://host/some/channel::samtools"),
        ("./channel::hello", "hello", "./channel::hello"),
        ("Rscript", "Rscript", "r-base"),
        ("conda-forge::R>=4", "R", "conda-forge::r-base>=4"),
        ("node", "node", "nodejs"),
        ("g++", "g++", "cxx-compiler"),
        ("ruff[version='>=0.4']", "ruff", "ruff[version='>=0.4']"),
    ):
        assert read_tool(word) == Tool(program, spec), word
    for word in ("./build.sh", "/bin/sh", "bin/x", "../x"):
        with pytest.raises(UsageError, match="is a path"):
            read_tool(word)


def test_every_word_is_part_of_the_warm_key() -> None:
    keys = [
        warm.tool_key(*words)
        for words in (
            ("a", (), ()),
            ("a", ("a",), ()),
            ("a", (), ("a",)),
            ("a', ['b'], []", (), ()),
            ("a", ("b", "c"), ()),
            ("a", ("b c",), ()),
            ("a\1b", (), ()),
            ("a\udcff", (), ()),
            ("a", (), (), ("a",)),
        )
    ]
    assert len(set(keys)) == len(keys)
    # not a valid script name, and each part can be in a record
    assert not any(key.startswith("/") or not key.isascii() or "\1" in key for key in keys)


# --- exec -------------------------------------------------------------------------------------------------------------


def test_arguments_and_status_are_the_programs(settled: Home) -> None:
    words = ["-v", "--help", "--spec", "x", "--", "", "a b", "ünï"]
    for command in ([sys.executable, "-m", "cetool", "exec"], ["cex"]):
        for env in ({}, {"CONDA_UNRELATED": "1"}):  # warm, after a cold one; cold
            done = settled.run(*command, *HELLO, *words, env=env)
            prefix = settled.cetool("name", "hello-bin").stdout
            assert (done.returncode, unconfirmed(done.stderr)) == (0, "")
            assert done.stdout == f"hello from {prefix}" + "".join(f"<{word}>\n" for word in words)
    for _ in range(2):
        done = settled.run("cex", "python", "-c", "import os, sys; print(sys.prefix, os.sep); sys.exit(7)")
        assert (done.returncode, done.stdout.split()[0]) == (7, settled.cetool("name", "python").stdout.strip())
        done = settled.run("cex", "python", input="print(6 * 7)\n")
        assert done.stdout == "42\n"


def test_the_environment_contains_exactly_the_specs(settled: Home) -> None:
    code = "import numpy, os; print(numpy.arange(3), os.environ['ACTIVATED'], os.environ['CONDA_PREFIX'])"
    specs = ("--spec", "python >=3", "--spec=numpy", "--spec", "activated")
    done = settled.run("cex", *specs, "python", "-c", code)
    prefix = settled.cetool("name", "activated", "numpy", "python>=3").stdout
    assert done.stdout == f"[0 1 2] yes {prefix}"
    # a program named by its path also runs in it
    settled.write("by path/run.sh", '#!/bin/sh\necho "$ACTIVATED $1"\n', executable=True)
    assert settled.run("cex", *specs, "./by path/run.sh", "x").stdout == "yes x\n"


def test_known_programs_name_their_package(settled: Home, local_channel: Channel) -> None:
    tried = {"bash": ("bash", "bash"), "nodejs": ("node", "nodejs"), "r-base": ("Rscript", "r-base")}
    for package, (program, spec) in tried.items():
        if local_channel.has(package):
            done = settled.run("cex", "-v", program, "--version")
            assert done.returncode == 0, done.stderr
            assert f"env: [{spec}]\nrun_with: [{program}]\n" in done.stderr
    done = settled.run("cex", "python>=3", "-c", "print(1)")
    assert done.stdout == "1\n"


def test_a_program_missing_from_the_packages_is_an_error(settled: Home) -> None:
    message, hint = told(settled.run("cex", "hello-bin").stderr)
    assert message == "cetool: package hello-bin has no program 'hello-bin'"
    assert hint.startswith("Did you mean 'hello'? Its programs: hello.") and "--spec PACKAGE hello-bin`" in hint
    done = settled.cetool("exec", "--spec", "six", "--spec", "activated", "hello")
    message, hint = told(done.stderr)
    assert done.returncode == 127
    assert message == "cetool: packages six and activated have no program 'hello'"
    assert hint.startswith("To use another package")
    # neither a program on the PATH, nor one of a dependency
    assert settled.run("cex", "six", "x").returncode == settled.run("cex", *HELLO[:2], "sh").returncode == 127
    done = settled.run("cex", *HELLO[:2], "./missing")
    assert done.returncode == 127


def test_programs_are_found_by_package_records(settled: Home) -> None:
    prefix = Path(settled.cetool("create", "hello-bin", "activated", "python").stdout.strip())
    assert programs_of(prefix, ["hello-bin"]) == ["hello"]
    assert "python" in programs_of(prefix, ["python", "hello-bin"])
    assert programs_of(prefix, ["activated"]) == programs_of(prefix, []) == []


def test_a_missing_package_is_an_error(settled: Home) -> None:
    done = settled.run("cex", "hello")
    assert done.returncode == 125
    assert "`cetool exec --spec PACKAGE hello`" in "".join(told(done.stderr))
    done = settled.run("cex", "--spec", "nothing-like-it", "hello")
    assert done.returncode == 125 and "PACKAGE" not in done.stderr


def test_invalid_words_are_errors(settled: Home) -> None:
    for words, status, text in (
        (["./script.py"], 2, "cetool run ./script.py"),
        (["--spec", "-x", "hello"], 125, "is not a match spec"),
        (["node@20"], 125, "is not a match spec"),
        ([""], 125, "the match spec is empty"),
        (["--nope", "hello"], 2, "unknown option --nope"),
        (["--spec"], 2, "needs a value"),
        (["-v", "-q", "hello"], 2, "cannot be used together"),
        (["--channel", "a b", "hello"], 2, "is not a valid channel name"),
        (["--engine", "pip", "hello"], 2, "must be one of"),
    ):
        for command in (["cex"], ["cetool", "exec"]):
            done = settled.run(*command, *words)
            assert (done.returncode, done.stdout) == (status, ""), (words, done.stderr)
            assert text in done.stderr and "Traceback" not in done.stderr
    assert "TOOL is missing" in settled.run("cetool", "exec").stderr
    assert settled.run("cex").returncode == 2


def test_with_adds_packages_to_the_tool_and_c_names_channels(settled: Home, channel_url: str) -> None:
    code = "import six; print(six.__version__)"
    done = settled.run("cex", "--with", "six ==1.16.0", "-c", "conda-forge", "python", "-c", code)
    assert (done.returncode, done.stdout) == (0, "1.16.0\n"), done.stderr
    done = settled.run("cex", "-v", "-c", channel_url, "-c", "conda-forge", "--with", "activated", *HELLO)
    assert done.returncode == 0 and "env: [hello-bin, activated]" in done.stderr
    # the program comes from the tool's own package, or from those added
    done = settled.cetool("exec", "--with", "hello-bin", "--with", "activated", "--spec", "six", "hello")
    assert done.stdout.startswith("hello from "), done.stderr
    done = settled.run("cex", "--with", "no-such-package", "python")
    assert done.returncode == 125 and "package 'no-such-package' was not found" in done.stderr
    assert "--spec PACKAGE" not in done.stderr
    done = settled.run("cex", "-c", "no-such-channel", "hello-bin")
    assert done.returncode == 125 and "no-such-channel" in told(done.stderr)[0]


def test_verbosity_and_refresh_work(home: Home) -> None:
    done = home.run("cex", "-v", *HELLO)
    prefix = home.cetool("name", "hello-bin").stdout.strip()
    assert done.stderr.startswith("Using specification: \nenv: [hello-bin]\nrun_with: [hello]\n\nPrefix: " + prefix)
    before = environments(home)
    for words in (["-q"], ["--offline"], ["--engine", "rattler"], ["--channel", "conda-forge"]):
        assert unconfirmed(home.run("cex", *words, *HELLO).stderr) == ""
        assert environments(home) == before
    assert home.run("cex", "--refresh", *HELLO).returncode == 0
    assert environments(home) != before
    listed = json.loads(home.cetool("list", "--json").stdout)["environments"]
    assert [item["runs"] for item in listed] == [6]


def test_help_and_completion_work(settled: Home) -> None:
    for command, usage in (
        (["cex"], "Usage: cex [OPTIONS]"),
        *((["cetool", name], f"Usage: cetool {name} [OPTIONS]") for name in ("exec", "shell", "path")),
    ):
        for option in ("-h", "--help"):
            done = settled.run(*command, option)
            assert (done.returncode, done.stderr) == (0, "") and usage in done.stdout
    for shell in ("bash", "zsh", "fish"):
        env = {"SHELL": f"/bin/{shell}", "_TYPER_COMPLETE_TEST": "1"}
        assert "_CEX_COMPLETE" in settled.run("cex", "--show-completion", env=env).stdout
    asked = {"_CETOOL_COMPLETE": "complete_bash", "COMP_WORDS": "cetool shell --re", "COMP_CWORD": "2"}
    assert settled.run("cetool", env=asked).stdout.split() == ["--repl", "--refresh"]
    asked = {"_CEX_COMPLETE": "complete_bash", "COMP_WORDS": "cex --sp", "COMP_CWORD": "1"}
    assert settled.run("cex", env=asked).stdout.split() == ["--spec"]


# --- path -------------------------------------------------------------------------------------------------------------


def test_path_prints_what_editors_need(home: Home) -> None:
    script = home.write("script.py", "# conda execute\n# env: [python, six, activated]\n# variables: {A: b}\n")
    prefix = home.cetool("name", script).stdout
    assert environments(home) == {}
    done = home.cetool("path", script)
    assert (done.returncode, done.stdout) == (0, prefix), done.stderr
    assert len(environments(home)) == 1
    done = home.cetool("path", script, "--python")
    assert done.stdout == f"{prefix.strip()}/bin/python\n"
    assert home.run(done.stdout.strip(), "-c", "import six; print(six.__name__)").stdout == "six\n"
    document = json.loads(home.cetool("path", "--json", script).stdout)
    assert document == {
        "schema": "cetool.path/1",
        "name": Path(prefix.strip()).name,
        "prefix": prefix.strip(),
        "python": f"{prefix.strip()}/bin/python",
        "path": [f"{prefix.strip()}/bin"],
        "variables": {"A": "b", "FROM_JSON": "a value", "PYTHONNOUSERSITE": "1"},
    }
    done = home.cetool("path", "--spec", "hello-bin", "--json")
    assert json.loads(done.stdout)["python"] is None
    assert home.cetool("path", "--spec", "hello-bin").stdout == home.cetool("name", "hello-bin").stdout
    done = home.cetool("path", "--spec", "hello-bin", "--python")
    assert done.returncode == 127 and done.stdout == "" and "there is no python" in told(done.stderr)[0]
    described = re.findall(r"^\| `(\w+)` \|", _section("cetool path --json"), re.MULTILINE)
    assert described == list(document)


def _section(title: str) -> str:
    text = JSON_PAGE.read_text("utf-8")
    return text.partition(f"## `{title}`")[2].partition("\n## ")[0]
