"""cetool imports only from its own installation, and so does every Python that it starts."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.home import Home

import cetool

#: Modules of the standard library, modules that cetool depends on, and modules that are not installed.
PLANTED = (
    *("json", "re", "typing", "argparse", "subprocess", "fcntl", "typer", "packaging", "typing_extensions", "rich"),
    *("conda", "uv", "IPython"),
)
SOURCES = sorted(Path(cetool.__path__[0]).rglob("*.py"))
HELLO = "#!/bin/sh\n# conda execute\n# env: [hello-bin]\n\nhello | cut -c 1-5; echo $PYTHONPATH\n"


def plant(home: Home, directory: str) -> Path:
    """Put modules into a directory that end the interpreter which imports them."""
    # what an installer's own stub imports is not ours to prevent
    stub = Path(home.bin, "cetool").read_text()
    for name in (name for name in PLANTED if f"\nimport {name}\n" not in stub):
        home.write(f"{directory}/{name}.py", f"import os\nos.write(2, b'planted {name}\\n')\nos._exit(77)\n")
    return home.path / directory


def test_nothing_from_outside_is_imported(home: Home) -> None:
    # a home of its own: what it plants would end the Pythons of other tests
    planted = plant(home, "planted")
    script = home.write("isolated.sh", HELLO, executable=True)
    plant(home, str(home.user_site))
    commands = (
        ("cetool", "-q", script),
        ("cetool", "run", "-q", "--refresh", script),
        ("conda-execute", "-q", script),
        ("cetool", "info", "--json"),
        ("cetool", "list"),
        ("conda-tmpenv", "name", "hello-bin"),
        ("cex", "-q", "--spec", "hello-bin", "hello"),
    )
    for value in (str(planted), "", f"/nowhere:{planted}:", "."):
        for command in commands:
            done = home.run(*command, env={"PYTHONPATH": value}, cwd=planted)
            assert done.returncode == 0 and "planted" not in done.stderr, (value, command, done.stderr)
            if script in command:
                assert done.stdout == f"hello\n{value}\n"


@pytest.mark.parametrize("installed", ["target", "user"])
def test_an_installation_on_the_path_or_in_the_users_site_works(settled: Home, installed: str, tmp_path: Path) -> None:
    # cetool's own code in a separate directory, its dependencies next to that
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    place = settled.path / ("target" if installed == "target" else f"user/lib/{version}/site-packages")
    place.mkdir(parents=True)
    (place / "cetool").symlink_to(cetool.__path__[0])
    import typer

    for each in Path(typer.__path__[0]).parent.iterdir():
        if not each.name.startswith(("_", "cetool", "distutils")):
            (place / each.name).symlink_to(each)
    python = os.path.realpath(sys.executable)
    path = f"/nowhere:{place}" if installed == "target" else "/nowhere"
    env = {"PYTHONPATH": path, "PYTHONUSERBASE": str(settled.path / "user")}
    code = (
        "import sys; from cetool.__main__ import isolate; isolate(); import typer, json, cetool.base.process as i;"
        "print(typer.__file__); print('\\0'.join(i.own_program('--version')))"
    )
    if subprocess.run([python, "-c", "import cetool"], cwd="/", capture_output=True).returncode == 0:
        pytest.skip("the interpreter has a cetool of its own")
    done = settled.run(python, "-c", code, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert Path(first).is_relative_to(place)
    again = settled.run(*second.split("\0"), env=env, cwd=tmp_path)
    assert again.returncode == 0 and cetool.__version__ in again.stdout, again.stderr


def test_only_one_module_puts_a_python_command_together() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)}"
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.executable":
                assert path.name in ("process.py", "describing.py"), where  # `cetool info` shows it
            if isinstance(node, ast.List | ast.Tuple) and len(node.elts) > 1 and path.name != "process.py":
                words = {each.value for each in node.elts if isinstance(each, ast.Constant)}
                first = "" if isinstance(node.elts[0], ast.Constant) else ast.unparse(node.elts[0])
                assert "python" not in first.lower() or not words & {"-c", "-m", "-I", "-B", "-s"}, where
