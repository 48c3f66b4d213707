"""Write the man pages and the generated pages of the reference: ``python tools/reference.py``, or ``nox -s reference``.

They come from the commands themselves, the settings, and the codes of errors. ``--check`` writes nothing, prints which
files are out of date, and exits with 1 if there are any.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

import cetool
from cetool import __version__
from cetool.base import errors
from cetool.base.durations import format_size
from cetool.cli.app import make_app
from cetool.cli.compat import execute_parser, tmpenv_parser
from cetool.cli.pages import FIRM, Entry, Page, Section, pages_of, pages_of_parser
from cetool.cli.tools import cex_app
from cetool.server import config
from cetool.server.config_values import KEYS
from cetool.settings.meanings import SETTINGS, VARIABLES
from cetool.settings.settings import variable_of
from cetool.warm import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
GENERATED = "<!-- Written by tools/reference.py; `nox -s reference` updates it. -->\n"

#: The exit statuses, and when cetool ends with them.
STATUSES = {
    "0": "The command succeeded. A script's own status is passed on unchanged.",
    "1": "A check found something: `check`, `lock --check`, `verify`. Or the script exited with 1.",
    str(errors.EXIT_USAGE): "The command line is wrong.",
    str(errors.EXIT_FAILURE): "cetool failed before the script started, or a command failed.",
    str(errors.EXIT_NOT_EXECUTABLE): "A script or program was found but cannot be executed or read.",
    str(errors.EXIT_NOT_FOUND): "A script or program was not found.",
    "128 + N": "Signal N ended cetool or the script: 130 for Ctrl-C, 143 for SIGTERM.",
}
FILES = {
    "~/.config/cetool/config.yaml": "The configuration file; `cetool config path` prints its path.",
    "~/.condarc": "conda's configuration; its section `conda-execute` can contain settings.",
    "~/.cache/cetool": "Environments, downloads, the usage log and temporary files.",
    "~/.local/share/cetool": "Your answers about scripts from URLs.",
}
EXAMPLES = {
    "cetool analysis.py": "Run a script in the environment that it declares.",
    "cetool run --with numpy analysis.py": "Add a package for this run.",
    "cetool lock analysis.py": "Write the exact packages to a lock file; the next run uses them.",
    "cex ruff check": "Run a program from a conda package.",
}


def all_pages() -> list[Page]:
    """The help pages of all commands, without those that are hidden."""
    found = [
        *pages_of(typer.main.get_command(make_app(*COMMANDS)), "cetool"),
        *pages_of(typer.main.get_command(cex_app()), "cex"),
        *pages_of_parser(execute_parser()),
        *pages_of_parser(tmpenv_parser()),
    ]
    return [page for page in found if not page.hidden]


def generated() -> dict[Path, str]:
    """The text of each file by its path."""
    pages = all_pages()
    found = {
        ROOT / "docs/reference/commands.md": commands_page(pages),
        ROOT / "docs/reference/settings.md": settings_page(pages),
        ROOT / "docs/reference/server-settings.md": server_settings_page(),
        ROOT / "docs/reference/exit-codes.md": statuses_page(),
        ROOT / "docs/reference/errors.md": errors_page(),
        ROOT / "docs/reference/library-api.md": library_page(),
    }
    for first, below in manuals(pages).items():
        found[ROOT / "man" / f"{manual_name(first)}.1"] = manual(below, pages)
    return found


# --- the reference --------------------------------------------------------------------------------------------------


def commands_page(pages: list[Page]) -> str:
    """Every command with its arguments and options."""
    text = [f"# Commands\n\n{GENERATED}"]
    for page in pages:
        level = "#" * min(len(page.command.split()), 4) if len(page.command.split()) > 2 else "##"
        text.append(f"\n{level} {page.command}\n\n{page.summary}\n\n```text\n{page.command} {page.usage}\n```\n")
        for detail in page.details:
            text.append(f"\n```sh\n{detail.strip()}\n```\n" if detail.startswith("  ") else f"\n{detail}\n")
        for section in page.sections:
            entries = [entry for entry in section.entries if "--help" not in entry.names]
            kind = kind_of(section)
            if not entries or kind == "setting":  # settings have a page of their own
                continue
            rows = [(linked(page, *row(entry)) if kind == "command" else row(entry)) for entry in entries]
            text.append(f"\n**{section.title}**\n\n" + table((kind, "what it does"), rows))
    return "".join(text)


def kind_of(section: Section) -> str:
    """What the entries of a section are: options, arguments, settings or commands."""
    first = section.entries[0].names[0]
    if first.startswith("-"):
        return "option"
    return "argument" if section.title == "Arguments" else "setting" if first in SETTINGS else "command"


def linked(page: Page, name: str, text: str) -> tuple[str, str]:
    """The line of a command, linked to its section."""
    return f"[{name}](#{manual_name(page)}-{name.strip('`')})", text


def row(entry: Entry) -> tuple[str, str]:
    """An entry's line in a table."""
    notes = [
        *([f"Values: {', '.join(f'`{each}`' for each in entry.values)}."] if entry.values else []),
        *([f"Default: `{entry.default}`."] if entry.default else []),
        *(["Repeatable."] if entry.repeatable else []),
        *([f"Setting: [`{entry.setting}`](settings.md), variable `{entry.variable}`."] if entry.setting else []),
    ]
    value = f" {entry.value}" if entry.value else ""
    return ", ".join(f"`{name}{value}`" for name in entry.names), " ".join([entry.help, *notes])


