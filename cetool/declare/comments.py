"""Tells a script's comments from its strings and here-documents, as far as that decides which mark opens its block."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from cetool.declare.blocks import LINE_COMMENTS
from cetool.declare.languages import language_of
from cetool.declare.source import Script

# a string in three quotes, or in one (which ends with its line at the latest), or a comment: whichever begins first
_PYTHON = re.compile(
    r"(?P<long>\"\"\"|''')(?:[^\\]|\\.)*?(?:(?P=long)|\Z)"
    r"|\"(?:[^\"\\\n]|\\.)*\"?|'(?:[^'\\\n]|\\.)*'?|(?P<comment>#[^\n]*)",
    re.DOTALL,
)
_HERE = re.compile(r"<<(?P<tabs>-?)[~]?\s*(?P<quote>[\"']?)\\?(?P<word>[A-Za-z_][A-Za-z0-9_]*)(?P=quote)")


def comment_lines(script: Script, marks: Sequence[int]) -> set[int]:
    """Which of these lines, each of which looks like a comment, are comments of the script itself.

    A Python script's are known for certain. Of one in another language they are those at its top, before any code;
    where none is there, all but those in here-documents.
    """
    language = language_of(script)
    here = set(_here_lines(script.text.split("\n")))
    if language.is_python:
        return _python_comments(script.text) & set(marks)
    outside = {line for line in marks if line not in here}
    if language.package is None and language.comment == "#":  # Python or not, which nothing tells
        return (_python_comments(script.text) & outside) or outside
    head = _head(script.text.split("\n"))
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
