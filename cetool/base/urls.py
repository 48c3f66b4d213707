"""Split URLs once, by the rule that authentication uses; what is shown, stored and sent is built from the parts.

User and password end at the last ``@`` before the host (RFC 3986, and as curl, requests and rattler read them). A URL
with a raw ``/``, ``?`` or ``#`` in the password is invalid, but its author meant a password: so that is hidden, and
:func:`split_url` refuses the URL.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes

from cetool.base.text import MASK, hide_known, is_secret_name, pattern, remember, remember_login, shorten
from cetool.base.values import Value

#: Where the authority of a URL begins: WHATWG's parser, which rattler uses, accepts any number of slashes after http.
_START = pattern(r"(?:https?|ftp|wss?):(?:[/\\]+|(?=[^\s/\\:@]+:[^\s/\\@]*@))|://", re.IGNORECASE)
_UNUSUAL = pattern(r"(?:\A\s*|[@\"]\s*|\+)(?:https?|ftp|wss?):(?!//[^/\\])", re.IGNORECASE)
_WHOLE = pattern(r"\s*(?:(?:[A-Za-z][A-Za-z0-9+.-]*\+)?(?:https?|ftp|wss?):[/\\]*|[A-Za-z][A-Za-z0-9+.-]*://)", re.I)
_SCHEMELESS = pattern(r"\s*(?:[/\\]{2})?[^\s/\\@:\"'(){}\[\]<>]+:[^\s/\\]*@[^\s/\\@]+(?:[/\\?#]|\Z)")
_AUTHORITY_END = pattern(r"[/?#\r\n]")
_LINE_END = pattern(r"[\r\n]")
#: Characters that end a URL in a text, though a password could contain them.
_STOP = pattern(r"[\s\"'<>`|]")
_REST_END = pattern(r"[\s<>`\]]|[\"'](?=[\s,;:)\]}>.]|\Z)")
_QUOTED_ENDS = {quote: pattern(rf"[\s<>\]{quote}]") for quote in ("'", '"')}
_WHOLE_END = pattern(r"\s[;#]|[\r\n]")
_PARAMETER = pattern(r"([?&])([A-Za-z0-9_.%-]{1,60}=[^&\s\"'\]]+)")
#: How far to look for the end of a password with a slash.
_LONGEST_USERINFO = 2_000
_HOST = pattern(r"(?:\[[0-9A-Fa-f:.%]*\]|[^:@\[\]]*)(?::\d*)?")
_CLOSING = {'"': '"', "'": "'", "<": ">", "`": "`", "(": ")", "[": "]"}
_TOKEN_MARK = pattern(r"/(?:t|%[57]4)/", re.IGNORECASE)
_NESTED = pattern(r"%3a(?:%2f){2}", re.IGNORECASE)
#: A text without any character that a user, a password or a parameter needs, and without a token.
_HARMLESS = pattern(r"(?![^\n]*/t/)[a-z0-9:/._+~ -]*", re.IGNORECASE | re.ASCII)


class Url(Value):
    """A URL in its parts, each as written. ``userinfo``, ``query`` and ``fragment`` are None if absent."""

    scheme: str
    userinfo: str | None
    host: str
    port: int | None
    path: str
    query: str | None = None
    fragment: str | None = None

    @property
    def place(self) -> str:
        """Host and port as in the URL."""
        return self.host if self.port is None else f"{self.host}:{self.port}"

    @property
    def origin(self) -> tuple[str, str, int | None]:
        """Scheme, host and port, normalized for comparison; credentials belong to an origin."""
        scheme = self.scheme.lower()
        port = self.port if self.port is not None else {"http": 80, "https": 443, "ftp": 21}.get(scheme)
        return scheme, self.host.lower().removesuffix("."), port

    @property
    def login(self) -> tuple[bytes, bytes] | None:
        """User and password, decoded; None if there are none."""
        if self.userinfo is None:
            return None
        user, _, password = self.userinfo.partition(":")
        return unquote_to_bytes(user), unquote_to_bytes(password)

    @property
    def basic(self) -> str | None:
        """The value of the header ``Authorization`` for the user and password (RFC 7617)."""
        return None if self.login is None else basic_authorization(*self.login)

    @property
    def decoded_path(self) -> str:
        """The path with its escapes replaced."""
        return unquote(self.path)

    def joined(self, *, login: bool = True) -> str:
        """Return the URL as a string, with or without user and password."""
        user = f"{self.userinfo}@" if login and self.userinfo is not None else ""
        query = "" if self.query is None else f"?{self.query}"
        fragment = "" if self.fragment is None else f"#{self.fragment}"
        return f"{self.scheme}://{user}{self.place}{self.path}{query}{fragment}"

    def is_below(self, other: Url) -> bool:
        """Return whether this is below the other's path on the same origin, so that its credentials apply."""
        path, base = self.path, other.path.rstrip("/") + "/"
        segments = unquote(path).replace("\\", "/").split("/")
        return self.origin == other.origin and f"{path}/".startswith(base) and not {".", ".."} & set(segments)


