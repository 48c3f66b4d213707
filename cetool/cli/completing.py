"""Completion in shells: its installation, which command line is completed, and the values that exist on this machine.

Typer talks to the shells. What it completes of an argument is found by the functions here: each takes what is typed so
far and returns pairs of a value and its description. None of them fails: a shell that completes shows no errors.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.models import OptionInfo

from cetool.base.errors import CetoolError, UsageError
from cetool.base.text import printable, shorten
from cetool.cli.output import print_line
from cetool.settings.settings import ENGINES, KEYS, Settings, load_settings
from cetool.warm import COMMANDS

if TYPE_CHECKING:
    import argparse

    from cetool.app.world import World

Completions = list[tuple[str, str]]

#: The options that install and print completion.
OPTIONS = ("--install-completion", "--show-completion")
SHELLS = ("bash", "zsh", "fish", "powershell", "pwsh")
#: The programs that are completed.
PROGRAMS = ("cetool", "cex", "conda-execute")
#: zsh loads the file of a function at the first Tab, and calls it: without this, only the second one completes.
_FIRST_TAB = """
if [ "$funcstack[1]" = "_{1}" ]; then
  _{0}_completion "$@"
fi
"""
#: The most values that are offered, as a shell shows them all at once, and the most characters of a description.
_MOST, _WIDEST = 200, 60


#: The file with the names of a server's environments.
_NAMED = "names"

# --- installation -------------------------------------------------------------------------------------------------


def handle_option(words: Sequence[str], program: str, environ: Mapping[str, str]) -> bool:
    """Install or print completion if the words ask for that; return whether they did.

    The shell is the one that is named (``--install-completion zsh``), else the parent process, else ``SHELL``, else
    the user's login shell: Typer looks among the parent processes only, and finds no shell under cron, ``nohup`` or
    an IDE. Raises UsageError for a shell that is unknown.
    """
    if not words or words[0].partition("=")[0] not in OPTIONS:
        return False
    from typer.completion import get_completion_script, install  # type: ignore[attr-defined]  # few ask for it

    asked, _, shell = words[0].partition("=")
    if not shell and words[1:] and not words[1].startswith("-"):
        shell = words[1]
    if not shell:
        found = (_parent(), environ.get("SHELL", ""), _login_shell())
        shell = next((name for each in found if (name := os.path.basename(each)) in SHELLS), "")
    if shell not in SHELLS:
        problem = f"completion does not support the shell {shell!r}" if shell else "the shell is unknown"
        raise UsageError(problem, hint=f"Name a shell: `{program} {asked} bash` (or {', '.join(SHELLS[1:])}).")
    if asked == "--show-completion":
        script = get_completion_script(prog_name=program, complete_var=variable(program), shell=shell)
        print_line(script + _first_tab(program, shell))
        return True
    for name in PROGRAMS:
        _, path = install(shell=shell, prog_name=name, complete_var=variable(name))
        with path.open("a", encoding="utf-8") as file:
            file.write(_first_tab(name, shell))
    print_line(f"Installed {shell} completion in {path.parent}; new shells complete {', '.join(PROGRAMS)}", error=True)
    return True


def _first_tab(program: str, shell: str) -> str:
    """Return what has the first Tab complete in this shell, empty if it does anyway."""
    return _FIRST_TAB.format(program.replace("-", "_"), program) if shell == "zsh" else ""


def variable(program: str) -> str:
    """Return the variable by which a shell asks a program for completions."""
    return f"_{program.replace('-', '_').upper()}_COMPLETE"


def _login_shell() -> str:
    """Return the path of the shell in the user's entry of the password database, empty if there is none."""
    if sys.platform == "win32":
        return ""
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_shell
    except KeyError:
        return ""


def _parent() -> str:
    """Return the shell among the parent processes, empty if there is none."""
    import shellingham  # type: ignore[import-untyped]

    try:
        return str(shellingham.detect_shell()[0])
    except (shellingham.ShellDetectionFailure, OSError):
        return ""


# --- the command line that is completed ---------------------------------------------------------------------------

#: The variables in which the shells' functions pass the command line, and a command line with a finished first word.
_LINES = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")
_FIRST_WORD = re.compile(r"(\s*\S+\s+)(\S+)(?=\s)")


def read_command() -> tuple[str, ...]:
    """Return the commands among which the command line that is completed can choose.

    ``cetool SCRIPT`` is short for ``cetool run SCRIPT``: ``run`` is inserted into the shell's variables. After
    ``cetool help`` come the commands: ``help`` is removed.
    """
    for name in _LINES:
        if name not in os.environ:
            continue
        match = _FIRST_WORD.match(os.environ[name])
        if match is None or match[2] in OPTIONS:
            return COMMANDS
        if match[2] in COMMANDS and match[2] != "help":
            return (match[2],)
        separator = "\n" if "\n" in match[1] else " "
        rest = os.environ[name][match.end(1) :]
        is_help = match[2] == "help"
        os.environ[name] = match[1] + (rest.removeprefix("help").lstrip() if is_help else f"run{separator}{rest}")
        if name == "COMP_WORDS":
            os.environ["COMP_CWORD"] = str(int(os.environ.get("COMP_CWORD", "1")) + (-1 if is_help else 1))
        return COMMANDS if is_help else ("run",)
    return COMMANDS


