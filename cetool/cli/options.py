"""The options that several commands share, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cetool.cli.session import Session

Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Say what is done, and with what.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")]
EngineName = Annotated[
    str | None,
    typer.Option("--engine", metavar="ENGINE", help="Who makes environments: mamba, micromamba, conda or rattler."),
]
Channels = Annotated[
    list[str] | None,
    typer.Option("--channel", metavar="CHANNEL", help="A channel, instead of those declared; repeat for more."),
]
Refresh = Annotated[bool, typer.Option("--refresh", help="Make the environment anew, even if there is one.")]
Offline = Annotated[bool, typer.Option("--offline", help="Download nothing; make do with what is here.")]
TrustCacheDir = Annotated[
    bool, typer.Option("--trust-cache-dir", help="Use the cache directory though others can write to it.")
]
EnvFile = Annotated[
    Path | None,
    typer.Option("--env-file", metavar="FILE", help="The environment.yml of a script that declares nothing itself."),
]
Base = Annotated[
    str | None,
    typer.Option("--base", metavar="PREFIX|NAME", help="Run in this environment, with what is laid over it."),
]
Overlay = Annotated[
    list[str] | None,
    typer.Option("--overlay", metavar="REQ", help="A package to lay over the base, as pip takes it; repeat for more."),
]
Keep = Annotated[bool, typer.Option("--keep", help="Use an overlay as it was, though its base has changed.")]
OverlaysDir = Annotated[
    str | None,
    typer.Option("--overlays-dir", metavar="DIR", help="Where overlays lie; {env_name} stands for the base's name."),
]
Files = Annotated[
    list[Path] | None,
    typer.Option("--file", metavar="FILE", help="A file of match specs, or an environment.yml; repeat for more."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON (docs/json.md has its form).")]


def verbosity(verbose: bool, quiet: bool) -> str | None:
    """The setting that the two flags stand for, None where neither is given. Raises BadParameter for both."""
    if verbose and quiet:
        raise typer.BadParameter("--verbose and --quiet exclude each other.")
    return "verbose" if verbose else "quiet" if quiet else None


def open_session(
    channel: list[str] | None,
    verbosity: str | None,
    engine: str | None,
    offline: bool,
    trust_cache_dir: bool,
    *,
    overlays_dir: str | None = None,
) -> Session:
    """The session that the options of a command that may make an environment stand for."""
    return Session(
        {
            "verbosity": verbosity,
            "engine": engine,
            "channels": tuple(channel) if channel else None,
            "offline": offline or None,
            "trust-cache-dir": trust_cache_dir or None,
            "overlays-dir": overlays_dir,
        }
    )
