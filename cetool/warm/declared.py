"""Tells whether a script that was changed still declares the same, without a parser, and writes that down.

The warm path takes this way for such a script, so nothing here imports more than ``os``.
"""

# Annotations are evaluated, or quoted, where `from __future__ import annotations` would be an import more.
import os

#: What every line that opens a block has in it, of whichever dialect; and the lock that a script may have in it.
_SIGNS = (b"conda execute", b"/// conda-script", b"# /// ", b"/// cetool-lock")
_MARK = b"\xef\xbb\xbf"


def block_in(data: bytes, head: bytes, block: bytes) -> bool:
    """Whether a script with these bytes declares by this block, and by nothing else, and begins with these lines.

    ``block`` is the whole lines of it. Says no where only a parser could tell: a line behind it that may belong to it,
    another line that has in it what opens a block.
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
        # as text: what counts as a blank before the comment's characters is for Unicode to say
        behind = data[at + len(block) :].partition(b"\n")[0].decode().lstrip()
    except UnicodeDecodeError:
        return False
    return not behind.startswith(comment)


def head_of(data: bytes) -> bytes:
    """What the first two lines say beyond the block: the shebang, and nothing where one may name an encoding."""
    first, _, rest = data[:8192].partition(b"\n")
    if b"coding" in first or b"coding" in rest.partition(b"\n")[0]:
        return b"\0"  # in no script
    return first + b"\n" if first.startswith((b"#!", _MARK)) else b""


def write_record(path: bytes, data: bytes) -> None:
    """Put a record in its place, whole or not at all; that it cannot be is no error."""
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
    try:  # noqa: SIM105 - contextlib is one import too many here
        os.unlink(temporary)
    except OSError:
        pass
