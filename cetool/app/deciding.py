"""Decides which environment a script, or requirements, get."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cetool.app.decision import Decision, Wish, refuse_overlay
from cetool.app.reporting import Reporter, flow
from cetool.app.sources import Source
from cetool.app.world import NOTHING, Evidence, World, seen_files
from cetool.base.durations import cutoff
from cetool.base.errors import MetadataError, UsageError
from cetool.base.process import Consent
from cetool.base.text import pattern
from cetool.base.urls import strip_credentials
from cetool.declare.blocks import find_block
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.match_specs import canonical_spec
from cetool.declare.metadata import NO_INTERPRETER, ScriptMetadata, metadata_from_file, read_metadata, shell_choice
from cetool.declare.requirements import SERVER, Requirements
from cetool.lock import EMBEDDED_MARK, lock_paths

_OVERRIDE = pattern(r"CONDA_OVERRIDE_([A-Z][A-Z0-9_]*)\Z")


def decide(source: Source, wish: Wish, world: World, reporter: Reporter) -> Decision:
    """Decide which environment a script gets, with what the command line adds.

    Raises LockError if a required lock cannot be used, and CetoolError for what cannot be read.
    """
    own = _declared(source, wish, world)
    metadata = _with_shell(own._replace(requirements=_with_wish(own.requirements, wish)), source, wish)
    needs, name = metadata.requirements, source.script.name
    for warning in needs.warnings:
        reporter.warn(str(warning))
    insists = world.settings.locked or world.settings.frozen
    if wish.lock.file is not None or insists:
        refuse_overlay(needs, name, "overlays cannot be locked")
    if needs.baselines:
        refuse_overlay(needs, name, "overlays cannot start from a baseline")
    if wish.exclude_newer is not None:
        refuse_overlay(needs, name, "--exclude-newer does not apply to overlays")
    if needs.environment is not None:
        from cetool.app.named import in_named  # few scripts run in an environment of a server

        return in_named(metadata, source, wish, world, reporter)
    agreed: Consent | None = None
    moving = NOTHING
    if needs.overlay is not None and needs.overlay.base.startswith(SERVER):
        from cetool.app.named_base import with_server_base  # few bases are environments of a server

        metadata, agreed, moving = with_server_base(metadata, source, wish, world, reporter)
        needs = metadata.requirements
    spec, evidence = specify(needs, world, exclude_newer=wish.exclude_newer)
    decision = Decision(metadata, spec, source, unasked=wish.unasked, agreed=agreed, purpose=f"for {name}")
    decision = decision.on(world.evidence, evidence, moving)
    if needs.overlay is not None:
        return decision
    locks = _lock_evidence(source, wish)
    decision = decision.on(locks)
    if not wish.lock.ignored and (insists or _may_be_locked(source, wish, locks)):
        from cetool.app.locked import locked  # few scripts have a lock

        decision = locked(decision, own.requirements, _additions(wish, world), wish, world, reporter)
    if decision.locked_by is None and needs.baselines:
        from cetool.app.on_baselines import Terms, on_baselines  # few scripts start from a baseline

        terms = Terms(source.identity, wish.refresh, wish.baselines.insecure)
        decision = on_baselines(decision, terms, world, reporter)
    return decision


def decide_requirements(
    metadata: ScriptMetadata, wish: Wish, world: World, reporter: Reporter, *, purpose: str
) -> Decision:
    """Decide which environment match specs and files on the command line get, without a script.

    Only the date and the baselines of the wish are used.
    """
    spec, evidence = specify(metadata.requirements, world, exclude_newer=wish.exclude_newer)
    decision = Decision(metadata, spec, purpose=purpose).on(world.evidence, evidence)
    if metadata.requirements.baselines:
        from cetool.app.on_baselines import Terms, on_baselines  # few environments start from a baseline

        terms = Terms(refresh=wish.refresh, insecure=wish.baselines.insecure)
        decision = on_baselines(decision, terms, world, reporter)
    return decision


def specify(
    requirements: Requirements, world: World, *, exclude_newer: str | None = None
) -> tuple[EnvironmentSpec, Evidence]:
    """Return the complete specification, with the channels and overrides of this machine; and the evidence for it.

    ``exclude_newer`` is a day, a moment or a span before now, as of which it is solved. Raises UsageError for any other
    text.
    """
    evidence = seen_files(requirements.files)
    if world.channels_given:
        requirements = requirements.plus(Requirements(channels=world.default_channels))
        evidence = evidence.plus(world.on_channels)
    if requirements.overlay is not None:
        from cetool.app.overlaying import overlay_spec  # few environments lie over another

        spec, more = overlay_spec(requirements, world)
    else:
        configured = requirements.needs_configured
        more = world.on_channels if configured else NOTHING
        overrides = [(match[1], value) for name, value in world.environ.items() if (match := _OVERRIDE.match(name))]
        spec = EnvironmentSpec.of(
            requirements,
            default_channels=world.default_channels if configured else (),
            virtual_packages=tuple((f"__{name.lower()}", value) for name, value in overrides),
        )
    return dated(spec, requirements, exclude_newer), evidence.plus(more)


def dated(spec: EnvironmentSpec, requirements: Requirements, exclude_newer: str | None = None) -> EnvironmentSpec:
    """Return the specification as of the moment that the requirements or ``exclude_newer`` name, if any."""
    moment = requirements.exclude_newer
    settings = spec.pypi_settings
    if exclude_newer is not None:
        moment = cutoff(exclude_newer)
        settings = settings._replace(exclude_newer=moment) if spec.pypi else settings
    elif moment is not None and spec.pypi and settings.exclude_newer is None:  # [tool.uv] may have one of its own
        settings = settings._replace(exclude_newer=moment)
    if moment is not None:
        spec = spec._replace(exclude_newer=moment, pypi_settings=settings)
    return spec


def _declared(source: Source, wish: Wish, world: World) -> ScriptMetadata:
    """Read what the script declares, else its environment file; one without a block is described by the wish."""
    if wish.env_file is None:
        if wish.base is not None and find_block(source.script) is None:
            return metadata_from_file(source.script, Requirements())
        try:
            return read_metadata(source.script)
        except MetadataError as error:
            # a line means that there is something that was meant for a block
            no_block = error.code == "block-missing" and (error.where is None or error.where.line is None)
            if not no_block or not wish.describes_environment:
                raise
        from cetool.app.undeclared import undeclared_metadata  # few scripts have no block

        return undeclared_metadata(source.script, wish)
    block = find_block(source.script)
    if block is not None:
        raise UsageError(
            f"--env-file is for scripts without a block, and {source.script.name} has one "
            f"(lines {block.first} to {block.last})",
            hint="Leave --env-file out; `--with SPEC` adds single packages.",
        )
    from cetool.declare.dialects.environment_yml import read_environment_file

    return metadata_from_file(source.script, read_environment_file(wish.env_file, world.platform))


def _with_wish(needs: Requirements, wish: Wish) -> Requirements:
    """Add what the command line asks for to the requirements."""
    if wish.environment is not None:
        from cetool.app.named import with_environment  # few command lines name one

        needs = with_environment(needs, wish)
    if wish.baselines.named or wish.baselines.without:
        from cetool.app.on_baselines import with_baselines  # few command lines name a baseline

        needs = with_baselines(needs, wish.baselines)
    if wish.base is not None or wish.overlay:
        from cetool.app.overlaying import with_overlay  # few command lines name a base

        needs = with_overlay(needs, wish.base, wish.overlay)
    if not wish.extra:
        return needs
    more = canonical_requirements(wish.extra)
    if needs.overlay is None:
        return needs.plus(more)
    from cetool.app.overlaying import add_conda  # few environments lie over another

    return add_conda(needs, more.packages)


def canonical_requirements(texts: Sequence[str]) -> Requirements:
    """Return match specs of the command line as requirements."""
    return Requirements(packages=tuple(canonical_spec(text, base_dir=os.getcwd()) for text in texts))


def _with_shell(metadata: ScriptMetadata, source: Source, wish: Wish) -> ScriptMetadata:
    """Have ``/bin/sh`` run a script that conda-execute ran by it.

    For conda-execute that is any script that names no program; for cetool a script that was typed (as lines or on
    standard input) and whose packages include no interpreter.
    """
    typed = source.data is not None and source.remote is None
    if metadata.language is not None or metadata.chosen not in ("packages", "nothing"):
        return metadata
    if wish.original or (typed and metadata.undecided == NO_INTERPRETER):
        return metadata.run_by(shell_choice(source.script))
    return metadata


def _additions(wish: Wish, world: World) -> tuple[str, ...]:
    """Return the names of the options that add to what the script declares."""
    options = {
        "--with": wish.extra,
        "--channel": world.channels_given,
        "--exclude-newer": wish.exclude_newer,
        "--baseline": wish.baselines.named,
        "--without": wish.baselines.without,
    }
    return tuple(option for option, given in options.items() if given)


def _lock_evidence(source: Source, wish: Wish) -> Evidence:
    """Return the states of the files that can be the script's lock, before they are read."""
    if source.data is not None or wish.lock.file is not None:
        return NOTHING
    return seen_files([str(path) for path in lock_paths(source.script.path)])


