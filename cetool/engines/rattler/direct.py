"""Match specs that name a package file by its URL, for the embedded engine.

rattler would look such a package up in a cache of its own by its name, and forget its digest. Here the file is fetched
and verified first; its record then comes from the package itself, and is the only one that fits the spec.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from cetool.base.errors import EngineError
from cetool.base.text import pattern
from cetool.base.urls import redact
from cetool.base.values import Value
from cetool.declare.package import Package

if TYPE_CHECKING:
    from rattler import MatchSpec, PackageName, RepoDataRecord, Subdir

    from cetool.engines.rattler.packages import CheckedPackages

_FIELD = pattern(r'\s*\b(?:url|md5|sha256)="[^"]*"\s*,?')
_FILE = pattern(r"(.+)-([^-]+)-([^-]+)(?:\.conda|\.tar\.bz2)")


class Direct(Value):
    """A spec that names a file: its position among the specs, its text, and the package."""

    position: int
    text: str
    package: Package


def package_at(url: str, spec: MatchSpec) -> Package:
    """The package that a spec names by this URL, with the digests that it asks for. Raises EngineError."""
    file = unquote(urlsplit(url).path.rpartition("/")[2])
    found = _FILE.fullmatch(file)
    if found is None or "?" in url:
        raise EngineError(
            f"{redact(url)} is not the URL of a conda package",
            code="match-spec-invalid",
            hint="It ends in NAME-VERSION-BUILD.conda or .tar.bz2, and has no query.",
        )
    return Package(
        name=found[1],
        version=found[2],
        build=found[3],
        subdir=url.rsplit("/", 2)[1],
        url=url,
        sha256=spec.sha256.hex() if spec.sha256 else None,
        md5=spec.md5.hex() if spec.md5 else None,
    )


def without_url(text: str, sha256: str | None = None) -> str:
    """The canonical spec without its URL and digests, and with the SHA-256 that was computed instead."""
    head, bracket, fields = text.partition("[")
    rest = _FIELD.sub("", fields.rpartition("]")[0] if bracket else "").strip(" ,")
    named = ([f'sha256="{sha256}"'] if sha256 else []) + ([rest] if rest else [])
    return f"{head}[{','.join(named)}]" if named else head


class DirectPackages:
    """The packages that the specs of one request name by their URLs: a source of records in front of the channels."""

    def __init__(self, direct: Sequence[Direct]) -> None:
        self._direct = direct
        self._records: list[RepoDataRecord] = []

    async def fetch(self, checked: CheckedPackages) -> dict[int, MatchSpec]:
        """Fetch the packages; the specs that only they fit, by position. Raises EngineError for a wrong digest."""
        from rattler import MatchSpec

        from cetool.engines.rattler.packages import record_in

        packages = {each.package.stem: each.package for each in self._direct}
        for each in self._direct:
            if packages[each.package.stem] != each.package:
                raise EngineError(
                    f"{each.package.stem} is asked for from two places",
                    code="spec-unsatisfiable",
                    hint="Name one of them.",
                )
        archives = await checked.have(list(packages.values()))
        self._records = [record_in(checked.cache, package) for package in packages.values()]
        return {
            each.position: MatchSpec(without_url(each.text, archives[each.package.stem].sha256))
            for each in self._direct
        }

    async def fetch_package_records(self, platform: Subdir, name: PackageName) -> list[RepoDataRecord]:
        """The records of a name; rattler asks once for each platform."""
        if str(platform) != "noarch":
            return []
        return [record for record in self._records if record.name.normalized == name.normalized]

    def package_names(self, platform: Subdir) -> list[str]:
        """The names that there are."""
        return [record.name.normalized for record in self._records] if str(platform) == "noarch" else []
