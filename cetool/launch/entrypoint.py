"""The small language of conda-script's ``entrypoint``: parsed, then run without a system shell.

Blanks split words; single and double quotes protect; ``${NAME}`` and ``$(command)`` are replaced, also in double
quotes; ``&&`` continues if the previous command succeeded. There is nothing else: no escapes (so that Windows paths are
plain words), no globs, no pipes, no redirections. Where the draft leaves a choice, cetool does what pixi does:
``${NAME}`` is never split, the output of an unquoted ``$(command)`` is split on blanks, an unquoted word that becomes
empty is dropped, and ``*``, ``?``, ``~`` and ``#`` stand for themselves. In addition, ``${NAME}`` can be a variable of
the environment; ``SCRIPT`` and ``CACHE`` take precedence.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from cetool.base.errors import CetoolError, Interrupted, Location, MetadataError
from cetool.base.process import Consent
from cetool.launch.children import capture_output, sourced_environ, spawn_and_wait
from cetool.launch.process import Command, Prefixes, end_like, exec_command, find_program

#: Maximum depth of nested ``$(...)``.
MAX_DEPTH = 8

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_FOREIGN = {
    "|": ("pipes and '||' are not supported", "Run the pipe in the script, or in another script."),
    ";": ("';' is not supported", "Write '&&' between commands."),
    ">": ("redirections are not supported", "Have the program write the file."),
    "<": ("redirections are not supported", "Have the program read the file."),
    "`": ("backticks are not supported", "Write $(command)."),
    "(": ("subshells are not supported", "Quote the parenthesis to use it as a character."),
    ")": ("unmatched ')'", "Quote the parenthesis to use it as a character."),
}


@dataclass(frozen=True)
class Text:
    """Literal characters; quoted ones make a word even if empty."""

    text: str
    quoted: bool = False


@dataclass(frozen=True)
class Variable:
    """``${name}``."""

    name: str
    quoted: bool = False
    column: int = 0


@dataclass(frozen=True)
class Substitution:
    """``$(commands)``."""

    commands: tuple[SimpleCommand, ...]
    quoted: bool = False


@dataclass(frozen=True)
class Word:
    """Becomes an argument, none, or several if the output of a command is split."""

    parts: tuple[Text | Variable | Substitution, ...]


@dataclass(frozen=True)
class SimpleCommand:
    """A program and its arguments; there is always a first word."""

    words: tuple[Word, ...]


@dataclass(frozen=True)
class Entrypoint:
    """A parsed entrypoint: at least one command, joined by ``&&``."""

    text: str
    where: Location | None
    commands: tuple[SimpleCommand, ...]


@dataclass(frozen=True)
class EntrypointContext:
    """What an entrypoint runs in."""

    #: The variables, and the steps that a shell takes first, as in :class:`~cetool.launch.process.Command`.
    environ: dict[str, str]
    #: The script's absolute path.
    script: Path
    #: The script's cache directory, which exists.
    cache: Path
    #: The environment whose programs come first.
    prefix: Prefixes
    consent: Consent
    scripts: tuple[str, ...] = ()
    #: Descriptors to keep open in every command.
    keep: tuple[int, ...] = ()


class EntrypointError(CetoolError):
    """A command in ``$(...)`` failed; cetool exits with its status."""

    code = "entrypoint-failed"

    def __init__(self, message: str, status: int, *, where: Location | None = None) -> None:
        super().__init__(message, where=where, hint="Run that command by itself in the environment to see why.")
        self.exit_status = status if status > 0 else 128 - status


def parse_entrypoint(text: str, where: Location | None = None) -> Entrypoint:
    """Parse an entrypoint. Raises MetadataError, with the column (from 1) in ``text``, if it is malformed."""
    if "\0" in text:
        raise MetadataError("the entrypoint contains a NUL character", where=where)
    return Entrypoint(text, where, _Parser(text, where).commands(None, 0))


class _Parser:
    """Parses from left to right; ``at`` is the next character."""

    def __init__(self, text: str, where: Location | None) -> None:
        self.text = text
        self.where = where
        self.at = 0

    def error(self, at: int, message: str, hint: str | None = None) -> MetadataError:
        return MetadataError(f"entrypoint, column {at + 1}: {message}", where=self.where, hint=hint)

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def commands(self, opened: int | None, depth: int) -> tuple[SimpleCommand, ...]:
        """Return the commands up to the end, or up to the ``)`` of the ``$(`` at ``opened``."""
        commands: list[SimpleCommand] = []
        words: list[Word] = []
        while True:
            c = self.peek()
            start = self.at
            if not c and opened is not None:
                raise self.error(opened, "unclosed '$('", "Add the ')'.")
            if not c or (c == ")" and opened is not None) or self.text.startswith("&&", start):
                if not words:
                    raise self.error(start, self._nothing_here(commands), "Write a program and its arguments.")
                commands.append(SimpleCommand(tuple(words)))
                words = []
                self.at += 2 if c == "&" else len(c)
                if c != "&":
                    return tuple(commands)
            elif c.isspace():
                self.at += 1
            elif c == "&":
                raise self.error(start, "background commands are not supported", "Write '&&' between commands.")
            elif c in _FOREIGN:
                raise self.error(start, *_FOREIGN[c])
            else:
                words.append(self.word(depth))
                self._refuse_assignment(words, start)

    def _nothing_here(self, commands: list[SimpleCommand]) -> str:
        return "a command is missing after '&&'" if commands else "a command is missing"

    def _refuse_assignment(self, words: list[Word], start: int) -> None:
        first = words[0].parts[0]
        if len(words) == 1 and isinstance(first, Text) and not first.quoted and _ASSIGNMENT.match(first.text):
            raise self.error(start, "variables cannot be set here", "Set them under 'variables' in [tool.cetool].")

    def word(self, depth: int) -> Word:
        parts: list[Text | Variable | Substitution] = []
        while (c := self.peek()) and not c.isspace() and c != "&" and c not in _FOREIGN:
            start = self.at
            if c == "'":
                end = self.text.find("'", start + 1)
                if end < 0:
                    raise self.error(start, "unclosed single quote")
                parts.append(Text(self.text[start + 1 : end], quoted=True))
                self.at = end + 1
            elif c == '"':
                self.at += 1
                parts += self.double_quoted(start, depth)
            elif c == "$":
                parts.append(self.dollar(False, depth))
            else:
                while (c := self.peek()) and not c.isspace() and c not in "'\"$&" and c not in _FOREIGN:
                    self.at += 1
                parts.append(Text(self.text[start : self.at]))
        return Word(tuple(parts))

    def double_quoted(self, opened: int, depth: int) -> list[Text | Variable | Substitution]:
        parts: list[Text | Variable | Substitution] = [Text("", quoted=True)]
        while (c := self.peek()) != '"':
            start = self.at
            if not c:
                raise self.error(opened, "unclosed double quote")
            if c == "$":
                parts.append(self.dollar(True, depth))
                continue
            while (c := self.peek()) and c not in '"$':
                self.at += 1
            parts.append(Text(self.text[start : self.at], quoted=True))
        self.at += 1
        return parts

    def dollar(self, quoted: bool, depth: int) -> Variable | Substitution:
        start = self.at
        following = self.text[start + 1 : start + 2]
        if following == "(":
            if depth >= MAX_DEPTH:
                raise self.error(start, f"'$(' is nested more than {MAX_DEPTH} levels deep")
            self.at += 2
            return Substitution(self.commands(start, depth + 1), quoted)
        if following != "{":
            hint = "Write ${NAME} or $(command), or put the '$' in single quotes."
            raise self.error(start, "'$' must be followed by '{NAME}' or '(command)'", hint)
        name = _NAME.match(self.text, start + 2)
        end = self.text.find("}", start)
        if end < 0:
            raise self.error(start, "unclosed '${'", "Add the '}'.")
        if name is None or name.end() != end:
            raise self.error(start, "'${...}' must contain a name: letters, digits and '_', not starting with a digit")
        self.at = end + 1
        return Variable(name.group(), quoted, start + 1)


def simple_argv(entry: Entrypoint, script: Path, cache: Path) -> tuple[str, ...] | None:
    """Return the words of an entrypoint that can be known without running or looking up anything; else None.

    That is one command in which only ``${SCRIPT}`` and ``${CACHE}`` are replaced, so it can be stored for the next run.
    The script's arguments follow these words; the first word is not yet a path (:func:`find_program`).
    """
    if len(entry.commands) > 1:
        return None
    known = {"SCRIPT": os.fspath(script), "CACHE": os.fspath(cache)}
    argv = []
    for word in entry.commands[0].words:
        texts = []
        for part in word.parts:
            if isinstance(part, Substitution) or (isinstance(part, Variable) and part.name not in known):
                return None
            texts.append(part.text if isinstance(part, Text) else known[part.name])
        argv.append("".join(texts))
    return tuple(argv)


def run_entrypoint(entry: Entrypoint, args: Sequence[str], context: EntrypointContext) -> NoReturn:
    """Run the commands one after another, the last by exec with ``args`` appended. Does not return.

    The first command that fails ends cetool with its status or signal. Activation scripts are sourced once, for all
    commands. Raises MetadataError for an unknown name, EntrypointError for a failing ``$(...)``, and the errors of
    :func:`~cetool.launch.process.find_program` and :func:`~cetool.launch.process.exec_command`.
    """
    runner = _Runner(entry, context)
    status = runner.run_all_but_last()
    if status != 0:
        end_like(status)
    exec_command(runner.command(entry.commands[-1], args), context.consent, keep=context.keep)


def wait_for_entrypoint(entry: Entrypoint, args: Sequence[str], context: EntrypointContext) -> int:
    """Run the commands like :func:`run_entrypoint`, but the last one as a child too.

    Returns the status of the last command that ran, or the negative number of the signal that ended it.
    """
    runner = _Runner(entry, context)
    last = entry.commands[-1]
    return runner.run_all_but_last() or spawn_and_wait(runner.command(last, args), context.consent, keep=context.keep)


class _Runner:
    """Expands commands just before they run, because a command may change what the next one sees."""

    def __init__(self, entry: Entrypoint, context: EntrypointContext) -> None:
        if context.scripts and simple_argv(entry, context.script, context.cache) is None:
            # source once, for all commands
            environ = sourced_environ(context.scripts, context.environ, context.consent, keep=context.keep)
            context = replace(context, environ=environ, scripts=())
        self.entry = entry
        self.context = context
        self.values = {**context.environ, "SCRIPT": os.fspath(context.script), "CACHE": os.fspath(context.cache)}

    def run_all_but_last(self) -> int:
        """Run commands until one fails; return its status, or the negative number of its signal; 0 if none fails."""
        for command in self.entry.commands[:-1]:
            status = spawn_and_wait(self.command(command), self.context.consent, keep=self.context.keep)
            if status != 0:
                return status
        return 0

    def command(self, command: SimpleCommand, args: Sequence[str] = ()) -> Command:
        words = [argument for word in command.words for argument in self.expand(word)]
        if not words or not words[0]:
            raise MetadataError(
                "a command of the entrypoint is empty after replacing '${NAME}' and '$(command)'",
                where=self.entry.where,
            )
        # unlike in a shebang, an absolute path means exactly that file
        prefix = None if Path(words[0]).is_absolute() else self.context.prefix
        program = find_program(words[0], self.context.environ, prefix)
        return Command(program, (program, *words[1:], *args), self.context.environ, self.context.scripts)

    def expand(self, word: Word) -> list[str]:
        done: list[str] = []
        current: str | None = None
        for part in word.parts:
            if isinstance(part, Substitution):
                text = self.output(part)
            else:
                text = part.text if isinstance(part, Text) else self.value(part)
            if isinstance(part, Substitution) and not part.quoted:
                fields = text.split()
                if current is not None and text[:1].isspace():
                    done.append(current)
                    current = None
                for field in fields[:-1]:
                    done.append((current or "") + field)
                    current = None
                if fields:
                    current = (current or "") + fields[-1]
                if current is not None and fields and text[-1:].isspace():
                    done.append(current)
                    current = None
            elif text or part.quoted:
                current = (current or "") + text
        return done if current is None else [*done, current]

    def value(self, variable: Variable) -> str:
        value = self.values.get(variable.name)
        if value is None:
            near = get_close_matches(variable.name, self.values, n=1)
            also = f" (did you mean ${{{near[0]}}}?)" if near else ""
            raise MetadataError(
                f"entrypoint, column {variable.column}: unknown variable {variable.name!r}{also}",
                where=self.entry.where,
                hint="Use SCRIPT, CACHE, or a variable of the activated environment.",
            )
        return value

    def output(self, substitution: Substitution) -> str:
        """Return what the commands print, without trailing line ends."""
        collected = b""
        for simple in substitution.commands:
            command = self.command(simple)
            status, output = capture_output(command, self.context.consent, keep=self.context.keep)
            if status == -signal.SIGINT:
                raise Interrupted(signal.SIGINT)
            if status != 0:
                name = os.path.basename(command.program)
                how = f"exited with status {status}" if status > 0 else f"was killed by signal {-status}"
                raise EntrypointError(f"{name!r} in '$(...)' of the entrypoint {how}", status, where=self.entry.where)
            collected += output
        if b"\0" in collected:
            raise EntrypointError(
                "the output of '$(...)' in the entrypoint contains a NUL character", 125, where=self.entry.where
            )
        return os.fsdecode(collected).rstrip("\r\n")