def _may_be_locked(source: Source, wish: Wish, locks: Evidence) -> bool:
    """Return whether there is anything that can be the script's lock."""
    there = any(state != b"-" for state in locks.files.values()) or any(map(os.path.islink, locks.files))
    return there or wish.lock.file is not None or EMBEDDED_MARK in source.script.text


def specification(decision: Decision, prefix: Path) -> str:
    """Return what ``-v`` prints before the script runs, in the form of conda-execute."""
    metadata, needs = decision.metadata, decision.requirements
    over = needs.overlay
    rows: list[tuple[str, str | None]] = [("channels", None if needs.channels is None else flow(needs.channels))]
    if over is None:
        rows.append(("env", flow(needs.packages)))
    else:
        rows += [
            ("base", over.base),
            ("overlay", flow(over.entries)),
            ("conda", flow(over.conda) if over.conda else None),
        ]
    variables = [f"{name}={value}" for name, value in needs.variables]
    rows += [
        ("baseline", flow(list(map(strip_credentials, needs.baselines))) if needs.baselines else None),
        ("without", flow(needs.without) if needs.without else None),
        ("pip", flow(needs.pypi) if needs.pypi else None),
        ("variables", flow(variables) if variables else None),
        ("kernel", metadata.language),
        ("lock", decision.locked_by),
        ("run_with", None if metadata.run_with is None else flow(metadata.run_with)),
        ("entrypoint", metadata.entrypoint),
    ]
    lines = [f"{name}: {text}" for name, text in rows if text is not None]
    return "\n".join(["Using specification: ", *lines, "", f"Prefix: {prefix}", ""])
