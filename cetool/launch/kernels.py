"""Kernels of an environment: which one runs a language, and the command that starts it there.

Kernel specs that start through cetool: written where Jupyter looks for kernels, listed and removed there.

Each holds in its ``metadata`` what it was written for; by that cetool knows its own among the others.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from cetool.base.codec import decode, encode
from cetool.base.errors import CetoolError, Location, ProgramNotFoundError, UsageError
from cetool.base.files import read_if_there, replace_file
from cetool.base.limits import KERNEL, read_json
from cetool.base.process import own_program
from cetool.launch.activation import Activation, activated_environ
from cetool.launch.process import Command, find_program

#: Of several kernels of a language, the one that is taken.
_USUAL = ("python3", "ir", "bash")


@dataclass(frozen=True)
class Kernel:
    """A kernel spec."""

    name: str
    #: The directory of its files.
    directory: Path
    #: In lower case.
    language: str
    argv: tuple[str, ...]
    env: Mapping[str, str]


def kernels_of(prefix: Path) -> list[Kernel]:
    """The kernels with specs in the environment, by name; a damaged spec is passed over."""
    found = []
    for file in sorted((prefix / "share" / "jupyter" / "kernels").glob("*/kernel.json")):
        try:
            data = read_json(file, KERNEL)
            argv = tuple(str(word) for word in data["argv"])
            env = {str(name): str(value) for name, value in (data.get("env") or {}).items()}
            language = str(data.get("language") or "").lower()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if argv:
            found.append(Kernel(file.parent.name, file.parent, language, argv, env))
    return found


def find_kernel(prefix: Path, language: str, name: str | None = None) -> Kernel:
    """The environment's kernel for a language: the one that is named if it is there, else the usual one.

    Raises ProgramNotFoundError where the environment has none.
    """
    kernels = kernels_of(prefix)
    fitting = [kernel for kernel in kernels if kernel.language == language]
    for kernel in fitting:
        if kernel.name == name:
            return kernel
    fitting.sort(key=lambda kernel: kernel.name not in _USUAL)
    if fitting:
        return fitting[0]
    others = ", ".join(sorted({kernel.language for kernel in kernels}))
    raise ProgramNotFoundError(
        f"there is no kernel for {language} in the environment {prefix}" + (f", only for {others}" if others else ""),
        hint="Declare the package that brings one, as ipykernel does for Python and r-irkernel for R.",
    )


def kernel_command(
    kernel: Kernel, activation: Activation, environ: Mapping[str, str], connection_file: str, more: Sequence[str] = ()
) -> Command:
    """What starts the kernel in its environment, activated; ``environ`` is the caller's, ``more`` further arguments."""
    values = {
        "connection_file": connection_file,
        "prefix": str(activation.prefix),
        "resource_dir": str(kernel.directory),
    }
    words = list(kernel.argv)
    for name, value in values.items():
        words = [word.replace(f"{{{name}}}", value) for word in words]
    variables, steps = activated_environ(activation, environ)
    for name, text in kernel.env.items():
        variables[name] = Template(text).safe_substitute(variables)
    try:
        program = find_program(words[0], variables, activation.prefix)
    except CetoolError as error:
        raise error.but(hint=f"The kernel {kernel.name} in {kernel.directory} names it.") from None
    return Command(program, (program, *words[1:], *more), variables, steps)


def is_ipykernel(kernel: Kernel) -> bool:
    """Whether the kernel is IPython's, and takes its options."""
    return any(word in ("ipykernel", "ipykernel_launcher") for word in kernel.argv)


#: The key in a kernel spec's metadata, and the form of what stands below it.
KEY = "cetool"
SCHEMA = "cetool.kernel/1"
#: What Jupyter takes for a kernel's name, as a directory and in URLs.
_NAME = re.compile(r"[a-z0-9._-]+")
#: How Jupyter writes languages that are not in lower case.
_WRITTEN = {"r": "R"}


@dataclass(frozen=True)
class KernelSource:
    """What a kernel's environment is: a script's, or that of match specs; with what the command line added."""

    language: str
    script: Path | None = None
    specs: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    env_file: Path | None = None

    def words(self) -> list[str]:
        """These on the command line of ``cetool kernel start``."""
        words = ["--language", self.language]
        for option, values in (("--spec", self.specs), ("--with", self.extra), ("--channel", self.channels)):
            words += [word for value in values for word in (option, value)]
        words += ["--env-file", str(self.env_file)] if self.env_file is not None else []
        return words + (["--script", str(self.script)] if self.script is not None else [])

    @staticmethod
    def json_key(name: str) -> str:
        """The key of a field in the kernel spec."""
        return "with" if name == "extra" else name


