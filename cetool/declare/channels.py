"""Channels and their canonical form.

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

#: The entry of a list of channels that keeps the configured ones out.
NO_DEFAULTS = "nodefaults"
_SCHEME = pattern(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NAME = pattern(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_LABEL = pattern(r"[A-Za-z][A-Za-z0-9_./-]{0,127}")
#: CEP 26: the most characters of a part of a channel's name.
_LONGEST_PART = 128
#: What the channel ``defaults`` stands for unless ``default_channels`` says otherwise.
DEFAULT_CHANNELS = ("https://repo.anaconda.com/pkgs/main", "https://repo.anaconda.com/pkgs/r")
if sys.platform == "win32":
    DEFAULT_CHANNELS += ("https://repo.anaconda.com/pkgs/msys2",)


def file_url(path: str, base_dir: Directory, *, where: Location | None = None) -> str:
    """The ``file://`` URL of a path; a relative one starts from ``base_dir``, ``~`` is the user's home directory.

    Symbolic links stay as they are. Raises MetadataError for a path that no URL can hold.
    """
    try:
        return Path(os.path.abspath(Path(base_dir, with_home(path, where)))).as_uri()
    except (ValueError, OSError):
        _refuse(path, where, "cannot be the path of a file")


def canonical_channel(text: str, *, base_dir: Directory, where: Location | None = None) -> str:
    """The one form of a channel: a name, or a URL without a trailing slash.

    A path (``./channel``, ``/srv/channel``, ``~/channel``) becomes a ``file://`` URL, relative ones from ``base_dir``;
    a URL below conda.anaconda.org becomes the channel's name. Raises MetadataError for what can be no channel.
    """
    channel = text.strip()
    if _SCHEME.match(channel):
        channel = _with_plain_login(channel, where)
    directory = channel.startswith(("./", "../", "/", "~/")) or channel in (".", "..", "~")
    if not channel or has_control(text) or (not directory and re.search(r"[\s\"'<>\\`]", channel)):
        hint = "A channel is a name (conda-forge), a URL without blanks, or a directory (./here or /there)."
        _refuse(text, where, "is not a channel", hint)
    if channel.startswith("-"):
        message = f"the channel {shorten(redact(channel))!r} starts with a '-', as an option would"
        hint = "Write ./ before the name of a directory."
        raise MetadataError(message, code="channel-invalid", where=where, hint=hint)
    if directory:
        url = file_url(channel, base_dir, where=where)
        if url == "file:///":
            _refuse(channel, where, "is not a channel: it is the root of the file system")
        return url
    if _SCHEME.match(channel):
        url = channel.rstrip("/")
        if url.endswith(":"):
            _refuse(channel, where, "is not a channel: it names no place")
        for alias in (DEFAULT_ALIAS, DEFAULT_ALIAS.replace("https:", "http:")):
            if url.startswith(alias + "/") and not url.startswith(alias + "/t/"):
                return url[len(alias) + 1 :]
        return url
    channel = channel.rstrip("/")
    try:
        check_channel_name(channel)
    except ValueError as error:
        hint = "A channel is a name (conda-forge), a URL (https://...), or a directory (./here or /there)."
        _refuse(channel, where, f"is not a channel: {shorten(scrub(str(error)))}", hint)
    return channel


def _refuse(channel: str, where: Location | None, problem: str, hint: str | None = None) -> NoReturn:
    message = f"{shorten(redact(channel))!r} {problem}"
    raise MetadataError(message, code="channel-invalid", where=where, hint=hint) from None


def check_channel_name(channel: str) -> None:
    """Raise ValueError, with the reason, where a channel cannot be called that (CEP 26).

    Capital letters pass: CEP 26 has none, but conda and anaconda.org take ``-c Esri`` for ``-c esri``.
    """
    name, found, label = channel.partition("/label/")
    for part in name.split("/"):
        if not _NAME.fullmatch(part):
            raise ValueError(f"'{part}' has other characters than letters, digits, . _ and -, or starts with . or -")
        if len(part) > _LONGEST_PART:
            raise ValueError(f"a part of its name has more than {_LONGEST_PART} characters")
    if found and not _LABEL.fullmatch(label):
        raise ValueError(f"'{shorten(label)}' is not the name of a label: it starts with a letter")


def _with_plain_login(channel: str, where: Location | None) -> str:
    """The URL of a channel, in its login the characters escaped by which programs could split it in another way.

    Raises MetadataError for a URL without a valid host.
    """
    try:
        url = split_url(channel)
    except ValueError as error:
        hint = "Write https://HOST/CHANNEL. In a user or password, write special characters as in %40 for @."
        _refuse(channel, where, f"is not a channel: {error}", hint)
    if url.userinfo is None:
        return channel
    plain = url.userinfo.replace("@", "%40").replace("'", "%27")
    return channel.replace(f"://{url.userinfo}@", f"://{plain}@", 1)


def channels_of(node: Node | None, base_dir: Directory, what: str = "channels") -> tuple[str, ...] | None:
    """The canonical channels of a list; None where it is left out or empty.

    ``nodefaults`` is not a channel: :func:`ends_channels` tells whether it is there. Entries are names, URLs or
    directories, or (pixi) tables with ``channel`` and ``priority``, the highest of which comes first. Raises
    MetadataError, also where ``nodefaults`` alone leaves no channel.
    """
    if node is None or node.kind == "nothing":
        return None
    ranked = []
    for item in node.as_list(what, "Write [conda-forge], or one entry a line."):
        priority = 0
        if item.kind == "mapping":
            fields = item.as_mapping(f"an entry of {what}", ("channel", "priority"))
            if (given := fields.get("priority")) is not None:
                if given.kind != "number" or not given.text.lstrip("+-").isdigit() or len(given.text) > 9:
                    given.fail("the priority of a channel must be a whole number")
                priority = int(given.text)
            item = fields.get("channel") or item
        ranked.append((-priority, canonical_channel(item.as_text("a channel"), base_dir=base_dir, where=item.where)))
    found = [channel for _, channel in sorted(ranked, key=lambda pair: pair[0])]
    kept = tuple(dict.fromkeys(channel for channel in found if channel != NO_DEFAULTS))
    if found and not kept:
        node.fail(f"{what} has only '{NO_DEFAULTS}', which leaves no channel", "Name the channels to use as well.")
    return kept or None


def ends_channels(node: Node | None) -> bool:
    """Whether ``nodefaults`` says that the configured channels do not come after those named (CEP 24)."""
    return node is not None and any(item.text.strip() == NO_DEFAULTS for item in node.items)


def resolve_channel(channel: str, condarc: Condarc) -> tuple[str, ...]:
    """The URLs (without a trailing slash, credentials included) that a channel's name, path or URL stands for.

    Most stand for one; a multichannel, ``defaults`` among them, for several in their order.
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
    # a custom channel may name a channel's first parts only: `acme: https://host` makes `acme/label/dev` a URL there
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
