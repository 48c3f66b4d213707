"""What the native API answers: the classes that its OpenAPI document describes."""

from __future__ import annotations

from typing import Any

from typing_extensions import NotRequired, TypedDict


class Key(TypedDict):
    """The key that signs the server's answers."""

    #: SHA-256 of the raw public key: 64 hex digits.
    id: str
    #: The raw public key, base64.
    public: str


class About(TypedDict):
    """Who the server is."""

    server: str
    version: NotRequired[str]
    key: Key
    #: The name of the user or token; null without one.
    user: str | None
    #: The namespace of requests that name none.
    namespace: NotRequired[str]
    links: NotRequired[dict[str, str]]


class BuildPlatform(TypedDict):
    """What a build was asked for on one platform, and what it resulted in."""

    platform: str
    #: The digest of the request.
    request: str
    #: The digest of the exact packages; null until they are known.
    lock: str | None
    #: The name of the environment's directory; null if this server has none for the platform.
    realization: str | None


class Progress(TypedDict):
    """How far a build is."""

    stage: str | None
    done: float | None
    total: float | None
    unit: str | None


class Build(TypedDict):
    """A build."""

    id: int
    namespace: str
    #: The environment's name; null for a build without one.
    name: str | None
    status: str
    #: Why it ended, in one sentence; ``code`` is that of an error.
    reason: str | None
    code: str | None
    hint: str | None
    progress: Progress
    by: str
    origin: str
    profile: str
    scheduled: str | None
    started: str | None
    ended: str | None
    deleted: str | None
    attempts: int
    refresh: bool
    #: Bytes of its prefix.
    size: int | None
    platforms: list[BuildPlatform]
    links: dict[str, str]


class Builds(TypedDict):
    """One page of builds."""

    builds: list[Build]
    #: The cursor of the next page; null at the end.
    next: str | None


class Requested(TypedDict):
    """What became of a request."""

    build: int
    #: Whether there is a new build.
    created: bool
    status: str
    #: ``namespace/name``; null for a request without a name.
    environment: str | None
    links: dict[str, str]


class Running(TypedDict):
    """The build that will answer."""

    build: int
    #: The path of its events.
    events: str


class Uploaded(TypedDict):
    """The build that verifies a lock."""

    build: int
    created: bool
    status: str
    links: dict[str, str]


class Changed(TypedDict):
    """What a change resulted in."""

    build: NotRequired[int]
    links: NotRequired[dict[str, str]]
    #: Bytes that are not needed any more.
    freed: NotRequired[int]


class Package(TypedDict):
    """A package of a build."""

    kind: str
    name: str
    version: str
    build: str
    subdir: str
    url: str
    sha256: str | None
    md5: str | None
    size: int | None
    depends: list[str]


class Packages(TypedDict):
    """The packages of a build for a platform."""

    platform: str
    lock: str
    packages: list[Package]


class Signature(TypedDict):
    """A signature of an envelope."""

    keyid: str
    sig: str


class Envelope(TypedDict):
    """A signed record: a DSSE envelope whose payload has the type ``application/vnd.cetool.build+json``."""

    payloadType: str
    payload: str
    signatures: list[Signature]


class Environment(TypedDict):
    """An environment: a name that points to a build."""

    namespace: str
    name: str
    description: str
    #: The number of its build; null before the first is completed.
    build: int | None
    #: Counts its changes; the ETag is made from it.
    version: int
    created: str | None
    changed: str | None
    links: dict[str, str]


class Environments(TypedDict):
    """One page of environments."""

    environments: list[Environment]
    next: str | None


class HistoryEntry(TypedDict):
    """A change of an environment."""

    id: int
    action: str
    build: int | None
    by: str
    at: str | None
    note: str | None


class History(TypedDict):
    """What an environment pointed to, the latest first."""

    history: list[HistoryEntry]
    next: str | None


class PackageChange(TypedDict):
    """A package that differs."""

    platform: str
    name: str
    #: Version and build; null if it is absent.
    before: str | None
    after: str | None


class Differences(TypedDict):
    """How the packages of two builds differ."""

    before: int
    after: int
    changes: list[PackageChange]


class Namespace(TypedDict):
    """A namespace."""

    name: str
    metadata: dict[str, Any]
    created: str | None
    created_by: str


class Namespaces(TypedDict):
    """One page of namespaces."""

    namespaces: list[Namespace]
    next: str | None


class Settings(TypedDict):
    """The settings of a level: those that are set there, and those that apply."""

    level: str
    own: dict[str, Any]
    effective: dict[str, Any]


class Grant(TypedDict):
    """A role on a pattern."""

    id: int
    subject_kind: str
    subject: str
    pattern: str
    role: str
    by: str
    created: str | None


class Grants(TypedDict):
    """Grants."""

    grants: list[Grant]


class Scope(TypedDict):
    """What a token is limited to."""

    pattern: str
    role: str


class Token(TypedDict):
    """A token. Its secret is shown once, when it is created."""

    id: int
    name: str
    kind: str
    user: str | None
    namespace: str
    grants: list[Scope] | None
    by: str
    created: str | None
    expires: str | None
    last_used: str | None
    revoked: str | None
    token: NotRequired[str]


class Tokens(TypedDict):
    """Tokens."""

    tokens: list[Token]


class User(TypedDict):
    """A user."""

    name: str
    namespace: str
    created: str | None
    disabled: str | None


class Users(TypedDict):
    """Users."""

    users: list[User]


class Reason(TypedDict):
    """Why a permission is given or missing."""

    permission: str
    allowed: bool
    reason: str


class Access(TypedDict):
    """What a user may do, and why."""

    user: str
    namespace: str
    environment: str
    #: The role on each pattern.
    roles: dict[str, str]
    permissions: list[Reason]


class AuditEntry(TypedDict):
    """A change, or an attempt at one."""

    id: int
    at: str | None
    who: str
    action: str
    object: str
    data: dict[str, Any]
    address: str | None


class Audit(TypedDict):
    """Who changed what, the latest first."""

    audit: list[AuditEntry]
    next: str | None


class FieldProblem(TypedDict):
    """What is wrong with one field of a request."""

    loc: list[str | int]
    msg: str
    type: str
    input: NotRequired[Any]
    ctx: NotRequired[dict[str, Any]]


class Place(TypedDict):
    """A place in a file."""

    path: str
    line: int | None


class Problem(TypedDict):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    #: A key of the documented list of codes.
    code: str
    hint: NotRequired[str]
    about: NotRequired[str]
    where: NotRequired[Place]
    details: NotRequired[list[str]]
    errors: NotRequired[list[FieldProblem]]
    request_id: NotRequired[str]


#: All of them, for the OpenAPI document.
ALL = (
    *(About, Build, Builds, Requested, Running, Uploaded, Changed, Packages, Envelope, Environment),
    *(Environments, History, Differences, Namespace, Namespaces, Settings, Grant, Grants, Token, Tokens, User, Users),
    *(Access, Audit, Problem),
)
