"""How options are declared, and how a command receives them.

An option is its type, flags, help, panel, completion, and the setting that it overrides. A command lists the options
that it takes in a :class:`Group`, which may inherit from others, and receives them as one parameter, ``given``;
:func:`command` turns that into Typer's parameters. The options that several commands share are in
:mod:`cetool.cli.options`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, TypeVar, cast, get_type_hints

import typer
from typer.models import OptionInfo

from cetool.app.world import World
from cetool.cli.voice import Voice, start

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
