"""What ``cetool lock`` tells of a lock: what changed in it, in words and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cetool.app.lock_places import Target, Wish
from cetool.app.session import Session
from cetool.lock.model import Lock, PlatformLock

LOCK_SCHEMA = "cetool.lock/1"


@dataclass(frozen=True)
class Outcome:
    """What came of one script: its lock, and whether it changed, or would."""

    script: str
    target: Target
    lock: Lock
    changes: list[dict[str, str | None]]
    changed: bool


def changes_between(before: Lock | None, new: Lock) -> list[dict[str, str | None]]:
    """The packages that are new, gone, or another version or build, by platform and name."""
    found: list[dict[str, str | None]] = []
    for platform in sorted({each.platform for each in (*(before.platforms if before else ()), *new.platforms)}):
        old, now = _versions(before.platform(platform) if before else None), _versions(new.platform(platform))
        for name in sorted({*old, *now}):
            if old.get(name) != now.get(name):
                found.append({"platform": platform, "name": name, "before": old.get(name), "after": now.get(name)})
    return found


def _versions(locked: PlatformLock | None) -> dict[str, str]:
    if locked is None:
        return {}
    conda = {package.name: f"{package.version} {package.build}" for package in locked.conda}
    return {**{f"pypi:{package.name}": package.version for package in locked.pypi}, **conda}


def tell(outcome: Outcome, wish: Wish, session: Session) -> None:
    """Say what became of one script's lock: with ``-v`` each package that changed."""
    voice, target, new = session.voice, outcome.target, outcome.lock
    if not outcome.changed:
        voice.result(f"{target.name} is up to date")
        return
    if target.before is not None:
        for change in outcome.changes:
            voice.detail(
                f"{change['platform']}: {change['name']} {change['before'] or 'none'} -> {change['after'] or 'none'}"
            )
    if wish.check:
        why = "there is no lock" if target.old is None else "the lock is not up to date"
        voice.result(f"{target.name}: {why}; `cetool lock` writes it")
        return
    gone = {each.platform for each in (target.before.platforms if target.before else ())} - {
        each.platform for each in new.platforms
    }
    if gone:
        voice.warn(f"{', '.join(sorted(gone))} {'is' if len(gone) == 1 else 'are'} no longer in {target.name}")
    counts = ", ".join(f"{each.platform} ({len(each.conda) + len(each.pypi)} packages)" for each in new.platforms)
    voice.say(f"Locked {counts} in {target.name}")


def document_of(outcomes: Sequence[Outcome]) -> dict[str, object]:
    """The facts of all scripts, as docs/json.md describes them."""
    return {
        "schema": LOCK_SCHEMA,
        "locks": [
            {
                "script": each.script,
                "lock": str(each.target.path),
                "format": each.target.format,
                "changed": each.changed,
            }
            for each in outcomes
        ],
        "platforms": [
            {
                "script": each.script,
                "platform": locked.platform,
                "request": locked.request,
                "conda": len(locked.conda),
                "pypi": len(locked.pypi),
            }
            for each in outcomes
            for locked in each.lock.platforms
        ],
        "changes": [{"script": each.script, **change} for each in outcomes for change in each.changes],
    }
