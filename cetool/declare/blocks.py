"""Finds the comment block in which a file of any language says what it needs.

Three dialects, each with its own rule for where a block starts and ends; a file carries one block. Everything here
takes time in proportion to the file's size, whatever is in it.
"""

from __future__ import annotations

import re

from cetool.base.errors import MetadataError
from cetool.base.patterns import pattern
from cetool.base.values import Value
from cetool.declare.source import Script

CONDA_EXECUTE = "conda execute"
PEP723 = "script"
CONDA_SCRIPT = "conda-script"

#: Characters that a block may have, and one line of it: far above any real one, low enough to bound the readers' time.
MAX_BLOCK = 256 * 1024
MAX_LINE = 8 * 1024

#: Characters at the top of a file in which a misspelt opening line is looked for.
_TOP = 64 * 1024

_ANY_MARK = pattern(r"conda execute|/// (?:conda-)?script")
#: What comments of one line can begin with; the longer of two comes first: ';; conda execute' continues with ';;'.
LINE_COMMENTS = ("#", "//", "--", ";;", ";", "%", "!", "'")
_EXECUTE = pattern(rf"(?P<comment>{'|'.join(LINE_COMMENTS)}) conda execute:?")
_PEP723_OPEN = pattern(r"# /// (?P<type>[a-zA-Z0-9-]+)")
_CONDA_SCRIPT_OPEN = pattern(r"(?P<prefix>[^\n]*?)/// conda-script[ \t]*")
_NEAR_MISS = pattern(
    r"^[ \t]*(?:#|//|--|;|%|!|')+[ \t]*(?:conda[ _-]*execute[ \t]*:?|/{2,4}[ \t]*(?:conda[-_ ]?)?script)[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)


class Block(Value):
    """One block: its dialect, the file's lines (from 1) that it takes, and its content with the comment characters off.

    ``numbers`` holds, for each line of ``content``, the line of the file that it came from.
    """

    dialect: str
    first: int
    last: int
    content: tuple[str, ...]
    numbers: tuple[int, ...]

    @property
    def text(self) -> str:
        """The content as one text."""
        return "\n".join(self.content) + "\n"


def find_block(script: Script) -> Block | None:
    """The script's one block, None where it has none.

    Of several marks those count that stand in comments, and not in a docstring or a here-document; of several
    ``# conda execute`` the first, as conda-execute had it. Raises MetadataError for two blocks otherwise (naming both
    lines), for a conda-script block that is broken or never ends, and for one that is too large.
    """
    if not _ANY_MARK.search(script.text):
        return None
    lines = script.text.split("\n")
    found = _all_blocks(lines, script)
    if len(found) > 1:
        from cetool.declare.comments import comment_lines

        comments = comment_lines(script, [each.first for each in found])
        found = [each for each in found if each.first in comments] or found
    if not found:
        return None
    one = found[0]
    more = [each for each in found[1:] if (one.dialect, each.dialect) != (CONDA_EXECUTE, CONDA_EXECUTE)]
    if more:
        other = more[0]
        raise MetadataError(
            f"there are two blocks: {_title(one)} at line {one.first} and {_title(other)} at line {other.first}",
            code="block-ambiguous",
            where=script.at(other.first),
            hint="A file says in one block what it needs: keep one of them.",
        )
    if isinstance(one, _Unclosed):
        raise one.error
    _refuse_large(one, script)
    if one.dialect == CONDA_EXECUTE:
        from cetool.declare.dialects.yaml_block import whole_block

        return whole_block(one, script.name)
    return one


class _Unclosed(Value):
    """A mark that opens a block which is broken; the error where it is the script's one."""

    dialect: str
    first: int
    error: MetadataError


def _all_blocks(lines: list[str], script: Script) -> list[Block | _Unclosed]:
    """What every mark in the script opens, wherever it stands, in the order of lines."""
    found: list[Block | _Unclosed] = []
    others = lines
    if "/// conda-script" in script.text:
        found += _conda_script_blocks(lines, script)
        others = list(lines)
        for block in found:  # '# /// conda-script' would open a block of that type for the standard of PEP 723
            last = block.last if isinstance(block, Block) else block.first
            others[block.first - 1 : last] = [""] * (last - block.first + 1)
    if "conda execute" in script.text:
        found += _conda_execute_blocks(lines)
    if "# /// script" in script.text:
        found += _pep723_blocks(others)
    return sorted(found, key=lambda block: block.first)


def near_miss(script: Script) -> int | None:
    """The line of something that looks as if it was meant to open a block, None where there is none near the top."""
    found = _NEAR_MISS.search(script.text[:_TOP])
    return None if found is None else script.text.count("\n", 0, found.start()) + 1


def near_miss_advice(script: Script, line: int) -> str:
    """How that line would have to be written, or what has to follow it, for it to open a block."""
    text = script.text.split("\n", line)[line - 1].strip()
    if _PEP723_OPEN.fullmatch(text):
        return (
            f"Line {line} opens a block that is never closed: "
            "every line below it starts with '# ' (an empty one is '#' alone), and a line '# ///' ends it."
        )
    meant = "conda-script" if "conda" in text.lower() else "script"
    opening = "conda execute" if "exec" in text.lower() else f"/// {meant}"
    comment = next((comment for comment in LINE_COMMENTS if text.startswith(comment)), "#")
    return f"Line {line} looks as if it was meant to say so, but has to be '{comment} {opening}'."


def _title(block: Block | _Unclosed) -> str:
    return {CONDA_EXECUTE: "'# conda execute'", PEP723: "'# /// script'", CONDA_SCRIPT: "'/// conda-script'"}[
        block.dialect
    ]


def _refuse_large(block: Block, script: Script) -> None:
    total = 0
    for number, line in zip(block.numbers, block.content, strict=True):
        total += len(line) + 1
        if len(line) > MAX_LINE or total > MAX_BLOCK:
            raise MetadataError(
                f"the {_title(block)} block is too large: at most {MAX_LINE} characters in a line, {MAX_BLOCK} in all",
                where=script.at(number),
            )


def _conda_execute_blocks(lines: list[str]) -> list[Block]:
    """Blocks that start at a line ``# conda execute`` and go on while lines start with the same comment characters."""
    blocks: list[Block] = []
    index = 0
    while index < len(lines):
        stripped = lines[index].strip()
        opened = _EXECUTE.fullmatch(stripped) if "conda execute" in stripped else None
        if opened is None:
            index += 1
            continue
        comment = opened["comment"]
        first = index
        content: list[str] = []
        numbers: list[int] = []
        index += 1
        # one that has more lines than a block may have characters is refused, however it goes on
        while index < len(lines) and len(content) <= MAX_BLOCK and lines[index].lstrip().startswith(comment):
            stripped = lines[index].strip()
            if _EXECUTE.fullmatch(stripped):
                break  # another block
            rest = lines[index].lstrip()[len(comment) :].rstrip()
            # the comment characters twice: a comment on the specification, no part of it
            if not rest.lstrip().startswith(comment):
                content.append(rest)
                numbers.append(index + 1)
            index += 1
        blocks.append(Block(CONDA_EXECUTE, first + 1, index, tuple(content), tuple(numbers)))
    return blocks


def _pep723_blocks(lines: list[str]) -> list[Block]:
    """``# /// script`` blocks as the regular expression of the inline script metadata standard finds them.

    The expression is greedy: within an unbroken run of comment lines, the first line ``# /// TYPE`` opens a block and
    the last line ``# ///`` closes it. The expression wants a line between them; uv, pipx and conda-exec do not, and
    neither does this: an empty block asks for python alone. Going over each run once finds the same
    blocks in linear time, where backtracking takes quadratic time on many unclosed ones.
    """
    blocks: list[Block] = []
    index = 0
    while index < len(lines):
        if not _is_content(lines[index]):
            index += 1
            continue
        opened: int | None = None
        closed: int | None = None
        while index < len(lines) and _is_content(lines[index]):
            if opened is None and _PEP723_OPEN.fullmatch(lines[index]):
                opened = index
            if lines[index] == "# ///":
                closed = index
            index += 1
        if opened is not None and closed is not None and closed > opened:
            kind = _PEP723_OPEN.fullmatch(lines[opened])
            if kind is not None and kind["type"] == PEP723:
                content = tuple(line[2:] for line in lines[opened + 1 : closed])
                numbers = tuple(range(opened + 2, closed + 1))
                blocks.append(Block(PEP723, opened + 1, closed + 1, content, numbers))
    return blocks


def _is_content(line: str) -> bool:
    return line == "#" or line.startswith("# ")


def _conda_script_blocks(lines: list[str], script: Script) -> list[Block | _Unclosed]:
    """Blocks from ``<comment> /// conda-script`` to ``<comment> /// end-conda-script``."""
    blocks: list[Block | _Unclosed] = []
    index = 0
    while index < len(lines):
        comment = _conda_script_comment(lines[index])
        if comment is None:
            index += 1
            continue
        first = index
        content: list[str] = []
        index += 1
        while index < len(lines) and (line := lines[index].lstrip()).startswith(comment):
            rest = line[len(comment) :]
            if rest.strip() in ("/// end-conda-script", "/// conda-script"):
                break
            content.append(rest.removeprefix(" ").rstrip())
            index += 1
        closed = index < len(lines) and _is_closing(lines[index], comment)
        if closed:
            numbers = tuple(range(first + 2, index + 1))
            blocks.append(Block(CONDA_SCRIPT, first + 1, index + 1, tuple(content), numbers))
            index += 1
        else:
            error = _unclosed(script, first, index if index < len(lines) else None, comment)
            blocks.append(_Unclosed(CONDA_SCRIPT, first + 1, error))
    return blocks


def _is_closing(line: str, comment: str) -> bool:
    stripped = line.lstrip()
    return stripped.startswith(comment) and stripped[len(comment) :].strip() == "/// end-conda-script"


def _conda_script_comment(line: str) -> str | None:
    """The comment characters of a line that opens a conda-script block, None for any other line."""
    if "/// conda-script" not in line:
        return None
    opened = _CONDA_SCRIPT_OPEN.fullmatch(line)
    if opened is None:
        return None
    comment = opened["prefix"].strip()
    # letters and digits: the mark stands in code or in a sentence
    if not comment or " " in comment or "\t" in comment or any(char.isalnum() for char in comment):
        return None
    return comment


def _unclosed(script: Script, first: int, broken: int | None, comment: str) -> MetadataError:
    """The error for a conda-script block that no closing line ends; ``first`` and ``broken`` are indexes of lines."""
    closing = f"{comment} /// end-conda-script"
    if broken is None:
        message = f"the '/// conda-script' block that opens at line {first + 1} is never closed"
    else:
        message = (
            f"the '/// conda-script' block that opens at line {first + 1} is not closed before line {broken + 1}, "
            f"which does not continue it"
        )
    return MetadataError(
        message,
        where=script.at(first + 1 if broken is None else broken + 1),
        hint=f"Start each of its lines with '{comment}' and close it with a line '{closing}'.",
    )
