"""Conflicts look alike, whichever solver found them: what conflicts first, and a suggestion that names specs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.home import Home
from support.requests import request_for
from support.scripts import shell_script

from cetool.base.errors import EngineError
from cetool.engines.conflicts import conflict_error
from cetool.engines.explain import explain
from cetool.engines.pypi.answers import explain as explain_pypi
from cetool.engines.solve import scratch
from cetool.engines.subprocesses import Ended
from engines.test_engine_words import recorded

CLASSIC = """
UnsatisfiableError: The following specifications were found to be incompatible with each other:

Output in format: Requested package -> Available versions

Package python conflicts for:
python=3.12
only311 -> python[version='3.11.*|3.10.*|3.9.*|3.8.*|3.7.*|>=3.6,<3.7.0a0']
"""
LIBMAMBA = """
LibMambaUnsatisfiableError: Encountered problems while solving:
  - package only311-1.0-0 requires python 3.11.*, but none of the providers can be installed

Could not solve for environment specs
The following packages are incompatible
├─ only311 is installable and it requires
│  └─ python 3.11.* , which can be installed;
└─ python 3.12.*  is not installable because there are no viable options
   ├─ python [3.12.0|3.12.1|3.12.2|3.12.3|3.12.4] would require
   │  └─ libfoo >=2 , which conflicts with any installable versions previously reported;
   └─ python 3.12.5 conflicts with any installable versions previously reported.

Pins seem to be involved in the conflict. Currently pinned specs:
 - python=3.13
"""
MAMBA_1 = """
Encountered problems while solving:
  - package only311-1.0-0 requires python 3.11.*, but none of the providers can be installed
"""
OLD_CONDA = """
UnsatisfiableError: The following specifications were found to be in conflict:
  - only311 -> python=3.11
  - python=3.12
