"""Change a script's file, or a notebook's cell, and nothing else in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cetool.base.errors import Location, ScriptNotFoundError, UsageError
from cetool.base.text import printable
from cetool.base.urls import redact
from cetool.declare.source import NOTEBOOK_SUFFIX, is_notebook, is_url
from cetool.edit.converting import OPTIONS, convert_block
from cetool.edit.document import Document, ScriptChangedError, read_document, write_document
from cetool.edit.editing import BlockChange, Edited, Editing, edit_declaration
from cetool.edit.notebook import edit_notebook, start_notebook
from cetool.edit.starting import start_block

#: How often a change is made again to a script that someone else is writing.
_TRIES = 20


@dataclass(frozen=True)
class Written:
    """What became of a script: its name for messages, whether its file changed, and sentences for its user."""

    name: str
    changed: bool
    notes: tuple[str, ...]


def init_script(target: str, dialect: str, specs: Iterable[str] = ()) -> Written:
    """Write a block in a dialect (a key of OPTIONS) into a script that has none."""
    extra = tuple(specs)
    return _change(target, lambda part: start_block(part, OPTIONS[dialect], extra), start_notebook)


def change_script(target: str, change: BlockChange) -> Written:
    """Add to what a script declares, or drop from it."""
    return _change(target, lambda part: edit_declaration(part, change))


def convert_script(target: str, dialect: str) -> Written:
    """Write a script's block in another dialect (a key of OPTIONS)."""
    return _change(target, lambda part: convert_block(part, OPTIONS[dialect]))


def _change(target: str, edit: Editing, in_notebook: Callable[[Document, Editing], Edited] = edit_notebook) -> Written:
    """Write the changed file where it differs.

    Where another process writes the script meanwhile the change is made again, to what that wrote.
    """
    for last in (*[False] * _TRIES, True):
        old = _read(target)
        notebook = old.script is not None and is_notebook(old.script)
        edited = in_notebook(old, edit) if notebook else edit(old)
        changed = edited.document.data != old.data
        try:
            warnings = write_document(old, edited.document) if changed else ()
        except ScriptChangedError:
            if last:
                raise
            continue
        break
    return Written(old.name, changed, (*edited.notes, *warnings))


def _read(target: str) -> Document:
    if is_url(target):
        raise UsageError(
            "only a file can be changed, and this is a URL",
            where=Location(redact(printable(target))),
            hint="Save the script, and give its path.",
        )
    try:
        document = read_document(target)
    except ScriptNotFoundError as error:
        swapped = Path(target).suffix == "" and "/" not in target
        hint = "The script comes first: cetool add SCRIPT SPEC ..." if swapped else error.hint
        raise error.but(hint=hint) from None
    if document.script is None and document.path.suffix.lower() == NOTEBOOK_SUFFIX:
        raise UsageError(f"{document.name} is empty, and no notebook", hint="Make one in Jupyter first.")
    return document
