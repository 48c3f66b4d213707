"""Whatever a script's text is: metadata or a sentence, within bounds of time and memory, and nothing done meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzz.blocks import BLOCKS
from support.home import Home
from support.scripts import told

_TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(os.name == "nt", reason="memory is limited as POSIX does")
@pytest.mark.parametrize("dialect", BLOCKS)
def test_mutations_are_metadata_or_an_error(dialect: str, scale: int) -> None:
    """1,000 cases a dialect, 100,000 with --long: see ``tests/fuzz``."""
    count = 1000 * scale**2
    path = os.pathsep.join([str(_TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.mutate", dialect, str(count)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=_TESTS,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    read, metadata = map(int, done.stdout.split())
    assert read == count and metadata >= count // 50


# --- hostile scripts ------------------------------------------------------------------------------------------------

_TOUCH = "touch $HOME/pwned"
_LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


def _execute(text: str) -> str:
    return "# conda execute\n" + "".join(f"# {line}\n" for line in text.split("\n"))


def _toml(*lines: str) -> str:
    return "# /// script\n" + "".join(f"# {line}\n" for line in lines) + "# ///\n"


def _conda_script(*lines: str) -> str:
    head = ("# /// conda-script", "# channels = ['conda-forge']", "# [dependencies]")
    return "\n".join([*head, *(f"# {line}" for line in lines), "# /// end-conda-script", ""])


def _hostile() -> Iterator[tuple[str, str]]:
    """Texts of scripts, each with words of what is said of it."""
    for spec in ("--prefix=/tmp/x", "-c evil"):
        yield _execute(f"env: ['{spec}']"), "starts with '-'"
    for spec in (f"hello-bin; {_TOUCH}", f"$({_TOUCH})", f"hello-bin | {_TOUCH}"):
        yield _execute(f'env: ["{spec}"]'), "is not a match spec"
    for spec in ("../../etc/passwd", "..", "hello-bin/../../x", "file:///etc/passwd"):
        yield _execute(f"env: ['{spec}']"), "is not a match spec"
    yield _execute('env: ["hello-bin\\n--prefix=/tmp/x"]'), "line break or a control character"
    yield _execute('env: ["hello-bin\\0"]'), "control character"
    for channel in ("a b", "a/../../../b", "$(touch)", "-x"):
        yield _execute(f'env: [hello-bin]\nchannels: ["{channel}", nodefaults]'), ""
    yield _execute("env: [hello-bin]\nvariables: {LD_PRELOAD=x: y}"), "LD_PRELOAD=x"
    yield _execute('env: [hello-bin]\nvariables: {"A\\nB": y}'), "variable"
    yield _execute(f"env:\n  - pip: ['--target=/tmp/x six']\n# {_TOUCH}"), "is not a line for pip"
    yield _execute("env:\n  - pip: ['six @ ssh://-oProxyCommand=touch/x']"), "is not a PyPI requirement"
    yield _execute(_LAUGHS), "anchors"
    yield _execute("env: " + "[" * 4000), "nested too deep"
    yield _execute("env: [hello-bin]\nenviroment: " + "9" * 8000), "unknown key 'enviroment'"
    yield _execute("env: [" + "9" * 8000 + "]"), ""
    yield _execute("env: !!python/object/apply:os.system ['touch pwned']"), "tags"
    yield _execute("env:\n" + "  - hello-bin\n" * 500_000), "is larger than"
    yield "# conda execute\n" + "# " + "x" * (10 * 1024 * 1024 - 100), ""
    yield "# conda execute\n" + "# env: [a]\n" * 1_000_000, "larger than"
    yield _toml("dependencies = ['--target=/tmp/x']"), "option of pip"
    yield _toml("dependencies = ['six; os.system(1)']"), "is not a PyPI requirement"
    yield _toml(f"dependencies = [{'9' * 5000}]"), ""
    yield _toml("x = " + "[" * 8000), ""
    yield _toml("x = " + "{a=" * 1500), ""
    yield _toml("[tool.uv]", "index-url = '--trusted-host=x'"), "URL of an index"
    yield _toml("[tool.conda]", "dependencies = ['../../x']"), "is not a match spec"
    yield _toml(".".join("a" * 4000) + " = 1"), ""
    yield _conda_script("'../../x' = '*'"), "is not a package name"
    yield _conda_script("\"a'; touch x\" = '*'"), "is not a package name"
    yield _conda_script("""hello-bin = '*",channel="file:///etc'"""), "quote"
    yield _conda_script("hello-bin = { url = '/etc/passwd' }"), ""
    yield _conda_script("hello-bin = { subdir = '../../x' }"), "not a platform"


def _listing(directory: Path) -> dict[str, tuple[int, int]]:
    """All that is below a directory, with what changes when a file does."""
    found = {}
    for path in directory.rglob("*"):
        status = path.lstat()
        found[str(path)] = (status.st_size, status.st_mtime_ns)
    return found


def test_hostile_headers_are_errors(home: Home) -> None:
    """Nothing is executed, nothing is written anywhere, the cache not even begun."""
    script = home.write("hostile.sh", "")
    before = _listing(home.path)
    for text, words in _hostile():
        script.write_text(text)
        done = home.cetool("run", script)
        assert (done.returncode, done.stdout) == (125, ""), (text[:200], done.stderr[:1000])
        lines = told(done.stderr)
        assert len(lines) <= 4 and len(done.stderr) < 2000, (text[:200], done.stderr[:3000])
        assert words in done.stderr, (text[:200], done.stderr)
        script.write_text("")
        after = _listing(home.path)
        after[str(script)] = before[str(script)]
        assert after == before, text[:200]
    # a directory may be a channel: it is read, and nothing is written but in the cache
    script.write_text(_execute("env: [hello-bin]\nchannels: [../../../../../../etc]"))
    done = home.cetool("run", script)
    assert done.returncode == 125 and told(done.stderr)
    written = {path for path in _listing(home.path) if path not in before}
    assert all(path.startswith(str(home.cache)) for path in written)


def test_what_looks_like_a_command_is_text(home: Home) -> None:
    """Where shell syntax may stand, in values of variables and words of a command, it is handed on as it is."""
    text = (
        f"# conda execute\n# env: [hello-bin]\n# variables: {{VALUE: '$({_TOUCH}) `{_TOUCH}`; {_TOUCH}'}}\n"
        f"# run_with: [/bin/sh, -c, 'printf \"%s\\n\" \"$VALUE\" \"$1\"', '; {_TOUCH}', '$({_TOUCH})']\n"
    )
    script = home.write("text.sh", text)
    done = home.cetool("run", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"$({_TOUCH}) `{_TOUCH}`; {_TOUCH}\n$({_TOUCH})\n"
    assert not (home.path / "pwned").exists()
