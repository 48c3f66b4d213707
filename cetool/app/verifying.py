"""Find files in environments that differ from their packages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cetool.app.reporting import Reporter
from cetool.app.targets import find_directories
from cetool.app.world import World
from cetool.base.errors import StoreError, UsageError
from cetool.packages.differences import Verdict, verify_files
from cetool.packages.integrity import CHANGED
from cetool.store.store import MARKER


@dataclass(frozen=True, slots=True)
class Verified:
    """A verified environment, and the result."""

    name: str
    prefix: Path
    verdict: Verdict

    @property
    def intact(self) -> bool:
        """Whether it is unchanged."""
        return not self.verdict.differences

    @property
    def linked_to_installer(self) -> set[str]:
        """The PyPI packages whose changed files have other hard links: uv links to its cache."""
        names = set()
        for each in self.verdict.differences:
            if each.state == CHANGED and each.package is not None and each.package.endswith("(PyPI)"):
                with contextlib.suppress(OSError):
                    path = self.prefix / each.path
                    if path.is_file() and path.stat().st_nlink > 1:
                        names.add(each.package.split()[0])
        return names

    @property
    def damaged_cache(self) -> set[str]:
        """The unpacked packages in the package cache that have the same damage."""
        found = set()
        for each in self.verdict.differences:
            if each.cached:
                parts = Path(each.cached).parts
                inside = each.package is not None and each.package in parts
                end = parts.index(each.package) + 1 if inside and each.package is not None else len(parts) - 1
                found.add(str(Path(*parts[:end])))
        return found


def verify(targets: Sequence[str], world: World, reporter: Reporter) -> Iterator[Verified]:
    """Verify these environments, or all if none are named. Raises StoreError if a named one is missing."""
    for name in _names(targets, world, reporter):
        lease = world.store.lease(name)
        if lease is None:
            if targets:
                raise StoreError(f"environment {name} is incomplete, or was just removed", code="environment-gone")
            continue
        try:
            with reporter.progress() as progress:
                progress.stage(f"Verifying {lease.prefix.name}")
                watch = partial(progress.count, unit="file")
                verdict = verify_files(lease.prefix, lease.prefix / MARKER, lease.marker.packages, watch)
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise StoreError(
                f"cannot verify environment {lease.prefix}: {reason}", code="environment-damaged"
            ) from error
        finally:
            lease.release()
        yield Verified(lease.marker.name, lease.prefix, verdict)


def _names(targets: Sequence[str], world: World, reporter: Reporter) -> list[str]:
    """Return the names of the environments to verify, each once."""
    if not targets:
        return list(dict.fromkeys(item.name for item in world.store.directories() if item.marker is not None))
    names = []
    for target in targets:
        for store, item in find_directories(target, world, reporter):
            if store is not world.store:
                raise UsageError(
                    f"the environment of {target} is an overlay, which cannot be verified",
                    hint="`cetool overlay diff` shows its packages and the base's.",
                )
            names.append(item.name)
    return list(dict.fromkeys(names))
