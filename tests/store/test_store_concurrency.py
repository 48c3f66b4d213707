"""Of many processes that want an environment one makes it; different environments are made in parallel."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from engines import install_fakes
from support.creations import HEAVY, creations
from support.home import Home
from support.scripts import (
    assert_nothing_half_made,
    environments,
    held_locks,
)

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX processes")


@pytest.mark.parametrize("engine", ["rattler", "conda"])
def test_twenty_processes_start_one_engine(home: Home, engine: str, scale: int) -> None:
    count = 20 * scale
    if engine == "conda":
        install_fakes(home.bin, engine)
    asked = home.path / "asked.jsonl"
    script = home.write("heavy.sh", HEAVY)
    command = ["cetool", "run", "-v", str(script)]
    env = home.environment({"FAKE_ENGINE_LOG": str(asked)})
    running = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    results = [(*process.communicate(timeout=300), process.returncode) for process in running]
    assert [status for _, _, status in results] == [0] * count, results
    [name] = environments(home)
    assert {output for output, _, _ in results} == {f"hello from {home.cache}/envs/{name}\n"}
    assert sum("\nCreated " in said for _, said, _ in results) == 1
    assert len(creations(asked)) == (1 if engine == "conda" else 0)
    assert held_locks(home) == []
    [row] = json.loads(home.cetool("list", "--json").stdout)["environments"]
    assert (row["runs"], row["running"], row["engine"]) == (count, [], engine)
    assert_nothing_half_made(home)


def test_different_environments_are_made_in_parallel(home: Home) -> None:
    specs = ["hello-bin", "many-files", "six", "hello-bin six"]
    for engine in ("rattler", "conda"):
        install_fakes(home.bin, "conda")
        processes = [
            subprocess.Popen(
                ["cetool", "create", "--engine", engine, "--refresh", *spec.split()],
                env=home.env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for spec in specs
        ]
        for process in processes:
            output, said = process.communicate(timeout=300)
            assert process.returncode == 0 and Path(output.strip()).is_dir(), said
    assert len(environments(home)) == len(specs)
    assert_nothing_half_made(home)
