"""Handle texts: regular expressions, names, how to show texts from elsewhere, and how to hide secrets.

Secrets are the values of parameters with telling names, and all secrets that this process has seen: they are collected
when URLs are split, and when a token is read from the environment or a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, AnyStr, cast
from urllib.parse import quote, unquote, unquote_to_bytes


class _Late:
    """Stand for a compiled regular expression until one of its methods is used; then compile it and take them over."""

    def __init__(self, source: str | bytes, flags: int) -> None:
        self._source = source
        self._flags = flags

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # copy and pickle look for special methods
            raise AttributeError(name)
        compiled = re.compile(self._source, self._flags)
        for method in ("match", "search", "fullmatch", "findall", "finditer", "sub"):
            setattr(self, method, getattr(compiled, method))
        return getattr(compiled, name)


def pattern(source: AnyStr, flags: int = 0) -> re.Pattern[AnyStr]:
    """Return a regular expression that is compiled when it is first used.

    A cold run imports 115 and uses few of them: this saves 11 ms. The result is not a ``re.Pattern`` to ``isinstance``
    and to the functions of ``re``: call its methods.
    """
    return cast("re.Pattern[AnyStr]", _Late(source, flags))


_RUNS = pattern(r"[-_.]+")
_CONTROL = pattern(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def normalized(name: str) -> str:
    """Normalize the name of a PyPI package (PEP 503).

    This is ``packaging.utils.canonicalize_name``, whose module takes 7 ms to import.
    """
    return _RUNS.sub("-", name).lower()


#: Characters that control a terminal or are invisible, for a character class: C0 except tab and newline, DEL, C1, line
#: separators, characters that change the writing direction or have no width, tags, surrogates.
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
    r"""Return the text with control characters as visible escapes (``\x1b``); newlines and tabs stay."""
    return text if text.isascii() and text.isprintable() else _UNSAFE.sub(_escape, text)


def neutral_line(text: str) -> str:
    """Return the same for a text that must stay on one line, such as a table cell: escape tabs and newlines as well."""
    return text if text.isascii() and text.isprintable() else _UNSAFE_IN_LINE.sub(_escape, text)


def without_controls(text: str) -> str:
    """Return the text without control characters and escape sequences.

    Newlines and tabs stay, and so do surrogates, which stand for bytes of a file name.
    """
    return text if text.isascii() and text.isprintable() else _REMOVED.sub("", _SEQUENCES.sub("", text))


def json_escaped(text: str) -> str:
    """Escape such characters in a JSON document as JSON does, so that its value stays the same."""
    import json

    return _UNSAFE.sub(lambda found: json.dumps(found[0])[1:-1], text)


def _escape(found: object) -> str:
    return found[0].encode("unicode_escape").decode("ascii")  # type: ignore[index, no-any-return]


def shorten(text: str, limit: int = 120) -> str:
    """Cut a text that is too long for a message."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: ``1 package``, ``2 packages``, ``3 indices`` where ``plural`` is irregular."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def has_control(text: str) -> bool:
    """Return whether the text has a character that moves the cursor, breaks the line or ends a C string."""
    return _CONTROL.search(text) is not None


