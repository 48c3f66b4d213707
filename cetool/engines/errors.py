"""The failures that every engine can meet, each in one voice: what is wrong, and what to do about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus

from cetool.base.errors import EngineError
from cetool.base.urls import redact

_SUBDIR = re.compile(r"noarch|(?:linux|osx|win|emscripten|wasi|freebsd|zos)-\w+")


class UnsatisfiableError(EngineError):
    """The channels were read, and no environment can have all that was asked for."""

    code = "spec-unsatisfiable"


def _listed(items: Sequence[str]) -> str:
    return ", ".join(map(redact, items))


def not_found_error(
    packages: Sequence[str], channels: Sequence[str], log: str | None = None, *, offline: bool = False
) -> EngineError:
    """Specs (or bare names) that no package of the channels matches."""
    named = ", ".join(repr(redact(package)) for package in packages)
    things, verb = ("package", "was") if len(packages) == 1 else ("packages", "were")
    where = ", ".join(map(redact, channels)) or "any channel"
    kept = "the cached package lists of " if offline else ""
    hint = "Check the spelling and the version, or add the channel that has it."
    if offline:
        hint = "It may be found without --offline; otherwise check the spelling and the version."
    return EngineError(
        f"{things} {named} {verb} not found in {kept}{where}",
        about=_listed(packages),
        code="package-not-found",
        hint=hint,
        log=log,
    )


def channel_error(url: str, status: int, reason: str, log: str | None = None, *, offline: bool = False) -> EngineError:
    """A channel whose package list could not be had. ``status`` is the HTTP status, 0 where there was no answer."""
    channel = redact(channel_of(url))
    if status in (401, 403, 407):
        return EngineError(
            f"the channel {channel} wants credentials, or refuses those it was given (HTTP {status})",
            about=channel,
            code="channel-unauthorized",
            hint="Give them as conda takes them: in the channel's URL (user:password@ or /t/TOKEN/), or in .netrc.",
            log=log,
        )
    if status in (404, 410) or (not status and url.startswith("file:")):
        return EngineError(
            f"there is no channel at {channel}: it has no package list (repodata.json) for this platform",
            about=channel,
            code="channel-not-found",
            hint="Check the channel's name or URL.",
            log=log,
        )
    if status >= 400:
        return EngineError(
            f"the channel {channel} is out of order: its server answered {status} {_phrase(status)}".rstrip(),
            about=channel,
            code="channel-unreachable",
            hint="Try again later, or name another channel or mirror.",
            log=log,
        )
    hint = "Check the network, the proxy settings and the channel's URL; `--offline` uses what is already here."
    if offline:
        hint = "Nothing of it is kept here: run once without --offline."
    return EngineError(
        f"the channel {channel} is out of reach" + (f": {reason.rstrip('.')}" if reason else ""),
        about=channel,
        code="channel-unreachable",
        hint=hint,
        log=log,
    )


def package_download_error(url: str, status: int, reason: str, log: str | None = None) -> EngineError:
    """A package that the channel lists but does not hand over."""
    channel, package = redact(channel_of(url)), url.rsplit("/", 1)[-1]
    if status in (401, 403):
        return channel_error(url, status, reason, log)
    why = f"HTTP {status} {_phrase(status)}".strip() if status else reason or "the connection failed"
    return EngineError(
        f"the package {package} could not be downloaded from the channel {channel}: {why}",
        about=package,
        code="download-failed",
        hint="The channel lists it; try again later, or name another channel or mirror.",
        log=log,
    )


def damaged_error(package: str, channels: Sequence[str], log: str | None = None) -> EngineError:
    """A package that does not have the checksum that its channel promises, or cannot be unpacked."""
    name = package.rsplit("/", 1)[-1].rsplit("\\", 1)[-1]
    place = redact(channel_of(package)) if "://" in package else _listed(channels)
    return EngineError(
        f"the package {name} arrived damaged: it is not what the channel {place} says it should be",
        about=name,
        code="digest-mismatch",
        hint="Try again; if it stays so, the channel (or a proxy on the way) serves a broken file.",
        log=log,
    )


def space_error(engine: str, log: str | None = None) -> EngineError:
    """The disk, or the user's share of it, is full."""
    return EngineError(
        f"{engine} ran out of disk space",
        code="disk-full",
        hint="Free some: `cetool gc --older-than 0s` removes environments that are not in use.",
        log=log,
    )


def channel_of(url: str) -> str:
    """The channel that the URL of a package, a package list or a platform's directory belongs to."""
    head, _, last = url.rpartition("/")
    if last.endswith((".conda", ".tar.bz2")) or last.startswith(("repodata", "current_repodata")):
        return channel_of(head)
    return head if _SUBDIR.fullmatch(last) else url.rstrip("/")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
