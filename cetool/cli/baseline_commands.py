"""``cetool baseline``: writes baselines, and tells how those of scripts differ from what their environments have."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cetool.app.session import Session
from cetool.base.errors import CetoolError, StoreError
from cetool.base.urls import redact, scrub
from cetool.cli import options
from cetool.cli.options import option
from cetool.cli.output import print_data, print_json, print_line

if TYPE_CHECKING:
    from cetool.lock.model import PlatformLock
    from cetool.store.baselines import BaselineStore
    from cetool.store.keyed import Copy

#: What the JSON has of one script's baseline, and the packages that differ.
_Status = tuple[dict[str, object], list[dict[str, "str | None"]]]
STATUS_SCHEMA = "cetool.baseline-status/1"

app = typer.Typer(
    name="baseline",
    help="Lists of packages that environments start from.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Format(str, Enum):
    """How a baseline is written."""

    explicit = "explicit"
    conda_lock = "conda-lock"
    pixi_lock = "pixi-lock"


@dataclass(frozen=True)
class CreateOptions(options.Group):
    """The options of ``cetool baseline create``."""

    output: Annotated[
        Path | None, option("--output", "-o", metavar="FILE", help="Write to this file instead of the screen.")
    ] = None
    form: Annotated[
        Format | None,
        option("--format", help="How it is written; by default as the file's name and the packages ask for."),
    ] = None
    offline: options.Offline = False
    quiet: options.Quiet = False


@app.command("create")
@options.command
def create(
    target: Annotated[str, typer.Argument(metavar="PREFIX|NAME", help="An environment: its prefix, or its name.")],
    *,
    given: CreateOptions,
) -> None:
    """Write down exactly which packages an environment has, for others to start from."""
    session = options.open_session(given)
    locked = _packages(target, session)
    chosen = given.form or _fitting(given.output, locked)
    text = _written(chosen, locked, target, session)
    if given.output is None:
        print_data(text.removesuffix("\n") + "\n")
        return
    from cetool.app.exporting import write_output

    write_output(given.output, text)
    count = len(locked.conda) + (len(locked.pypi) if chosen is not Format.explicit else 0)
    session.voice.result(f"Wrote {count} packages of {redact(target)} to {given.output}")


def _packages(target: str, session: Session) -> PlatformLock:
    from cetool.app.overlaying import base_of
    from cetool.app.recording import installed_packages
    from cetool.declare.environment import EnvironmentSpec, Solve
    from cetool.declare.overlay import canonical_base
    from cetool.declare.platforms import current_platform

    prefix = base_of(session, canonical_base(target, os.getcwd()))
    if not (prefix / "conda-meta").is_dir():
        raise StoreError(
            f"{prefix} is no conda environment, so no baseline can be written from it", code="base-unusable"
        )
    installed = installed_packages(session, prefix, current_platform(), EnvironmentSpec(Solve()))
    lock = installed.lock
    subdirs = {package.subdir for package in lock.conda} - {"", "noarch"}
    if installed.unknown:
        names = ", ".join(f"{each.name} {each.version}" for each in installed.unknown)
        session.voice.warn(f"where {names} was installed from is not known: the baseline lacks it")
    without = [package.name for package in lock.conda if not package.url]
    if without:
        session.voice.warn(f"the environment does not tell where {', '.join(without)} came from: the baseline lacks it")
    kept = tuple(package for package in lock.conda if package.url)
    if not kept and not lock.pypi:
        raise StoreError(f"the environment {prefix} has no packages that could be named", code="base-unusable")
    return lock._replace(conda=kept, platform=sorted(subdirs)[0] if subdirs else lock.platform)


def _fitting(output: Path | None, locked: PlatformLock) -> Format:
    name = "" if output is None else output.name.lower()
    if name.endswith((".yml", ".yaml")):
        return Format.conda_lock
    if name.endswith(".lock"):
        return Format.pixi_lock
    return Format.conda_lock if locked.pypi and not name.endswith(".txt") else Format.explicit


def _written(form: Format, locked: PlatformLock, target: str, session: Session) -> str:
    from cetool.lock.model import Lock

    bases = tuple(dict.fromkeys(package.url.rsplit("/", 2)[0] for package in locked.conda))
    lock = Lock((locked,), bases)
    if form is Format.explicit:
        from cetool.lock.explicit import write_explicit

        if locked.pypi:
            names = ", ".join(package.name for package in locked.pypi)
            session.voice.warn(f"an @EXPLICIT file has conda packages only: {names} from PyPI are left out")
        return write_explicit(locked, comments=(f"Baseline written by cetool from {redact(target)}",))
    if form is Format.conda_lock:
        from cetool.lock.conda_lock import write_conda_lock

        return write_conda_lock(lock)
    from cetool.lock.pixi import write_pixi_lock

    return write_pixi_lock(lock, channel_urls=bases)


# --- how it differs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StatusOptions(options.Group):
    """The options of ``cetool baseline status``."""

    as_json: options.AsJson = False
    offline: options.Offline = False
    insecure: options.Insecure = False
    yes: options.Yes = False


@app.command("status")
@options.command
def status(
    targets: Annotated[list[str], typer.Argument(metavar="SCRIPT", help="Scripts that name a baseline.")],
    *,
    given: StatusOptions,
) -> None:
    """Show how baselines differ by now from what scripts' environments were made from, package by package."""
    session = options.open_session(given)
    found = [each for target in targets for each in _status_of(target, session, insecure=given.insecure)]
    if not given.as_json:
        for row, changes in found:
            _print_status(row, changes)
        return
    told = [
        {
            "script": row["script"],
            "baseline": row["baseline"],
            **{key: each[key] for key in ("name", "before", "after")},
        }
        for row, changes in found
        for each in changes
    ]
    print_json({"schema": STATUS_SCHEMA, "baselines": [row for row, _ in found], "changes": told})


