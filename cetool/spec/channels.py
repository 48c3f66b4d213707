"""Channels and their canonical form.

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
from cetool.spec.source import with_home
from cetool.spec.urls import redact, split_url

_MOST_SHOWN = 120
_SCHEME = pattern(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NAME = pattern(r"[A-Za-z0-9_][A-Za-z0-9_./+-]*\Z")


def file_url(path: str, base_dir: str | os.PathLike[str], *, where: Location | None = None) -> str:
    """The ``file://`` URL of a path; a relative one starts from ``base_dir``, ``~`` is the user's home directory.

    Symbolic links stay as they are. Raises MetadataError for a path that no URL can hold.
    """
    try:
        return Path(os.path.abspath(Path(base_dir, with_home(path, where)))).as_uri()
    except (ValueError, OSError):
        raise MetadataError(f"{_short(redact(path))!r} cannot be the path of a file", where=where) from None


def _short(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"


def canonical_channel(text: str, *, base_dir: str | os.PathLike[str], where: Location | None = None) -> str:
    """The one form of a channel: a name, or a URL without a trailing slash.

    A path (``./channel``, ``/srv/channel``, ``~/channel``) becomes a ``file://`` URL, relative ones from ``base_dir``;
    a URL below conda.anaconda.org becomes the channel's name. Raises MetadataError for what can be no channel.
    """
    channel = text.strip()
    if _SCHEME.match(channel):
        channel = _with_plain_login(channel, where)
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
            f"the channel {_short(redact(channel))!r} starts with a '-', as an option would",
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
            f"{_short(redact(channel))!r} is not a channel",
            where=where,
            hint="A channel is a name (conda-forge), a URL (https://...), or a directory (./here or /there).",
        )
    return channel.rstrip("/")


def _with_plain_login(channel: str, where: Location | None) -> str:
    """The URL of a channel, in its login the characters escaped by which programs could split it in another way.

    Raises MetadataError for a URL without a valid host.
    """
    try:
        url = split_url(channel)
    except ValueError as error:
        raise MetadataError(
            f"{_short(redact(channel))!r} is not a channel: {error}",
            where=where,
            hint="Write https://HOST/CHANNEL. In a user or password, write special characters as in %40 for @.",
        ) from None
    if url.userinfo is None:
        return channel
    plain = url.userinfo.replace("@", "%40").replace("'", "%27")
    return channel.replace(f"://{url.userinfo}@", f"://{plain}@", 1)
