"""Errors of the libraries that read command lines, said as cetool says its own: a sentence, a hint, exit status 2.

Typer brings its own copy of click from 0.26 on, so the errors are told apart by the names of their classes.
"""

from __future__ import annotations

import re
from typing import Any

from cetool.base.errors import UsageError

_EXTRA = re.compile(r"Got unexpected extra arguments?(?:\(s\))? \((?P<words>.*)\)", re.DOTALL)
_UNKNOWN = re.compile(r"No such command (?P<name>'.*?')\.?(?: (?P<hint>Did you mean .*))?", re.DOTALL)


def is_clicks(error: BaseException) -> bool:
    """Whether click says that the command line is wrong."""
    return hasattr(error, "show") and isinstance(getattr(error, "exit_code", None), int)


def shown_page(error: BaseException) -> Any:
    """The context of the command whose help is shown because no arguments were given; None for other errors."""
    return error.ctx if type(error).__name__ == "NoArgsIsHelpError" else None  # type: ignore[attr-defined]


def usage_error(error: Any) -> UsageError:
    """An error of click's as one of cetool's."""
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
