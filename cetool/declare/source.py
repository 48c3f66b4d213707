"""Read scripts from files or given text, with all checks before anything trusts them."""

from __future__ import annotations

import codecs
import errno
import itertools
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

#: The most bytes of a script, and of a notebook.
MAX_SIZE, MAX_NOTEBOOK_SIZE = limits.SCRIPT, limits.NOTEBOOK
NOTEBOOK_SUFFIX = ".ipynb"
#: The most files of a directory that are compared with a misspelt name, and the most characters of it.
_MOST_NAMES, _LONGEST_NAME = 2000, 100

# PEP 263's pattern for the first two lines, and what the first must be for the second to count
_CODING = pattern(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-_.a-zA-Z0-9]+)")
_BLANK_OR_COMMENT = pattern(rb"^[ \t\f]*(?:#.*)?$")
_PYTHON_SHEBANG = pattern(rb"^#!.*\b(?:python|pypy)[0-9.]*w?(?:\.exe)?(?:\s|$)")
_URL = pattern(r"[A-Za-z][A-Za-z0-9+.-]+://")
_UTF16_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
#: The most characters of a codec's name in messages.
_MOST_NAME = 60
#: Codecs that are not encodings of source text; two of them also take quadratic time.
_NOT_FOR_SOURCE = frozenset({"punycode", "idna", "undefined", "unicode_escape", "raw_unicode_escape"})


#: Whether the text being read came from a URL: a script, its content, a baseline.
_FOREIGN: ContextVar[bool] = ContextVar("foreign", default=False)
#: Whether no files may be read: the text was sent to a server.
_SENT: ContextVar[bool] = ContextVar("sent", default=False)


class Script(Value):
    """A script's text and name."""

    #: Absolute; symbolic links are not resolved.
    path: Path
    #: Its name in messages.
    name: str
    #: Decoded, without a byte order mark, lines ending in ``\n``.
    text: str

    @property
    def directory(self) -> Path:
        """The directory that relative paths in the script's metadata start from."""
        return self.path.parent

    def at(self, line: int | None = None) -> Location:
        """Return a place in this script."""
        return Location(self.name, line)


def is_url(text: str) -> bool:
    """Return whether a script is named by a URL of any scheme; :mod:`cetool.fetch.scripts` checks the scheme."""
    return _URL.match(text) is not None


@contextmanager
def foreign_text(foreign: bool) -> Iterator[None]:
    """Treat what is read as coming from a URL if ``foreign``: a path with ``~`` is refused, not expanded."""
    token = _FOREIGN.set(foreign)
    try:
        yield
    finally:
        _FOREIGN.reset(token)


@contextmanager
def sent_text() -> Iterator[None]:
    """Treat what is read as sent to a server: no file of this machine is read for it, and no path is expanded."""
    with foreign_text(True):
        token = _SENT.set(True)
        try:
            yield
        finally:
            _SENT.reset(token)


def with_home(path: str, where: Location | None = None) -> str:
    """Replace a leading ``~`` by the home directory; nothing else in a script is expanded.

    Raises MetadataError inside :func:`foreign_text`, where it would be another directory for each user.
    """
    if not path.startswith("~"):
        return path
    if _FOREIGN.get():
        raise MetadataError(
            f"{printable(path)!r} starts with '~', which is not expanded in scripts from elsewhere",
            code="script-not-text",
            where=where,
            hint="Write an absolute path, or save the script on this machine.",
        )
    return os.path.expanduser(path)


def is_notebook(script: Script) -> bool:
    """Return whether this is a Jupyter notebook: by its suffix, or by its content (standard input, a link)."""
    if script.path.suffix.lower() == NOTEBOOK_SUFFIX:
        return True
    return script.text[:100].lstrip()[:1] == "{" and '"nbformat"' in script.text and '"cells"' in script.text


