"""``cetool server token``: the tokens of a server, directly in its data directory."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cetool.base.durations import format_age, format_duration, parse_duration
from cetool.base.errors import CetoolError, UsageError
from cetool.cli import options
from cetool.cli.options import option
from cetool.cli.output import print_data, print_json
from cetool.cli.serve import require_extra
from cetool.cli.tables import Column, Items, show_table
from cetool.cli.voice import Voice

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from cetool.server.access import Grant
    from cetool.server.config import ServerConfig
    from cetool.server.data.tokens import Token

TOKENS_SCHEMA = "cetool.server-token-list/1"
TOKEN_SCHEMA = "cetool.server-token-create/1"

token = options.Commands("token", help="Create, list and revoke tokens.")

_ROLES = ("viewer", "contributor", "editor", "admin")


@dataclass(frozen=True)
class Place(options.Group):
    """Which server: its data directory and configuration."""

    data: Annotated[Path | None, option("--data", metavar="DIR", help="Use the server with this data directory.")] = (
        None
    )
    config: Annotated[
        Path | None, option("--config", metavar="FILE", help="Read the server's configuration from this file.")
    ] = None


@dataclass(frozen=True)
class Changing(Place):
    """A change that is confirmed."""

    quiet: options.Quiet = False


@dataclass(frozen=True)
class Querying(Place):
    """A question."""

    as_json: options.AsJson = False


#: The options that give a role, shared with `cetool server user`.
Role = Annotated[str | None, option("--role", metavar="ROLE", help="Give this role.", known=_ROLES)]
On = Annotated[
    list[str] | None,
    option("--on", metavar="PATTERN", help="Give it on these environments: team/*, team/gpu-*, */*."),
]


def config_of(given: Place, *, existing: bool = True) -> ServerConfig:
    """Return the server's configuration. Raises CetoolError if there is no server's data, unless not required."""
    require_extra()
    from cetool.server.config import load_config  # the extra is needed only by these commands

    config = load_config(given.config, {"data": given.data}, os.environ)
    if existing and not config.database.exists():
        raise CetoolError(
            f"{config.data} is not the data directory of a server",
            code="not-found",
            about=str(config.data),
            hint="Name the data directory of `cetool serve` with `--data`, or its configuration with `--config`. "
            "The first start of `cetool serve` creates it.",
        )
    return config


@contextlib.contextmanager
def opened(given: Place, *, write: bool) -> Iterator[tuple[Connection, ServerConfig]]:
    """Open a transaction in the database of a server, which may be running. Raises CetoolError if there is none."""
    config = config_of(given)
    from cetool.server.data.database import Database  # the extra is needed only by these commands

    database = Database.open(config.database, wait=config.database_wait)
    try:
        with database.write() if write else database.read() as tx:
            yield tx, config
    finally:
        database.close()


def voice_of(given: Changing) -> Voice:
    return Voice("quiet" if given.quiet else "normal", os.environ)


def grants_of(role: str | None, patterns: list[str] | None) -> tuple[Grant, ...]:
    """Return the grants of ``--role`` and ``--on``, which belong together."""
    from cetool.server import access  # the extra is needed only by these commands

    if (role is None) != (not patterns):
        raise UsageError("--role and --on belong together", hint="For all environments, write --on '*/*'.")
    if role is None:
        return ()
    return tuple(access.Grant(access.pattern_named(each), access.role_named(role)) for each in patterns or ())


@dataclass(frozen=True)
class CreateTokenOptions(Changing):
    """The options of ``cetool server token create``."""

    user: Annotated[str | None, option("--user", metavar="USER", help="Let the token stand for this user.")] = None
    role: Role = None
    on: On = None
    expires: Annotated[
        str | None, option("--expires", metavar="DURATION", help="Let the token expire after this time (30d).")
    ] = None
    as_json: options.AsJson = False


@token.command("create")
@options.command
def create_token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the token is for.")], *, given: CreateTokenOptions
) -> None:
    """Create a token and print it.

    With `--user` it has the user's rights, with `--role` and `--on` at most that role. The token is not stored and
    cannot be shown again.
    """
    grants = grants_of(given.role, given.on)
    if given.user is None and not grants:
        raise UsageError(
            "the token would have no rights", hint="Name a user (--user), or a role (--role admin --on '*/*'), or both."
        )
    lifetime = None if given.expires is None else parse_duration(given.expires)
    with opened(given, write=True) as (tx, config):
        from cetool.server.data import accounts, audit, tokens  # the extra is needed only by these commands
        from cetool.server.data.database import now

        owner = None if given.user is None else accounts.need_user(tx, given.user)
        new = tokens.NewToken(
            name,
            audit.OPERATOR,
            None if owner is None else owner.id,
            config.default_namespace if owner is None else owner.namespace,
            grants or None,
            None if lifetime is None else now(tx) + lifetime,
        )
        secret, made = tokens.create(tx, new)
        audit.write(tx, audit.Act(audit.OPERATOR, "token.create", f"token {made.id}", _token_document(made)))
    if given.as_json:
        print_json({"schema": TOKEN_SCHEMA, "secret": secret, **_token_document(made)})
    else:
        print_data(f"{secret}\n")
    end = "" if lifetime is None else f"; it expires in {format_duration(lifetime)}"
    voice_of(given).say(f"Created token {made.id} ({made.name}){end}")


@dataclass(frozen=True)
class ListTokensOptions(Querying):
    """The options of ``cetool server token list``."""

    user: Annotated[str | None, option("--user", metavar="USER", help="List the tokens of this user.")] = None
    ended: Annotated[bool, option("--all", help="List expired and revoked tokens, too.")] = False


@token.command("list")
@options.command
def list_tokens(*, given: ListTokensOptions) -> None:
    """List tokens, without their secrets."""
    with opened(given, write=False) as (tx, _):
        from cetool.server.data import accounts, tokens  # the extra is needed only by these commands

        owner = None if given.user is None else accounts.need_user(tx, given.user).id
        found = tokens.listed(tx, user_id=owner, ended=given.ended)
    if given.as_json:
        print_json({"schema": TOKENS_SCHEMA, "tokens": [_token_document(each) for each in found]})
        return
    now = time.time()
    show_table(
        [
            *(Column("ID", right=True), Column("NAME", style="cyan"), Column("USER"), Column("RIGHTS")),
            *(Column("CREATED", rank=2), Column("LAST USED", rank=1), Column("STATE")),
        ],
        [
            (
                *(str(each.id), Items((each.name,)), each.user or "-", Items(_rights(each))),
                *(format_age(now - each.created), _age(each.last_used, now), _state(each, now)),
            )
            for each in found
        ],
    )


@dataclass(frozen=True)
class RevokeOptions(Changing):
    """The options of ``cetool server token revoke``."""


@token.command("revoke")
@options.command
def revoke_token(
    words: Annotated[list[str], typer.Argument(metavar="ID|NAME", help="The tokens, as `list` shows them.")],
    *,
    given: RevokeOptions,
) -> None:
    """Revoke tokens at once, with those that they created."""
    from cetool.base.text import counted  # few commands count

    with opened(given, write=True) as (tx, _):
        from cetool.server.data import audit, tokens  # the extra is needed only by these commands

        for found in [_named(tx, word) for word in words]:
            tokens.revoke(tx, found.id)
            audit.write(tx, audit.Act(audit.OPERATOR, "token.revoke", f"token {found.id}", {"name": found.name}))
    voice_of(given).say(f"Revoked {counted(len(words), 'token')}")


def _named(tx: Connection, word: str) -> Token:
    """Return the token with a number, or the only valid one with a name. Raises CetoolError."""
    from cetool.server.data import tokens  # the extra is needed only by these commands

    if word.isascii() and word.isdecimal() and len(word) < 19:
        number = tokens.get(tx, int(word))
        if number is not None:
            return number
    found = [each for each in tokens.listed(tx) if each.name == word]
    if not found:
        raise CetoolError(f"there is no token {word!r}", code="not-found", about=word)
    if len(found) > 1:
        ids = ", ".join(str(each.id) for each in found)
        raise CetoolError(
            f"{len(found)} tokens are called {word!r}", code="name-ambiguous", about=word, hint=f"Name one of: {ids}."
        )
    return found[0]


def _rights(found: Token) -> tuple[str, ...]:
    if found.grants is None:
        return ("the user's",)
    return tuple(f"{grant.role} on {grant.pattern}" for grant in found.grants)


def _state(found: Token, now: float) -> str:
    if found.problem(now):
        return "revoked" if found.revoked is not None else "expired" if found.expires is not None else "disabled"
    return "valid" if found.expires is None else f"expires in {format_duration(found.expires - now)}"


def _age(moment: float | None, now: float) -> str:
    return "never" if moment is None else format_age(now - moment)


def _token_document(found: Token) -> dict[str, object]:
    return {
        "id": found.id,
        "name": found.name,
        "user": found.user,
        "namespace": found.namespace,
        "rights": None if found.grants is None else list(_rights(found)),
        "created": found.created,
        "by": found.by,
        "expires": found.expires,
        "last_used": found.last_used,
        "revoked": found.revoked,
    }
