"""Shared by tests of locks: a channel for several platforms, and hand-made locks."""

from __future__ import annotations

from pathlib import Path

from cetool.declare.package import Package, PypiPackage
from cetool.lock.model import Lock, PlatformLock
from support.archive import Package as Made
from support.archive import write_package, write_repodata

FORGE = "https://conda.anaconda.org/conda-forge"
COMMIT = "0123456789abcdef0123456789abcdef01234567"

SIX = Package(
    "six",
    "1.16.0",
    "pyh_0",
    "noarch",
    f"{FORGE}/noarch/six-1.16.0-pyh_0.conda",
    "ab" * 32,
    "cd" * 16,
    100,
    ("python >=3", "python <4", "abi 1.* *_cp"),
    ("other >1",),
    "python",
)
PYTHON = Package(
    "python", "3.10", "1_0", "linux-64", f"{FORGE}/linux-64/python-3.10-1_0.conda", "12" * 32, None, 7, ("six",)
)
#: Every word in it is something other than a string in some version of YAML.
YES = Package("yes", "1e3", "0", "linux-64", f"{FORGE}/linux-64/yes-1e3-0.tar.bz2", None, "34" * 16)
WHEEL = PypiPackage(
    "tabulate",
    "0.9.0",
    "https://files.pythonhosted.org/packages/x/tabulate-0.9.0-py3-none-any.whl",
    "56" * 32,
    ("six>=1", "wcwidth ; extra == 'widechars'"),
    ">=3.7",
)
REPOSITORY = PypiPackage("foo", "1", f"git+https://github.com/a/foo@{COMMIT}")
LOCK = Lock(
    (
        PlatformLock("linux-64", (PYTHON, SIX, YES), (REPOSITORY, WHEEL), "aa" * 32),
        PlatformLock("osx-arm64", (SIX,), (), "bb" * 32),
    ),
    ("conda-forge", "https://example.org/c"),
    "2026-01-31T12:00:00Z",
    (("cetool_exclude_newer", "2026-01-30T23:59:59Z"),),
)


def make_channel(path: Path) -> Path:
    """Return a channel of empty packages that differ by platform.

    ``tool`` 1 and 2 (newer) exist for linux-64, osx-arm64 and win-64, and need ``lib`` (any) and a virtual package that
    only that platform has; ``needs-cuda`` needs CUDA 12; ``python`` exists for all, with ``six``.
    """
    virtual = {"linux-64": "__glibc >=2.17", "osx-arm64": "__osx >=11", "win-64": "__win"}
    packages = []
    for number, (subdir, need) in enumerate(virtual.items()):
        for version, day in (("1", 1_600_000_000), ("2", 1_700_000_000)):
            more = {"timestamp": day * 1000}
            needs = ("lib", need)
            packages.append(
                Made("tool", version, depends=needs, subdir=subdir, noarch=None, build=f"h{number}_0", extra=more)
            )
        packages.append(Made("needs-cuda", "1", depends=("__cuda >=12",), subdir=subdir, noarch=None))
        packages.append(Made("python", "3.11.7", subdir=subdir, noarch=None, build="0_cpython"))
    old = {"timestamp": 1_500_000_000_000}
    packages += [Made("lib", version, extra=old) for version in ("1", "2")]
    packages.append(Made("six", "1.16.0", depends=("python",), noarch="python", build="pyh_0"))
    packages.append(Made("only-unix", "1", depends=("__unix",)))
    # the same file name in several directories: one at a time
    for subdir in (*virtual, "noarch"):
        mine = {f"{each.stem}{each.suffix}": write_package(each, path) for each in packages if each.subdir == subdir}
        write_repodata(mine, subdir, path)
    return path