Use "conda info <package>" to see the dependencies for each package.
"""


def words_of(engine: str) -> str:
    ended, _ = recorded(engine, "04b-unsat-conflict")
    return ended.stderr


SOLVERS = {
    "conda, rattler": lambda: words_of("conda"),
    "conda, libmamba": lambda: LIBMAMBA,
    "conda, classic": lambda: CLASSIC,
    "conda, old": lambda: OLD_CONDA,
    "mamba 1": lambda: MAMBA_1,
    "mamba 2": lambda: words_of("micromamba"),
}


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_gets_one_form(solver: str) -> None:
    error = conflict_error(SOLVERS[solver](), ("python=3.12", "only311"), ("conda-forge",))
    assert error is not None and error.code == "spec-unsatisfiable"
    assert error.message.startswith("these packages conflict: ")
    assert set(error.message.partition(": ")[2].split(", ")) == {"python=3.12", "only311"}
    assert error.hint == "Relax 'python=3.12', or leave out 'only311'."
    assert all(re.match("[│ ]*[├└]─ [^ ]", line) for line in error.details)
    text = "\n".join(error.details)
    assert "only311" in text and not re.search(r"=\*| \*| ,|;$|libmamba|previously|pinned|Use ", text, re.MULTILINE)


def test_the_conflicting_lines_come_first_and_say_where_the_others_are() -> None:
    error = conflict_error(LIBMAMBA, ("python=3.12", "only311"), ())
    assert error is not None
    assert error.details == (
        "├─ python 3.12.* is not installable because there are no viable options",
        "│  ├─ python [3.12.0|3.12.1|...|3.12.4] would require",
        "│  │  └─ libfoo >=2, which conflicts with the versions below",
        "│  └─ python 3.12.5 conflicts with the versions below",
        "└─ only311 is installable and it requires",
        "   └─ python 3.11.*, which can be installed",
    )


@pytest.mark.parametrize("engine", ["conda", "micromamba"])
def test_what_no_channel_has_is_suggested_to_be_added(engine: str) -> None:
    ended, request = recorded(engine, "04c-unsat-missingdep")
    error = explain(ended, engine=engine, request=request)
    assert error.message == "'broken-dep' cannot be installed"
    assert error.hint == (
        "Leave out 'broken-dep', or add a channel that has 'does-not-exist >=1' (searched: file:///srv/channel)."
    )
    assert "does-not-exist >=1" in error.details[-1]


def test_a_long_tree_ends_and_says_how_much_is_left_out() -> None:
    lines = [f"├─ p{number} cannot be installed because of p{number + 1}" for number in range(60)]
    error = conflict_error("\n".join(("The following packages are incompatible", *lines)), ("p3",), ())
    assert error is not None and len(error.details) == 9 and error.details[-1] == "... and 52 more lines"


@pytest.mark.parametrize(("lines", "last"), [(9, "└─ p8 cannot be installed"), (10, "... and 2 more lines")])
def test_no_single_line_is_left_out(lines: int, last: str) -> None:
    tree = "\n".join(f"├─ p{number} cannot be installed" for number in range(lines))
    error = conflict_error(f"The following packages are incompatible\n{tree}", ("p3",), ())
    assert error is not None and len(error.details) == 9 and error.details[-1] == last


def test_lines_that_differ_only_in_versions_become_one() -> None:
    builds = [
        f"│  ├─ old 1.{minor} would require\n│  │  └─ python >=3.{minor},<3.{minor + 1}.0a0, which does not exist"
        for minor in range(9, 14)
    ]
    words = "\n".join(["├─ old cannot be installed:", *builds, "├─ lib2 2.0 is locked", "└─ lib3 2.0 is locked"])
    error = conflict_error(words, ("old",), ("conda-forge",))
    assert error is not None
    assert error.details == (
        "├─ old cannot be installed:",
        "│  └─ old 1.9 | 1.10 | ... | 1.13 would require",
        "│     └─ python >=3.9,<3.10.0a0 | >=3.10,<3.11.0a0 | ... | >=3.13,<3.14.0a0, which does not exist",
        "├─ lib2 2.0 is locked",
        "└─ lib3 2.0 is locked",
    )
    assert error.hint == "Leave out 'old', or add a channel that has 'python >=3.9,<3.10.0a0' (searched: conda-forge)."


@pytest.mark.parametrize(
    "words",
    [
        "".join(" " * level + "└─ tool 1 cannot be installed\n" for level in range(1500)),
        "└─ tool " + "1" * 200_000 + " cannot be installed\n",
    ],
    ids=["deep", "long"],
)
def test_a_tree_of_any_depth_and_with_any_word_is_read(words: str) -> None:
    error = conflict_error(f"The following packages are incompatible\n{words}", ["tool 1"], [])
    assert error is not None and error.message == "'tool 1' cannot be installed"


def test_credentials_and_controls_are_not_repeated() -> None:
    words = "The following packages are incompatible\n├─ https://me:geheim@host/x::\x1b[1ma cannot be installed\n"
    error = conflict_error(words, ("a",), ("https://me:geheim@host/x",))
    assert error is not None
    assert "geheim" not in f"{error.details} {error.hint}" and "\x1b" not in str(error.details)


# --- the embedded engine ----------------------------------------------------------------------------------------------


def test_the_embedded_solver_is_shown_in_the_same_form(home: Home) -> None:
    done = home.cetool("create", "conflict-a", "conflict-b >=1", "hello-bin")
    assert done.returncode == 125 and done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0].startswith("cetool: these packages conflict: conflict-")
    assert re.match(r"  ├─ conflict-[ab].* cannot be installed", lines[1])
    assert all(re.match(r"  [├└│ ]", line) for line in lines[1:-2])
    assert lines[-2] == "Relax 'conflict-b >=1', or leave out 'conflict-a'."
    assert lines[-1].startswith("The engine's log is ")
    assert "\x1b" not in done.stderr


def test_a_request_that_hides_all_that_would_fit_is_the_one_to_relax(home: Home) -> None:
    done = home.cetool("create", "shared-lib ==1", "conflict-b")
    assert done.stderr.startswith("cetool: these packages conflict: conflict-b, shared-lib ==1\n")
    assert "Relax 'shared-lib ==1', or leave out 'conflict-b'" in done.stderr


def test_what_the_machine_lacks_is_no_channel_s_fault(home: Home) -> None:
    done = home.cetool("create", "needs-cuda", env={"CONDA_OVERRIDE_CUDA": ""})
    assert "This machine lacks '__cuda >=12'" in done.stderr and "CONDA_OVERRIDE_CUDA" in done.stderr


def test_json_has_the_tree_as_lines(home: Home) -> None:
    script = home.write("torn.sh", shell_script("true", env="conflict-a, conflict-b"))
    done = home.cetool("path", "--json", str(script))
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "spec-unsatisfiable" and error["message"].startswith("these packages conflict: ")
    assert error["details"][0].startswith("├─ conflict-") and "cannot be installed" in error["details"][0]


def test_a_check_shows_the_tree(home: Home) -> None:
    home.write("torn.sh", "# conda execute\n# env: [conflict-a =1, conflict-b =1]\n")
    done = home.cetool("check", "--solve", "torn.sh")
    assert re.search(r"these packages conflict: .*\[unsatisfiable\]\n    ├─ conflict-", done.stdout), done.stdout


def variants_channel(path: Path) -> Path:
    """Make a channel with packages for several Pythons: ``old`` and ``new`` share none of them."""
    records: dict[str, dict[str, object]] = {}

    def add(name: str, version: str, build: str = "0", depends: tuple[str, ...] = ()) -> None:
        about = {"name": name, "version": version, "build": build, "build_number": 0, "subdir": "noarch"}
        records[f"{name}-{version}-{build}.conda"] = {**about, "depends": depends, "sha256": "0" * 64, "size": 1}

    for minor in range(8, 14):
        build = f"0_cp3{minor}"
        add("python_abi", f"3.{minor}", build)
        abi = f"python_abi 3.{minor}.* *_cp3{minor}"
        add("old" if minor < 11 else "new", "1.0", build, (abi,))
        add("over", "1.0", build, (abi, "old"))
    for name in ("snnpy", "numpy", "nmpy"):
        add(name, "1.0")
    document = {"info": {"subdir": "noarch"}, "packages": {}, "packages.conda": records, "repodata_version": 1}
    (path / "noarch").mkdir(parents=True)
    (path / "noarch" / "repodata.json").write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("command", [("lock",), ("check", "--solve"), ("run",)])
def test_a_conflict_is_not_repeated_for_each_python(home: Home, tmp_path: Path, command: tuple[str, ...]) -> None:
    channel = variants_channel(tmp_path / "variants").as_uri()
    home.write("torn.sh", f"# conda execute\n# env: [over =1, new =1]\n# channels: [{channel}]\n# run_with: sh\n")
    done = home.cetool(*command, "torn.sh")
    shown = done.stdout + done.stderr
    assert done.returncode != 0 and len(shown.splitlines()) <= 12
    assert "3.13.* *_cp313 | 3.12.* *_cp312 | 3.11.* *_cp311" in shown and "1 more line" not in shown
    assert ("Relax" in shown or "Leave out" in shown) and ("The engine's log is" in shown) == (command == ("run",))


def test_an_error_does_not_refer_to_a_log_that_is_removed() -> None:
    asked = request_for(Path(), ("python",), (), Path())
    with pytest.raises(EngineError) as caught, scratch(asked) as request:
        raise EngineError("uv failed", hint="See the log for the complete output of uv.", log=str(request.log))
    assert (caught.value.log, caught.value.hint) == (None, None) and not request.log.parent.exists()


@pytest.mark.parametrize("command", [("lock",), ("check", "--solve")])
def test_the_likeliest_name_is_suggested_first(home: Home, tmp_path: Path, command: tuple[str, ...]) -> None:
    channel = variants_channel(tmp_path / "variants").as_uri()
    home.write("torn.sh", f"# conda execute\n# env: [nunpy =1]\n# channels: [{channel}]\n# run_with: sh\n")
    done = home.cetool(*command, "torn.sh")
    shown = done.stdout + done.stderr
    assert "Did you mean 'numpy', 'nmpy' or 'snnpy'?" in shown and "The engine's log" not in shown


# --- PyPI -------------------------------------------------------------------------------------------------------------

UV = """  × No solution found when resolving dependencies:
  ╰─▶ Because a==1 depends on b>=2 and you require a==1, we can conclude
      that you require b>=2.
      And because you require b<2, we can conclude that your requirements
      are unsatisfiable.

      hint: pre-releases are available for b
