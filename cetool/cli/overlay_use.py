"""``cetool overlay remove``, ``export``, ``freeze``, ``activate``: what is done with an overlay that there is."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from cetool.app.execution import RunOptions, activation_of, note, read_declaration
from cetool.app.exporting import Found, write_output, written
from cetool.app.overlaying import overlay_environment, overlays_of
from cetool.app.recording import find_origins
from cetool.app.session import Session
from cetool.app.sources import open_source
from cetool.base.durations import format_size
from cetool.base.errors import CetoolError, StoreError, UsageError
from cetool.cli import options
from cetool.cli.environments import remove_directory
from cetool.cli.options import option
from cetool.cli.output import print_data
from cetool.cli.overlays import Which, app, found_overlay, layers_of, requirements_of_recipe
from cetool.cli.reproducing import Format
from cetool.declare.environment import EnvironmentSpec, Solve
from cetool.declare.platforms import current_platform
from cetool.lock.model import Lock
from cetool.overlays.freeze import freeze_text
from cetool.overlays.recipe import Recipe, recipe_text
from cetool.overlays.store import Overlays, RecipeChangedError, is_overlay_in_use
from cetool.store.disk import Freed
from cetool.store.store import Directory, Lease

__all__ = ["app"]


@dataclass(frozen=True)
class RemoveOptions(options.Output, options.Overlays):
    """The options of ``cetool overlay remove``."""


@app.command()
@options.command
def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="The overlays to remove.")], *, given: RemoveOptions
) -> None:
    """Remove overlays, unless something runs in them. The base is not touched."""
    session = options.open_session(given)
    overlays = overlays_of(session)
    failed: list[CetoolError] = []
    for name in names:
        try:
            recipe = overlays.recipe(name)
            shared = any(other.name != name and other.directory == recipe.directory for other in overlays.named())
            directory = Directory(Path(recipe.directory), Path(recipe.directory).name.partition("-")[0])
            size = 0
            if recipe.directory and directory.prefix.is_dir() and not shared:
                if is_overlay_in_use(directory.prefix):
                    raise StoreError(
                        f"the overlay {name} is in use",
                        code="environment-in-use",
                        hint="End what runs in it, or leave the shells that it is active in.",
                    )
                size = remove_directory(overlays.store(recipe.base), directory, session, Freed())
            overlays.forget(recipe)
            session.voice.result(f"Removed {name}: freed {format_size(size)}")
        except CetoolError as error:
            failed.append(error)
    for told in failed[:-1]:
        session.voice.warn(str(told))
    if failed:
        raise failed[-1]


@dataclass(frozen=True)
class ExportOptions(options.Overlays):
    """The options of ``cetool overlay export``."""


@app.command()
@options.command
def export(which: Which, *, given: ExportOptions) -> None:
    """Print the recipe, as `cetool overlay create --file` and a script's block take it."""
    session = options.open_session(given)
    item = found_overlay(which, session)
    print_data(recipe_text(item.name, item.base, item.entries, item.conda, layers_of(item)).rstrip("\n") + "\n")


@dataclass(frozen=True)
class FreezeOptions(options.Overlays):
    """The options of ``cetool overlay freeze``."""

    format: Annotated[Format, option("--format", help="How the packages are written down.")] = Format.CONDA_LOCK
    output: Annotated[
        Path | None, option("-o", "--output", metavar="FILE", help="Write to a file, not to standard output.")
    ] = None


@app.command()
@options.command
def freeze(which: Which, *, given: FreezeOptions) -> None:
    """Write down base and overlay as one ordinary environment, every package exact: the base's next release."""
    session = options.open_session(given)
    item = found_overlay(which, session)
    if item.directory is None:
        raise StoreError(
            f"the overlay {which} is not made, so its versions are not known",
            code="lock-impossible",
            hint="Run it once.",
        )
    name, base = item.name or os.path.basename(item.base), Path(item.base)
    if given.format is Format.ENVIRONMENT:
        text = freeze_text(name, base, item.directory.prefix)
    else:
        text = _locked(name, base, item.directory, given.format, session)
    if given.output is None:
        print_data(text)
    else:
        write_output(given.output, text)


