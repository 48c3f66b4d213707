"""A script's file as bytes that can be changed in one place: the lines around it stay as they are, byte for byte.

The file is replaced atomically: any reader finds the old one or the new one, whole.
"""

from __future__ import annotations

import codecs
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cetool.base.errors import CetoolError, Location, MetadataError, UsageError
from cetool.base.files import ChangedError, replace_file
from cetool.base.text import printable
from cetool.declare.blocks import CONDA_EXECUTE, CONDA_SCRIPT, Block
from cetool.declare.source import MAX_SIZE, Script, decode, is_url, looks_like_python, read_bytes
from cetool.declare.source import source_encoding as encoding_of
from cetool.edit.spots import Edit

_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+\Z")
_ENDING = re.compile(r"(?:\r\n|\n|\r)?\Z")


class NotWrittenError(CetoolError):
    """A script was to be changed and was not: its file is unchanged."""

    code = "write-failed"


class ScriptChangedError(NotWrittenError):
    """A script is not what was read any more, so it was not changed: reading it again may help."""

    code = "script-changed"


@dataclass(frozen=True)
class Document:
    """A script with the bytes that it was read from."""

    path: Path
    #: What messages call it.
    name: str
    #: The file itself, symbolic links followed.
    target: Path
    data: bytes
    codec: str
    #: The byte order mark, empty where there is none.
    mark: bytes
    #: The lines with their ends: joined, ``data`` without the mark.
    lines: tuple[bytes, ...]
    #: None where the file is empty.
    script: Script | None

    def line(self, index: int) -> tuple[str, str]:
        """The text of a line (from 0) and its end: ``\\n``, ``\\r\\n``, ``\\r``, or nothing at the end of the file."""
        text = self.lines[index].decode(self.codec)
        end = _ENDING.search(text)
        assert end is not None
        return text[: end.start()], end[0]

    @property
    def ending(self) -> str:
        """How most lines end; a line feed where none does."""
        found = [end for end in (self.line(index)[1] for index in range(len(self.lines))) if end]
        return max(("\n", "\r\n", "\r"), key=found.count)

    def with_text(self, text: str) -> Document:
        """The same file with another text, its byte order mark kept."""
        return _document(self.path, self.name, self.target, self.mark + text.encode(self.codec))

    def encoded(self, lines: Iterable[str], problem: str, line: int | None = None) -> list[bytes]:
        """Lines, with their ends, in the file's encoding.

        Raises MetadataError with the problem ({codec} becomes the encoding) where that cannot hold them.
        """
        try:
            return [each.encode(self.codec) for each in lines]
        except UnicodeError:
            raise MetadataError(
                problem.replace("{codec}", self.codec), code="block-not-editable", where=Location(self.name, line)
            ) from None

    def spliced(self, first: int, last: int, new: Sequence[bytes]) -> Document:
        """The same with the lines from index ``first`` up to and without ``last`` replaced by others.

        Raises MetadataError where what comes of it is no script any more.
        """
        data = self.mark + b"".join((*self.lines[:first], *new, *self.lines[last:]))
        if len(data) > MAX_SIZE:
            raise MetadataError("the script would become too large", code="script-not-text", where=Location(self.name))
        return _document(self.path, self.name, self.target, data)


def text_document(path: Path, name: str, text: str) -> Document:
    """A text that is part of a file, as a document of its own: it can be changed, and not written."""
    return _document(path, name, path, text.encode())


def read_document(path: str | os.PathLike[str]) -> Document:
    """Read a script that is to be changed; it may be empty.

    Raises the errors of :func:`~cetool.declare.source.read_script`, and MetadataError for an encoding in which
    lines cannot be told apart.
    """
    given = os.fspath(path)
    if given == "-" or is_url(given):
        raise UsageError(
            f"{printable(given)!r} is no file, so it cannot be changed", hint="Save it, and give its path."
        )
    name = printable(given)
    try:
        empty = os.path.isfile(given) and os.stat(given).st_size == 0
    except (OSError, ValueError):
        empty = False
    data = b"" if empty else read_bytes(given, name)
    absolute = Path(given).absolute()
    return _document(absolute, name, Path(os.path.realpath(absolute)), data)


