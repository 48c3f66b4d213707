"""Turns errors of the library that reads command lines into cetool's: a sentence, a hint, exit status 2.

Typer has a copy of click inside since 0.26, so the names of classes decide which error it is.
"""

from __future__ import annotations

import difflib
import re
from typing import Any

from cetool.base.errors import UsageError

#: Options of cetool itself, which words that look like options of ``run`` may have meant.
_OWN_OPTIONS = ("--version", "--help")
_EXTRA = re.compile(r"Got unexpected extra arguments?(?:\(s\))? \((?P<words>.*)\)", re.DOTALL)
_UNKNOWN = re.compile(r"No such command (?P<name>'.*?')\.?(?: (?P<hint>Did you mean .*))?", re.DOTALL)


def is_clicks(error: BaseException) -> bool:
    """Return whether an error is one that click raises for a wrong command line."""
    return hasattr(error, "show") and isinstance(getattr(error, "exit_code", None), int)


def shown_page(error: BaseException) -> Any:
    """Return the context of a command that shows its help since it got no arguments; None for other errors."""
    return error.ctx if type(error).__name__ == "NoArgsIsHelpError" else None  # type: ignore[attr-defined]


def usage_error(error: Any) -> UsageError:
    """Turn an error from click into a UsageError."""
    context, param = getattr(error, "ctx", None), getattr(error, "param", None)
    hint = None
    if context is not None:
        known = "lists the commands" if hasattr(context.command, "commands") else "shows all options"
        hint = f"`{context.command_path} --help` {known}."
    kind = type(error).__name__
    message = str(error.message).strip().removeprefix("Value error, ").rstrip(".")
    if kind == "NoSuchOption":
        names = [*(name for each in _params(context) for name in each.opts if name.startswith("-")), *_OWN_OPTIONS]
        near = difflib.get_close_matches(error.option_name, names, n=1, cutoff=0.7)
        return UsageError(f"unknown option {error.option_name}", hint=f"Did you mean `{near[0]}`?" if near else hint)
    if kind == "MissingParameter" and param is not None and context is not None:
        from cetool.cli.pages import page_of  # few command lines need it

        page = page_of(context.command, context)
        return UsageError(f"{_name(param)} is missing", hint=f"Usage: {page.command} {page.usage}")
    if kind == "BadOptionUsage":
        if "requires" not in message:
            return UsageError(f"{error.option_name} takes no value", hint=hint)
        found = [each for each in _params(context) if error.option_name in each.opts]
        value = found[0].metavar if found and found[0].metavar else "VALUE"
        return UsageError(f"{error.option_name} needs a value", hint=f"Write it as `{error.option_name} {value}`.")
    if param is not None and message.startswith("Input should be a valid integer"):
        return UsageError(f"{_name(param)} must be an integer", hint=hint)
    if param is not None:
        return UsageError(f"{_name(param)}: {message}", hint=hint)
    if extra := _EXTRA.fullmatch(message):
        return UsageError(f"unexpected argument: {extra['words']}", hint=hint)
    if unknown := _UNKNOWN.fullmatch(message):
        meant = (unknown["hint"] or "").replace("', '", "' or '")
        return UsageError(f"unknown command {unknown['name']}", hint=meant or hint)
    return UsageError(message[:1].lower() + message[1:], hint=hint)


def _params(context: Any) -> list[Any]:
    return [] if context is None else list(context.command.params)


def _name(param: Any) -> str:
    """What an argument is called in help, or an option on the command line."""
    return str(param.opts[-1] if param.param_type_name == "option" else param.metavar or param.name.upper())