@dataclass(frozen=True)
class InstalledKernel:
    """A kernel spec of cetool's."""

    name: str
    directory: Path
    #: What the user is shown.
    display_name: str
    #: What it starts.
    argv: tuple[str, ...]
    #: What it is for.
    source: KernelSource


def user_directory() -> Path:
    """Where Jupyter looks for this user's kernels."""
    from jupyter_core.paths import jupyter_data_dir

    return Path(jupyter_data_dir()) / "kernels"


def prefix_directory(prefix: str) -> Path:
    """Where the Jupyter that is installed at a prefix looks for kernels."""
    return Path(os.path.abspath(os.path.expanduser(prefix))) / "share" / "jupyter" / "kernels"


def searched_directories() -> list[Path]:
    """Where Jupyter looks for kernels, the first one first."""
    from jupyter_core.paths import jupyter_path

    return list(dict.fromkeys([*map(Path, jupyter_path("kernels")), user_directory()]))


def installed_kernels(directories: Sequence[Path]) -> list[InstalledKernel]:
    """The kernels of cetool's in these directories, by name."""
    found = [
        kernel
        for directory in directories
        for file in directory.glob("*/kernel.json")
        if (kernel := _read(file)) is not None
    ]
    return sorted(found, key=lambda kernel: (kernel.name, str(kernel.directory)))


def _read(file: Path) -> InstalledKernel | None:
    """The kernel spec in a file; None for one that cetool did not write."""
    try:
        data = read_json(file, KERNEL)
        source = decode(KernelSource, data["metadata"][KEY])
        argv = tuple(map(str, data["argv"]))
        return InstalledKernel(file.parent.name, file.parent, str(data["display_name"]), argv, source)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def check_name(name: str) -> str:
    """A kernel's name as Jupyter has it, in lower case. Raises UsageError for what it does not take."""
    if not _NAME.fullmatch(name.lower()) or name in (".", ".."):
        raise UsageError(
            f"{name!r} cannot be the name of a kernel",
            hint="It has letters, digits, dots, underscores and dashes: --display-name is for people.",
        )
    return name.lower()


def install_kernel(
    directory: Path, name: str, display_name: str, source: KernelSource, *, force: bool
) -> InstalledKernel:
    """Write a kernel spec, in place of one of cetool's of that name; with ``force`` in place of any.

    Raises UsageError for a kernel that somebody else wrote, CetoolError where the file cannot be written.
    """
    place = directory / name
    file = place / "kernel.json"
    old = read_if_there(file) if file.is_file() else None
    if os.path.lexists(file) and _read(file) is None and not force:
        raise UsageError(
            f"there is a kernel {name!r} already that cetool did not write",
            hint=f"Take another --name, or replace it by --force: {file}",
        )
    argv = [*_own_command(), "kernel", "start", "--connection-file", "{connection_file}", *source.words()]
    document = {
        "argv": argv,
        "display_name": display_name,
        "language": _WRITTEN.get(source.language, source.language),
        "interrupt_mode": "signal",
        "metadata": {**({"debugger": True} if source.language == "python" else {}), KEY: encode(source, schema=SCHEMA)},
    }
    try:
        place.mkdir(parents=True, exist_ok=True)
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        replace_file(file, old, text.encode(), mode=0o644)
    except OSError as error:
        raise CetoolError(
            f"the kernel cannot be written: {error.strerror or error}",
            code="write-failed",
            where=Location(str(file)),
            hint="--prefix names another place, or JUPYTER_DATA_DIR.",
        ) from None
    return InstalledKernel(name, place, display_name, tuple(argv), source)


def remove_kernel(kernel: InstalledKernel) -> None:
    """Take a kernel's directory away. Raises CetoolError."""
    try:
        if kernel.directory.is_symlink():
            kernel.directory.unlink()
        else:
            shutil.rmtree(kernel.directory)
    except OSError as error:
        raise CetoolError(
            f"the kernel cannot be removed: {error.strerror or error}",
            code="write-failed",
            where=Location(str(kernel.directory)),
        ) from None


def _own_command() -> list[str]:
    """What starts this cetool, wherever it is started from: the executable that was called, else the one beside us."""
    called = os.path.abspath(sys.argv[0])
    beside = os.path.join(sysconfig.get_path("scripts"), "cetool.exe" if os.name == "nt" else "cetool")
    for path in (called, beside):
        if (
            os.path.basename(path).removesuffix(".exe") == "cetool"
            and os.access(path, os.X_OK)
            and os.path.isfile(path)
        ):
            return [path]
    return own_program()
