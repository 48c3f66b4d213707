"""Where a script comes from: a file, or text that was given; read with every check before anything trusts it."""

from __future__ import annotations

import codecs
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from cetool.base import limits
from cetool.base.errors import Location, MetadataError, ScriptNotFoundError, ScriptNotReadableError
from cetool.base.text import pattern, printable
from cetool.base.values import Value

#: Bytes that a script may have, and a notebook.
MAX_SIZE, MAX_NOTEBOOK_SIZE = limits.SCRIPT, limits.NOTEBOOK
NOTEBOOK_SUFFIX = ".ipynb"

# PEP 263's own pattern for the first two lines, and what the first may be for the second to count
_CODING = pattern(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-_.a-zA-Z0-9]+)")
_BLANK_OR_COMMENT = pattern(rb"^[ \t\f]*(?:#.*)?$")
_PYTHON_SHEBANG = pattern(rb"^#!.*\b(?:python|pypy)[0-9.]*w?(?:\.exe)?(?:\s|$)")
_URL = pattern(r"[A-Za-z][A-Za-z0-9+.-]+://")
_UTF16_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
#: Characters of a codec's name that messages show.
_MOST_NAME = 60
#: Codecs that are no encodings of a program's text; two of them also take quadratic time.
_NOT_FOR_SOURCE = frozenset({"punycode", "idna", "undefined", "unicode_escape", "raw_unicode_escape"})


#: Whether what is read came from a URL: a script, what is in it, a baseline.
_FOREIGN: ContextVar[bool] = ContextVar("foreign", default=False)


class Script(Value):
    """A script's text and what it is called."""

    #: Absolute, as given: symbolic links are not resolved.
    path: Path
    #: What messages call it.
    name: str
    #: Decoded, without a byte order mark, lines ending in ``\n``.
    text: str

    @property
    def directory(self) -> Path:
        """Where relative paths in the script's metadata start from."""
        return self.path.parent

    def at(self, line: int | None = None) -> Location:
        """A place in this script."""
        return Location(self.name, line)


def is_url(text: str) -> bool:
    """Whether a script is named by a URL of any scheme; :mod:`cetool.fetch.scripts` tells which ones can be fetched."""
    return _URL.match(text) is not None


@contextmanager
def foreign_text(foreign: bool) -> Iterator[None]:
    """While this lasts, what is read came from a URL if ``foreign``: ``~`` in a path is refused, not replaced."""
    token = _FOREIGN.set(foreign)
    try:
        yield
    finally:
        _FOREIGN.reset(token)


def with_home(path: str, where: Location | None = None) -> str:
    """The path, a leading ``~`` replaced by the home directory: nothing else is expanded in what a script says.

    Raises MetadataError in :func:`foreign_text`, where it would name another directory for each user.
    """
    if not path.startswith("~"):
        return path
    if _FOREIGN.get():
        raise MetadataError(
            f"{printable(path)!r} starts with '~', which is not expanded in what comes from elsewhere",
            code="script-not-text",
            where=where,
            hint="Write an absolute path; in a script that you saved here, '~' is your home directory.",
        )
    return os.path.expanduser(path)


def is_notebook(script: Script) -> bool:
    """Whether this is a Jupyter notebook: by its suffix, or (standard input, a link) by what it begins with and has."""
    if script.path.suffix.lower() == NOTEBOOK_SUFFIX:
        return True
    return script.text[:100].lstrip()[:1] == "{" and '"nbformat"' in script.text and '"cells"' in script.text


def size_limit(path: str | os.PathLike[str]) -> int:
    """Bytes that a file of this name may have."""
    return MAX_NOTEBOOK_SIZE if os.fspath(path).lower().endswith(NOTEBOOK_SUFFIX) else MAX_SIZE


