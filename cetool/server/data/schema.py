"""Define the tables. Migrations change existing databases to this; a test compares the two.

Times are seconds since 1970 in UTC, from the database's clock. Numbers of rows (AUTOINCREMENT) are never used again,
since clients keep them. A column with a fixed set of values is text with a CHECK, which a migration can change.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    DDL,
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy import event as events

#: The last migration that this program knows; the database says which one it has.
REVISION = "0001"

STATUSES = ("QUEUED", "BUILDING", "COMPLETED", "FAILED", "CANCELED")
#: A build that has not ended.
UNFINISHED = ("QUEUED", "BUILDING")
ORIGINS = ("api", "conda-store", "watch", "page", "upload", "rebuild")
KINDS = ("environment-yaml", "script", "specs", "lock")
ACTIONS = ("build", "use", "rollback", "rename", "upload", "describe")
ROLES = ("viewer", "contributor", "editor", "admin")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({', '.join(map(repr, values))})", name=column)


def _number() -> Column[int]:
    return Column("id", Integer, primary_key=True)


def _to(name: str, target: str, deletion: str = "CASCADE", **options: Any) -> Column[Any]:
    """Return a column that refers to a row; ``deletion`` says what happens to this row if that one is deleted."""
    return Column(name, ForeignKey(target, ondelete=deletion), **options)


def _table(name: str, *parts: Any, numbered: bool = True, **options: Any) -> Table:
    return Table(name, metadata, *parts, sqlite_autoincrement=numbered, **options)


#: Facts about this database: the server's id, when it was created.
meta = _table("meta", Column("key", Text, primary_key=True), Column("value", Text, nullable=False), numbered=False)

namespace = _table(
    "namespace",
    _number(),
    Column("name", Text, nullable=False, unique=True),
    Column("metadata", JSON, nullable=False),
    Column("created", Float, nullable=False),
    Column("created_by", Text, nullable=False),
)

#: A name that points to a build; ``version`` counts its changes.
environment = _table(
    "environment",
    _number(),
    _to("namespace_id", "namespace.id", nullable=False),
    Column("name", Text, nullable=False),
    Column("description", Text, nullable=False, server_default=""),
    _to("build_id", "build.id", "SET NULL"),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("created", Float, nullable=False),
    Column("changed", Float, nullable=False),
    UniqueConstraint("namespace_id", "name"),
    Index(None, "build_id"),
    Index(None, "name"),
)

#: What an environment pointed to, and who moved it.
history = _table(
    "history",
    _number(),
    _to("environment_id", "environment.id", nullable=False),
    _to("build_id", "build.id", "SET NULL"),
    Column("action", Text, nullable=False),
    Column("by", Text, nullable=False),
    Column("at", Float, nullable=False),
    Column("note", Text),
    _one_of("action", ACTIONS),
    Index(None, "environment_id", "id"),
    Index(None, "build_id"),
)

#: A specification as a client sent it; ``data`` is the object that conda-store's clients read.
specification = _table(
    "specification",
    _number(),
    Column("sha256", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("data", JSON, nullable=False),
    Column("created", Float, nullable=False),
    _one_of("kind", KINDS),
)

#: One attempt to make an environment. Rows are never removed: ``deleted`` is when its files were given up.
build = _table(
    "build",
    _number(),
    # None after the namespace or the environment was deleted; ``name`` stays
    _to("namespace_id", "namespace.id", "SET NULL"),
    _to("environment_id", "environment.id", "SET NULL"),
    Column("name", Text),
    _to("specification_id", "specification.id", "RESTRICT", nullable=False),
    # one digest for the requests of all its platforms
    Column("request", Text, nullable=False),
    Column("status", Text, nullable=False),
    # one sentence, a code of an error, and what to do
    Column("reason", Text),
    Column("code", Text),
    Column("hint", Text),
    # what it does now
    Column("stage", Text),
    Column("done", Float),
    Column("total", Float),
    Column("unit", Text),
    Column("by", Text, nullable=False),
    Column("scheduled", Float, nullable=False),
    Column("started", Float),
    Column("ended", Float),
    Column("deleted", Float),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("not_before", Float, nullable=False, server_default="0"),
    # the lease: its holder, when it ends, and a number that grows with each claim
    Column("owner", Text),
    Column("lease_until", Float),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("cancel", Boolean, nullable=False, server_default=text("FALSE")),
    Column("refresh", Boolean, nullable=False, server_default=text("FALSE")),
    # bytes of its realization
    Column("size", Integer),
    Column("profile", Text, nullable=False),
    Column("origin", Text, nullable=False),
    _one_of("status", STATUSES),
    _one_of("origin", ORIGINS),
    CheckConstraint("status <> 'BUILDING' OR (owner IS NOT NULL AND lease_until IS NOT NULL)", name="leased"),
    CheckConstraint("status IN ('QUEUED', 'BUILDING') OR (ended IS NOT NULL AND reason IS NOT NULL)", name="ended"),
    Index(None, "namespace_id", "id"),
    Index(None, "environment_id", "id"),
    Index(None, "namespace_id", "name", "id"),
    # which namespace had its turn last
    Index(None, "namespace_id", "started"),
    Index(None, "status", "id"),
    Index(None, "request", "status"),
    Index(None, "specification_id"),
    Index(None, "scheduled", "id"),
    Index(None, "started", "id"),
    Index(None, "ended", "id"),
    Index(None, "name", "id"),
    Index(None, "by", "id"),
    # sums of sizes without reading the rows
    Index(None, "namespace_id", "deleted", "size"),
)

#: What a build was asked for, and what it resulted in, for each platform.
build_platform = _table(
    "build_platform",
    _to("build_id", "build.id", primary_key=True),
    Column("platform", Text, primary_key=True),
    # EnvironmentSpec.digest, and EnvironmentSpec.as_dict without credentials
    Column("request", Text, nullable=False),
    Column("spec", JSON, nullable=False),
    _to("lock", "lock.digest", "RESTRICT"),
    _to("realization", "realization.name", "SET NULL"),
    Index(None, "platform", "request"),
    Index(None, "lock"),
    Index(None, "realization"),
    numbered=False,
    sqlite_with_rowid=False,
)

#: Exact packages, once for all builds that resulted in them.
lock = _table(
    "lock",
    Column("digest", Text, primary_key=True),
    Column("platform", Text, nullable=False),
    Column("content", JSON, nullable=False),
    Column("packages", Integer, nullable=False),
    # bytes of its archives, as far as known
    Column("size", Integer, nullable=False),
    Column("created", Float, nullable=False),
    numbered=False,
)

#: The packages of locks, for searches.
lock_package = _table(
    "lock_package",
    _to("lock", "lock.digest", primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("version", Text, nullable=False),
    Column("build", Text, nullable=False),
    Column("subdir", Text, nullable=False),
    Column("channel", Text, nullable=False),
    _one_of("kind", ("conda", "pypi")),
    Index(None, "name", "version", "lock"),
    numbered=False,
    sqlite_with_rowid=False,
)

#: A prefix below ``envs``: its lock on this server's disk.
realization = _table(
    "realization",
    Column("name", Text, primary_key=True),
    _to("lock", "lock.digest", "RESTRICT", nullable=False),
    Column("platform", Text, nullable=False),
    Column("size", Integer, nullable=False),
    Column("packages", Integer, nullable=False),
    Column("created", Float, nullable=False),
    Column("used", Float, nullable=False),
    # variables of the request are files of a prefix: a lock has a prefix for each set of them
    Index(None, "lock"),
    numbered=False,
)

#: The current answer to a request: a signed record, sent to clients as it is.
answer = _table(
    "answer",
    Column("platform", Text, primary_key=True),
    Column("request", Text, primary_key=True),
    _to("build_id", "build.id", nullable=False),
    Column("record", Text, nullable=False),
    Column("created", Float, nullable=False),
    Index(None, "build_id"),
    numbered=False,
)

#: Settings of the deployment (level ''), of a namespace ('ns') and of an environment ('ns/name').
setting = _table(
    "setting",
    Column("level", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", JSON, nullable=False),
    numbered=False,
)

#: What happened, for pages and clients that follow it; without foreign keys, since it outlives its objects.
event = _table(
    "event",
    _number(),
    Column("at", Float, nullable=False),
    Column("kind", Text, nullable=False),
    Column("namespace", Text),
    Column("environment", Text),
    Column("build_id", Integer),
    Column("data", JSON, nullable=False),
    Index(None, "build_id", "id"),
)

user = _table(
    "user",
    _number(),
    Column("name", Text, nullable=False, unique=True),
    # argon2; None for a user who has only tokens
    Column("password", Text),
    Column("namespace", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("disabled", Float),
)

token = _table(
    "token",
    _number(),
    Column("hash", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    _to("user_id", "user.id"),
    Column("namespace", Text, nullable=False),
    # patterns and roles; a user's token has at most these rights, another token exactly these
    Column("grants", JSON),
    Column("created", Float, nullable=False),
    Column("by", Text, nullable=False),
    Column("expires", Float),
    Column("last_used", Float),
    Column("revoked", Float),
    # the token that created it, and is revoked with it
    _to("parent", "token.id"),
    _one_of("kind", ("token", "session", "predefined")),
    Index(None, "user_id"),
    Index(None, "expires"),
    Index(None, "parent"),
)

grant = _table(
    "grant",
    _number(),
    Column("subject_kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("pattern", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("created", Float, nullable=False),
    Column("by", Text, nullable=False),
    _one_of("subject_kind", ("user", "namespace", "authenticated", "anonymous")),
    _one_of("role", ROLES),
    UniqueConstraint("subject_kind", "subject", "pattern", "role"),
    Index(None, "pattern"),
)

#: Who did what. Triggers refuse to change or remove rows.
audit = _table(
    "audit",
    _number(),
    Column("at", Float, nullable=False),
    Column("who", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("object", Text, nullable=False),
    Column("data", JSON, nullable=False),
    Column("address", Text),
    Index(None, "who", "id"),
    Index(None, "object", "id"),
)

#: SQLite's triggers, by what they refuse.
AUDIT_TRIGGERS = {
    change: f"CREATE TRIGGER audit_no_{change} BEFORE {change.upper()} ON audit "
    "BEGIN SELECT RAISE(ABORT, 'rows of audit are never changed'); END"
    for change in ("update", "delete")
}
for _statement in AUDIT_TRIGGERS.values():
    _trigger = DDL(_statement)  # type: ignore[no-untyped-call]
    events.listen(audit, "after_create", _trigger.execute_if(dialect="sqlite"))

#: Files that become environments, as the server last saw them.
watch_file = _table(
    "watch_file",
    Column("path", Text, primary_key=True),
    Column("watch", Text, nullable=False),
    Column("sha256", Text),
    Column("namespace", Text, nullable=False),
    Column("name", Text),
    _to("build_id", "build.id", "SET NULL"),
    Column("problem", Text),
    Column("seen", Float, nullable=False),
    Index(None, "watch"),
    numbered=False,
)
