"""``pixi.lock`` files, read and written by py-rattler's own ``LockFile``."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from cetool.base.errors import Location, MetadataError
from cetool.base.text import shorten
from cetool.base.urls import scrub, strip_credentials
from cetool.declare.channels import canonical_channel, file_url
from cetool.declare.package import Package, PypiPackage
from cetool.lock.checks import (
    Contents,
    conda_package,
    digest,
    platform_name,
    pypi_name,
    pypi_url,
    pypi_version,
)
from cetool.lock.model import Lock, PlatformLock, malformed
from cetool.lock.plain import to_yaml
from cetool.lock.records import package_of

if TYPE_CHECKING:
    from rattler.lock import CondaLockedBinaryPackage, PypiLockedPackage

#: The environment of a script; a project's others have names of their own.
_DEFAULT = "default"
#: The oldest version that can be written; py-rattler makes the newest of it.
OLDEST = 6
#: What the files of PyPI packages end in.
_FILES = (".whl", ".tar.gz", ".zip")


def read_pixi_lock(path: Path, text: str, name: str) -> Lock:
    """The lock in a ``pixi.lock``: its default environment. ``text`` is what is in the file, ``name`` its name.

    Raises MetadataError for what py-rattler does not read, and for whatever in it a lock may not say.
    """
    from rattler.exceptions import ParseCondaLockError
    from rattler.lock import LockFile

    where = Location(name)
    try:
        file = LockFile.from_path(path)
        environments = dict(file.environments())
    except ParseCondaLockError as error:
        reason = shorten(scrub(str(error)).partition("\n")[0], 200)
        raise malformed(f"this is no pixi.lock that can be read: {reason}", where) from None
    environment = environments.get(_DEFAULT)
    if environment is None:
        raise malformed(f"the lock has no environment '{_DEFAULT}'", where)
    found: list[PlatformLock] = []
    places = _Places(name, text)
    for platform, packages in environment.packages_by_platform().items():
        subdir = platform_name(str(platform.subdir), where)
        if any(each.platform == subdir for each in found):
            raise malformed(f"{subdir} is locked twice, for machines that differ otherwise", where)
        found.append(_platform(subdir, packages, places, path.absolute().parent))
    return Lock(
        platforms=tuple(sorted(found, key=lambda each: each.platform)),
        channels=tuple(
            canonical_channel(strip_credentials(str(channel)), base_dir=path.parent, where=where)
            for channel in environment.channels()
        ),
    )


class _Places:
    """Where in the file a package stands: py-rattler does not tell."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        # the last line that ends in a package's URL is the one that has its digests below it
        rows = enumerate(text.split("\n"), start=1)
        self._lines = {row.rpartition(": ")[2].strip(): number for number, row in rows if row.startswith("-")}

    def of(self, location: str) -> Location:
        """The line of a package's own entry; the file where it is not to be found."""
        return Location(self._name, self._lines.get(location))


def _platform(subdir: str, packages: Iterable[Any], places: _Places, directory: Path) -> PlatformLock:
    from rattler.lock import CondaLockedBinaryPackage, PypiLockedPackage

    contents = Contents(subdir)
    for package in packages:
        where = places.of(package.location)
        if isinstance(package, CondaLockedBinaryPackage):
            contents.add(_conda(package, subdir, where), where)
        elif isinstance(package, PypiLockedPackage):
            contents.add(_pypi(package, directory, where), where)
        else:
            raise malformed(f"{package.name} is locked as source, which cetool does not build", where)
    return contents.lock()


def _conda(package: CondaLockedBinaryPackage, platform: str, where: Location) -> Package:
    record = package.repo_data_record()
    found, told = conda_package(record.url, platform, where), package_of(record)
    if (told.name, told.version) != (found.name, found.version):
        raise malformed(
            f"{told.name} {told.version} is locked, but its URL leads to {found.name} {found.version}", where
        )
    return told._replace(build=found.build, subdir=found.subdir, url=found.url)


