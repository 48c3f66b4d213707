"""Log in to servers and out: pin the key of each, store its token, and have runs ask it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cetool.app.world import World
from cetool.base.errors import CetoolError, ConfigError, UsageError
from cetool.remote.answers import changed_key
from cetool.remote.connection import Access, server_url
from cetool.remote.pinned import Pinned, checked_token, given_token, introduced, pinned_servers
from cetool.settings.file import read_config_file, remove_setting, write_setting
from cetool.settings.paths import config_file_path

KEY = "servers"


@dataclass(frozen=True, slots=True)
class Known:
    """A server of the settings, or one that the user logged in to."""

    url: str
    #: Whether runs ask it.
    asked: bool
    #: None for a server whose key is not known.
    pinned: Pinned | None
    #: Whether there is a token for it: stored, or in the variable.
    has_token: bool


def look_at(url: str, key: str | None, world: World, *, insecure: bool) -> Pinned:
    """Ask a server for its key. Raises CetoolError for another key than ``key`` or the one that is stored."""
    address = server_url(url, insecure=insecure)
    if world.offline:
        raise UsageError("cetool is offline, and `cetool login` asks a server", code="offline-missing")
    before = pinned_servers(world.environ).find(address)
    found = introduced(Access(address, None, world.loaded.condarc))
    if key is not None and not found.fingerprint.startswith(_hex(key)):
        raise CetoolError(
            f"the key of {found.shown} is {found.fingerprint}, not {key}",
            code="server-key-changed",
            about=address,
            hint="Ask the operator of the server for its key.",
        )
    if before is not None and before.public != found.public:
        raise changed_key(before)
    return replace(found, token=None if before is None else before.token)


def _hex(text: str) -> str:
    digits = text.lower().removeprefix("sha256:").replace(":", "").strip()
    if len(digits) < 16 or set(digits) - set("0123456789abcdef"):
        raise UsageError("--key takes at least 16 hex digits of a key's fingerprint")
    return digits


def with_token(pinned: Pinned, token: str | None, world: World) -> Pinned:
    """Return the server with a token, and the user that it belongs to; without a token if that is empty.

    Raises CetoolError if the server refuses the token.
    """
    token = pinned.token if token is None else checked_token(token.strip(), "the token") or None
    found = introduced(Access(pinned.url, token, world.loaded.condarc))
    if found.public != pinned.public:
        raise changed_key(pinned)
    if token and found.user is None:
        raise CetoolError(
            f"{pinned.shown} does not accept the token",
            code="not-authenticated",
            about=pinned.url,
            hint="It may have expired or been revoked: ask the server's administrator for another one.",
        )
    return replace(found, token=token)


def log_in(pinned: Pinned, world: World) -> Path | None:
    """Store a server's key, and its token unless that is in a variable; have runs ask it.

    Return the configuration file if it was changed.
    """
    token = pinned.token if pinned.token != given_token(world.environ) else None
    pinned_servers(world.environ).add(replace(pinned, token=token))
    return _configured(lambda urls: urls if pinned.url in urls else [*urls, pinned.url], world)


def log_out(url: str, world: World) -> tuple[str, bool]:
    """Forget a server's token and key, and have runs no longer ask it; return its URL and whether it was known."""
    wanted = server_url(url, insecure=True)
    forgotten = pinned_servers(world.environ).forget(wanted)
    changed = _configured(lambda urls: [each for each in urls if each != wanted], world)
    return wanted, forgotten or changed is not None


def _configured(change: Callable[[list[str]], list[str]], world: World) -> Path | None:
    """Change the setting ``servers`` in the configuration file; return its path if it was changed."""
    path = config_file_path(world.environ)
    if path is None:
        raise ConfigError("no directory for the configuration file: HOME is not set", code="home-missing")
    value = read_config_file(path).get(KEY, ([], None))[0]
    listed = value if isinstance(value, list) else [value] if isinstance(value, str) and value != "none" else []
    before = [str(each).rstrip("/") for each in listed]
    after = change(before)
    if after == before:
        return None
    if after:
        write_setting(path, KEY, after)
    else:
        remove_setting(path, KEY)
    return path


def known_servers(world: World) -> Sequence[Known]:
    """Return the servers that runs ask, in their order; then the others that the user logged in to."""
    pinned = {each.url: each for each in pinned_servers(world.environ).all()}
    asked = world.settings.servers or ()
    given = given_token(world.environ) is not None
    found = []
    for url in dict.fromkeys((*asked, *pinned)):
        each = pinned.get(url)
        found.append(Known(url, url in asked, each, given or (each is not None and each.token is not None)))
    return found


def token_in_variable(world: World) -> str | None:
    """Return the token that programs pass. Raises ConfigError if it is malformed."""
    return given_token(world.environ)
