"""``cetool server grant``: the grants of a server, directly in its data directory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated

import typer

from cetool.base.durations import format_age
from cetool.base.errors import UsageError
from cetool.cli import options
from cetool.cli.options import option
from cetool.cli.output import print_json
from cetool.cli.server_tokens import Changing, Querying, opened, voice_of
from cetool.cli.tables import Column, Items, show_table

SCHEMA = "cetool.server-grant-list/1"

grant = options.Commands("grant", help="Add, list and remove grants.")


@dataclass(frozen=True)
class AddOptions(Changing):
    """The options of ``cetool server grant add``."""

    user: Annotated[str | None, option("--user", metavar="USER", help="Grant to this user.")] = None
    namespace: Annotated[
        str | None,
        option("--namespace", metavar="NAMESPACE", help="Grant to the users with this primary namespace."),
    ] = None
    all_users: Annotated[bool, option("--all-users", help="Grant to all users and tokens.")] = False
    anonymous: Annotated[
        bool, option("--anonymous", help="Grant to requests without a token, if `anonymous-access` is set.")
    ] = False


@grant.command("add")
@options.command
def add_grant(
    role: Annotated[str, typer.Argument(metavar="ROLE", help="Viewer, contributor, editor or admin.")],
    pattern: Annotated[str, typer.Argument(metavar="PATTERN", help="On these environments: team/*, team/gpu-*, */*.")],
    *,
    given: AddOptions,
) -> None:
    """Grant a role on environments.

    Grants add up. The server applies a new one to the next request.
    """
    chosen = [
        *([("user", given.user)] if given.user is not None else []),
        *([("namespace", given.namespace)] if given.namespace is not None else []),
        *([("authenticated", "")] if given.all_users else []),
        *([("anonymous", "")] if given.anonymous else []),
    ]
    if len(chosen) != 1:
        raise UsageError("name one of --user, --namespace, --all-users and --anonymous")
    with opened(given, write=True) as (tx, _):
        from cetool.server.data import accounts, audit  # the extra is needed only by these commands

        made = accounts.add_grant(tx, accounts.NewGrant(*chosen[0], pattern, role), by=audit.OPERATOR)
        data = {"id": made.id, "role": made.role, "subject": f"{made.subject_kind} {made.subject}".strip()}
        audit.write(tx, audit.Act(audit.OPERATOR, "grant.create", made.pattern, data))
    voice_of(given).say(f"Granted {made.role} on {made.pattern} to {_subject(made.subject_kind, made.subject)}")


@dataclass(frozen=True)
class ListOptions(Querying):
    """The options of ``cetool server grant list``."""


@grant.command("list")
@options.command
def list_grants(*, given: ListOptions) -> None:
    """List the grants in the database.

    Those of users and tokens in the configuration are not in it.
    """
    with opened(given, write=False) as (tx, _):
        from cetool.server.data import accounts  # the extra is needed only by these commands

        found = accounts.grants(tx)
    if given.as_json:
        names = ("id", "subject_kind", "subject", "role", "pattern", "created", "by")
        print_json({"schema": SCHEMA, "grants": [{name: getattr(each, name) for name in names} for each in found]})
        return
    now = time.time()
    show_table(
        [
            *(Column("ID", right=True), Column("TO", style="cyan"), Column("ROLE"), Column("ON")),
            *(Column("CREATED", rank=1), Column("BY", rank=2)),
        ],
        [
            (
                *(str(each.id), Items((_subject(each.subject_kind, each.subject),)), each.role, Items((each.pattern,))),
                *(format_age(now - each.created), each.by),
            )
            for each in found
        ],
    )


@dataclass(frozen=True)
class RemoveOptions(Changing):
    """The options of ``cetool server grant remove``."""


@grant.command("remove")
@options.command
def remove_grant(
    numbers: Annotated[list[int], typer.Argument(metavar="ID", help="The grants, by the numbers that `list` shows.")],
    *,
    given: RemoveOptions,
) -> None:
    """Remove grants."""
    from cetool.base.text import counted  # few commands count

    with opened(given, write=True) as (tx, _):
        from cetool.server.data import accounts, audit  # the extra is needed only by these commands

        for number in numbers:
            gone = accounts.remove_grant(tx, number)
            data = {"id": gone.id, "role": gone.role, "subject": f"{gone.subject_kind} {gone.subject}".strip()}
            audit.write(tx, audit.Act(audit.OPERATOR, "grant.delete", gone.pattern, data))
    voice_of(given).say(f"Removed {counted(len(numbers), 'grant')}")


def _subject(kind: str, name: str) -> str:
    words = {
        "user": f"user {name}",
        "namespace": f"the users of {name}",
        "authenticated": "all users",
        "anonymous": "everyone",
    }
    return words[kind]
