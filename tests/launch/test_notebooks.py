"""``cetool run NOTEBOOK``: cells run in a kernel of their environment; their output is shown, kept and ended."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import nbformat
import psutil
import pytest
from support.home import Home
from support.notebooks import NEEDS, notebook, outputs, sources
from support.scripts import eventually, held_locks, started
from support.web import sends, serving

PARAMETERS = ("alpha = 1\nbeta = 'b'", ["parameters"])


def test_cells_run_in_the_environment_and_the_result_is_kept(settled: Home) -> None:
    text = notebook(
        "#md Title",
        NEEDS,
        "import os, sys\nprint(six.__name__, os.getcwd())\nprint('to stderr', file=sys.stderr)",
        "",
        "sys.prefix",
        ("1 / 0", ["raises-exception"]),
        "os.system('echo from a program'); print('end')",
    )
    path = settled.write("work/analysis.ipynb", text)
    out = settled.path / "result.ipynb"
    done = settled.cetool("run", "work/analysis.ipynb", "--out", out)
    assert done.returncode == 0, done.stderr
    prefix = settled.cetool("path", path).stdout.strip()
    shown = done.stdout.splitlines()
    assert shown[:2] == [f"six {path.parent}", repr(prefix)]
    assert sorted(shown[2:]) == ["end", "from a program"]  # a kernel passes on what programs print in another thread
    assert "Cell 1 of 5: import six\nCell 2 of 5: import os, sys\n" in done.stderr
    assert "to stderr\n" in done.stderr and "WARNING" not in done.stderr
    assert path.read_text() == text  # the notebook itself is unchanged
    nbformat.validate(nbformat.read(out, as_version=4))  # type: ignore[no-untyped-call]
    *kept, last = outputs(out)
    assert kept == [
        "",
        f"six {path.parent}\nto stderr\n",
        "",
        repr(prefix),
        "ZeroDivisionError: division by zero",
    ]
    assert sorted(last.splitlines(keepends=True)) == ["end\n", "from a program\n"]
    counts = [cell.get("execution_count") for cell in json.loads(out.read_text())["cells"]]
    assert counts == [None, 1, 2, None, 3, 4, 5]
    assert out.stat().st_mode & 0o777 == 0o666 & ~_umask()
    assert [path.name for path in settled.path.glob(".result*")] == []


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def test_a_failing_cell_ends_the_run_with_status_1(settled: Home) -> None:
    settled.write("fail.ipynb", notebook(NEEDS, "x = 1\nraise ValueError('no good')", "print('never')"))
    done = settled.cetool("fail.ipynb", "--out", "failed.ipynb")
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert done.stderr.endswith("cetool: cell 2 of fail.ipynb failed: ValueError: no good\n")
    assert "----> 2 raise ValueError('no good')" in done.stderr and "\x1b" not in done.stderr
    assert done.stderr.count("raise ValueError('no good')") == 1  # IPython shows the cell, so cetool does not
    # the result shows what ran, without outputs of an earlier run
    assert outputs(settled.path / "failed.ipynb") == ["", "ValueError: no good", ""]


def test_a_kernel_that_dies_is_reported(settled: Home) -> None:
    settled.write("die.ipynb", notebook(NEEDS, "import os\nos.kill(os.getpid(), 9)", "print('never')"))
    done = settled.cetool("run", "-q", "die.ipynb")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == "cetool: cell 2 of die.ipynb failed: the kernel was killed by SIGKILL"
    assert "   2 | os.kill(os.getpid(), 9)\n" in done.stderr
    assert held_locks(settled) == []


def test_parameters_follow_their_defaults(settled: Home) -> None:
    path = settled.write("p.ipynb", notebook(NEEDS, PARAMETERS, "print(repr([alpha, beta]), xs)"))
    out = settled.path / "p-out.ipynb"
    given = ["-p", "alpha=0.5", "-p", "xs=[1, true, null]", "-r", "beta=1.0"]
    done = settled.cetool("run", *given, "-q", path, "--out", out)
    assert (done.returncode, done.stdout) == (0, "[0.5, '1.0'] [1, True, None]\n"), done.stderr
    injected = '# Parameters\nalpha = 0.5\nxs = [1, True, None]\nbeta = "1.0"'
    assert sources(out) == [NEEDS, PARAMETERS[0], injected, "print(repr([alpha, beta]), xs)"]
    tags = [cell["metadata"].get("tags") for cell in json.loads(out.read_text())["cells"]]
    assert tags == [None, ["parameters"], ["injected-parameters"], None]
    # the result can be run with other parameters, which replace these; without --out a warning says that xs is not a
    # parameter
    again = settled.cetool("run", out, "-p", "alpha=2", "-p", "xs=text")
    assert (again.returncode, again.stdout) == (0, "[2, 'b'] text\n")
    assert "warning: the notebook's cell of parameters does not define 'xs'" in again.stderr
    # without defaults they follow the cell with the block
    settled.write("bare.ipynb", notebook("#md Title", NEEDS, "print(alpha)"))
    done = settled.cetool("run", "bare.ipynb", "-q", "--out", "-", "-p", "alpha=1")
    assert done.returncode == 0, done.stderr
    (settled.path / "bare-out.ipynb").write_text(done.stdout)  # standard output only contains the notebook
    assert sources(settled.path / "bare-out.ipynb")[1] == "# Parameters\nalpha = 1"
    assert outputs(settled.path / "bare-out.ipynb") == ["", "", "1\n"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nb.ipynb", "argument"], "notebooks take parameters, not arguments: 'argument'"),
        (["nb.ipynb", "-p", "alpha"], "'alpha' is not a parameter"),
        (["nb.ipynb", "-p", "1a=2"], "parameter '1a' is not a valid variable name in python"),
        (["nb.ipynb", "--out", "missing/out.ipynb"], "--out missing/out.ipynb: there is no directory"),
        (["-p", "a=1", "script.py"], "--out and -p are for notebooks, and script.py is not a notebook"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_made(words: list[str], told: str, home: Home) -> None:
    home.write("nb.ipynb", notebook(NEEDS))
    home.write("script.py", f"{NEEDS}\n")
    done = home.cetool("run", *words)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith(f"cetool: {told}")
    assert not (home.cache / "envs").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_interrupts_the_cell_and_ends_the_kernel(number: signal.Signals, settled: Home) -> None:
    body = "import time\ntry:\n    print('runs', flush=True)\n    time.sleep(300)\nfinally:\n    print('finally')"
    name = f"stopped-{number.name}.ipynb"
    settled.write(f"stop-{number.name}.ipynb", notebook(NEEDS, body, "print('never')"))
    with started(settled, "run", f"stop-{number.name}.ipynb", "--out", name) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        kernel = _kernel_of(process.pid)
        assert held_locks(settled) != []
        process.send_signal(number)
        rest, said = process.communicate(timeout=60)
    assert (process.returncode, rest) == (128 + number, "finally\n"), said
    assert outputs(settled.path / name)[1].startswith("runs\nfinally\n")
    eventually(lambda: not kernel.is_running())
    assert held_locks(settled) == []
    assert list((settled.path / "tmp").glob("cetool-kernel-*")) == []


def test_the_kernel_holds_the_environment_and_does_not_outlive_a_killed_cetool(settled: Home) -> None:
    settled.write("long.ipynb", notebook(NEEDS, "import time\nprint('runs', flush=True)\ntime.sleep(300)"))
    with started(settled, "run", "long.ipynb") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        kernel = _kernel_of(process.pid)
        kernel.suspend()  # it checks every second whether its parent is alive
        process.kill()
        process.wait()
        document = json.loads(settled.cetool("gc", "--all", "--dry-run", "--json").stdout)
        name = json.loads(settled.cetool("name", "--json", "long.ipynb").stdout)["name"]
        assert name in [item["name"] for item in document["in_use"]]
        kernel.resume()
        eventually(lambda: not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE)
    eventually(lambda: held_locks(settled) == [])


def _kernel_of(pid: int) -> psutil.Process:
    (kernel,) = psutil.Process(pid).children()
    assert "ipykernel_launcher" in kernel.cmdline()
    return kernel


def test_activation_scripts_and_variables_reach_the_cells(settled: Home) -> None:
    needs = "# conda execute\n# env: [python >=3, activated]\n# variables: {DECLARED: '{prefix}'}"
    settled.write("active.ipynb", notebook(needs, "import os\nprint(os.environ['ACTIVATED'], os.environ['DECLARED'])"))
    done = settled.cetool("run", "-q", "active.ipynb")
    assert (done.returncode, done.stdout) == (0, "yes {prefix}\n"), done.stderr


def test_a_notebook_can_be_read_from_standard_input(settled: Home) -> None:
    done = settled.cetool("run", "-q", "-p", "alpha=3", "-", input=notebook(NEEDS, PARAMETERS, "alpha"))
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


def test_a_notebooks_shell_is_python_and_editors_get_its_path(settled: Home) -> None:
    settled.write("nb.ipynb", notebook(NEEDS))
    done = settled.cetool("shell", "nb.ipynb", input="import ipykernel, six; print(six.__name__)\n")
    assert (done.returncode, done.stdout) == (0, "six\n"), done.stderr
    done = settled.cetool("shell", "--no-repl", "nb.ipynb", input="echo $CONDA_PREFIX\n")
    prefix = done.stdout.strip()
    assert settled.cetool("path", "--python", "nb.ipynb").stdout == f"{prefix}/bin/python\n"
    shown = json.loads(settled.cetool("show", "--json", "nb.ipynb").stdout)
    assert (shown["prefix"], shown["cell"], shown["lines"], shown["kernel"]) == (prefix, 1, [1, 2], "python")
    assert shown["command"] == [f"{prefix}/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    assert Path(prefix).is_dir()


def test_a_notebook_from_a_url_runs_only_where_the_user_agreed(settled: Home) -> None:
    """An existing environment makes no difference: the cells are a stranger's program."""
    settled.write("own.ipynb", notebook(NEEDS, "print('mine')"))
    assert settled.cetool("run", "own.ipynb").stdout == "mine\n"
    theirs = notebook(NEEDS, "open('written', 'w').close(); print('theirs')").encode()
    with serving() as web:
        web.answers["/theirs.ipynb"] = sends(theirs)
        words = ("run", "--insecure", f"{web.url}/theirs.ipynb")
        refused = settled.cetool(*words)
        assert (refused.returncode, refused.stdout) == (125, "") and "--yes" in refused.stderr, refused.stderr
        assert not (settled.path / "written").exists()
        agreed = settled.cetool(*words, "--yes")
        assert (agreed.returncode, agreed.stdout) == (0, "theirs\n"), agreed.stderr
        assert settled.cetool(*words).stdout == "theirs\n"  # the answer is remembered
        settled.cetool("trust", "forget", "--all")
