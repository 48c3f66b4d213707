"""``cetool server user`` and ``explain-access``: a server's users and their rights, directly in its data directory."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from cetool.base.durations import format_age
from cetool.base.errors import CetoolError, UsageError
from cetool.cli import options
from cetool.cli.options import option
from cetool.cli.output import print_json
from cetool.cli.serve import require_extra
from cetool.cli.server_tokens import Changing, On, Querying, Role, grants_of, opened, voice_of
from cetool.cli.tables import Column, Items, show_table

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from cetool.server.access import Principal
    from cetool.server.config import ServerConfig

USERS_SCHEMA = "cetool.server-user-list/1"
ACCESS_SCHEMA = "cetool.server-access/1"

user = options.Commands("user", help="Add, list and remove users.")

_PasswordStdin = Annotated[bool, option("--password-stdin", help="Read the password from standard input.")]
_UserName = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]


@dataclass(frozen=True)
class AddUserOptions(Changing):
    """The options of ``cetool server user add``."""

    password_stdin: _PasswordStdin = False
    namespace: Annotated[
        str | None, option("--namespace", metavar="NAMESPACE", help="Set the primary namespace (default: the name).")
    ] = None
    role: Role = None
    on: On = None


@user.command("add")
@options.command
def add_user(name: _UserName, *, given: AddUserOptions) -> None:
    """Add a user.

    Asks for a password on a terminal. A user without a password uses tokens.
    """
    grants = grants_of(given.role, given.on)
    hashed = _hashed(given.password_stdin, needed=False)
    with opened(given, write=True) as (tx, _):
        from cetool.server.data import accounts, audit  # the extra is needed only by these commands

        made = accounts.add_user(tx, name, password=hashed, primary=given.namespace)
        for grant in grants:
            new = accounts.NewGrant("user", name, grant.pattern, grant.role)
            accounts.add_grant(tx, new, by=audit.OPERATOR)
        data = {"namespace": made.namespace, "grants": [f"{grant.role} on {grant.pattern}" for grant in grants]}
        audit.write(tx, audit.Act(audit.OPERATOR, "user.create", f"user {name}", data))
    voice_of(given).say(f"Added user {name}" + ("" if hashed else " without a password"))


@dataclass(frozen=True)
class ListUsersOptions(Querying):
    """The options of ``cetool server user list``."""


@user.command("list")
@options.command
def list_users(*, given: ListUsersOptions) -> None:
    """List users with their grants."""
    with opened(given, write=False) as (tx, config):
        from cetool.server.data import accounts  # the extra is needed only by these commands

        found = [(each, accounts.rights(tx, each.name, each.namespace, config)) for each in accounts.users(tx)]
    if given.as_json:
        rows = [
            {
                "name": each.name,
                "namespace": each.namespace,
                "password": each.password is not None,
                "grants": [f"{grant.role} on {grant.pattern}" for grant in rights],
                "created": each.created,
                "disabled": each.disabled,
            }
            for each, rights in found
        ]
        print_json({"schema": USERS_SCHEMA, "users": rows})
        return
    now = time.time()
    show_table(
        [
            Column("USER", style="cyan"),
            Column("NAMESPACE"),
            Column("GRANTS"),
            Column("CREATED", rank=1),
            Column("STATE"),
        ],
        [
            (
                *(each.name, each.namespace, Items(tuple(f"{grant.role} on {grant.pattern}" for grant in rights))),
                *(format_age(now - each.created), "active" if each.disabled is None else "disabled"),
            )
            for each, rights in found
        ],
    )


@dataclass(frozen=True)
class RemoveUserOptions(Changing):
    """The options of ``cetool server user remove``."""


@user.command("remove")
@options.command
def remove_user(name: _UserName, *, given: RemoveUserOptions) -> None:
    """Remove a user with all tokens and grants.

    The user's environments stay.
    """
    with opened(given, write=True) as (tx, _):
        from cetool.server.data import accounts, audit  # the extra is needed only by these commands

        accounts.remove_user(tx, name)
        audit.write(tx, audit.Act(audit.OPERATOR, "user.delete", f"user {name}"))
    voice_of(given).say(f"Removed user {name}")


@dataclass(frozen=True)
class PasswordOptions(Changing):
    """The options of ``cetool server user password``."""

    password_stdin: _PasswordStdin = False


@user.command("password")
@options.command
def change_password(name: _UserName, *, given: PasswordOptions) -> None:
    """Change a user's password and end the user's sessions."""
    hashed = _hashed(given.password_stdin, needed=True)
    with opened(given, write=True) as (tx, _):
        from cetool.server.data import accounts, audit  # the extra is needed only by these commands

        accounts.change_user(tx, name, password=hashed)
        audit.write(tx, audit.Act(audit.OPERATOR, "user.password", f"user {name}"))
    voice_of(given).say(f"Changed the password of {name}")


def _hashed(from_input: bool, *, needed: bool) -> str | None:
    """Return the hash of the password that a user types or a program sends; None for none."""
    require_extra()
    from cetool.server.login import hash_password  # the extra is needed only by these commands

    if from_input:
        return hash_password(sys.stdin.readline().rstrip("\r\n"))
    if sys.stdin is not None and sys.stdin.isatty():
        typed = typer.prompt(
            "Password", default="", show_default=False, hide_input=True, confirmation_prompt=True, err=True
        )
        return hash_password(typed) if typed or needed else None
    if needed:
        raise UsageError("no password given", hint="Send it to standard input, with --password-stdin.")
    return None


# --- access -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExplainOptions(Querying):
    """The options of ``cetool server explain-access``."""


@options.command
def explain_access(
    who: Annotated[
        str, typer.Argument(metavar="USER", help="A user, `anonymous`, or the number of a token as token:7.")
    ],
    where: Annotated[str, typer.Argument(metavar="NAMESPACE[/NAME]", help="A namespace, or an environment in it.")],
    *,
    given: ExplainOptions,
) -> None:
    """Show what a user may do in a namespace, and why."""
    with opened(given, write=False) as (tx, config):
        from cetool.server import access  # the extra is needed only by these commands

        found = _principal(tx, who, config)
    namespace, _, environment = where.partition("/")
    reasons = access.explain(found, namespace, environment or "*")
    if given.as_json:
        rows = [{"permission": each.permission, "allowed": each.allowed, "reason": each.text} for each in reasons]
        place = {"namespace": namespace, "environment": environment or None}
        print_json({"schema": ACCESS_SCHEMA, "user": found.name, **place, "permissions": rows})
        return
    columns = [Column("PERMISSION", style="cyan"), Column("ALLOWED"), Column("REASON")]
    show_table(columns, [(each.permission, "yes" if each.allowed else "no", Items((each.text,))) for each in reasons])


def _principal(tx: Connection, who: str, config: ServerConfig) -> Principal:
    from cetool.server.access import ANONYMOUS  # the extra is needed only by these commands
    from cetool.server.data import accounts, tokens

    if who == ANONYMOUS:
        return accounts.anonymous(tx, config)
    kind, _, number = who.partition(":")
    if kind == "token" and number.isdecimal():
        found = tokens.get(tx, int(number))
        if found is None:
            raise CetoolError(f"there is no token {number}", code="not-found", about=who)
        return accounts.principal_of(tx, found, config)
    return accounts.user_principal(tx, accounts.need_user(tx, who), config)
