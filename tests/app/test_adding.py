"""``cetool add`` on files without a block: it writes one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.home import Home
from support.notebooks import notebook
from support.scripts import told


@pytest.mark.parametrize(
    ("name", "text", "words", "expected"),
    [
        ("plain.py", "import yaml\n", ("numpy", "six >=1"), "{}#  - python\n#  - numpy\n#  - six >=1\n\nimport yaml\n"),
        ("plain.py", "", ("python >=3",), "{}#  - python >=3\n"),
        ("plain.py", "x = 1\n", ("--pypi", "rich"), "{}#  - python\n#  - pip:\n#      - rich\n\nx = 1\n"),
        ("empty.py", "", ("--pypi", "rich"), "{}#  - python\n#  - pip:\n#      - rich\n"),
        (
            "header.py",
            '#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n"""Doc."""\n',
            ("six",),
            '#!/usr/bin/env python\n# -*- coding: utf-8 -*-\n{}#  - python\n#  - six\n\n"""Doc."""\n',
        ),
        ("tool.sh", "jq\n", ("jq",), "{}#  - bash\n#  - jq\n\njq\n"),
        ("plot.R", "x <- 1\n", ("r-ggplot2",), "{}#  - r-base\n#  - r-ggplot2\n\nx <- 1\n"),
        ("unknown", "x\n", ("--pypi", "rich"), "{}#  - python\n#  - pip:\n#      - rich\n\nx\n"),
        (
            "tool.sh",
            "jq\n",
            ("jq", "--channel", "bioconda"),
            "{}#  - bash\n#  - jq\n# channels: [conda-forge, bioconda]\n\njq\n",
        ),
    ],
)
def test_add_writes_a_block_with_the_interpreter_and_what_is_named(
    name: str, text: str, words: tuple[str, ...], expected: str, settled: Home
) -> None:
    script = settled.write(name, text)
    done = settled.cetool("add", name, *words)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert script.read_text() == expected.format("# conda execute\n# env:\n")


def test_a_script_that_was_given_a_block_runs(settled: Home) -> None:
    settled.write("plain.py", "import six\nprint(six.__name__)\n")
    assert settled.cetool("add", "plain.py", "six").returncode == 0
    assert settled.cetool("run", "plain.py").stdout == "six\n"


def test_add_writes_a_block_into_a_notebook(settled: Home) -> None:
    path = settled.write("plain.ipynb", notebook("import yaml", "print(1)"))
    assert settled.cetool("add", path, "six").returncode == 0
    cells = json.loads(path.read_text())["cells"]
    assert "".join(cells[0]["source"]) == "# conda execute\n# env:\n#  - python\n#  - six\n\nimport yaml"
    assert settled.cetool("add", path, "numpy").returncode == 0
    assert "#  - numpy\n" in "".join(json.loads(path.read_text())["cells"][0]["source"])


def test_nothing_is_written_where_a_block_is_misspelt_or_a_spec_is_wrong(settled: Home) -> None:
    def refused(text: str, *words: str, status: int = 125) -> str:
        path: Path = settled.write("plain.py", text)
        done = settled.cetool("add", path, *words)
        assert done.returncode == status and path.read_text() == text
        return "\n".join(told(done.stderr))

    assert "write '# conda execute'" in refused("# conda-execute\n# env: [python]\n", "numpy")
    assert "is not a match spec" in refused("print(1)\n", "numpy >>1")
    assert "password" in refused("print(1)\n", "https://u:p@host/c::numpy", status=2)
    path = settled.write("unknown", "x\n")
    done = settled.cetool("add", path, "--channel", "bioconda")
    assert done.returncode == 2 and path.read_text() == "x\n"
    done = settled.cetool("drop", settled.write("plain.py", "print(1)\n"), "numpy")
    assert done.returncode == 125 and "plain.py declares no environment" in done.stderr
