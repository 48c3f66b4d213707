"""Submit requests: check rights and policies, and have one build for identical requests."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from cetool.base.errors import CetoolError
from cetool.declare.environment import EnvironmentSpec
from cetool.declare.platforms import current_platform
from cetool.lock.model import PlatformLock
from cetool.server.access import Principal, name_checked, require
from cetool.server.data import builds, environments, namespaces
from cetool.server.data.asking import Asked, ask
from cetool.server.data.builds import BuildPlatform, NewBuild
from cetool.server.data.database import now
from cetool.server.data.schema import build, specification
from cetool.server.locked import upload_text
from cetool.server.policies import policy_of
from cetool.server.server import Server
from cetool.server.specifying import (
    Declared,
    check_platforms,
    kind_of,
    platforms_of_lock,
    row_of,
    specifications,
    virtual_packages,
)


@dataclass(frozen=True, slots=True)
class Submission:
    """A request for an environment."""

    namespace: str
    #: The environment's name; None for a build without one.
    name: str | None
    text: str
    by: Principal
    #: One of :data:`cetool.server.data.schema.KINDS`; None to recognize it.
    kind: str | None = None
    #: Empty for the server's default, and for a lock all that it has.
    platforms: tuple[str, ...] = ()
    profile: str = "plain"
    #: None leaves that of an existing environment.
    description: str | None = None
    #: One of :data:`cetool.server.data.schema.ORIGINS`.
    origin: str = "api"
    refresh: bool = False
    filename: str = "<request>"


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a request."""

    build_id: int
    #: Whether there is a new build; otherwise an identical request has one.
    created: bool
    status: str
    #: ``namespace/name``.
    environment: str | None


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A request that has passed all checks."""

    submission: Submission
    platforms: tuple[BuildPlatform, ...]
    row: Mapping[str, object] = field(repr=False)


def submit(server: Server, submission: Submission) -> Submitted:
    """Store a request and return its build, which is an earlier one if that has the same request.

    Raises CetoolError: ``not-allowed``; what is wrong with the text, with its line; ``rate-limited`` if too many builds
    wait, and ``disk-full``.
    """
    declared, specs = _read(server, submission)
    parts = tuple(BuildPlatform(each, spec.digest, spec.as_dict()) for each, spec in specs.items())
    row = row_of(declared, specs, submission.name, submission.description)
    return _ask(server, _Wanted(submission, parts, row))


def check(server: Server, submission: Submission) -> dict[str, EnvironmentSpec]:
    """Return the specification of a request on each platform, without storing it. Raises CetoolError as ``submit``."""
    return _read(server, submission)[1]


def upload(server: Server, submission: Submission, spec: EnvironmentSpec, locks: Sequence[PlatformLock]) -> Submitted:
    """Store a solution that a client found for a specification; the build verifies it by a solve that prefers it.

    Of the submission, the text is not used. Raises CetoolError as :func:`submit`.
    """
    _permit(server, submission)
    if not server.config.upload:
        raise CetoolError(
            "the server does not accept uploads", code="not-allowed", hint="Its operator can set `upload: true`."
        )
    check_platforms([each.platform for each in locks])
    with server.database.read() as tx:
        policy = policy_of(server.config, namespaces.levels(tx, submission.namespace, submission.name or ""))
    policy.check(spec)
    for each in locks:
        policy.check_packages(each.conda, each.pypi)
    declared = Declared("lock", upload_text(locks), submission.filename)
    spec = spec.redacted()
    parts = tuple(BuildPlatform(each.platform, spec.digest, spec.as_dict()) for each in locks)
    row = row_of(declared, {each.platform: spec for each in locks}, submission.name, submission.description)
    return _ask(server, _Wanted(submission, parts, row))


def rebuild(server: Server, number: int, by: Principal) -> int:
    """Solve and build the request of a build again; return the new build.

    Raises CetoolError: ``not-found``, ``not-allowed``.
    """
    with server.database.read() as tx:
        old = builds.get(tx, number)
        parts = builds.platforms_of(tx, number)
        row = tx.execute(sa.select(specification).where(specification.c.id == old.specification_id)).mappings().one()
    submission = Submission(
        *(old.namespace, old.name, row["text"], by), profile=old.profile, origin="rebuild", refresh=True
    )
    _permit(server, submission)
    with server.database.read() as tx:
        policy = policy_of(server.config, namespaces.levels(tx, old.namespace, old.name or ""))
    for each in parts:
        policy.check(EnvironmentSpec.from_dict(dict(each.spec or {})))
    return _ask(server, _Wanted(submission, parts, dict(row))).build_id


# --- steps ------------------------------------------------------------------------------------------------------------


def _read(server: Server, submission: Submission) -> tuple[Declared, dict[str, EnvironmentSpec]]:
    """Read a request, and check rights and policies."""
    _permit(server, submission)
    declared = Declared(submission.kind or kind_of(submission.text, submission.filename), *_text_of(submission))
    chosen = submission.platforms or (platforms_of_lock(declared) if declared.kind == "lock" else ())
    platforms = check_platforms(chosen or server.config.default_platforms or (current_platform(),))
    virtual = virtual_packages(server.config.profiles, submission.profile)
    with server.database.read() as tx:
        levels = namespaces.levels(tx, submission.namespace, submission.name or "")
    specs = specifications(declared, platforms, policy_of(server.config, levels), virtual)
    return declared, specs


def _text_of(submission: Submission) -> tuple[str, str]:
    text = submission.text.removeprefix("\ufeff").replace("\r\n", "\n")
    if not text.strip():
        raise CetoolError("the specification is empty", code="request-malformed", about="text")
    return text, submission.filename


def _permit(server: Server, submission: Submission) -> None:
    """Raise CetoolError unless the request is allowed, and there is room for it."""
    name_checked(submission.namespace, "namespace")
    if submission.name is not None:
        name_checked(submission.name, "environment")
    require(submission.by, "environment:create", submission.namespace, submission.name or "*")
    with server.database.read() as tx:
        _permit_place(tx, submission)
        waiting = tx.scalar(sa.select(sa.func.count()).select_from(build).where(build.c.status == "QUEUED")) or 0
    if waiting >= server.config.queue_length:
        raise CetoolError(
            f"{waiting} builds are waiting already", code="rate-limited", hint="Try again when some have ended."
        )
    threshold = server.config.storage_threshold
    with contextlib.suppress(OSError):
        if threshold is not None and server.files.free() < threshold:
            raise CetoolError(
                "the server's disk has too little room for builds",
                code="disk-full",
                hint="Its operator can free some: `cetool server gc`, or a lower `storage-threshold`.",
            )


def _permit_place(tx: sa.Connection, submission: Submission) -> None:
    """Raise CetoolError unless the namespace and the environment may be created, or changed if they exist."""
    if namespaces.find(tx, submission.namespace) is None:
        require(submission.by, "namespace::create", submission.namespace)
    if submission.name is not None and not _is_free(tx, submission):
        require(submission.by, "environment::update", submission.namespace, submission.name)


def _is_free(tx: sa.Connection, submission: Submission) -> bool:
    """Return whether the environment is new, or what it points to is the submitter's: a build moves it."""
    found = environments.find(tx, submission.namespace, submission.name or "")
    return found is None or found.build_id is None or builds.get(tx, found.build_id).by == submission.by.name


