"""Find the comment block in which a file of any language declares its environment, in any dialect.

:data:`DIALECTS` lists the dialects. All functions take time proportional to the size of the file, whatever is in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Protocol, cast

from cetool.base.errors import MetadataError
from cetool.base.text import pattern, shorten
from cetool.base.values import Value
from cetool.declare.languages import language_of
from cetool.declare.nodes import Node
from cetool.declare.requirements import Requirements
from cetool.declare.source import Script

CONDA_EXECUTE = "conda execute"
PEP723 = "script"
CONDA_SCRIPT = "conda-script"

#: Markers of line comments; the longer of two comes first: ';; conda execute' continues with ';;'.
LINE_COMMENTS = ("#", "//", "--", ";;", ";", "%", "!", "'")
#: The most characters of a block, and of one of its lines: far above real ones, but enough to bound the time to read.
MAX_BLOCK = 256 * 1024
MAX_LINE = 8 * 1024

#: Characters at the top of a file in which to look for a misspelled opening line.
_TOP = 64 * 1024
_UNCLOSED = pattern(r"# /// script")
_NEAR_MISS = pattern(
    r"^[ \t]*(?:#|//|--|;|%|!|')+[ \t]*"
    # letters may be missing, doubled or swapped: 'conda exectue', '/// scirpt'
    r"(?:(?P<execute>conda[ _-]*ex[ecut]{3,6}[ \t]*:?)|/{2,4}[ \t]*(?:conda[-_ ]?)?s[cript]{4,6})[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)


class Block(Value):
    """One block in a file; lines are counted from 1."""

    #: The name of its dialect.
    dialect: str
    first: int
    last: int
    #: Its lines without the comment characters.
    content: tuple[str, ...]
    #: For each of these, its line in the file.
    numbers: tuple[int, ...]

    @property
    def text(self) -> str:
        """The content as one string."""
        return "\n".join(self.content) + "\n"


class Broken(Value):
    """A mark that opens a malformed block; ``error`` is raised if it is the script's only one."""

    dialect: str
    first: int
    error: MetadataError


class Declaration(Value):
    """What a block declares: the requirements, and the command or entry point that runs the script, if any."""

    requirements: Requirements = Requirements()
    run_with: tuple[str, ...] | None = None
    entrypoint: str | None = None


class Reader(Protocol):
    """The functions in the module of a dialect. Those that read raise MetadataError."""

    def find_blocks(
        self, lines: list[str], script: Script, found: Sequence[Block | Broken]
    ) -> Sequence[Block | Broken]:
        """Return all blocks of the dialect in the script; ``found`` are those of the dialects after it in the table."""

    def read_block(self, block: Block, script: Script, platform: str | None = None) -> Declaration:
        """Return what a block declares on a platform (None: this one)."""

    def read_keys(self, root: Node, script: Script, platform: str | None = None) -> Declaration:
        """Return the same for the dialect's keys in a notebook's metadata."""

    def whole_block(self, block: Block, name: str) -> Block:
        """Return the whole block; only in dialects without a closing line."""


class Dialect(Value):
    """A format of blocks."""

    name: str
    #: The name of a block in messages.
    title: str
    #: The name of the dialect in command-line options.
    option: str
    #: A string that every script with such a block contains.
    mark: str
    #: The module of :mod:`cetool.declare.dialects` that reads it: a :class:`Reader`.
    module: str
    #: The names under which a notebook's metadata has its keys.
    notebook_keys: tuple[str, ...]
    #: Whether a line closes a block. If not, the first of several blocks counts.
    closed: bool = True

    @property
    def reader(self) -> Reader:
        """The module, imported when first needed: a run needs one of them, and each imports a parser."""
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
    """Return what a block declares on a platform (None: this one). Raises MetadataError."""
    return DIALECTS[block.dialect].reader.read_block(block, script, platform)