def _document(path: Path, name: str, target: Path, data: bytes) -> Document:
    mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    if data == mark:
        return Document(path, name, target, data, "utf-8", mark, (), None)
    python = looks_like_python(data, path)
    script = Script(path, name, decode(data, name, python=python))
    codec = encoding_of(data, name, python=python)
    lines = tuple(_LINE.findall(data[len(mark) :]))
    document = Document(path, name, target, data, codec, mark, lines, script)
    try:
        texts = [document.line(index) for index in range(len(lines))]
        same = "\n".join([*(text for text, _ in texts), *([""] if texts[-1][1] else [])]) == script.text
        same = same and all(raw == (text + end).encode(codec) for raw, (text, end) in zip(lines, texts, strict=True))
    except UnicodeError:
        same = False
    if not same:
        raise MetadataError(
            f"the lines of a file in {codec} cannot be changed one by one",
            code="block-not-editable",
            where=Location(name),
            hint="Save it as UTF-8.",
        )
    return document


def write_document(old: Document, new: Document) -> tuple[str, ...]:
    """Put the new bytes in the old one's place, and return sentences that the user is to read.

    Mode bits, and as far as this user may set them owner, group and extended attributes, are those of the old file; a
    symbolic link goes on pointing at it. Raises NotWrittenError where the file may not be written, ScriptChangedError
    where it is not what was read any more.
    """
    target, where = old.target, Location(old.name)
    try:
        status = os.stat(target)
        if not status.st_mode & 0o222 or not os.access(target, os.W_OK):
            raise NotWrittenError(
                "the script is read-only", where=where, hint="Give yourself the right to write it: chmod u+w."
            )
        if os.path.realpath(old.path) != str(target):
            raise ChangedError(target)
        replace_file(target, old.data, new.data)
    except ChangedError:
        raise ScriptChangedError(
            "the script was changed by someone else meanwhile, so nothing was written",
            where=where,
            hint="Run the same command again.",
        ) from None
    except OSError as error:
        raise NotWrittenError(
            f"the script cannot be written: {error.strerror or error}",
            where=where,
            hint=f"A new file has to be made in its directory, {printable(str(target.parent))}.",
        ) from None
    if status.st_nlink > 1:
        others = status.st_nlink - 1
        names = (
            "another name (a hard link), which still has"
            if others == 1
            else f"{others} other names (hard links), which still have"
        )
        return (f"the file has {names} the old text",)
    return ()


def require_script(document: Document) -> Script:
    """The script of a document that may not be empty. Raises MetadataError."""
    if document.script is None:
        raise MetadataError("the script is empty", code="script-not-text", where=Location(document.name))
    return document.script


@dataclass(frozen=True)
class _Line:
    """A line of the block: its content, and what is around it."""

    prefix: str
    content: str
    suffix: str
    ending: str
    #: Its bytes as long as it is unchanged.
    raw: bytes | None = None
    #: Whether it is a comment on the specification, and not a part of that.
    hidden: bool = False