def _ask(server: Server, wanted: _Wanted) -> Submitted:
    """Store the request in one transaction, and let the builders and the links follow."""
    submission = wanted.submission
    with server.database.write() as tx:
        _permit_place(tx, submission)  # again: another request may have created it meanwhile
        asked = _stored(tx, wanted)
    place = None if submission.name is None else f"{submission.namespace}/{submission.name}"
    if asked.created and asked.status == "COMPLETED" and submission.name is not None:
        with contextlib.suppress(CetoolError):  # builders try again
            server.files.follow(server.database, submission.namespace, submission.name)
    if asked.status == "QUEUED" and server.dispatcher is not None:
        server.dispatcher.wake()
    if asked.created:
        server.news.publish(f"build:{asked.build_id}")
        server.news.publish("events")
    return Submitted(asked.build_id, asked.created, asked.status, place)


def _stored(tx: sa.Connection, wanted: _Wanted) -> Asked:
    submission = wanted.submission
    by = submission.by.name
    space = namespaces.ensure(tx, submission.namespace, by=by)
    environment = None
    if submission.name is not None:
        environment = environments.ensure(tx, space.id, submission.name, by=by, description=submission.description)
    here = current_platform()
    new = NewBuild(
        namespace_id=space.id,
        environment_id=None if environment is None else environment.id,
        name=submission.name,
        specification_id=_specification(tx, wanted.row),
        platforms=wanted.platforms,
        by=by,
        origin=submission.origin,
        refresh=submission.refresh,
        profile=submission.profile,
        realize=here if here in {each.platform for each in wanted.platforms} else None,
    )
    return ask(tx, new)


def _specification(tx: sa.Connection, row: Mapping[str, object]) -> int:
    """Return the number of a specification's row, which is stored once."""
    found = tx.scalar(sa.select(specification.c.id).where(specification.c.sha256 == row["sha256"]))
    if found is not None:
        return int(found)
    values = {name: value for name, value in row.items() if name not in ("id", "created")}
    done = tx.execute(specification.insert().values(created=now(tx), **values))
    return int(done.inserted_primary_key[0])  # type: ignore[index]
