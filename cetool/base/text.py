r"""Texts: patterns that find something in them, names, and how texts from elsewhere may be shown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, AnyStr, cast


class _Late:
    """Stands for a compiled regular expression until one of its methods is asked for, and then takes them over."""

    def __init__(self, source: str | bytes, flags: int) -> None:
        self._source = source
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle look for methods of their own
            raise AttributeError(name)
        compiled = re.compile(self._source, self._flags)
        for method in ("match", "search", "fullmatch", "findall", "sub"):
            setattr(self, method, getattr(compiled, method))
        return getattr(compiled, name)


def pattern(source: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """Compile a regular expression when it is first used: a cold run imports 115 and needs few, which spares it 11 ms.

    It is not a ``re.Pattern`` to ``isinstance`` and to the functions of ``re``: call its methods.
    """
    return cast("re.Pattern[AnyStr]", _Late(source, flags))


_RUNS = pattern(r"[-_.]+")


def normalized(name: str) -> str:
    """The name of a PyPI package as PEP 503 writes it.

    It is ``packaging.utils.canonicalize_name``, whose module takes 7 ms to import.
    """
    return _RUNS.sub("-", name).lower()


#: Characters that a terminal obeys or does not show, for a class of a regular expression: C0 but for tab and newline,
#: DEL, C1, separators of lines, what changes the direction of writing or has no width, tags, halves of surrogate pairs.
UNSAFE = (
    r"\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f"
)
_UNSAFE = pattern(f"[{UNSAFE}]")
_UNSAFE_IN_LINE = pattern(rf"[{UNSAFE}\t\n]")
_REMOVED = pattern(f"(?![\ud800-\udfff])[{UNSAFE}]")
_SEQUENCES = pattern(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"  # OSC and its like: titles, links
    r"|\x1b[ -/]*[0-~]"
)


def neutral(text: str) -> str:
    r"""The text with control characters as visible escapes (``\x1b``); its lines and tabs stay."""
    return text if text.isascii() and text.isprintable() else _UNSAFE.sub(_escape, text)


def neutral_line(text: str) -> str:
    """The same for what has to stay in its line, such as a cell of a table: tabs and newlines are escaped as well."""
    return text if text.isascii() and text.isprintable() else _UNSAFE_IN_LINE.sub(_escape, text)


def without_controls(text: str) -> str:
    """The text without control characters and the sequences that they begin; its lines and tabs stay, and halves of
    surrogate pairs, which are bytes of a file's name.
    """
    return text if text.isascii() and text.isprintable() else _REMOVED.sub("", _SEQUENCES.sub("", text))


def json_escaped(text: str) -> str:
    """A JSON document in which such characters are escaped as JSON has it, so that it stays the same document."""
    import json

    return _UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], text)


def _escape(found: object) -> str:
    return found[0].encode("unicode_escape").decode("ascii")  # type: ignore[index, no-any-return]


def shorten(text: str, limit: int = 120) -> str:
    """The text, cut where it is too long for a message."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def has_control(text: str) -> bool:
    """Whether the text holds a character that moves the cursor, breaks the line or ends a C string."""
    return any(ord(char) < 32 or 127 <= ord(char) < 160 or char in "\u2028\u2029" for char in text)


def printable(text: str) -> str:
    """The text with what a terminal cannot or should not show written as escapes."""
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown)


def nearest(word: str, known: Iterable[str]) -> str:
    """The hint for a word that is not known: the one that was probably meant, or all of them."""
    import difflib

    names = list(known)
    folded = {name.lower().replace("-", "_"): name for name in names}
    meant = word[:100].lower().replace("-", "_")
    close = difflib.get_close_matches(meant, list(folded), n=1, cutoff=0.6)
    close = close or [name for name in folded if len(name) > 2 and meant.startswith(name)]  # enviroment: env
    if close:
        return f"Did you mean {folded[close[0]]!r}?"
    return f"It can be one of: {', '.join(names)}."
