"""The options that several commands share, each declared once, and the groups of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cetool.app.decision import LockChoice
from cetool.cli import completing
from cetool.cli.panels import ENVIRONMENT as ENVIRONMENT
from cetool.cli.panels import NOTEBOOK as NOTEBOOK
from cetool.cli.panels import OUTPUT as OUTPUT
from cetool.cli.panels import OVERLAY as OVERLAY
from cetool.cli.panels import REMOTE as REMOTE
from cetool.cli.panels import REPRODUCIBILITY as REPRODUCIBILITY
from cetool.cli.parameters import Commands as Commands
from cetool.cli.parameters import Group as Group
from cetool.cli.parameters import command as command
from cetool.cli.parameters import open_world as open_world
from cetool.cli.parameters import option as option
from cetool.cli.parameters import with_help as with_help
from cetool.declare.platforms import PLATFORMS
from cetool.settings.settings import ENGINES


def _note_json(context: typer.Context, as_json: bool) -> bool:
    """Note for :func:`cetool.cli.app.run_app` that errors are printed as JSON, too."""
    if as_json and isinstance(context.obj, dict):
        context.obj["json"] = True
    return as_json


# --- environments: the common options first, which is the order of help ---------------------------------------------

With = Annotated[
    list[str] | None,
    option("--with", metavar="SPEC", help="Add a package to the script's environment.", panel=ENVIRONMENT),
]
Specs = Annotated[
    list[str] | None,
    option("--spec", metavar="SPEC", help="Use an environment with this package, not a script's.", panel=ENVIRONMENT),
]
Channels = Annotated[
    list[str] | None,
    option(
        "--channel",
        metavar="CHANNEL",
        help="Use this channel instead of those declared.",
        panel=ENVIRONMENT,
        setting="channels",
    ),
]
EngineName = Annotated[
    str | None,
    option(
        "--engine",
        metavar="ENGINE",
        help="Create the environment with this engine.",
        panel=ENVIRONMENT,
        setting="engine",
        known=ENGINES,
    ),
]
EnvFile = Annotated[
    Path | None,
    option(
        "--env-file",
        metavar="FILE",
        help="Use this environment.yml for a script without a block.",
        panel=ENVIRONMENT,
    ),
]
Files = Annotated[
    list[Path] | None,
    option(
        "--file",
        metavar="FILE",
        help="Read match specs, an @EXPLICIT list or an environment.yml.",
        panel=ENVIRONMENT,
    ),
]
Refresh = Annotated[bool, option("--refresh", help="Re-create the environment even if it exists.", panel=ENVIRONMENT)]
NoServer = Annotated[
    bool,
    option(
        "--no-server",
        help="Ask no server; solve on this machine.",
        panel=ENVIRONMENT,
        setting="servers",
        value="none",
    ),
]
Offline = Annotated[
    bool,
    option("--offline", help="Download nothing; use what the cache has.", panel=ENVIRONMENT, setting="offline"),
]
TrustCacheDir = Annotated[
    bool,
    option(
        "--trust-cache-dir",
        help="Use the cache even if other users can change it.",
        panel=ENVIRONMENT,
        setting="trust-cache-dir",
    ),
]

# --- reproducibility ------------------------------------------------------------------------------------------------

Locked = Annotated[
    bool,
    option(
        "--locked",
        help="Require a lock that matches the script.",
        panel=REPRODUCIBILITY,
        setting="locked",
    ),
]
Frozen = Annotated[
    bool,
    option(
        "--frozen",
        help="Use the lock even if the script has changed since.",
        panel=REPRODUCIBILITY,
        setting="frozen",
    ),
]
NoLock = Annotated[bool, option("--no-lock", help="Ignore the script's lock and solve.", panel=REPRODUCIBILITY)]
LockFile = Annotated[
    Path | None,
    option(
        "--lock-file",
        metavar="FILE",
        help="Use this conda-lock.yml, pixi.lock or @EXPLICIT list.",
        panel=REPRODUCIBILITY,
    ),
]
ExcludeNewer = Annotated[
    str | None,
    option(
        "--exclude-newer",
        metavar="DATE|DURATION",
        help="Ignore packages published after a date, or in the last days (7d).",
        panel=REPRODUCIBILITY,
    ),
]
Platforms = Annotated[
    list[str] | None,
    option(
        "--platform",
        metavar="PLATFORM",
        help="Export the packages for this platform.",
        panel=REPRODUCIBILITY,
        known=PLATFORMS,
    ),
]
Baselines = Annotated[
    list[str] | None,
    option(
        "--baseline",
        metavar="FILE|URL",
        help="Start from the packages of this lock file or @EXPLICIT list.",
        panel=REPRODUCIBILITY,
    ),
]
Without = Annotated[
    list[str] | None,
    option(
        "--without",
        metavar="NAME",
        help="Leave this package (globs allowed) out of the baseline.",
        panel=REPRODUCIBILITY,
    ),
]
Record = Annotated[
    str | None,
    option("--record", metavar="FILE", help="Write a run record for `cetool rerun`.", panel=REPRODUCIBILITY),
]

# --- scripts from URLs ----------------------------------------------------------------------------------------------

Yes = Annotated[
    bool,
    option(
        "--yes",
        "-y",
        help="Accept a script from a URL without asking.",
        panel=REMOTE,
        setting="trust",
        value="always",
    ),
]
Sha256 = Annotated[
    str | None,
    option("--sha256", metavar="DIGEST", help="Require the script to have this SHA-256 digest.", panel=REMOTE),
]
Insecure = Annotated[bool, option("--insecure", help="Allow scripts and baselines over plain http.", panel=REMOTE)]

# --- overlays -------------------------------------------------------------------------------------------------------

Base = Annotated[
    str | None,
    option(
        "--base",
        metavar="PREFIX|NAME",
        help="Run in this environment without changing it.",
        panel=OVERLAY,
        complete=completing.bases,
    ),
]
Overlay = Annotated[
    list[str] | None,
    option("--overlay", metavar="REQ", help="Lay this PyPI package over the base.", panel=OVERLAY),
]
Keep = Annotated[bool, option("--keep", help="Use the overlay even if its base has changed.", panel=OVERLAY)]
OverlaysDir = Annotated[
    str | None,
    option(
        "--overlays-dir",
        metavar="DIR",
        help="Keep overlays in this directory; {env_name} is the base's name.",
        panel=OVERLAY,
        setting="overlays-dir",
    ),
]

# --- output ---------------------------------------------------------------------------------------------------------

AsJson = Annotated[bool, option("--json", help="Print JSON.", panel=OUTPUT, callback=_note_json, is_eager=True)]
ToFile = Annotated[
    Path | None,
    option("--output", "-o", metavar="FILE", help="Write to this file instead of standard output.", panel=OUTPUT),
]
Quiet = Annotated[
    bool, option("--quiet", "-q", help="Print errors only.", panel=OUTPUT, setting="verbosity", value="quiet")
]
Verbose = Annotated[
    bool,
    option("--verbose", "-v", help="Report each step.", panel=OUTPUT, setting="verbosity", value="verbose"),
]


@dataclass(frozen=True)
class Output(Group):
    """How much cetool reports."""

    verbose: Verbose = False
    quiet: Quiet = False


@dataclass(frozen=True)
class Making(Group):
    """How environments are created."""

    engine: EngineName = None
    channel: Channels = None
    refresh: Refresh = False
    no_server: NoServer = False
    offline: Offline = False
    trust_cache_dir: TrustCacheDir = False


@dataclass(frozen=True)
class Remote(Group):
    """Which scripts from URLs are accepted."""

    insecure: Insecure = False
    sha256: Sha256 = None
    yes: Yes = False


@dataclass(frozen=True)
class Lock(Group):
    """Which lock a script runs with."""

    locked: Locked = False
    frozen: Frozen = False
    no_lock: NoLock = False
    lock_file: LockFile = None

    @property
    def settings(self) -> dict[str, object]:
        """The settings that the given options override; each option for locks overrides both of their settings."""
        chosen = self.locked or self.frozen or self.no_lock
        return {**super().settings, **({"locked": self.locked, "frozen": self.frozen} if chosen else {})}

    @property
    def choice(self) -> LockChoice:
        """Where to look for a lock."""
        return LockChoice(self.lock_file, self.no_lock)


@dataclass(frozen=True)
class Baseline(Group):
    """Which packages an environment starts from."""

    baseline: Baselines = None
    without: Without = None


@dataclass(frozen=True)
class Overlays(Group):
    """Where overlays are, and whether that directory is trusted."""

    trust_cache_dir: TrustCacheDir = False
    overlays_dir: OverlaysDir = None
