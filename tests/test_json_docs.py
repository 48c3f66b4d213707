"""Each command with ``--json`` prints the fields that docs/reference/json.md describes, and no others."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from support.answering import answering
from support.home import Home

from cetool.cli.app import make_app
from cetool.server.data.database import Database
from cetool.warm import COMMANDS

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "reference" / "json.md"

_SECTION = re.compile(
    r"^## `cetool ([A-Za-z -]+?) --json`\n\nSchema `([^`]+)`\..*?\n(?=## |\Z)", re.MULTILINE | re.DOTALL
)
_ROW = re.compile(r"^\| `([^`]+)` \| ([a-z ]+) \|", re.MULTILINE)

NEEDS = "# conda execute\n# env: [python, six]\n"
SCRIPT = f"{NEEDS}import six\nprint(six.__name__)\n"
#: Says that it runs, and ends with its standard input.
WAITING = f"{NEEDS}import sys\nprint('here', flush=True)\nsys.stdin.read()\n"
CONDA_SCRIPT = """# /// conda-script
# channels = ["conda-forge"]
# entrypoint = "python ${SCRIPT}"
# [dependencies]
# python = "*"
# /// end-conda-script
"""


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _list_of(item: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(item, value))


TYPES: dict[str, Callable[[object], bool]] = {
    "text": _is_text,
    "integer": _is_integer,
    "number": lambda value: _is_integer(value) or isinstance(value, float),
    "boolean": lambda value: isinstance(value, bool),
    "texts": _list_of(_is_text),
    "integers": _list_of(_is_integer),
    "objects": _list_of(lambda item: isinstance(item, dict)),
    "object of texts": lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
    "null": lambda value: value is None,
    "any": lambda value: True,
}

#: By command: its schema, and the type of each field.
DESCRIBED: dict[str, tuple[str, dict[str, str]]] = {
    found[1]: (found[2], dict(_ROW.findall(found[0]))) for found in _SECTION.finditer(DOCUMENT.read_text("utf-8"))
}


def _fields(document: object, fields: dict[str, str], path: str = "") -> Iterator[tuple[str, object]]:
    """Each field of a document with its value, as the tables name it."""
    assert isinstance(document, dict)
    for key, value in document.items():
        name = f"{path}{key}"
        yield name, value
        if fields.get(name) == "objects":
            for item in value:
                yield from _fields(item, fields, f"{name}[].")


def _described(command: str, document: dict[str, object]) -> set[str]:
    """Check a document against its description, and return the names of the fields that it has."""
    schema, fields = DESCRIBED[command]
    assert next(iter(document.items())) == ("schema", schema)
    seen = set()
    for name, value in _fields(document, fields):
        assert name in fields, f"docs/reference/json.md does not describe {name} in {schema}"
        assert any(TYPES[kind](value) for kind in fields[name].split(" or ")), (
            f"{name} is {value!r}, not {fields[name]}"
        )
        seen.add(name)
    for name in fields:  # a field of each object, not of one of them
        holder, _, key = name.rpartition("[].")
        items = document[holder] if holder else [document]
        assert isinstance(items, list) and all(key in item for item in items), f"{name} is not everywhere in {schema}"
    return seen


def _prints(home: Home, *arguments: str) -> dict[str, object]:
    done = home.cetool(*arguments)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def _with_json(command: Any, path: str = "") -> Iterator[str]:
    """The commands below this one that have the option ``--json``."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from _with_json(inner, f"{path}{name} ")
        if any("--json" in parameter.opts for parameter in inner.params):
            yield f"{path}{name}"


def test_each_command_with_json_is_described() -> None:
    # `list NAME` is another form of a command's output
    described = {name for name in DESCRIBED if name.islower()}
    assert set(_with_json(typer.main.get_command(make_app(*COMMANDS)))) == described
    used = {kind for _, fields in DESCRIBED.values() for text in fields.values() for kind in text.split(" or ")}
    assert used == set(TYPES)


