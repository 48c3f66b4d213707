"""Every command that changes something confirms it in one line on standard error, unless -q is given."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import typer
from support.home import Home
from support.scripts import shell_script

from cetool.cli.app import make_app
from cetool.settings.paths import trust_directory
from cetool.store.keyed import Trusted, TrustStore
from cetool.warm import COMMANDS

SCRIPT = shell_script("true", env="hello-bin")
PYTHON = "# conda execute\n# env:\n#  - python\n#  - six\nprint()\n"


@dataclass(frozen=True)
class Change:
    """A call of a command that changes something: what is done before it, its words, and what it reports."""

    words: tuple[str, ...]
    says: str
    before: tuple[tuple[str, ...], ...] = ()
    prepare: Callable[[Home], object] = lambda home: None
    input: str = ""


def agree(home: Home) -> None:
    directory = trust_directory(home.env)
    assert directory is not None
    TrustStore(directory).add(Trusted("a" * 64, "https://example.org/a.sh", time.time(), "asked", ()))


def start_data(home: Home) -> object:
    """A server's data directory."""
    from cetool.server.data.database import Database

    (home.path / "server").mkdir(mode=0o700)
    Database.open(home.path / "server" / "server.sqlite3").close()
    return None


DATA = ("--data", "server")
BACKUP = ("server", "backup", "old.tar", *DATA)
TOKEN = ("server", "token", "create", "mine", "--role", "viewer", "--on", "*/*", *DATA)
GRANT = ("server", "grant", "add", "viewer", "team/*", "--all-users", *DATA)
USER = ("server", "user", "add", "ana", *DATA)
BASE = ("create", "python")
SET = ("config", "set", "engine", "conda")
OVERLAY = ("overlay", "create", "mine", "--base", "BASE", "--conda", "six ==1.16.0")
CHANGES = {
    "run": Change(("s.sh",), "Created "),
    "exec": Change(("--spec", "hello-bin", "hello"), "Created "),
    "shell": Change(("--spec", "hello-bin"), "Created ", input="true\n"),
    "path": Change(("s.sh",), "Created "),
    "create": Change(("hello-bin",), "Created "),
    "rerun": Change(("run.json",), "Ended with status 0, as recorded", (("run", "--record", "run.json", "s.sh"),)),
    "init": Change(("plain.py",), "Added a conda-execute block to plain.py"),
    "add": Change(("s.py", "numpy"), "Updated s.py"),
    "upgrade": Change(("s.sh",), "Already up to date", (("lock", "s.sh"),)),
    "drop": Change(("s.py", "six"), "Updated s.py"),
    "remove-dep": Change(("s.py", "six"), "Updated s.py"),
    "convert": Change(("s.py", "--to", "pep723"), "Converted s.py to pep723"),
    "lock": Change(("s.sh",), "Locked "),
    "export": Change(("s.sh", "-o", "out.yml"), "Wrote out.yml", (("create", "hello-bin"),)),
    "baseline create": Change(("NAME", "-o", "out.txt"), "Wrote out.txt (1 package of ", (("create", "hello-bin"),)),
    "remove": Change(("s.sh",), "Removed ", (("create", "hello-bin"),)),
    "gc": Change(("--all",), "Removed 1 environment", (("create", "hello-bin"),)),
    "kernel install": Change(("s.py", "--name", "mine"), "Wrote "),
    "kernel remove": Change(("mine",), "Removed ", (("kernel", "install", "s.py", "--name", "mine"),)),
    "config set": Change(("engine", "conda"), "Set engine = conda in "),
    "config unset": Change(("engine",), "engine is back to its default (auto)", (SET,)),
    "trust forget": Change(("--all",), "Forgot aaaaaaaaaaaaaaaa from ", prepare=agree),
    "server gc": Change(DATA, "Nothing to remove", prepare=start_data),
    "server backup": Change(("new.tar", *DATA), "Wrote new.tar (", prepare=start_data),
    "server restore": Change(("old.tar", "--data", "other"), "Restored the backup of ", (BACKUP,), prepare=start_data),
    "server upgrade": Change(DATA, "Already up to date (schema ", prepare=start_data),
    "server token create": Change(TOKEN[3:], "Created token ", prepare=start_data),
    "server token revoke": Change(("1", *DATA), "Revoked 1 token", (TOKEN,), prepare=start_data),
    "server user add": Change(("ana", *DATA), "Added user ana", prepare=start_data),
    "server user password": Change(
        ("ana", "--password-stdin", *DATA),
        "Changed the password of ana",
        (USER,),
        prepare=start_data,
        input="xyz-4711-ab\n",
    ),
    "server grant add": Change(
        ("editor", "team/*", "--user", "ana", *DATA),
        "Granted editor on team/* to user ana",
        (USER,),
        prepare=start_data,
    ),
    "server grant remove": Change(("1", *DATA), "Removed 1 grant", (GRANT,), prepare=start_data),
    "server user remove": Change(("ana", *DATA), "Removed user ana", (USER,), prepare=start_data),
    "overlay create": Change(OVERLAY[2:], "Laid ", (BASE,)),
    "overlay install": Change(("mine", "--conda", "six ==1.17.0"), "Laid ", (BASE, OVERLAY)),
    "overlay uninstall": Change(("mine", "six"), "Laid ", (BASE, OVERLAY)),
    "overlay remove": Change(("mine",), "Removed overlay mine (", (BASE, OVERLAY)),
    "overlay freeze": Change(("mine", "-o", "out.yml"), "Wrote out.yml", (BASE, OVERLAY)),
}
#: The commands that answer a question on standard output, and change nothing; ``serve`` runs until it is stopped.
QUERIES = {
    "serve",
    *("check", "show", "info", "list", "tree", "name", "verify", "baseline status", "baseline check"),
    *("kernel list", "kernel start", "config list", "config get", "config path", "trust list"),
    *("server check", "server token list", "server user list", "server grant list", "server explain-access"),
    *("overlay list", "overlay show", "overlay diff", "overlay export", "overlay activate", "overlay deactivate"),
    *("servers", "env list", "env show", "env log", "env history", "env diff"),
}
#: The commands that change something on a server, or need one: tests/remote checks what they confirm.
ON_SERVERS = {
    *("login", "logout", "env create", "env use", "env rollback", "env rename", "env delete", "env cancel"),
    "env upload",
}


