"""Change the block in a notebook's cell: only the bytes of that cell's source change."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace

from cetool.base.errors import UsageError
from cetool.declare.dialects.notebook import METADATA_KEYS, Cell, Notebook, find_cell, read_notebook
from cetool.declare.metadata import read_metadata
from cetool.edit.document import Document, NotWrittenError, require_script, text_document
from cetool.edit.editing import Edited, Editing

_DECODER = json.JSONDecoder()
_BLANK = re.compile(r"[ \t\r\n]*")
#: Lines that are IPython's, not Python's.
_NOT_PYTHON = re.compile(r"^\s*[%!?].*$", re.MULTILINE)


def edit_notebook(document: Document, edit: Editing) -> Edited:
    """Return the notebook after a function for scripts has changed its block.

    Raises MetadataError if it has none, UsageError if it is in the notebook's metadata, and whatever ``edit`` raises.
    """
    notebook = read_notebook(require_script(document))
    found = find_cell(notebook)
    if found is None:
        read_metadata(notebook.script)
        raise UsageError(
            f"{notebook.script.name} declares its environment in its metadata, which cetool cannot change",
            hint="Change it in Jupyter, or move it into a cell.",
        )
    cell = found[0]
    old = _cell_document(notebook, cell, cell.text)
    edited = edit(old)
    return Edited(_with_source(document, cell, _text(edited.document)), edited.notes)


def start_notebook(document: Document, start: Editing) -> Edited:
    """Return the notebook with a block at the top of its first code cell; ``start`` adds one to a script.

    Imports of all cells count. Raises UsageError if there is a block already, or no suitable cell.
    """
    notebook = read_notebook(require_script(document))
    if find_cell(notebook) is not None or any(key in notebook.metadata for key in METADATA_KEYS):
        raise UsageError(
            f"{notebook.script.name} already declares an environment",
            code="block-present",
            hint="Change it with `cetool add`, `cetool drop` or `cetool convert`.",
        )
    cell = next((cell for cell in notebook.cells if not cell.text.lstrip().startswith("%%")), None)
    if cell is None:
        raise UsageError(f"{notebook.script.name} has no code cell for a block", hint="Write a code cell first.")
    code = [_NOT_PYTHON.sub("", each.text) for each in notebook.cells if not each.text.lstrip().startswith("%%")]
    joined = "\n".join(code) + "\n"
    edited = start(_cell_document(notebook, cell, joined))
    text = _text(edited.document)
    if not text.endswith(joined):
        raise NotWrittenError(
            "cetool cannot add a block to this notebook, so nothing was written", where=notebook.script.at()
        )
    new = _with_source(document, cell, text.removesuffix(joined) + cell.text)
    return Edited(new, edited.notes)


def _cell_document(notebook: Notebook, cell: Cell, text: str) -> Document:
    script = notebook.cell_script(cell)
    return text_document(script.path, script.name, text)


def _text(document: Document) -> str:
    return document.data.decode(document.codec)


def _with_source(document: Document, cell: Cell, source: str) -> Document:
    """Return the notebook with another source in a cell, in the form of the old one: a list of lines, or one string."""
    text = document.data[len(document.mark) :].decode(document.codec)
    where = require_script(document).at()
    try:
        start, end = _span(text, ("cells", cell.index, "source"))
    except (ValueError, IndexError):
        raise NotWrittenError(
            "cetool cannot change a notebook that is written in this way, so nothing was written",
            where=where,
            hint="Open and save it in Jupyter, or change the cell there.",
        ) from None
    old = text[start:end]
    ascii_only = text.isascii() and "\\u" in text
    if old.startswith("["):
        lead = _BLANK.match(old, 1)
        close = re.search(r"[ \t\r\n]*\Z", old[:-1])
        assert lead is not None and close is not None
        lines = [json.dumps(line, ensure_ascii=ascii_only) for line in re.findall(r"[^\n]*\n|[^\n]+\Z", source)]
        written = f"[{lead[0]}{(',' + (lead[0] or ' ')).join(lines)}{close[0]}]"
    else:
        written = json.dumps(source, ensure_ascii=ascii_only)
    new = document.with_text(text[:start] + written + text[end:])
    after = read_notebook(require_script(new))
    before = read_notebook(require_script(document)).cells
    changed = [replace(each, text=source) if each.index == cell.index else each for each in before]
    if list(after.cells) != changed:
        raise NotWrittenError("cetool cannot make this change safely, so nothing was written", where=where)
    return new


def _span(text: str, path: tuple[str | int, ...]) -> tuple[int, int]:
    """Return where a value starts and ends in a JSON text. Raises ValueError or IndexError if it is missing."""
    at = _skip(text, 0)
    for step in path:
        at = [start for key, start in _children(text, at) if key == step][-1]  # the last one of equal keys counts
    return at, _DECODER.raw_decode(text, at)[1]


def _children(text: str, at: int) -> Iterator[tuple[str | int, int]]:
    """Yield the members or elements of the value at ``at``: their keys or indexes, and where their values start."""
    is_object = text[at] == "{"
    if not is_object and text[at] != "[":
        return
    at = _skip(text, at + 1)
    index = 0
    while text[at] not in "}]":
        key: str | int = index
        if is_object:
            key, at = _DECODER.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)
        yield key, at
        at = _skip(text, _DECODER.raw_decode(text, at)[1])
        at = _skip(text, at + 1) if text[at] == "," else at
        index += 1


def _skip(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    assert found is not None
    return found.end()
