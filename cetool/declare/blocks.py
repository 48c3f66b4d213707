"""Finds the one comment block in which a file of any language says what it needs, whatever its dialect.

:data:`DIALECTS` lists the dialects. Everything here takes time in proportion to the file's size, whatever is in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Protocol, cast

from cetool.base.errors import MetadataError
from cetool.base.text import pattern
from cetool.base.values import Value
from cetool.declare.languages import language_of
from cetool.declare.nodes import Node
from cetool.declare.requirements import Requirements
from cetool.declare.source import Script

CONDA_EXECUTE = "conda execute"
PEP723 = "script"
CONDA_SCRIPT = "conda-script"

#: What comments of one line can begin with; the longer of two comes first: ';; conda execute' continues with ';;'.
LINE_COMMENTS = ("#", "//", "--", ";;", ";", "%", "!", "'")
#: Characters that a block may have, and one line of it: far above any real one, low enough to bound the readers' time.
MAX_BLOCK = 256 * 1024
MAX_LINE = 8 * 1024

#: Characters at the top of a file in which a misspelt opening line is looked for.
_TOP = 64 * 1024
_UNCLOSED = pattern(r"# /// [a-zA-Z0-9-]+")
_NEAR_MISS = pattern(
    r"^[ \t]*(?:#|//|--|;|%|!|')+[ \t]*(?:conda[ _-]*execute[ \t]*:?|/{2,4}[ \t]*(?:conda[-_ ]?)?script)[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)


class Block(Value):
    """One block in a file; lines are counted from 1."""

    #: The name of its dialect.
    dialect: str
    first: int
    last: int
    #: Its lines with the comment characters off.
    content: tuple[str, ...]
    #: For each of them the line of the file that it came from.
    numbers: tuple[int, ...]

    @property
    def text(self) -> str:
        """The content as one text."""
        return "\n".join(self.content) + "\n"


class Broken(Value):
    """A mark that opens a block which is broken; the error where it is the script's one."""

    dialect: str
    first: int
    error: MetadataError


class Declaration(Value):
    """What a block declares: what the script needs, and the command or the entry point that runs it, if it says so."""

    requirements: Requirements = Requirements()
    run_with: tuple[str, ...] | None = None
    entrypoint: str | None = None


class Reader(Protocol):
    """The functions that the module of a dialect has. Those that read raise MetadataError."""

    def find_blocks(
        self, lines: list[str], script: Script, found: Sequence[Block | Broken]
    ) -> Sequence[Block | Broken]:
        """All blocks of the dialect in the script; ``found`` are those of the dialects after it in the table."""

    def read_block(self, block: Block, script: Script, platform: str | None = None) -> Declaration:
        """What a block declares on a platform (None: this one)."""

    def read_keys(self, root: Node, script: Script, platform: str | None = None) -> Declaration:
        """The same of its keys, which a notebook's metadata may have."""

    def whole_block(self, block: Block, name: str) -> Block:
        """Only where no line closes a block: what of it belongs to it."""


class Dialect(Value):
    """A format of blocks."""

    name: str
    #: What messages call a block.
    title: str
    #: What options of the command line call it.
    option: str
    #: A text that every script with such a block has in it.
    mark: str
    #: The module of :mod:`cetool.declare.dialects` that reads it: a :class:`Reader`.
    module: str
    #: The names that its keys have in a notebook's metadata.
    notebook_keys: tuple[str, ...]
    #: Whether a line closes a block. Of several blocks that no line closes, the first counts.
    closed: bool = True

    @property
    def reader(self) -> Reader:
        """The module, imported when it is first needed: a run needs one of them, and each brings a parser."""
        return cast(Reader, import_module(f"cetool.declare.dialects.{self.module}"))


#: All dialects, by name.
DIALECTS = {
    dialect.name: dialect
    for dialect in (
        Dialect(
            *(CONDA_EXECUTE, "'# conda execute'", "conda-execute", "conda execute", "conda_execute"),
            notebook_keys=("cetool", "conda-execute"),
            closed=False,
        ),
        Dialect(PEP723, "'# /// script'", "pep723", "# /// script", "pep723", ("script",)),
        Dialect(
            *(CONDA_SCRIPT, "'/// conda-script'", "conda-script", "/// conda-script", "conda_script"),
            notebook_keys=("conda-script",),
        ),
    )
}


def read_block(block: Block, script: Script, platform: str | None = None) -> Declaration:
    """What a block declares on a platform (None: this one). Raises MetadataError."""
    return DIALECTS[block.dialect].reader.read_block(block, script, platform)


