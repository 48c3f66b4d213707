"""Help: every page fits the terminal, has short texts in groups; mistakes get a hint."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import typer
from support.home import Home
from support.scripts import told

from cetool.cli.app import make_app
from cetool.cli.compat import execute_parser, tmpenv_parser
from cetool.cli.pages import Page, pages_of, pages_of_parser
from cetool.settings.settings import KEYS, variable_of
from cetool.warm import COMMANDS

TOPICS = ("Run", "Declare", "Reproduce", "Environments", "Servers", "Settings", "Options")
#: The words of an option's text should be ten; those that need a case more, or an argument, may have a few more.
MOST_WORDS = 14


def pages() -> Iterator[Page]:
    """The help pages of all commands, hidden ones included."""
    yield from pages_of(typer.main.get_command(make_app(*COMMANDS)), "cetool")
    for parser in (execute_parser(), tmpenv_parser()):
        yield from pages_of_parser(parser)


PAGES = {page.command: page for page in pages()}


@pytest.mark.parametrize("columns", ["100", "80"])
def test_the_overview_groups_commands_and_fits_thirty_lines(settled: Home, columns: str) -> None:
    shown = settled.cetool("--help", env={"COLUMNS": columns}).stdout
    lines = shown.splitlines()
    assert len(lines) <= 30
    assert all(len(line) <= int(columns) for line in lines)
    assert [line.split()[0] for line in lines if line[:1].isalpha()] == ["Usage:", *TOPICS]
    for name in set(COMMANDS) - {"help", "remove-dep"}:
        assert re.search(rf" {name}(, \w+)?  +[A-Z].*\.$", shown, re.MULTILINE), name


@pytest.mark.parametrize("columns", [100, 80, 60])
def test_pages_fit_the_terminal(settled: Home, columns: int) -> None:
    for words in (("run",), ("lock",), ("overlay", "create"), ("config",)):
        shown = settled.cetool(*words, "--help", env={"COLUMNS": str(columns)}).stdout
        assert max(map(len, shown.splitlines())) <= columns
        assert not re.search(r" $|<|list\[|\{[A-Z]", shown, re.MULTILINE), shown


def test_run_has_its_options_in_panels_with_variables_and_defaults(settled: Home) -> None:
    shown = settled.cetool("run", "--help").stdout
    panels = ["Arguments", "Options", "Environment", "Reproducibility", "Remote scripts", "Overlays", "Notebooks"]
    assert re.findall(r"^([A-Z][a-z ]+):$", shown, re.MULTILINE) == [*panels, "Output"]
    for variable in ("CETOOL_ENGINE", "CETOOL_OFFLINE", "CETOOL_TRUST=always", "CETOOL_VERBOSITY=quiet"):
        assert f"[env: {variable}]" in shown
    assert "[values: mamba, micromamba, conda, rattler]" in " ".join(shown.split())
    assert shown.index("--with") < shown.index("--channel") < shown.index("--trust-cache-dir")
    assert "[default: conda-lock]" in settled.cetool("export", "--help").stdout


def test_help_has_colours_where_they_are_wanted(settled: Home) -> None:
    for env, coloured in (
        ({}, False),
        ({"FORCE_COLOR": "1", "TERM": "xterm"}, True),
        ({"FORCE_COLOR": "1", "TERM": "xterm", "NO_COLOR": "1"}, False),
    ):
        assert ("\x1b[" in settled.cetool("gc", "--help", env=env).stdout) == coloured


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
def test_texts_are_short_and_complete(page: Page) -> None:
    assert page.summary.endswith(".") and len(page.summary) < 70
    for section in page.sections:
        for entry in section.entries:
            assert entry.help.endswith((".", ")", ":")), entry
            assert len(entry.help.split()) <= MOST_WORDS, entry
            assert entry.help[0].isupper(), entry
            if entry.setting:
                assert entry.setting in KEYS and entry.variable.startswith(variable_of(entry.setting))


def test_help_is_a_command(settled: Home) -> None:
    assert settled.cetool("help").stdout == settled.cetool("--help").stdout
    assert settled.cetool("help", "config", "set").stdout == settled.cetool("config", "set", "--help").stdout
    assert settled.cetool("-V").stdout == settled.cetool("--version").stdout


def test_every_command_shows_its_page(settled: Home) -> None:
    for command in ("cex", "conda-execute", "conda-tmpenv"):
        done = settled.run(command, "--help")
        assert (done.returncode, done.stderr) == (0, "") and "Usage: " in done.stdout
    assert "Re-create the environment" in settled.run("conda-tmpenv", "create", "--help").stdout


@pytest.mark.parametrize(
    ("words", "problem", "hint"),
    [
        ("run --engin x a.py", "unknown option --engin", "Did you mean `--engine`?"),
        ("run -x a.py", "unknown option -x", "`cetool run --help` shows all options."),
        ("config gte", "unknown command 'gte'", "Did you mean 'get'?"),
        ("overlay crate x", "unknown command 'crate'", "Did you mean 'create' or 'activate'?"),
        ("show", "SCRIPT|NAME is missing", "Usage: cetool show [OPTIONS] SCRIPT|NAME"),
        ("convert a.py", "--to is missing", "Usage: cetool convert [OPTIONS] --to DIALECT SCRIPT"),
        ("gc x", "unexpected argument: x", "`cetool gc --help` shows all options."),
        ("gc --older-than", "--older-than needs a value", "Write it as `--older-than DURATION`."),
        ("list --json=x", "--json takes no value", "`cetool list --help` shows all options."),
        ("--verison", "unknown option --verison", "Did you mean `--version`?"),
        ("lock --format x a.py", "--format: 'x' is not one of 'conda-lock', 'pixi'", "`cetool lock --help`"),
        ("run -v -q a.py", "--verbose and --quiet cannot be used together", ""),
        ("help rnu", "unknown command 'rnu'", "Did you mean 'run'?"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_a_hint(settled: Home, words: str, problem: str, hint: str) -> None:
    done = settled.cetool(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    first, *more = told(done.stderr)
    assert first == f"cetool: {problem}"
    assert "\n".join(more).startswith(hint)
