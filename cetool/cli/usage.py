"""Turns errors of the library that reads command lines into cetool's: a sentence, a hint, exit status 2.

Typer has a copy of click inside since 0.26, so the names of classes decide which error it is.
"""

from __future__ import annotations

import re
from typing import Any

from cetool.base.errors import UsageError

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
    hint = None if context is None else f"`{context.command_path} --help` shows all options."
    kind = type(error).__name__
    message = str(error.message).strip().removeprefix("Value error, ").rstrip(".")
    if kind == "NoSuchOption":
        near = " or ".join(f"`{each}`" for each in sorted(error.possibilities or ()))
        return UsageError(f"unknown option {error.option_name}", hint=f"Did you mean {near}?" if near else hint)
    if kind == "MissingParameter" and param is not None and context is not None:
        from cetool.cli.pages import page_of  # few command lines need it

        page = page_of(context.command, context)
        return UsageError(f"{_name(param)} is missing", hint=f"Usage: {page.command} {page.usage}")
    if kind == "BadOptionUsage":
        return UsageError(f"{error.option_name} needs a value", hint=hint)
    if param is not None:
        return UsageError(f"{_name(param)}: {message}", hint=hint)
    if found := _EXTRA.fullmatch(message):
        return UsageError(f"unexpected argument: {found['words']}", hint=hint)
    if found := _UNKNOWN.fullmatch(message):
        near = (found["hint"] or "").replace("', '", "' or '")
        return UsageError(f"unknown command {found['name']}", hint=near or hint)
    return UsageError(message[:1].lower() + message[1:], hint=hint)


def _name(param: Any) -> str:
    """What an argument is called in help, or an option on the command line."""
    return str(param.opts[-1] if param.param_type_name == "option" else param.metavar or param.name.upper())
