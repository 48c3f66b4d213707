"""Notebooks for tests, and what a Jupyter client does with kernels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

#: The requirements of every notebook in these tests, so that they share an environment.
NEEDS = "# conda execute\n# env: [python >=3, six]\nimport six"

Cell = str | tuple[str, Sequence[str]]


def notebook(*cells: Cell, metadata: Mapping[str, Any] | None = None, minor: int = 5) -> str:
    """Return a notebook's text. A cell is its source, with optional tags; one that starts with ``#md`` is Markdown."""
    made = []
    for index, cell in enumerate(cells):
        source, tags = (cell, ()) if isinstance(cell, str) else cell
        one: dict[str, Any] = {"metadata": {"tags": list(tags)} if tags else {}, "source": source.splitlines(True)}
        one |= {"id": f"cell-{index}"} if minor >= 5 else {}
        if source.startswith("#md"):
            one["cell_type"] = "markdown"
        else:
            one |= {"cell_type": "code", "execution_count": 99, "outputs": [_OLD]}
        made.append(one)
    about = {"kernelspec": {"name": "of-another-machine", "language": "python", "display_name": "Python"}}
    document = {"cells": made, "metadata": {**about, **(metadata or {})}, "nbformat": 4, "nbformat_minor": minor}
    return json.dumps(document, indent=1)


#: Left by an earlier run.
_OLD = {"output_type": "stream", "name": "stdout", "text": ["left over\n"]}


def sources(path: Path) -> list[str]:
    """Return the sources of a notebook's code cells."""
    return ["".join(cell["source"]) for cell in _code(path)]


def outputs(path: Path) -> list[str]:
    """Return the output of each code cell as text."""
    return ["".join(map(_text, cell["outputs"])) for cell in _code(path)]


def _code(path: Path) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def _text(output: Mapping[str, Any]) -> str:
    if output["output_type"] == "stream":
        return "".join(output["text"])
    if output["output_type"] == "error":
        return f"{output['ename']}: {output['evalue']}"
    return "".join(output["data"]["text/plain"])
