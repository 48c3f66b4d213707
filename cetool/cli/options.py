"""The options that several commands share, each written once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cetool.app.locked import LockChoice
from cetool.app.session import Session

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
Insecure = Annotated[bool, typer.Option("--insecure", help="Let a script come over plain http.")]
Sha256 = Annotated[
    str | None,
    typer.Option("--sha256", metavar="DIGEST", help="Take the script only if its content has this SHA-256."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Agree to a script from a URL without being asked.")]
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
    typer.Option("--file", metavar="FILE", help="A file of match specs, an @EXPLICIT file or environment.yml."),
]
Record = Annotated[
    str | None, typer.Option("--record", metavar="FILE", help="Write down what ran, to do it again: `cetool rerun`.")
]
Locked = Annotated[
    bool,
    typer.Option("--locked", help="Insist on the script's lock: fail where it has none, or one that does not fit."),
]
Frozen = Annotated[
    bool, typer.Option("--frozen", help="Use the script's lock as it is, whatever the script declares by now.")
]
NoLock = Annotated[bool, typer.Option("--no-lock", help="Solve, even if the script has a lock.")]
LockFile = Annotated[
    Path | None,
    typer.Option("--lock-file", metavar="FILE", help="The lock: a conda-lock.yml, a pixi.lock, an @EXPLICIT file."),
]
ExcludeNewer = Annotated[
    str | None,
    typer.Option(
        "--exclude-newer", metavar="DATE", help="Solve as of that day: what was published later is not there."
    ),
]
Baselines = Annotated[
    list[str] | None,
    typer.Option(
        "--baseline",
        metavar="FILE",
        help="Packages to start from: an @EXPLICIT file, a conda-lock.yml or pixi.lock, or its URL; repeat for more.",
    ),
]
Without = Annotated[
    list[str] | None,
    typer.Option("--without", metavar="NAME", help="Take a package, or what a glob fits, out of the baseline; repeat."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON (docs/json.md has its form).")]


def verbosity(verbose: bool, quiet: bool) -> str | None:
    """The setting that the two flags stand for, None where neither is given. Raises BadParameter for both."""
    if verbose and quiet:
        raise typer.BadParameter("--verbose and --quiet exclude each other.")
    return "verbose" if verbose else "quiet" if quiet else None


def record_target(given: str | None) -> Path | None:
    """The file that --record names, looked at before anything is done. Raises UsageError where it cannot be written."""
    if given is None:
        return None
    from cetool.provenance.record import record_target as target

    return target(given)


@dataclass(frozen=True)
class LockOptions:
    """The options on locks, as they were given. Raises BadParameter where they contradict each other."""

    locked: bool = False
    frozen: bool = False
    ignored: bool = False
    file: Path | None = None

    def __post_init__(self) -> None:
        given = [
            name
            for name, value in (("--locked", self.locked), ("--frozen", self.frozen), ("--no-lock", self.ignored))
            if value
        ]
        if self.ignored and self.file is not None:
            given.append("--lock-file")
        if len(given) > 1:
            raise typer.BadParameter(f"{' and '.join(given)} exclude each other.")

    @property
    def settings(self) -> dict[str, object]:
        """The settings that they stand for."""
        if not (self.locked or self.frozen or self.ignored):
            return {}
        return {"locked": self.locked, "frozen": self.frozen}

    @property
    def choice(self) -> LockChoice:
        """What is to be looked for."""
        return LockChoice(self.file, self.ignored)


def open_session(
    channel: list[str] | None,
    verbosity: str | None,
    engine: str | None,
    offline: bool,
    trust_cache_dir: bool,
    lock: LockOptions | None = None,
    *,
    yes: bool = False,
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
            "trust": "always" if yes else None,
            **({} if lock is None else lock.settings),
            "overlays-dir": overlays_dir,
        }
    )
