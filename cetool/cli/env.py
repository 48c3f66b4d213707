"""``cetool env``: environments on a server."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from cetool.app.on_server import EnvironmentWish, OnServer
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
#: Seconds after which the progress of an upload is of no use.
app = options.Commands("env", help="Create and use environments on a server.")

_Target = Annotated[
    str,
    typer.Argument(metavar="NAMESPACE/NAME", autocompletion=completing.named, help="An environment on the server."),
]
_Build = Annotated[
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


def _open(given: Any) -> tuple[OnServer, Voice]:
    world, voice = options.open_world(given)
    return OnServer(world, voice, given.server), voice


# --- create -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CreateOptions(ServerOptions):
    """The options of ``cetool env create``."""

    file: Annotated[
        Path | None, option("--file", metavar="FILE", help="Read an environment.yml, a lock file or a script.")
    ] = None
    wait: Annotated[bool, option("--wait/--no-wait", help="Wait until the build has ended.")] = True
    platform: Annotated[
        list[str] | None,
        option("--platform", metavar="PLATFORM", help="Build for this platform.", known=PLATFORMS),
    ] = None
    profile: Annotated[
        str | None, option("--profile", metavar="NAME", help="Build for machines of this profile, such as cuda12.")
    ] = None
    description: Annotated[str | None, option("--description", metavar="TEXT", help="Describe the environment.")] = None
    refresh: Annotated[bool, option("--refresh", help="Solve again, for the newest packages.")] = False
    as_json: options.AsJson = False


@app.command("create")
@options.command
def create(
    target: Annotated[
        str, typer.Argument(metavar="[NAMESPACE/]NAME", help="The name of the environment.", show_default=False)
    ],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="SPEC|SCRIPT", help="Match specs, or a script.", show_default=False),
    ] = None,
    *,
    given: CreateOptions,
) -> None:
    """Build an environment on the server.

    If the server has built the same before, it is there at once. With Ctrl-C the build continues on the server.
    """
    wish = EnvironmentWish(
        target,
        tuple(words or ()),
        given.file,
        tuple(given.platform or ()),
        given.profile,
        given.description,
        given.refresh,
    )
    server, voice = _open(given)
    with server:
        asked = server.request(wish)
        what = asked.environment or target
        if not given.wait:
            voice.say(f"Requested build {asked.build} of {what}")
            build = server.build(asked.build)
        else:
            try:
                build = server.wait(asked.build, what)
            except KeyboardInterrupt:
                voice.say(f"Build {asked.build} of {what} continues on the server: `cetool env log {what}` follows it")
                raise
            voice.say(_created(build, what, asked.created))
    if given.as_json:
        print_json({"schema": f"{SCHEMA}-build/1", "build": _build_document(build), "created": asked.created})


def _created(build: Any, what: str, created: bool) -> str:
    if not created:
        return f"{what} is up to date (build {build['id']})"
    size = build.get("size")
    more = f", {format_size(size)}" if isinstance(size, int) else ""
    started, ended = _seconds(build.get("started")), _seconds(build.get("ended"))
    took = f" in {ended - started:.1f}s" if started is not None and ended is not None else ""
    return f"Created {what} (build {build['id']}{more}){took}"


# --- queries ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ListOptions(QueryOptions):
    """The options of ``cetool env list``."""

    search: Annotated[str | None, option("--search", metavar="TEXT", help="List names with this text only.")] = None


@app.command("list")
@options.command
def list_environments(
    namespace: Annotated[
        str | None, typer.Argument(metavar="NAMESPACE", help="List this namespace only.", show_default=False)
    ] = None,
    *,
    given: ListOptions,
) -> None:
    """List the environments on the server."""
    server, voice = _open(given)
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


@app.command("show")
@options.command
def show(target: _Build, *, given: ShowOptions) -> None:
    """Show a build and its packages."""
    server, voice = _open(given)
    with server:
        number = _number(server, target, voice, current=True)
        build = server.build(number)
        packages = []
        if build["status"] == "COMPLETED":
            packages = server.packages(number, given.platform)["packages"]
    if given.as_json:
        rows = [_package_document(each) for each in packages]
        print_json({"schema": f"{SCHEMA}-show/1", "build": _build_document(build), "packages": rows})
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


@app.command("log")
@options.command
def log(target: _Build, *, given: LogOptions) -> None:
    """Print the log of a build: the last one of an environment."""
    server, voice = _open(given)
    with server:
        number = _number(server, target, voice)
        if not given.follow:
            print_data(server.log(number))
            return
        for text in server.follow_log(number):
            print_data(text)


@app.command("history")
@options.command
def history(target: _Target, *, given: QueryOptions) -> None:
    """List what an environment's name has meant, the latest first."""
    named = _named(target)
    server, _ = _open(given)
    with server:
        found = server.history(named)
    if given.as_json:
        rows = [{key: each.get(key) for key in ("id", "action", "build", "by", "at", "note")} for each in found]
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


