"""Every spelling of a secret in a URL, through the command line and real engines: it is nowhere but on the wire."""

from __future__ import annotations

import json

import pytest
from support.home import Home
from support.secret_urls import FORMS, SECRET

URLS = [form.format(SECRET) for form in FORMS]
#: Where a declaration may have a URL.
PLACES = ("channels: [{}]", "env: [six, {}]", "pip: [{}]", "pip: ['six @ {}']", "baseline: {}", "run_with: [{}]",
          "variables: {{N: {}}}", "base: {}", "{}: x", "pypi-index: {}")  # fmt: skip


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
    for words in (("check", *scripts), ("check", "--json", *scripts)):
        done = settled.cetool(*words)
        assert SECRET not in done.stdout + done.stderr


def test_no_command_shows_a_secret_that_it_was_given(settled: Home) -> None:
    """Each form as another word of another command."""
    commands = (
        ["create", "--offline", "six", "--channel"], ["show"], ["export"], ["lock"], ["run"], ["add", "x.sh"],
        ["create", "--offline"], ["config", "set", "channels"], ["check"], ["rerun"], ["exec", "--offline", "-w"],
        ["create", "--offline", "six", "--baseline"], ["run", "--offline", "--base"], ["trust", "list"], ["baseline", "create"],
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
