"""Limits of everything that cetool reads, and the reading of files and JSON within them.

A file that another program or another user wrote can be of any size, depth and alphabet, and its name can lead to a
pipe, a device or a socket, which would hold a reader forever. Every reader takes its bytes from :func:`read_regular`
(or from the functions of :mod:`cetool.base.ownership` and :mod:`cetool.base.below`, which check more), its JSON from
:func:`parse_json`, and looks at YAML with :func:`check_yaml` before a parser that has no limits of its own gets it.
``docs/explanation/limits.md`` lists the limits.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from typing import Any

from cetool.base.text import pattern

KIB, MIB = 1 << 10, 1 << 20

# --- bytes that a file may have -----------------------------------------------------------------------------------

#: A script, and what a URL answers.
SCRIPT = 10 * MIB
#: A notebook, which holds the pictures that it drew.
NOTEBOOK = 32 * MIB
#: A lock or a baseline of any format.
LOCK = 10 * MIB
#: An environment.yml, a file of match specs, an overlay's recipe.
ENVIRONMENT_FILE = 1 * MIB
#: config.yaml, a file of conda's configuration, a ``.netrc``, a list of environments.
SETTINGS = 1 * MIB
#: A run record: the script is in it.
RECORD = 48 * MIB
#: What cetool notes for itself: a marker, an answer to a question, a failure, a named overlay.
NOTE = 4 * MIB
#: A kernel spec.
KERNEL = 1 * MIB
#: A package record, or a list of a package's files.
PACKAGE = 64 * MIB

# --- what may be in it --------------------------------------------------------------------------------------------

#: Levels of lists and mappings.
DEPTH = 64
#: Lists, mappings and commas of a JSON document, or lines and items of a lock: bounds what its values take in memory.
VALUES = 2_000_000
#: Items, keys and texts of a YAML document, each alias counted as all that it stands for.
NODES = 500_000

#: Bytes of memory that the embedded engine may take on top of what cetool has, to load package lists and to solve.
MEMORY = 2 << 30

_STRING = pattern(rb'"(?:[^"\\]|\\.)*"?')
_LONG_NUMBER = pattern(r"[-+]?(?:0[xob][0-9a-fA-F_]{100,}|[0-9_]{100,})")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class LimitError(ValueError):
    """A text is larger, deeper or stranger than any that is read; ``line`` (from 1) is where, None for the whole."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


def in_words(size: int) -> str:
    """A limit in bytes for a message: ``10 MiB``."""
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def read_regular(path: str | os.PathLike[str], limit: int, *, follow: bool = True) -> bytes:
    """The bytes of a regular file; nothing here waits for a pipe or has a device do something.

    Raises OSError as ``open`` does, with EINVAL for what is not a regular file (for a link too, unless ``follow``) and
    with EFBIG for one of more than ``limit`` bytes.
    """
    _require_regular(os.stat(path, follow_symlinks=follow), path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    flags |= 0 if follow else getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(path, flags), "rb") as file:
        # looked at again: another process may have put something else there between the two calls
        _require_regular(os.fstat(file.fileno()), path)
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {in_words(limit)}", os.fspath(path))
    return data


def read_text(path: str | os.PathLike[str], limit: int) -> str:
    """The text of a regular file in UTF-8. Raises OSError as :func:`read_regular` does, and UnicodeDecodeError."""
    return read_regular(path, limit).decode("utf-8")


def read_json(path: str | os.PathLike[str], limit: int, *, exact: bool = False) -> Any:
    """The JSON document in a regular file. Raises OSError as :func:`read_regular` does, and what :func:`parse_json`
    raises."""
    return parse_json(read_regular(path, limit), exact=exact)


def parse_json(text: str | bytes, *, exact: bool = False) -> Any:
    """The document in a JSON text in UTF-8, read within the limits.

    Raises ValueError: JSONDecodeError for what is not JSON, LimitError for a document that is nested too deep or has
    too many values, and for a text with half of a surrogate pair, which cannot be written anywhere (a byte of a path
    that is not UTF-8, as Python escapes it, can). With ``exact`` numbers have to fit into 64 bits.
    """
    import json

    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    # not by the codec utf-8-sig, which is a module of its own
    text = text if isinstance(text, str) else text.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    if len(data) > VALUES and data.count(b",") + data.count(b"[") + data.count(b"{") > VALUES:
        raise LimitError(f"it has more than {VALUES} values")
    check_brackets(data)
    try:
        document = _exact_decoder().decode(text) if exact else json.loads(text)
    except RecursionError:
        raise LimitError(f"it is nested deeper than {DEPTH} levels") from None
    if b"\\u" in data:
        try:
            json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise LimitError("a text in it has half of a surrogate pair") from None
    return document


