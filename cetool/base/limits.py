"""Define the limits of everything that cetool reads, and read files and JSON within them.

A file that another program or user wrote can have any size, depth and characters, and its name can lead to a pipe, a
device or a socket, which would block a reader forever. Every reader takes its bytes from :func:`read_regular` (or from
:mod:`cetool.base.ownership` and :mod:`cetool.base.below`, which check more) and its JSON from :func:`parse_json`, and
calls :func:`check_yaml` before it hands YAML to a parser without limits. docs/explanation/limits.md lists them.
"""

from __future__ import annotations

import errno
import functools
import os
import stat
from typing import Any

from cetool.base.text import pattern

KIB, MIB = 1 << 10, 1 << 20

# --- the size of a file, in bytes ---------------------------------------------------------------------------------

#: A script, and the content of a URL.
SCRIPT = 10 * MIB
#: A notebook, which includes its plots.
NOTEBOOK = 32 * MIB
#: A lock file or a baseline of any format.
LOCK = 10 * MIB
#: An environment.yml, a file of match specs, an overlay's recipe.
ENVIRONMENT_FILE = 1 * MIB
#: config.yaml, a file of conda's configuration, a ``.netrc``, a list of environments.
SETTINGS = 1 * MIB
#: A run record, which includes the script.
RECORD = 48 * MIB
#: A file that cetool writes: a marker, an answer to a question, a failure, a named overlay.
NOTE = 4 * MIB
#: A kernel spec.
KERNEL = 1 * MIB
#: A package record, or a list of a package's files.
PACKAGE = 64 * MIB

# --- the content of a file ----------------------------------------------------------------------------------------

#: Nested levels of lists and mappings.
DEPTH = 64
#: Lists, mappings and commas of a JSON document, or lines and items of a lock file: bounds the memory that they take.
VALUES = 2_000_000
#: Items, keys and scalars of a YAML document; an alias counts as everything that it refers to.
NODES = 500_000

#: Bytes of memory that the embedded engine may take in addition to cetool's own, to load package lists and to solve.
MEMORY = 2 << 30

_STRING = pattern(rb'"(?:[^"\\]|\\.)*"?')
_LONG_NUMBER = pattern(r"[-+]?(?:0[xob][0-9a-fA-F_]{100,}|[0-9_]{100,})")
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class LimitError(ValueError):
    """A text exceeds a limit; ``line`` (from 1) is where, None for the whole text."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


def in_words(size: int) -> str:
    """Format a limit in bytes for a message: ``10 MiB``."""
    return f"{size // MIB} MiB" if size >= MIB else f"{size // KIB} KiB"


def read_regular(path: str | os.PathLike[str], limit: int, *, follow: bool = True) -> bytes:
    """Read a regular file without waiting for a pipe or triggering a device.

    Raises OSError as ``open`` does, with EINVAL if it is not a regular file (or is a link, unless ``follow``), and with
    EFBIG if it has more than ``limit`` bytes.
    """
    _require_regular(os.stat(path, follow_symlinks=follow), path)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    flags |= 0 if follow else getattr(os, "O_NOFOLLOW", 0)
    with open(os.open(path, flags), "rb") as file:
        # checked again: another process may have replaced the file between the two calls
        _require_regular(os.fstat(file.fileno()), path)
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {in_words(limit)}", os.fspath(path))
    return data


def read_text(path: str | os.PathLike[str], limit: int) -> str:
    """Read a regular file in UTF-8. Raises OSError as :func:`read_regular` does, and UnicodeDecodeError."""
    return read_regular(path, limit).decode("utf-8")


def read_json(path: str | os.PathLike[str], limit: int, *, exact: bool = False) -> Any:
    """Read a JSON document in a regular file. Raises what :func:`read_regular` and :func:`parse_json` raise."""
    return parse_json(read_regular(path, limit), exact=exact)


def parse_json(text: str | bytes, *, exact: bool = False) -> Any:
    """Parse a JSON text in UTF-8 within the limits.

    Raises ValueError: JSONDecodeError for what is not JSON, LimitError for a document that is nested too deeply or has
    too many values, and for an unpaired surrogate, which cannot be encoded (except one that Python uses for a byte of a
    path that is not UTF-8). With ``exact``, numbers must fit into 64 bits.
    """
    import json

    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    # not with the codec utf-8-sig, which is another module to import
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
            raise LimitError("it contains an unpaired surrogate") from None
    return document


@functools.cache
def _exact_decoder() -> Any:
    import json

    return json.JSONDecoder(parse_int=_integer, parse_float=_finite, parse_constant=_refused)


def check_brackets(data: bytes, *, strings: bool = True) -> None:
    """Raise LimitError if brackets in a text are nested too deeply; takes time proportional to its length.

    With ``strings``, brackets in double quotes do not count, as in JSON.
    """
    rest = _without_pairs(data)
    if rest and strings:
        rest = _without_pairs(_STRING.sub(b"", data))
    depth = DEPTH if b"[]" in rest or b"{}" in rest else 0  # a remaining pair has had more levels inside it
    for byte in rest:
        depth = depth + 1 if byte in b"[{" else max(0, depth - 1)
        if depth > DEPTH:
            raise LimitError(f"it is nested deeper than {DEPTH} levels")


def _without_pairs(data: bytes) -> bytes:
    """Return a text's brackets without up to DEPTH levels of pairs; for nearly every text, nothing is left."""
    rest = data.translate(None, _NOT_BRACKETS)
    for _ in range(DEPTH):
        shorter = rest.replace(b"[]", b"").replace(b"{}", b"")
        if len(shorter) == len(rest):
            break
        rest = shorter
    return rest


def check_yaml(text: str, *, nodes: int = NODES) -> None:
    """Raise LimitError for YAML that is nested too deeply, has too many nodes, a collection as a key, a number of more
    than 100 digits, or an alias inside what it refers to.

    Malformed YAML is left for the parser to report. An alias counts as everything that it refers to.
    """
    from ruamel.yaml import YAML

    # for each open collection: nodes so far, name of the anchor, whether a key comes next (None in a list);
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
    except Exception:  # the parser also raises other exceptions than its own
        return


def _count(event: Any, counts: list[list[Any]], sizes: dict[str, int]) -> None:
    """Count one event of a YAML parser."""
    kind = type(event).__name__
    line = event.start_mark.line + 1
    is_key = counts[-1][2]
    if kind in ("AliasEvent", "ScalarEvent", "SequenceStartEvent", "MappingStartEvent") and is_key is not None:
        counts[-1][2] = not is_key
    if kind == "AliasEvent":
        if any(each[1] == event.anchor for each in counts):
            raise LimitError(f"the alias *{event.anchor[:40]} refers to a value that contains it", line)
        counts[-1][0] += sizes.get(event.anchor, 0) + 1
    elif kind == "ScalarEvent":
        if event.implicit[0] and _LONG_NUMBER.fullmatch(event.value):
            raise LimitError(f"a number with {len(event.value)} digits is too long", line)
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
    """Raise LimitError for a lock file whose YAML would take a parser without limits too much time or memory."""
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