@dataclass(frozen=True)
class BlockText:
    """The lines between a block's opening and closing ones."""

    lines: tuple[_Line, ...]
    prefix: str = ""
    ending: str = "\n"

    @classmethod
    def of(cls, content: str) -> BlockText:
        """A text of its own, outside any script."""
        return cls(tuple(_Line("", line, "", "\n") for line in content.split("\n")) if content else ())

    @property
    def content(self) -> str:
        """The text of the lines that count, joined by line feeds."""
        return "\n".join(line.content for line in self.lines if not line.hidden)

    def edited(self, edits: Sequence[Edit]) -> BlockText:
        """The text with these edits made, none of which overlaps another.

        A line that a removal leaves blank goes as a whole; new lines look like the one that they follow.
        """
        text = self
        for edit in sorted(edits, key=lambda edit: (-edit.start, -edit.end)):
            text = text._edited(edit)
        return text

    def _edited(self, edit: Edit) -> BlockText:
        shown = [index for index, line in enumerate(self.lines) if not line.hidden]
        if not shown:
            made = [self._new(part, self.prefix, self.ending) for part in edit.text.strip("\n").split("\n")]
            return replace(self, lines=(*made, *self.lines))
        starts = [0]
        for index in shown[:-1]:
            starts.append(starts[-1] + len(self.lines[index].content) + 1)
        first, last = (bisect_right(starts, offset) - 1 for offset in (edit.start, edit.end))
        one, other = self.lines[shown[first]], self.lines[shown[last]]
        if edit.start == edit.end == starts[first] and edit.text.endswith("\n"):
            made = [self._new(part, one.prefix, one.ending) for part in edit.text[:-1].split("\n")]
            return replace(self, lines=(*self.lines[: shown[first]], *made, *self.lines[shown[first] :]))
        old = one.content + other.content
        new = one.content[: edit.start - starts[first]] + edit.text + other.content[edit.end - starts[last] :]
        made = []
        if new.strip() or not old.strip() or edit.text:
            parts = new.split("\n")
            if parts[0] == one.content:
                made.append(one)
            else:
                made.append(replace(one, prefix=self._before(parts[0], one.prefix), content=parts[0], raw=None))
            made += [self._new(part, one.prefix, one.ending) for part in parts[1:]]
        between = [line for line in self.lines[shown[first] : shown[last] + 1] if line.hidden]
        return replace(self, lines=(*self.lines[: shown[first]], *made, *between, *self.lines[shown[last] + 1 :]))

    def _new(self, content: str, prefix: str, ending: str) -> _Line:
        """A line that was not there before."""
        return _Line(self._before(content, prefix), content, "", ending or self.ending)

    def _before(self, content: str, prefix: str) -> str:
        """The prefix of this content: without blanks at its end where there is none."""
        if not content:
            return prefix.rstrip()
        return f"{prefix} " if self.prefix.endswith(" ") and not prefix.endswith((" ", "\t")) else prefix

    def encoded(self, codec: str, *, ends_file: bool) -> list[bytes]:
        """The lines as bytes; where they end the file, its last line has no end if it had none."""
        done = []
        for index, line in enumerate(self.lines):
            ending = line.ending or self.ending
            if ends_file and index == len(self.lines) - 1:
                ending = ""
            if line.raw is not None and ending == line.ending:
                done.append(line.raw)
            else:
                done.append((line.prefix + line.content + line.suffix + ending).encode(codec))
        return done


def block_text(document: Document, block: Block) -> BlockText:
    """The inside of a block of this document."""
    inner_last = block.last if block.dialect == CONDA_EXECUTE else block.last - 1
    shown = dict(zip(block.numbers, block.content, strict=True))
    lines = []
    for number in range(block.first + 1, inner_last + 1):
        text, ending = document.line(number - 1)
        raw = document.lines[number - 1]
        content = shown.get(number)
        if content is None:
            lines.append(_Line("", text, "", ending, raw, hidden=True))
            continue
        cut = _prefix_length(text, content, block.dialect)
        lines.append(_Line(text[:cut], content, text[cut + len(content) :], ending, raw))
    opening = document.line(block.first - 1)[0]
    indent = opening[: len(opening) - len(opening.lstrip())]
    mark = "/// conda-script" if block.dialect == CONDA_SCRIPT else " "
    comment = opening.strip().partition(mark)[0].strip()
    blank = "" if block.dialect == CONDA_EXECUTE else " "
    return BlockText(tuple(lines), indent + comment + blank, document.ending)


def _prefix_length(text: str, content: str, dialect: str) -> int:
    """The number of characters before a line's content."""
    if dialect not in (CONDA_EXECUTE, CONDA_SCRIPT):
        return min(2, len(text))
    # what follows the content is blank, and was taken off
    return len(text.rstrip()) - len(content) if content else len(text.rstrip())


class BlockEditor:
    """A block's text while it is being changed."""

    def __init__(self, text: BlockText) -> None:
        self.text = text

    @property
    def content(self) -> str:
        """What the block says now."""
        return self.text.content

    def _apply(self, *edits: Edit) -> None:
        self.text = self.text.edited(edits)
