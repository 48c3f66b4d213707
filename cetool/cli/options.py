"""The options that several commands share, each declared once, and the groups of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cetool.app.decision import LockChoice
from cetool.cli.parameters import Commands as Commands
from cetool.cli.parameters import Group as Group
from cetool.cli.parameters import command as command
from cetool.cli.parameters import open_world as open_world
from cetool.cli.parameters import option as option
from cetool.cli.parameters import with_help as with_help
from cetool.declare.platforms import PLATFORMS
from cetool.settings.settings import ENGINES

ENVIRONMENT = "Environment"
REPRODUCIBILITY = "Reproducibility"
REMOTE = "Remote scripts"
OVERLAY = "Overlays"
NOTEBOOK = "Notebooks"
OUTPUT = "Output"
#: The panels of options in the order in which help shows them; the first has what belongs to one command.
PANELS = ("Options", ENVIRONMENT, REPRODUCIBILITY, REMOTE, OVERLAY, NOTEBOOK, OUTPUT)


def _note_json(context: typer.Context, as_json: bool) -> bool:
    """Tell :func:`cetool.cli.app.run_app` that an error is to be printed as JSON, too."""
    if as_json and isinstance(context.obj, dict):
        context.obj["json"] = True
    return as_json


# --- each option --------------------------------------------------------------------------------------------------

Verbose = Annotated[
    bool,
    option("--verbose", "-v", help="Report each step.", panel=OUTPUT, setting="verbosity", value="verbose"),
]
Quiet = Annotated[
    bool, option("--quiet", "-q", help="Print errors only.", panel=OUTPUT, setting="verbosity", value="quiet")
]
AsJson = Annotated[
    bool,
    option(
        "--json",
        help="Print JSON.",
        panel=OUTPUT,
        callback=_note_json,
        is_eager=True,
    ),
]
ToFile = Annotated[
    Path | None,
    option("--output", "-o", metavar="FILE", help="Write to a file, not to standard output.", panel=OUTPUT),
]
Record = Annotated[
    str | None,
    option("--record", metavar="FILE", help="Write down what ran, to do it again: `cetool rerun`.", panel=OUTPUT),
]

EngineName = Annotated[
    str | None,
    option(
        "--engine",
        metavar="ENGINE",
        help="Who makes environments: mamba, micromamba, conda or rattler.",
        panel=ENVIRONMENT,
        setting="engine",
        known=ENGINES,
    ),
]
Channels = Annotated[
    list[str] | None,
    option(
        "--channel",
        metavar="CHANNEL",
        help="A channel, instead of those declared; repeat for more.",
        panel=ENVIRONMENT,
        setting="channels",
    ),
]
With = Annotated[
    list[str] | None,
    option("--with", metavar="SPEC", help="A package besides those declared; repeat for more.", panel=ENVIRONMENT),
]
Specs = Annotated[
    list[str] | None,
    option("--spec", metavar="SPEC", help="A package of the environment; repeat for more.", panel=ENVIRONMENT),
]
EnvFile = Annotated[
    Path | None,
    option(
        "--env-file",
        metavar="FILE",
        help="The environment.yml of a script that declares nothing itself.",
        panel=ENVIRONMENT,
    ),
]
Files = Annotated[
    list[Path] | None,
    option(
        "--file",
        metavar="FILE",
        help="A file of match specs, an @EXPLICIT file or environment.yml.",
        panel=ENVIRONMENT,
    ),
]
Refresh = Annotated[
    bool, option("--refresh", help="Make the environment anew, even if there is one.", panel=ENVIRONMENT)
]
Offline = Annotated[
    bool,
    option("--offline", help="Download nothing; make do with what is here.", panel=ENVIRONMENT, setting="offline"),
]
TrustCacheDir = Annotated[
    bool,
    option(
        "--trust-cache-dir",
        help="Use the cache directory though others can write to it.",
        panel=ENVIRONMENT,
        setting="trust-cache-dir",
    ),
]

Insecure = Annotated[bool, option("--insecure", help="Let a script come over plain http.", panel=REMOTE)]
Sha256 = Annotated[
    str | None,
    option("--sha256", metavar="DIGEST", help="Take the script only if its content has this SHA-256.", panel=REMOTE),
]
Yes = Annotated[
    bool,
    option(
        "--yes",
        "-y",
        help="Agree to a script from a URL without being asked.",
        panel=REMOTE,
        setting="trust",
        value="always",
    ),
]

Locked = Annotated[
    bool,
    option(
        "--locked",
        help="Insist on the script's lock: fail where it has none, or one that does not fit.",
        panel=REPRODUCIBILITY,
    ),
]
Frozen = Annotated[
    bool,
    option(
        "--frozen",
        help="Use the script's lock as it is, whatever the script declares by now.",
        panel=REPRODUCIBILITY,
    ),
]
NoLock = Annotated[bool, option("--no-lock", help="Solve, even if the script has a lock.", panel=REPRODUCIBILITY)]
LockFile = Annotated[
    Path | None,
    option(
        "--lock-file",
        metavar="FILE",
        help="The lock: a conda-lock.yml, a pixi.lock, an @EXPLICIT file.",
        panel=REPRODUCIBILITY,
    ),
]
ExcludeNewer = Annotated[
    str | None,
    option(
        "--exclude-newer",
        metavar="DATE",
        help="Solve as of that day: what was published later is not there.",
        panel=REPRODUCIBILITY,
    ),
]
Baselines = Annotated[
    list[str] | None,
    option(
        "--baseline",
        metavar="FILE",
        help="Packages to start from: an @EXPLICIT file, a conda-lock.yml or pixi.lock, or its URL; repeat for more.",
        panel=REPRODUCIBILITY,
    ),
]
Without = Annotated[
    list[str] | None,
    option(
        "--without",
        metavar="NAME",
        help="Take a package, or what a glob fits, out of the baseline; repeat.",
        panel=REPRODUCIBILITY,
    ),
]
Platforms = Annotated[
    list[str] | None,
    option(
        "--platform",
        metavar="PLATFORM",
        help="A platform that the script's lock has; repeat for more.",
        panel=REPRODUCIBILITY,
        known=PLATFORMS,
    ),
]

Base = Annotated[
    str | None,
    option("--base", metavar="PREFIX|NAME", help="Run in this environment, with what is laid over it.", panel=OVERLAY),
]
Overlay = Annotated[
    list[str] | None,
    option(
        "--overlay",
        metavar="REQ",
        help="A package to lay over the base, as pip takes it; repeat for more.",
        panel=OVERLAY,
    ),
]
Keep = Annotated[bool, option("--keep", help="Use an overlay as it was, though its base has changed.", panel=OVERLAY)]
OverlaysDir = Annotated[
    str | None,
    option(
        "--overlays-dir",
        metavar="DIR",
        help="Where overlays lie; {env_name} stands for the base's name.",
        panel=OVERLAY,
        setting="overlays-dir",
    ),
]


@dataclass(frozen=True)
class Output(Group):
    """How much is said."""

    verbose: Verbose = False
    quiet: Quiet = False


@dataclass(frozen=True)
class Making(Group):
    """How an environment is made."""

    engine: EngineName = None
    channel: Channels = None
    refresh: Refresh = False
    offline: Offline = False
    trust_cache_dir: TrustCacheDir = False


@dataclass(frozen=True)
class Remote(Group):
    """How a script may come from a URL."""

    insecure: Insecure = False
    sha256: Sha256 = None
    yes: Yes = False


@dataclass(frozen=True)
class Lock(Group):
    """What becomes of a script's lock."""

    locked: Locked = False
    frozen: Frozen = False
    no_lock: NoLock = False
    lock_file: LockFile = None

    @property
    def settings(self) -> dict[str, object]:
        """The settings, with how much a lock counts."""
        chosen = self.locked or self.frozen or self.no_lock
        return {**super().settings, **({"locked": self.locked, "frozen": self.frozen} if chosen else {})}

    @property
    def choice(self) -> LockChoice:
        """Which lock is looked for."""
        return LockChoice(self.lock_file, self.no_lock)


@dataclass(frozen=True)
class Baseline(Group):
    """What an environment starts from."""

    baseline: Baselines = None
    without: Without = None


@dataclass(frozen=True)
class Overlays(Group):
    """Where overlays are, and whether that is trusted."""

    trust_cache_dir: TrustCacheDir = False
    overlays_dir: OverlaysDir = None
