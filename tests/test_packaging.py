"""The wheel and sdist, the conda recipe and the GitHub action."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import rattler
import tomli
from packaging.requirements import Requirement
from ruamel.yaml import YAML
from support.channel import build_channel, wheel_cache
from support.home import Home

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RECIPE = YAML(typ="safe").load((ROOT / "recipe" / "recipe.yaml").read_text(encoding="utf-8"))
ACTION = YAML(typ="safe").load((ROOT / "action.yml").read_text(encoding="utf-8"))

#: The executables that a package installs.
EXECUTABLES = sorted(PROJECT["project"]["scripts"])


# --- wheel and sdist ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with the sdist and the wheel that was built from it, and one with the wheel of the source tree."""
    directory = tmp_path_factory.mktemp("dist")
    environ = {**os.environ, "UV_SYSTEM_CERTS": "true"}
    for command in (("--out-dir", directory), ("--wheel", "--out-dir", directory / "tree")):
        words = [
            sys.executable,
            "-m",
            "uv",
            "build",
            "--quiet",
            "--python",
            sys.executable,
            *map(str, command),
            str(ROOT),
        ]
        done = subprocess.run(words, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    yield directory
    shutil.rmtree(directory)


def files_of_wheel(path: Path) -> dict[str, bytes]:
    """The files of a wheel by their names, without the list of their digests."""
    with zipfile.ZipFile(path) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist() if not name.endswith("/RECORD")}


def test_wheel_is_the_same_from_the_sdist_and_from_the_source_tree(built: Path) -> None:
    (from_sdist,), (from_tree,) = built.glob("*.whl"), (built / "tree").glob("*.whl")
    assert files_of_wheel(from_sdist) == files_of_wheel(from_tree)


def test_wheel_has_all_of_the_source_and_the_licence(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(files_of_wheel(wheel))
    source = {path.relative_to(ROOT).as_posix() for path in (ROOT / "cetool").rglob("*.*") if path.is_file()}
    assert {name for name in source if "__pycache__" not in name} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    manuals = {name.rpartition("/")[2] for name in names if "/share/man/man1/" in name}
    assert manuals == {path.name for path in (ROOT / "man").iterdir()}
    assert not [name for name in names if not name.startswith(("cetool/", "cetool-"))]


def test_sdist_has_what_its_tests_and_packages_need(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "noxfile.py", "tests/conftest.py",
                   "examples/random_numbers.py", "recipe/recipe.yaml", "action.yml", "tools/bootstrap.py"):  # fmt: skip
        assert needed in names
    assert not [name for name in names if name.startswith((".nox", ".cache", ".git/"))]


def test_twine_finds_nothing_wrong_with_the_metadata(built: Path) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.glob("cetool-*"))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


# --- the conda recipe ---------------------------------------------------------------------------------------------


def plain(requirements: list[Any]) -> list[str]:
    """The requirements of the recipe for Linux."""
    found = []
    for each in requirements:
        if isinstance(each, dict):
            found += [each["then"]] if each["if"] == "unix" else [each["else"]] if "else" in each else []
        else:
            found.append(each)
    return found


def conda_spec(text: str) -> str:
    """A PyPI requirement as the recipe writes it."""
    requirement = Requirement(text)
    name = {"jupyter-client": "jupyter_client", "jupyter-core": "jupyter_core"}.get(requirement.name, requirement.name)
    return f"{name} {requirement.specifier}"


def test_recipe_has_version_requirements_and_executables_of_the_project() -> None:
    context = RECIPE["context"]
    assert f'__version__ = "{context["version"]}"' in (ROOT / "cetool" / "__init__.py").read_text(encoding="utf-8")
    assert PROJECT["project"]["requires-python"] == f">={context['python_min']}"
    declared = [text for text in PROJECT["project"]["dependencies"] if "win32" not in text]
    fixed = ["python >=${{ python_min }}", "__unix"]
    assert sorted(plain(RECIPE["requirements"]["run"])) == sorted([*map(conda_spec, declared), *fixed])
    assert set(map(conda_spec, PROJECT["build-system"]["requires"])) <= set(plain(RECIPE["requirements"]["host"]))
    (windows,) = RECIPE["build"]["python"]["entry_points"]
    assert windows["then"] == [f"{name} = {target}" for name, target in PROJECT["project"]["scripts"].items()]


_BUILD = """\
import sys
from rattler_build import Stage0Recipe, ToolConfiguration
recipe, output, channel = sys.argv[1:]
tools = ToolConfiguration(test_strategy="native")
Stage0Recipe.from_file(recipe).run_build(tool_config=tools, output_dir=output, channels=[channel])
"""


