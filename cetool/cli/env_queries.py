"""The commands of ``cetool env`` that only ask; :mod:`cetool.cli.env` registers them."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Annotated, Any

import typer

from cetool.app.on_server import OnServer
from cetool.base.durations import format_age, format_size
from cetool.base.errors import UsageError
from cetool.base.text import counted, neutral_line
from cetool.cli import completing, options
from cetool.cli.options import option
from cetool.cli.output import print_data, print_json, print_line
from cetool.cli.tables import Cell, Column, Items, show_table
from cetool.cli.voice import Voice
from cetool.declare.named import Named, parse_named
from cetool.declare.platforms import PLATFORMS

SCHEMA = "cetool.env"

Target = Annotated[
    str,
    typer.Argument(metavar="NAMESPACE/NAME", autocompletion=completing.named, help="An environment on the server."),
]
Build = Annotated[
    str,
    typer.Argument(
        metavar="NAMESPACE/NAME|BUILD",
        autocompletion=completing.named,
        help="An environment, one of its builds (NAME@BUILD), or a build's number.",
    ),
]
Server = Annotated[
    str | None,
    option(
        "--server", metavar="URL", help="Ask this server.", show_default="the first one", complete=completing.servers
    ),
]


@dataclass(frozen=True)
class ServerOptions(options.Output):
    """Which server is asked."""

    server: Server = None


@dataclass(frozen=True)
class QueryOptions(options.Group):
    """The options of commands that only ask."""

    server: Server = None
    as_json: options.AsJson = False


def open_server(given: Any) -> tuple[OnServer, Voice]:
    world, voice = options.open_world(given)
    return OnServer(world, voice, given.server), voice


@dataclass(frozen=True)
class ListOptions(QueryOptions):
    """The options of ``cetool env list``."""

    search: Annotated[str | None, option("--search", metavar="TEXT", help="List names with this text only.")] = None


@options.command
def list_environments(
    namespace: Annotated[
        str | None, typer.Argument(metavar="NAMESPACE", help="List this namespace only.", show_default=False)
    ] = None,
    *,
    given: ListOptions,
) -> None:
    """List the environments on the server."""
    server, voice = open_server(given)
    with server:
        found = server.environments(namespace, given.search)
        completing.keep_named(server.world, [f"{each['namespace']}/{each['name']}" for each in found])
    if given.as_json:
        rows = [_environment_document(each) for each in found]
        print_json({"schema": f"{SCHEMA}-list/1", "server": server.access.url, "environments": rows})
        return
    if not found:
        voice.say(f"There are no environments on {server.access.shown}. `cetool env create NAME SPEC` creates one.")
        return
    columns = [
        Column("NAME", style="cyan"),
        Column("BUILD", right=True),
        Column("CHANGED", rank=1),
        Column("DESCRIPTION", rank=2, least=20),
    ]
    cells: list[list[Cell]] = [
        [
            f"{each['namespace']}/{each['name']}",
            str(each["build"] or "-"),
            _age(each.get("changed")),
            Items((each.get("description") or "-",)),
        ]
        for each in found
    ]
    show_table(columns, cells, footer=f"{counted(len(found), 'environment')}, on {server.access.shown}")


@dataclass(frozen=True)
class ShowOptions(QueryOptions):
    """The options of ``cetool env show``."""

    platform: Annotated[
        str | None,
        option("--platform", metavar="PLATFORM", help="Show the packages for this platform.", known=PLATFORMS),
    ] = None


@options.command
def show(target: Build, *, given: ShowOptions) -> None:
    """Show a build and its packages."""
    server, voice = open_server(given)
    with server:
        number = build_of(server, target, voice, current=True)
        build = server.build(number)
        packages = []
        if build["status"] == "COMPLETED":
            packages = server.packages(number, given.platform)["packages"]
    if given.as_json:
        rows = [_package_document(each) for each in packages]
        print_json({"schema": f"{SCHEMA}-show/1", **build_document(build), "packages": rows})
        return
    facts = [
        ("environment", _name_of(build)),
        ("build", str(build["id"])),
        ("status", build["status"]),
        ("reason", build.get("reason") or ""),
        ("platforms", ", ".join(each["platform"] for each in build.get("platforms", []))),
        ("size", format_size(build["size"]) if isinstance(build.get("size"), int) else ""),
        ("by", build.get("by") or ""),
        ("ended", _age(build.get("ended")) if build.get("ended") else ""),
    ]
    for key, value in facts:
        if value:
            print_line(f"{key + ':':13}{value}")
    if packages:
        print_line()
        columns = [Column("NAME", style="cyan"), Column("VERSION"), Column("BUILD", rank=1), Column("KIND", rank=2)]
        show_table(columns, [[each["name"], each["version"], each["build"] or "-", each["kind"]] for each in packages])


@dataclass(frozen=True)
class LogOptions(ServerOptions):
    """The options of ``cetool env log``."""

    follow: Annotated[bool, option("--follow", "-f", help="Print what is added until the build ends.")] = False


@options.command
def log(target: Build, *, given: LogOptions) -> None:
    """Print the log of a build: the last one of an environment."""
    server, voice = open_server(given)
    with server:
        number = build_of(server, target, voice)
        for text in server.follow_log(number) if given.follow else server.log(number):
            print_data(text)
            sys.stdout.flush()


@options.command
def history(target: Target, *, given: QueryOptions) -> None:
    """List the builds that an environment's name has pointed to."""
    named = environment_of(target)
    server, _ = open_server(given)
    with server:
        found = server.history(named)
    if given.as_json:
        rows = [{key: each.get(key) for key in ("action", "build", "by", "at", "note")} for each in found]
        print_json({"schema": f"{SCHEMA}-history/1", "environment": named.place, "history": rows})
        return
    columns = [
        Column("BUILD", right=True),
        Column("ACTION"),
        Column("BY", rank=2),
        Column("WHEN"),
        Column("NOTE", rank=1),
    ]
    cells: list[list[Cell]] = [
        [str(each["build"] or "-"), each["action"], each["by"], _age(each.get("at")), each.get("note") or "-"]
        for each in found
    ]
    show_table(columns, cells)


