"""``cetool list``: a line for each environment at any width; and the abbreviated names that all commands take."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
from rich.cells import cell_len
from support.cache import builder, ensure, small_store
from support.documents import run_on_terminal
from support.home import Home
from support.scripts import environments, shell_script, told

from cetool.declare.environment import EnvironmentSpec, Solve
from cetool.warm.files import append_note

LONG = "a-package-whose-name-is-far-too-long-for-any-column-of-any-table >=1.2.3,<2.0a0,!=1.9.7"
WIDE = "/home/me/分析/とても長い名前のスクリプト.py"


def make(home: Home, *specs: str, number: int = 0) -> Path:
    """Make a small environment of these specs in the home's cache, and return its prefix."""
    spec = EnvironmentSpec(Solve(tuple(sorted(specs))), variables=(("NUMBER", str(number)),))
    with ensure(small_store(home.cache), spec, builder(spec)) as lease:
        return lease.prefix


def note_run(home: Home, prefix: Path, script: str, seconds_ago: float = 60.0) -> None:
    """Note that a process which has ended ran a script in an environment."""
    moment = time.time_ns() - int(seconds_ago * 1e9)
    line = f"\n{moment}\t1\t0\t{socket.gethostname()}\t{prefix.name}\t{script}\n"
    append_note(str(home.cache / "spool"), line.encode())


def make_thirty(home: Home) -> list[Path]:
    """Make environments of 1 to 15 packages that up to 3 scripts have used."""
    prefixes = []
    for number in range(30):
        specs = [f"package{each} >={number}" for each in range(number % 15 + 1)]
        prefixes.append(make(home, *(specs if number != 7 else [LONG]), number=number))
        for each in range(number % 4):
            note_run(home, prefixes[-1], [f"/srv/data/deep/down/script{number}.py", WIDE, "exec ruff"][each], each + 1)
    return prefixes


def on_terminal(home: Home, command: str, width: int) -> list[str]:
    """Return the lines that a command shows on a terminal of this width."""
    status, shown = run_on_terminal(f"COLUMNS={width} CETOOL_CACHE_DIR={home.cache} {command}", home)
    assert status == 0, shown
    return shown.splitlines()


def test_list_shows_a_line_for_each_environment_at_any_width(home: Home) -> None:
    names = {prefix.name[:8] for prefix in make_thirty(home)}
    headers = {
        60: ["NAME", "SCRIPTS", "SPECS", "SIZE", "USED"],
        80: ["NAME", "SCRIPTS", "SPECS", "SIZE", "LAST", "USED"],
        120: ["NAME", "SCRIPTS", "SPECS", "SIZE", "LAST", "USED"],
    }
    for width, header in headers.items():
        lines = on_terminal(home, "cetool list", width)
        assert lines[0].split() == header
        assert {line.split()[0] for line in lines[1:-1]} == names and len(lines) == 32
        assert max(map(cell_len, lines)) <= width
        assert re.fullmatch(r"30 environments, \d+ kB, in ~/cetool/envs", lines[-1])
        assert any(re.search(r"package\d+( >=\d+)? \+\d+ ", line) for line in lines)
        assert any(re.search(r"script\d+\.py.* \+[12] ", line) for line in lines)


def test_list_keeps_the_ends_of_long_names(home: Home) -> None:
    for number in range(3):
        note_run(
            home, make(home, f"a-package >={number}", number=number), f"/a/analysis_of_the_measurements_{number}.py"
        )
    shown = "\n".join(on_terminal(home, "cetool list", 60))
    assert "analysis" in shown and all(f"_{number}.py" in shown for number in range(3))


def test_list_cuts_no_text_in_a_pipe(home: Home) -> None:
    make_thirty(home)
    lines = home.cetool("list").stdout.splitlines()
    assert len(lines) == 32 and "…" not in "".join(lines)
    text = "\n".join(lines)
    assert LONG.split()[0] in text and Path(WIDE).name in text
    starts = {cell_len(line[: line.index("just now")]) for line in lines[1:-1]}
    assert len(starts) == 1, "the columns are not aligned"


