"""Scripts that run by conda-script's ``entrypoint``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from cetool import warm
from cetool.app.decision import Decision
from cetool.app.starting import Ready, Start, entrypoint_place, remember, start_of
from cetool.app.world import NOTHING
from cetool.declare.metadata import ScriptMetadata
from cetool.declare.source import Script
from cetool.launch.entrypoint import Entrypoint, EntrypointContext, parse_entrypoint, run_entrypoint, simple_argv
from cetool.launch.process import find_program
from cetool.store.scripts import Held, ScriptStore


def read_entrypoint(metadata: ScriptMetadata, script: Script) -> Entrypoint | None:
    """Return the script's entrypoint, if it has one. Raises MetadataError for an invalid one."""
    if metadata.entrypoint is None:
        return None
    return parse_entrypoint(metadata.entrypoint, entrypoint_place(metadata, script))


def prepare_entrypoint(decision: Decision, arguments: Sequence[str]) -> Callable[[Ready], NoReturn]:
    """Return the function that runs the script in its environment. Raises MetadataError for an invalid entrypoint."""
    assert decision.source is not None
    entry = read_entrypoint(decision.metadata, decision.source.script)
    assert entry is not None
    return partial(_become_entrypoint, entry, arguments)


def _become_entrypoint(entry: Entrypoint, arguments: Sequence[str], ready: Ready) -> NoReturn:
    start = start_of(ready)
    context, cache = context_of(start)
    words = simple_argv(entry, context.script, context.cache)
    if words is not None:
        prefixes = None if Path(words[0]).is_absolute() else ready.lease.prefixes
        remember(start, (find_program(words[0], start.environ, prefixes), *words[1:]), NOTHING, cache)
    run_entrypoint(entry, arguments, context)


def context_of(start: Start) -> tuple[EntrypointContext, Held]:
    """Return what an entrypoint runs in, and the script's cache directory, which the run holds in use."""
    ready = start.ready
    paths, script = ready.world.paths, Path(warm.absolute(start.path))
    cache = ScriptStore(paths.scripts, trust=paths.trusted).hold_cache_dir(script)
    keep = start._replace(held=(*start.held, cache.lock)).descriptors
    prefix = ready.lease.prefix
    return EntrypointContext(start.environ, script, cache.path, prefix, ready.consent, start.steps, keep), cache