def _locked(name: str, base: Path, directory: Directory, format: Format, session: Session) -> str:
    from cetool.overlays.freeze import freeze_lock

    spec = directory.marker.spec if directory.marker is not None else EnvironmentSpec(Solve())
    installed = find_origins(session, base, freeze_lock(base, directory.prefix, current_platform()), spec)
    if installed.unknown:
        names = ", ".join(f"{each.name} {each.version}" for each in installed.unknown)
        raise StoreError(
            f"where {names} was installed from is not known, so it cannot be locked",
            code="lock-impossible",
            hint="A directory or a checkout can be made a wheel; --format environment-yml lists versions alone.",
        )
    channels = tuple(dict.fromkeys(package.url.rsplit("/", 2)[0] for package in installed.lock.conda if package.url))
    return written(format.value, Found(Lock((installed.lock,), channels), name, spec.variables), session)


@dataclass(frozen=True)
class ActivateOptions(options.Overlays):
    """The options of ``cetool overlay activate``."""

    shell: Annotated[
        str | None, option("--shell", metavar="SHELL", help="bash, zsh or fish; else the one that calls.")
    ] = None
    keep: options.Keep = False
    quiet: options.Quiet = False
    offline: options.Offline = False


@app.command()
@options.command
def activate(which: Which, *, given: ActivateOptions) -> None:
    """Print what activates an overlay in this shell: eval "$(cetool overlay activate NAME)"."""
    from cetool.launch.activation import activated_environ
    from cetool.launch.children import sourced_environ
    from cetool.launch.shells import ShellChange, shell_code
    from cetool.warm.environ import scripts_in

    kind = _shell(given.shell)
    session = options.open_session(given)
    overlays = overlays_of(session)
    lease = _lease(which, session, overlays, keep=given.keep)
    consent = session.consent()
    activation = activation_of(lease, session)
    environ, steps = activated_environ(activation, session.environ)
    if kind == "fish":
        environ, steps = sourced_environ(steps, environ, consent), ()
    label = which if overlays.has(which) else Path(which).name
    ending = tuple(scripts_in(str(activation.prefix), "deactivate.d"))
    change = ShellChange(session.environ, environ, steps, ending, label)
    note(session, lease, f"overlay {label}")
    lease.release()
    print_data(shell_code(kind, change))


@app.command()
def deactivate() -> None:
    """Print what undoes it: eval "$(cetool overlay deactivate)"."""
    from cetool.launch.shells import UNDO

    print_data(f"{UNDO}\n")


def _lease(which: str, session: Session, overlays: Overlays, *, keep: bool) -> Lease:
    recipe: Recipe | None = None
    spec: EnvironmentSpec
    if not overlays.has(which) and (os.sep in which or os.path.isfile(which)):
        _, spec = read_declaration(open_source(which, session), session, RunOptions())
        if spec.overlay is None:
            raise StoreError(f"{which} names no base, so nothing lies over one", code="base-unusable")
    else:
        recipe = overlays.recipe(which)
        spec = session.spec_of(requirements_of_recipe(recipe))
    lease = overlay_environment(session, spec, refresh=False, keep=keep, purpose=f"for the overlay {which}")
    if recipe is not None and recipe.directory != str(lease.prefix):
        with contextlib.suppress(RecipeChangedError):  # whoever changed it lays it anew
            overlays.write(replace(recipe, directory=str(lease.prefix)), recipe)
    return lease


def _shell(named: str | None) -> str:
    """The shell to write for: the one named, else the one that calls, else the user's, else bash."""
    from cetool.launch.shells import SHELLS

    if named is not None:
        if named not in SHELLS:
            raise UsageError(f"--shell must be one of {', '.join(SHELLS)}, not {named!r}")
        return named
    import psutil

    try:
        calling = psutil.Process(os.getppid()).name()
    except psutil.Error:
        calling = ""
    for candidate in (calling, os.path.basename(os.environ.get("SHELL", ""))):
        if candidate in SHELLS:
            return candidate
    return "bash"
