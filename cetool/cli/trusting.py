"""``cetool trust``: list and forget the scripts from URLs that the user agreed to run."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Annotated

import typer

from cetool.app.asking import trusted_by
from cetool.app.reporting import named_or_counted
from cetool.base.durations import format_duration
from cetool.base.errors import UsageError
from cetool.base.text import printable
from cetool.cli import completing, options
from cetool.cli.options import option
from cetool.cli.output import print_json
from cetool.cli.tables import Column, Items, show_table
from cetool.cli.voice import Voice
from cetool.settings.paths import trust_directory
from cetool.settings.settings import load_settings
from cetool.store.keyed import Trusted, TrustStore

SCHEMA = "cetool.trust/1"
_SHOWN_DIGITS = 16

app = options.Commands("trust", help="List and revoke trust in scripts from URLs.")


@dataclass(frozen=True)
class ListTrustedOptions(options.Group):
    """The options of ``cetool trust list``."""

    as_json: options.AsJson = False


@app.command("list")
@options.command
def list_trusted(*, given: ListTrustedOptions) -> None:
    """List the scripts from URLs that you agreed to run."""
    store = _store()
    trusted = [] if store is None else store.all()
    if given.as_json:
        print_json({"schema": SCHEMA, "directory": _place(store), "scripts": [_document(item) for item in trusted]})
        return
    if not trusted:
        _voice().say("No trusted scripts")
        return
    now = time.time()
    show_table(
        [Column("SHA-256", style="cyan"), Column("AGREED", rank=1), Column("BY", rank=2), Column("FROM", least=30)],
        [
            (item.sha256[:_SHOWN_DIGITS], f"{format_duration(now - item.date)} ago", item.how, Items((item.url,)))
            for item in trusted
        ],
    )


@dataclass(frozen=True)
class ForgetOptions(options.Group):
    """The options of ``cetool trust forget``."""

    everything: Annotated[bool, option("--all", help="Forget all scripts.")] = False
    quiet: options.Quiet = False


@app.command("forget")
@options.command
def forget(
    which: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DIGEST|URL",
            autocompletion=completing.trusted,
            help="The SHA-256 digest (six digits are enough) or URL.",
            show_default=False,
        ),
    ] = None,
    *,
    given: ForgetOptions,
) -> None:
    """Forget that you agreed to run scripts.

    cetool asks again before it runs them.
    """
    if bool(which) == given.everything:
        raise UsageError("name the scripts to forget, or pass --all", hint="`cetool trust list` shows them.")
    store, voice = _store(), _voice(quiet=given.quiet)
    trusted = [] if store is None else store.all()
    chosen = trusted if given.everything else trusted_by(which or [], trusted)
    forgotten = [item for item in chosen if store is not None and store.forget(item.sha256)]
    names = [f"{item.sha256[:_SHOWN_DIGITS]} from {printable(item.url)}" for item in forgotten]
    voice.say(f"Forgot {named_or_counted(names, 'script')}" if names else "Nothing to forget")


def _document(item: Trusted) -> dict[str, object]:
    return {
        "sha256": item.sha256,
        "url": item.url,
        "date": item.date,
        "how": item.how,
        "places": list(item.places),
    }


def _store() -> TrustStore | None:
    directory = trust_directory(os.environ)
    return None if directory is None else TrustStore(directory)


def _place(store: TrustStore | None) -> str | None:
    return None if store is None else str(store.directory)


def _voice(*, quiet: bool = False) -> Voice:
    return Voice("quiet" if quiet else load_settings(os.environ).settings.verbosity, os.environ)
