"""The library of docs/reference/library.md: typed, silent, usable from several threads, with codes for errors."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.home import Home

from cetool.declare.platforms import current_platform

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "# conda execute\n# env:\n#  - python >=3\n#  - hello-bin\nprint('never run')\n"


def run_program(home: Home, code: str) -> str:
    """Run a program that uses the library in a separate home; return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=home.path, env=home.env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def test_the_examples_of_the_page_run(home: Home) -> None:
    home.write("my_script.py", SCRIPT)
    page = (ROOT / "docs/reference/library.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 3
    first, second, third = (run_program(home, each.replace("linux-64", current_platform())) for each in examples)
    name = home.cetool("name", "my_script.py").stdout.strip().rpartition("/")[2]
    lines = first.splitlines()  # the environment's program prints before the output buffered here
    assert lines[1:3] == ["conda execute (1, 4) ('python >=3', 'hello-bin')", name]
    assert lines[0].endswith(f"/{name}") and lines[3].endswith(f"/{name} 2")
    assert any(line.startswith("hello-bin 1.0 file://") for line in lines)
    assert second == "hello\n"
    assert third == "package-not-found\n"


def test_a_locked_script_gets_the_locked_environment(home: Home) -> None:
    home.write("locked.py", SCRIPT)
    assert home.cetool("lock", "locked.py").returncode == 0
    name = home.cetool("name", "locked.py").stdout.strip().rpartition("/")[2]
    code = "import cetool; print(cetool.specify(cetool.read('locked.py')).name)"
    assert run_program(home, code) == f"{name}\n"


def test_threads_share_one_creation(home: Home) -> None:
    code = """
import cetool, os, threading
from concurrent.futures import ThreadPoolExecutor

before = (dict(os.environ), os.getcwd(), os.umask(0o027), threading.active_count())
os.umask(before[2])
same, other = cetool.specify(["hello-bin"]), cetool.specify(["hello-bin", "python"])

def use(spec):
    with cetool.ensure(spec) as environment:
        ran = environment.run(["hello"], capture_output=True, text=True)
        return environment.created, str(environment.prefix), ran.stdout

def fail(spec):
    try:
        cetool.ensure(spec)
    except cetool.CetoolError as error:
        return error.code

with ThreadPoolExecutor(6) as pool:
    used = list(pool.map(use, [same, same, other, same, other]))
    codes = list(pool.map(fail, [cetool.specify(["no-such-package"])] * 2))
assert sorted(created for created, *_ in used) == [False] * 3 + [True] * 2, used
assert len({prefix for _, prefix, _ in used}) == 2, used
assert all(out == f"hello from {prefix}\\n" for _, prefix, out in used), used
assert codes == ["package-not-found"] * 2, codes
mask = os.umask(0o027)
assert before[:3] == (dict(os.environ), os.getcwd(), mask), mask
print("done")
"""
    assert run_program(home, code) == "done\n"


def test_an_environment_used_by_a_program_is_not_removed(home: Home) -> None:
    code = """
import cetool, subprocess, sys
gc = [sys.executable, "-m", "cetool", "gc", "--all"]
environment = cetool.ensure(cetool.specify(["python"]))
subprocess.run(gc, check=True, capture_output=True)
assert environment.prefix.is_dir()
waiting = environment.command(["python", "-c", "input()"])
environment.release()
subprocess.run(gc, check=True, capture_output=True)
assert not environment.prefix.is_dir()
"""
    run_program(home, code)


def test_progress_is_reported_and_nothing_printed(home: Home) -> None:
    code = """
import cetool

class Told:
    def __init__(self): self.stages = []
    def stage(self, text): self.stages.append(text)
    def packages(self, count): self.count = count
    def download(self, done, total): pass
    def link(self, done, total): self.linked = (done, total)
    def note(self, text): pass

told = Told()
with cetool.ensure(cetool.specify(["hello-bin"]), progress=told) as environment:
    assert environment.created
assert told.count == len(environment.packages) == 1, told.count
print(" ".join(told.stages))
"""
    assert "Linking" in run_program(home, code)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("cetool.read('none.py')", "script-not-found"),
        ("cetool.read('https://example.org/x.py')", "usage"),
        ("cetool.read('plain.py')", "block-missing"),
        ("cetool.read('wrong.py')", "key-unknown"),
        ("cetool.specify(['numpy >'])", "match-spec-invalid"),
        ("cetool.specify(['numpy'], settings={'engine': 'hammer'})", "usage"),
        ("cetool.ensure(cetool.specify(['hello-bin'])).run(['no-such-program'])", "program-not-found"),
        ("cetool.resolve(cetool.specify(['no-such-package']))", "package-not-found"),
    ],
)
def test_errors_have_codes(settled: Home, code: str, expected: str) -> None:
    settled.write("plain.py", "print('hello')\n")
    settled.write("wrong.py", "# conda execute\n# env: [python]\n# chanels: [x]\n")
    program = f"import cetool\ntry:\n    {code}\nexcept cetool.CetoolError as error:\n    print(error.code)\n"
    assert run_program(settled, program) == f"{expected}\n"


def test_every_public_name_exists_and_is_documented() -> None:
    code = "import cetool; print([name for name in cetool.__all__ if getattr(cetool, name) is None], len(dir(cetool)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("[] "), done.stderr


def test_impossible_requests_and_wrong_settings_have_codes(home: Home) -> None:
    code = """
import cetool

impossible = (["conflict-a", "conflict-b"], None)
for specs, settings in (impossible, (["hello-bin"], {"bogus": 1}), (["hello-bin"], {"engine": "x"})):
    try:
        cetool.ensure(cetool.specify(specs), settings=settings)
    except cetool.CetoolError as error:
        print(error.code)
"""
    assert run_program(home, code).split() == ["spec-unsatisfiable", "setting-unknown", "usage"]