"""
UV_NEW = """Using Python 3.11.7 environment at: v
error: No solution found when resolving dependencies
  cause: Because a==1 depends on b>=2 and you require a==1, we can conclude that you require b>=2.
         And because you require b<2, we can conclude that your requirements are unsatisfiable.
"""
PIP = """ERROR: Cannot install a==1 and b<2 because these package versions have conflicting dependencies.

The conflict is caused by:
    The user requested a==1
    The user requested b<2
    a 1 depends on b>=2

To fix this you could try to:
"""


@pytest.mark.parametrize(("installer", "words"), [("uv", UV), ("uv", UV_NEW), ("pip", PIP)])
def test_installers_conflicts_have_the_same_form(installer: str, words: str) -> None:
    error = explain_pypi(Ended(1, None, "", words), installer, {}, log=Path("/log"), offline=False, what="installed")
    assert (error.message, error.hint) == ("these PyPI packages conflict", "Relax 'a==1' or 'b<2'.")
    assert error.details[0].startswith("├─ ") and error.details[-1].startswith("└─ ")
    assert "b>=2" in str(error.details) and "hint" not in str(error.details)


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_real_installers_explain_a_conflict(home: Home, installer: str) -> None:
    wanted = "python, pip, {pip: [jupyter-client==8.6.0, python-dateutil<2.8]}"
    script = home.write("torn.py", f"# conda execute\n# env: [{wanted}]\nprint()\n")
    done = home.cetool("run", str(script), env={"CETOOL_PIP_INSTALLER": installer})
    assert done.returncode == 125
    lines = done.stderr.splitlines()
    assert "cetool: these PyPI packages conflict" in lines
    assert "depends on python-dateutil>=2.8.2" in done.stderr
    assert re.search(r"^Relax .*'python-dateutil<2.8'", done.stderr, re.MULTILINE), done.stderr


# --- colours ----------------------------------------------------------------------------------------------------------

SHOW = """
from cetool.cli.failure import tell
from cetool.engines.conflicts import conflict_error
tell(conflict_error(open("words").read(), ("python=3.12", "only311"), ()))
"""


@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals are POSIX")
@pytest.mark.parametrize(("extra", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_a_terminal_gets_colours_unless_it_wants_none(tmp_path: Path, extra: dict[str, str], coloured: bool) -> None:
    Path(tmp_path, "words").write_text(LIBMAMBA, encoding="utf-8")
    environ = {**os.environ, "TERM": "xterm-256color", "PYTHONUTF8": "1", "COLUMNS": "40", **extra}
    environ = {
        name: value for name, value in environ.items() if name not in ("NO_COLOR", "FORCE_COLOR") or name in extra
    }
    master, slave = os.openpty()
    subprocess.run([sys.executable, "-c", SHOW], cwd=tmp_path, env=environ, stderr=slave, check=True)
    os.close(slave)
    shown = os.read(master, 65536).decode().replace("\r\n", "\n")
    os.close(master)
    assert (re.search(r"\x1b\[[\d;]*3[16]m", shown) is not None) is coloured
    bare = re.sub(r"\x1b\[[\d;]*m", "", shown)
    error = conflict_error(LIBMAMBA, ("python=3.12", "only311"), ())
    assert isinstance(error, EngineError)
    assert bare.splitlines()[1:-1] == [f"  {line}" for line in error.details]


def test_a_stream_without_line_drawing_gets_ascii(tmp_path: Path) -> None:
    Path(tmp_path, "words").write_text(LIBMAMBA, encoding="utf-8")
    environ = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    code = SHOW.replace('open("words")', 'open("words", encoding="utf-8")')
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, check=True)
    assert b"  |- python 3.12.* is not installable" in done.stderr and b"\\u" not in done.stderr
