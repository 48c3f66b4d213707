"""A server whose clock is set back and forth while it builds: no build is lost, none waits for the old time."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from support.home import Home
from support.serving import running_server

#: cetool, whose children have the real clock: libfaketime makes time.sleep(0) fail in processes that were forked.
_PROGRAM = """\
#!{python}
import os, runpy, sys
os.environ.pop("LD_PRELOAD", None)
sys.argv[0] = {program!r}
runpy.run_path({program!r}, run_name="__main__")
"""


def test_a_clock_that_is_set_back_and_forth_loses_nothing(home: Home) -> None:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None) if shutil.which("faketime") else None
    if library is None:
        pytest.skip("needs faketime")
    program = (home.bin / "cetool").resolve()
    (home.bin / "cetool").unlink()
    home.write("bin/cetool", _PROGRAM.format(python=sys.executable, program=str(program)), executable=True)
    clock = home.write("clock", "+0\n")
    env = {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
        "CETOOL_SERVER_LEASE": "2s",
    }
    numbers: list[int] = []
    with running_server(home, "--workers", "1", env=env) as server:
        for step, shift in enumerate(("-400d", "+2d", "+0")):
            for name in ("before", "after"):
                specs = [f"hello-bin >=0.{step + 1}", "postlink", f"six >=0.{len(name)}"]
                body = {"namespace": "team", "name": f"{name}{step}", "specs": specs}
                answer = server.post("/cetool/1/requests", body)
                assert answer.status in (200, 202), answer.text
                numbers.append(answer.json["build"])
                clock.write_text(f"{shift}\n")
            for number in numbers[-2:]:
                found = server.wait(number)
                assert found["status"] == "COMPLETED", (shift, server.get(f"/cetool/1/builds/{number}/log").text)
        years = {server.get(f"/cetool/1/builds/{number}").json["scheduled"][:4] for number in numbers}
        assert len(years) > 1, "the clock was not set"
        rows = [server.get(f"/cetool/1/builds/{number}").json for number in numbers]
        assert all(row["ended"] >= row["scheduled"] and row["reason"] for row in rows)
        environments = server.get("/cetool/1/environments").json["environments"]
        assert sorted(each["build"] for each in environments) == numbers
        assert server.get("/health", token=None).status == 200
    assert "event=defect" not in server.log.read_text("utf-8", "replace")
