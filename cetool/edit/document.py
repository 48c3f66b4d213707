"""Change a script's file in one place; the lines around it stay unchanged, byte for byte.

The file is replaced in one step: any reader finds the old one or the new one, complete.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cetool.base.errors import CetoolError, Location, MetadataError, UsageError
from cetool.base.files import ChangedError, replace_file
from cetool.base.text import printable
from cetool.declare.source import MAX_SIZE, Script, decode, is_url, looks_like_python, read_bytes
from cetool.declare.source import source_encoding as encoding_of

_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\n|\r)|[^\r\n]+\Z")
_ENDING = re.compile(r"(?:\r\n|\n|\r)?\Z")


class NotWrittenError(CetoolError):
    """A script could not be changed; its file is unchanged."""

    code = "write-failed"


class ScriptChangedError(NotWrittenError):
    """A script is no longer the one that was read, so it was not changed; a second attempt may succeed."""

    code = "script-changed"


@dataclass(frozen=True)
class Document:
    """A script with the bytes that it was read from."""

    path: Path
    #: Its name in messages.
    name: str
    #: The file, with symbolic links resolved.
    target: Path
    data: bytes
    codec: str
    #: The byte order mark, empty if there is none.
    mark: bytes
    #: The lines with their ends; joined, they are ``data`` without the mark.
    lines: tuple[bytes, ...]
    #: None if the file is empty.
    script: Script | None

    def line(self, index: int) -> tuple[str, str]:
        """Return a line (from 0) and its end: LF, CR LF, CR, or nothing at the end of the file."""
        text = self.lines[index].decode(self.codec)
        end = _ENDING.search(text)
        assert end is not None
        return text[: end.start()], end[0]

    @property
    def ending(self) -> str:
        """The end of most lines; a line feed if no line has one."""
        found = [end for end in (self.line(index)[1] for index in range(len(self.lines))) if end]
        return max(("\n", "\r\n", "\r"), key=found.count)

    def with_text(self, text: str) -> Document:
        """Return the same file with another text and the same byte order mark."""
        return _document(self.path, self.name, self.target, self.mark + text.encode(self.codec))

    def encoded(self, lines: Iterable[str], problem: str, line: int | None = None) -> list[bytes]:
        """Encode lines with their ends in the file's encoding.

        Raises MetadataError with the problem ({codec} becomes the encoding) if it does not support a character.
        """
        try:
            return [each.encode(self.codec) for each in lines]
        except UnicodeError:
            raise MetadataError(
                problem.replace("{codec}", self.codec), code="block-not-editable", where=Location(self.name, line)
            ) from None

    def spliced(self, first: int, last: int, new: Sequence[bytes]) -> Document:
        """Return the same with the lines from index ``first`` to before ``last`` replaced by others.

        Raises MetadataError if the result is not a script.
        """
        data = self.mark + b"".join((*self.lines[:first], *new, *self.lines[last:]))
        if len(data) > MAX_SIZE:
            raise MetadataError("the script would become too large", code="script-not-text", where=Location(self.name))
        return _document(self.path, self.name, self.target, data)


def text_document(path: Path, name: str, text: str) -> Document:
    """Return a text that is part of a file as a separate document: it can be changed, but not written."""
    return _document(path, name, path, text.encode())


def read_document(path: str | os.PathLike[str]) -> Document:
    """Read a script to change; it may be empty.

    Raises the errors of :func:`~cetool.declare.source.read_script`, and MetadataError for an encoding in which lines
    cannot be separated.
    """
    given = os.fspath(path)
    if given == "-" or is_url(given):
        raise UsageError(f"cannot change {printable(given)!r}: it is not a file", hint="Save it, and give its path.")
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
            f"cannot change single lines of a file in {codec}",
            code="block-not-editable",
            where=Location(name),
            hint="Save it as UTF-8.",
        )
    return document


def write_document(old: Document, new: Document) -> tuple[str, ...]:
    """Replace the old file by the new one, and return sentences for the user.

    Mode bits and, as far as this user may set them, owner, group and extended attributes are those of the old file; a
    symbolic link still points at it. Raises NotWrittenError if the file is not writable, ScriptChangedError if it is no
    longer the one that was read.
    """
    target, where = old.target, Location(old.name)
    try:
        status = os.stat(target)
        if not status.st_mode & 0o222 or not os.access(target, os.W_OK):
            raise NotWrittenError("the script is read-only", where=where, hint="Make it writable: `chmod u+w`.")
        if os.path.realpath(old.path) != str(target):
            raise ChangedError(target)
        replace_file(target, old.data, new.data)
    except ChangedError:
        raise ScriptChangedError(
            "another process changed the script in the meantime, so nothing was written",
            where=where,
            hint="Run the same command again.",
        ) from None
    except OSError as error:
        raise NotWrittenError(
            f"cannot write the script: {error.strerror or error}",
            where=where,
            hint=f"cetool must be able to create a file in its directory, {printable(str(target.parent))}.",
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
    """Return the script of a document, which must not be empty. Raises MetadataError."""
    if document.script is None:
        raise MetadataError("the script is empty", code="script-not-text", where=Location(document.name))
    return document.script