def complete_parser(parser: argparse.ArgumentParser, program: str) -> None:
    """Complete the options of an argparse parser; its arguments are files, which shells complete by themselves."""
    from typer.completion import completion_init  # type: ignore[attr-defined]  # few ask for it

    words: Any = Annotated[list[str] | None, typer.Argument()]
    parameters = [inspect.Parameter("words", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=words)]
    for action in parser._actions:
        if action.option_strings:
            kind: Any = bool if action.nargs == 0 else list[str] | None
            info = OptionInfo(default=..., param_decls=action.option_strings, help=action.help)
            default = False if kind is bool else None
            parameters.append(
                inspect.Parameter(
                    action.dest, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info]
                )
            )

    def nothing(**_: Any) -> None:
        """Take the place of the program, which does not run."""

    nothing.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    nothing.__annotations__ = {each.name: each.annotation for each in parameters}
    completion_init()
    app = typer.Typer(rich_markup_mode=None, add_completion=False)
    app.command(add_help_option=False)(nothing)
    app(prog_name=program, standalone_mode=False)


# --- values -------------------------------------------------------------------------------------------------------


def _matching(found: Iterable[tuple[str, str]], incomplete: str) -> Completions:
    """Return the pairs whose values start with what is typed, with descriptions as Typer prints them in one line."""
    matching = [(value, about) for value, about in found if value.startswith(incomplete)][:_MOST]
    # Typer has rich render descriptions: brackets would be markup, and a long text gets line breaks
    return [(value, shorten(about, _WIDEST).replace("[", r"\[")) for value, about in matching]


def _completes(function: Callable[..., Iterable[tuple[str, str]]]) -> Callable[[str], Completions]:
    """Make a function that finds all pairs one that completes: only what matches, and nothing if it fails."""

    @functools.wraps(function)
    def completed(incomplete: str) -> Completions:
        try:
            return _matching(function(), incomplete)
        except Exception:  # a shell has no place for an error
            return []

    # Typer looks at the annotations of the parameters
    completed.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter("incomplete", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=str)]
    )
    completed.__annotations__ = {"incomplete": str}
    return completed


@_completes
def environments() -> Iterable[tuple[str, str]]:
    """Complete the names of environments."""
    from cetool.app.names import summary  # completion of an option does without
    from cetool.app.world import load_world

    for directory in load_world().store.directories():
        yield directory.prefix.name, printable(summary(directory.marker))


def scripts(incomplete: str) -> Completions:
    """Complete a script, or the name of an environment: once digits are typed, as the shell itself completes files."""
    return environments(incomplete) if incomplete else []


@_completes
def overlays() -> Iterable[tuple[str, str]]:
    """Complete the names of overlays."""
    from cetool.app.world import load_world
    from cetool.overlays.store import Overlays

    world = load_world()
    for recipe in Overlays(world.paths, world.settings.overlays_dir).named():
        yield recipe.name, f"over {printable(str(recipe.base))}"


@_completes
def bases() -> Iterable[tuple[str, str]]:
    """Complete the names of the conda environments that overlays can lie over."""
    from cetool.overlays.base import environments_by_name

    for name, prefix in environments_by_name(os.environ, load_settings(os.environ).condarc).items():
        yield name, printable(str(prefix))


@_completes
def kernels() -> Iterable[tuple[str, str]]:
    """Complete the names of the kernels that cetool installed."""
    from cetool.launch.kernels import installed_kernels, searched_directories

    for kernel in installed_kernels(searched_directories()):
        yield kernel.name, printable(str(kernel.directory))


@_completes
def trusted() -> Iterable[tuple[str, str]]:
    """Complete the digests of scripts that may run."""
    from cetool.settings.paths import trust_directory
    from cetool.store.keyed import TrustStore

    directory = trust_directory(os.environ)
    for item in [] if directory is None else TrustStore(directory).all():
        yield item.sha256[:16], printable(item.url)


@_completes
def servers() -> Iterable[tuple[str, str]]:
    """Complete the URLs of servers that are configured, or known."""
    from cetool.remote.pinned import pinned_servers

    known = {each.url: each.user or "" for each in pinned_servers(os.environ).all()}
    for url in load_settings(os.environ).settings.servers or ():
        known.setdefault(url, "")
    yield from known.items()


@_completes
def named() -> Iterable[tuple[str, str]]:
    """Complete the names of a server's environments: those that `cetool env list` has shown."""
    from cetool.app.world import load_world
    from cetool.base.limits import NOTE, read_text

    for line in read_text(load_world().paths.answers / _NAMED, NOTE).splitlines():
        yield line, ""


def keep_named(world: World, names: Sequence[str]) -> None:
    """Keep the names of a server's environments for completion."""
    from cetool.base.files import put_file
    from cetool.base.ownership import ensure_private_dir

    with contextlib.suppress(OSError, CetoolError):
        ensure_private_dir(world.paths.answers, trust=world.paths.trusted)
        text = "".join(f"{name}\n" for name in names if name.isprintable())
        put_file(world.paths.answers / _NAMED, text.encode(), mode=0o600, sync=False)


@_completes
def settings() -> Iterable[tuple[str, str]]:
    """Complete the keys of settings, with their values."""
    found = load_settings(os.environ).origins
    for key in KEYS:
        yield key, "" if found[key].value is None else printable(str(found[key].value))


def setting_values(ctx: typer.Context, incomplete: str) -> Completions:
    """Complete the values of the setting whose key was typed before."""
    return _matching(((value, "") for value in words_of(str(ctx.params.get("key")))), incomplete)


def words_of(key: str) -> tuple[str, ...]:
    """Return the words that a setting can have, none if it is a number, a size, a path or a list."""
    if key == "engine":
        return (*ENGINES, "auto")
    kind = get_type_hints(Settings).get(key.replace("-", "_"))
    if kind is bool:
        return ("true", "false")
    return get_args(kind) if get_origin(kind) is Literal else ()