@app.command("diff")
@options.command
def diff(
    target: _Target,
    before: Annotated[int, typer.Argument(metavar="FROM", help="The number of a build.")],
    after: Annotated[
        int | None,
        typer.Argument(metavar="TO", help="The number of another one; the current one.", show_default=False),
    ] = None,
    *,
    given: QueryOptions,
) -> None:
    """Show how the packages of two builds differ."""
    named = _named(target)
    server, voice = _open(given)
    with server:
        if after is None:
            after = server.environment(named)["build"]
            if after is None:
                raise UsageError(f"{named.place} has no current build to compare with", hint="Name two builds.")
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


# --- changes ----------------------------------------------------------------------------------------------------------


@app.command("use")
@options.command
def use(
    target: _Target,
    build: Annotated[int, typer.Argument(metavar="BUILD", help="The number of one of its builds.")],
    *,
    given: ServerOptions,
) -> None:
    """Have an environment's name mean another build."""
    named = _named(target)
    server, voice = _open(given)
    with server:
        found = server.use(named, build)
    voice.say(f"{named.place} is build {found['build']} now")


@app.command("rollback")
@options.command
def rollback(target: _Target, *, given: ServerOptions) -> None:
    """Have an environment's name mean its previous build."""
    named = _named(target)
    server, voice = _open(given)
    with server:
        found = server.rollback(named)
    voice.say(f"{named.place} is build {found['build']} again")


@app.command("rename")
@options.command
def rename(
    target: _Target,
    new: Annotated[str, typer.Argument(metavar="NEW", help="The new name, in the same namespace.")],
    *,
    given: ServerOptions,
) -> None:
    """Give an environment another name in its namespace."""
    named = _named(target)
    space, slash, name = new.rpartition("/")
    if slash and space != named.namespace:
        raise UsageError(f"{named.place} cannot move to another namespace", hint="Create the environment there.")
    server, voice = _open(given)
    with server:
        found = server.rename(named, name)
    voice.say(f"Renamed {named.place} to {found['namespace']}/{found['name']}")


@app.command("delete")
@options.command
def delete(target: _Target, *, given: ServerOptions) -> None:
    """Delete an environment and its builds on the server."""
    named = _named(target)
    server, voice = _open(given)
    with server:
        freed = server.delete(named)
    voice.say(f"Deleted {named.place} ({format_size(freed)} freed)")


@app.command("cancel")
@options.command
def cancel(target: _Build, *, given: ServerOptions) -> None:
    """Cancel a build: the last one of an environment."""
    server, voice = _open(given)
    with server:
        number = _number(server, target, voice)
        build = server.cancel(number)
    ended = build["status"] != "CANCELED"
    voice.say(f"Build {number} has already ended ({build['status']})" if ended else f"Canceled build {number}")


@dataclass(frozen=True)
class UploadOptions(options.Group):
    """The options of ``cetool env upload``."""

    server: Server = None


@app.command("upload", hidden=True)
@options.command
def upload(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An environment here.")], *, given: UploadOptions
) -> None:
    """Send the server the packages of an environment that was solved here."""
    from cetool.app.background import be_nice  # few commands work in the background
    from cetool.app.uploading import upload as send

    world, voice = options.open_world(given)
    be_nice()
    send(name, world, voice, given.server)


# --- parts ------------------------------------------------------------------------------------------------------------


def _named(target: str) -> Named:
    named = parse_named(target)
    if named.build is not None:
        raise UsageError(f"{target} names a build", hint=f"Name the environment: {named.place}")
    return named


def _number(server: OnServer, target: str, voice: Voice, *, current: bool = False) -> int:
    """Return the number of the build that a word means: the current one of an environment, or its last one."""
    if current and not target.isdecimal():
        named = parse_named(target)
        build = named.build or server.environment(named)["build"]
        if isinstance(build, int):
            return build
    return server.last_build(target)


def _name_of(build: Any) -> str:
    return f"{build['namespace']}/{build['name']}" if build.get("name") else ""


def _build_document(build: Any) -> dict[str, object]:
    keys = ("id", "status", "reason", "code", "by", "origin", "profile", "scheduled", "started", "ended", "size")
    return {
        **{key: build.get(key) for key in keys},
        "environment": _name_of(build) or None,
        "platforms": [each["platform"] for each in build.get("platforms", [])],
    }


def _environment_document(each: Any) -> dict[str, object]:
    return {key: each.get(key) for key in ("namespace", "name", "build", "description", "created", "changed")}


def _package_document(each: Any) -> dict[str, object]:
    return {key: each.get(key) for key in ("kind", "name", "version", "build", "subdir", "url", "sha256")}


def _seconds(text: object) -> float | None:
    """Return the seconds since 1970 of a moment (RFC 3339)."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _age(text: object) -> str:
    moment = _seconds(text)
    return neutral_line(str(text or "-")) if moment is None else format_age(max(0.0, time.time() - moment))
