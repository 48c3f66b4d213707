"""Read and write ``pixi.lock`` files with py-rattler's ``LockFile``."""

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

#: The environment of a script; other environments of a project have other names.
_DEFAULT = "default"
#: The oldest version that can be written; py-rattler converts it to the newest.
OLDEST = 6
#: Suffixes of files of PyPI packages.
_FILES = (".whl", ".tar.gz", ".zip")


def read_pixi_lock(path: Path, text: str, name: str) -> Lock:
    """Read the default environment of a ``pixi.lock``. ``text`` is the content of the file, ``name`` its name.

    Raises MetadataError if py-rattler cannot read it, or if it contains something that cetool does not accept.
    """
    from rattler.exceptions import ParseCondaLockError
    from rattler.lock import LockFile

    where = Location(name)
    try:
        file = LockFile.from_path(path)
        environments = dict(file.environments())
    except ParseCondaLockError as error:
        reason = shorten(scrub(str(error)).partition("\n")[0], 200)
        raise malformed(f"not a valid pixi.lock: {reason}", where) from None
    environment = environments.get(_DEFAULT)
    if environment is None:
        raise malformed(f"the pixi.lock has no environment '{_DEFAULT}'", where)
    found: list[PlatformLock] = []
    places = _Places(name, text)
    for platform, packages in environment.packages_by_platform().items():
        subdir = platform_name(str(platform.subdir), where)
        if any(each.platform == subdir for each in found):
            raise malformed(f"'{subdir}' is locked more than once, for different virtual packages", where)
        found.append(_platform(subdir, packages, places, path.absolute().parent))
    return Lock(
        platforms=tuple(sorted(found, key=lambda each: each.platform)),
        channels=tuple(
            canonical_channel(strip_credentials(str(channel)), base_dir=path.parent, where=where)
            for channel in environment.channels()
        ),
    )


class _Places:
    """The lines of packages in the file, which py-rattler does not provide."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        # the last line that ends with a package's URL is the one that its digests follow
        rows = enumerate(text.split("\n"), start=1)
        self._lines = {row.rpartition(": ")[2].strip(): number for number, row in rows if row.startswith("-")}

    def of(self, location: str) -> Location:
        """Return the line of a package's entry, or only the file if it is not found."""
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
            raise malformed(f"'{package.name}' is locked as source, which cetool cannot build", where)
    return contents.lock()


def _conda(package: CondaLockedBinaryPackage, platform: str, where: Location) -> Package:
    record = package.repo_data_record()
    found, told = conda_package(record.url, platform, where), package_of(record)
    if (told.name, told.version) != (found.name, found.version):
        raise malformed(
            f"the package is {told.name} {told.version}, but {found.name} {found.version} in its URL", where
        )
    return told._replace(build=found.build, subdir=found.subdir, url=found.url)


def _pypi(package: PypiLockedPackage, directory: Path, where: Location) -> PypiPackage:
    """Return a PyPI package; pixi writes paths relative to the directory of the lock."""
    name = pypi_name(package.name, where)
    location, _, fragment = package.location.partition("#sha256=")
    if "://" not in location and location.endswith(_FILES):
        location = file_url(location, directory, where=where)
    if "://" not in location:
        raise malformed(f"'{name}' is locked as a local path, which cetool cannot use: {shorten(location)!r}", where)
    location = location.removeprefix("direct+")
    url, repository = pypi_url(location, name, where)
    sha256 = None
    with contextlib.suppress(AttributeError):  # raised by py-rattler if there are no digests
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
    """Return the version in a file's name: a lock omits it for sources with a dynamic version."""
    words = unquote(urlsplit(url).path).rpartition("/")[2].split("-")
    if len(words) < 2:
        raise malformed("a PyPI package has no version", where)
    return pypi_version(words[1].removesuffix(".tar.gz").removesuffix(".zip"), where)


def write_pixi_lock(
    lock: Lock, *, indexes: tuple[str, ...] = (), channel_urls: tuple[str, ...] = (), version: int | None = None
) -> str:
    """Return the text of a ``pixi.lock``, in the newest version that py-rattler writes or, on request, in version 6.

    ``channel_urls`` are the URLs of the lock's channels according to conda's configuration; ``indexes`` are those of
    the PyPI packages. The format cannot contain the digest of the request. Equal locks result in equal bytes.
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
                f"py-rattler cannot write this lock as pixi.lock: {reason}", code="lock-malformed"
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
