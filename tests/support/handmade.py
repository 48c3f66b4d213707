"""The test channel's hand-made packages, and those that wrap programs of this machine.

| package | what it is for |
| --- | --- |
| ``hello-bin`` | ``bin/hello`` prints its prefix and arguments; text and binary files hold the prefix; ``.tar.bz2`` |
| ``activated`` | ``activate.d`` sets ``ACTIVATED`` and ``ACTIVATED_PREFIX``, ``env_vars.d`` sets ``FROM_JSON`` |
| ``activation-noise`` | an ``activate.d`` that prints, sets a value of two lines and ends in a failing command |
| ``postlink`` | a post-link script that writes ``postlink.txt`` |
| ``shared-lib`` 1 and 2, ``conflict-a``, ``conflict-b`` | cannot be installed together |
| ``missingdep`` | depends on ``does-not-exist >=1`` |
| ``needs-cuda`` | depends on the virtual package ``__cuda >=12`` |
| ``needs-python2`` | depends on ``python 2.7.*``, which the channel has not |
| ``bigpkg`` | 6 MB that do not compress: a download that takes its time |
| ``many-files`` | 400 small files: linking that takes its time |
| ``bash``, ``nodejs``, ``gxx``, ``cxx-compiler``, ``r-base`` | the machine's own programs, where it has them |
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from support.archive import PLACEHOLDER, Entry, Package

_HELLO = f"""\
#!/bin/sh
echo "hello from {PLACEHOLDER}"
for argument in "$@"; do printf '<%s>\\n' "$argument"; done
"""
_ACTIVATE = 'export ACTIVATED=yes\nexport ACTIVATED_PREFIX="$CONDA_PREFIX"\n'
_NOISE = """\
echo "noise on standard output"
echo "noise on standard error" >&2
NOT_EXPORTED=1
export TWO_LINES='first
second'
false
"""


@dataclass(frozen=True)
class Wrapped:
    """A conda package: its name, the programs of the machine that it wraps, and how to get the first one's version."""

    name: str
    programs: tuple[str, ...]
    version: str = "--version"


WRAPPED = (
    Wrapped("bash", ("bash",)),
    Wrapped("nodejs", ("node",)),
    Wrapped("gxx", ("g++", "gcc"), "-dumpfullversion"),
    Wrapped("r-base", ("Rscript", "R")),
)


def handmade_packages() -> Iterator[Package]:
    """Yield the packages that are the same on every machine."""
    binary = b"\0\x01" + PLACEHOLDER.encode() + b"/share\0\xff"
    hello = (
        Entry("bin/hello", _HELLO.encode(), executable=True, placeholder=PLACEHOLDER),
        Entry("share/hello/prefix.bin", binary, placeholder=PLACEHOLDER),
        Entry("share/hello/prefix.txt", f"{PLACEHOLDER}\n".encode(), placeholder=PLACEHOLDER),
    )
    yield Package("hello-bin", "1.0", entries=hello, suffix=".tar.bz2")
    yield Package("activated", "1.0", entries=_activation_entries())
    yield Package("activation-noise", "1.0", entries=(Entry("etc/conda/activate.d/noise.sh", _NOISE.encode()),))
    postlink = b'#!/bin/sh\necho "$PKG_NAME" > "$PREFIX/postlink.txt"\n'
    yield Package("postlink", "1.0", entries=(Entry("bin/.postlink-post-link.sh", postlink, executable=True),))
    for version in ("1", "2"):
        yield Package("shared-lib", version, entries=(Entry("share/shared-lib/version", version.encode()),))
    yield Package("conflict-a", "1.0", depends=("shared-lib 1.*",))
    yield Package("conflict-b", "1.0", depends=("shared-lib 2.*",))
    yield Package("missingdep", "1.0", depends=("does-not-exist >=1",))
    yield Package("needs-cuda", "1.0", depends=("__cuda >=12",))
    yield Package("needs-python2", "1.0", depends=("python 2.7.*",))
    noise = random.Random(0).randbytes(6_000_000)
    yield Package("bigpkg", "1.0", entries=(Entry("share/bigpkg/noise.bin", noise),))
    small = (Entry(f"share/many-files/{number:03}.txt", f"{number}\n".encode()) for number in range(400))
    yield Package("many-files", "1.0", entries=tuple(small))


def machine_packages(subdir: str) -> Iterator[Package]:
    """Yield packages that wrap programs of this machine with a small shell script."""
    for wrapped in WRAPPED:
        found = {name: path for name in wrapped.programs if (path := shutil.which(name))}
        if wrapped.programs[0] not in found:
            continue
        version = _version(found[wrapped.programs[0]], wrapped.version)
        scripts = {name: f'#!/bin/sh\nexec {path} "$@"\n' for name, path in found.items()}
        entries = tuple(Entry(f"bin/{name}", text.encode(), executable=True) for name, text in scripts.items())
        yield Package(wrapped.name, version, entries=entries, subdir=subdir, noarch=None)
        if wrapped.name == "gxx":
            activate = Entry("etc/conda/activate.d/cxx-compiler.sh", b'export CXX="$CONDA_PREFIX/bin/g++"\n')
            yield Package("cxx-compiler", "1.0", entries=(activate,), depends=("gxx",), subdir=subdir, noarch=None)


def _activation_entries() -> tuple[Entry, ...]:
    return (
        Entry("etc/conda/activate.d/activated.sh", _ACTIVATE.encode()),
        Entry("etc/conda/deactivate.d/activated.sh", b"unset ACTIVATED ACTIVATED_PREFIX\n"),
        Entry("etc/conda/env_vars.d/activated.json", b'{"FROM_JSON": "a value"}\n'),
    )


def _version(program: str, option: str) -> str:
    done = subprocess.run([program, option], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    found = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return found.group() if found else "1.0"
