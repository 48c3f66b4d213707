"""Scripts, baselines and bases that use an environment of a server by its name.

The name means the build that is current when the server is asked: by a cold run, at least once an hour. Without the
server the last answer counts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace

from cetool.app.answering import Answer, access_to, known_answers
from cetool.app.consent import consent_to
from cetool.app.decision import Decision, Subject, Wish
from cetool.app.reporting import Reporter
from cetool.app.sources import Source
from cetool.app.world import NOTHING, Evidence, World
from cetool.base.codec import decode, encode
from cetool.base.durations import format_duration
from cetool.base.errors import CetoolError, LockError, MetadataError, UsageError
from cetool.base.limits import parse_json
from cetool.base.values import Value
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.match_specs import spec_name
from cetool.declare.metadata import ScriptMetadata, choose_program
from cetool.declare.named import Named, parse_named
from cetool.declare.requirements import SERVER, Requirements
from cetool.lock.model import Lock
from cetool.remote.answers import answer_key
from cetool.remote.connection import Access, Connection, Patience
from cetool.remote.environments import Found, find_named, kept_named
from cetool.remote.pinned import Pinned, pinned_servers, unknown_server
from cetool.remote.records import payload_of
from cetool.remote.verifying import lacking

_NO_SERVER = "`cetool login URL` adds a server."


class OnServer(Value):
    """An environment that was found on a server."""

    found: Found
    access: Access
    #: What the answer depends on.
    evidence: Evidence = NOTHING


def with_environment(needs: Requirements, wish: Wish) -> Requirements:
    """Return the requirements with the environment of ``--env`` in place of packages. Raises UsageError."""
    others = {
        "--with": wish.extra,
        "--env-file": wish.env_file,
        "--lock-file": wish.lock.file,
        "--exclude-newer": wish.exclude_newer,
        "--baseline": wish.baselines.named,
        "--base": wish.base,
        "--overlay": wish.overlay,
    }
    given = next((option for option, value in others.items() if value), None)
    if given is not None:
        raise UsageError(
            f"--env and {given} cannot be used together",
            hint="To add packages to an environment of a server, use `--baseline server:NAMESPACE/NAME --with SPEC`.",
        )
    assert wish.environment is not None
    try:
        named = parse_named(wish.environment)
    except MetadataError as error:
        raise error.turned_into(UsageError, where=None) from None
    return Requirements(variables=needs.variables, warnings=needs.warnings, environment=str(named))


def in_named(metadata: ScriptMetadata, source: Source, wish: Wish, world: World, reporter: Reporter) -> Decision:
    """Decide on the environment of a server that a script, or ``--env``, names. Raises CetoolError."""
    needs, script = metadata.requirements, source.script
    assert needs.environment is not None
    named = parse_named(needs.environment)
    agreed = consent_to(Subject(source, metadata, unasked=wish.unasked), world, reporter)
    here = find_on_servers(named, world, reporter)
    record, access = here.found.record, here.access
    _check_python(needs, here, metadata, source)
    if metadata.chosen in ("packages", "nothing"):
        asked = Requirements(packages=record.spec.packages, pypi=record.spec.pypi)
        metadata = metadata.run_by(choose_program(script, asked))
    return Decision(
        metadata,
        spec_of(here, needs),
        source,
        locked_by=f"build {here.found.build} of {named.place} on {access.shown}",
        unasked=wish.unasked,
        agreed=agreed,
        named=answer_of(here, world, reporter),
        purpose=f"for {script.name}",
    ).on(world.evidence, here.evidence)


def answer_of(here: OnServer, world: World, reporter: Reporter) -> Answer:
    return Answer(here.found.record, here.access, world, reporter, insists=True, number=here.found.build)


def spec_of(here: OnServer, needs: Requirements) -> EnvironmentSpec:
    """Return the specification of exactly the packages of a build, with the variables of both."""
    record = here.found.record
    variables = tuple(sorted({**dict(record.spec.variables), **dict(needs.variables)}.items()))
    return record.spec._replace(variables=variables).exactly(record.conda, record.pypi)


def _check_python(needs: Requirements, here: OnServer, metadata: ScriptMetadata, source: Source) -> None:
    """Raise MetadataError if the script needs another python than the environment has."""
    specs = [spec for spec in needs.packages if spec_name(spec) == "python" and spec != "python"]
    if not specs:
        return
    from rattler import MatchSpec  # few scripts ask for a version

    from cetool.lock.records import fits

    python = next((each for each in here.found.record.conda if each.name == "python"), None)
    wrong = next((spec for spec in specs if python is None or not fits(MatchSpec(spec), spec, python)), None)
    if wrong is not None:
        has = "no python" if python is None else f"python {python.version}"
        raise MetadataError(
            f"the environment {needs.environment} has {has}, and the script asks for {wrong!r}",
            code="baseline-conflict",
            where=source.script.at(None if metadata.lines is None else metadata.lines[0]),
        )


# --- finding ----------------------------------------------------------------------------------------------------------


def servers(world: World, wanted: str | None = None) -> Sequence[Pinned]:
    """Return the servers to ask by name: the wanted one, else those of the settings. Raises CetoolError for none."""
    known = pinned_servers(world.environ)
    urls = (wanted.rstrip("/"),) if wanted is not None else world.settings.servers or ()
    if not urls:
        raise CetoolError("no server is configured", code="server-unknown", hint=_NO_SERVER)
    found = []
    for url in urls:
        pinned = known.find(url)
        if pinned is None:
            raise unknown_server(url)
        found.append(pinned)
    return found


def find_on_servers(named: Named, world: World, reporter: Reporter, platform: str | None = None) -> OnServer:
    """Return what a name means on the first server that has it. Raises CetoolError.

    If the server cannot be reached, its last answer counts.
    """
    known, platform = known_answers(world), platform or world.platform
    missing: CetoolError | None = None
    for pinned in servers(world):
        access = access_to(pinned, world)
        path = known.answers.path(answer_key(pinned.url, platform, f"name:{named}"))
        try:
            found = _asked(pinned, access, named, platform, world, reporter)
        except CetoolError as error:
            if error.code not in ("not-found", "environment-not-found", "not-allowed", "server-unreachable"):
                raise
            if error.code == "not-found":
                what = f"{pinned.shown} has no environment {named}, or does not show it to you"
                error = error.but(message=what, code="environment-not-found")
            elif error.code != "server-unreachable":
                error = error.but(message=f"{pinned.shown}: {error.message}", code="environment-not-found")
            missing = missing or error
            continue
        if platform == world.platform and (needs := lacking(found.record, (), world.engine_environ)):
            raise CetoolError(
                f"build {found.build} of {named.place} needs {needs}, which this machine lacks",
                code="platform-mismatch",
                about=str(named),
            )
        # a name can move: a cold run asks again after an hour
        evidence = NOTHING if named.build is not None else Evidence(stamp=os.fsencode(path))
        return OnServer(found, access, evidence)
    assert missing is not None
    raise missing


def _asked(pinned: Pinned, access: Access, named: Named, platform: str, world: World, reporter: Reporter) -> Found:
    known = known_answers(world)
    last = kept_named(pinned, named, platform, known)
    if named.build is not None and last is not None:
        return last  # a build never changes
    if world.offline or known.failed(pinned.url):
        if last is not None:
            return last
        if world.offline:
            raise LockError(
                f"{named} is on {pinned.shown}, and --offline forbids asking it",
                code="offline-missing",
                hint="Run once without --offline.",
            )
    try:
        # with an answer at hand nothing is lost
        patience = access.patience if last is None else Patience(connect=1.0, answer=10.0)
        with Connection(replace(access, patience=patience)) as connection:
            return find_named(connection, pinned, named, platform, known)
    except CetoolError as error:
        if error.code != "server-unreachable" or last is None:
            raise
        known.note_failure(pinned.url)
        age = time.time() - os.stat(known.answers.path(answer_key(pinned.url, platform, f"name:{named}"))).st_mtime
        reporter.warn(f"{error.message}; using build {last.build} of {named.place} from {format_duration(age)} ago")
        return last


# --- baselines --------------------------------------------------------------------------------------------------------


class _Kept(Value):
    """What a baseline's content is: a build of a server, and its signed record."""

    server: str
    build: int
    envelope: str


