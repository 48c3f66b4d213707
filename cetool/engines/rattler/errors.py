"""Turns what rattler says went wrong into one paragraph that a user can act on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cetool.base.errors import EngineError
from cetool.base.text import counted, pattern
from cetool.base.urls import redact, scrub
from cetool.engines.conflicts import conflict_error
from cetool.engines.errors import UnsatisfiableError
from cetool.engines.rattler.request import Plan

if TYPE_CHECKING:
    from rattler import RepoDataRecord

_URL = pattern(r"(?:https?|file|s3|oci|gcs)://[^\s)'\"]+")
_STATUS = pattern(r"HTTP status \w+ error \((\d{3}) ?([^)]*)\)")
_PACKAGE = pattern(r"failed to fetch (\S+)")
_VERSIONS = 5


def explain(error: BaseException, plan: Plan) -> EngineError:
    """The EngineError for an exception of rattler's; ``plan`` tells how channels are called."""
    text = scrub(str(error)).strip()
    kind = type(error).__name__
    if kind == "SolverError":
        asked = [shown for _, shown in plan.specs]
        conflict = conflict_error(text, asked, [name for _, name in plan.channels])
        return conflict or UnsatisfiableError(f"these packages conflict: {text}", hint=_SOLVER_HINT)
    for explanation in (_offline, _channel_missing, _status, _disk, _unreachable, _corrupt):
        found = explanation(text, plan)
        if found is not None:
            return found
    last = text.splitlines()[-1].removeprefix("Caused by: ") if text else kind
    package = _PACKAGE.search(text)
    what = f"{package[1]} could not be fetched" if package else "the embedded engine failed"
    return EngineError(f"{what}: {last}", code="download-failed" if package else None)


_SOLVER_HINT = "Loosen the versions that are asked for, or name a channel that has what is missing."
_FREE_SPACE = "Free some space; `cetool gc` removes unused environments."
_NETWORK_HINT = "Check the channel's name and the network; --offline works with what earlier runs have fetched."


def missing_package(name: str, plan: Plan, known: Iterable[str]) -> EngineError:
    """No channel has a package of this name; ``known`` are the names that they have."""
    import difflib

    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    hint = f"Did you mean {' or '.join(close)}?" if close else "Check its name, or name the channel that has it."
    return UnsatisfiableError(
        f"package {name!r} was not found in {plan.channel_names}", about=name, code="package-not-found", hint=hint
    )


def missing_version(asked_for: str, records: Sequence[RepoDataRecord], plan: Plan) -> EngineError:
    """The channels have the package, but nothing that fits what was asked for."""
    newest = sorted({record.version for record in records}, reverse=True)
    shown = ", ".join(str(version) for version in newest[:_VERSIONS])
    more = f" and {counted(len(newest) - _VERSIONS, 'older version')}" if len(newest) > _VERSIONS else ""
    name = records[0].name.normalized
    # which are of interest where one is asked for
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
        what = f"nothing of {plan.channel_of(url[0]) if url else plan.channel_names} is in the cache yet"
    return EngineError(
        f"{what}, and the network is not to be used", code="offline-missing", hint="Run it once without --offline."
    )


def _channel_missing(text: str, plan: Plan) -> EngineError | None:
    if "could not find subdir" not in text:
        return None
    url = _URL.search(text)
    name = plan.channel_of(url[0]) if url else plan.channel_names
    where = f" (looked at {redact(url[0])})" if url and name not in url[0] else ""
    return EngineError(
        f"there is no channel {name}{where}: it has no metadata",
        about=name,
        code="channel-not-found",
        hint="Check its name; channel_alias and custom_channels in .condarc decide what it stands for.",
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
            hint="Give credentials in ~/.netrc or in the channel's URL (https://user:secret@..., .../t/TOKEN/...).",
        )
    if status[1] == "404" and package:
        return EngineError(
            f"the channel {name} lists {package[1]} but does not have it ({answer})",
            about=package[1],
            code="download-failed",
            hint="The channel, or a mirror of it, is being changed or is incomplete: try again later.",
        )
    return EngineError(
        f"the server of {name} answers{what} with {answer}",
        about=name,
        code="channel-unreachable",
        hint="Try again later.",
    )


def _disk(text: str, plan: Plan) -> EngineError | None:
    for sign, message, hint in (
        ("No space left on device", "the disk is full", _FREE_SPACE),
        ("Disk quota exceeded", "the disk quota is used up", _FREE_SPACE),
        ("Read-only file system", "the file system is read-only", "Set env-dir or CETOOL_CACHE_DIR to another place."),
        ("Permission denied", "files may not be written", "Look at the permissions, or set CETOOL_CACHE_DIR."),
        ("Not a directory", "a directory is in the way of a file or a file of a directory", "Look at the log."),
    ):
        if sign in text:
            path = re.search(r"[`'](/[^`']+)[`']", text)
            code = "disk-full" if hint is _FREE_SPACE else "cache-not-writable"
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
            f"the server of {name} cannot be trusted: {reason}",
            about=name,
            code="channel-unreachable",
            hint="Set ssl_verify in .condarc to the file of your organisation's certificates.",
        )
    return EngineError(
        f"the channel {name} cannot be reached: {reason}", about=name, code="channel-unreachable", hint=_NETWORK_HINT
    )


def _corrupt(text: str, plan: Plan) -> EngineError | None:
    package = _PACKAGE.search(text)
    reason = text.splitlines()[-1].removeprefix("Caused by: ")
    if package:
        return EngineError(
            f"the package {package[1]} did not arrive as the channel describes it: {reason}",
            about=package[1],
            code="digest-mismatch",
            hint="The download broke off, or the file is damaged: try again, then tell the channel's owner.",
        )
    if "parse" in text and ("repodata" in text or "shard" in text):
        return EngineError(
            f"the metadata of {plan.channel_names} cannot be read: {reason}",
            about=plan.channel_names,
            code="channel-malformed",
            hint="What answers there may be no conda channel, or a login page in between.",
        )
    return None
