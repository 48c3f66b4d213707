"""``cetool init``, ``add``, ``drop`` and ``convert``: change what a script declares, and nothing else in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from cetool.app.session import Session
from cetool.base.errors import Location, ScriptNotFoundError, UsageError
from cetool.base.text import printable
from cetool.base.urls import redact
from cetool.cli import options
from cetool.cli.options import option
from cetool.declare.source import NOTEBOOK_SUFFIX, is_notebook, is_url
from cetool.edit.converting import DIALECTS, convert_block
from cetool.edit.document import Document, ScriptChangedError, read_document, write_document
from cetool.edit.editing import Change, Edited, edit_declaration, requirements_change
from cetool.edit.starting import start_block

#: How often a change is made again to a script that someone else is writing.
_TRIES = 20


class Dialect(str, Enum):
    """The dialects by the names that the command line has for them."""

    conda_execute = "conda-execute"
    pep723 = "pep723"
    conda_script = "conda-script"


Target = Annotated[str, typer.Argument(metavar="SCRIPT", help="The file to change; a symbolic link is followed.")]


@dataclass(frozen=True)
class InitOptions(options.Output):
    """The options of ``cetool init``."""

    dialect: Annotated[Dialect, option("--dialect", help="How the block is written.")] = Dialect.conda_execute
    extra: Annotated[
        list[str] | None, option("--with", metavar="SPEC", help="A match spec to begin with; repeat for more.")
    ] = None


@options.command
def init(target: Target, *, given: InitOptions) -> None:
    """Write a block into a script that has none, with the packages that a Python script imports."""
    session = options.open_session(given)
    done = f"Wrote a {given.dialect.value} block into {{}}; `cetool show` tells of it"
    specs = tuple(given.extra or ())
    _change(session, target, lambda part: start_block(part, DIALECTS[given.dialect.value], specs), done, start=True)


@dataclass(frozen=True)
class AddOptions(options.Output):
    """The options of ``cetool add``."""

    pypi: Annotated[bool, option("--pypi", help="Take the packages from PyPI.")] = False
    channel: Annotated[
        list[str] | None, option("--channel", metavar="CHANNEL", help="A channel to add after the others.")
    ] = None


@options.command
def add(
    target: Target,
    specs: Annotated[
        list[str] | None, typer.Argument(metavar="SPEC", help="Match specs, or with --pypi requirements.")
    ] = None,
    *,
    given: AddOptions,
) -> None:
    """Add packages or channels to what a script declares; a package that is there gets the new version."""
    session = options.open_session(given)
    change = requirements_change(specs or (), given.channel or (), pypi=given.pypi)
    _change(session, target, lambda part: edit_declaration(part, change), "Changed {}")


@dataclass(frozen=True)
class DropOptions(options.Output):
    """The options of ``cetool drop``."""


@options.command
def drop(
    target: Target,
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Packages, by name alone.")],
    *,
    given: DropOptions,
) -> None:
    """Take packages out of what a script declares, from conda and from PyPI alike."""
    session = options.open_session(given)
    change = Change(drop=tuple(dict.fromkeys(names)))
    _change(session, target, lambda part: edit_declaration(part, change), "Changed {}")


@dataclass(frozen=True)
class ConvertOptions(options.Output):
    """The options of ``cetool convert``."""

    to: Annotated[Dialect, option("--to", help="The dialect that the block is to be in.")] = field(kw_only=True)


@options.command
def convert(target: Target, *, given: ConvertOptions) -> None:
    """Write a script's block in another dialect; its environment stays the same."""
    session = options.open_session(given)
    _change(
        session,
        target,
        lambda part: convert_block(part, DIALECTS[given.to.value]),
        f"Converted {{}} to {given.to.value}",
    )


def _edit(document: Document, edit: Callable[[Document], Edited], *, start: bool = False) -> Edited:
    """The script, or the cell of a notebook that has the block, changed; with ``start`` there is none yet."""
    if document.script is None and document.path.suffix.lower() == NOTEBOOK_SUFFIX:
        raise UsageError(f"{document.name} is empty, and no notebook", hint="Make one in Jupyter first.")
    if document.script is None or not is_notebook(document.script):
        return edit(document)
    from cetool.edit.notebook import edit_notebook, start_notebook

    return start_notebook(document, edit) if start else edit_notebook(document, edit)


def _read(target: str) -> Document:
    if is_url(target):
        raise UsageError(
            "only a file can be changed, and this is a URL",
            where=Location(redact(printable(target))),
            hint="Save the script, and give its path.",
        )
    try:
        return read_document(target)
    except ScriptNotFoundError as error:
        swapped = Path(target).suffix == "" and "/" not in target
        hint = "The script comes first: cetool add SCRIPT SPEC ..." if swapped else error.hint
        raise error.but(hint=hint) from None


def _change(
    session: Session, target: str, edit: Callable[[Document], Edited], done: str, *, start: bool = False
) -> None:
    """Write the changed file where it differs, and say what there is to say; ``done`` has {} for the script's name.

    Where someone else writes the script meanwhile the change is made again, to what they wrote.
    """
    for last in (*[False] * _TRIES, True):
        old = _read(target)
        edited = _edit(old, edit, start=start)
        changed = edited.document.data != old.data
        try:
            warnings = write_document(old, edited.document) if changed else ()
        except ScriptChangedError:
            if last:
                raise
            continue
        break
    for note in (*edited.notes, *warnings):
        session.voice.warn(note)
    if changed:
        session.voice.say(done.replace("{}", old.name))
    else:
        session.voice.result(f"Nothing to change in {old.name}")