def size_limit(path: str | os.PathLike[str]) -> int:
    """Return the most bytes that a file of this name may have."""
    return MAX_NOTEBOOK_SIZE if os.fspath(path).lower().endswith(NOTEBOOK_SUFFIX) else MAX_SIZE


def read_script(path: str | os.PathLike[str]) -> Script:
    """Read a script from a file.

    Raises ScriptNotFoundError (127) if it does not exist; ScriptNotReadableError (126) for a directory or an unreadable
    file; MetadataError (125) if it is not a regular file, larger than :func:`size_limit`, empty, or not text in UTF-8
    (or, for Python, in the encoding of its PEP 263 line).
    """
    given = os.fspath(path)
    name = printable(given)
    data = read_bytes(given, name)
    if not os.path.isabs(given):
        _refuse_deleted_directory(name)
    absolute = Path(given).absolute()
    return Script(absolute, name, decode(data, name, python=looks_like_python(data, absolute)))


def looks_like_python(data: bytes, path: Path) -> bool:
    """Return whether a coding line (PEP 263) counts, by the file's suffix or shebang."""
    return path.suffix.lower() in (".py", ".pyw") or _PYTHON_SHEBANG.match(data[:4096]) is not None


def script_from_text(text: str, path: str | os.PathLike[str], name: str) -> Script:
    """Return a script from text given on the command line or on standard input.

    ``path`` is the file that will contain it when it runs. Raises MetadataError for empty or too long text and for
    NULs.
    """
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_SIZE or len(text.encode("utf-8", "surrogatepass")) > MAX_SIZE:
        raise _too_large(name)
    return Script(Path(path).absolute(), name, _checked(text, name))


def read_bytes(path: str, name: str, what: str = "script", *, limit: int | None = None) -> bytes:
    """Read a regular file with the checks of :func:`read_script`, without blocking on a pipe."""
    limit = size_limit(path) if limit is None else limit
    if not path:
        raise ScriptNotFoundError(f"the {what}'s path is empty", hint="Is the variable that it came from set?")
    where = Location(name)
    if _SENT.get():
        raise MetadataError(
            f"the {what} {name!r} is not on the server",
            code="requirement-invalid",
            where=where,
            hint="A request cannot refer to other files: write their content into it.",
        )
    try:
        data = limits.read_regular(path, limit)
    except (FileNotFoundError, NotADirectoryError):
        if not os.path.isabs(path):
            _refuse_deleted_directory(name)
        hint = similar_file(path) or "Check the path; a relative one starts from the working directory."
        raise ScriptNotFoundError(f"the {what} does not exist", about=name, where=where, hint=hint) from None
    except PermissionError:
        hint = "Check the permissions of the file and of the directories above it (`ls -ld`)."
        raise ScriptNotReadableError(f"cannot read the {what}: permission denied", where=where, hint=hint) from None
    except ValueError:
        raise ScriptNotFoundError(f"{name!r} cannot be the name of a {what}", where=where) from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise _too_large(name, what, limit) from None
        if error.errno in (errno.EINVAL, errno.EISDIR):
            _refuse_special(path, where, what)
        raise ScriptNotReadableError(f"cannot read the {what}: {_reason(error)}", where=where) from None
    if not data:
        raise _not_text(f"the {what} is empty", where)
    return data