def test_recipe_builds_a_package_that_the_embedded_engine_installs_and_that_runs(home: Home, tmp_path: Path) -> None:
    # a channel with what cetool is built with, and with what it needs
    families = (*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"])
    families = tuple(text for text in families if "win32" not in text)
    needs = build_channel(tmp_path / "needs", pypi=("pip", "six"), families=families, wheels=wheel_cache())
    output = tmp_path / "output"
    done = home.run(sys.executable, "-c", _BUILD, ROOT / "recipe" / "recipe.yaml", output, needs.url)
    assert done.returncode == 0, done.stdout + done.stderr
    (package,) = output.glob("noarch/cetool-*.conda")

    channels = [f"--channel={output.as_uri()}", f"--channel={needs.url}"]
    created = home.cetool("create", "--engine", "rattler", *channels, "cetool", "pip")
    assert created.returncode == 0, created.stderr
    prefix = Path(created.stdout.strip())
    for name in EXECUTABLES:
        text = (prefix / "bin" / name).read_text(encoding="utf-8")
        assert text.startswith(f"#!{prefix}/bin/python\n")
        assert "import re" not in text
    assert {path.name for path in (prefix / "share/man/man1").glob("c*.1")} >= {"cetool.1", "cetool-run.1", "cex.1"}
    script = home.write("s.py", "# conda execute\n# env: [python, six]\nimport six\nprint(six.__name__)\n")
    home.condarc.write_text(f"channels: [{needs.url}]\n", encoding="utf-8")
    ran = home.run(prefix / "bin" / "cetool", script, env={"CETOOL_CACHE_DIR": str(tmp_path / "other")})
    assert (ran.returncode, ran.stdout) == (0, "six\n"), ran.stderr
    assert home.run(prefix / "bin" / "pip", "check").stdout == "No broken requirements found.\n"
    record = next((prefix / "conda-meta").glob("cetool-*.json"))
    assert rattler.PrefixRecord.from_path(record).file_name == package.name


# --- the GitHub action --------------------------------------------------------------------------------------------


@dataclass
class Runner:
    """What runs the steps of an action as GitHub's runner does, in a home of its own."""

    home: Home
    inputs: dict[str, str]
    temp: Path
    caches: dict[str, Path] = field(default_factory=dict)
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    path: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run the steps whose conditions hold, and return the last one's outcome."""
        self.inputs = {name: each.get("default", "") for name, each in ACTION["inputs"].items()} | self.inputs
        keep = []
        done = subprocess.CompletedProcess([], 0, "", "")
        for step in ACTION["runs"]["steps"]:
            if not self.holds(step.get("if", "")) or (step["name"] == "Install cetool" and self.path):
                continue
            if "uses" in step:
                keep.append({name: self.expand(text) for name, text in step["with"].items()})
                self.outputs[step["id"]] = {"cache-hit": str(self.restore(**self.underscored(keep[-1]))).lower()}
                continue
            assert step["shell"] == "bash"
            done = self.step(step)
            if done.returncode:
                return done
        for each in keep:
            if each["key"] not in self.caches:
                kept = shutil.copytree(each["path"], self.home.path / each["key"], symlinks=True)
                self.caches[each["key"]] = Path(kept)
        return done

    def step(self, step: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        """Run one step that is a shell script, and take up what it writes for later steps."""
        files = {name: self.home.write(f"runner/{name}", "") for name in ("GITHUB_PATH", "GITHUB_ENV", "GITHUB_OUTPUT")}
        script = self.home.write("runner/step.sh", step["run"])
        env = {name: self.expand(text) for name, text in step.get("env", {}).items()}
        path = os.pathsep.join([*self.path, self.home.env["PATH"]])
        done = self.home.run(
            "bash", "--noprofile", "--norc", "-eo", "pipefail", script,
            env={**{name: str(file) for name, file in files.items()}, **self.variables, **env, "PATH": path},
        )  # fmt: skip
        assert "${{" not in step["run"]  # inputs are data, not code
        self.path = [*files["GITHUB_PATH"].read_text(encoding="utf-8").splitlines(), *self.path]
        self.variables.update(self.pairs(files["GITHUB_ENV"]))
        if "id" in step:
            self.outputs[step["id"]] = self.pairs(files["GITHUB_OUTPUT"])
        return done

    def restore(self, path: str, key: str, restore_keys: str) -> bool:
        """Put the cache with this key back, or one that begins with the other key; whether it is the former."""
        found = [key] if key in self.caches else [each for each in self.caches if each.startswith(restore_keys)]
        if found:
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(self.caches[found[0]], path, symlinks=True)
        return key in self.caches

    def expand(self, text: str) -> str:
        """A text with its ``${{ ... }}`` replaced."""
        return re.sub(r"\$\{\{ (.+?) \}\}", lambda match: self.value(match[1]), text)

    def value(self, name: str) -> str:
        """The value of ``inputs.script`` and the like."""
        fixed = {
            "github.action_path": str(ROOT), "runner.temp": str(self.temp),
            "runner.os": "Linux", "runner.arch": "X64",
        }  # fmt: skip
        kind, _, rest = name.partition(".")
        if kind == "inputs":
            return self.inputs[rest]
        if kind == "steps":
            step, _, output = rest.split(".")
            return self.outputs[step][output]
        return fixed[name]

    def holds(self, condition: str) -> bool:
        """Whether a condition made of ``==``, ``!=`` and ``&&`` holds."""
        for part in filter(None, condition.split(" && ")):
            name, operator, wanted = part.split(" ")
            if (self.value(name) == wanted.strip("'")) != (operator == "=="):
                return False
        return True

    @staticmethod
    def underscored(options: dict[str, str]) -> dict[str, str]:
        """The options with names that Python takes."""
        return {name.replace("-", "_"): text for name, text in options.items()}

    @staticmethod
    def pairs(file: Path) -> dict[str, str]:
        """The lines ``NAME=VALUE`` of a file."""
        return dict(line.split("=", 1) for line in file.read_text(encoding="utf-8").splitlines())


SCRIPT = """\
# conda execute
# env: [python, six]
import six, sys
print(six.__name__, sys.argv[1:])
"""


@pytest.fixture(scope="module")
def installed(settled: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """A runner whose action has installed cetool: that takes most of its time."""
    runner = Runner(settled, {"python": sys.executable}, tmp_path_factory.mktemp("runner"))
    done = runner.run()
    assert done.returncode == 0, done.stderr
    yield runner
    shutil.rmtree(runner.temp)


@pytest.fixture
def action(installed: Runner, home: Home) -> Callable[..., Runner]:
    """``action(script=..., args=...)`` is a runner with these inputs, in this test's own home."""

    def make(**inputs: str) -> Runner:
        inputs = {**installed.inputs, **inputs}
        return Runner(home, inputs, installed.temp, path=installed.path, variables=installed.variables)

    return make


def test_action_installs_cetool_alone_when_no_script_is_given(installed: Runner) -> None:
    (directory,) = installed.path
    assert sorted(os.listdir(directory)) == EXECUTABLES
    assert installed.home.run(Path(directory) / "cetool", "--version").stdout.startswith("cetool ")


def test_action_runs_a_script_and_finds_its_environment_in_the_cache_next_time(
    home: Home, action: Callable[..., Runner]
) -> None:
    home.write("a script.py", SCRIPT)
    home.env["CETOOL_CACHE_DIR"] = str(home.path / "first")
    runner = action(script="a script.py", args="'one word' $HOME two")
    done = runner.run()
    assert (done.returncode, done.stdout) == (0, "six ['one word', '$HOME', 'two']\n"), done.stderr
    assert runner.outputs["cache"]["cache-hit"] == "false"
    assert runner.outputs["identify"]["environment"] in runner.outputs["identify"]["key"]

    shutil.rmtree(home.path / "first")
    again = action(script="a script.py", options="-v --no-lock", args='""')
    again.caches = runner.caches
    done = again.run()
    assert (done.returncode, done.stdout) == (0, "six ['']\n"), done.stderr
    assert again.outputs["cache"]["cache-hit"] == "true"
    assert "Using specification" in done.stderr
    assert "Created" not in done.stderr


def test_action_names_the_cache_after_the_lock_of_a_locked_script(home: Home, action: Callable[..., Runner]) -> None:
    script = home.write("s.py", SCRIPT)
    unlocked = action(script="s.py", options="--locked", cache="false")
    assert unlocked.run().returncode == 125
    assert home.cetool("lock", script).returncode == 0
    locked = action(script="s.py", options="--locked", cache="false")
    done = locked.run()
    assert (done.returncode, done.stdout) == (0, "six []\n"), done.stderr
    assert locked.outputs["identify"]["environment"] != unlocked.outputs["identify"]["environment"]


def test_action_fails_with_the_status_of_the_script(home: Home, action: Callable[..., Runner]) -> None:
    home.write("s.py", "# conda execute\n# env: [python]\nraise SystemExit(3)\n")
    assert action(script="s.py", cache="false").run().returncode == 3