def _status_of(target: str, session: Session, *, insecure: bool) -> list[_Status]:
    """What is to be said of each baseline of a script."""
    from cetool.app.baselines import baseline_store
    from cetool.app.locked import identity
    from cetool.app.sources import open_source
    from cetool.declare.baselines import is_remote
    from cetool.declare.metadata import read_metadata

    source = open_source(target, session, insecure=insecure)
    named = read_metadata(source.script).requirements.baselines
    if not named:
        session.voice.warn(f"{source.script.name} names no baseline")
    if not session.offline and any(map(is_remote, named)):
        session.consent()
    store = baseline_store(session)
    about = identity(source)
    name = source.script.name
    return [_row(name, each, about, store, session, insecure=insecure) for each in named]


def _row(
    script: str, named: str, about: str | None, store: BaselineStore, session: Session, *, insecure: bool
) -> _Status:
    """One baseline of one script."""
    from cetool.app.baseline_news import differences
    from cetool.app.baselines import key_of, parsed
    from cetool.store.baselines import use_key

    key, shown = key_of(named, insecure=insecure)
    used = None if about is None else store.uses.find(use_key(about, key))
    platform = session.platform
    changes: list[dict[str, str | None]] = []
    state, problem = "unused", None
    try:
        data = _now(named, store, session, insecure=insecure)
        now = parsed(data, named, shown, platform).platform(platform)
        if used is not None:
            before = parsed(used.data, named, shown, platform).platform(platform)
            changes = differences(before, now)
            state = "changed" if (now and now.digest) != (before and before.digest) else "current"
    except CetoolError as error:
        state, problem = "unknown", scrub(str(error))
    row: dict[str, object] = {
        "script": script,
        "baseline": shown,
        "state": state,
        "problem": problem,
        "used_since": None if used is None else used.checked,
    }
    return row, changes


def _now(named: str, store: BaselineStore, session: Session, *, insecure: bool) -> bytes:
    from cetool.app.baselines import fetch_baseline, locate, read_local
    from cetool.declare.baselines import is_remote

    if not is_remote(named):
        return read_local(named)
    address = locate(named, insecure=insecure)
    if not session.offline:
        return fetch_baseline(address, store, session, session.consent(), insecure=insecure).data
    last = store.copies.find(address.key)
    if last is None:
        raise StoreError("there is no copy of it here", code="offline-missing", hint="Ask without --offline.")
    return last.data


def _print_status(row: dict[str, object], changes: list[dict[str, str | None]]) -> None:
    used = row["used_since"]
    since = "" if not isinstance(used, float) else time.strftime(" (in use since %Y-%m-%d)", time.localtime(used))
    told = {
        "current": f"as it was{since}",
        "changed": f"{len(changes)} packages differ{since}" if len(changes) != 1 else f"one package differs{since}",
        "unused": "no environment is made of it yet",
        "unknown": str(row["problem"]),
    }[str(row["state"])]
    print_line(f"{row['script']}: {row['baseline']}: {told}")
    for change in changes:
        print_line(f"  {change['name']}: {change['before'] or 'none'} -> {change['after'] or 'none'}")


# --- looked after in the background -----------------------------------------------------------------------------------


@app.command("check", hidden=True)
def check() -> None:
    """Find out which baselines have changed that have not been looked at for a day; the next run tells."""
    session = Session({"verbosity": "quiet"})
    if session.offline:
        return
    if hasattr(os, "nice"):
        with contextlib.suppress(OSError):
            os.nice(10)
    from cetool.app.baselines import baseline_store

    store = baseline_store(session)
    asked: set[str] = set()
    for key, copy in store.all_uses():
        with contextlib.suppress(CetoolError, OSError):
            _look_at(key, copy, asked, store, session)


def _look_at(key: str, copy: Copy, asked: set[str], store: BaselineStore, session: Session) -> None:
    """See whether what a script's environment was made from is still what is there. Raises CetoolError or OSError."""
    from cetool.app.baseline_news import news_of, note_news
    from cetool.app.baselines import Baseline, fetch_baseline, locate, parsed
    from cetool.declare.baselines import is_remote

    if not is_remote(copy.url) or not (copy.address in asked or store.is_due(copy.address)):
        return
    if copy.address not in asked:
        asked.add(copy.address)
        store.asked(copy.address)
        # who let plain http pass once did so for this baseline
        insecure = copy.url.startswith("http:")
        address = locate(copy.url, insecure=insecure)
        fetch_baseline(address, store, session, session.consent(), insecure=insecure, key=copy.address)
    last = store.copies.find(copy.address)
    if last is None:
        return
    platform = session.platform
    lock = parsed(copy.data, copy.url, copy.url, platform)
    note_news(store, key, news_of(Baseline(copy.url, key, copy.data, lock), last.data, copy.url, platform), again=True)