def test_list_in_ascii_shows_wide_characters_as_escapes(home: Home) -> None:
    note_run(home, make(home, "six"), WIDE)
    done = home.cetool("list", env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and "six" in done.stdout and done.stdout.isascii()


def test_list_verbose_adds_engine_and_packages(home: Home) -> None:
    prefix = make(home, "six")
    lines = home.cetool("list", "-v").stdout.splitlines()
    assert lines[0].split() == ["NAME", "SCRIPTS", "SPECS", "SIZE", "LAST", "USED", "PACKAGES", "ENGINE"]
    assert lines[1].split()[0] == prefix.name and lines[1].split()[-3:] == ["1", "small", "1"]
    for width in (60, 80):
        lines = on_terminal(home, "cetool list -v", width)
        assert lines[0].split()[-2:] == ["PACKAGES", "ENGINE"] and max(map(cell_len, lines)) <= width


def test_list_shows_the_processes_that_run_in_an_environment(home: Home) -> None:
    free, used = make(home, "six"), make(home, "numpy")
    program = used / "bin" / "a-daemon"
    shutil.copy(shutil.which("sleep") or "", program)
    with subprocess.Popen([program, "600"]) as daemon:
        try:
            rows = {row["prefix"]: row for row in json.loads(home.cetool("list", "--json").stdout)["environments"]}
            assert (rows[str(used)]["daemons"], rows[str(used)]["in_use"]) == ([daemon.pid], True)
            assert (rows[str(free)]["daemons"], rows[str(free)]["in_use"]) == ([], False)
            text = home.cetool("list").stdout
            assert f"a-daemon {daemon.pid}" in text and "RUNNING" in text
            lines = on_terminal(home, "cetool list", 60)
            assert lines[0].split()[-1] == "RUN" and any(line.split()[-1] == "1" for line in lines)
        finally:
            daemon.kill()
    assert "RUNNING" not in home.cetool("list").stdout


def test_list_json_has_scripts_and_the_shortest_name(home: Home) -> None:
    prefix = make(home, "six")
    for ago, script in ((30, "/a/first.py"), (10, "/a/last.py"), (20, "exec ruff"), (40, "/a/last.py")):
        note_run(home, prefix, script, ago)
    [row] = json.loads(home.cetool("list", "--json").stdout)["environments"]
    assert row["scripts"] == ["/a/last.py", "exec ruff", "/a/first.py"]
    assert (row["short"], row["runs"]) == (prefix.name[:8], 4)


# --- abbreviated names ------------------------------------------------------------------------------------------------


def make_similar(home: Home) -> tuple[Path, Path]:
    """Make two environments whose names begin with the same four digits."""
    seen: dict[str, int] = {}
    for number in itertools.count():
        name = EnvironmentSpec(Solve(("six",)), variables=(("NUMBER", str(number)),)).name
        if name[:4] in seen:
            return make(home, "six", number=seen[name[:4]]), make(home, "six", number=number)
        seen[name[:4]] = number
    raise AssertionError


def test_an_ambiguous_name_removes_nothing_and_lists_the_candidates(home: Home) -> None:
    one, other = make_similar(home)
    for command in ("remove", "verify", "export", "list", "tree", "path", "shell", "show"):
        done = home.cetool(command, one.name[:4])
        assert done.returncode == 125, command
        problem = told(done.stderr)
        assert f"'{one.name[:4]}' could be any of 2 environments" in problem[0]
        assert one.name[:8] in done.stderr and other.name[:8] in done.stderr and "(six)" in done.stderr
    assert environments(home).keys() == {one.name, other.name}
    done = home.cetool("remove", one.name[:8])
    assert done.returncode == 0 and environments(home).keys() == {other.name}, done.stderr


def test_path_shell_and_show_take_the_name_of_an_environment(settled: Home) -> None:
    prefix = Path(settled.cetool("create", "hello-bin").stdout.strip())
    for word in (prefix.name[:8], prefix.name, str(prefix)):
        assert settled.cetool("path", word).stdout == f"{prefix}\n"
    assert settled.cetool("shell", prefix.name[:8], input="hello\n").stdout == f"hello from {prefix}\n"
    shown = settled.cetool("show", prefix.name[:8]).stdout
    assert f"prefix:     {prefix}\n" in shown and "env:        [hello-bin]\n" in shown
    assert f"script:     path {prefix.name[:8]}\n" in shown
    document = json.loads(settled.cetool("show", prefix.name[:8], "--json").stdout)
    assert [row["prefix"] for row in document["environments"]] == [str(prefix)]
    assert document["schema"] == "cetool.list/1"
    done = settled.cetool("path", prefix.name[:8], "--with", "six")
    assert done.returncode == 2 and "the options given are for scripts" in told(done.stderr)[0]
    assert settled.cetool("path", "0" * 20).returncode == 125


def test_a_base_and_an_overlay_can_be_abbreviated(home: Home) -> None:
    base = Path(home.cetool("create", "python", "six ==1.16.0").stdout.strip())
    script = home.write("over.py", "import six\nprint(six.__version__)\n")
    done = home.cetool("run", "-q", "--base", base.name[:8], "--overlay", "six ==1.17.0", script)
    assert (done.stdout, done.returncode) == ("1.17.0\n", 0), done.stderr
    for name in ("tools", "tools-newer", "other"):
        assert home.cetool("overlay", "create", name, "--base", base.name[:6], "six ==1.17.0").returncode == 0
    assert "name:       other\n" in home.cetool("overlay", "show", "oth").stdout
    assert "name:       tools\n" in home.cetool("overlay", "show", "tools").stdout
    assert home.cetool("list", "oth").stdout == home.cetool("list", "other").stdout
    for command in (("overlay", "show"), ("overlay", "export"), ("list",), ("tree",)):
        done = home.cetool(*command, "tool")
        assert done.returncode == 125 and "'tool' could be any of 2 overlays" in told(done.stderr)[0]
        assert "tools, tools-newer" in done.stderr
    # what is removed is named in full: `tools` may be gone, and `tools-newer` was not meant
    assert home.cetool("overlay", "remove", "oth").returncode == 125
    assert home.cetool("overlay", "show", "other").returncode == 0


def test_an_abbreviation_has_four_digits_at_least(home: Home) -> None:
    prefix = make(home, "six")
    for word in (prefix.name[:3], prefix.name[:1], prefix.name[:6] + "x", prefix.name[1:9], prefix.name[:6].upper()):
        if word != prefix.name[:6]:
            done = home.cetool("remove", word)
            assert done.returncode == 125 and "there is no environment or script called" in told(done.stderr)[0]
    assert environments(home).keys() == {prefix.name}
    assert home.cetool("verify", prefix.name[:4]).stdout.startswith(prefix.name)


def test_a_script_wins_over_an_abbreviation(home: Home) -> None:
    prefix = make(home, "six")
    script = home.write(prefix.name[:8], shell_script("true", env="never-made"))
    done = home.cetool("remove", script.name)
    assert done.returncode == 125 and "there is no environment of" in told(done.stderr)[0]
    assert environments(home).keys() == {prefix.name}
    assert home.cetool("remove", prefix.name).returncode == 0


def test_a_directory_made_again_has_a_number(home: Home) -> None:
    prefix = make(home, "six")
    again = prefix.with_name(f"{prefix.name}-2")
    shutil.copytree(prefix, again)
    marker = again / "conda-meta" / "cetool"
    marker.write_text(marker.read_text().replace(str(prefix), str(again)))
    rows = json.loads(home.cetool("list", "--json").stdout)["environments"]
    assert {row["short"] for row in rows} == {prefix.name[:8], f"{prefix.name[:8]}-2"}
    assert home.cetool("remove", f"{prefix.name[:6]}-2").returncode == 0
    assert environments(home).keys() == {prefix.name}


@pytest.mark.skipif(os.name == "nt", reason="a PTY")
def test_a_name_stays_in_one_piece_on_a_narrow_terminal(home: Home) -> None:
    prefix = make(home, LONG)
    for width in (20, 30, 40):
        assert on_terminal(home, "cetool list", width)[1].split()[0] == prefix.name[:8]