def _pypi(package: PypiLockedPackage, directory: Path, where: Location) -> PypiPackage:
    """A PyPI package; paths of its files start from the directory of the lock, as pixi writes them."""
    name = pypi_name(package.name, where)
    location, _, fragment = package.location.partition("#sha256=")
    if "://" not in location and location.endswith(_FILES):
        location = file_url(location, directory, where=where)
    if "://" not in location:
        raise malformed(f"{name} is locked as the path {shorten(location)!r}, which means nothing elsewhere", where)
    location = location.removeprefix("direct+")
    url, repository = pypi_url(location, name, where)
    sha256 = None
    with contextlib.suppress(AttributeError):  # py-rattler's answer where there are none
        sha256 = package.hashes.sha256.hex()  # type: ignore[union-attr]
    if sha256 is None and fragment:
        sha256 = digest(fragment, "sha256", where)
    return PypiPackage(
        name,
        pypi_version(package.version, where) if package.version else _version_in(url, where),
        url,
        None if repository else sha256,
        tuple(package.requires_dist),
        package.requires_python or None,
    )


def _version_in(url: str, where: Location) -> str:
    """The version in a file's name, where the lock leaves it out (directories and repositories have a moving one)."""
    words = unquote(urlsplit(url).path).rpartition("/")[2].split("-")
    if len(words) < 2:
        raise malformed("a PyPI package is locked without a version", where)
    return pypi_version(words[1].removesuffix(".tar.gz").removesuffix(".zip"), where)


def write_pixi_lock(
    lock: Lock, *, indexes: tuple[str, ...] = (), channel_urls: tuple[str, ...] = (), version: int | None = None
) -> str:
    """The text of a ``pixi.lock``, in the newest version that py-rattler writes or, if asked for, in version 6.

    ``channel_urls`` are the URLs of the lock's channels, as this machine's configuration has them; ``indexes`` those
    that PyPI packages came from. The digest of the request has no place in the format. Equal locks are equal bytes.
    """
    from rattler.exceptions import ParseCondaLockError
    from rattler.lock import LockFile

    channels = channel_urls or tuple(_channel_url(channel) for channel in lock.channels)
    environment: dict[str, object] = {"channels": [{"url": f"{url.rstrip('/')}/"} for url in channels]}
    if any(each.pypi for each in lock.platforms):
        environment["indexes"] = list(indexes or ("https://pypi.org/simple",))
    platforms = sorted(lock.platforms, key=lambda each: each.platform)
    environment["packages"] = {each.platform: list(_references(each)) for each in platforms}
    packages: dict[str, dict[str, object]] = {}
    for each in platforms:
        packages |= {package.url: _conda_entry(package) for package in each.conda}
        packages |= {package.url: _pypi_entry(package) for package in each.pypi}
    document = {"version": OLDEST, "environments": {_DEFAULT: environment}, "packages": list(packages.values())}
    with tempfile.TemporaryDirectory(prefix="cetool-lock-") as directory:
        path = Path(directory) / "pixi.lock"
        text = to_yaml(document)
        path.write_text(text, encoding="utf-8")
        try:
            read = LockFile.from_path(path)
            if version == OLDEST:
                return text
            read.to_path(path)
        except ParseCondaLockError as error:
            reason = shorten(scrub(str(error)).replace(directory + os.sep, "").partition("\n")[0], 200)
            raise MetadataError(
                f"py-rattler does not take this lock for a pixi.lock: {reason}", code="lock-malformed"
            ) from None
        return path.read_text(encoding="utf-8")


def _channel_url(channel: str) -> str:
    return channel if "://" in channel else f"https://conda.anaconda.org/{channel}"


def _references(locked: PlatformLock) -> Iterator[dict[str, str]]:
    yield from ({"conda": package.url} for package in locked.conda)
    yield from ({"pypi": package.url} for package in locked.pypi)


def _conda_entry(package: Package) -> dict[str, object]:
    entry: dict[str, object] = {"conda": package.url}
    optional = (
        ("name", package.name),
        ("version", package.version),
        ("build", package.build),
        ("subdir", package.subdir),
        ("noarch", package.noarch),
        ("sha256", package.sha256),
        ("md5", package.md5),
        ("depends", list(package.depends)),
        ("constrains", list(package.constrains)),
        ("size", package.size),
    )
    return {**entry, **{key: value for key, value in optional if value}}


def _pypi_entry(package: PypiPackage) -> dict[str, object]:
    entry: dict[str, object] = {"pypi": package.url, "name": package.name, "version": package.version}
    optional = (
        ("sha256", package.sha256),
        ("requires_dist", list(package.requires)),
        ("requires_python", package.requires_python),
    )
    return {**entry, **{key: value for key, value in optional if value}}
