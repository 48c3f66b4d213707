"""conda-script's entrypoint language: what is parsed, what is refused and where, what runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import cetool.base.errors
from cetool.base.errors import CetoolError, Location, MetadataError
from cetool.launch.entrypoint import MAX_DEPTH, Entrypoint, parse_entrypoint, simple_argv

SOURCE = str(Path(cetool.base.errors.__file__).parents[2])
POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX programs")
WHERE = Location("script.c", 3)
DRIVER = """
import json, sys
from pathlib import Path
from cetool.base.process import issue
from cetool.base.errors import CetoolError
from cetool.launch.entrypoint import *
text, args, environ, script, cache, prefix, scripts = json.loads(sys.argv[1])
try:
    around = EntrypointContext(environ, Path(script), Path(cache), Path(prefix), issue("a test"), tuple(scripts))
    run_entrypoint(parse_entrypoint(text), args, around)
except CetoolError as error:
    print(type(error).__name__, error, error.hint, file=sys.stderr)
    sys.exit(error.exit_status)
"""


class Bench:
    """A script with spaces in its path, its cache, and an environment with a program that shows its arguments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a b"
        self.script = self.folder / "my 'script'.c"
        self.cache = self.folder / "cache"
        self.prefix = self.folder / "env"
        (self.prefix / "bin").mkdir(parents=True)
        self.cache.mkdir()
        self.program(
            "show", f'#!/bin/sh\nexec "{sys.executable}" -I -c "import json,sys; print(json.dumps(sys.argv[1:]))" "$@"'
        )

    def program(self, name: str, text: str) -> Path:
        path = self.prefix / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def source(self, text: str) -> str:
        path = self.folder / "activate.sh"
        path.write_text(text)
        return str(path)

    def run(
        self, text: str, *args: str, scripts: tuple[str, ...] = (), **variables: str
    ) -> subprocess.CompletedProcess[str]:
        environ = {"PATH": os.defpath, "TWO": "x  y", "EMPTY": "", **variables}
        told = [text, args, environ, *map(str, (self.script, self.cache, self.prefix)), scripts]
        return subprocess.run(
            [sys.executable, "-c", DRIVER, json.dumps(told)],
            env={**os.environ, "PYTHONPATH": SOURCE},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
        )

    def words(self, text: str, *args: str, **variables: str) -> list[str]:
        done = self.run(text, *args, scripts=(), **variables)
        assert done.returncode == 0, done.stderr
        words = json.loads(done.stdout)
        assert isinstance(words, list)
        return words


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@POSIX
def test_words_follow_the_draft(bench: Bench) -> None:
    """conda-script: command language."""
    script, cache = str(bench.script), str(bench.cache)
    cases: dict[str, list[str]] = {
        "show": [],
        "  show\ta\n b ": ["a", "b"],
        "show a'b c'd \"e  f\" '' \"\"": ["ab cd", "e  f", "", ""],
        "show ${SCRIPT} -o ${CACHE}/main": [script, "-o", f"{cache}/main"],
        "show \"<${SCRIPT}>\" '${SCRIPT} $x $(no)'": [f"<{script}>", "${SCRIPT} $x $(no)"],
        'show ${TWO} "${TWO}" a${EMPTY}b ${EMPTY} "${EMPTY}"': ["x  y", "x  y", "ab", ""],
        r"show C:\dir\file \n * ? [a] ~ {a,b} # ! %PATH% a=b": [
            *[r"C:\dir\file", r"\n", "*", "?", "[a]", "~", "{a,b}", "#", "!", "%PATH%", "a=b"]
        ],
        "show $(echo a  'b c') -$(echo 1 2)-": ["a", "b", "c", "-1", "2-"],
        "show \"$(echo 'a  b')\" \"<$(printf 'x\\n\\n')>\"": ["a  b", "<x>"],
        "show $(true) \"$(true)\" x$(true)y $(printf ' p ')$(printf q)": ["", "xy", "p", "q"],
        "show $(echo $(echo ${SCRIPT} && echo \"$(echo ')')\"))": [*script.split(), ")"],
        'show "$(show "a  b" \'c"d\')"': ['["a  b", "c\\"d"]'],
    }
    for text, expected in cases.items():
        assert bench.words(text) == expected, text
    assert bench.words("true && true && show a", "--help", "a b", "$x", "&&", "") == [
        "a",
        "--help",
        "a b",
        "$x",
        "&&",
        "",
    ]
    assert bench.words("show ${SCRIPT}", SCRIPT="not this") == [script]
    assert bench.run("pwd").stdout == f"{bench.folder}\n"