def basic_authorization(user: bytes, password: bytes) -> str:
    """Return the value of the header ``Authorization`` for a user and a password (RFC 7617)."""
    import base64

    header = base64.b64encode(user + b":" + password).decode("ascii")
    remember(header)
    return f"Basic {header}"


def split_url(text: str) -> Url:
    """Split a URL; its secrets are remembered. Raises ValueError if it is not a URL with a valid host."""
    start = text.find("://")
    if start < 1 or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", text[:start]):
        raise ValueError("it is not a URL")
    scheme, position = text[:start], start + 3
    cut = _cut(text, position, whole=True)
    authority = text[cut.host : cut.end]
    rest = text[cut.end :]
    if cut.userinfo is not None and re.search(r"[/?#\\]", cut.userinfo):
        raise ValueError("the password contains a /, \\, ? or #, which must be written as %2F, %5C, %3F or %23")
    found = _HOST.fullmatch(authority)
    host, _, port = authority.rpartition(":") if re.search(r":\d*\Z", authority) else (authority, "", "")
    if found is None or re.search(r"[\s\"'<>\\^`{|}]", host) or (not host and scheme.lower() != "file"):
        raise ValueError("the URL has no valid host")
    if port and int(port[:6]) > 65535:
        raise ValueError("the URL has no valid port")
    if cut.userinfo is not None:
        remember_login(cut.userinfo)
    rest, hash_mark, fragment = rest.partition("#")
    path, mark, query = rest.partition("?")
    found_port, found_query = int(port) if port else None, query if mark else None
    return Url(scheme, cut.userinfo, host, found_port, path, found_query, fragment if hash_mark else None)


def is_url(text: str) -> bool:
    """Return whether :func:`split_url` can split the text."""
    try:
        split_url(text)
    except ValueError:
        return False
    return True


def check_hosts(text: str) -> None:
    """Raise ValueError if other programs may see another host in a URL of the text than the one that cetool shows.

    cetool hides a password up to the last ``@``, but uv and pip connect to the host before a slash or backslash. They
    also accept ``https:/host`` and ``https:host`` as URLs.
    """
    if _UNUSUAL.search(text):
        raise ValueError(f"{redact(text)!r} has no host directly after '://'")
    whole = _WHOLE.match(text)
    for start, position in _starts(text, whole):
        scheme = _scheme_start(text, start)
        cut = _cut(text, position, whole=whole is not None, opener=text[scheme - 1] if scheme > 0 else "")
        if cut.userinfo is not None and re.search(r"[/?#\\]", cut.userinfo):
            raise ValueError(
                f"the host of {redact(text)!r} is ambiguous: the user or password contains a /, \\, ? or #"
            )


def strip_credentials(text: str) -> str:
    """Remove the credentials of every URL in the text, for storing and hashing. They are remembered."""
    return _rewritten(text, None)


def redact(text: str) -> str:
    """Replace the credentials of every URL in the text by ``***``, for messages. They are remembered."""
    return _rewritten(text, MASK)


def quotable(text: str) -> str:
    """Return the text as a message may quote it: short, without credentials, control characters escaped."""
    return shorten(redact(text)).encode("unicode_escape", "surrogatepass").decode()


def cleaned(document: Any, clean: Callable[[str], str] = strip_credentials) -> Any:
    """Return a JSON document with all credentials removed from its strings."""
    if isinstance(document, str):
        return clean(document)
    if isinstance(document, (list, tuple)):
        return [cleaned(each, clean) for each in document]
    if isinstance(document, dict):
        return {cleaned(name, clean): cleaned(value, clean) for name, value in document.items()}
    return document


class _Cut(Value):
    """How to cut the authority of a URL: its userinfo, where its host begins, where it ends."""

    userinfo: str | None
    host: int
    end: int