def fetch_baseline(named: str, world: World, reporter: Reporter, platform: str) -> bytes:
    """Return the content of the baseline ``server:NAMESPACE/NAME`` for a platform. Raises CetoolError."""
    here = find_on_servers(parse_named(named.removeprefix(SERVER)), world, reporter, platform)
    kept = _Kept(here.access.url, here.found.build, here.found.envelope)
    return json.dumps(encode(kept)).encode()


def lock_in_baseline(data: bytes, shown: str) -> Lock:
    """Return the packages in the content of such a baseline. Raises MetadataError."""
    try:
        record = payload_of(decode(_Kept, parse_json(data)).envelope)
    except (ValueError, KeyError, TypeError) as error:
        raise MetadataError(f"{shown} is malformed: {error}", code="baseline-invalid") from None
    return Lock((record.lock,), record.spec.channels)


def answer_in_baseline(data: bytes, world: World, reporter: Reporter) -> Answer | None:
    """Return where the packages of such a baseline come from; None if its server is not known any more."""
    kept = decode(_Kept, parse_json(data))
    pinned = pinned_servers(world.environ).find(kept.server)
    if pinned is None:
        return None
    access = access_to(pinned, world)
    return Answer(payload_of(kept.envelope), access, world, reporter, insists=True, number=kept.build)
