"""Which specs packages that stay as they are do not meet already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from cetool.base.urls import redact
from cetool.declare.match_fields import PACKAGE_NAME, read_fields
from cetool.declare.match_specs import IDENTITY, is_same_file
from cetool.declare.package import Package
from cetool.engines.rattler.errors import UnsatisfiableError

if TYPE_CHECKING:
    from rattler import MatchSpec


def additions(specs: Iterable[str], pinned: Sequence[Package]) -> tuple[str, ...]:
    """The match specs that ask for a package which is not among the pinned ones.

    Raises EngineError, with the way out, where one asks for another version than is pinned.
    """
    there = {package.name: package for package in pinned}
    found = []
    for text in specs:
        if PACKAGE_NAME.fullmatch(text):  # a name alone: told without the import of a parser
            if text not in there:
                found.append(text)
            continue
        from rattler import MatchSpec

        spec = MatchSpec(text)
        name = getattr(spec.name, "normalized", None)
        if name is None or spec.condition is not None or name not in there:
            found.append(text)
        elif not _fits(spec, text, kept := there[name]):
            raise UnsatisfiableError(
                f"{redact(text)!r} does not fit the baseline, which has {name} {kept.version} ({kept.build})",
                code="baseline-conflict",
                hint=f"Take the baseline's out, and what is asked for is put in: without: [{name}]. "
                "Or ask for a version that fits.",
            )
    return tuple(found)


def _fits(spec: MatchSpec, text: str, package: Package) -> bool:
    from rattler import Version, VersionSpec

    if spec.version is not None and not VersionSpec(spec.version).matches(Version(package.version)):
        return False
    if spec.build is not None and not spec.build.startswith("^") and not fnmatchcase(package.build, spec.build):
        return False
    # what the line of a pinned package does not tell, it does not have
    told = {"subdir": package.subdir, "fn": package.file_name}
    others = [(key, value) for key, value in read_fields(text).others if key not in IDENTITY]
    same = is_same_file(spec, text, package.url, package.sha256, package.md5)
    return same and all(told.get(key) == value for key, value in others)