def settings_page(pages: list[Page]) -> str:
    """Every setting and variable."""
    options: dict[str, list[str]] = {}
    for page in pages:
        for entry in (each for section in page.sections for each in section.entries if each.setting):
            name = f"`{entry.names[-1]}`"
            if name not in options.setdefault(entry.setting, []):
                options[entry.setting].append(name)
    rows = [
        (f"`{key}`", f"`{variable_of(key)}`", ", ".join(options.get(key, ())), each.kind, each.default, each.text)
        for key, each in SETTINGS.items()
    ]
    others = [(f"`{name}`", each.kind, each.default, each.text) for name, each in VARIABLES.items()]
    return (
        f"# Settings and variables\n\n{GENERATED}\n"
        "An option overrides its variable, which overrides the configuration file, which overrides conda's "
        "configuration.\n"
        "[Configuration](configuration.md) describes the files and the form of values.\n\n"
        "## Settings\n\n"
        + table(("setting", "variable", "option", "type or values", "default", "what it does"), rows)
        + "\n## Other variables\n\n"
        + table(("variable", "type", "default", "what it is"), others)
    )


def server_settings_page() -> str:
    """Every key of the server's configuration, after what is to be said about its files."""
    built_in = config.defaults()
    rows = [
        (f"`{key}`", each.kind, in_configuration(key, each.kind, built_in.get(key)), each.text)
        for key, each in KEYS.items()
    ]
    about = (ROOT / "tools/server-settings.md").read_text(encoding="utf-8")
    return about.replace("{generated}", GENERATED) + table(("key", "type or values", "default", "what it does"), rows)


