"""Every spelling of a secret in a URL, through the command line and real engines: it is nowhere but on the wire."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest
from support.home import Home
from support.pypi import wheel
from support.secret_urls import FORMS, SECRET
from support.server import serving

URLS = [form.format(SECRET) for form in FORMS]
#: Programs of the machine, and uv.
PATH_WITH_UV = f"{Path(shutil.which('uv') or '/usr/bin/uv').parent}:/usr/bin:/bin"
#: Where a declaration may have a URL.
PLACES = (
    *("channels: [{}]", "env: [six, {}]", "env: [{{pip: [{}]}}]", "env: [{{pip: ['six @ {}']}}]"),
    *("baseline: {}", "run_with: [{}]", "variables: {{N: {}}}", "base: {}", "{}: x"),
)


def declaration(line: str, url: str) -> str:
    """A script with the URL in one place, in quotes that YAML takes away."""
    entry = line.replace("'six @ {}'", "{}").format(json.dumps(f"six @ {url}" if "six @" in line else url))
    return (
        f"# conda execute\n# run_with: [sh]\n# {entry}\n\necho\n"
        if "run_with" not in line
        else f"# conda execute\n# {entry}\n\n"
    )


@pytest.mark.parametrize("place", PLACES)
def test_no_message_about_a_declaration_has_a_secret(settled: Home, place: str) -> None:
    scripts = []
    for number, url in enumerate(URLS):
        scripts.append(settled.write(f"forms/{number}.sh", declaration(place, url)))
    for options in ((), ("--json",)):
        done = settled.cetool("check", *options, *scripts)
        assert SECRET not in done.stdout + done.stderr


def test_no_command_shows_a_secret_that_it_was_given(settled: Home) -> None:
    """Each form as another word of another command."""
    commands = (
        ["create", "--offline", "six", "--channel"], ["show"], ["export"], ["lock"], ["run"], ["add", "x.sh"],
        ["create", "--offline"], ["config", "set", "channels"], ["check"], ["rerun"], ["exec", "--offline", "-w"],
        ["create", "--offline", "six", "--baseline"], ["run", "--offline", "--base"], ["trust", "list"],
        ["baseline", "create"],
    )  # fmt: skip
    env = {
        "CETOOL_TRACEBACK": "1",
        "no_proxy": "*",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    for number, url in enumerate(URLS):
        done = settled.cetool(*commands[number % len(commands)], url, env=env)
        assert SECRET not in done.stdout + done.stderr, (commands[number % len(commands)], url, done)


class Arguments(threading.Thread):
    """Looks at the arguments of all processes for as long as a block lasts, and remembers those with the secret."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._ended = threading.Event()
        self.found: set[bytes] = set()

    def run(self) -> None:
        while not self._ended.wait(0.002):
            for name in filter(str.isdecimal, os.listdir("/proc")):
                with contextlib.suppress(OSError):
                    words = Path("/proc", name, "cmdline").read_bytes()
                    if SECRET.encode() in words:
                        self.found.add(words)

    def __enter__(self) -> Arguments:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self.join()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_no_file_and_no_argument_has_a_secret_after_a_run(home: Home, channel: Path, installer: str) -> None:
    """From the embedded engine and an installer: their caches, records, logs, locks and exports are looked through."""
    root = home.path.parent / "root"
    (root / "simple/ours").mkdir(parents=True)
    (root / "conda-forge").symlink_to(channel / "conda-forge")
    names = [wheel(root / "simple/ours", name, "1.0").name for name in ("ours", "other")]
    root.joinpath("simple/ours/index.html").write_text(f"<a href='{names[0]}'>{names[0]}</a>")
    with serving(root) as server:
        server.credentials = ("user", f"p@'{SECRET}")
        login = server.secret_url
        requirement = f"other @ {login}/simple/ours/{names[1]}"
        declared = f"channels: ['{login}/conda-forge']\n# env: [python, pip, {{pip: [ours, '{requirement}']}}]".replace(
            "p@'", "p@''"
        )
        text = f"# conda execute\n# {declared}\n\nimport ours, other\nprint(ours.version + other.version)\n"
        script = home.write("a.py", text)
        env: dict[str, str | None] = {"CETOOL_PIP_INSTALLER": installer, "PATH": PATH_WITH_UV}
        env |= {name: f"{login}/simple" for name in ("UV_DEFAULT_INDEX", "PIP_INDEX_URL")}
        outputs = []
        with Arguments() as arguments:
            for words in (
                ["run", "-v", "--record", "r.json", script], ["run", script], ["lock", script], ["export", script],
                ["show", script], ["list", "--json"], ["rerun", "r.json"], ["run", "--refresh", script],
            ):  # fmt: skip
                outputs.append(home.cetool(*words, env=env))
            assert "1.01.0" in outputs[0].stdout, outputs[0]
            server.credentials = ("user", "another")  # all the messages that a refusal makes
            outputs.append(home.cetool("run", "-v", "--refresh", script, env=env))
            outputs.append(
                home.cetool("create", "-v", "six", "--channel", f"{login}/none".replace(SECRET, "x"), env=env)
            )
    assert arguments.found == set()
    encoded = base64.b64encode(f"user:p@'{SECRET}".encode())
    for done in outputs:
        assert SECRET not in done.stdout + done.stderr, done
    for path in home.path.rglob("*"):
        if path.is_file() and not path.is_symlink() and path != script:
            data = path.read_bytes()
            assert SECRET.encode() not in data and encoded not in data, path
