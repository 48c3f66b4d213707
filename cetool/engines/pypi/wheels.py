"""Fetch the wheels of exact packages, keep them by digest, and put them where they are installed from offline."""

from __future__ import annotations

import hashlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from cetool.base.errors import EngineError, is_disk_full
from cetool.base.urls import redact, scrub
from cetool.declare.package import PypiPackage
from cetool.engines.errors import space_error
from cetool.engines.protocol import Progress
from cetool.packages.cache import archive_in, keep_archive

_TRIES = 3
_BLOCK = 1 << 18


def fetch_wheels(
    packages: Sequence[PypiPackage], archives: Path, directory: Path, progress: Progress, *, timeout: float
) -> None:
    """Keep the wheels among the packages in ``archives``, and link them in ``directory``, to be ``given`` in a request.

    ``timeout`` is in seconds without data. Raises EngineError if one cannot be fetched, or has a wrong digest.
    """
    wheels = [package for package in packages if _is_fetched(package)]
    absent = [each for each in wheels if not archive_in(archives, str(each.sha256)).is_file()]
    if absent:
        progress.stage("Downloading PyPI packages")
    directory.mkdir(parents=True, exist_ok=True)
    for package in absent:
        _fetch(package, archives, directory / "unfinished", progress, timeout)
    for package in wheels:
        place = directory / str(package.sha256) / package.file_name
        place.parent.mkdir(exist_ok=True)
        place.unlink(missing_ok=True)
        os.link(archive_in(archives, str(package.sha256)), place)


def _is_fetched(package: PypiPackage) -> bool:
    """Return whether a package is a wheel from an HTTP server with a digest: one that :func:`fetch_wheels` fetches."""
    return not package.is_built and package.sha256 is not None and package.url.startswith(("https://", "http://"))


def _fetch(package: PypiPackage, archives: Path, staging: Path, progress: Progress, timeout: float) -> None:
    for left in range(_TRIES - 1, -1, -1):
        try:
            found = _download(package.url, staging, progress, timeout)
            break
        except urllib.error.HTTPError as error:
            if left and error.code >= 500:
                continue
            raise _unobtainable(
                package, f"HTTP {error.code} {error.reason}", missing=error.code in (404, 410)
            ) from None
        except OSError as error:
            if is_disk_full(error):
                raise space_error("cetool") from None
            if not left:
                raise _unobtainable(package, scrub(str(error))) from None
            time.sleep(0.5)
    if found != package.sha256:
        staging.unlink(missing_ok=True)
        raise EngineError(
            f"the package {package.file_name} has a wrong digest: its SHA-256 is {found}, expected {package.sha256}",
            about=package.name,
            code="digest-mismatch",
            hint="The download was damaged, or the file was replaced.",
        )
    keep_archive(archives, found, staging, move=True)


def _download(url: str, place: Path, progress: Progress, timeout: float) -> str:
    """Write what a URL has to a file; return its SHA-256."""
    digest, done = hashlib.sha256(), 0
    request = urllib.request.Request(url, headers={"Accept": "*/*"})
    with urllib.request.urlopen(request, timeout=timeout) as response, place.open("wb") as file:
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() else None
        while block := response.read(_BLOCK):
            file.write(block)
            digest.update(block)
            done += len(block)
            progress.download(done, total)
    if total is not None and done != total:
        raise OSError(f"the connection was closed after {done} of {total} bytes")
    return digest.hexdigest()


def _unobtainable(package: PypiPackage, reason: str, *, missing: bool = False) -> EngineError:
    return EngineError(
        f"cannot download the PyPI package {package.file_name} from {redact(package.url)}: {reason}",
        about=package.name,
        code="pypi-not-found" if missing else "index-unreachable",
        hint="Its index has it no longer: solve again." if missing else "Check the network, and try again later.",
    )