def printable(text: str) -> str:
    """Return the text with characters that a terminal cannot or should not show as escapes."""
    shown = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown)


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the hint for an unknown word: the one probably meant, or all known ones."""
    import difflib

    names = list(known)
    folded = {name.lower().replace("-", "_"): name for name in names}
    meant = word[:100].lower().replace("-", "_")
    close = difflib.get_close_matches(meant, list(folded), n=1, cutoff=0.6)
    close = close or [name for name in folded if len(name) > 2 and meant.startswith(name)]  # enviroment: env
    if close:
        return f"Did you mean {folded[close[0]]!r}?"
    return f"Use one of: {', '.join(names)}."


def edits(one: str, other: str) -> int:
    """Return how many letters must be added, removed, changed or swapped to turn one word into the other."""
    above: list[int] = []
    row = list(range(len(other) + 1))
    for at, letter in enumerate(one, start=1):
        above, before, row = row, above, [at]
        for to, same in enumerate(other, start=1):
            cost = min(above[to] + 1, row[to - 1] + 1, above[to - 1] + (letter != same))
            if at > 1 and to > 1 and letter == other[to - 2] and one[at - 2] == same:
                cost = min(cost, before[to - 2] + 1)
            row.append(cost)
    return row[-1]


MASK = "***"
#: Shorter secrets are not searched for in texts: they would match other things.
_SHORTEST = 4
#: From this length on, a secret is also found inside a word.
_LONG = 8
_MOST_KNOWN = 2_000
#: A user name of this length is a token.
_LONG_USER = 20
#: Passwords that mean that the user name is a token.
_NO_PASSWORDS = ("", "x-oauth-basic")

#: Words in the name of a parameter whose value is a secret.
_SECRET_WORDS = frozenset(
    {"token", "password", "passwd", "passphrase", "passcode", "pwd", "secret", "apikey", "authkey", "accesskey"}
    | {"key", "jwt", "sas", "sig", "signature", "credential", "credentials", "cred", "creds", "bearer", "authorization"}
    | {"auth", "pass", "hmac", "csrf", "xsrf", "ticket", "skey"}
)
#: Whole names of such parameters; as parts of other names they are too common.
_SECRET_NAMES = frozenset({"auth", "code", "pass", "pw", "pat", "otp", "session", "sessionid", "sid", "jsessionid"})
_SECRET_ENDS = (
    *("token", "password", "passwd", "userpass", "passphrase", "secret"),
    *("apikey", "accesskey", "secretkey", "signature", "sessionid"),
)
_SECRET_STARTS = ("xamz", "xgoog", "xms")
_NAME_WORDS = pattern(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_NOT_ALPHANUMERIC = pattern(r"[^a-z0-9]+")

_known: dict[str, None] = {}
_matching: list[re.Pattern[str]] = []  # the expression that finds them; empty after a new one is known


def remember(secret: str) -> None:
    """Remember a secret, and the forms in which programs print it."""
    if len(secret) < _SHORTEST or len(_known) >= _MOST_KNOWN or secret in _known or MASK in secret:
        return
    decoded = unquote(secret)
    forms = {secret, decoded, quote(secret, safe=""), quote(decoded, safe=""), secret.replace("$", "%24")}
    forms |= {repr(each)[1:-1] for each in (secret, decoded)}
    # a program that splits the URL differently prints a part of the secret
    forms |= {piece for each in (secret, decoded) for piece in re.split(r"\W+", each) if len(piece) >= _LONG}
    _known.update(dict.fromkeys(each for each in forms if len(each) >= _SHORTEST))
    _matching.clear()


def remember_login(userinfo: str) -> None:
    """Remember the secrets in ``user:password`` as a URL has it; a user name without a password is a token."""
    if userinfo == MASK:
        return
    user, _, password = userinfo.partition(":")
    if password in _NO_PASSWORDS or len(user) >= _LONG_USER:
        remember(user)
    if password not in _NO_PASSWORDS:
        import base64

        remember(password)
        remember(base64.b64encode(unquote_to_bytes(user) + b":" + unquote_to_bytes(password)).decode("ascii"))


def hide_known(text: str) -> str:
    """Return the text with all known secrets replaced by ``***``."""
    if not _known:
        return text
    if not _matching:
        longest_first = sorted(_known, key=len, reverse=True)
        _matching.append(re.compile("|".join(map(_expression, longest_first))))
    return _matching[0].sub(MASK, text)


def _expression(secret: str) -> str:
    escaped = re.escape(secret)
    return escaped if len(secret) >= _LONG else rf"(?<![A-Za-z0-9]){escaped}(?![A-Za-z0-9])"


def is_secret_name(name: str) -> bool:
    """Return whether a parameter with this name holds a secret."""
    name = unquote(name)
    joined = _NOT_ALPHANUMERIC.sub("", name.lower())
    if joined in _SECRET_NAMES or joined.endswith(_SECRET_ENDS) or joined.startswith(_SECRET_STARTS):
        return True
    words = {word for part in re.split(r"[^A-Za-z0-9]+", name) for word in _NAME_WORDS.findall(part)}
    return not _SECRET_WORDS.isdisjoint(map(str.lower, words))
