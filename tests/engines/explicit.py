"""How fake engines read an ``@EXPLICIT`` file: exactly these packages, verified as by real engines.

conda looks at the digest of what it downloads and not at that of ``file://`` archives, mamba at both; both take what is
unpacked in their package cache as it is.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote, urlsplit, urlunsplit

import rattler


@dataclass(frozen=True)
class Wanted:
    """One line of the file."""

    url: str
    digest: str

    @property
    def bare(self) -> str:
        """The URL without a login, for records."""
        parts = urlsplit(self.url)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    @property
    def file_name(self) -> str:
        """The archive's name."""
        return self.url.rpartition("/")[2]


def wanted_packages(lines: list[str]) -> list[Wanted]:
    """Return the packages of the lines below the marker."""
    found = []
    for line in lines:
        url, _, digest = line.partition("#")
        if "/" in url:
            found.append(Wanted(url, digest.removeprefix("sha256:")))
    return found


def records_of(name: str, lines: list[str], cache: Path) -> list[rattler.RepoDataRecord]:
    """Put the packages into the cache and return their records."""
    return [_record(name, wanted, cache) for wanted in wanted_packages(lines)]


def _record(name: str, wanted: Wanted, cache: Path) -> rattler.RepoDataRecord:
    stem = wanted.file_name.removesuffix(".conda").removesuffix(".tar.bz2")
    archive = cache / wanted.file_name
    index = cache / stem / "info" / "index.json"
    if not index.exists():
        fetch(wanted.url, archive)
        if name != "conda" or not wanted.url.startswith("file:"):
            _check(name, wanted, archive)
        from rattler.package_streaming import extract

        extract(archive, cache / stem)
    data = archive.read_bytes() if archive.exists() else b""
    sha256 = wanted.digest if len(wanted.digest) == 64 else hashlib.sha256(data).hexdigest()
    record = rattler.PackageRecord.from_index_json(index, sha256=sha256)
    return rattler.RepoDataRecord(record, wanted.file_name, wanted.bare, wanted.bare.rsplit("/", 2)[0])


def fetch(url: str, path: Path) -> None:
    """Download a URL to a file."""
    parts = urlsplit(url)
    login, at, place = parts.netloc.rpartition("@")
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=place)))
    if at:
        request.add_header("Authorization", "Basic " + base64.b64encode(unquote(login).encode()).decode())
    with urllib.request.urlopen(request) as answer, path.open("wb", buffering=0) as file:
        while block := answer.read(65536):
            file.write(block)


def _check(name: str, wanted: Wanted, archive: Path) -> None:
    algorithm = "sha256" if len(wanted.digest) == 64 else "md5"
    actual = hashlib.new(algorithm, archive.read_bytes()).hexdigest()
    if wanted.digest and actual != wanted.digest:
        archive.unlink()
        _refuse(name, wanted, algorithm, actual)


def _refuse(name: str, wanted: Wanted, algorithm: str, actual: str) -> NoReturn:
    """Fail as recorded from conda 26.7 and micromamba 2.8 (h03-explicit-http-sha256bad)."""
    if name == "conda":
        words = (
            "\nChecksumMismatchError: Conda detected a mismatch between the expected content and downloaded content\n"
            f"for url '{wanted.bare}'.\n  download saved to: /opt/conda/pkgs/{wanted.file_name}\n"
            f"  expected {algorithm}: {wanted.digest}\n  actual {algorithm}: {actual}\n\n"
        )
    else:
        kind = algorithm.upper()
        print(f"{wanted.file_name} tarball has incorrect {kind}", flush=True)
        words = (
            f"error    libmamba File not valid: {kind} doesn't match expectation "
            f'"/opt/mamba/pkgs/{wanted.file_name}"\n    Expected: {wanted.digest}\n    Actual: {actual}\n    \n'
            "critical libmamba Found incorrect downloads. Aborting"
        )
    print(words, file=sys.stderr, flush=True)
    sys.exit(1)
