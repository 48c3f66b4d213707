"""Promises about new blocks: a converted one declares the same environment, a first one fits the language."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.editing import CONDA_SCRIPT, EXECUTE, FLOW, PEP723, PIXI, Write, name_of, reading

from cetool.base.errors import UsageError
from cetool.declare.source import script_from_text
from cetool.edit.converting import OPTIONS, convert_block
from cetool.edit.document import NotWrittenError
from cetool.edit.starting import find_imports, start_block


@pytest.fixture
def write(tmp_path: Path) -> Write:
    return Write(tmp_path)


# -- conversion -------------------------------------------------------------------------------------------------------

PYTHON_SCRIPTS = {
    "execute": EXECUTE,
    "flow": FLOW,
    "pep723": PEP723.replace("# [tool.ruff]\n# line-length = 100\n", ""),
    "pixi": PIXI,
    "conda-script": CONDA_SCRIPT.replace("//", "#")
    .replace("# #/", "# ///")
    .replace("#/ ", "/// ")
    .replace("node", "python"),
}


@pytest.mark.parametrize("to", OPTIONS)
@pytest.mark.parametrize("text", PYTHON_SCRIPTS.values(), ids=PYTHON_SCRIPTS)
def test_a_converted_script_has_the_same_environment_and_command(text: str, to: str, write: Write) -> None:
    old = write(text)
    new = convert_block(old, OPTIONS[to]).document
    before, after = reading(old), reading(new)
    assert after.dialect == OPTIONS[to]
    assert name_of(new) == name_of(old)
    outside = [
        number
        for number in range(len(old.lines))
        if not before.lines or not before.lines[0] <= number + 1 <= before.lines[1]
    ]
    assert [old.lines[number] for number in outside] == [
        line
        for number, line in enumerate(new.lines)
        if after.lines and not after.lines[0] <= number + 1 <= after.lines[1]
    ]
    back = convert_block(write(new.data), before.dialect).document
    assert name_of(back) == name_of(old)
    commands = [
        " ".join(found.run_with or (found.entrypoint or "").split()[:-1]) for found in map(reading, (old, new, back))
    ]
    assert len(set(commands)) == 1, commands


def test_conversion_tells_what_it_leaves_out(write: Write) -> None:
    made = convert_block(write(PEP723), OPTIONS["conda-execute"])
    assert [note for note in made.notes if "tool.ruff" in note]
    text = made.document.data.decode()
    assert "# # from PyPI\n# # fast\n" in text
    kept = convert_block(write(PEP723), OPTIONS["conda-script"]).document.data.decode()
    assert "# [tool.ruff]\n# line-length = 100\n" in kept
    compiled = CONDA_SCRIPT.replace("node ${SCRIPT}", "cc ${SCRIPT} && ./a.out")
    assert [
        note for note in convert_block(write(compiled, "s.c"), OPTIONS["conda-execute"]).notes if "entrypoint" in note
    ]
    with pytest.raises(UsageError, match="for Python"):
        convert_block(write(CONDA_SCRIPT, "s.js"), OPTIONS["pep723"])
    settings = '# /// script\n# dependencies = ["six"]\n# [tool.uv]\n# exclude-newer = "2025-01-01"\n# ///\n'
    with pytest.raises(NotWrittenError, match="exclude-newer"):
        convert_block(write(settings), OPTIONS["conda-execute"])
    with pytest.raises(NotWrittenError, match="always has python"):
        convert_block(write("# conda execute\n# env: [six]\n"), OPTIONS["pep723"])


def test_tables_in_an_order_that_cannot_be_followed_are_refused(write: Write) -> None:
    tables = "# [[tool.x]]\n# [[tool.y]]\n# [tool.x.z]\n"
    with pytest.raises(NotWrittenError, match="nothing was written"):
        convert_block(write(f"# /// script\n# dependencies = []\n{tables}# ///\n"), OPTIONS["conda-script"])


def test_a_comment_below_stays_out_of_the_block(write: Write) -> None:
    text = "# /// script\n# dependencies = ['six']\n# ///\n# more: words\nprint()\n"
    new = convert_block(write(text), OPTIONS["conda-execute"]).document.data.decode()
    assert new.endswith("\n\n# more: words\nprint()\n")


# -- a first block ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "dialect", "new"),
    [
        ("a.sh", "#!/bin/sh\necho\n", "conda-execute", "#!/bin/sh\n# conda execute\n# env:\n#  - bash\n\necho\n"),
        ("a.js", "let x", "conda-execute", "// conda execute\n// env:\n//  - nodejs\n\nlet x"),
        (
            "a",
            "#!/usr/bin/env Rscript",
            "conda-execute",
            "#!/usr/bin/env Rscript\n# conda execute\n# env:\n#  - r-base",
        ),
        ("a.py", "", "conda-execute", "# conda execute\n# env:\n#  - python\n"),
        (
            "a.py",
            "#!/usr/bin/env python\r\n# coding: latin-1\r\n# Licence\r\nimport yaml\r\n",
            "pep723",
            "#!/usr/bin/env python\r\n# coding: latin-1\r\n# /// script\r\n"
            '# dependencies = ["pyyaml"]\r\n# ///\r\n\r\n# Licence\r\nimport yaml\r\n',
        ),
        (
            "a.f90",
            "end\n",
            "conda-script",
            '! /// conda-script\n! channels = ["conda-forge"]\n! entrypoint = "/bin/sh ${SCRIPT}"\n'.replace(
                '! entrypoint = "/bin/sh ${SCRIPT}"\n', ""
            )
            + '!\n! [dependencies]\n! fortran-compiler = "*"\n! /// end-conda-script\n\nend\n',
        ),
    ],
)
def test_a_block_fits_the_language(name: str, text: str, dialect: str, new: str, write: Write) -> None:
    made = start_block(write(text, name), OPTIONS[dialect]).document
    assert made.data.decode() == new
    assert reading(made).lines


def test_a_block_is_not_started_twice_nor_out_of_nothing(write: Write) -> None:
    with pytest.raises(UsageError, match="already has a block, at line 2"):
        start_block(write(EXECUTE), OPTIONS["pep723"])
    with pytest.raises(UsageError, match="cannot tell which packages"):
        start_block(write("x\n", "a.unknown"), OPTIONS["conda-execute"])
    made = start_block(write("x\n", "a.unknown"), OPTIONS["conda-execute"], ["hello-bin =1"]).document
    assert made.data == b"# conda execute\n# env:\n#  - hello-bin =1\n\nx\n"
    with pytest.raises(UsageError, match="for Python"):
        start_block(write("x\n", "a.sh"), OPTIONS["pep723"])


def test_imports_are_taken_where_they_are_certain(tmp_path: Path) -> None:
    (tmp_path / "beside.py").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner.py").touch()
    code = """
import os, sys, distutils, beside, folder.inner, numpy.linalg as la
from PIL import Image
import yaml, sklearn, cv2, bs4, dateutil, something_own, google.cloud
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import pandas
else:
    import scipy
try:
    import tomllib
except ImportError:
    import tomli as tomllib
def f():
    from . import nothing
    import matplotlib.pyplot
"""
    found = find_imports(script_from_text(code, tmp_path / "s.py", "s.py"))
    assert " ".join(package.conda for package in found.packages) == (
        "numpy pillow pyyaml scikit-learn opencv beautifulsoup4 python-dateutil scipy matplotlib"
    )
    assert [package.pypi for package in found.packages][4] == "opencv-python"
    assert found.unknown == ("something_own", "google")
    assert found.optional == ("tomli",)
    assert find_imports(script_from_text("print 'x'\n", tmp_path / "s.py", "s.py")).problem