def commands(group: Any, *above: str) -> Iterator[str]:
    """The names of all commands below a group."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *above, name)
        else:
            yield " ".join((*above, name))


def test_every_command_is_known_to_change_something_or_not() -> None:
    """A new command belongs in one of the tables."""
    found = set(commands(typer.main.get_command(make_app(*COMMANDS))))
    assert CHANGES.keys() <= found <= QUERIES | ON_SERVERS | CHANGES.keys()


@pytest.mark.parametrize("quiet", [False, True], ids=["normal", "quiet"])
@pytest.mark.parametrize("command", CHANGES)
def test_a_change_is_confirmed_in_one_line_unless_quiet(home: Home, command: str, quiet: bool) -> None:
    home.write("s.sh", SCRIPT)
    home.write("s.py", PYTHON)
    home.write("plain.py", "print()\n")
    change = CHANGES[command]
    change.prepare(home)
    made = ""
    for words in change.before:
        done = home.cetool(*(made if word == "BASE" else word for word in words))
        assert done.returncode == 0, done.stderr
        made = made or done.stdout.strip()
    asked = [made if word == "BASE" else made.rpartition("/")[2] if word == "NAME" else word for word in change.words]
    done = home.cetool(*command.split(), *(["-q"] if quiet else []), *asked, env={"CI": "true"}, input=change.input)
    assert done.returncode == 0, done.stderr
    if quiet:
        assert done.stderr == ""
    else:
        assert done.stderr.count("\n") == 1 and done.stderr.startswith(change.says), done.stderr
