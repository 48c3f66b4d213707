"""The variables of a process in an environment, and nothing from an environment that was active outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cetool.base.errors
from cetool.base.errors import NotExecutableError, ProgramNotFoundError, StoreError, UsageError
from cetool.launch.activation import Activation, activated_environ, read_activation
from cetool.launch.process import find_program, resolve_command

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX activation")
SOURCE = str(Path(cetool.base.errors.__file__).parents[2])


def make_prefix(
    prefix: Path,
    *,
    packages: dict[str, object] | None = None,
    state: object = None,
    activate: dict[str, str] | None = None,
    deactivate: dict[str, str] | None = None,
    programs: tuple[str, ...] = (),
) -> Path:
    """An environment that consists only of files."""
    for folder in ("bin", "conda-meta", "etc/conda/env_vars.d", "etc/conda/activate.d", "etc/conda/deactivate.d"):
        (prefix / folder).mkdir(parents=True)
    for name, value in (packages or {}).items():
        (prefix / "etc/conda/env_vars.d" / name).write_text(json.dumps(value))
    if state is not None:
        (prefix / "conda-meta/state").write_text(json.dumps({"version": 1, "env_vars": state}))
    for folder, scripts in (("activate.d", activate or {}), ("deactivate.d", deactivate or {})):
        for name, text in scripts.items():
            (prefix / "etc/conda" / folder / name).write_text(text)
    for program in programs:
        (prefix / "bin" / program).write_text("#!/bin/sh\necho $0\n")
        (prefix / "bin" / program).chmod(0o755)
    return prefix


def test_variables_come_from_packages_then_state_then_spec(tmp_path: Path) -> None:
    prefix = make_prefix(
        tmp_path / "p",
        packages={"a.json": {"A": "package", "B": "package", "GONE": "package"}, "b.json": {"N": 3, "PATH": "/evil"}},
        state={"B": "state", "C": "state", "GONE": "***unset***", "NULL": None, "BAD=NAME": "x"},
        activate={"b.sh": "", "a.sh": "", "c.csh": "", "d.fish": ""},
    )
    activation = read_activation(prefix, {"C": "spec", "D": "spec"}, user_site=True)
    assert dict(activation.set) == {"A": "package", "B": "state", "C": "spec", "D": "spec", "N": "3"}
    assert [Path(script).name for script in activation.scripts] == ["a.sh", "b.sh"]
    assert activation.path == (f"{prefix}/bin",)


@pytest.mark.parametrize("text", ["{", "[]", '{"env_vars": []}', "[" * 100_000, "\udcff"])
def test_a_damaged_state_file_is_an_error_with_its_name(tmp_path: Path, text: str) -> None:
    prefix = make_prefix(tmp_path / "p")
    (prefix / "conda-meta/state").write_text(text, errors="surrogateescape")
    if text == '{"env_vars": []}':  # an empty list contains no variables
        assert read_activation(prefix, {}, user_site=True).set == ()
        assert read_activation(prefix, {}).set == (("PYTHONNOUSERSITE", "1"),)
        return
    with pytest.raises(StoreError) as caught:
        read_activation(prefix, {}, user_site=True)
    assert caught.value.where is not None and caught.value.where.path.endswith("conda-meta/state")


def test_a_prefix_that_path_cannot_contain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="separates"):
        read_activation(make_prefix(tmp_path / "a:b"), {}, user_site=True)


def test_a_plain_caller_gets_the_environment_and_keeps_the_rest(tmp_path: Path) -> None:
    prefix = make_prefix(tmp_path / "p")
    base = {
        "PATH": "/usr/bin::/bin",
        "HOME": "/h",
        "PS1": "$ ",
        "PYTHONPATH": "/x",
        "CONDA_EXE": "/c/conda",
        "UV_X": "1",
    }
    environ, steps = activated_environ(read_activation(prefix, {"V": "1"}, user_site=True), base)
    assert environ == {
        **base,
        "PATH": f"{prefix}/bin:/usr/bin::/bin",
        "CONDA_PREFIX": str(prefix),
        "CONDA_DEFAULT_ENV": str(prefix),
        "CONDA_SHLVL": "1",
        "V": "1",
    }
    assert steps == ()
    assert activated_environ(read_activation(prefix, {}, user_site=True), {})[0]["PATH"] == f"{prefix}/bin:{os.defpath}"


def test_nothing_of_an_outer_environment_leaks(tmp_path: Path) -> None:
    base_env = make_prefix(tmp_path / "base", state={"FROM_BASE": "1", "KEPT": "base"}, deactivate={"z.sh": ""})
    outer = make_prefix(
        tmp_path / "outer",
        packages={"x.json": {"FROM_PACKAGE": "1"}},
        state={"KEPT": "outer"},
        deactivate={"a.sh": "", "b.sh": ""},
    )
    venv = tmp_path / "venv"
    prefix = make_prefix(tmp_path / "p", activate={"on.sh": ""})
    base = {
        "PATH": f"{outer}/bin/:{venv}/bin:{base_env}/bin:{base_env}/condabin:/usr/bin",
        "CONDA_PREFIX": str(outer),
        "CONDA_PREFIX_1": str(base_env),
        "CONDA_SHLVL": "2",
        "CONDA_DEFAULT_ENV": "outer",
        "CONDA_PROMPT_MODIFIER": "(outer) ",
        "__CONDA_SHLVL_1_KEPT": "base",
        "__CONDA_SHLVL_0_KEPT": "mine",
        "FROM_BASE": "1",
        "FROM_PACKAGE": "1",
        "KEPT": "outer",
        "VIRTUAL_ENV": str(venv),
        "VIRTUAL_ENV_PROMPT": "venv",
        "PYTHONHOME": "/nowhere",
        "CONDA_PREFIX_OF_MINE": "stays",
    }
    environ, steps = activated_environ(read_activation(prefix, {}, user_site=True), base)
    assert environ == {
        "PATH": f"{prefix}/bin:{base_env}/condabin:/usr/bin",
        "CONDA_PREFIX": str(prefix),
        "CONDA_DEFAULT_ENV": str(prefix),
        "CONDA_SHLVL": "1",
        "KEPT": "mine",
        "CONDA_PREFIX_OF_MINE": "stays",
    }
    # the outer environment's scripts run in reverse order; base's ran when outer was activated on top of it
    sources = [step.removeprefix(str(tmp_path)) for step in steps if step.startswith("/")]
    assert sources == [
        "/outer/etc/conda/deactivate.d/b.sh",
        "/outer/etc/conda/deactivate.d/a.sh",
        "/p/etc/conda/activate.d/on.sh",
    ]
    assert steps[0] == f"CONDA_PREFIX={outer}" and f"CONDA_PREFIX={prefix}" in steps[3:]
    stacked = activated_environ(read_activation(prefix, {}, user_site=True), {**base, "CONDA_STACKED_2": "true"})
    assert "CONDA_STACKED_2" not in stacked[0]
    assert f"{base_env}/etc/conda/deactivate.d/z.sh" in stacked[1]


@pytest.mark.parametrize("shlvl", ["", "junk", "-1", "99999999999", "²"])
def test_any_conda_shlvl_is_accepted_and_system_directories_stay(tmp_path: Path, shlvl: str) -> None:
    prefix = make_prefix(tmp_path / "p")
    base = {"PATH": "/usr/bin:/bin", "CONDA_PREFIX": "/usr", "CONDA_SHLVL": shlvl, "CONDA_PREFIX_07": "/usr/local"}
    environ, _ = activated_environ(read_activation(prefix, {}, user_site=True), base)
    assert environ["PATH"] == f"{prefix}/bin:/usr/bin:/bin"


def test_an_environment_within_itself_is_activated_once(tmp_path: Path) -> None:
    activation = read_activation(make_prefix(tmp_path / "p", state={"A": "1"}), {}, user_site=True)
    once, _ = activated_environ(activation, {"PATH": "/bin", "A": "0"})
    assert activated_environ(activation, once)[0] == once


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="only /proc tells whose LC_CTYPE it is")
def test_a_locale_set_by_python_does_not_reach_the_script() -> None:
    code = "from cetool.warm.environ import caller_environ; print(caller_environ().get('LC_CTYPE'))"
    for given, seen in (({}, "None"), ({"LC_CTYPE": "C.UTF-8"}, "C.UTF-8"), ({"LC_CTYPE": "C"}, "C")):
        environ = {"PATH": os.defpath, "PYTHONPATH": SOURCE, **given}
        done = subprocess.run([sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, text=True, check=True)
        assert done.stdout == f"{seen}\n", given


def test_the_modules_of_the_warm_path_import_almost_nothing(tmp_path: Path) -> None:
    code = (
        "import os, sys; before = set(sys.modules); import cetool.warm.environ as e, cetool.warm.handover;"
        "e.activated('/p', ('/p/bin',), (), (), {'PATH': '/bin', 'CONDA_PREFIX': '/nowhere'});"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PATH": os.defpath, "PYTHONPATH": SOURCE},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    ours = {"cetool", "cetool.warm", "cetool.warm.environ", "cetool.warm.handover", "cetool.warm.files"}
    assert set(done.stdout.split()) <= {*ours, "_signal"}


# programs


def environ_of(activation: Activation, path: str = "/usr/bin:/bin") -> dict[str, str]:
    return activated_environ(activation, {"PATH": path})[0]


def test_the_environments_programs_come_first(tmp_path: Path) -> None:
    prefix = make_prefix(tmp_path / "p", programs=("python", "bash"))
    environ = environ_of(read_activation(prefix, {}, user_site=True))
    python, env = f"{prefix}/bin/python", find_program("env", environ)
    cases = {
        ("python", "-u"): (python, "-u"),
        ("/usr/bin/env", "python"): (python,),
        ("/usr/bin/env", "-S", "python", "-u"): (python, "-u"),
        ("/usr/bin/env", "-S python -W 'a b'"): (python, "-W", "a b"),
        ("/usr/bin/env", "-Spython -u"): (python, "-u"),
        ("env", "-i", "-u", "X", "A=b", "python", "-c"): (env, "-i", "-u", "X", "A=b", python, "-c"),
        ("/usr/bin/env", r"-S python\_-u"): ("/usr/bin/env", r"-S python\_-u"),
        ("/usr/bin/env", "--version"): ("/usr/bin/env", "--version"),
        ("/nowhere/bin/python", "-u"): (python, "-u"),
        ("/bin/bash", "-eu"): (f"{prefix}/bin/bash", "-eu"),
        ("/bin/sh",): ("/bin/sh",),
        ("sh",): (find_program("sh", environ),),
    }
    for run_with, expected in cases.items():
        assert resolve_command(run_with, environ, prefix) == expected, run_with
    # the environment's programs are also found without activation
    assert resolve_command(["python"], {"PATH": "/usr/bin:/bin"}, prefix) == (python,)


def test_a_missing_program_is_reported_with_its_package(tmp_path: Path) -> None:
    prefix = make_prefix(tmp_path / "p")
    environ = environ_of(read_activation(prefix, {}, user_site=True), path="/nowhere")
    for run_with, package in (
        (["Rscript"], "r-base"),
        (["/usr/bin/env", "-S", "node", "-v"], "nodejs"),
        (["/x/g++"], "cxx-"),
    ):
        with pytest.raises(ProgramNotFoundError) as caught:
            resolve_command(run_with, environ, prefix)
        assert package in (caught.value.hint or "")
        assert caught.value.exit_status == 127
    with pytest.raises(UsageError):
        resolve_command([], environ, prefix)


def test_a_program_without_permission_differs_from_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = make_prefix(tmp_path / "p")
    (tmp_path / "plain").write_text("no program")
    for name in (str(tmp_path / "plain"), str(tmp_path)):
        with pytest.raises(NotExecutableError) as caught:
            find_program(name, {}, prefix)
        assert caught.value.exit_status == 126
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotExecutableError):
        find_program("plain", {"PATH": ""}, prefix)
    (tmp_path / "plain").chmod(0o755)
    assert find_program("./plain", {}, prefix) == str(tmp_path / "plain")
    with pytest.raises(ProgramNotFoundError, match="bin/none"):
        find_program("bin/none", {}, prefix)