def find_block(script: Script) -> Block | None:
    """The script's one block, None where it has none.

    Of several marks those count that stand in comments, and not in a docstring or a here-document; of several
    ``# conda execute`` the first, as conda-execute had it. Raises MetadataError for two blocks otherwise (naming both
    lines), for a conda-script block that is broken or never ends, and for one that is too large.
    """
    found = _all_blocks(script)
    if len(found) > 1:
        comments = comment_lines(script, [each.first for each in found])
        found = [each for each in found if each.first in comments] or found
    if not found:
        return None
    one = found[0]
    dialect = DIALECTS[one.dialect]
    other = next((each for each in found[1:] if dialect.closed or each.dialect != one.dialect), None)
    if other is not None:
        raise MetadataError(
            f"there are two blocks: {dialect.title} at line {one.first} and {DIALECTS[other.dialect].title} "
            f"at line {other.first}",
            code="block-ambiguous",
            where=script.at(other.first),
            hint="A file says in one block what it needs: keep one of them.",
        )
    if isinstance(one, Broken):
        raise one.error
    total = 0
    for number, line in zip(one.numbers, one.content, strict=True):
        total += len(line) + 1
        if len(line) > MAX_LINE or total > MAX_BLOCK:
            raise MetadataError(
                f"the {dialect.title} block is too large: at most {MAX_LINE} characters in a line, {MAX_BLOCK} in all",
                where=script.at(number),
            )
    return one if dialect.closed else dialect.reader.whole_block(one, script.name)


def _all_blocks(script: Script) -> list[Block | Broken]:
    """What every mark in the script opens, wherever it stands, in the order of lines."""
    found: list[Block | Broken] = []
    dialects = [each for each in DIALECTS.values() if each.mark in script.text]
    lines = script.text.split("\n") if dialects else []
    for dialect in reversed(dialects):
        found += dialect.reader.find_blocks(lines, script, found)
    return sorted(found, key=lambda block: block.first)


def near_miss(script: Script) -> int | None:
    """The line of something that looks as if it was meant to open a block, None where there is none near the top."""
    found = _NEAR_MISS.search(script.text[:_TOP])
    return None if found is None else script.text.count("\n", 0, found.start()) + 1


def near_miss_advice(script: Script, line: int) -> str:
    """How that line would have to be written, or what has to follow it, for it to open a block."""
    text = script.text.split("\n", line)[line - 1].strip()
    if _UNCLOSED.fullmatch(text):
        return (
            f"Line {line} opens a block that is never closed: "
            "every line below it starts with '# ' (an empty one is '#' alone), and a line '# ///' ends it."
        )
    meant = "conda-script" if "conda" in text.lower() else "script"
    opening = "conda execute" if "exec" in text.lower() else f"/// {meant}"
    comment = next((comment for comment in LINE_COMMENTS if text.startswith(comment)), "#")
    return f"Line {line} looks as if it was meant to say so, but has to be '{comment} {opening}'."


# --- comments, and what only looks like one -------------------------------------------------------------------------

# a string in three quotes, or in one (which ends with its line at the latest), or a comment: whichever begins first
_PYTHON = pattern(
    r"(?P<long>\"\"\"|''')(?:[^\\]|\\.)*?(?:(?P=long)|\Z)"
    r"|\"(?:[^\"\\\n]|\\.)*\"?|'(?:[^'\\\n]|\\.)*'?|(?P<comment>#[^\n]*)",
    re.DOTALL,
)
_HERE = pattern(r"<<(?P<tabs>-?)[~]?\s*(?P<quote>[\"']?)\\?(?P<word>[A-Za-z_][A-Za-z0-9_]*)(?P=quote)")


def comment_lines(script: Script, marks: Sequence[int]) -> set[int]:
    """Which of these lines, each of which looks like a comment, are comments of the script itself.

    A Python script's are known for certain. Of one in another language they are those at its top, before any code;
    where none is there, all but those in here-documents.
    """
    language = language_of(script)
    if language.is_python:
        return _python_comments(script.text) & set(marks)
    lines = script.text.split("\n")
    outside = set(marks) - set(_here_lines(lines))
    if language.package is None and language.comment == "#":  # Python or not, which nothing tells
        return (_python_comments(script.text) & outside) or outside
    head = _head(lines)
    return {line for line in marks if line <= head} or outside


def _python_comments(text: str) -> set[int]:
    """The lines that have nothing but a comment."""
    found = set()
    line, at = 1, 0
    for match in _PYTHON.finditer(text):
        if match["comment"] is not None:
            start = match.start()
            line += text.count("\n", at, start)
            at = start
            if not text[text.rfind("\n", 0, start) + 1 : start].strip():
                found.add(line)
    return found


def _here_lines(lines: list[str]) -> Iterator[int]:
    """The lines of here-documents, counted from 1."""
    index = 0
    while index < len(lines):
        opened = None if lines[index].lstrip().startswith("#") else _HERE.search(lines[index])
        index += 1
        if opened is None:
            continue
        end = index
        while end < len(lines) and (lines[end].lstrip("\t ") if opened["tabs"] else lines[end]) != opened["word"]:
            end += 1
        if end < len(lines):
            yield from range(index + 1, end + 1)
            index = end + 1


def _head(lines: list[str]) -> int:
    """The last line of those at the top that are blank or comments."""
    within = False
    for number, line in enumerate(lines, start=1):
        stripped = line.strip()
        if within or stripped.startswith("/*"):
            within = "*/" not in stripped
        elif stripped and not stripped.startswith((*LINE_COMMENTS, "<?php")):
            return number - 1
    return len(lines)