@POSIX
def test_commands_stop_at_the_first_failure(bench: Bench) -> None:
    """conda-script: command language."""
    done = bench.run("sh -c 'echo one' && sh -c 'echo two; exit 3' && sh -c 'echo three'")
    assert (done.returncode, done.stdout) == (3, "one\ntwo\n")
    assert bench.run("true && sh -c 'exit 9'").returncode == 9
    assert bench.run("sh -c 'kill -TERM $$' && true").returncode == -signal.SIGTERM
    assert bench.run("true && sh -c 'kill -TERM $$'").returncode == -signal.SIGTERM


@POSIX
def test_a_file_is_compiled_and_run_as_in_the_draft(bench: Bench) -> None:
    bench.program("cc", '#!/bin/sh\nprintf \'#!/bin/sh\\necho "ran $0 $*"\\n\' >"$2" && chmod +x "$2"\n')
    done = bench.run("cc -o ${CACHE}/main ${SCRIPT} && ${CACHE}/main", "x y")
    assert done.stdout == f"ran {bench.cache}/main x y\n"
    assert "PWD" not in done.stderr


@POSIX
def test_failures_while_running_are_errors_with_a_message(bench: Bench) -> None:
    cases = {
        "show $(sh -c 'echo part; exit 4')": (4, "'sh' in '$(...)' of the entrypoint exited with status 4"),
        "show $(sh -c 'kill -TERM $$')": (143, "signal 15"),
        "show $(true && no-such-thing-here)": (127, "no-such-thing-here"),
        "Rscript ${SCRIPT}": (127, "r-base"),
        "true && ${CACHE}": (126, "directory"),
        "show ${SCIRPT}": (125, "column 6: unknown variable 'SCIRPT' (did you mean ${SCRIPT}?)"),
        "$(true)": (125, "is empty after replacing"),
        '"" a': (125, "is empty after replacing"),
        "show $(printf 'a\\0b')": (125, "NUL"),
    }
    for text, (status, word) in cases.items():
        done = bench.run(text)
        assert done.returncode == status, (text, done.stderr)
        assert word in done.stderr and "Traceback" not in done.stderr, (text, done.stderr)


@POSIX
def test_activation_scripts_are_sourced_once_for_all_commands(bench: Bench) -> None:
    count = bench.folder / "count"
    once = bench.source(f'echo . >>"{count}"; export ADDED="a b"; PATH="{bench.folder}/more:$PATH"\n')
    (bench.folder / "more").mkdir()
    (bench.folder / "more/extra").write_text('#!/bin/sh\necho "extra $ADDED $1"\n')
    (bench.folder / "more/extra").chmod(0o755)
    done = bench.run("true && extra ${ADDED} && extra $(extra ${ADDED})", scripts=(once,))
    assert done.stdout == "extra a b a b\nextra a b extra\n"
    assert bench.run("show ${SCRIPT}", scripts=(once,)).returncode == 0  # through exec
    assert count.read_text() == ".\n.\n"


@POSIX
def test_command_substitution_leaves_the_scripts_input_alone(bench: Bench) -> None:
    told = ["show $(cat) && cat", [], {"PATH": os.defpath}, *map(str, (bench.script, bench.cache, bench.prefix)), []]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(told)],
        env={**os.environ, "PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        input="for the script\n",
        text=True,
    )
    assert done.stdout == "[]\nfor the script\n"


