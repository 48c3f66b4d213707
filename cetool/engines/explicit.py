"""Packages that are named exactly: lines of an explicit spec (CEP 23), and how an engine gets them.

An engine that is handed them solves nothing, and checks what it downloads against the digests.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cetool.base.errors import EngineError
from cetool.base.urls import redact, split_url, strip_credentials
from cetool.declare.package import Package
from cetool.engines.protocol import EngineRequest

if TYPE_CHECKING:  # for subprocesses only
    from cetool.engines.private import PrivateFiles

MARKER = "@EXPLICIT"


def require_sha256(packages: Iterable[Package], engine: str, version: str, since: tuple[int, int]) -> None:
    """Raise EngineError where an engine is too old to know SHA-256 in an explicit file.

    Such a conda refuses the lines; such a mamba installs what it gets without a look at it.
    """
    known = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if known < since and any(package.sha256 for package in packages):
        raise EngineError(
            f"{engine} {version} cannot verify the packages of a lock: it does not know SHA-256 in an explicit file",
            code="engine-too-old",
            hint="Update it, or use --engine rattler, which is built in.",
        )


def explicit_file(files: PrivateFiles, request: EngineRequest, channels: Sequence[str]) -> Path:
    """The ``@EXPLICIT`` file of a request, for the user's eyes only: credentials of ``channels`` (URLs) are put back
    into the URLs of their packages.
    """
    lines = [with_credentials(package.line, channels) for package in request.exact]
    return files.write("explicit.txt", "\n".join([MARKER, *lines, ""]))


def with_credentials(url: str, channels: Sequence[str]) -> str:
    """The URL with the credentials of the channel that it is in: on the same scheme, host and port, below its path."""
    try:
        package = split_url(url)
        for channel in channels:
            bare = split_url(strip_credentials(channel).rstrip("/"))
            if strip_credentials(channel) != channel and package.is_below(bare):
                below = package._replace(path=package.path[len(bare.path) :]).joined()
                return channel.rstrip("/") + below[len(f"{package.scheme}://{package.place}") :]
    except ValueError:
        return url
    return url


def mismatch(package: Package, algorithm: str, found: str) -> EngineError:
    """The error for an archive that is not the one that was asked for."""
    wanted = package.sha256 if algorithm == "sha256" else package.md5
    return EngineError(
        f"the package {package.file_name} of {redact(package.channel)} is not the one that was asked for: "
        f"its {algorithm.upper().replace('SHA', 'SHA-')} is {found}, and not {wanted}",
        code="digest-mismatch",
        hint="The download was damaged, or the file was replaced in the channel. If the new file is wanted, "
        "write its digest; `cetool lock` updates a lock.",
    )


def distinct(packages: Sequence[Package]) -> Sequence[Package]:
    """The packages. Raises EngineError for one named twice."""
    names = [package.name for package in packages]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise EngineError(f"the lock names {', '.join(twice)} more than once", code="lock-malformed", hint="Lock anew.")
    return packages
