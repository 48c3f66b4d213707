"""What a cold run imports: an existing environment is found without the code that makes one."""

from __future__ import annotations

import re
import shutil
import sys

import pytest
from support.home import Home
from support.scripts import shell_script

#: The most modules of cetool, including packages, that a cold run on an existing environment imports. The aim
#: is 39.
MOST = 61
#: Modules that such a run does not need.
UNNEEDED = re.compile(
    r"(typer|rich|click|tomlkit|ruamel|nbformat|rattler|asyncio|sqlite3|subprocess|cetool\.(edit|fetch|provenance)\..*"
    r"|cetool\.engines\.(build|rattler|pypi).*|cetool\.overlays\..*)\b"
)


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="programs are not started by exec there")


#: Modules that it takes to solve, to convert options, or to read YAML with anchors; not to look at a lock.
UNNEEDED_FOR_A_LOCK = re.compile(r"(rich|pydantic|ruamel|tomlkit|rattler|asyncio|sqlite3)\b")


@pytest.fixture
def imported(home: Home) -> set[str]:
    """Return all modules that a cold run on an existing environment imports."""
    script = home.write("report.sh", shell_script("hello"))
    words = ("-X", "importtime", "-m", "cetool", "run", script)
    assert home.run(sys.executable, *words).returncode == 0
    shutil.rmtree(home.cache / "launch", ignore_errors=True)
    done = home.run(sys.executable, *words)
    assert done.returncode == 0
    return set(re.findall(r"^import time: .*\|\s*(\S+)$", done.stderr, re.MULTILINE))


def test_a_cold_run_does_not_import_the_code_that_makes_environments(imported: set[str]) -> None:
    assert not [name for name in imported if UNNEEDED.match(name)]


def test_a_cold_run_imports_few_modules_of_cetool(imported: set[str]) -> None:
    own = sorted(name for name in imported if name.split(".")[0] == "cetool")
    assert len(own) <= MOST, f"{len(own)}: {' '.join(own)}"


def test_an_up_to_date_lock_is_recognized_without_the_engine(home: Home, channel_url: str) -> None:
    script = home.write("locked.py", "# conda execute\n# env:\n#  - python\n")
    assert home.cetool("lock", script).returncode == 0
    done = home.run(sys.executable, "-X", "importtime", "-m", "cetool", "lock", script)
    assert "locked.py.conda-lock.yml is up to date" in done.stderr
    names = re.findall(r"^import time: .*\|\s*(\S+)$", done.stderr, re.MULTILINE)
    assert not [name for name in names if UNNEEDED_FOR_A_LOCK.match(name)]
