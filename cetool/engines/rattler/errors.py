"""Turn rattler's errors into messages with a hint."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cetool.base.errors import EngineError
from cetool.base.text import counted, edits, pattern
from cetool.base.urls import redact, scrub
from cetool.engines.conflicts import conflict_error, either, limited
from cetool.engines.errors import FREE_SPACE, UnsatisfiableError
from cetool.engines.rattler.request import Plan

if TYPE_CHECKING:
    from rattler import RepoDataRecord

_URL = pattern(r"(?:https?|file|s3|oci|gcs)://[^\s)'\"]+")
_STATUS = pattern(r"HTTP status \w+ error \((\d{3}) ?([^)]*)\)")
_PACKAGE = pattern(r"failed to fetch (\S+)")
_VERSIONS = 5
#: Names that a hint suggests, and names that are compared for it.
_SUGGESTED, _MOST_CLOSE = 3, 20


def explain(error: BaseException, plan: Plan) -> EngineError:
    """Return the EngineError for an exception of rattler; ``plan`` has the names of channels."""
    text = scrub(str(error)).strip()
    kind = type(error).__name__
    if kind == "SolverError":
        asked = [shown for _, shown in plan.specs]
        conflict = conflict_error(text, asked, [name for _, name in plan.channels])
        if conflict is not None:
            return conflict
        first, *others = text.splitlines() or [kind]
        return UnsatisfiableError(f"these packages conflict: {first}", details=limited(others), hint=_SOLVER_HINT)
    for explanation in (_offline, _channel_missing, _status, _disk, _unreachable, _corrupt):
        found = explanation(text, plan)
        if found is not None:
            return found
    last = text.splitlines()[-1].removeprefix("Caused by: ") if text else kind
    package = _PACKAGE.search(text)
    what = f"cannot fetch the package {package[1]}" if package else "the embedded engine failed"
    return EngineError(f"{what}: {last}", code="download-failed" if package else None)


_SOLVER_HINT = "Relax the requested versions, or add a channel that has what is missing."
_NETWORK_HINT = "Check the channel's name and the network, or use --offline to work with cached metadata."


def missing_package(name: str, plan: Plan, known: Iterable[str]) -> EngineError:
    """Return the error for a package that no channel has; ``known`` are the names of existing packages."""
    close = _likely(name, known)
    hint = f"Did you mean {either(close)}?" if close else "Check its name, or add the channel that has it."
    return UnsatisfiableError(
        f"package {name!r} was not found in {plan.channel_names}", about=name, code="package-not-found", hint=hint
    )


def _likely(name: str, known: Iterable[str]) -> list[str]:
    """Return the names that were probably meant, the likeliest first."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=_MOST_CLOSE, cutoff=0.6)

    def unlikely(each: str) -> tuple[int, bool, int, str]:
        return edits(name, each), each[:1] != name[:1], len(each), each

    return sorted(close, key=unlikely)[:_SUGGESTED]


def missing_version(asked_for: str, records: Sequence[RepoDataRecord], plan: Plan) -> EngineError:
    """Return the error for a package that exists, but not in the requested version or build."""
    newest = sorted({record.version for record in records}, reverse=True)
    shown = ", ".join(str(version) for version in newest[:_VERSIONS])
    more = f" and {counted(len(newest) - _VERSIONS, 'older version')}" if len(newest) > _VERSIONS else ""
    name = records[0].name.normalized
    # subdirs are relevant if a spec selects one
    places = " and ".join(sorted({record.subdir for record in records}))
    subdirs = f" in {places}" if name in plan.selected else ""
    return UnsatisfiableError(
        f"package {asked_for!r} was not found in {plan.channel_names}",
        about=asked_for,
        code="package-not-found",
        hint=f"Available for this platform{subdirs}: {name} {shown}{more}.",
    )


def _offline(text: str, plan: Plan) -> EngineError | None:
    if "no usable repodata cache" not in text and "OfflineError" not in text:
        return None
    package = _PACKAGE.search(text)
    if package:
        what = f"the package {package[1]} is not in the package cache"
    else:
        url = _URL.search(text)
        what = f"the metadata of {plan.channel_of(url[0]) if url else plan.channel_names} are not cached"
    return EngineError(
        f"{what}, and the network must not be used", code="offline-missing", hint="Run once without --offline."
    )


