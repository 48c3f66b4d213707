"""Nothing that comes from a script, a channel or a file is obeyed by a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
from support.home import Home

import cetool
from cetool.base.text import json_escaped, neutral, neutral_line, without_controls

#: A title, a colour by C1, a turned direction, a start of the line, a bell, a separator of lines.
HOSTILE = "a\x1b]0;x\x07b\x9b31mc\u202ed\re\u2028f\u200bg"
OBEYED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u200b]")

ROOT = Path(cetool.__file__).parent
#: What writes to the standard streams, and what may: the boundary, the Voice, a program for another Python,
#: and programs that answer the server.
_WRITES = re.compile(
    r"(?<![\w.])print\(|std(?:out|err)\.(?:buffer\.)?write|\becho\(|\bsecho\(|\bConsole\(|os\.write\([12],|print_exc"
)
_MAY_WRITE = {
    *("cli/help.py", "cli/output.py", "cli/progress.py", "cli/tables.py", "overlays/probe.py"),
    *("app/build.py", "app/searching.py"),
}


def test_only_the_boundary_prints() -> None:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        with tokenize.open(path) as file:
            text = "".join(
                token.string if token.type != tokenize.STRING else '""'
                for token in tokenize.generate_tokens(file.readline)
            )
        if _WRITES.search(text) and name not in _MAY_WRITE:
            found.append(name)
    assert found == []


def test_characters_that_a_terminal_obeys_become_escapes() -> None:
    shown = neutral(HOSTILE)
    assert shown == r"a\x1b]0;x\x07b\x9b31mc\u202ed\re\u2028f\u200bg" and neutral(shown) == shown
    assert neutral("two\nlines\tna\u00efve \u65e5\u672c") == "two\nlines\tna\u00efve \u65e5\u672c"
    assert neutral_line("a\n\t\udc80\ud800") == r"a\n\t\udc80\ud800"
    assert without_controls(HOSTILE) == "abcdefg"
    assert json.loads(json_escaped(json.dumps({"k": HOSTILE + "\ud800"}, ensure_ascii=False))) == {
        "k": HOSTILE + "\ud800"
    }
    assert not OBEYED.search(json_escaped(json.dumps(HOSTILE, ensure_ascii=False)))


def on_a_terminal(home: Home, *words: str | Path) -> str:
    """What a command shows on a terminal that standard output and standard error both are."""
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "cetool", *map(str, words)]
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=home.environment({"TERM": "dumb"}),
        cwd=home.path,
    )
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 65536):
            seen += part
    except OSError:  # the terminal's other end is closed
        pass
    process.wait()
    os.close(ours)
    return seen.decode("utf-8", "surrogateescape").replace("\r\n", "\n")


#: Every displayed field of a declaration, as YAML has them in quotes.
_QUOTED = json.dumps(HOSTILE)
_FIELDS = (
    "variables: {{N: {0}}}",
    "run_with: [sh, {0}]",
    "env: [{0}]",
    "channels: [{0}]",
    "channels: ['https://u:p@host.example/'{0}]",
    "pip: [{0}]",
    "base: {0}",
    "baseline: {0}",
    "name: {0}",
    "{0}: 1",
)


@pytest.mark.parametrize("field", _FIELDS)
def test_no_field_of_a_declaration_is_obeyed(settled: Home, field: str) -> None:
    declared = field.format(_QUOTED)
    more = "" if declared.startswith("env") else "# env: [hello-bin]\n"
    script = settled.write("a.sh", f"#!/bin/sh\n# conda execute\n# {declared}\n{more}\nhello\n")
    for words in (
        ("show", script),
        ("show", "--json", script),
        ("check", script),
        ("name", script),
        ("run", "-v", "--offline", script),
    ):
        seen = on_a_terminal(settled, *words)
        assert seen.strip() and not OBEYED.search(seen.replace("\r", "")), words
        done = settled.cetool(*words)
        assert not OBEYED.search(done.stdout + done.stderr), words
        if words[1] == "--json" and done.stdout:
            json.loads(done.stdout)


def test_no_name_of_a_file_and_no_word_is_obeyed(settled: Home) -> None:
    name = HOSTILE.replace("/", "")
    script = settled.write(f"{name}.sh", "#!/bin/sh\n# conda execute\n# env: [hello-bin]\n# chanels: [x]\n\nhello\n")
    commands: tuple[tuple[str | Path, ...], ...] = (
        *(("show", script), ("check", "--json", script), ("lock", script)),
        *(("run", name), ("show", f"--{name}"), ("config", "get", name), ("exec", name), ("create", name)),
        *(("create", "six", "--channel", name), ("export", name)),
    )
    for words in commands:
        seen = on_a_terminal(settled, *words)
        assert seen.strip() and not OBEYED.search(seen.replace("\r", "")), words


@pytest.mark.parametrize("name", ["lock", "record", "marker"])
def test_control_characters_in_cetools_files_are_not_obeyed(home: Home, name: str) -> None:
    script = home.write("a.sh", "#!/bin/sh\n# conda execute\n# env: [hello-bin]\n\nhello\n")
    if name == "lock":
        text = f'{{"version": 1, "metadata": {{"platforms": [{_QUOTED}]}}, "package": [{{"name": {_QUOTED}}}]}}'
        home.write("a.sh.conda-lock.yml", text)
        commands: list[tuple[str | Path, ...]] = [("run", "--locked", script), ("show", script), ("export", script)]
    elif name == "record":
        record = home.write("r.json", json.dumps({"schema": "cetool.run/1", HOSTILE: HOSTILE}))
        commands = [("rerun", record)]
    else:
        assert home.cetool("run", script).returncode == 0
        for marker in home.cache.rglob("*.json"):
            with_name = marker.read_text().replace("hello-bin", json.dumps(HOSTILE)[1:-1])
            marker.chmod(0o644)
            marker.write_text(with_name)
        commands = [("list",), ("list", "--json"), ("gc",), ("verify",), ("run", "-v", script)]
    for words in commands:
        seen = on_a_terminal(home, *words)
        assert not OBEYED.search(seen.replace("\r", "")), (words, seen)
