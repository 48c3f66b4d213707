"""Know the current platform, the families of platforms, and the virtual packages that they offer."""

from __future__ import annotations

import os
import sys
from functools import lru_cache

from cetool.base.errors import Location, MetadataError
from cetool.base.text import pattern, shorten

#: conda's platforms, as subdirectories of a channel.
PLATFORMS = (
    *("linux-32", "linux-64", "linux-aarch64", "linux-armv6l", "linux-armv7l", "linux-loongarch64", "linux-ppc64"),
    *("linux-ppc64le", "linux-riscv32", "linux-riscv64", "linux-s390x", "osx-64", "osx-arm64"),
    *("win-32", "win-64", "win-arm64", "freebsd-64", "zos-z", "emscripten-wasm32", "wasi-wasm32"),
)
#: Names for several platforms at once, in pixi's and in conda-script's tables.
FAMILIES = ("unix", "linux", "osx", "win")

# The platform of a 64-bit Python by system and uname's machine: saves the import of py-rattler.
_USUAL = {
    ("linux", "x86_64"): "linux-64",
    ("linux", "aarch64"): "linux-aarch64",
    ("darwin", "x86_64"): "osx-64",
    ("darwin", "arm64"): "osx-arm64",
}
# what nearly all machines of a platform have: the oldest glibc and macOS that conda-forge builds for
_LINUX = {"__linux": ("4.18", "0"), "__glibc": ("2.28", "0")}
_SYSTEMS = {
    "linux": {"__unix": ("0", "0"), **_LINUX},
    "osx": {"__unix": ("0", "0"), "__osx": ("13.0", "0")},
    "win": {"__win": ("10.0", "0")},
}
_ARCHSPECS = {"64": "x86_64", "32": "x86", "aarch64": "aarch64", "ppc64le": "ppc64le", "ppc64": "ppc64"}
_ARCHSPECS |= {"s390x": "s390x", "riscv64": "riscv64", "armv7l": "armv7l", "armv6l": "armv6l"}

_LONE_VIRTUAL = pattern(r"\s*(__[A-Za-z0-9_]+)(?![A-Za-z0-9_.-])(?!.*(?:\band\b|\bor\b|[()\[\]]))")


@lru_cache(maxsize=1)
def current_platform() -> str:
    """Return the platform of this process: ``linux-64``."""
    if hasattr(os, "uname") and sys.maxsize > 2**32 and (known := _USUAL.get((sys.platform, os.uname().machine))):
        return known
    from rattler import Subdir

    return str(Subdir.current())


def selectors(platform: str) -> tuple[str, ...]:
    """Return the names that include this platform, the most specific first: ``linux-64``, ``linux``, ``unix``."""
    system = platform.partition("-")[0]
    if system == "win":
        return (platform, "win")
    families = (system,) if system in FAMILIES else ()
    unix = ("unix",) if system in ("linux", "osx", "freebsd", "emscripten", "zos") else ()
    return (platform, *families, *unix)


def default_virtual_packages(platform: str) -> dict[str, tuple[str, str]]:
    """Return what machines of another platform are assumed to have: versions and build strings by name.

    ``__cuda`` is not included. As in CEP 30, the build of ``__archspec`` is the processor.
    """
    system, _, processor = platform.partition("-")
    found = dict(_SYSTEMS.get(system, {"__unix": ("0", "0")}))
    name = {"osx-arm64": "m1", "win-arm64": "aarch64"}.get(platform) or _ARCHSPECS.get(processor)
    if name is not None:
        found["__archspec"] = ("1", name)
    return found


def virtual_package_holds(condition: str, platform: str, *, where: Location | None = None) -> bool | None:
    """Return whether a condition that is one virtual package is true on a platform; None for others.

    ``__unix``, ``__linux``, ``__osx`` and ``__win`` depend on the platform; others, and those with a version, on what
    py-rattler detects here (``CONDA_OVERRIDE_*`` respected) or, for another platform, on what most of its machines
    have. Raises MetadataError if it is not a match spec.
    """
    found = _LONE_VIRTUAL.match(condition)
    if found is None:
        return None
    name = found[1].lower()
    families = selectors(platform)
    if name.removeprefix("__") in FAMILIES:
        if name.removeprefix("__") not in families:
            return False
        if not condition[found.end() :].strip():
            return True
    from fnmatch import fnmatchcase

    from rattler import MatchSpec, Version, VersionSpec

    try:
        spec = MatchSpec(condition)
    except Exception as error:
        reason = shorten(str(error).partition("\n")[0])
        raise MetadataError(
            f"when = '{shorten(condition)}' is not a match spec: {reason}", code="match-spec-invalid", where=where
        ) from None
    offered = _virtual_packages() if platform == current_platform() else default_virtual_packages(platform)
    version, build = offered.get(name, (None, ""))
    if version is None or (spec.version is not None and not VersionSpec(spec.version).matches(Version(version))):
        return False
    return spec.build is None or fnmatchcase(build, spec.build)


def _virtual_packages() -> dict[str, tuple[str, str]]:
    """Return what this machine has: versions and build strings by name."""
    from rattler import VirtualPackage, VirtualPackageOverrides

    found = (package.into_generic() for package in VirtualPackage.detect(overrides=VirtualPackageOverrides.from_env()))
    return {package.name.normalized: (str(package.version), str(package.build_string)) for package in found}
