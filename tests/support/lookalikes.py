"""Channels with different packages under the same file name, and channels with wrong repodata."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.archive import Entry, Package, write_package, write_repodata

STEM = "pkg-1.9-0"
#: The file below the prefix with the package's text.
SAYS = "share/pkg/says"


@dataclass(frozen=True)
class Lookalike:
    """A channel with :data:`STEM` in both formats; only the ``.conda`` file is in its repodata."""

    root: Path
    says: str

    @property
    def url(self) -> str:
        """Its ``file://`` URL."""
        return self.root.as_uri()

    def file(self, suffix: str = ".conda") -> Path:
        """Return a package file."""
        return self.root / "noarch" / (STEM + suffix)

    def digest(self, algorithm: str = "sha256", suffix: str = ".conda") -> str:
        """Return the hashes of a package file."""
        return hashlib.new(algorithm, self.file(suffix).read_bytes()).hexdigest()


def make_lookalike(root: Path, says: str, *, claims: dict[str, Any] | None = None) -> Lookalike:
    """Return a channel whose package contains the given text; ``claims`` replace fields of its record in the repodata.

    None removes a field.
    """
    for subdir in ("linux-64", "linux-aarch64", "osx-arm64", "osx-64", "win-64"):
        write_repodata({}, subdir, root)
    records = {}
    for suffix in (".tar.bz2", ".conda"):
        package = Package("pkg", "1.9", entries=(Entry(SAYS, f"{says}{suffix}".encode()),), suffix=suffix)
        records = {STEM + suffix: {**write_package(package, root), **(claims or {})}}
    records = {
        name: {key: value for key, value in record.items() if value is not None} for name, record in records.items()
    }
    write_repodata(records, "noarch", root)
    return Lookalike(root, says)


def said(prefix: Path) -> str:
    """Return the text of the package in an environment."""
    return (prefix / SAYS).read_text(encoding="utf-8")


def recorded(prefix: Path) -> dict[str, Any]:
    """Return its package record."""
    record: dict[str, Any] = json.loads((prefix / "conda-meta" / f"{STEM}.json").read_bytes())
    return record
