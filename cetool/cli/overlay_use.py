"""``cetool overlay remove``, ``export``, ``freeze``, ``activate``: what is done with an overlay that there is."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cetool.cache.overlays import Overlays, is_overlay_in_use
from cetool.cache.sizes import Freed
from cetool.cache.store import Directory, Lease
from cetool.cli import options
from cetool.cli.environments import remove_directory
from cetool.cli.execution import RunOptions, activation_of, note, read_declaration
from cetool.cli.output import print_line
from cetool.cli.overlaying import overlay_environment, overlays_of
from cetool.cli.overlays import Which, app, found_overlay, layers_of, overlay_session, requirements_of_recipe
from cetool.cli.session import Session
from cetool.cli.sources import open_source
from cetool.durations import format_size
from cetool.errors import CetoolError, StoreError, UsageError
from cetool.overlays.recipes import Recipe, freeze_text, recipe_text
from cetool.spec.environment import EnvironmentSpec

__all__ = ["app"]


@app.command()
def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="The overlays to remove.")],
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
    trust_cache_dir: options.TrustCacheDir = False,
    overlays_dir: options.OverlaysDir = None,
) -> None:
    """Remove overlays, unless something runs in them. The base is not touched."""
    session = overlay_session(overlays_dir, trust_cache_dir, quiet=quiet, verbose=verbose)
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
                        hint="End what runs in it, or leave the shells that it is active in.",
                    )
                size = remove_directory(overlays.store(recipe.base), directory, session, Freed())
            overlays.forget(name)
            session.voice.result(f"Removed {name}: freed {format_size(size)}")
        except CetoolError as error:
            failed.append(error)
    for told in failed[:-1]:
        session.voice.warn(str(told))
    if failed:
        raise failed[-1]


@app.command()
def export(
    which: Which,
    trust_cache_dir: options.TrustCacheDir = False,
    overlays_dir: options.OverlaysDir = None,
) -> None:
    """Print the recipe, as `cetool overlay create --file` and a script's block take it."""
    session = overlay_session(overlays_dir, trust_cache_dir)
    item = found_overlay(which, session)
    print_line(recipe_text(item.name, item.base, item.entries, item.conda, layers_of(item)).rstrip("\n"))


@app.command()
def freeze(
    which: Which,
    trust_cache_dir: options.TrustCacheDir = False,
    overlays_dir: options.OverlaysDir = None,
) -> None:
    """Print base and overlay as one environment.yml, every version exact: for the next release of the base."""
    session = overlay_session(overlays_dir, trust_cache_dir)
    item = found_overlay(which, session)
    if item.directory is None:
        raise StoreError(f"the overlay {which} is not made, so its versions are not known", hint="Run it once.")
    text = freeze_text(item.name or os.path.basename(item.base), Path(item.base), item.directory.prefix)
    print_line(text.rstrip("\n"))


@app.command()
def activate(
    which: Which,
    shell: Annotated[
        str | None, typer.Option("--shell", metavar="SHELL", help="bash, zsh or fish; else the one that calls.")
    ] = None,
    keep: options.Keep = False,
    quiet: options.Quiet = False,
    offline: options.Offline = False,
    trust_cache_dir: options.TrustCacheDir = False,
    overlays_dir: options.OverlaysDir = None,
) -> None:
    """Print what activates an overlay in this shell: eval "$(cetool overlay activate NAME)"."""
    from cetool.launch.activation import activated_environ
    from cetool.launch.environ import scripts_in
    from cetool.launch.process import sourced_environ
    from cetool.launch.shell_code import Change, shell_code

    kind = _shell(shell)
    session = overlay_session(overlays_dir, trust_cache_dir, quiet=quiet, offline=offline)
    overlays = overlays_of(session)
    lease = _lease(which, session, overlays, keep=keep)
    activation = activation_of(lease)
    environ, steps = activated_environ(activation, session.environ)
    if kind == "fish":
        environ, steps = sourced_environ(steps, environ), ()
    label = which if overlays.has(which) else Path(which).name
    ending = tuple(scripts_in(str(activation.prefix), "deactivate.d"))
    change = Change(session.environ, environ, steps, ending, label)
    note(session, lease, f"overlay {label}")
    lease.release()
    typer.echo(shell_code(kind, change), nl=False)


@app.command()
def deactivate() -> None:
    """Print what undoes it: eval "$(cetool overlay deactivate)"."""
    from cetool.launch.shell_code import UNDO

    typer.echo(UNDO)


def _lease(which: str, session: Session, overlays: Overlays, *, keep: bool) -> Lease:
    recipe: Recipe | None = None
    spec: EnvironmentSpec
    if not overlays.has(which) and (os.sep in which or os.path.isfile(which)):
        _, spec = read_declaration(open_source(which, session), session, RunOptions())
        if spec.overlay is None:
            raise StoreError(f"{which} names no base, so nothing lies over one")
    else:
        recipe = overlays.recipe(which)
        spec = session.spec_of(requirements_of_recipe(recipe))
    lease = overlay_environment(session, spec, refresh=False, keep=keep, purpose=f"for the overlay {which}")
    if recipe is not None and recipe.directory != str(lease.prefix):
        overlays.write(replace(recipe, directory=str(lease.prefix)))
    return lease


def _shell(named: str | None) -> str:
    """The shell to write for: the one named, else the one that calls, else the user's, else bash."""
    from cetool.launch.shell_code import SHELLS

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
