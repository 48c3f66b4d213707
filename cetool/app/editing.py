"""Change a script's file, or a notebook's cell, and nothing else in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cetool.base.errors import Location, MetadataError, ScriptNotFoundError, UsageError
from cetool.base.text import printable
from cetool.base.urls import redact
from cetool.declare.blocks import CONDA_EXECUTE
from cetool.declare.languages import PYTHON
from cetool.declare.source import NOTEBOOK_SUFFIX, is_notebook, is_url
from cetool.edit.converting import OPTIONS, convert_block
from cetool.edit.document import Document, ScriptChangedError, read_document, write_document
from cetool.edit.editing import BlockChange, Edited, Editing, edit_declaration
from cetool.edit.notebook import edit_notebook, start_notebook
from cetool.edit.starting import start_block

#: How often a change is repeated while another process writes the script.
_TRIES = 20


@dataclass(frozen=True)
class Written:
    """What became of a script's file."""

    #: The script's name in messages.
    name: str
    changed: bool
    #: Sentences for the user.
    notes: tuple[str, ...]
    #: Whether it had no block before.
    started: bool = False


def init_script(target: str, dialect: str, specs: Iterable[str] = ()) -> Written:
    """Write a block in a dialect (a key of OPTIONS) into a script that has none."""
    extra = tuple(specs)
    return _change(target, lambda part: start_block(part, OPTIONS[dialect], extra), start_notebook)


def add_to_script(target: str, change: BlockChange) -> Written:
    """Add to what a script declares. A script without a block gets one, with its interpreter and what is added."""
    started = False

    def edit(document: Document) -> Edited:
        nonlocal started
        notebook = document.script is not None and is_notebook(document.script)
        try:
            if document.script is not None:
                started = False
                part = partial(edit_declaration, change=change)
                return edit_notebook(document, part) if notebook else part(document)
        except MetadataError as error:
            # a line means that there is something that was meant for a block
            if error.code != "block-missing" or (error.where is not None and error.where.line is not None):
                raise
        started = True
        start = partial(_start_with, change)
        return start_notebook(document, start) if notebook else start(document)

    written = _change(target, edit, lambda document, whole: whole(document))
    return replace(written, started=started)


def _start_with(change: BlockChange, document: Document) -> Edited:
    """Give a script its first block, with what a change adds and no other packages than the script's interpreter."""
    packages = change.packages or ((PYTHON,) if change.pypi else ())
    first = start_block(document, CONDA_EXECUTE, packages, imports=False)
    if not change.pypi and not change.channels:
        return first
    second = edit_declaration(first.document, replace(change, packages=()))
    return Edited(second.document, (*first.notes, *second.notes))


def drop_from_script(target: str, names: Iterable[str]) -> Written:
    """Drop packages from what a script declares."""
    change = BlockChange(drop=tuple(dict.fromkeys(names)))
    return _change(target, lambda part: edit_declaration(part, change))


def convert_script(target: str, dialect: str) -> Written:
    """Write a script's block in another dialect (a key of OPTIONS)."""
    return _change(target, lambda part: convert_block(part, OPTIONS[dialect]))


def _change(target: str, edit: Editing, in_notebook: Callable[[Document, Editing], Edited] = edit_notebook) -> Written:
    """Write the changed file if it differs.

    If another process writes the script meanwhile, the change is repeated on what that process wrote.
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
            "a script at a URL cannot be changed",
            where=Location(redact(printable(target))),
            hint="Download the script and pass its path.",
        )
    try:
        document = read_document(target)
    except ScriptNotFoundError as error:
        swapped = Path(target).suffix == "" and "/" not in target
        hint = "Pass the script first: `cetool add SCRIPT SPEC...`." if swapped else error.hint
        raise error.but(hint=hint) from None
    if document.script is None and document.path.suffix.lower() == NOTEBOOK_SUFFIX:
        raise UsageError(
            f"{document.name} is empty: it is not a notebook", hint="Create the notebook in Jupyter first."
        )
    return document
