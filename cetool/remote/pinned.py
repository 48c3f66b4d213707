"""The servers that the user logged in to: the key of each, and its token.

They are files that only this user can read, in the data directory: a key that is lost would have to be trusted again.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cetool.base.codec import decode, encode, sha256_of
from cetool.base.errors import CetoolError, ConfigError, StoreError
from cetool.base.limits import NOTE, parse_json
from cetool.base.text import remember
from cetool.remote.connection import Access, Connection, unusable
from cetool.remote.records import key_id
from cetool.settings.paths import servers_directory
from cetool.settings.settings import SERVER_TOKEN
from cetool.store.keyed import KeyedFiles

_SCHEMA = "cetool.server/1"
_ELSEWHERE = "Set CETOOL_DATA_DIR to a directory that only you can write to."


@dataclass(frozen=True, slots=True)
class Pinned:
    """A server whose key is known."""

    url: str
    #: The server's id.
    server: str
    #: The raw public key (Ed25519), base64.
    public: str
    #: The user that the token belongs to; None for no token, and if unknown.
    user: str | None = None
    token: str | None = None
    #: Seconds since 1970.
    since: float = 0.0

    @property
    def key(self) -> bytes:
        """The raw public key."""
        return base64.b64decode(self.public)

    @property
    def fingerprint(self) -> str:
        """The key's id: 64 hex digits."""
        return key_id(self.key)

    @property
    def shown(self) -> str:
        """Its name in messages: host, port and prefix."""
        return self.url.partition("://")[2]


class PinnedServers:
    """All of them, each in a file that is written in one step."""

    def __init__(self, directory: Path) -> None:
        self._files = KeyedFiles(directory, suffix=".json", sync=True)

    def find(self, url: str) -> Pinned | None:
        """Return a server. Raises StoreError if another user could have written the file."""
        try:
            self._files.check()
            pinned = decode(Pinned, parse_json(self._files.read(_key(url), NOTE), exact=True), schema=_SCHEMA)
            if len(pinned.key) != 32 or pinned.url != url:
                return None
        except StoreError as error:
            raise error.but(hint=_ELSEWHERE) from None
        except (OSError, ValueError, binascii.Error):
            return None
        remember(pinned.token or "")
        return pinned

    def all(self) -> list[Pinned]:
        """Return all servers, sorted by URL. Raises StoreError."""
        self._files.check()
        found = []
        for key in self._files:
            try:
                url = parse_json(self._files.read(key, NOTE), exact=True)["url"]
                found.append(self.find(str(url)))
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return sorted((each for each in found if each is not None), key=lambda each: each.url)

    def add(self, pinned: Pinned) -> None:
        """Store a server, in place of what is known about its URL. Raises StoreError."""
        try:
            self._files.write(_key(pinned.url), json.dumps(encode(pinned, schema=_SCHEMA), indent=1).encode())
        except StoreError as error:
            raise error.but(hint=_ELSEWHERE) from None
        except OSError as error:
            raise StoreError(
                f"cannot write to {self._files.directory}: {error.strerror}",
                code="cache-not-writable",
                hint=_ELSEWHERE,
            ) from None

    def forget(self, url: str) -> bool:
        """Forget a server; return whether it was known."""
        there = self._files.path(_key(url)).exists()
        self._files.remove(_key(url))
        return there


def _key(url: str) -> str:
    return sha256_of(url.encode("utf-8", "surrogatepass"))


def pinned_servers(environ: Mapping[str, str]) -> PinnedServers:
    """Return this user's servers. Raises ConfigError without a home directory."""
    directory = servers_directory(environ)
    if directory is None:
        raise ConfigError(
            "there is no directory for the keys of servers: HOME is not set",
            code="home-missing",
            hint="Set HOME, or CETOOL_DATA_DIR to the path of a directory.",
        )
    return PinnedServers(directory)


def given_token(environ: Mapping[str, str]) -> str | None:
    """Return the token in the variable. Raises ConfigError if it is malformed."""
    token = environ.get(SERVER_TOKEN, "").strip()
    return checked_token(token, SERVER_TOKEN) if token else None


def checked_token(token: str, what: str) -> str:
    """Return a token that can be sent in a header, and hide it in all messages. Raises ConfigError."""
    remember(token)
    if not token.isascii() or not token.isprintable() or " " in token or len(token) > 4096:
        raise ConfigError(f"{what} contains an invalid character", hint="Copy the token again, without line breaks.")
    return token


def unknown_server(url: str) -> CetoolError:
    """Return the error for a server whose key is not known."""
    return CetoolError(
        f"the key of {url.partition('://')[2]} is not known yet",
        code="server-unknown",
        about=url,
        hint=f"Run `cetool login {url}`, which shows the key and stores it.",
    )


def introduced(access: Access) -> Pinned:
    """Ask a server for its key, and who the token belongs to. Raises CetoolError."""
    with Connection(access) as connection:
        told = connection.get("")
    try:
        public = str(told["key"]["public"])
        raw = base64.b64decode(public, validate=True)
        if len(raw) != 32:
            raise ValueError("the key does not have 32 bytes")
        user = told.get("user")
        user = user.get("name") if isinstance(user, dict) else user
        pinned = Pinned(access.url, str(told["server"]), public, None if user is None else str(user)[:200])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise unusable("it is not a server of cetool", access) from None
    return replace(pinned, token=access.token, since=time.time())
