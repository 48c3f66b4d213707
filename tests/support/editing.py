"""Scripts in every dialect, and a directory to write and edit them in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cetool.declare.environment import EnvironmentSpec
from cetool.declare.metadata import ScriptMetadata, read_metadata
from cetool.edit.document import Document, read_document, require_script
from cetool.edit.editing import BlockChange, edit_declaration

EXECUTE = """#!/usr/bin/env python
# conda execute
# env:
#  - python >=3   # why
## a comment on the specification
#  - numpy\x20\x20
#  - pip:
#     - requests
# run_with: python -u

print('the rest')
"""
FLOW = "# conda execute\n# env: [python >=3, numpy, {pip: [requests]}]\n# run_with: python -u\nprint(1)\n"
PEP723 = """#!/usr/bin/env -S uv run
# /// script
# requires-python = ">=3"
# dependencies = ["requests"]  # from PyPI
#
# [tool.conda]
# dependencies = [
#   "numpy",  # fast
#   'scipy'
# ]
# [tool.ruff]
# line-length = 100
# ///
print(1)
"""
PIXI = """# /// script
# [tool.pixi.workspace]
# channels = ["conda-forge"]
# [tool.pixi.dependencies]
# numpy = "*"
# [tool.pixi.pypi-dependencies]
# requests = "*"
# ///
"""
CONDA_SCRIPT = """// /// conda-script
// channels = ["conda-forge"]
// entrypoint = "node ${SCRIPT}"
//
// [dependencies]
// python = ">=3"
// numpy = { version = "*" }  # fast
// [tool.pixi.pypi-dependencies]
// requests = "*"
// [tool.cetool]
// variables = { A = "b" }
// /// end-conda-script
let x;
"""
ALL = {"execute": EXECUTE, "flow": FLOW, "pep723": PEP723, "pixi": PIXI, "conda-script": CONDA_SCRIPT}


class Write:
    """Writes and edits scripts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __call__(self, text: str | bytes, name: str = "s.py") -> Document:
        """Write the script and read it."""
        path = self.directory / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_document(path)

    def edited(self, text: str | bytes, /, **change: Sequence[str]) -> str:
        """Return the text of a script after a change."""
        made = edit_declaration(self(text), BlockChange(**{key: tuple(value) for key, value in change.items()}))
        return made.document.data.decode()


def reading(document: Document) -> ScriptMetadata:
    """Return what the document's block says."""
    return read_metadata(require_script(document))


def name_of(document: Document) -> str:
    """Return the name of its environment."""
    return EnvironmentSpec.of(reading(document).requirements).name
