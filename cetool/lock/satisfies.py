"""Whether a lock that keeps no digest of its request can be the lock of what is asked for."""

from __future__ import annotations

import re

from cetool.errors import CetoolError
from cetool.lock.model import LockedConda, PlatformLock
from cetool.lock.records import record_of
from cetool.spec.environment import Requirements
from cetool.spec.match_fields import read_fields
from cetool.spec.package_urls import IDENTITY, is_same_file


def what_is_missing(locked: PlatformLock, requirements: Requirements) -> str | None:
    """The first match spec or PyPI requirement that no locked package fits, None where all have one.

    Specs that hold only under a condition, and requirements whose markers say they do not apply, are left aside.
    """
    from rattler import MatchSpec

    try:
        packages = {package.name: package for package in locked.conda}
        records = {name: record_of(package) for name, package in packages.items()}
    except CetoolError as error:
        return error.message
    for text in requirements.packages:
        spec = MatchSpec(text)
        name = getattr(spec.name, "normalized", None)
        if spec.condition is not None or name is None or name.startswith("__"):
            continue
        record, package = records.get(name), packages.get(name)
        if record is None or package is None or not _fits(spec.version, spec.build, record):
            return text
        if not _has(text, package) or not is_same_file(spec, text, package.url, package.sha256, package.md5):
            return text
    return next((text for text in requirements.pypi if not _is_installed(text, locked)), None)


def _fits(version: str | None, build: str | None, record: object) -> bool:
    """By version and build alone: a lock tells by its URLs, not by names, which channel a package is from."""
    from fnmatch import fnmatchcase

    from rattler import Version, VersionSpec

    text = str(record.version)  # type: ignore[attr-defined]
    if version is not None and not VersionSpec(version).matches(Version(text)):
        return False
    wanted = build is None or build.startswith("^") or fnmatchcase(str(record.build), build)  # type: ignore[attr-defined]
    return wanted


def _has(text: str, package: LockedConda) -> bool:
    """Whether a locked package has what the fields of a spec say, those aside that a lock does not tell."""
    told = {"subdir": package.subdir, "fn": package.url.rpartition("/")[2]}
    others = [(key, value) for key, value in read_fields(text).others if key not in IDENTITY]
    return all(told.get(key, value) == value for key, value in others)


def _is_installed(text: str, locked: PlatformLock) -> bool:
    from packaging.requirements import Requirement

    requirement = Requirement(text)
    if requirement.marker is not None:
        return True
    name = re.sub(r"[-_.]+", "-", requirement.name).lower()
    for package in locked.pypi:
        if package.name == name:
            return requirement.url is not None or requirement.specifier.contains(package.version, prereleases=True)
    return any(package.name == name for package in locked.conda)
