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
from copy import copy
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from operator import getitem
from typing import Annotated, Any, ClassVar, TypeVar, cast, get_args, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import OptionInfo

from cetool.app.world import World
from cetool.base.errors import UsageError
from cetool.cli.voice import Voice, start

#: Options that cannot be used together.
_EXCLUSIVE = (("--verbose", "--quiet"), ("--locked", "--frozen", "--no-lock"), ("--no-lock", "--lock-file"))

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Option(OptionInfo):
    """A declared option, with what Typer does not know about it.

    ``setting`` is the key of the setting that it overrides, ``value`` what the setting becomes unless that is the value
    given; ``known`` are the values that a shell completes. ``rank`` is the place of the flag among all: help
    lists options in this order.
    """

    _ranks: ClassVar[dict[str, int]] = {}

    def __init__(
        self, flags: Sequence[str], *, setting: str | None, value: object, known: Sequence[str], **more: Any
    ) -> None:
        # what Option() returns but for a default, which it would take the first flag for
        super().__init__(default=..., param_decls=flags, **more)
        self.setting = setting
        self.value = value
        self.known = tuple(known)
        self.rank = self._ranks.setdefault(self.flag, len(self._ranks))

    @property
    def flag(self) -> str:
        """The flag that the option is known by: the long one."""
        return next(flag for flag in self.param_decls or () if flag.startswith("--"))


def option(
    *flags: str,
    help: str = "",
    panel: str = "Options",
    setting: str | None = None,
    value: object = None,
    known: Sequence[str] = (),
    complete: Callable[..., Any] | None = None,
    **more: Any,
) -> Option:
    """Declare an option; :class:`Option` explains the parameters.

    ``complete`` finds the values that a shell completes where they are not known beforehand.
    """
    if known:
        complete = lambda incomplete: [each for each in known if each.startswith(incomplete)]  # noqa: E731
    described = {"help": help, "rich_help_panel": panel, "autocompletion": complete}
    return Option(flags, setting=setting, value=value, known=known, **described, **more)


def with_help(text: str, default: Any = None) -> Any:
    """Give a field of a :class:`Group` a help text of its own: what a shared option means for this command."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Group:
    """Options of a command. Raises UsageError for two that cannot be used together."""

    def __post_init__(self) -> None:
        flags = {info.flag: bool(getattr(self, name)) for name, info, _ in self.declared()}
        for excluding in _EXCLUSIVE:
            given = [flag for flag in excluding if flags.get(flag)]
            if len(given) > 1:
                raise UsageError(f"{' and '.join(given)} cannot be used together")

    @classmethod
    @functools.cache
    def declared(cls) -> tuple[tuple[str, Option, inspect.Parameter], ...]:
        """Return name, declaration and parameter of each option: the class's own, then those of its bases."""
        hints = get_type_hints(cls, include_extras=True)
        known = {each.name: each for each in fields(cls)}
        found = []
        for name in dict.fromkeys(_names(cls)):
            default = inspect.Parameter.empty if known[name].default is MISSING else known[name].default
            info = copy(hints[name].__metadata__[0])
            info.help = known[name].metadata.get("help", info.help)
            info.known = info.known or _choices(hints[name].__origin__)
            annotation: Any = getitem(Annotated, (hints[name].__origin__, info))
            parameter = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            found.append((name, info, parameter))
        return tuple(found)

    @property
    def settings(self) -> dict[str, object]:
        """The settings that the given options override, by key."""
        found: dict[str, object] = {}
        for name, info, _ in self.declared():
            given = getattr(self, name)
            if given and info.setting is not None:
                value = tuple(given) if isinstance(given, list) else given
                found[info.setting] = value if info.value is None else info.value
        return found


def _choices(kind: Any) -> tuple[str, ...]:
    """The values of an enumeration, which may be optional; none of another type."""
    kinds = [each for each in (kind, *get_args(kind)) if isinstance(each, type) and issubclass(each, Enum)]
    return tuple(str(each.value) for each in kinds[0]) if kinds else ()


def _names(group: type) -> list[str]:
    """Return the names of a group's options in order."""
    if not issubclass(group, Group):
        return []
    return [*inspect.get_annotations(group), *(name for base in group.__bases__ for name in _names(base))]


def _taking_texts(parameter: Any) -> Any:
    """Let a parameter take a text, several texts, a flag, and the absence of a value as they are.

    Typer 0.29 converts these too by means of pydantic, whose import takes longer than most commands; older versions do
    not.
    """
    kind = getattr(parameter, "type_descriptor", None)
    if kind is None or kind.parameter_info.parser is not None or "process_value" in vars(parameter):
        return parameter
    convert = parameter.process_value

    def process(ctx: Any, value: Any) -> Any:
        if value is None and not parameter.required:
            value = () if parameter.multiple or parameter.nargs == -1 else None
        elif kind.annotation == list[str] and value and isinstance(value, (tuple, list)):
            value = list(value)
        elif kind.annotation not in (str, bool) or not isinstance(value, kind.annotation):
            return convert(ctx, value)
        return value if parameter.callback is None else parameter.callback(ctx, parameter, value)

    parameter.process_value = process
    return parameter


class _Own:
    """What commands and groups of commands have in common: their parameters, and help of :mod:`cetool.cli.help`."""

    def get_params(self, ctx: Any) -> list[Any]:
        return [_taking_texts(each) for each in super().get_params(ctx)]  # type: ignore[misc]

    def get_help(self, ctx: Any) -> str:
        from cetool.cli.help import help_of  # few command lines ask for help

        return help_of(self, ctx)


class Command(_Own, TyperCommand):
    """A command."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if getattr(error, "ctx", ctx) is None:  # click gives some errors no context
                error.ctx = ctx  # type: ignore[attr-defined]
            raise


class CommandGroup(_Own, TyperGroup):
    """A group of commands."""


class Commands(typer.Typer):
    """Commands that share a first word; each is a :class:`Command` unless it asks for another class."""

    def __init__(self, name: str, *, help: str | None, **more: Any) -> None:
        plain: dict[str, Any] = {"pretty_exceptions_enable": False, "rich_markup_mode": None, "no_args_is_help": True}
        super().__init__(name=name, help=help, cls=CommandGroup, **plain, **more)

    def command(self, name: str | None = None, **more: Any) -> Callable[[_Function], _Function]:
        return super().command(name, **{"cls": Command, **more})


def command(function: _Function) -> _Function:
    """Make a function a command of Typer's: its parameter ``given`` becomes the options of that group."""
    # not get_type_hints: in Python 3.10 it wraps the hint of a parameter with the default None, and hides its metadata
    hints = inspect.get_annotations(function, eval_str=True)
    group = hints.get("given")
    if group is None:
        return function
    declared = {name: parameter for name, _, parameter in group.declared()}

    @functools.wraps(function)
    def called(**named: Any) -> Any:
        return function(given=group(**{name: named.pop(name) for name in declared}), **named)

    own = [each for each in inspect.signature(function).parameters.values() if each.name != "given"]
    # keyword-only, since optional arguments come before required options
    parameters = [each.replace(annotation=hints[each.name], kind=each.KEYWORD_ONLY) for each in own]
    parameters += declared.values()
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in parameters}
    called.options = {name: info for name, info, _ in group.declared()}  # type: ignore[attr-defined]
    return cast(_Function, called)


def open_world(given: Group) -> tuple[World, Voice]:
    """Load the world with the settings that a command's options override, and the voice that reports in it."""
    return start(given.settings)
