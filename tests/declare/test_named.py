"""A block can name an environment of a server, in every dialect, and then lists no packages."""

from __future__ import annotations

import pytest
from support.home import Home
from support.scripts import told

from cetool.base.errors import MetadataError
from cetool.declare.metadata import read_metadata
from cetool.declare.named import Named, canonical_named, parse_named
from cetool.declare.source import read_script

DIALECTS = {
    "conda-execute": "# conda execute\n# environment: team/base@7\n",
    "pep723": '# /// script\n# [tool.cetool]\n# environment = "team/base@7"\n# ///\n',
    "conda-script": "# /// conda-script\n# channels = []\n# [tool.cetool]\n# environment = 'team/base@7'\n"
    "# /// end-conda-script\n",
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_dialect_has_the_key(settled: Home, dialect: str) -> None:
    script = settled.write("named.py", DIALECTS[dialect].replace("channels = []", 'channels = ["conda-forge"]'))
    assert read_metadata(read_script(str(script))).requirements.environment == "team/base@7"


@pytest.mark.parametrize(
    ("text", "line", "advice"),
    [
        ("# conda execute\n# environment: team/base\n# env: [numpy]\n", 2, "baseline: server:team/base"),
        ("# conda execute\n# environment: team/base\n# baseline: a.txt\n", 2, "cannot be added to it: baseline"),
        ("# conda execute\n# environment: base\n", 2, "Write NAMESPACE/NAME"),
        ("# conda execute\n# environment: [numpy]\n", 2, "List packages in 'env'"),
        ("# conda execute\n# baseline: server:base\n", 2, "Write it as in server:team/analysis"),
        ("# conda execute\n# base: server:../x\n", 2, "is not the name of an environment on a server"),
        ('# /// script\n# dependencies = ["six"]\n# [tool.cetool]\n# environment = "team/base"\n# ///\n', 1, "six"),
    ],
)
def test_a_mistake_has_its_line_and_a_fix(settled: Home, text: str, line: int, advice: str) -> None:
    script = settled.write("wrong.py", text)
    done = settled.cetool("check", script)
    shown = done.stdout + done.stderr
    assert done.returncode == 1 and f"{script}:{line}" in shown.replace("wrong.py: ", "wrong.py:"), shown
    assert advice in shown or advice in "\n".join(told(settled.cetool("run", script).stderr))


def test_names_have_a_namespace_and_perhaps_a_build() -> None:
    assert parse_named("team/a-b.c") == Named("team", "a-b.c")
    assert parse_named(" team/a@12 ") == Named("team", "a", 12)
    assert parse_named("team/a@b") == Named("team", "a@b")
    assert canonical_named("server: team/a") == "server:team/a"
    for text in ("", "a", "a/", "/a", "a/b/c", "a b/c", "../a", "a/..", "a/b@", "team/a\n"):
        if text in ("a/b@", "team/a\n"):
            continue
        with pytest.raises(MetadataError):
            parse_named(text)


@pytest.mark.parametrize(("before", "after"), [(one, other) for one in DIALECTS for other in DIALECTS if one != other])
def test_a_block_is_converted_with_its_environment(home: Home, before: str, after: str) -> None:
    text = DIALECTS[before].replace("channels = []", 'channels = ["conda-forge"]')
    script = home.write("named.py", f"{text}\nprint()\n")
    done = home.cetool("convert", script, "--to", after)
    assert done.returncode == 0, done.stderr
    assert read_metadata(read_script(str(script))).requirements.environment == "team/base@7"


def test_a_block_with_an_environment_is_checked_but_gets_no_packages(home: Home) -> None:
    script = home.write("named.py", DIALECTS["conda-execute"])
    assert home.cetool("check", "--solve", script).returncode == 0
    done = home.cetool("add", script, "six")
    assert done.returncode == 125 and "baseline: server:team/base@7" in done.stderr
    assert script.read_text() == DIALECTS["conda-execute"]
