"""Check, without a parser, whether a changed script still declares the same, and write that down.

The warm path uses this module, so it must not import more than ``os``.
"""

# Annotations are evaluated or quoted, because `from __future__ import annotations` would be another import.
import os

#: Parts of every line that opens a block, in any dialect, or an embedded lock.
_SIGNS = (b"conda execute", b"/// conda-script", b"# /// ", b"/// cetool-lock")
_MARK = b"\xef\xbb\xbf"


def block_in(data: bytes, head: bytes, block: bytes) -> bool:
    """Return whether this block is all that a script with these bytes declares, and ``head`` is its beginning.

    ``block`` consists of whole lines. False if only a parser could tell: if the next line may belong to the block, or
    another line contains what opens a block.
    """
    if not block or not data.startswith(head) or b"\0" in data or b"\r" in data.replace(b"\r\n", b""):
        return False
    at = data.find(block)
    if at < 0 or (at and data[at - 1] != 10) or head_of(data) != head:
        return False
    if any(data.count(sign) != block.count(sign) for sign in _SIGNS):
        return False
    try:
        data.decode()
        comment = block.removeprefix(_MARK).decode().lstrip()[:1]
        # as text: Unicode defines which blanks may precede the comment's characters
        behind = data[at + len(block) :].partition(b"\n")[0].decode().lstrip()
    except UnicodeDecodeError:
        return False
    return not behind.startswith(comment)


def head_of(data: bytes) -> bytes:
    """Return what the first two lines declare outside the block: the shebang, unless they may name an encoding."""
    first, _, rest = data[:8192].partition(b"\n")
    if b"coding" in first or b"coding" in rest.partition(b"\n")[0]:
        return b"\0"  # not in any script
    return first + b"\n" if first.startswith((b"#!", _MARK)) else b""


def write_record(path: bytes, data: bytes) -> None:
    """Replace a record in one step, if possible."""
    temporary = path + b".%d" % os.getpid()
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError:
        return
    try:
        try:
            whole = os.write(descriptor, data) == len(data)
        finally:
            os.close(descriptor)
        if whole:
            os.rename(temporary, path)
            return
    except OSError:
        pass
    try:  # noqa: SIM105 - contextlib would be another import
        os.unlink(temporary)
    except OSError:
        pass
