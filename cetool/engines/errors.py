"""The errors that all engines have in common, each with one message and hint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus

from cetool.base.errors import EngineError
from cetool.base.urls import redact

#: The hint for a full disk.
FREE_SPACE = "Free disk space: `cetool gc --older-than 0s` removes environments that are not in use."

_SUBDIR = re.compile(r"noarch|(?:linux|osx|win|emscripten|wasi|freebsd|zos)-\w+")


class UnsatisfiableError(EngineError):
    """The channels were read, but no environment satisfies the request."""

    code = "spec-unsatisfiable"


def _listed(items: Sequence[str]) -> str:
    return ", ".join(map(redact, items))


def not_found_error(
    packages: Sequence[str], channels: Sequence[str], log: str | None = None, *, offline: bool = False
) -> EngineError:
    """Return the error for match specs (or names) that no package in the channels matches."""
    named = ", ".join(repr(redact(package)) for package in packages)
    things, verb = ("package", "was") if len(packages) == 1 else ("packages", "were")
    where = ", ".join(map(redact, channels)) or "any channel"
    kept = "the cached package lists of " if offline else ""
    hint = "Check the spelling and the version, or add a channel that has it."
    if offline:
        hint = "Run once without --offline, or check the spelling and the version."
    return EngineError(
        f"{things} {named} {verb} not found in {kept}{where}",
        about=_listed(packages),
        code="package-not-found",
        hint=hint,
        log=log,
    )


def channel_error(url: str, status: int, reason: str, log: str | None = None, *, offline: bool = False) -> EngineError:
    """Return the error for a channel without a package list. ``status`` is the HTTP status, 0 if there is no answer."""
    channel = redact(channel_of(url))
    if status in (401, 403, 407):
        return EngineError(
            f"the channel {channel} refuses access (HTTP {status})",
            about=channel,
            code="channel-unauthorized",
            hint="Check the credentials, which conda reads from the channel's URL (user:password@ or /t/TOKEN/) and "
            "from ~/.netrc.",
            log=log,
        )
    if status in (404, 410) or (not status and url.startswith("file:")):
        return EngineError(
            f"there is no channel at {channel}: no package list (repodata.json) was found",
            about=channel,
            code="channel-not-found",
            hint="Check the channel's name or URL.",
            log=log,
        )
    if status >= 400:
        return EngineError(
            f"the channel {channel} cannot be read: its server answered {status} {_phrase(status)}".rstrip(),
            about=channel,
            code="channel-unreachable",
            hint="Try again later, or use another channel or mirror.",
            log=log,
        )
    hint = "Check the network, the proxy settings and the channel's URL, or use --offline to work with cached metadata."
    if offline:
        hint = "Its metadata are not cached: run once without --offline."
    return EngineError(
        f"cannot reach the channel {channel}" + (f": {reason.rstrip('.')}" if reason else ""),
        about=channel,
        code="channel-unreachable",
        hint=hint,
        log=log,
    )


def package_download_error(url: str, status: int, reason: str, log: str | None = None) -> EngineError:
    """Return the error for a package that the channel lists but cannot be downloaded."""
    channel, package = redact(channel_of(url)), url.rsplit("/", 1)[-1]
    if status in (401, 403):
        return channel_error(url, status, reason, log)
    why = f"HTTP {status} {_phrase(status)}".strip() if status else reason or "the connection failed"
    return EngineError(
        f"cannot download the package {package} from the channel {channel}: {why}",
        about=package,
        code="download-failed",
        hint="The channel lists the package. Try again later, or use another channel or mirror.",
        log=log,
    )


def damaged_error(package: str, channels: Sequence[str], log: str | None = None) -> EngineError:
    """Return the error for a package with a wrong digest, or one that cannot be unpacked."""
    name = package.rsplit("/", 1)[-1].rsplit("\\", 1)[-1]
    place = redact(channel_of(package)) if "://" in package else _listed(channels)
    return EngineError(
        f"the package {name} is damaged: it does not match the metadata of the channel {place}",
        about=name,
        code="digest-mismatch",
        hint="Try again. If this happens again, the channel or a proxy serves a damaged file.",
        log=log,
    )


def space_error(engine: str, log: str | None = None) -> EngineError:
    """Return the error for a full disk or quota."""
    return EngineError(
        f"{engine} ran out of disk space",
        code="disk-full",
        hint=FREE_SPACE,
        log=log,
    )


def channel_of(url: str) -> str:
    """Return the channel of the URL of a package, a package list or a subdir."""
    head, _, last = url.rpartition("/")
    if last.endswith((".conda", ".tar.bz2")) or last.startswith(("repodata", "current_repodata")):
        return channel_of(head)
    return head if _SUBDIR.fullmatch(last) else url.rstrip("/")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
