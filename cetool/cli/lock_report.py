"""What ``cetool lock`` tells of a lock: what changed in it, in words and as JSON."""

from __future__ import annotations

from cetool.cli.lock_places import Target, Wish
from cetool.cli.session import Session
from cetool.cli.sources import Source
from cetool.lock.model import Lock, PlatformLock
from cetool.spec.channels import redact


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


def tell(
    new: Lock, changes: list[dict[str, str | None]], target: Target, wish: Wish, session: Session, *, changed: bool
) -> None:
    """Say what became of one script's lock: with ``-v`` each package that changed."""
    voice = session.voice
    if not changed:
        voice.result(f"{target.name} is up to date")
        return
    if target.before is not None:
        for change in changes:
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


def document_of(
    new: Lock, changes: list[dict[str, str | None]], target: Target, source: Source, *, changed: bool
) -> dict[str, object]:
    """The facts of one script."""
    return {
        "script": redact(source.script.name),
        "lock": str(target.path),
        "format": target.format,
        "changed": changed,
        "platforms": [
            {"platform": each.platform, "request": each.request, "conda": len(each.conda), "pypi": len(each.pypi)}
            for each in new.platforms
        ],
        "changes": changes,
    }
