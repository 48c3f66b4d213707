"""The options of all commands, each declared once, and what a command line makes of them.

An option is its type, flags, help, panel, completion, and the setting that it overrides. A command lists those that it
takes in a :class:`Group`, which may inherit from others, and gets them as one parameter, ``given``; :func:`command`
turns that into Typer's parameters.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast, get_type_hints

import typer
from typer.models import OptionInfo

from cetool.app.decision import LockChoice
from cetool.app.world import World
from cetool.cli.voice import Voice, start
from cetool.declare.platforms import PLATFORMS
from cetool.settings.settings import ENGINES

ENVIRONMENT = "Environment"
REPRODUCIBILITY = "Reproducibility"
REMOTE = "Remote scripts"
OVERLAY = "Overlays"
NOTEBOOK = "Notebooks"
OUTPUT = "Output"


#: The options of which a command line may have one.
_EXCLUSIVE = (("--verbose", "--quiet"), ("--locked", "--frozen", "--no-lock"), ("--no-lock", "--lock-file"))

#: The settings that options override, by the options' first flag: a key, and the value where it is not what was given.
_SETTINGS: dict[str, tuple[str, object]] = {}


def option(
    *flags: str,
    help: str = "",
    panel: str = "Options",
    setting: str | None = None,
    value: object = None,
    known: Sequence[str] = (),
    **more: Any,
) -> OptionInfo:
    """Declare an option. ``known`` are the values that a shell completes.

    ``setting`` is the key of the setting that it overrides (and so the variable ``CETOOL_...``), ``value`` what that
    becomes where it is not what was given.
    """
    if setting is not None:
        _SETTINGS[next(flag for flag in flags if flag.startswith("--"))] = (setting, value)
    complete = (lambda incomplete: [each for each in known if each.startswith(incomplete)]) if known else None
    # what Option() returns but for a default, which it would take the first flag for
    return OptionInfo(default=..., param_decls=flags, help=help, rich_help_panel=panel, autocompletion=complete, **more)


def _note_json(context: typer.Context, as_json: bool) -> bool:
    """Tell :func:`cetool.cli.app.run_app` that an error is to be printed as JSON, too."""
    if as_json and isinstance(context.obj, dict):
        context.obj["json"] = True
    return as_json


# --- each option --------------------------------------------------------------------------------------------------

Verbose = Annotated[bool, option("--verbose", "-v", help="Say what is done, and with what.", panel=OUTPUT)]
Quiet = Annotated[bool, option("--quiet", "-q", help="Say nothing but errors.", panel=OUTPUT)]
AsJson = Annotated[
    bool,
    option("--json", help="Print JSON (docs/json.md has its form).", panel=OUTPUT, callback=_note_json, is_eager=True),
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
class Group:
    """Options of a command. Raises BadParameter for two that exclude each other."""

    def __post_init__(self) -> None:
        flags = {_flag(info): bool(getattr(self, name)) for name, info, _ in self.declared()}
        for excluding in _EXCLUSIVE:
            given = [flag for flag in excluding if flags.get(flag)]
            if len(given) > 1:
                raise typer.BadParameter(f"{' and '.join(given)} exclude each other.")

    @classmethod
    @functools.cache
    def declared(cls) -> tuple[tuple[str, OptionInfo, inspect.Parameter], ...]:
        """Name, declaration and parameter of each option, the class's own before those of its bases."""
        hints = get_type_hints(cls, include_extras=True)
        known = {each.name: each for each in fields(cls)}
        found = []
        for name in dict.fromkeys(_names(cls)):
            default = inspect.Parameter.empty if known[name].default is MISSING else known[name].default
            annotation = hints[name]
            parameter = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            found.append((name, annotation.__metadata__[0], parameter))
        return tuple(found)

    @property
    def settings(self) -> dict[str, object]:
        """The settings that the given options override, by their keys."""
        found: dict[str, object] = {}
        for name, info, _ in self.declared():
            given, flag = getattr(self, name), _flag(info)
            if given and flag in ("--verbose", "--quiet"):
                found["verbosity"] = flag.removeprefix("--")
            elif given and flag in _SETTINGS:
                key, value = _SETTINGS[flag]
                found[key] = value if value is not None else tuple(given) if isinstance(given, list) else given
        return found


def _flag(info: OptionInfo) -> str:
    """The flag that an option is known by: the long one."""
    return next(flag for flag in info.param_decls or () if flag.startswith("--"))


def _names(group: type) -> list[str]:
    """The options of a group in their order."""
    if not issubclass(group, Group):
        return []
    return [*vars(group).get("__annotations__", ()), *(name for base in group.__bases__ for name in _names(base))]


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


_Command = TypeVar("_Command", bound=Callable[..., Any])


def command(function: _Command) -> _Command:
    """The function as Typer takes it: in the place of its parameter ``given`` are the options of that group."""
    hints = get_type_hints(function, include_extras=True)
    group = hints.get("given")
    if group is None:
        return function
    declared = {name: parameter for name, _, parameter in group.declared()}

    @functools.wraps(function)
    def called(**named: Any) -> Any:
        return function(given=group(**{name: named.pop(name) for name in declared}), **named)

    own = [each for each in inspect.signature(function).parameters.values() if each.name != "given"]
    # by name alone: arguments that may be left out come before
    parameters = [each.replace(annotation=hints[each.name], kind=each.KEYWORD_ONLY) for each in own]
    parameters += declared.values()
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in parameters}
    return cast(_Command, called)


def open_world(given: Group) -> tuple[World, Voice]:
    """The world that the options of a command ask for, and what speaks in it."""
    return start(given.settings)