def _cut(text: str, position: int, *, whole: bool, opener: str = "") -> _Cut:
    """Cut the authority that begins at a position.

    ``whole`` says that the text is one URL, which a blank does not end; ``opener`` is the character before a URL in a
    text, which may be a quote.
    """
    found = _AUTHORITY_END.search(text, position)
    segment = text[position : len(text) if found is None else found.start()]
    stop = _STOP.search(segment)
    head = segment if stop is None else segment[: stop.start()]
    at = _userinfo_end(text, position, segment, head, whole, opener)
    if at < 0:
        return _Cut(None, position, position + len(head))
    host = position + at + 1
    found = _AUTHORITY_END.search(text, host)
    end = len(text) if found is None else found.start()
    stop = _STOP.search(text, host, end)
    return _Cut(text[position : host - 1], host, end if stop is None else stop.start())


def _userinfo_end(text: str, position: int, segment: str, head: str, whole: bool, opener: str) -> int:
    """Find the ``@`` that ends the userinfo, counted from the position; return -1 if there is none.

    ``segment`` goes to the first slash, ``head`` to the first character that can end a URL in a text. A password may
    contain both, so a head that is not a host and port is a user and the beginning of a password.
    """
    at = segment.rfind("@")
    is_host = bool(_HOST.fullmatch(head))
    following = text[position + len(segment) : position + len(segment) + 1] if len(head) == len(segment) else ""
    if is_host and head.endswith(":") and len(head) > 1 and following and following in "/?#":
        is_host = False  # not a port but a password that begins with a slash
    if len(head) == len(segment):
        return at if at >= 0 or is_host else _late_end(text, position)
    stop = segment[len(head)]
    closing = bool(opener) and _CLOSING.get(opener) == stop
    gap = segment[len(head) : at]
    if at < 0:
        return -1 if is_host or closing else _late_end(text, position)
    if "@" in head:
        return head.rfind("@") if closing or at < len(head) else at
    if whole:
        return at if ":" in head or not stop.isspace() else -1
    if closing and is_host:
        return -1
    if is_host:  # a port, or the beginning of a password that continues with one more word?
        return at if ":" in head and re.fullmatch(r"\s?[^\s;,]*", gap) else -1
    if closing and re.search(r"\s", gap):
        return -1
    return at


def _late_end(text: str, position: int) -> int:
    """Find the end of the userinfo in a line whose host has an impossible port, as it must be user and password."""
    line = _LINE_END.search(text, position, position + _LONGEST_USERINFO)
    late = text.rfind("@", position, position + _LONGEST_USERINFO if line is None else line.start())
    return late - position if late >= 0 else -1


def _rewritten(text: str, mask: str | None, learn: bool = True) -> str:
    """Return the text with its URLs without credentials (``mask`` None) or with the mask in their place."""
    if _HARMLESS.fullmatch(text):  # most texts: the packages of a lock
        return text
    whole = _WHOLE.match(text)
    if whole is None and mask is not None and _SCHEMELESS.match(text):
        return f"{mask}@{text.rpartition('@')[2]}"
    out: list[str] = []
    done = 0
    in_query = False
    for start, position in _starts(text, whole):
        if start < done:
            continue
        scheme = _scheme_start(text, start)
        opener = text[scheme - 1] if scheme > 0 else ""
        is_whole = whole is not None and not out
        cut = _cut(text, position, whole=is_whole, opener=opener)
        end, in_next = _rest_end(text, cut.end, is_whole, opener)
        out.append(_clean_gap(text[done:position], mask, learn))
        if cut.userinfo is not None:
            if learn:
                remember_login(cut.userinfo)
            out.append("" if mask is None else f"{mask}@")
        with_token = not text[scheme:position].lower().startswith("file")
        rest, in_query = _clean_rest(text[cut.end : end], mask, learn, in_query, with_token=with_token)
        in_query = in_query and in_next
        out += (text[cut.host : cut.end], rest)
        done = end
    return "".join((*out, _clean_gap(text[done:], mask, learn)))


def _clean_gap(text: str, mask: str | None, learn: bool) -> str:
    """Clean the text between URLs, in which a relative URL may have parameters that are secrets."""
    if "=" not in text or ("?" not in text and "&" not in text):
        return text
    return _PARAMETER.sub(lambda found: found[1] + _clean_parameter(found[2], mask, learn), text)