def find_block(script: Script) -> Block | None:
    """Return the script's block, None if it has none.

    Marks count only in comments, not in docstrings or here-documents; of several ``# conda execute`` blocks the first
    counts, as in conda-execute. Raises MetadataError for two blocks otherwise (with both lines), for a conda-script
    block that is malformed or never ends, and for one that is too large.
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
            f"the file has two blocks: {dialect.title} at line {one.first} and {DIALECTS[other.dialect].title} "
            f"at line {other.first}",
            code="block-ambiguous",
            where=script.at(other.first),
            hint="Keep one of them: a file can have only one block.",
        )
    if isinstance(one, Broken):
        raise one.error
    total = 0
    for number, line in zip(one.numbers, one.content, strict=True):
        total += len(line) + 1
        if len(line) > MAX_LINE or total > MAX_BLOCK:
            raise MetadataError(
                f"the {dialect.title} block is larger than {MAX_LINE} characters in a line or {MAX_BLOCK} in all",
                where=script.at(number),
            )
    return one if dialect.closed else dialect.reader.whole_block(one, script.name)


def _all_blocks(script: Script) -> list[Block | Broken]:
    """Return the blocks that all marks in the script open, in comments or not, in the order of lines."""
    found: list[Block | Broken] = []
    dialects = [each for each in DIALECTS.values() if each.mark in script.text]
    lines = script.text.split("\n") if dialects else []
    for dialect in reversed(dialects):
        found += dialect.reader.find_blocks(lines, script, found)
    return sorted(found, key=lambda block: block.first)


def near_miss(script: Script) -> int | None:
    """Return the line near the top of the script that looks like the start of a block but is not; None if none does."""
    found = _NEAR_MISS.search(script.text[:_TOP])
    return None if found is None else script.text.count("\n", 0, found.start()) + 1


def near_miss_advice(script: Script, line: int) -> tuple[str, str]:
    """Return why that line opens no block, and what to write in it or after it."""
    text = script.text.split("\n", line)[line - 1].lstrip()  # a blank at the end may be the mistake
    if _UNCLOSED.fullmatch(text):
        hint = "Start each of its lines with '# ' (an empty one with '#' alone), and end it with a line '# ///'."
        return f"the block that {text!r} opens is never closed", hint
    meant = "conda-script" if "conda" in text.lower() else "script"
    found = _NEAR_MISS.search(text)
    opening = "conda execute" if found and found["execute"] else f"/// {meant}"
    comment = next((comment for comment in LINE_COMMENTS if text.startswith(comment)), "#")
    return f"{shorten(text)!r} does not open a block", f"If it should, write '{comment} {opening}'."


# --- comments, and text that only looks like one --------------------------------------------------------------------

# a string in three quotes, or in one (which ends with its line at the latest), or a comment: the first to begin
_PYTHON = pattern(
    r"(?P<long>\"\"\"|''')(?:[^\\]|\\.)*?(?:(?P=long)|\Z)"
    r"|\"(?:[^\"\\\n]|\\.)*\"?|'(?:[^'\\\n]|\\.)*'?|(?P<comment>#[^\n]*)",
    re.DOTALL,
)
_HERE = pattern(r"<<(?P<tabs>-?)[~]?\s*(?P<quote>[\"']?)\\?(?P<word>[A-Za-z_][A-Za-z0-9_]*)(?P=quote)")


def comment_lines(script: Script, marks: Sequence[int]) -> set[int]:
    """Return which of these lines, which all look like comments, are comments of the script itself.

    For Python this is exact. In other languages these are the comments at the top, before any code; if there are none,
    all except those in here-documents.
    """
    language = language_of(script)
    if language.is_python:
        return _python_comments(script.text) & set(marks)
    lines = script.text.split("\n")
    outside = set(marks) - set(_here_lines(lines))
    if language.package is None and language.comment == "#":  # may be Python
        return (_python_comments(script.text) & outside) or outside
    head = _head(lines)
    return {line for line in marks if line <= head} or outside


def _python_comments(text: str) -> set[int]:
    """Return the lines that contain only a comment."""
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
    """Yield the lines of here-documents, counted from 1."""
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
    """Return the last of the lines at the top that are blank or comments."""
    within = False
    for number, line in enumerate(lines, start=1):
        stripped = line.strip()
        if within or stripped.startswith("/*"):
            within = "*/" not in stripped
        elif stripped and not stripped.startswith((*LINE_COMMENTS, "<?php")):
            return number - 1
    return len(lines)
