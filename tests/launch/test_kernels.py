"""``cetool kernel``: a real Jupyter client starts, interrupts and ends the kernels that it writes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from support.home import Home
from support.notebooks import NEEDS, notebook
from support.scripts import environments, held_locks


class _Jupyter:
    """A Jupyter client of a home's user, with a kernel that it has started."""

    def __init__(self, home: Home, name: str) -> None:
        specs = KernelSpecManager(kernel_dirs=[str(home.path / ".local/share/jupyter/kernels")])
        self.manager = KernelManager(kernel_name=name, kernel_spec_manager=specs)
        self.manager.connection_file = str(home.path / "tmp" / f"{name}-connection.json")
        # clients may have further arguments for a kernel
        more = ["--HistoryManager.hist_file=:memory:"]
        self.manager.start_kernel(env=dict(home.env), cwd=str(home.path), extra_arguments=more)
        self.client: BlockingKernelClient = self.manager.blocking_client()
        self.client.start_channels()

    def run(self, code: str) -> tuple[str, dict[str, Any]]:
        """Run code; return what it printed, and the kernel's reply."""
        printed: list[str] = []

        def hook(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = self.client.execute_interactive(code, timeout=120, output_hook=hook)
        return "".join(printed), reply["content"]


@contextmanager
def _jupyter(home: Home, name: str) -> Iterator[_Jupyter]:
    jupyter = _Jupyter(home, name)
    try:
        jupyter.client.wait_for_ready(timeout=120)
        yield jupyter
    finally:
        jupyter.client.stop_channels()
        jupyter.manager.shutdown_kernel(now=True)


def _spec(home: Home, name: str) -> dict[str, Any]:
    data = json.loads((home.path / f".local/share/jupyter/kernels/{name}/kernel.json").read_text())
    assert isinstance(data, dict)
    return data


def test_a_kernel_makes_uses_and_releases_its_environment(home: Home) -> None:
    home.write("analysis.py", f"{NEEDS}\nprint(six)\n")
    done = home.cetool("kernel", "install", "analysis.py", "--name", "Analysis", "--display-name", "The analysis")
    assert done.returncode == 0, done.stderr
    assert environments(home) == {}
    spec = _spec(home, "analysis")
    assert (spec["display_name"], spec["language"]) == ("The analysis", "python")
    assert os.path.isabs(spec["argv"][0]) and "{connection_file}" in spec["argv"]
    with _jupyter(home, "analysis") as jupyter:
        (name,) = environments(home)
        assert (
            jupyter.run("import six, sys; print(six.__name__, sys.prefix)")[0] == f"six {home.cache / 'envs' / name}\n"
        )
        pid = int(jupyter.run("import os; print(os.getpid())")[0])
        assert jupyter.manager.provisioner is not None
        assert pid == getattr(jupyter.manager.provisioner, "pid", None)  # cetool has become the kernel
        # Jupyter's requests reach the kernel
        jupyter.client.execute("import time; print('now', flush=True); time.sleep(300)")
        # before that, the cell may not have begun
        while jupyter.client.get_iopub_msg(timeout=60)["msg_type"] != "stream":
            pass
        jupyter.manager.interrupt_kernel()
        reply = jupyter.client.get_shell_msg(timeout=60)["content"]
        assert reply["ename"] == "KeyboardInterrupt"
        # in use while it runs
        gone = json.loads(home.cetool("gc", "--all", "--json").stdout)
        assert (gone["removed"], [item["name"] for item in gone["in_use"]]) == ([], [name])
        used = json.loads(home.cetool("list", "--json").stdout)["environments"]
        assert [(item["name"], item["runs"], item["running"]) for item in used] == [(name, 1, [pid])]
        jupyter.manager.restart_kernel(now=False)
        jupyter.client.wait_for_ready(timeout=120)
        assert jupyter.run("print(6 * 7)")[0] == "42\n"
        with pytest.raises(Empty):
            jupyter.client.get_stdin_msg(timeout=0)
        jupyter.manager.shutdown_kernel()
    assert held_locks(home) == []
    gone = json.loads(home.cetool("gc", "--all", "--json").stdout)
    assert [item["name"] for item in gone["removed"]] == [name]
    listed = json.loads(home.cetool("kernel", "list", "--json").stdout)["kernels"]
    assert [(item["name"], item["exists"], item["problem"]) for item in listed] == [("analysis", False, None)]


def test_a_kernel_of_specs_and_one_of_a_notebook_are_the_same(settled: Home) -> None:
    settled.write("nb.ipynb", notebook(NEEDS))
    made = settled.cetool("kernel", "install", "--spec", "python >=3", "--spec", "six", "--name", "sixes", "--create")
    assert made.returncode == 0, made.stderr
    assert settled.cetool("kernel", "install", "nb.ipynb").returncode == 0
    rows = json.loads(settled.cetool("kernel", "list", "--json").stdout)["kernels"]
    # both request the same, so it is the same environment
    assert {row["name"]: row["exists"] for row in rows} == {"nb": True, "sixes": True}
    assert len({row["prefix"] for row in rows}) == 1
    with _jupyter(settled, "sixes") as jupyter:
        assert jupyter.run("import six; print(six.__name__)")[0] == "six\n"
        assert jupyter.run("print(get_ipython().history_manager.hist_file)")[0] == ":memory:\n"
        assert jupyter.client.kernel_info(reply=True, timeout=60)["content"]["language_info"]["name"] == "python"
    removed = settled.cetool("kernel", "remove", "nb", "SIXES")
    assert removed.returncode == 0, removed.stderr
    assert list((settled.path / ".local/share/jupyter/kernels").iterdir()) == []
    assert settled.cetool("kernel", "list").stderr == "No kernels installed by cetool\n"


def test_foreign_kernels_are_left_alone(home: Home) -> None:
    home.write("script.py", f"{NEEDS}\n")
    own = '{"argv": ["python"], "display_name": "Mine", "language": "python"}'
    file = home.write(".local/share/jupyter/kernels/mine/kernel.json", own)
    refused = home.cetool("kernel", "install", "script.py", "--name", "mine")
    assert refused.returncode == 2 and "cetool did not write" in refused.stderr
    assert home.cetool("kernel", "remove", "mine").returncode == 2
    assert file.read_text() == own
    assert json.loads(home.cetool("kernel", "list", "--json").stdout)["kernels"] == []
    assert home.cetool("kernel", "install", "script.py", "--name", "mine", "--force").returncode == 0
    # it replaces its own
    again = home.cetool("kernel", "install", "script.py", "--name", "mine", "--display-name", "Again")
    assert again.returncode == 0 and _spec(home, "mine")["display_name"] == "Again"
    (home.path / "script.py").unlink()
    (row,) = json.loads(home.cetool("kernel", "list", "--json").stdout)["kernels"]
    assert (row["problem"], row["prefix"]) == ("its script no longer exists", None)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["script.py", "--name", "a b"], "invalid kernel name 'a b'"),
        (["script.py", "--name", "../x"], "invalid kernel name '../x'"),
        (["--spec", "python"], "the kernel has no name"),
        (["--name", "x"], "no packages were named for the kernel's environment"),
        (["script.py", "--spec", "six"], "a script and --spec cannot be used together"),
        (["https://example.org/nb.ipynb"], "a kernel needs a script in a file"),
        (["script.py", "--language", "cobol"], "there is no kernel for the language 'cobol'"),
    ],
)
def test_invalid_requests_are_refused(words: list[str], told: str, settled: Home) -> None:
    settled.write("script.py", f"{NEEDS}\n")
    done = settled.cetool("kernel", "install", *words)
    assert done.returncode == 2 and done.stderr.startswith(f"cetool: {told}"), done.stderr


def test_a_kernel_can_be_installed_at_a_prefix(home: Home) -> None:
    home.write("script.py", f"{NEEDS}\n")
    done = home.cetool("kernel", "install", "script.py", "--prefix", "lab")
    assert done.returncode == 0, done.stderr
    assert (home.path / "lab/share/jupyter/kernels/script/kernel.json").is_file()
    done = home.cetool("kernel", "list", "--json", env={"JUPYTER_PATH": str(home.path / "lab/share/jupyter")})
    assert [Path(row["directory"]).name for row in json.loads(done.stdout)["kernels"]] == ["script"]