@functools.cache
def _exact_decoder() -> Any:
    import json

    return json.JSONDecoder(parse_int=_integer, parse_float=_finite, parse_constant=_refused)


def check_brackets(data: bytes, *, strings: bool = True) -> None:
    """Raise LimitError where brackets in a text are nested too deep; in time proportional to its length.

    With ``strings`` what is in double quotes does not count, as in JSON.
    """
    rest = _without_pairs(data)
    if rest and strings:
        rest = _without_pairs(_STRING.sub(b"", data))
    depth = DEPTH if b"[]" in rest or b"{}" in rest else 0  # a pair is left that has more levels within it
    for byte in rest:
        depth = depth + 1 if byte in b"[{" else max(0, depth - 1)
        if depth > DEPTH:
            raise LimitError(f"it is nested deeper than {DEPTH} levels")


def _without_pairs(data: bytes) -> bytes:
    """The brackets of a text, up to DEPTH levels of pairs removed: nothing is left of nearly every text."""
    rest = data.translate(None, _NOT_BRACKETS)
    for _ in range(DEPTH):
        shorter = rest.replace(b"[]", b"").replace(b"{}", b"")
        if len(shorter) == len(rest):
            break
        rest = shorter
    return rest


def check_yaml(text: str, *, nodes: int = NODES) -> None:
    """Raise LimitError for YAML that is nested too deep, has too many nodes, a collection as a key, a number of
    more than 100 digits, or an alias of what it is in.

    What is not YAML is left to the parser that complains about it. An alias counts as all that it stands for.
    """
    from ruamel.yaml import YAML

    # of each collection that is open: nodes so far, name of the anchor, whether a key comes next (None in a list);
    # the first is the stream
    counts: list[list[Any]] = [[0, None, None]]
    sizes: dict[str, int] = {}
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            _count(event, counts, sizes)
            if len(counts) > DEPTH:
                raise LimitError(f"it is nested deeper than {DEPTH} levels", event.start_mark.line + 1)
            if sum(each[0] for each in counts) > nodes:
                raise LimitError(f"it has more than {nodes} values", event.start_mark.line + 1)
    except LimitError:
        raise
    except RecursionError:
        raise LimitError(f"it is nested deeper than {DEPTH} levels") from None
    except Exception:  # besides its own exceptions, the parser meets malformed input with others
        return


def _count(event: Any, counts: list[list[Any]], sizes: dict[str, int]) -> None:
    """Take one event of a YAML parser into account."""
    kind = type(event).__name__
    line = event.start_mark.line + 1
    is_key = counts[-1][2]
    if kind in ("AliasEvent", "ScalarEvent", "SequenceStartEvent", "MappingStartEvent") and is_key is not None:
        counts[-1][2] = not is_key
    if kind == "AliasEvent":
        if any(each[1] == event.anchor for each in counts):
            raise LimitError(f"the alias *{event.anchor[:40]} is within what it stands for", line)
        counts[-1][0] += sizes.get(event.anchor, 0) + 1
    elif kind == "ScalarEvent":
        if event.implicit[0] and _LONG_NUMBER.fullmatch(event.value):
            raise LimitError(f"a number of {len(event.value)} digits is too long", line)
        counts[-1][0] += 1
        if event.anchor is not None:
            sizes[event.anchor] = 1
    elif kind in ("SequenceStartEvent", "MappingStartEvent"):
        if is_key:
            raise LimitError("a key is a list or a mapping", line)
        counts.append([1, event.anchor, True if kind == "MappingStartEvent" else None])
    elif kind in ("SequenceEndEvent", "MappingEndEvent"):
        count, anchor, _ = counts.pop()
        counts[-1][0] += count
        if anchor is not None:
            sizes[anchor] = count


def check_lines(text: str) -> None:
    """Raise LimitError for a text of a lock whose YAML would take a parser without limits long, or much memory."""
    data = text.encode("utf-8", "surrogatepass")
    check_brackets(data, strings=False)
    if sum(data.count(mark) for mark in (b"\n", b",", b"[", b"{", b"- ", b"? ", b"-\t", b"?\t")) > LOCK // 16:
        raise LimitError(f"it has more than {LOCK // 16} lines and items")


def _require_regular(info: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise LimitError(f"the number {digits[:20]}... does not fit into 64 bits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if number in (float("inf"), float("-inf")):
        raise LimitError(f"the number {digits[:20]} is too large")
    return number


def _refused(word: str) -> float:
    raise LimitError(f"{word} is not a number")