def decode(data: bytes, name: str, *, python: bool = False) -> str:
    """Decode these bytes to text with lines that end in LF.

    The encoding is UTF-8, with or without a byte order mark; with ``python`` that of a PEP 263 line. Raises
    MetadataError.
    """
    mark = data.startswith(codecs.BOM_UTF8)
    if not mark and data.startswith(_UTF16_32):
        raise _not_text("the file is in UTF-16 or UTF-32", Location(name), "Save it as UTF-8.")
    if b"\0" in data:
        raise _not_text(
            f"not a text file: NUL byte at offset {data.index(0)}",
            Location(name, _line_of(data, data.index(0))),
            "cetool runs scripts, not compiled programs. If it is text, save it as UTF-8.",
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
    """Return the codec of these bytes, by the rules of :func:`decode`; the byte order mark is not part of the text."""
    return (_declared_encoding(data, name, data.startswith(codecs.BOM_UTF8)) if python else None) or "utf-8"


def _not_text(message: str, where: Location, hint: str | None = None) -> MetadataError:
    return MetadataError(message, code="script-not-text", where=where, hint=hint)


def _checked(text: str, name: str) -> str:
    """Return the text with uniform line ends. Raises MetadataError if it is empty or has a NUL."""
    if "\0" in text:
        where = Location(name, text.count("\n", 0, text.index("\0")) + 1)
        raise _not_text("not text: it contains a NUL character", where, "Save it as UTF-8.")
    if not text:
        raise _not_text("the script is empty", Location(name))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _declared_encoding(data: bytes, name: str, mark: bool) -> str | None:
    """Return the encoding of the coding line in the first two lines, None if there is none or it says UTF-8."""
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
            known = True  # the line itself has a byte that is not ASCII: decoding the file will show
        except (LookupError, UnicodeError, ValueError):
            known = False
        if not known:
            hint = "Use one that Python knows (utf-8, latin-1, cp1252), or save the file as UTF-8 without the line."
            raise _not_text(f"{said}, which is not an encoding for source text", Location(name, number), hint)
        if codec in ("utf-8", "utf-8-sig"):
            return None
        if mark:
            message = f"{said}, but the file starts with UTF-8's byte order mark"
            raise _not_text(message, Location(name, number), "Remove the coding line.")
        return codec
    return None


def _line_of(data: bytes, offset: int) -> int:
    """Return the line, from 1, of a byte; CR LF, LF and CR end a line."""
    before = data[:offset]
    return before.count(b"\n") + before.count(b"\r") - before.count(b"\r\n") + 1


def similar_file(path: str) -> str | None:
    """Return a hint that names the file in the same directory that was probably meant; None if no name is similar."""
    import difflib

    directory, name = os.path.split(path)
    try:
        with os.scandir(directory or os.curdir) as entries:
            names = [each.name for each in itertools.islice(entries, _MOST_NAMES) if each.is_file()]
    except OSError:
        return None
    folded = {each.lower(): each for each in names}
    near = difflib.get_close_matches(name.lower()[:_LONGEST_NAME], folded, n=1, cutoff=0.7)
    return f"Did you mean {printable(os.path.join(directory, folded[near[0]]))}?" if near else None


def _refuse_deleted_directory(name: str) -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise ScriptNotFoundError(
            f"the working directory was deleted, so the relative path {name!r} leads nowhere: {_reason(error)}",
            where=Location(name),
            hint="Change to a directory that exists, or give the absolute path.",
        ) from None


_KINDS = {stat.S_IFIFO: "a pipe (FIFO)", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


def _refuse_special(path: str, where: Location, what: str) -> None:
    """Raise for a directory and for anything else that is not a regular file."""
    mode = os.stat(path).st_mode
    a_what = f"an {what}" if what[0] in "aeiou" else f"a {what}"
    if stat.S_ISDIR(mode):
        hint = f"Give the path of the {what} in it."
        raise ScriptNotReadableError(f"this is a directory, not {a_what}", where=where, hint=hint) from None
    if not stat.S_ISREG(mode):
        more = ", or pass the script on standard input with `cetool run -`" if what == "script" else ""
        kind = _KINDS.get(stat.S_IFMT(mode), "a special file")
        raise _not_text(
            f"this is {kind}, not {a_what} in a regular file", where, f"Save it in a file first{more}."
        ) from None


def _too_large(name: str, what: str = "script", limit: int = MAX_SIZE) -> MetadataError:
    hint = "Move data into a separate file."
    if limit == MAX_NOTEBOOK_SIZE:
        hint = "Clear its outputs (jupyter nbconvert --clear-output --inplace)."
    return _not_text(f"the {what} is larger than {limits.in_words(limit)}", Location(name), hint)


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
