"""Kernels of an environment: which one runs a language, and the command that starts it there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from cetool.errors import CetoolError, ProgramNotFoundError
from cetool.launch.activation import Activation, activated_environ
from cetool.launch.process import Command
from cetool.launch.programs import find_program
from cetool.limits import KERNEL, read_json

#: Of several kernels of a language, the one that is taken.
_USUAL = ("python3", "ir", "bash")


@dataclass(frozen=True)
class Kernel:
    """A kernel spec: its name, the directory of its files, its language in lower case, its command, its variables."""

    name: str
    directory: Path
    language: str
    argv: tuple[str, ...]
    env: Mapping[str, str]


def kernels_of(prefix: Path) -> list[Kernel]:
    """The kernels whose specs lie in the environment, by name; a spec that is damaged is passed over."""
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
        error.hint = f"The kernel {kernel.name} in {kernel.directory} names it."
        raise
    return Command(program, (program, *words[1:], *more), variables, steps)


def is_ipykernel(kernel: Kernel) -> bool:
    """Whether the kernel is IPython's, and takes its options."""
    return any(word in ("ipykernel", "ipykernel_launcher") for word in kernel.argv)