@pytest.mark.parametrize(
    ("text", "column", "word"),
    [
        ("", 1, "a command is missing"),
        ("  \n", 4, "a command is missing"),
        ("a &&", 5, "missing after '&&'"),
        ("a && && b", 6, "missing after '&&'"),
        ("&& a", 1, "a command is missing"),
        ("a & b", 3, "background"),
        ("a &&& b", 5, "background"),
        ("a || b", 3, "pipes"),
        ("a | b", 3, "pipes"),
        ("a; b", 2, "';' is not"),
        ("a >b", 3, "redirections"),
        ("a 2>&1", 4, "redirections"),
        ("a <b", 3, "redirections"),
        ("a `b`", 3, "backticks"),
        ("(a)", 1, "subshells"),
        ("a b)", 4, "unmatched"),
        ("a $x", 3, "followed by"),
        ("a $", 3, "followed by"),
        ("a $$", 3, "followed by"),
        ('a "$1"', 4, "followed by"),
        ("a ${x", 3, "unclosed"),
        ("a ${}", 3, "a name"),
        ("a ${1a}", 3, "a name"),
        ("a ${a:-b}", 3, "a name"),
        ("a ${é}", 3, "a name"),
        ("a $(b", 3, "unclosed"),
        ("a $(b $(c)", 3, "unclosed"),
        ("a $()", 5, "a command is missing"),
        ("a $(b &&)", 9, "missing after '&&'"),
        ("a 'b", 3, "single quote"),
        ('a "b', 3, "double quote"),
        ('a "$(b "c)"', 4, "unclosed"),
        ('a "$(b "c)', 8, "double quote"),
        ("A=b c", 1, "variables cannot be set"),
        ("a && A=b c", 6, "variables cannot be set"),
        ("a $(" * (MAX_DEPTH + 1), 4 * MAX_DEPTH + 3, "levels deep"),
    ],
)
def test_unsupported_syntax_is_refused_with_its_column(text: str, column: int, word: str) -> None:
    """conda-script: command language."""
    with pytest.raises(MetadataError) as caught:
        parse_entrypoint(text, WHERE)
    assert caught.value.where == WHERE
    assert f"column {column}: " in str(caught.value), caught.value
    assert word in str(caught.value)


def test_an_entrypoint_that_needs_no_running_is_plain_data() -> None:
    script, cache = Path("/s/a b.c"), Path("/c")

    def argv(text: str) -> tuple[str, ...] | None:
        return simple_argv(parse_entrypoint(text), script, cache)

    assert argv("cc '-o' \"${CACHE}/m\" ${SCRIPT}") == ("cc", "-o", "/c/m", "/s/a b.c")
    assert argv("a && b") is None
    assert argv("a $(b)") is None
    assert argv("a ${HOME}") is None


_PIECES = [
    "a",
    " ",
    "'",
    '"',
    "$",
    "${SCRIPT}",
    "${",
    "}",
    "$(",
    ")",
    "(",
    "&&",
    "&",
    "|",
    "\\",
    "=",
    "\n",
    "é",
    "\0",
    "*",
]


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(_PIECES), max_size=40).map("".join)))
@example("$(" * 5000)
@example('"$(' * 5000)
@example("'" * 100_001)
@example("a " * 100_000)
def test_any_text_parses_or_raises_a_metadata_error(text: str) -> None:
    try:
        entry = parse_entrypoint(text, WHERE)
    except CetoolError as error:
        assert str(error).startswith("script.c:3: ")
    else:
        assert isinstance(entry, Entrypoint)
        assert entry.commands and all(command.words for command in entry.commands)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text(st.characters(blacklist_characters="\0'", blacklist_categories=["Cs"]), max_size=8), min_size=1)
)
def test_single_quotes_protect_everything(words: list[str]) -> None:
    text = " ".join(f"'{word}'" for word in words)
    assert simple_argv(parse_entrypoint(text), Path("/s"), Path("/c")) == tuple(words)