def _channel_missing(text: str, plan: Plan) -> EngineError | None:
    if "could not find subdir" not in text:
        return None
    url = _URL.search(text)
    name = plan.channel_of(url[0]) if url else plan.channel_names
    where = f" at {redact(url[0])}" if url and name not in url[0] else ""
    return EngineError(
        f"the channel {name} was not found{where}",
        about=name,
        code="channel-not-found",
        hint="Check its name, and channel_alias and custom_channels in .condarc.",
    )


def _status(text: str, plan: Plan) -> EngineError | None:
    status = _STATUS.search(text)
    if not status:
        return None
    url = _URL.search(text, status.end())
    name = plan.channel_of(url[0]) if url else plan.channel_names
    package = _PACKAGE.search(text)
    what = f" for {package[1]}" if package else ""
    answer = f"{status[1]} {status[2]}".strip()
    if status[1] in ("401", "403", "407"):
        return EngineError(
            f"the channel {name} refuses access{what} ({answer})",
            about=name,
            code="channel-unauthorized",
            hint="Put credentials into ~/.netrc or the channel's URL (https://user:secret@..., .../t/TOKEN/...).",
        )
    if status[1] == "404" and package:
        return EngineError(
            f"the channel {name} lists {package[1]} but does not have it ({answer})",
            about=package[1],
            code="download-failed",
            hint="The channel or a mirror may be incomplete or updating. Try again later.",
        )
    return EngineError(
        f"the server of {name} answered{what} with {answer}",
        about=name,
        code="channel-unreachable",
        hint="Try again later.",
    )


def _disk(text: str, plan: Plan) -> EngineError | None:
    for sign, message, hint in (
        ("No space left on device", "the disk is full", FREE_SPACE),
        ("Disk quota exceeded", "the disk quota is exceeded", FREE_SPACE),
        ("Read-only file system", "the file system is read-only", "Set CETOOL_CACHE_DIR to another directory."),
        ("Permission denied", "permission denied", "Check the permissions, or set CETOOL_CACHE_DIR."),
        ("Not a directory", "a file is where a directory is expected", "Remove the file, or set CETOOL_CACHE_DIR."),
    ):
        if sign in text:
            path = re.search(r"[`'](/[^`']+)[`']", text)
            code = "disk-full" if hint is FREE_SPACE else "cache-not-writable"
            return EngineError(message + (f": {path[1]}" if path else ""), code=code, hint=hint)
    return None


def _unreachable(text: str, plan: Plan) -> EngineError | None:
    if not any(sign in text for sign in ("error sending request", "client error (Connect)", "dns error", "timed out")):
        return None
    url = _URL.search(text)
    name = plan.channel_of(url[0]) if url else plan.channel_names
    reason = text.splitlines()[-1].removeprefix("Caused by: ")
    if "certificate" in text:
        return EngineError(
            f"the certificate of the server of {name} is not trusted: {reason}",
            about=name,
            code="channel-unreachable",
            hint="Set ssl_verify in .condarc to the file of your organization's certificates.",
        )
    return EngineError(
        f"cannot reach the channel {name}: {reason}", about=name, code="channel-unreachable", hint=_NETWORK_HINT
    )


def _corrupt(text: str, plan: Plan) -> EngineError | None:
    package = _PACKAGE.search(text)
    reason = text.splitlines()[-1].removeprefix("Caused by: ")
    if package:
        return EngineError(
            f"the package {package[1]} is damaged: {reason}",
            about=package[1],
            code="digest-mismatch",
            hint="Try again. If this happens again, report it to the owner of the channel.",
        )
    if "parse" in text and ("repodata" in text or "shard" in text):
        return EngineError(
            f"cannot read the metadata of {plan.channel_names}: {reason}",
            about=plan.channel_names,
            code="channel-malformed",
            hint="The URL may not be that of a conda channel, or it may lead to a login page.",
        )
    return None
