"""Mistakes in blocks and on the command line are reported with their place and a fix."""

from __future__ import annotations

import pytest
from support.home import Home
from support.scripts import (
    told,
)


@pytest.mark.parametrize(
    ("text", "line", "advice"),
    [
        ("# conda execute\n# enviroment: [python]\n", 2, "Did you mean 'env'?"),
        ("#conda execute\n# env: [python]\n", 1, "write '# conda execute'"),
        ("\n// conda-execute\n", 2, "write '// conda execute'"),
        ("# /// conda_script\n", 1, "write '# /// conda-script'"),
        ("# conda exectue\n# env: [python]\n", 1, "write '# conda execute'"),
        ("# /// scirpt\n# dependencies = []\n# ///\n", 1, "write '# /// script'"),
        ("# conda execute\n# env:\n#  - \"'numpy>=1'\"\n", 3, "Remove the inner quotes."),
        ("# /// script\n# dependencies = []\nprint()\n", 1, "opens is never closed"),
        (
            "# /// conda-script\n# channels = ['c']\n# entrypoint = 'python | cat'\n# /// end-conda-script\n",
            3,
            "Run the pipe in the script",
        ),
    ],
)
def test_a_mistake_has_its_line_and_a_fix(settled: Home, text: str, line: int, advice: str) -> None:
    script = settled.write("mistake.py", text)
    for command in ("run", "show"):
        done = settled.cetool(command, script)
        assert (done.returncode, done.stdout) == (125, "")
        assert f"{script}:{line}: " in told(done.stderr)[0]
        assert advice in done.stderr


def test_words_with_another_meaning_have_a_hint(settled: Home) -> None:
    settled.write("script.py", "print()\n")
    for words, status, advice in (
        (("",), 127, "path is empty"),
        (("help", "rnu"), 2, "Did you mean 'run'?"),
        (("rnu",), 127, "Did you mean `cetool run`?"),
        (("version",), 127, "Did you mean `cetool --version`?"),
        (("nothing",), 127, "`cetool --help` lists the commands."),
        (("trust", "revoke"), 2, "`cetool trust --help` lists the commands."),
        (("create", "--spec", "six"), 2, "`cetool create --help` shows all options."),
        (("create", "script.py"), 2, "script.py is a file, not a match spec"),
        (("kernel", "install", "missing.py"), 127, "cetool: missing.py: the script does not exist"),
        (("create", "--file", str(settled.path)), 125, "this is a directory, not an environment file"),
    ):
        done = settled.cetool(*words)
        assert (done.returncode, done.stdout) == (status, "")
        assert advice in "\n".join(told(done.stderr))
    done = settled.cetool("name", "missing.py")
    assert "there is no file 'missing.py', so it was taken for a package" in done.stderr


def test_a_package_that_does_not_exist_has_its_line(settled: Home) -> None:
    script = settled.write("typo.py", "# conda execute\n# env:\n#  - python\n#  - nmupy >=1\n")
    done = settled.cetool("run", script)
    assert done.returncode == 125 and "Did you mean 'numpy'?" in done.stderr
    assert told(done.stderr)[0].startswith(f"cetool: {script}:4: package 'nmupy")
    added = settled.cetool("run", "--with", "nosuch", settled.write("fine.py", "# conda execute\n# env: [python]\n"))
    assert told(added.stderr)[0].startswith("cetool: package 'nosuch")
