"""Jupyter kernels: find and start those of an environment; install, list and remove cetool's own kernel specs.

A kernel spec of cetool says in its ``metadata`` what it was written for; this also tells it from others.
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

#: The preferred kernels if an environment has several for a language.
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
    """Return the kernels with specs in the environment, sorted by name; damaged specs are skipped."""
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
    """Return the environment's kernel for a language: the named one if it exists, else the preferred one.

    Raises ProgramNotFoundError if the environment has none.
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
        f"environment {prefix} has no kernel for {language}" + (f", only for {others}" if others else ""),
        hint="Declare a package with a kernel: ipykernel for Python, r-irkernel for R, ...",
    )


def kernel_command(
    kernel: Kernel, activation: Activation, environ: Mapping[str, str], connection_file: str, more: Sequence[str] = ()
) -> Command:
    """Return the command that starts the kernel in its activated environment.

    ``environ`` is the caller's environment, ``more`` are further arguments.
    """
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
        raise error.but(hint=f"Kernel {kernel.name!r} in {kernel.directory} starts this program.") from None
    return Command(program, (program, *words[1:], *more), variables, steps)


def is_ipykernel(kernel: Kernel) -> bool:
    """Return whether the kernel is IPython's, and takes its options."""
    return any(word in ("ipykernel", "ipykernel_launcher") for word in kernel.argv)


#: The key in a kernel spec's metadata, and the format of its value.
KEY = "cetool"
SCHEMA = "cetool.kernel/1"
#: Valid kernel names in Jupyter, as a directory and in URLs.
_NAME = re.compile(r"[a-z0-9._-]+")
#: How Jupyter writes languages that are not in lower case.
_WRITTEN = {"r": "R"}


@dataclass(frozen=True)
class KernelSource:
    """What a kernel's environment is made from: a script or match specs, with additions from the command line."""

    language: str
    script: Path | None = None
    specs: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    env_file: Path | None = None

    def words(self) -> list[str]:
        """Return the arguments of ``cetool kernel start``."""
        words = ["--language", self.language]
        for option, values in (("--spec", self.specs), ("--with", self.extra), ("--channel", self.channels)):
            words += [word for value in values for word in (option, value)]
        words += ["--env-file", str(self.env_file)] if self.env_file is not None else []
        return words + (["--script", str(self.script)] if self.script is not None else [])

    @staticmethod
    def json_key(name: str) -> str:
        """Return the key of a field in the kernel spec."""
        return "with" if name == "extra" else name


@dataclass(frozen=True)
class InstalledKernel:
    """A kernel spec written by cetool."""

    name: str
    directory: Path
    #: The name that the user sees.
    display_name: str
    #: The command line that it starts.
    argv: tuple[str, ...]
    #: What its environment is made from.
    source: KernelSource


def user_directory() -> Path:
    """Return where Jupyter looks for this user's kernels."""
    from jupyter_core.paths import jupyter_data_dir

    return Path(jupyter_data_dir()) / "kernels"


def prefix_directory(prefix: str) -> Path:
    """Return where a Jupyter installed at a prefix looks for kernels."""
    return Path(os.path.abspath(os.path.expanduser(prefix))) / "share" / "jupyter" / "kernels"


def searched_directories() -> list[Path]:
    """Return where Jupyter looks for kernels, in order."""
    from jupyter_core.paths import jupyter_path

    return list(dict.fromkeys([*map(Path, jupyter_path("kernels")), user_directory()]))


def installed_kernels(directories: Sequence[Path]) -> list[InstalledKernel]:
    """Return cetool's kernels in these directories, sorted by name."""
    found = [
        kernel
        for directory in directories
        for file in directory.glob("*/kernel.json")
        if (kernel := _read(file)) is not None
    ]
    return sorted(found, key=lambda kernel: (kernel.name, str(kernel.directory)))


def _read(file: Path) -> InstalledKernel | None:
    """Return the kernel spec in a file; None if cetool did not write it."""
    try:
        data = read_json(file, KERNEL)
        source = decode(KernelSource, data["metadata"][KEY])
        argv = tuple(map(str, data["argv"]))
        return InstalledKernel(file.parent.name, file.parent, str(data["display_name"]), argv, source)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def check_name(name: str) -> str:
    """Return a valid kernel name in lower case. Raises UsageError for an invalid one."""
    if not _NAME.fullmatch(name.lower()) or name in (".", ".."):
        raise UsageError(
            f"invalid kernel name {name!r}",
            hint="Use letters, digits, '.', '_' and '-'; the name that users see is --display-name.",
        )
    return name.lower()


def install_kernel(
    directory: Path, name: str, display_name: str, source: KernelSource, *, force: bool
) -> InstalledKernel:
    """Write a kernel spec, replacing one that cetool wrote under that name, or any with ``force``.

    Raises UsageError if another program wrote the existing one, CetoolError if the file cannot be written.
    """
    place = directory / name
    file = place / "kernel.json"
    old = read_if_there(file) if file.is_file() else None
    if os.path.lexists(file) and _read(file) is None and not force:
        raise UsageError(
            f"kernel {name!r} already exists, and cetool did not write it",
            hint=f"Choose another --name, or pass --force to replace {file}.",
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
            f"cannot write the kernel: {error.strerror or error}",
            code="write-failed",
            where=Location(str(file)),
            hint="Choose another directory with --prefix or JUPYTER_DATA_DIR.",
        ) from None
    return InstalledKernel(name, place, display_name, tuple(argv), source)


def remove_kernel(kernel: InstalledKernel) -> None:
    """Remove a kernel's directory. Raises CetoolError."""
    try:
        if kernel.directory.is_symlink():
            kernel.directory.unlink()
        else:
            shutil.rmtree(kernel.directory)
    except OSError as error:
        raise CetoolError(
            f"cannot remove the kernel: {error.strerror or error}",
            code="write-failed",
            where=Location(str(kernel.directory)),
        ) from None


def _own_command() -> list[str]:
    """Return the command that starts this cetool from anywhere: the called executable, else the one in its
    installation.
    """
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
