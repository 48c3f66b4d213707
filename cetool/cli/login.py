"""``cetool login``, ``logout`` and ``servers``: the servers that runs ask for environments."""

from __future__ import annotations

import getpass
import sys
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Annotated

import typer

from cetool.app import logging_in as app
from cetool.base.errors import UsageError
from cetool.cli import completing, options
from cetool.cli.options import option
from cetool.cli.output import is_terminal, print_json, print_line
from cetool.cli.tables import Cell, Column, Items, show_table
from cetool.remote.pinned import Pinned

SERVERS_SCHEMA = "cetool.servers/1"
#: Bytes of a token on standard input.
_MOST_TOKEN = 8192

_Url = Annotated[
    str,
    typer.Argument(metavar="URL", autocompletion=completing.servers, help="The URL of a server."),
]


@dataclass(frozen=True)
class LoginOptions(options.Output):
    """The options of ``cetool login``."""

    token: Annotated[
        str | None, option("--token", metavar="TOKEN", help="Store this token (- reads it from standard input).")
    ] = None
    key: Annotated[str | None, option("--key", metavar="FINGERPRINT", help="Require the server to have this key.")] = (
        None
    )
    insecure: Annotated[bool, option("--insecure", help="Allow a server over plain http.")] = False


@options.command
def login(url: _Url, *, given: LoginOptions) -> None:
    """Log in to a server, and ask it for environments from now on.

    Shows the server's key and stores it with the token: later answers must be signed with this key. Without --token the
    token is read from the terminal, or from standard input. A token in CETOOL_SERVER_TOKEN is used, but not stored.
    """
    world, voice = options.open_world(given)
    found = app.look_at(url, given.key, world, insecure=given.insecure)
    token = given.token if given.token not in (None, "-") else app.token_in_variable(world)
    if given.token == "-" or token is None:
        token = _asked(found) if given.token != "-" and is_terminal(sys.stdin) else _read() or None
    found = app.with_token(found, token, world)
    path = app.log_in(found, world)
    who = f" as {found.user}" if found.user else "" if found.token else " without a token"
    where = f"; added it to {path}" if path is not None else ""
    voice.say(f"Logged in to {found.shown}{who} (its key is {found.fingerprint}){where}")


def _read() -> str:
    """Return the first line of standard input."""
    return sys.stdin.readline(_MOST_TOKEN).strip()


def _asked(found: Pinned) -> str:
    """Show the server's key, and ask for a token without showing it."""
    print_line(f"The key of {found.shown} is {found.fingerprint}", error=True)
    try:
        return getpass.getpass("Token (empty for none): ", stream=sys.stderr).strip()
    except (EOFError, KeyboardInterrupt):
        raise UsageError("no token was given", hint="Pass it with --token, or in CETOOL_SERVER_TOKEN.") from None


@dataclass(frozen=True)
class LogoutOptions(options.Output):
    """The options of ``cetool logout``."""


@options.command
def logout(url: _Url, *, given: LogoutOptions) -> None:
    """Forget a server's token and key, and no longer ask it."""
    world, voice = options.open_world(given)
    wanted, known = app.log_out(url, world)
    shown = wanted.partition("://")[2]
    voice.say(f"Logged out of {shown}" if known else f"Not logged in to {shown}")


@dataclass(frozen=True)
class ServersOptions(options.Group):
    """The options of ``cetool servers``."""

    as_json: options.AsJson = False


@options.command
def servers(*, given: ServersOptions) -> None:
    """List the servers that are asked for environments."""
    world, voice = options.open_world(given)
    found = app.known_servers(world)
    if given.as_json:
        print_json({"schema": SERVERS_SCHEMA, "servers": list(map(_document, found))})
        return
    if not found:
        voice.say("No server is configured. `cetool login URL` adds one.")
        return
    columns = [
        Column("URL", style="cyan"),
        Column("USER"),
        Column("KEY", rank=1, least=16),
        Column("TOKEN", rank=2),
        Column("ASKED", rank=3),
    ]
    rows: list[list[Cell]] = [
        [
            each.url,
            (each.pinned.user if each.pinned is not None else None) or "-",
            "-" if each.pinned is None else Items((each.pinned.fingerprint,), (each.pinned.fingerprint[:16],)),
            "yes" if each.has_token else "no",
            "yes" if each.asked else "no",
        ]
        for each in found
    ]
    show_table(columns, rows)


def _document(each: app.Known) -> dict[str, object]:
    pinned = each.pinned
    since = None if pinned is None else datetime.fromtimestamp(int(pinned.since), timezone.utc)
    return {
        "url": each.url,
        "asked": each.asked,
        "key": None if pinned is None else pinned.fingerprint,
        "server": None if pinned is None else pinned.server,
        "user": None if pinned is None else pinned.user,
        "token": each.has_token,
        "since": None if since is None else since.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
