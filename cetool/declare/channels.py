"""Bring channels into their canonical form, and resolve them to URLs.

A channel is a name (``conda-forge``, ``conda-forge/label/dev``), a URL, or a directory, which becomes a ``file://``
URL.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import NoReturn

from cetool.base.errors import Location, MetadataError
from cetool.base.text import has_control, pattern, shorten
from cetool.base.urls import redact, scrub, split_url
from cetool.declare.nodes import Directory, Node
from cetool.declare.source import with_home
from cetool.settings.condarc import DEFAULT_ALIAS, Condarc

#: The entry of a list of channels that excludes the configured ones.
NO_DEFAULTS = "nodefaults"
_SCHEME = pattern(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NAME = pattern(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_LABEL = pattern(r"[A-Za-z][A-Za-z0-9_./-]{0,127}")
#: CEP 26: the most characters in one part of a channel's name.
_LONGEST_PART = 128
#: The channels of ``defaults``, unless ``default_channels`` is set.
DEFAULT_CHANNELS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")
if sys.platform == "win32":
    DEFAULT_CHANNELS += ("https://repo.anaconda.com/pkgs/msys2",)


def file_url(path: str, base_dir: Directory, *, where: Location | None = None) -> str:
    """Return the ``file://`` URL of a path; relative paths start from ``base_dir``, ``~`` is the home directory.

    Symbolic links are not resolved. Raises MetadataError for a path that a URL cannot contain.
    """
    try:
        return Path(os.path.abspath(Path(base_dir, with_home(path, where)))).as_uri()
    except (ValueError, OSError):
        _refuse(path, where, "is not a valid path")


def canonical_channel(text: str, *, base_dir: Directory, where: Location | None = None) -> str:
    """Return the canonical form of a channel: a name, or a URL without a trailing slash.

    A path (``./channel``, ``/srv/channel``, ``~/channel``) becomes a ``file://`` URL, relative to ``base_dir``; a URL
    below conda.anaconda.org becomes the channel's name. Raises MetadataError for an invalid channel.
    """
    channel = text.strip()
    if _SCHEME.match(channel):
        channel = _with_plain_login(channel, where)
    directory = channel.startswith(("./", "../", "/", "~/")) or channel in (".", "..", "~")
    if not channel or has_control(text) or (not directory and re.search(r"[\s\"'<>\\`]", channel)):
        hint = "A channel is a name (conda-forge), a URL without blanks, or a directory (./here or /there)."
        _refuse(text, where, "is not a valid channel", hint)
    if channel.startswith("-"):
        message = f"the channel {shorten(redact(channel))!r} starts with '-', like an option"
        hint = "If it is a directory, write ./ before its name."
        raise MetadataError(message, code="channel-invalid", where=where, hint=hint)
    if directory:
        url = file_url(channel, base_dir, where=where)
        if url == "file:///":
            _refuse(channel, where, "is not a valid channel: it is the root of the file system")
        return url
    if _SCHEME.match(channel):
        url = channel.rstrip("/")
        if url.endswith(":"):
            _refuse(channel, where, "is not a valid channel: it has no host or path")
        for alias in (DEFAULT_ALIAS, DEFAULT_ALIAS.replace("https:", "http:")):
            if url.startswith(alias + "/") and not url.startswith(alias + "/t/"):
                return url[len(alias) + 1 :]
        return url
    channel = channel.rstrip("/")
    try:
        check_channel_name(channel)
    except ValueError as error:
        hint = "A channel is a name (conda-forge), a URL (https://...), or a directory (./here or /there)."
        _refuse(channel, where, f"is not a valid channel: {shorten(scrub(str(error)))}", hint)
    return channel


def _refuse(channel: str, where: Location | None, problem: str, hint: str | None = None) -> NoReturn:
    message = f"{shorten(redact(channel))!r} {problem}"
    raise MetadataError(message, code="channel-invalid", where=where, hint=hint) from None


def check_channel_name(channel: str) -> None:
    """Raise ValueError, with the reason, if a channel cannot have this name (CEP 26).

    Capital letters are accepted: CEP 26 forbids them, but conda and anaconda.org read ``-c Esri`` as ``-c esri``.
    """
    name, found, label = channel.partition("/label/")
    for part in name.split("/"):
        if not _NAME.fullmatch(part):
            raise ValueError(f"'{part}' has characters other than letters, digits, . _ and -, or starts with . or -")
        if len(part) > _LONGEST_PART:
            raise ValueError(f"a part of its name has more than {_LONGEST_PART} characters")
    if found and not _LABEL.fullmatch(label):
        raise ValueError(f"'{shorten(label)}' is not a valid label: it must start with a letter")


def _with_plain_login(channel: str, where: Location | None) -> str:
    """Return a channel's URL with characters escaped in its login that programs could split differently.

    Raises MetadataError for a URL without a valid host.
    """
    try:
        url = split_url(channel)
    except ValueError as error:
        hint = "Write https://HOST/CHANNEL. In a user or password, escape special characters: @ is %40."
        _refuse(channel, where, f"is not a valid channel: {error}", hint)
    if url.userinfo is None:
        return channel
    plain = url.userinfo.replace("@", "%40").replace("'", "%27")
    return channel.replace(f"://{url.userinfo}@", f"://{plain}@", 1)


def channels_of(node: Node | None, base_dir: Directory, what: str = "channels") -> tuple[str, ...] | None:
    """Return the canonical channels of a list; None if it is missing or empty.

    ``nodefaults`` is not a channel: see :func:`ends_channels`. Entries are names, URLs or directories, or (pixi) tables
    with ``channel`` and ``priority``, sorted by descending priority. Raises MetadataError, also if ``nodefaults`` alone
    leaves no channel.
    """
    if node is None or node.kind == "nothing":
        return None
    ranked = []
    for item in node.as_list(what, "Write [conda-forge], or one entry per line."):
        priority = 0
        if item.kind == "mapping":
            fields = item.as_mapping(f"an entry of {what}", ("channel", "priority"))
            if (given := fields.get("priority")) is not None:
                if given.kind != "number" or not given.text.lstrip("+-").isdigit() or len(given.text) > 9:
                    given.fail("the priority of a channel must be an integer")
                priority = int(given.text)
            item = fields.get("channel") or item
        ranked.append((-priority, canonical_channel(item.as_text("a channel"), base_dir=base_dir, where=item.where)))
    found = [channel for _, channel in sorted(ranked, key=lambda pair: pair[0])]
    kept = tuple(dict.fromkeys(channel for channel in found if channel != NO_DEFAULTS))
    if found and not kept:
        node.fail(f"{what} has only '{NO_DEFAULTS}', which leaves no channel", "Add the channels to use.")
    return kept or None


def ends_channels(node: Node | None) -> bool:
    """Return whether ``nodefaults`` excludes the configured channels, which otherwise follow (CEP 24)."""
    return node is not None and any(item.text.strip() == NO_DEFAULTS for item in node.items)


def resolve_channel(channel: str, condarc: Condarc) -> tuple[str, ...]:
    """Return the URLs (without a trailing slash, credentials included) of a channel's name, path or URL.

    Most channels have one; a multichannel such as ``defaults`` has several, in order.
    """
    name = channel.strip("/") if not channel.startswith("/") else channel
    multi = condarc.custom_multichannels.get(name)
    if multi is None and name == "defaults":
        multi = condarc.default_channels or DEFAULT_CHANNELS
    if multi is not None:
        return tuple(dict.fromkeys(_url_of(member, condarc) for member in multi))
    return (_url_of(channel, condarc),)


def _url_of(channel: str, condarc: Condarc) -> str:
    if _SCHEME.match(channel):
        return channel.rstrip("/")
    if channel.startswith(("/", "./", "../", "~/")):
        return Path(os.path.abspath(os.path.expanduser(channel))).as_uri()
    name = channel.strip("/")
    # a custom channel may match the first parts of a name: `acme: https://host` applies to `acme/label/dev`
    parts = name.split("/")
    custom = {"pkgs/pro": "https://repo.anaconda.com", **condarc.custom_channels}
    for end in range(len(parts), 0, -1):
        base = custom.get("/".join(parts[:end]))
        if base is not None:
            if base.startswith(("/", "~/")):
                base = Path(os.path.abspath(os.path.expanduser(base))).as_uri()
            if _SCHEME.match(base):
                return f"{base.rstrip('/')}/{name}"
            break
    alias = condarc.channel_alias.rstrip("/")
    return f"{alias}/{name}" if _SCHEME.match(alias) else f"https://{alias}/{name}"
