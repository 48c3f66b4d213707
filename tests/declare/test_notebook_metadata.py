"""What notebooks declare, where that can stand, what is wrong with it, and how it is changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.home import Home
from support.notebooks import NEEDS, notebook

from cetool.base.errors import CetoolError
from cetool.declare.metadata import ScriptMetadata, read_metadata
from cetool.declare.source import read_script
from cetool.launch.parameters import parameters_source, read_parameter


def _read(directory: Path, text: str) -> ScriptMetadata:
    path = directory / "nb.ipynb"
    path.write_text(text, encoding="utf-8")
    return read_metadata(read_script(path))


OWN = {"env": ["python >=3", "numpy"], "channels": ["conda-forge"]}
PEP = {"requires-python": ">=3", "tool": {"conda": {"dependencies": ["numpy"], "channels": ["conda-forge"]}}}
DRAFT = {"channels": ["conda-forge"], "dependencies": {"python": ">=3", "numpy": "*"}}
BLOCKS = [
    "# conda execute\n# channels: [conda-forge]\n# env: [python >=3, numpy]",
    '# /// script\n# requires-python = ">=3"\n# [tool.conda]\n# channels = ["conda-forge"]\n'
    '# dependencies = ["numpy"]\n# ///',
    '# /// conda-script\n# channels = ["conda-forge"]\n# [dependencies]\n# python = ">=3"\n# numpy = "*"\n'
    "# /// end-conda-script",
]


@pytest.mark.parametrize(
    ("cells", "metadata"),
    [
        *(([f"{block}\nimport numpy"], {}) for block in BLOCKS),
        (["#md about it", "", "%matplotlib inline", f"%%time\n{BLOCKS[0]}"], {}),
        # a file that a cell writes has its own
        ([f"%%writefile x.py\n{NEEDS}", BLOCKS[1]], {}),
        ([], {"cetool": OWN}),
        ([], {"conda-execute": OWN}),
        ([], {"script": PEP}),
        ([], {"conda-script": DRAFT}),
        ([], {"cetool": "channels: [conda-forge]\nenv: [python >=3, numpy]\n"}),
        ([], {"script": [line.removeprefix("# ") for line in BLOCKS[1].split("\n")[1:-1]]}),
    ],
)
def test_all_places_and_dialects_say_the_same(cells: list[str], metadata: dict[str, Any], tmp_path: Path) -> None:
    found = _read(tmp_path, notebook(*cells, "print(1)", metadata=metadata))
    assert set(found.requirements.packages) == {"python >=3", "numpy", "ipykernel"}
    assert found.requirements.channels == ("conda-forge",)
    assert (found.run_with, found.entrypoint, found.language) == (None, None, "python")
    assert found.requirements.warnings == ()


@pytest.mark.parametrize(
    ("needs", "kernelspec", "language", "added"),
    [
        ("env: [r-base]", {"name": "ir", "language": "R"}, "r", ["r-irkernel"]),
        ("env: [r-base]", {"name": "ir"}, "r", ["r-irkernel"]),
        ("env: [bash]", {"name": "bash", "language": "bash"}, "bash", ["bash_kernel"]),
        ("env: [julia]", {"name": "julia-1.10", "language": "julia"}, "julia", []),
        ("env: [python, ipykernel <8]", {}, "python", []),
        ("env: [python, pip: [ipykernel]]", {}, "python", []),
        ("env: [xeus-python]", {"name": "xpython"}, "python", []),
        ("env: [numpy]", {}, "python", ["ipykernel"]),
    ],
)
def test_a_kernel_is_added_where_none_is_declared(
    needs: str, kernelspec: dict[str, str], language: str, added: list[str], tmp_path: Path
) -> None:
    found = _read(tmp_path, notebook(f"# conda execute\n# {needs}", metadata={"kernelspec": kernelspec}))
    assert found.language == language
    assert list(found.requirements.packages[1:]) == ([*added] if "<8" not in needs else ["ipykernel <8"])


def test_format_3_and_what_is_ignored(tmp_path: Path) -> None:
    cell = {"cell_type": "code", "input": [f"{NEEDS}\n", "# end"], "outputs": [], "language": "python"}
    old = {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"cells": [cell]}]}
    assert set(_read(tmp_path, json.dumps(old)).requirements.packages) == {"python >=3", "six", "ipykernel"}
    found = _read(tmp_path, notebook("# conda execute\n# env: [python]\n# run_with: python -u"))
    assert [each.text.split()[0] for each in found.requirements.warnings] == ["run_with"]


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (notebook("x = 1", "\n# conda execute\n# env: [python]\n# evn: 1"), "cell 2:4", "unknown key 'evn'"),
        (
            notebook(NEEDS, "#md x", "y", NEEDS),
            "cell 3:1",
            "the notebook has two blocks: one in cell 1, and one in cell 3",
        ),
        (notebook(NEEDS, metadata={"cetool": OWN}), None, "the notebook declares its environment twice: in cell 1"),
        (notebook(metadata={"cetool": {"env": 3}}), "metadata.cetool.env", "env must be a list, not a number"),
        (notebook(metadata={"script": {"dependencies": ["a b"]}}), "metadata.script.dependencies", ""),
        (notebook("print(1)"), None, "declares no environment"),
        (notebook("# conda-execute\n# env: [python]"), "cell 1:1", "'# conda-execute' does not open a block"),
        ('{"nbformat": 4,\n "cells": [}', None, "the notebook is not valid JSON"),
        ('{"nbformat": 9, "cells": []}', None, "the notebook has format 9"),
        ("[]", None, "not a notebook"),
    ],
)
def test_errors_name_the_notebook_the_cell_and_the_line(
    text: str, place: str | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CetoolError) as raised:
        _read(tmp_path, text)
    assert raised.value.message.removeprefix(f"{tmp_path}/nb.ipynb ").startswith(message)
    where = str(raised.value.where or raised.value.about)
    assert where == f"{tmp_path}/nb.ipynb:{place}" if place else where.startswith(f"{tmp_path}/nb.ipynb")


def test_a_notebook_that_declares_nothing_can_use_an_environment_file(home: Home) -> None:
    home.write("environment.yml", "dependencies: [python, six]\n")
    home.write("nb.ipynb", notebook("print(1)"))
    shown = json.loads(home.cetool("show", "--json", "--env-file", "environment.yml", "nb.ipynb").stdout)
    assert (shown["dialect"], shown["specs"]) == ("environment.yml", ["ipykernel", "python", "six"])
    home.write("own.ipynb", notebook(NEEDS))
    done = home.cetool("show", "--env-file", "environment.yml", "own.ipynb")
    assert done.returncode == 2 and "own.ipynb declares its own environment (cell 1)" in done.stderr


@pytest.mark.parametrize(
    ("language", "given", "line"),
    [
        ("python", "x=007", 'x = "007"'),
        ("python", "x=1e3", "x = 1000.0"),
        ("python", "x=True", "x = True"),
        ("python", "x=nan", 'x = float("nan")'),
        ("python", "x=('a', 1)", 'x = ["a", 1]'),
        ("python", 'x=it\'s "so"=é', 'x = "it\'s \\"so\\"=é"'),
        ("python", "x=a\nb", "x = 'a\\nb'"),
        ("python", "x=", 'x = ""'),
        ("r", 'x={"a": [1, null, 2.5, false]}', 'x = list("a" = list(1L, NULL, 2.5, FALSE))'),
        ("r", "x.y=3000000000", "x.y = 3000000000.0"),
        ("bash", "x=it's; rm -rf $HOME", "x='it'\\''s; rm -rf $HOME'"),
        ("bash", "x=[1, true]", "x=('1' 'true')"),
    ],
)
def test_parameters_are_written_in_the_notebooks_language(language: str, given: str, line: str) -> None:
    name, value = read_parameter(given)
    source = parameters_source(language, {name: value})
    assert source == f"# Parameters\n{line}"
    if language == "python" and value == value:
        scope: dict[str, object] = {}
        exec(source, scope)
        assert scope[name] == value


@pytest.mark.parametrize("indent", [1, None])
@pytest.mark.parametrize("as_list", [True, False])
def test_edits_change_the_cell_and_nothing_else(indent: int | None, as_list: bool, home: Home) -> None:
    document = json.loads(notebook("#md ä", "x = '\\n'", NEEDS, "print(1)", minor=4))
    if not as_list:
        for cell in document["cells"]:
            cell["source"] = "".join(cell["source"])
    path = home.write("nb.ipynb", json.dumps(document, indent=indent, ensure_ascii=False) + "\n\n")
    before = path.read_text()
    done = home.cetool("add", "nb.ipynb", "numpy >=1")
    assert done.returncode == 0, done.stderr
    assert path.read_text() == before.replace("six]", "six, numpy >=1]")
    done = home.cetool("drop", "nb.ipynb", "numpy")
    assert done.returncode == 0 and path.read_text() == before
    assert home.cetool("convert", "nb.ipynb", "--to", "conda-script").returncode == 0
    shown = home.cetool("show", "nb.ipynb")
    assert "conda-script, cell 2, lines 1 to" in shown.stdout and "warning" not in shown.stderr
    assert home.cetool("convert", "nb.ipynb", "--to", "conda-execute").returncode == 0
    after = json.loads(path.read_text())
    assert [cell["source"] for cell in after["cells"][:2]] == [cell["source"] for cell in document["cells"][:2]]
    assert after["cells"][3:] == document["cells"][3:] and after["metadata"] == document["metadata"]


def test_a_first_block_has_what_all_cells_import(home: Home) -> None:
    path = home.write("nb.ipynb", notebook("#md x", "%%html\n<p>", "%pip list\nimport numpy as np", "import six"))
    assert home.cetool("init", "nb.ipynb").returncode == 0
    cells = json.loads(path.read_text())["cells"]
    block = "# conda execute\n# env:\n#  - python\n#  - numpy\n#  - six\n"
    assert "".join(cells[2]["source"]) == f"{block}%pip list\nimport numpy as np"
    assert home.cetool("init", "nb.ipynb").returncode == 2
    found = home.cetool("check", "nb.ipynb")
    assert found.returncode == 1 and found.stdout.startswith("nb.ipynb:cell 2:3: warning: python has no version")
    home.write("declared.ipynb", notebook("x", metadata={"cetool": OWN}))
    assert home.cetool("check", "declared.ipynb").returncode == 0
    refused = home.cetool("add", "declared.ipynb", "six")
    assert refused.returncode == 2 and "declares its environment in its metadata" in refused.stderr
    empty = home.write("empty.ipynb", "")
    assert home.cetool("init", "empty.ipynb", "--with", "six").returncode == 2 and empty.read_text() == ""
