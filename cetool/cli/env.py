"""``cetool env``: environments on a server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from cetool.app.on_server import EnvironmentWish
from cetool.base.durations import format_size
from cetool.base.errors import UsageError
from cetool.cli import env_queries, options
from cetool.cli.env_queries import (
    SCHEMA,
    Build,
    Server,
    ServerOptions,
    Target,
    build_document,
    build_of,
    environment_of,
    open_server,
    seconds_of,
)
from cetool.cli.options import option
from cetool.cli.output import print_json
from cetool.declare.named import parse_named
from cetool.declare.platforms import PLATFORMS

app = options.Commands("env", help="Create and use environments on a server.")

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
    server, voice = open_server(given)
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
        print_json({"schema": f"{SCHEMA}-create/1", **build_document(build), "is_new": asked.created})


def _created(build: Any, what: str, created: bool) -> str:
    if not created:
        return f"{what} is up to date (build {build['id']})"
    size = build.get("size")
    more = f", {format_size(size)}" if isinstance(size, int) else ""
    started, ended = seconds_of(build.get("started")), seconds_of(build.get("ended"))
    took = f" in {ended - started:.1f}s" if started is not None and ended is not None else ""
    return f"Created {what} (build {build['id']}{more}){took}"


app.command("list")(env_queries.list_environments)
app.command("show")(env_queries.show)
app.command("log")(env_queries.log)
app.command("history")(env_queries.history)
app.command("diff")(env_queries.diff)


# --- changes ----------------------------------------------------------------------------------------------------------


@app.command("use")
@options.command
def use(
    target: Annotated[
        str, typer.Argument(metavar="NAMESPACE/NAME[@BUILD]", help="The environment.", show_default=False)
    ],
    build: Annotated[
        int | None, typer.Argument(metavar="BUILD", help="The number of one of its builds.", show_default=False)
    ] = None,
    *,
    given: ServerOptions,
) -> None:
    """Point an environment's name at another build."""
    named = parse_named(target)
    if build is None:
        build = named.build
    elif named.build is not None:
        raise UsageError(f"{target} names a build already", hint="Leave out one of them.")
    if build is None:
        raise UsageError("no build is named", hint=f"`cetool env history {target}` lists them.")
    named = named._replace(build=None)
    server, voice = open_server(given)
    with server:
        found = server.use(named, build)
    voice.say(f"{named.place} is build {found['build']} now")


@app.command("rollback")
@options.command
def rollback(target: Target, *, given: ServerOptions) -> None:
    """Point an environment's name at its previous build."""
    named = environment_of(target)
    server, voice = open_server(given)
    with server:
        found = server.rollback(named)
    voice.say(f"{named.place} is build {found['build']} again")


@app.command("rename")
@options.command
def rename(
    target: Target,
    new: Annotated[str, typer.Argument(metavar="NEW", help="The new name, in the same namespace.")],
    *,
    given: ServerOptions,
) -> None:
    """Give an environment another name in its namespace."""
    named = environment_of(target)
    space, slash, name = new.rpartition("/")
    if slash and space != named.namespace:
        raise UsageError(f"{named.place} cannot move to another namespace", hint="Create the environment there.")
    server, voice = open_server(given)
    with server:
        found = server.rename(named, name)
    voice.say(f"Renamed {named.place} to {found['namespace']}/{found['name']}")


@app.command("delete")
@options.command
def delete(target: Target, *, given: ServerOptions) -> None:
    """Delete an environment and its builds on the server."""
    named = environment_of(target)
    server, voice = open_server(given)
    with server:
        freed = server.delete(named)
    voice.say(f"Deleted {named.place} ({format_size(freed)} freed)")


@app.command("cancel")
@options.command
def cancel(target: Build, *, given: ServerOptions) -> None:
    """Cancel a build: the last one of an environment."""
    server, voice = open_server(given)
    with server:
        number = build_of(server, target, voice)
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
