"""``cetool lock``: write the exact packages of scripts to lock files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from cetool.app.locking import Locked, LockWish
from cetool.app.locking import lock as lock_script
from cetool.base.durations import cutoff
from cetool.base.errors import UsageError
from cetool.base.text import counted, nearest, printable
from cetool.cli import options
from cetool.cli.options import option
from cetool.cli.output import print_json
from cetool.cli.voice import Voice
from cetool.declare.platforms import PLATFORMS
from cetool.lock.find import CONDA_LOCK, PIXI

LOCK_SCHEMA = "cetool.lock/1"

_VIRTUAL = re.compile(r"(?P<name>__[a-z0-9_]+)(?:==?(?P<version>[A-Za-z0-9_.!+-]*))?")


class Format(str, Enum):
    """The formats of lock files that ``--format`` takes."""

    conda_lock = CONDA_LOCK
    pixi = PIXI


@dataclass(frozen=True)
class LockOptions(options.Output):
    """The options of ``cetool lock``."""

    platform: Annotated[
        list[str] | None,
        option("--platform", metavar="PLATFORM", help="Lock for this platform, such as linux-64.", known=PLATFORMS),
    ] = None
    update: Annotated[bool, option("--update", help="Update the packages named after SCRIPT, or all.")] = False
    update_package: Annotated[
        list[str] | None,
        option("-P", "--update-package", metavar="PKG", help="Update this package."),
    ] = None
    exclude_newer: options.ExcludeNewer = None
    embed: Annotated[bool, option("--embed", help="Write the lock into the script.")] = False
    check: Annotated[bool, option("--check", help="Write nothing; exit with 1 if a lock is outdated.")] = False
    form: Annotated[Format | None, option("--format", help="Write this format.", show_default="conda-lock")] = None
    lock_file: Annotated[Path | None, option("--lock-file", metavar="FILE", help="Write the lock to this file.")] = None
    virtual_package: Annotated[
        list[str] | None,
        option("--virtual-package", metavar="NAME=VERSION", help="Assume a virtual package, such as __cuda=12.4."),
    ] = None
    channel: options.Channels = None
    env_file: options.EnvFile = None
    as_json: options.AsJson = False
    offline: options.Offline = False
    insecure: options.Insecure = False
    sha256: options.Sha256 = None
    yes: options.Yes = False


@options.command
def lock(
    targets: Annotated[
        list[str], typer.Argument(metavar="SCRIPT", help="Scripts; with --update also names of packages.")
    ],
    *,
    given: LockOptions,
) -> int:
    """Write the exact packages of scripts to lock files.

    Solves for each platform. A script that has a lock runs with exactly the packages in it.
    """
    world, voice = options.open_world(given)
    platforms, words = _more_platforms(given.platform or (), targets)
    scripts, packages = _told_apart(words, update=given.update)
    wish = LockWish(
        platforms=_checked_platforms(platforms),
        update_all=given.update and not packages and not given.update_package,
        update=frozenset(name.lower() for name in (*packages, *(given.update_package or ()))),
        exclude_newer=None if given.exclude_newer is None else cutoff(given.exclude_newer),
        embed=given.embed,
        format=None if given.form is None else given.form.value,
        lock_file=given.lock_file,
        virtual_packages=tuple(map(_virtual_package, given.virtual_package or ())),
        env_file=given.env_file,
        check=given.check,
    )
    if not scripts:
        raise UsageError("no script was given", hint="Use `cetool lock SCRIPT`.")
    _refuse_clashes(wish, scripts)
    if given.sha256 is not None and len(scripts) > 1:
        raise UsageError("--sha256 takes one script")
    found = []
    for script in scripts:
        found.append(lock_script(script, wish, world, voice, insecure=given.insecure, sha256=given.sha256))
        _report(found[-1], voice, check=given.check)
    if given.as_json:
        print_json(_document(found))
    return 1 if given.check and any(each.changed for each in found) else 0


def _more_platforms(named: Sequence[str], words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return all platforms and the other words: several may follow ``--platform``, as in ``linux-64 osx-arm64``."""
    more = [word for word in words if named and word in PLATFORMS and not os.path.isfile(word)]
    return [*named, *more], [word for word in words if word not in more]


def _told_apart(words: Sequence[str], *, update: bool) -> tuple[list[str], list[str]]:
    """Return the scripts and the packages: after ``--update``, words that are not files, except for the first."""
    if not update:
        return list(words), []
    scripts = [word for word in words if os.path.isfile(word) or "://" in word]
    scripts = scripts or list(words[:1])
    return scripts, [word for word in words if word not in scripts]


def _checked_platforms(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        if name not in PLATFORMS:
            raise UsageError(f"{printable(name)!r} is not a platform", hint=nearest(name, PLATFORMS))
    return tuple(sorted(set(names)))


def _virtual_package(text: str) -> tuple[str, str]:
    found = _VIRTUAL.fullmatch(text.strip().lower())
    if found is None:
        raise UsageError(
            f"{printable(text)!r} is not a virtual package",
            hint="Write it as __cuda=12.4, __glibc=2.17 or __archspec=x86_64_v3; `__cuda=` means that there is none.",
        )
    return found["name"], found["version"] if found["version"] is not None else "0"


def _refuse_clashes(wish: LockWish, scripts: Sequence[str]) -> None:
    if wish.embed and (wish.lock_file or wish.format):
        raise UsageError("--embed cannot be used with --lock-file or --format: it writes the lock into the script")
    if wish.lock_file and len(scripts) > 1:
        raise UsageError("--lock-file takes one script")


def _report(locked: Locked, voice: Voice, *, check: bool) -> None:
    """Report what happened to a script's lock; with ``-v`` each package that changed."""
    target, new = locked.target, locked.lock
    if not locked.changed:
        voice.say(f"{target.name} is up to date")
        return
    if target.before is not None:
        for change in locked.changes:
            voice.detail(f"{change.platform}: {change.name} {change.before or 'none'} -> {change.after or 'none'}")
    if check:
        problem = "there is no lock" if target.old is None else "the lock is outdated"
        voice.say(f"{target.name}: {problem}; `cetool lock` {'writes' if target.old is None else 'updates'} it")
        return
    gone = {each.platform for each in (target.before.platforms if target.before else ())} - {
        each.platform for each in new.platforms
    }
    if gone:
        voice.warn(f"{', '.join(sorted(gone))} {'is' if len(gone) == 1 else 'are'} no longer in {target.name}")
    counts = ", ".join(
        f"{each.platform} ({counted(len(each.conda) + len(each.pypi), 'package')})" for each in new.platforms
    )
    voice.say(f"Locked {counts} in {target.name}")


def _document(found: Sequence[Locked]) -> dict[str, object]:
    """Return the facts of all scripts, as docs/reference/json.md describes them."""
    return {
        "schema": LOCK_SCHEMA,
        "locks": [
            {
                "script": each.script,
                "lock": str(each.target.path),
                "format": each.target.format,
                "changed": each.changed,
            }
            for each in found
        ],
        "platforms": [
            {
                "script": each.script,
                "platform": locked.platform,
                "request": locked.request,
                "conda": len(locked.conda),
                "pypi": len(locked.pypi),
            }
            for each in found
            for locked in each.lock.platforms
        ],
        "changes": [{"script": each.script, **change._asdict()} for each in found for change in each.changes],
    }
