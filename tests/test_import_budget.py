"""What a cold run imports: an environment that is there is found without the code that makes one."""

from __future__ import annotations

import re
import shutil
import sys

import pytest
from support.home import Home
from support.scripts import shell_script

#: Modules of cetool that a cold run on an existing environment may import.
MOST = 39
#: What such a run has no use for.
UNNEEDED = re.compile(
    r"(typer|rich|click|tomlkit|ruamel|nbformat|rattler|asyncio|sqlite3|subprocess|cetool\.(edit|fetch|provenance)\..*"
    r"|cetool\.engines\.(build|rattler|pypi).*|cetool\.overlays\..*)\b"
)


@pytest.mark.xfail(reason="the layers above still import too much", strict=False)
@pytest.mark.skipif(sys.platform == "win32", reason="what is imported last is printed by the program there")
def test_a_cold_run_on_an_existing_environment_imports_little(home: Home) -> None:
    script = home.write("report.sh", shell_script("hello"))
    words = ("-X", "importtime", "-m", "cetool", "run", script)
    assert home.run(sys.executable, *words).returncode == 0
    shutil.rmtree(home.cache / "launch", ignore_errors=True)
    done = home.run(sys.executable, *words)
    assert done.returncode == 0
    imported = set(re.findall(r"^import time: .*\|\s*(\S+)$", done.stderr, re.MULTILINE))
    own = sorted(name for name in imported if name.split(".")[0] == "cetool")
    assert not [name for name in imported if UNNEEDED.match(name)]
    assert len(own) <= MOST, f"{len(own)}: {' '.join(own)}"