def _rest_end(text: str, position: int, whole: bool, opener: str) -> tuple[int, bool]:
    """Return where a URL with this end of its authority ends, and whether another URL begins there, as in a query."""
    following = _START.search(text, position)
    limit = len(text) if following is None else max(position, _scheme_start(text, following.start()))
    if whole:
        found = _WHOLE_END.search(text, position, limit)
    else:
        found = _QUOTED_ENDS.get(opener, _REST_END).search(text, position, limit)
    return (limit, following is not None) if found is None else (found.start(), False)


def _starts(text: str, whole: re.Match[str] | None) -> Iterator[tuple[int, int]]:
    """Yield where URLs are in a text: where the scheme ends, and where the authority begins."""
    if whole is not None and _START.search(text, 0, whole.end()) is None:
        yield whole.end(), whole.end()
    for found in _START.finditer(text):
        yield found.start(), found.end()


def _scheme_start(text: str, position: int) -> int:
    """Return where a scheme begins that ends at the position, or around it."""
    while position > 0 and (
        text[position - 1].isascii() and (text[position - 1].isalnum() or text[position - 1] in "+")
    ):
        position -= 1
    return position


def _clean_rest(text: str, mask: str | None, learn: bool, in_query: bool, *, with_token: bool) -> tuple[str, bool]:
    """Remove the secrets from what follows the authority; also return whether it is in a query or fragment."""
    if not any(mark in text for mark in "=/"):
        return text, in_query or "?" in text or "#" in text
    cut = len(text)
    if in_query:
        cut = 0
    elif (found := re.search(r"[?#]", text)) is not None:
        cut = found.start()
    path, rest = text[:cut], text[cut:]
    if with_token and _TOKEN_MARK.search(path):
        path = _without_tokens(path, mask, learn)
    if ";" in path or "&" in path:
        path = "".join(_clean_parameter(each, mask, learn, "/") for each in re.split(r"(?<=[;&])", path))
    if _NESTED.search(path):
        path = "/".join(_clean_nested(each, mask, learn) for each in path.split("/"))
    if "=" in rest:
        rest = "".join(_clean_parameter(each, mask, learn) for each in re.split(r"(?<=[?#&;])", rest))
    return path + rest, in_query or bool(rest)


def _without_tokens(path: str, mask: str | None, learn: bool) -> str:
    """Remove ``/t/TOKEN`` from a path: the tokens of anaconda.org and similar servers."""
    kept: list[str] = []
    segments = path.split("/")
    at = 0
    while at < len(segments):
        named = at + 1
        while named < len(segments) - 1 and not segments[named]:  # repeated slashes
            named += 1
        is_token = at > 0 and unquote(segments[at]).lower() == "t" and named < len(segments)
        if is_token and segments[named] not in ("", MASK):
            if mask is not None:
                kept += [segments[at], mask]
            if learn:
                remember(segments[named])
            at = named + 1
        else:
            kept.append(segments[at])
            at += 1
    return "/".join(kept)


def _clean_parameter(text: str, mask: str | None, learn: bool, ending: str = "") -> str:
    """Clean one parameter and the separator after it: hide the value if its name says that it is a secret."""
    name, equals, value = text.partition("=")
    if not equals:
        return text
    behind = value[-1:] if value[-1:] in ("&", ";", "?", "#") else ""
    value = value.removesuffix(behind) if behind else value
    if ending:
        value, found, more = value.partition(ending)
        behind = found + more + behind
    if value and value != MASK and is_secret_name(name.rpartition("?")[2]):
        if learn:
            remember(value)
        return f"{name}={mask or ''}{behind}"
    return f"{name}={_clean_nested(value, mask, learn)}{behind}"


def _clean_nested(value: str, mask: str | None, learn: bool) -> str:
    """Clean a value that is itself an encoded URL."""
    if not _NESTED.search(value):
        return value
    plain = unquote(value)
    clean = _rewritten(plain, mask, learn)
    return value if clean == plain else quote(clean, safe=MASK)


_HEADER = pattern(
    r"((?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?(?:(?:basic|bearer|token|digest|negotiate)\s+)?)[^\s\"',;]+", re.I
)


def scrub(text: str) -> str:
    """Remove credentials in URLs and headers, and known secrets, from a text that a program or library wrote.

    Not for texts that a user decides by: a script chooses what is in its URLs, and so what would be hidden.
    """
    text = _rewritten(text, MASK, learn=False)
    return hide_known(_HEADER.sub(rf"\1{MASK}", text) if "uthorization" in text.lower() else text)