@options.command
def diff(
    target: Target,
    before: Annotated[
        int | None,
        typer.Argument(metavar="FROM", help="The number of a build; the previous one.", show_default=False),
    ] = None,
    after: Annotated[
        int | None,
        typer.Argument(metavar="TO", help="The number of another one; the current one.", show_default=False),
    ] = None,
    *,
    given: QueryOptions,
) -> None:
    """Show how the packages of two builds differ."""
    named = environment_of(target)
    server, voice = open_server(given)
    with server:
        if after is None:
            after = server.environment(named)["build"]
            if after is None:
                raise UsageError(f"{named.place} has no current build to compare with", hint="Name two builds.")
        if before is None:
            before = _previous(server, named, after)
        found = server.differences(named, before, after)
    changes = [{key: each.get(key) for key in ("platform", "name", "before", "after")} for each in found["changes"]]
    if given.as_json:
        print_json({"schema": f"{SCHEMA}-diff/1", "before": before, "after": after, "changes": changes})
        return
    if not changes:
        voice.say(f"Builds {before} and {after} of {named.place} have the same packages")
        return
    several = len({each["platform"] for each in changes}) > 1
    for each in changes:
        platform = f"{each['platform']}  " if several else ""
        print_line(f"{platform}{each['name']}: {each['before'] or 'none'} -> {each['after'] or 'none'}")


def _previous(server: OnServer, named: Named, build: int) -> int:
    """Return the build that the name pointed to before this one."""
    found = [each["build"] for each in server.history(named) if each["build"] is not None]
    earlier = found[found.index(build) + 1 :] if build in found else []
    previous = next((each for each in earlier if each != build), None)
    if previous is None:
        raise UsageError(f"{named.place} has no build before {build}", hint="Name two builds.")
    return int(previous)


# --- parts -----------------------------------------------------------------------------------------------------------


def environment_of(target: str) -> Named:
    named = parse_named(target)
    if named.build is not None:
        raise UsageError(f"{target} names a build", hint=f"Name the environment: {named.place}")
    return named


def build_of(server: OnServer, target: str, voice: Voice, *, current: bool = False) -> int:
    """Return the number of the build that a word means: the current one of an environment, or its last one."""
    if current and not target.isdecimal():
        named = parse_named(target)
        build = named.build or server.environment(named)["build"]
        if isinstance(build, int):
            return build
    return server.last_build(target)


def _name_of(build: Any) -> str:
    return f"{build['namespace']}/{build['name']}" if build.get("name") else ""


def build_document(build: Any) -> dict[str, object]:
    keys = ("status", "reason", "code", "by", "origin", "profile", "scheduled", "started", "ended")
    return {
        "build": build["id"],
        "environment": _name_of(build) or None,
        **{key: build.get(key) for key in keys},
        "size_bytes": build.get("size"),
        "platforms": [each["platform"] for each in build.get("platforms", [])],
    }


def _environment_document(each: Any) -> dict[str, object]:
    return {key: each.get(key) for key in ("namespace", "name", "build", "description", "created", "changed")}


def _package_document(each: Any) -> dict[str, object]:
    return {key: each.get(key) for key in ("kind", "name", "version", "build", "subdir", "url", "sha256")}


def seconds_of(text: object) -> float | None:
    """Return the seconds since 1970 of a moment (RFC 3339)."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _age(text: object) -> str:
    moment = seconds_of(text)
    return neutral_line(str(text or "-")) if moment is None else format_age(max(0.0, time.time() - moment))