def in_configuration(key: str, kind: str, value: object) -> str:
    """A default as the configuration file would have it."""
    known = {
        "data": "server in cetool's data directory",
        "workers": "2, or 1 on one processor",
        "profiles": "see above",
    }
    if key in known:
        return known[key]
    if kind == "duration" and isinstance(value, float):
        seconds, units = int(value), (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
        return next(f"{seconds // size}{unit}" for unit, size in units if seconds % size == 0)
    if kind.startswith("size") and isinstance(value, int):
        return format_size(value).replace(" ", "")
    if isinstance(value, bool):
        return str(value).lower()
    if value is None and kind.endswith("*"):
        return "`*`"
    return ", ".join(value) or "none" if isinstance(value, tuple) else str(value or "none")


def statuses_page() -> str:
    """Every exit status."""
    rows = [(f"`{status}`", text) for status, text in STATUSES.items()]
    return (
        f"# Exit codes: what exit status 125, 126 and 127 mean\n\n{GENERATED}\n"
        "cetool ends with the exit status of the script. If cetool itself fails, it uses the statuses of `env` and\n"
        "`timeout`, which scripts rarely use. [Error codes](errors.md) distinguish the failures.\n\n"
        + table(("status", "meaning"), rows)
    )


def errors_page() -> str:
    """Every error code, below the headings that ``CODES`` has as comments."""
    source = inspect.getsource(errors)
    listed = source[source.index("\nCODES = {") : source.index("\n}", source.index("\nCODES = {"))]
    text = [
        f"# Error codes\n\n{GENERATED}\n"
        "Each error has a stable code: `error.code` in [`--json`](json.md#errors) and in the [library](library.md).\n"
        "Messages may change; codes do not.\n"
    ]
    rows: list[tuple[str, str]] = []
    for line in [*listed.splitlines(), "    # "]:
        if line.startswith("    # "):
            text.append(table(("code", "meaning"), rows) if rows else "")
            text.append(f"\n## {line[6:].capitalize()}\n\n" if line[6:] else "")
            rows = []
        elif found := re.match(r'    "([a-z0-9-]+)":', line):
            rows.append((f"`{found[1]}`", errors.CODES[found[1]]))
    return "".join(text)


def library_page() -> str:
    """Describe the functions, the classes with methods, and the errors of the library, from their docstrings."""
    public = {name: getattr(cetool, name) for name in sorted(cetool.__all__)}
    parts = ["# Library: functions, classes and errors\n", GENERATED]
    parts.append("[The Python library](library.md) explains how to use them, and lists the fields of values.\n")
    for name in ("read", "specify", "ensure", "resolve"):
        parts.append(signature_of(f"cetool.{name}", public[name], "##"))
    for name in ("Environment", "Progress"):
        parts.append(f"## cetool.{name}\n\n{markdown(public[name])}\n")
        for key, member in vars(public[name]).items():
            if inspect.isfunction(member) and not key.startswith("_"):
                parts.append(signature_of(key, member, "###"))
    found = [each for each in public.values() if inspect.isclass(each) and issubclass(each, Exception)]
    rows = [(f"`{each.__name__}`", markdown(each).partition("\n")[0]) for each in found]
    parts.append("## Errors\n\n" + table(("class", "meaning"), rows))
    return "\n".join(parts)


def signature_of(name: str, function: Callable[..., Any], heading: str) -> str:
    """Describe a function: a heading, its signature with a parameter a line, its docstring."""
    signature = inspect.signature(function)
    names = [each for each in signature.parameters if each != "self"]
    parameters = [str(signature.parameters[each]).replace("'", "") for each in names]
    kinds = [signature.parameters[each].kind for each in names]
    if inspect.Parameter.KEYWORD_ONLY in kinds:
        parameters.insert(kinds.index(inspect.Parameter.KEYWORD_ONLY), "*")
    result = str(signature.return_annotation).replace("'", "")
    words = ", ".join(parameters)
    if len(words) > 60:
        words = "\n" + "".join(f"    {each},\n" for each in parameters)
    text = f"{name.rpartition('.')[2]}({words}) -> {result}"
    return f"{heading} {name}\n\n```text\n{text}\n```\n\n{markdown(function)}\n"


def markdown(documented: object) -> str:
    """Convert the docstring of an object from reStructuredText."""
    text = inspect.getdoc(documented) or ""
    text = re.sub(r":\w+:`(?:~|cetool\.)(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    text = re.sub(r":\w+:`([\w.]+)`", r"`\1`", text)
    return text.replace("``", "`").replace("docs/reference/configuration.md", "[settings](settings.md)")


def table(headers: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [headers, ("---",) * len(headers), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# --- man pages ------------------------------------------------------------------------------------------------------


def manual_name(page: Page) -> str:
    """The name of a man page: ``cetool-run``."""
    return page.command.replace(" ", "-")


def manuals(pages: list[Page]) -> dict[Page, list[Page]]:
    """The pages that have a man page of their own, each with those that are described there."""
    found: dict[Page, list[Page]] = {}
    for page in pages:
        words = page.command.split()
        top = [each for each in found if len(words) > 2 and each.command.split() == words[:2]]
        found.setdefault(top[0] if top else page, []).append(page)
    return found


def manual(pages: list[Page], everything: list[Page]) -> str:
    """A man page; the first of the pages is what it is about, the others are commands below it."""
    page, *below = pages
    name = manual_name(page)
    summary = page.summary.rstrip(".")
    lines = [
        '.\\" Written by tools/reference.py; nox -s reference updates it.',
        f'.TH "{roff(name.upper())}" "1" "" "cetool {__version__}" "cetool"',
        # no hyphens in names, no gaps between words
        ".nh",
        ".ad l",
        ".SH NAME",
        f"{roff(name)} \\- {roff(summary[:1].lower() + summary[1:])}",
        ".SH SYNOPSIS",
        *synopsis(page),
        ".SH DESCRIPTION",
        *paragraphs(page),
        *sections(page),
    ]
    for each in below:
        lines += [
            f".SH {roff(each.command.upper())}",
            *synopsis(each),
            ".PP",
            *paragraphs(each),
            *sections(each, below=True),
        ]
    if name == "cetool":
        lines += [".SH EXAMPLES"]
        lines += [line for call, text in EXAMPLES.items() for line in item(f"\\fB{roff(call)}\\fR", text)]
        variables = {variable_of(key): each for key, each in SETTINGS.items()} | VARIABLES
        lines += [".SH ENVIRONMENT", "Each setting has a variable. The last variables are not settings."]
        lines += [line for key, each in variables.items() for line in item(f"\\fB{key}\\fR", each.text)]
        lines += [".SH FILES", *(line for path, text in FILES.items() for line in item(f"\\fI{roff(path)}\\fR", text))]
    lines.append(".SH EXIT STATUS")
    lines += [line for status, text in STATUSES.items() for line in item(f"\\fB{status}\\fR", text)]
    lines += [".SH SEE ALSO", ",\n".join(f"\\fB{roff(each)}\\fR(1)" for each in related(name, everything))]
    return "\n".join(lines) + "\n"


def related(name: str, everything: list[Page]) -> list[str]:
    """The man pages to see: from the overview all, from another the overview and its neighbours."""
    names = [manual_name(each) for each in manuals(everything)]
    if name == "cetool":
        return [each for each in names if each != name]
    neighbours = {"cex": ["cetool-exec"], "cetool-exec": ["cex"], "cetool-run": ["cetool-rerun", "cetool-show"]}
    return ["cetool", *neighbours.get(name, [])]


def synopsis(page: Page) -> list[str]:
    """The line that shows how a command is called."""
    return [f"\\fB{roff(page.command)}\\fR {roff(page.usage)}"]


def paragraphs(page: Page) -> Iterator[str]:
    """The summary and the details."""
    yield roff(page.summary)
    for detail in page.details:
        yield from (".PP", ".nf", roff(detail), ".fi") if detail.startswith("  ") else (".PP", roff(detail))


def sections(page: Page, *, below: bool = False) -> Iterator[str]:
    """Arguments, commands and options; those of a command ``below`` the page's own are below its heading."""
    heading = ""
    for section in page.sections:
        if below and all("--help" in entry.names for entry in section.entries):
            continue
        kind = kind_of(section).upper() + "S"
        if below or section.title.upper() != kind:
            yield from [] if below or heading == kind else [f".SH {kind}"]
            yield f".SS {roff(section.title)}"
        else:
            yield f".SH {kind}"
        heading = kind
        for entry in section.entries:
            value = f" \\fI{roff(entry.value)}\\fR" if entry.value else ""
            term = ", ".join(f"\\fB{roff(name)}\\fR" for name in entry.names) + value
            notes = [note.replace(FIRM, " ") for note in entry.notes]
            yield from item(term, " ".join([entry.help, *notes]))


def item(term: str, text: str) -> tuple[str, str, str]:
    """A term with its text."""
    return ".TP", term, roff(text)


def roff(text: str) -> str:
    """A text for roff: nothing in it is a request, and what is between backquotes is bold."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    escaped = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", escaped)
    return re.sub(r"^([.'])", r"\\&\1", escaped, flags=re.MULTILINE)


def main(words: list[str]) -> int:
    """Write the files, or check them."""
    files = generated()
    stale = [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    stale += [path for path in (ROOT / "man").glob("*") if path not in files]
    for path in stale:
        if words == ["--check"]:
            print(f"{path.relative_to(ROOT)} is out of date; `nox -s reference` updates it")
        elif path in files:
            path.parent.mkdir(exist_ok=True)
            path.write_text(files[path], encoding="utf-8")
            print(f"Wrote {path.relative_to(ROOT)}")
        else:
            path.unlink()
            print(f"Removed {path.relative_to(ROOT)}")
    return 1 if stale and words == ["--check"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