def test_json_of_environments_and_collection(home: Home) -> None:
    home.write("script.py", SCRIPT)
    home.write("waiting.py", WAITING)
    command = [sys.executable, "-m", "cetool", "run", "waiting.py"]
    with subprocess.Popen(
        command, cwd=home.path, env=home.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdin is not None and running.stdout is not None
        assert running.stdout.readline() == "here\n"
        assert home.cetool("create", "hello-bin").returncode == 0
        listed = _prints(home, "list", "--json")
        environments = listed["environments"]
        assert isinstance(environments, list)
        assert [item["running"] for item in environments] == [[], [running.pid]]
        assert _described("list", listed) == set(DESCRIBED["list"][1])
        for option in ("--dry-run", "--quiet"):
            collected = _prints(home, "gc", "--all", "--json", option)
            assert collected["removed"] and collected["in_use"] and collected["dry_run"] is (option == "--dry-run")
            # nothing that root removes here fails, so no element of that list is to be seen
            failed = {f"failed[].{key}" for key in ("name", "prefix", "error")}
            assert _described("gc", collected) == set(DESCRIBED["gc"][1]) - failed
        running.stdin.close()
    _described("gc", _prints(home, "gc", "--json"))


@pytest.mark.parametrize("text", [SCRIPT, CONDA_SCRIPT, "print(1)\n"], ids=["run_with", "entrypoint", "env-file"])
def test_json_of_a_script_and_its_name(text: str, home: Home) -> None:
    home.write("script.py", text)
    home.write("environment.yml", "dependencies: [python, pip: [tomli]]\nvariables: {A: b}\n")
    source = ["--env-file", "environment.yml"] if "print(1)" in text else []
    document = _prints(home, "show", "--json", *source, "script.py")
    assert _described("show", document) == set(DESCRIBED["show"][1])
    if not source:
        named = _prints(home, "name", "--json", "script.py")
        assert _described("name", named) == set(DESCRIBED["name"][1])
        assert named["prefix"] == document["prefix"]
        made = _prints(home, "path", "--json", "script.py")
        assert _described("path", made) == set(DESCRIBED["path"][1])
        assert made["prefix"] == document["prefix"]


def test_json_of_kernels(home: Home) -> None:
    home.write("script.py", SCRIPT)
    for words in (["script.py"], ["--spec", "python", "--name", "plain"]):
        assert home.cetool("kernel", "install", *words).returncode == 0
    assert _described("kernel list", _prints(home, "kernel", "list", "--json")) == set(DESCRIBED["kernel list"][1])


def test_json_of_checks(home: Home) -> None:
    home.write("script.py", SCRIPT)
    home.write("plain.py", "print(1)\n")
    done = home.cetool("check", "--json", "script.py", "plain.py")
    assert done.returncode == 1, done.stderr
    assert _described("check", json.loads(done.stdout)) == set(DESCRIBED["check"][1])


def test_json_of_trusted_scripts(home: Home) -> None:
    agreed = {"schema": "cetool.trusted/1", "sha256": "0" * 64, "url": "https://example.org/s.py", "date": 1.5}
    file = home.write(
        f".local/share/cetool/trust/{'0' * 64}.json", json.dumps({**agreed, "how": "asked", "places": []})
    )
    file.parent.chmod(0o700)
    assert _described("trust list", _prints(home, "trust", "list", "--json")) == set(DESCRIBED["trust list"][1])


def test_json_of_locks(home: Home) -> None:
    home.write("script.py", SCRIPT)
    locked = _prints(home, "lock", "script.py", "--json")
    assert _described("lock", locked) == set(DESCRIBED["lock"][1])


def test_json_of_upgrades(home: Home) -> None:
    script = home.write("script.py", SCRIPT.replace("six]", "six ==1.16.0]"))
    assert home.cetool("lock", script).returncode == 0
    script.write_text(SCRIPT)
    upgraded = _prints(home, "upgrade", "script.py", "--json")
    assert upgraded["changed"] is True
    assert _described("upgrade", upgraded) == set(DESCRIBED["upgrade"][1])


def test_json_of_verification(home: Home) -> None:
    assert home.cetool("create", "hello-bin").returncode == 0
    _described("verify", _prints(home, "verify", "--json"))
    prefix = Path(home.cetool("name", "hello-bin").stdout.strip())
    (prefix / "bin/hello").unlink()
    done = home.cetool("verify", "--json", prefix)
    assert done.returncode == 1, done.stderr
    assert _described("verify", json.loads(done.stdout)) == set(DESCRIBED["verify"][1])


def test_json_of_servers(home: Home) -> None:
    build = {"id": 7, "namespace": "team", "name": "base", "status": "COMPLETED", "platforms": [{"platform": "noarch"}]}
    package = {"kind": "conda", "name": "six", "version": "1", "build": "0", "subdir": "noarch", "url": "u"}
    moved = {"action": "use", "build": 7, "by": "alice"}
    with answering() as server:
        server.log_in(home)
        server.documents |= {
            "/environments": {"environments": [{"namespace": "team", "name": "base", "build": 7}], "next": None},
            "/environments/team/base": {"namespace": "team", "name": "base", "build": 7},
            "/environments/team/base/history": {"history": [moved], "next": None},
            "/environments/team/base/diff": {"changes": [{"platform": "noarch", "name": "six", "before": "1"}]},
            "/builds/7": build,
            "/builds/7/packages": {"packages": [package]},
            "/requests": {"build": 7, "created": False, "environment": "team/base"},
        }
        for command in ("servers", "env list", "env show", "env history", "env diff", "env create"):
            target = [] if command in ("servers", "env list") else ["team/base"]
            more = {"env diff": ["6"], "env create": ["six"]}.get(command, [])
            document = _prints(home, *command.split(), *target, *more, "--json")
            assert _described(command, document) == set(DESCRIBED[command][1]), command


def test_json_of_overlays(home: Home) -> None:
    base = home.cetool("create", "python", "six ==1.16.0").stdout.strip()
    done = home.cetool("overlay", "create", "newer", "--base", base, "six ==1.17.0")
    assert done.returncode == 0, done.stderr
    for arguments in (["list"], ["show", "newer"], ["diff", "newer"]):
        document = _prints(home, "overlay", *arguments, "--json")
        command = f"overlay {arguments[0]}"
        assert _described(command, document) == set(DESCRIBED[command][1])
    packages = _prints(home, "list", "newer", "--json")
    assert _described("list NAME", packages) == set(DESCRIBED["list NAME"][1])
    six = [row for row in packages["packages"] if row["name"] == "six"]  # type: ignore[attr-defined]
    assert [(row["version"], row["layer"], row["hidden"]) for row in six] == [
        ("1.17.0", "overlay", False),
        ("1.16.0", "base", True),
    ]
    _described("tree", _prints(home, "tree", "newer", "--json"))
    home.write("script.py", SCRIPT)
    assert home.cetool("run", "script.py").returncode == 0
    for command, words in (("list NAME", ["list", "script.py"]), ("tree", ["tree", "script.py"])):
        assert _described(command, _prints(home, *words, "--json")) == set(DESCRIBED[command][1])


def test_json_of_baselines(home: Home) -> None:
    made = home.cetool("create", "hello-bin").stdout.strip()
    assert home.cetool("baseline", "create", made, "--output", "standard.txt").returncode == 0
    home.write("a.sh", "# conda execute\n# baseline: standard.txt\nhello\n")
    _described("show", _prints(home, "show", "--json", "a.sh"))
    assert home.cetool("run", "a.sh").returncode == 0
    other = home.cetool("create", "activated").stdout.strip()
    assert home.cetool("baseline", "create", other, "--output", "standard.txt").returncode == 0
    status = _prints(home, "baseline", "status", "--json", "a.sh")
    assert _described("baseline status", status) == set(DESCRIBED["baseline status"][1])


def test_json_of_info_and_settings(home: Home) -> None:
    assert _described("info", _prints(home, "info", "--json")) == set(DESCRIBED["info"][1])
    home.write(".config/cetool/config.yaml", "max-size: 20GB\nchannels: [https://user:secret@example.org/c]\n")
    settings = _prints(home, "config", "list", "--json")
    assert _described("config list", settings) == set(DESCRIBED["config list"][1])
    assert "secret" not in json.dumps(settings)


def test_json_of_a_server(home: Home) -> None:
    home.write("environment.yml", "dependencies: [hello-bin]\n")
    words = ("--data", "server", "--json")
    database = Database.open(home.path / "server" / "server.sqlite3")
    orphan = home.path / "server" / "envs" / "0123456789abcdef0123"
    orphan.mkdir(parents=True)
    (home.path / "server").chmod(0o755)
    database.close()
    assert home.cetool("server", "user", "add", "ana", "--role", "editor", "--on", "lab/*", *words[:2]).returncode == 0
    created = _prints(home, "server", "token", "create", "mine", "--user", "ana", *words)
    assert _described("server token create", created) == set(DESCRIBED["server token create"][1])
    for command in ("token list", "user list", "grant list"):
        listed = _prints(home, "server", *command.split(), *words)
        assert _described(f"server {command}", listed) == set(DESCRIBED[f"server {command}"][1])
    explained = _prints(home, "server", "explain-access", "ana", "team", *words)
    assert _described("server explain-access", explained) == set(DESCRIBED["server explain-access"][1])
    collected = _prints(home, "server", "gc", *words)
    # nothing is in use or fails here
    others = {f"{name}[].{key}" for name, keys in _ELSEWHERE.items() for key in keys}
    assert _described("server gc", collected) == set(DESCRIBED["server gc"][1]) - others
    (home.path / "server" / "server.sqlite3").chmod(0o644)
    checked = home.cetool("server", "check", *words)
    assert checked.returncode == 1, checked.stderr
    assert _described("server check", json.loads(checked.stdout)) == set(DESCRIBED["server check"][1])


_ELSEWHERE = {"in_use": ("name", "prefix"), "failed": ("path", "error")}
