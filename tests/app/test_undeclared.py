"""Scripts without a block: ``--with``, ``--baseline`` and ``--lock-file`` describe their environment."""

from __future__ import annotations

import json

import pytest
from support.home import Home
from support.notebooks import notebook
from support.scripts import told

PLAIN = "import six, sys\nprint(six.__name__, *sys.argv[1:])\n"


def test_with_describes_the_environment_of_a_script_without_a_block(settled: Home) -> None:
    settled.write("plain.py", PLAIN)
    first = settled.cetool("run", "--with", "six", "plain.py", "a", "--with")
    assert (first.returncode, first.stdout) == (0, "six a --with\n"), first.stderr
    shown = json.loads(settled.cetool("show", "--json", "--with", "six", "plain.py").stdout)
    assert (shown["dialect"], shown["specs"], shown["run_with"]) == ("none", ["python", "six"], ["python"])
    # the same environment as that of the match specs themselves
    assert (
        settled.cetool("path", "--with", "six", "plain.py").stdout
        == settled.cetool("path", "--spec", "six", "--spec", "python").stdout
    )
    assert settled.cetool("name", "six", "python").stdout.strip() == shown["prefix"]


def test_the_interpreter_is_that_of_the_language_unless_with_names_it(settled: Home) -> None:
    for name, text, specs, expected, program in (
        ("pinned.py", "", ["python >=3", "six"], ["python >=3", "six"], ["python"]),
        ("tool.sh", "hello\n", ["hello-bin"], ["bash", "hello-bin"], ["bash"]),
        ("tool.R", "", ["hello-bin"], ["hello-bin", "r-base"], ["Rscript"]),
        ("tool.R", "", ["r-ggplot2"], ["r-ggplot2"], ["Rscript"]),
        ("other.py", "", ["pypy"], ["pypy"], ["python"]),
        ("by_shebang", "#!/usr/bin/python3 -u\n", ["six"], ["python", "six"], ["python3", "-u"]),
        ("perl", "#!/usr/bin/perl -w\n", ["six"], ["perl", "six"], ["perl", "-w"]),
        ("unknown", "x\n", ["six", "nodejs"], ["nodejs", "six"], ["node"]),
    ):
        settled.write(name, text or "#\n")
        options = [word for spec in specs for word in ("--with", spec)]
        done = settled.cetool("show", "--json", *options, name)
        shown = json.loads(done.stdout)
        assert (shown["specs"], shown["run_with"]) == (expected, program), (name, done.stderr)


def test_code_that_is_typed_needs_no_block_either(settled: Home) -> None:
    code = "import six; print(six.__name__)"
    assert settled.cetool("run", "--with", "six", "-c", code).stdout == "six\n"
    assert settled.cetool("run", "--with", "six", "-", input=PLAIN).stdout == "six\n"
    done = settled.cetool("run", "--with", "hello-bin", "-c", "hello")
    assert done.stdout.startswith("hello from "), done.stderr


def test_a_baseline_or_a_lock_file_is_enough(settled: Home) -> None:
    settled.write("plain.py", PLAIN)
    prefix = settled.cetool("path", "--with", "six ==1.16.0", "plain.py").stdout.strip()
    settled.cetool("baseline", "create", prefix, "--output", "base.txt")
    version = settled.write("version.py", "import six\nprint(six.__version__)\n")
    for words in (
        ("--baseline", "base.txt"),
        ("--lock-file", "base.txt"),
        ("--baseline", "base.txt", "--with", "six"),
    ):
        done = settled.cetool("run", *words, version)
        assert (done.returncode, done.stdout) == (0, "1.16.0\n"), (words, done.stderr)
    newer = settled.cetool("run", "--baseline", "base.txt", "--without", "six", "--with", "six >=1.17", version)
    assert newer.stdout == "1.17.0\n", newer.stderr
    both = settled.cetool("run", "--lock-file", "base.txt", "--with", "numpy", version)
    assert both.returncode == 125 and "--with" in told(both.stderr)[0]


def test_a_lock_that_was_made_for_a_script_is_one_for_a_script_without_a_block(settled: Home) -> None:
    settled.write("declares.py", "# conda execute\n# env: [python, six ==1.16.0]\n")
    assert settled.cetool("lock", "declares.py").returncode == 0
    settled.write("version.py", "import six\nprint(six.__version__)\n")
    done = settled.cetool("run", "--lock-file", "declares.py.conda-lock.yml", "version.py")
    assert done.stdout == "1.16.0\n", done.stderr


def test_a_notebook_without_a_block_gets_its_kernel(settled: Home) -> None:
    settled.write("plain.ipynb", notebook("print(1)"))
    shown = json.loads(settled.cetool("show", "--json", "--with", "six", "plain.ipynb").stdout)
    assert (shown["dialect"], shown["specs"]) == ("none", ["ipykernel", "six"])


@pytest.mark.parametrize("name", ["plain.py", "plain.ipynb"])
def test_without_any_of_them_the_error_names_three_ways(settled: Home, name: str) -> None:
    settled.write(name, notebook("print(1)") if name.endswith("ipynb") else "print(1)\n")
    done = settled.cetool("run", name)
    assert done.returncode == 125
    first, hint = done.stderr.splitlines()[:2]
    assert first == f"cetool: {name} declares no environment"
    assert all(way in hint for way in (f"`cetool add {name} numpy`", "`--with numpy`", "`--env-file environment.yml`"))
    typed = settled.cetool("run", "-c", "print('hello')")
    assert "<code> declares no environment" in typed.stderr and "cetool add" not in typed.stderr


def test_a_misspelt_block_is_not_passed_over(settled: Home) -> None:
    settled.write("misspelt.py", "# conda-execute\n# env: [python, numpy]\n")
    done = settled.cetool("run", "--with", "six", "misspelt.py")
    assert done.returncode == 125 and "misspelt.py:1: '# conda-execute' does not open a block" in done.stderr
    settled.write("empty.py", "# conda execute\n# channels: [conda-forge]\n")
    assert settled.cetool("run", "--with", "six", "empty.py").returncode == 125


def test_mistakes_in_with_are_named(settled: Home) -> None:
    settled.write("plain.py", PLAIN)
    for spec, words in (
        ("nosuch", "package 'nosuch' was not found"),
        ("six >>1", "'six >>1' is not a match spec"),
        ("six ==99", "six"),
    ):
        done = settled.cetool("run", "--with", spec, "plain.py")
        assert done.returncode in (2, 125) and words in told(done.stderr)[0], done.stderr
    settled.write("unknown", "x\n")
    done = settled.cetool("run", "--with", "six", "unknown")
    assert done.returncode == 125
    assert "cannot tell which program runs this script" in done.stderr and "--with python" in done.stderr
