"""What ``cetool verify`` does: tells which files of environments are not as their packages have them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from cetool.app.session import Session
from cetool.base.errors import StoreError, UsageError
from cetool.base.text import printable
from cetool.cli.environments import targeted
from cetool.cli.output import print_json, print_line
from cetool.packages.differences import Difference, Verdict, verify_files
from cetool.packages.integrity import CHANGED
from cetool.store.marker import MARKER
from cetool.store.store import Lease

VERIFY_SCHEMA = "cetool.verify/1"

#: Differences of one environment that are shown without ``-v``.
_MOST_SHOWN = 20


def verify_environments(targets: Sequence[str], session: Session, *, as_json: bool) -> int:
    """Look at these environments, at all of them where none are named, and print what was found: 0 where all are as
    they were made, else 1. Raises StoreError where a named one is not there."""
    found: list[tuple[Lease, Verdict]] = []
    for name in _names(targets, session):
        lease = session.store.lease(name)
        if lease is None:
            if targets:
                raise StoreError(
                    f"the environment {name} is not complete, or was just removed", code="environment-gone"
                )
            continue
        try:
            with session.voice.progress() as progress:
                progress.stage(f"Verifying {lease.prefix.name}")
                verdict = verify_files(lease.prefix, lease.prefix / MARKER, lease.marker.packages)
        except (OSError, ValueError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            raise StoreError(
                f"the environment {lease.prefix} cannot be looked at: {reason}", code="environment-damaged"
            ) from error
        finally:
            lease.release()
        found.append((lease, verdict))
        if not as_json:
            _show(lease.prefix, verdict, session, alone=len(targets) == 1)
    if as_json:
        print_json(_document(found))
    broken = [lease.prefix.name for lease, verdict in found if verdict.differences]
    if not as_json:
        _conclude(found, broken, session, alone=len(targets) == 1)
    return 1 if broken else 0


def _names(targets: Sequence[str], session: Session) -> list[str]:
    """The names of the environments to look at, each once."""
    if not targets:
        return list(dict.fromkeys(item.name for item in session.store.directories() if item.marker is not None))
    names = []
    for target in targets:
        for store, item in targeted(target, session):
            if store is not session.store:
                raise UsageError(
                    f"the environment of {target} lies over another, and only whole environments are verified",
                    hint="`cetool overlay diff` shows what lies over what.",
                )
            names.append(item.name)
    return list(dict.fromkeys(names))


def _show(prefix: Path, verdict: Verdict, session: Session, *, alone: bool) -> None:
    verbose = session.voice.verbosity == "verbose"
    if not verdict.differences:
        if session.voice.verbosity != "quiet":
            print_line(f"{prefix.name}: intact ({_count(verdict.files)})")
    else:
        states = [each.state for each in verdict.differences]
        told = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
        print_line(f"{prefix.name}: {told} (of {_count(verdict.files)})")
    shown = verdict.differences if verbose else verdict.differences[:_MOST_SHOWN]
    for each in shown:
        print_line(f"  {each.state:<8} {printable(each.path)}" + (f"  {each.package}" if each.package else ""))
    if len(shown) < len(verdict.differences):
        print_line(f"  ... and {len(verdict.differences) - len(shown)} more; -v shows them all")
    if verbose:
        for path in verdict.made:
            print_line(f"  {'made':<8} {printable(path)}  by a link script, when the environment was made")
        for path in verdict.compiled:
            print_line(f"  {'compiled':<8} {printable(path)}")


def _conclude(found: list[tuple[Lease, Verdict]], broken: list[str], session: Session, *, alone: bool) -> None:
    voice = session.voice
    sys.stdout.flush()  # where both go to one file, what is said of it comes last
    if not found:
        voice.result(f"There are no environments in {session.paths.envs}.")
    elif not alone and voice.verbosity != "quiet":
        files = sum(verdict.files for _, verdict in found)
        whole = len(found) - len(broken)
        plural = "" if len(found) == 1 else "s"
        print_line(f"{len(found)} environment{plural}, {_count(files)}: {whole} intact, {len(broken)} not")
        sys.stdout.flush()
    cached = sorted({each.cached for _, verdict in found for each in verdict.differences if each.cached})
    if cached:
        packages = sorted({_package_directory(path, found) for path in cached})
        voice.warn(
            f"the package cache has damaged files as well, which would be linked again: remove {', '.join(packages)}"
        )
    linked = sorted({name for lease, verdict in found for name in _linked_to_installer(lease.prefix, verdict)})
    if linked:
        voice.warn(
            f"files of {', '.join(linked)} have another name, probably in uv's cache, which has the same in it: "
            f"`uv cache clean {' '.join(linked)}`"
        )
    if broken:
        voice.result("`cetool run --refresh SCRIPT` makes an environment anew; `cetool remove NAME` removes it.")


def _linked_to_installer(prefix: Path, verdict: Verdict) -> set[str]:
    """The PyPI packages whose changed files have more than one name: uv makes hard links to what is in its cache."""
    names = set()
    for each in verdict.differences:
        if each.state == CHANGED and each.package is not None and each.package.endswith("(PyPI)"):
            with contextlib.suppress(OSError):
                path = prefix / each.path
                if path.is_file() and path.stat().st_nlink > 1:
                    names.add(each.package.split()[0])
    return names


def _package_directory(cached: str, found: list[tuple[Lease, Verdict]]) -> str:
    """The unpacked package in the package cache that a damaged file belongs to."""
    for _, verdict in found:
        for each in verdict.differences:
            if each.cached == cached and each.package is not None:
                parts = Path(cached).parts
                if each.package in parts:
                    return str(Path(*parts[: parts.index(each.package) + 1]))
    return str(Path(cached).parent)


def _count(files: int) -> str:
    return f"{files} file{'' if files == 1 else 's'}"


def _document(found: list[tuple[Lease, Verdict]]) -> dict[str, object]:
    def row(lease: Lease, each: Difference) -> dict[str, object]:
        return {
            "prefix": str(lease.prefix),
            "path": each.path,
            "state": each.state,
            "package": each.package,
            "cached": each.cached,
        }

    return {
        "schema": VERIFY_SCHEMA,
        "intact": not any(verdict.differences for _, verdict in found),
        "environments": [
            {
                "name": lease.marker.name,
                "prefix": str(lease.prefix),
                "files": verdict.files,
                "intact": not verdict.differences,
                "made": list(verdict.made),
            }
            for lease, verdict in found
        ],
        "differences": [row(lease, each) for lease, verdict in found for each in verdict.differences],
    }
