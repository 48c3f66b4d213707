"""Secrets: parameters whose names tell of them, and those that this process has seen, to be hidden in what it prints.

They are collected when URLs are split, and when a token is read from the environment or a file.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, unquote_to_bytes

from cetool.base.text import pattern

MASK = "***"
#: A shorter secret is not looked for in texts, where it would mean something else.
_SHORTEST = 4
#: A secret of this length is also found inside a word.
_LONG = 8
_MOST_KNOWN = 2_000
#: A user of this length is a token.
_LONG_USER = 20
#: Passwords that mean that the user is a token.
_NO_PASSWORDS = ("", "x-oauth-basic")

#: Words in the name of a parameter that make its value a secret.
_SECRET_WORDS = frozenset(
    {"token", "password", "passwd", "passphrase", "passcode", "pwd", "secret", "apikey", "authkey", "accesskey"}
    | {"key", "jwt", "sas", "sig", "signature", "credential", "credentials", "cred", "creds", "bearer", "authorization"}
    | {"auth", "pass", "hmac", "csrf", "xsrf", "ticket", "skey"}
)
#: Names that are too common as parts of others.
_SECRET_NAMES = frozenset({"auth", "code", "pass", "pw", "pat", "otp", "session", "sessionid", "sid", "jsessionid"})
_SECRET_ENDS = (
    *("token", "password", "passwd", "userpass", "passphrase", "secret"),
    *("apikey", "accesskey", "secretkey", "signature", "sessionid"),
)
_SECRET_STARTS = ("xamz", "xgoog", "xms")
_NAME_WORDS = pattern(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_NOT_ALPHANUMERIC = pattern(r"[^a-z0-9]+")

_known: dict[str, None] = {}
_matching: list[re.Pattern[str]] = []  # what finds them; empty when more have become known since


def remember(secret: str) -> None:
    """Know a secret, and the forms that programs print it in."""
    if len(secret) < _SHORTEST or len(_known) >= _MOST_KNOWN or secret in _known or MASK in secret:
        return
    decoded = unquote(secret)
    forms = {secret, decoded, quote(secret, safe=""), quote(decoded, safe=""), secret.replace("$", "%24")}
    forms |= {repr(each)[1:-1] for each in (secret, decoded)}
    # a program that splits the URL in another way prints a part of the secret
    forms |= {piece for each in (secret, decoded) for piece in re.split(r"\W+", each) if len(piece) >= _LONG}
    _known.update(dict.fromkeys(each for each in forms if len(each) >= _SHORTEST))
    _matching.clear()


def remember_login(userinfo: str) -> None:
    """Know what is secret in ``user:password`` as it is in a URL; a user without a password is a token."""
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
    """The text with all secrets that are known replaced by ``***``."""
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
    """Whether a parameter of this name holds a secret."""
    name = unquote(name)
    joined = _NOT_ALPHANUMERIC.sub("", name.lower())
    if joined in _SECRET_NAMES or joined.endswith(_SECRET_ENDS) or joined.startswith(_SECRET_STARTS):
        return True
    words = {word for part in re.split(r"[^A-Za-z0-9]+", name) for word in _NAME_WORDS.findall(part)}
    return not _SECRET_WORDS.isdisjoint(map(str.lower, words))
