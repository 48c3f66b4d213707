"""Channels: their canonical form, and how the credentials in their URLs are kept out of sight.

A channel is a name (``conda-forge``, ``conda-forge/label/dev``), a URL, or a directory, which becomes a ``file://``
URL.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from cetool.condarc import DEFAULT_ALIAS
from cetool.errors import Location, MetadataError
from cetool.patterns import pattern

_MOST_SHOWN = 120
_SCHEME = pattern(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NAME = pattern(r"[A-Za-z0-9_][A-Za-z0-9_./+-]*\Z")
# user:secret@ in any URL, the /t/TOKEN of anaconda.org's private channels, tokens and signatures in a query; each takes
# time in proportion to the text, whatever is in it
_USERINFO = pattern(r"(://)[^/\s@\"']*@")
_TOKEN = pattern(r"(://[^/\s\"']*(?:/[^/\s\"']*){0,30}?)/t/(?!\*\*\*)[^/\s\"']+")
#: Tokens in one URL; nobody has two, but what is left of a third would be shown.
_MOST_TOKENS = 8
_QUERY = pattern(
    r"([?&](?:token|auth|access_token|private_token|api_key|key|password|sig|signature|x-(?:amz|goog)-[a-z-]+)=)"
    r"[^&\s\"'\]]+",
    re.IGNORECASE,
)


def strip_credentials(text: str) -> str:
    """The text with the credentials of every URL in it removed: what is stored and hashed."""
    return _QUERY.sub(r"\1", _without_tokens(_USERINFO.sub(r"\1", text), "")) if _may_tell(text) else text


def redact(text: str) -> str:
    """The text with the credentials of every URL in it replaced by ``***``: for messages and logs."""
    if not _may_tell(text):
        return text
    return _QUERY.sub(r"\1***", _without_tokens(_USERINFO.sub(r"\1***@", text), "/t/***"))


def _may_tell(text: str) -> bool:
    """Whether there is anything in a text by which credentials are found; in most there is not."""
    return any(mark in text for mark in ("@", "/t/", "?", "&"))


def _without_tokens(text: str, instead: str) -> str:
    """The text with every ``/t/TOKEN`` of its URLs replaced; one URL may have several, of which a pass finds one."""
    for _ in range(_MOST_TOKENS):
        kept = text
        text = _TOKEN.sub(rf"\1{instead}", kept)
        if text == kept:
            break
    return text


def file_url(path: str, base_dir: str | os.PathLike[str], *, where: Location | None = None) -> str:
    """The ``file://`` URL of a path; a relative one starts from ``base_dir``, ``~`` is the user's home directory.

    Symbolic links stay as they are. Raises MetadataError for a path that no URL can hold.
    """
    try:
        return Path(os.path.abspath(Path(base_dir, os.path.expanduser(path)))).as_uri()
    except (ValueError, OSError):
        raise MetadataError(f"{_short(path)!r} cannot be the path of a file", where=where) from None


def _short(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"


def canonical_channel(text: str, *, base_dir: str | os.PathLike[str], where: Location | None = None) -> str:
    """The one form of a channel: a name, or a URL without a trailing slash.

    A path (``./channel``, ``/srv/channel``, ``~/channel``) becomes a ``file://`` URL, relative ones from ``base_dir``;
    a URL below conda.anaconda.org becomes the channel's name. Raises MetadataError for what can be no channel.
    """
    channel = text.strip()
    directory = channel.startswith(("./", "../", "/", "~/")) or channel in (".", "..", "~")
    control = any(ord(char) < 32 or 127 <= ord(char) < 160 or char in "\u2028\u2029" for char in text)
    if not channel or control or (not directory and re.search(r"[\s\"'<>\\`]", channel)):
        raise MetadataError(
            f"{_short(redact(text))!r} is not a channel",
            where=where,
            hint="A channel is a name (conda-forge), a URL without blanks, or a directory (./here or /there).",
        )
    if channel.startswith("-"):
        raise MetadataError(
            f"the channel {_short(channel)!r} starts with a '-', as an option would",
            where=where,
            hint="Write ./ before the name of a directory.",
        )
    if directory:
        return file_url(channel, base_dir, where=where)
    if _SCHEME.match(channel):
        url = channel.rstrip("/")
        for alias in (DEFAULT_ALIAS, DEFAULT_ALIAS.replace("https:", "http:")):
            if url.startswith(alias + "/") and not url.startswith(alias + "/t/"):
                return url[len(alias) + 1 :]
        return url
    if "," in channel or not _NAME.match(channel) or ".." in channel.split("/"):
        raise MetadataError(
            f"{_short(channel)!r} is not a channel",
            where=where,
            hint="A channel is a name (conda-forge), a URL (https://...), or a directory (./here or /there).",
        )
    return channel.rstrip("/")