def read_script(path: str | os.PathLike[str]) -> Script:
    """Read a script from a file.

    Raises ScriptNotFoundError (127) where there is none; ScriptNotReadableError (126) for a directory and for a file
    that may not be read; MetadataError (125) for what is no regular file, larger than :func:`size_limit`, empty, or not
    text in UTF-8 (or, for Python, in the encoding that its PEP 263 line names).
    """
    given = os.fspath(path)
    name = printable(given)
    data = read_bytes(given, name)
    if not os.path.isabs(given):
        _refuse_deleted_directory(name)
    absolute = Path(given).absolute()
    return Script(absolute, name, decode(data, name, python=looks_like_python(data, absolute)))


def looks_like_python(data: bytes, path: Path) -> bool:
    """Whether a coding line (PEP 263) counts: by the file's suffix, or its shebang."""
    return path.suffix.lower() in (".py", ".pyw") or _PYTHON_SHEBANG.match(data[:4096]) is not None


def script_from_text(text: str, path: str | os.PathLike[str], name: str) -> Script:
    """A script made of text that was given on the command line or on standard input.

    ``path`` is the file that will hold it when it runs. Raises MetadataError for empty text, NULs, and too much of it.
    """
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_SIZE or len(text.encode("utf-8", "surrogatepass")) > MAX_SIZE:
        raise _too_large(name)
    return Script(Path(path).absolute(), name, _checked(text, name))


def read_bytes(path: str, name: str, what: str = "script", *, limit: int | None = None) -> bytes:
    """The bytes of a regular file, with the checks of :func:`read_script`; nothing here can block on a pipe."""
    limit = size_limit(path) if limit is None else limit
    if not path:
        raise ScriptNotFoundError(f"there is no {what} '': its path is empty", hint="Is the variable set it came from?")
    where = Location(name)
    try:
        data = limits.read_regular(path, limit)
    except (FileNotFoundError, NotADirectoryError):
        if not os.path.isabs(path):
            _refuse_deleted_directory(name)
        hint = "Check the path; a relative one starts from here."
        raise ScriptNotFoundError(f"there is no {what} {name!r}", about=name, where=where, hint=hint) from None
    except PermissionError:
        hint = "Give yourself the right to read it (chmod u+r), and to enter the directories above it."
        raise ScriptNotReadableError(f"the {what} may not be read", where=where, hint=hint) from None
    except ValueError:
        raise ScriptNotFoundError(f"{name!r} cannot be the name of a {what}", where=where) from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise _too_large(name, what, limit) from None
        if error.errno in (errno.EINVAL, errno.EISDIR):
            _refuse_special(path, where, what)
        raise ScriptNotReadableError(f"the {what} cannot be read: {_reason(error)}", where=where) from None
    if not data:
        raise _not_text(f"the {what} is empty", where)
    return data


def decode(data: bytes, name: str, *, python: bool = False) -> str:
    """The text of these bytes, lines ending in ``\n``.

    UTF-8, a byte order mark allowed; with ``python`` the encoding that a PEP 263 line names. Raises MetadataError.
    """
    mark = data.startswith(codecs.BOM_UTF8)
    if not mark and data.startswith(_UTF16_32):
        raise _not_text("the file is in UTF-16 or UTF-32", Location(name), "Save it as UTF-8.")
    if b"\0" in data:
        raise _not_text(
            f"there is a NUL byte at offset {data.index(0)}: this is no text file",
            Location(name, _line_of(data, data.index(0))),
            "cetool runs scripts; a compiled program needs none of it. If it is text, save it as UTF-8.",
        )
    encoding = _declared_encoding(data, name, mark) if python else None
    try:
        text = data.decode(encoding or "utf-8-sig")
        text.encode("utf-8")
    except UnicodeDecodeError as error:
        offset = error.start + (len(codecs.BOM_UTF8) if mark and encoding is None else 0)
        hint = "Save it as UTF-8."
        if python and encoding is None:
            hint = "Save it as UTF-8, or name its encoding in the first two lines (PEP 263): # -*- coding: latin-1 -*-"
        byte = f"byte 0x{data[min(offset, len(data) - 1)]:02x} at offset {offset}"
        where = Location(name, _line_of(data, offset))
        raise _not_text(f"{byte} is not {encoding or 'UTF-8'}", where, hint) from None
    except (UnicodeError, ValueError, LookupError) as error:
        raise _not_text(f"the file is not {encoding or 'UTF-8'}: {error}", Location(name)) from None
    return _checked(text, name)


