"""Kernels for Jupyter whose environments are created when they are first started."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from cetool.app.consent import consent_to
from cetool.app.deciding import decide, specify
from cetool.app.decision import Decision, Wish
from cetool.app.ensuring import activation_of, ensure, note_used
from cetool.app.environments import place_of, requirements_of
from cetool.app.reporting import Reporter, SilentReporter, named_or_counted
from cetool.app.sources import open_source
from cetool.app.world import World
from cetool.base.errors import CetoolError, ScriptNotFoundError, UsageError
from cetool.base.text import printable
from cetool.declare.dialects.notebook import KERNEL_PACKAGES, with_kernel
from cetool.declare.languages import language_of
from cetool.declare.match_specs import spec_name
from cetool.declare.metadata import ScriptMetadata
from cetool.declare.requirements import Requirements
from cetool.declare.source import Script
from cetool.launch.kernels import (
    InstalledKernel,
    KernelSource,
    check_name,
    find_kernel,
    install_kernel,
    installed_kernels,
    kernel_command,
    prefix_directory,
    remove_kernel,
    searched_directories,
    user_directory,
)
from cetool.launch.process import exec_command

#: Languages of scripts by the package that runs them.
_RUN_BY = {"python": "python", "r-base": "r", "bash": "bash"}


@dataclass(frozen=True, slots=True)
class KernelWish:
    """How a kernel is installed for Jupyter."""

    #: Its name in Jupyter; None for the script's name.
    name: str | None
    display_name: str | None
    #: The prefix of the Jupyter that it is for; None for the user's kernels.
    prefix: str | None
    #: Whether to replace a kernel that cetool did not write.
    force: bool
    #: Whether to create its environment now.
    create: bool


def install(source: KernelSource, wish: KernelWish, world: World, reporter: Reporter) -> None:
    """Write a kernel spec that starts through cetool. Raises CetoolError."""
    if wish.name is None and source.script is None:
        raise UsageError("the kernel has no name", hint="Pass `--name NAME`.")
    chosen = check_name(wish.name or ("" if source.script is None else source.script.stem))
    source, decision = _decided(source, world, reporter)
    directory = user_directory() if wish.prefix is None else prefix_directory(wish.prefix)
    shown = wish.display_name or f"{wish.name or chosen} (cetool)"
    installed = install_kernel(directory, chosen, shown, source, force=wish.force)
    reporter.say(f"Wrote {installed.directory / 'kernel.json'}")
    if wish.create:
        lease = ensure(decision._replace(purpose=f"for the kernel {chosen}"), world, reporter)
        note_used(lease, f"kernel {chosen}", world, reporter)
        lease.release()
        find_kernel(lease.prefix, source.language)


def start(
    source: KernelSource, connection_file: str, arguments: Sequence[str], world: World, reporter: Reporter
) -> NoReturn:
    """Become the kernel that Jupyter starts. Raises CetoolError."""
    source, decision = _decided(source, world, reporter)
    of = source.script or source.env_file or ",".join(map(spec_name, decision.requirements.packages))
    label = f"kernel {of}"
    consent = consent_to(decision, world, reporter)
    lease = ensure(decision._replace(purpose=f"for the {label}"), world, reporter, consent=consent)
    note_used(lease, label, world, reporter)
    kernel = find_kernel(lease.prefix, source.language, decision.metadata.kernel)
    activation = activation_of(lease, world, decision.metadata.dialect)
    command = kernel_command(kernel, activation, world.environ, connection_file, arguments)
    exec_command(command, consent, keep=tuple(lock.fd for lock in lease.locks))


def _decided(source: KernelSource, world: World, reporter: Reporter) -> tuple[KernelSource, Decision]:
    """Return the source with its language, and its environment, which includes a kernel.

    That is the environment of the script's lock, unless a kernel has to be added to what the script declares.
    """
    decision: Decision | None = None
    if source.script is None:
        if bool(source.specs) == (source.env_file is not None):
            raise UsageError(
                "no packages were named for the kernel's environment"
                if not source.specs
                else "--spec and --env-file cannot be used together",
                hint="Run `cetool kernel install SCRIPT` or `cetool kernel install --spec SPEC --name NAME`.",
            )
        files = [] if source.env_file is None else [source.env_file]
        needs = requirements_of([*source.specs, *source.extra], files)
        metadata = ScriptMetadata("kernel", "", None, needs, None)
        language = _language_of_packages(needs)
    else:
        if source.specs:
            raise UsageError(
                "a script and --spec cannot be used together",
                hint="`--with SPEC` adds packages to those that a script declares.",
            )
        script, world = open_source(str(source.script), world, reporter)
        decision = decide(script, Wish(extra=source.extra, env_file=source.env_file), world, reporter)
        metadata = decision.metadata
        language = metadata.language or _language_of_script(script.script, metadata.requirements)
    language = metadata.language or (source.language or language).lower()
    if language not in KERNEL_PACKAGES and metadata.language is None:
        raise UsageError(
            f"there is no kernel for the language {printable(language)!r}",
            hint=f"Languages are {', '.join(KERNEL_PACKAGES)}.",
        )
    requirements, added = with_kernel(metadata.requirements, language)
    metadata = metadata._replace(requirements=requirements)
    if decision is None or added:
        decision = Decision(metadata, specify(requirements, world)[0])
    return replace(source, language=language), decision._replace(metadata=metadata)


def _language_of_packages(needs: Requirements) -> str:
    """Return the language of an environment: that of its kernel, else R if it has R and no Python, else Python."""
    names = {spec_name(package) for package in needs.packages}
    named = next((language for language, known in KERNEL_PACKAGES.items() if names & set(known)), None)
    return named or ("r" if "r-base" in names and "python" not in names else "python")


def _language_of_script(script: Script, needs: Requirements) -> str:
    return _RUN_BY.get(language_of(script).package or "", "") or _language_of_packages(needs)


@dataclass(frozen=True, slots=True)
class ListedKernel:
    """A kernel that cetool starts, and its environment."""

    kernel: InstalledKernel
    #: Where the environment is, or would be; None if that is unknown.
    prefix: Path | None
    exists: bool
    #: Why the kernel cannot start.
    problem: str | None


def list_kernels(world: World) -> list[ListedKernel]:
    """Return the kernels that cetool starts. Warnings about their scripts are left to their start."""
    return [_listed(kernel, world, SilentReporter()) for kernel in installed_kernels(searched_directories())]


def _listed(kernel: InstalledKernel, world: World, reporter: Reporter) -> ListedKernel:
    place, problem = None, None
    try:
        place = place_of(_decided(kernel.source, world, reporter)[1].spec, world)
    except ScriptNotFoundError:
        problem = "its script no longer exists"
    except CetoolError as error:
        problem = str(error)
    if problem is None and not os.access(kernel.argv[0], os.X_OK):
        problem = f"{kernel.argv[0]} no longer exists"
    if place is None:
        return ListedKernel(kernel, None, False, problem)
    return ListedKernel(kernel, place.prefix, place.exists, problem)


def remove(names: Sequence[str], reporter: Reporter) -> None:
    """Remove kernels that cetool wrote. Raises UsageError, before it removes any, for a name that does not exist."""
    kernels = installed_kernels(searched_directories())
    wanted: list[InstalledKernel] = []
    for name in dict.fromkeys(map(str.lower, names)):
        found = [kernel for kernel in kernels if kernel.name.lower() == name]
        if not found:
            known = ", ".join(kernel.name for kernel in kernels)
            raise UsageError(
                f"there is no kernel {printable(name)!r} that cetool wrote, so nothing was removed",
                hint=f"Kernels are {known}."
                if known
                else "`jupyter kernelspec list` shows the kernels of other programs.",
            )
        wanted += found
    for kernel in wanted:
        remove_kernel(kernel)
    reporter.say(f"Removed {named_or_counted([str(kernel.directory) for kernel in wanted], 'kernel')}")