def source_encoding(data: bytes, name: str, *, python: bool) -> str:
    """The codec that these bytes are in, by the rules of :func:`decode`; a byte order mark is no part of the text."""
    return (_declared_encoding(data, name, data.startswith(codecs.BOM_UTF8)) if python else None) or "utf-8"


def _not_text(message: str, where: Location, hint: str | None = None) -> MetadataError:
    return MetadataError(message, code="script-not-text", where=where, hint=hint)


def _checked(text: str, name: str) -> str:
    """The text with its line ends made one kind. Raises MetadataError where there is none, or a NUL."""
    if "\0" in text:
        where = Location(name, text.count("\n", 0, text.index("\0")) + 1)
        raise _not_text("there is a NUL character: this is no text", where, "Save it as UTF-8.")
    if not text:
        raise _not_text("the script is empty", Location(name))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _declared_encoding(data: bytes, name: str, mark: bool) -> str | None:
    """The encoding of the coding line in the first two lines, None where there is none or where it says UTF-8."""
    head = data[len(codecs.BOM_UTF8) if mark else 0 :][:4096].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for number, line in enumerate(head.split(b"\n")[:2], start=1):
        found = _CODING.match(line)
        if found is None:
            if _BLANK_OR_COMMENT.match(line):
                continue
            return None
        named = found.group(1).decode("ascii")
        said = f"the coding line names {named[:_MOST_NAME]!r}"
        try:
            codec = codecs.lookup(named).name
            known = codec.replace("-", "_") not in _NOT_FOR_SOURCE and line.decode(codec) == line.decode("ascii")
        except UnicodeDecodeError:
            known = True  # the line itself has a byte that is not ASCII: the whole file will tell
        except (LookupError, UnicodeError, ValueError):
            known = False
        if not known:
            hint = "Name one that Python knows (utf-8, latin-1, cp1252), or save the file as UTF-8 without the line."
            raise _not_text(f"{said}, which is no encoding for source text", Location(name, number), hint)
        if codec in ("utf-8", "utf-8-sig"):
            return None
        if mark:
            message = f"{said}, but the file starts with UTF-8's byte order mark"
            raise _not_text(message, Location(name, number), "Take the coding line out.")
        return codec
    return None


def _line_of(data: bytes, offset: int) -> int:
    """The line, from 1, of a byte; CR LF, LF and CR each end one."""
    before = data[:offset]
    return before.count(b"\n") + before.count(b"\r") - before.count(b"\r\n") + 1


def _refuse_deleted_directory(name: str) -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise ScriptNotFoundError(
            f"the working directory was deleted, so {name!r} means nothing: {_reason(error)}",
            where=Location(name),
            hint="Change to a directory that exists, or give the absolute path.",
        ) from None


_KINDS = {stat.S_IFIFO: "a pipe (FIFO)", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def _refuse_special(path: str, where: Location, what: str) -> None:
    """Raise for a directory and for anything else that is not a regular file."""
    mode = os.stat(path).st_mode
    a_what = f"an {what}" if what[0] in "aeiou" else f"a {what}"
    if stat.S_ISDIR(mode):
        hint = f"Name the {what} in it that you mean."
        raise ScriptNotReadableError(f"this is a directory, not {a_what}", where=where, hint=hint) from None
    if not stat.S_ISREG(mode):
        more = ", or give a script on standard input with `cetool run -`" if what == "script" else ""
        kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise _not_text(f"this is {kind}, not {a_what} in a file", where, f"Save it in a file first{more}.") from None


def _too_large(name: str, what: str = "script", limit: int = MAX_SIZE) -> MetadataError:
    hint = "Keep data in a file of its own."
    if limit == MAX_NOTEBOOK_SIZE:
        hint = "Clear its outputs (jupyter nbconvert --clear-output --inplace)."
    return _not_text(f"the {what} is larger than {limits.in_words(limit)}", Location(name), hint)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
