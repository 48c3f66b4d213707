CREATE TABLE meta (
    "key" TEXT NOT NULL,
    value TEXT NOT NULL,
    CONSTRAINT pk_meta PRIMARY KEY ("key")
);

CREATE TABLE namespace (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    metadata JSON NOT NULL,
    created FLOAT NOT NULL,
    created_by TEXT NOT NULL,
    CONSTRAINT uq_namespace_name UNIQUE (name)
);

CREATE TABLE environment (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    namespace_id INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT DEFAULT '' NOT NULL,
    build_id INTEGER,
    version INTEGER DEFAULT '1' NOT NULL,
    created FLOAT NOT NULL,
    changed FLOAT NOT NULL,
    CONSTRAINT uq_environment_namespace_id_name UNIQUE (namespace_id, name),
    CONSTRAINT fk_environment_namespace_id FOREIGN KEY(namespace_id) REFERENCES namespace (id) ON DELETE CASCADE,
    CONSTRAINT fk_environment_build_id FOREIGN KEY(build_id) REFERENCES build (id) ON DELETE SET NULL
);

CREATE TABLE specification (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    sha256 TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    text TEXT NOT NULL,
    data JSON NOT NULL,
    created FLOAT NOT NULL,
    CONSTRAINT ck_specification_kind CHECK (kind IN ('environment-yaml', 'script', 'specs', 'lock')),
    CONSTRAINT uq_specification_sha256 UNIQUE (sha256)
);

CREATE TABLE build (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    namespace_id INTEGER,
    environment_id INTEGER,
    name TEXT,
    specification_id INTEGER NOT NULL,
    request TEXT NOT NULL,
    status TEXT NOT NULL,
    reason TEXT,
    code TEXT,
    hint TEXT,
    stage TEXT,
    done FLOAT,
    total FLOAT,
    unit TEXT,
    "by" TEXT NOT NULL,
    scheduled FLOAT NOT NULL,
    started FLOAT,
    ended FLOAT,
    deleted FLOAT,
    attempts INTEGER DEFAULT '0' NOT NULL,
    not_before FLOAT DEFAULT '0' NOT NULL,
    owner TEXT,
    lease_until FLOAT,
    fence INTEGER DEFAULT '0' NOT NULL,
    cancel BOOLEAN DEFAULT FALSE NOT NULL,
    refresh BOOLEAN DEFAULT FALSE NOT NULL,
    size INTEGER,
    profile TEXT NOT NULL,
    origin TEXT NOT NULL,
    CONSTRAINT ck_build_status CHECK (status IN ('QUEUED', 'BUILDING', 'COMPLETED', 'FAILED', 'CANCELED')),
    CONSTRAINT ck_build_origin CHECK (origin IN ('api', 'conda-store', 'watch', 'page', 'upload', 'rebuild')),
    CONSTRAINT ck_build_leased CHECK (status <> 'BUILDING' OR (owner IS NOT NULL AND lease_until IS NOT NULL)),
    CONSTRAINT ck_build_ended CHECK (status IN ('QUEUED', 'BUILDING') OR (ended IS NOT NULL AND reason IS NOT NULL)),
    CONSTRAINT fk_build_namespace_id FOREIGN KEY(namespace_id) REFERENCES namespace (id) ON DELETE SET NULL,
    CONSTRAINT fk_build_environment_id FOREIGN KEY(environment_id) REFERENCES environment (id) ON DELETE SET NULL,
    CONSTRAINT fk_build_specification_id FOREIGN KEY(specification_id) REFERENCES specification (id) ON DELETE RESTRICT
);

CREATE TABLE lock (
    digest TEXT NOT NULL,
    platform TEXT NOT NULL,
    content JSON NOT NULL,
    packages INTEGER NOT NULL,
    size INTEGER NOT NULL,
    created FLOAT NOT NULL,
    CONSTRAINT pk_lock PRIMARY KEY (digest)
);

CREATE TABLE setting (
    level TEXT NOT NULL,
    "key" TEXT NOT NULL,
    value JSON NOT NULL,
    CONSTRAINT pk_setting PRIMARY KEY (level, "key")
);

CREATE TABLE event (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at FLOAT NOT NULL,
    kind TEXT NOT NULL,
    namespace TEXT,
    environment TEXT,
    build_id INTEGER,
    data JSON NOT NULL
);

CREATE TABLE user (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    password TEXT,
    namespace TEXT NOT NULL,
    created FLOAT NOT NULL,
    disabled FLOAT,
    CONSTRAINT uq_user_name UNIQUE (name)
);

CREATE TABLE grant (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    subject_kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    pattern TEXT NOT NULL,
    role TEXT NOT NULL,
    created FLOAT NOT NULL,
    "by" TEXT NOT NULL,
    CONSTRAINT ck_grant_subject_kind CHECK (subject_kind IN ('user', 'namespace', 'authenticated', 'anonymous')),
    CONSTRAINT ck_grant_role CHECK (role IN ('viewer', 'contributor', 'editor', 'admin')),
    CONSTRAINT uq_grant_subject_kind_subject_pattern_role UNIQUE (subject_kind, subject, pattern, role)
);

CREATE TABLE audit (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    at FLOAT NOT NULL,
    who TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    data JSON NOT NULL,
    address TEXT
);

CREATE TABLE history (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    environment_id INTEGER NOT NULL,
    build_id INTEGER,
    action TEXT NOT NULL,
    "by" TEXT NOT NULL,
    at FLOAT NOT NULL,
    note TEXT,
    CONSTRAINT ck_history_action CHECK (action IN ('build', 'use', 'rollback', 'rename', 'upload', 'describe')),
    CONSTRAINT fk_history_environment_id FOREIGN KEY(environment_id) REFERENCES environment (id) ON DELETE CASCADE,
    CONSTRAINT fk_history_build_id FOREIGN KEY(build_id) REFERENCES build (id) ON DELETE SET NULL
);

CREATE TABLE lock_package (
    lock TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    build TEXT NOT NULL,
    subdir TEXT NOT NULL,
    channel TEXT NOT NULL,
    CONSTRAINT pk_lock_package PRIMARY KEY (lock, kind, name),
    CONSTRAINT ck_lock_package_kind CHECK (kind IN ('conda', 'pypi')),
    CONSTRAINT fk_lock_package_lock FOREIGN KEY(lock) REFERENCES lock (digest) ON DELETE CASCADE
)
 WITHOUT ROWID;

CREATE TABLE realization (
    name TEXT NOT NULL,
    lock TEXT NOT NULL,
    platform TEXT NOT NULL,
    size INTEGER NOT NULL,
    packages INTEGER NOT NULL,
    created FLOAT NOT NULL,
    used FLOAT NOT NULL,
    CONSTRAINT pk_realization PRIMARY KEY (name),
    CONSTRAINT fk_realization_lock FOREIGN KEY(lock) REFERENCES lock (digest) ON DELETE RESTRICT
);

CREATE TABLE answer (
    platform TEXT NOT NULL,
    request TEXT NOT NULL,
    build_id INTEGER NOT NULL,
    record TEXT NOT NULL,
    created FLOAT NOT NULL,
    CONSTRAINT pk_answer PRIMARY KEY (platform, request),
    CONSTRAINT fk_answer_build_id FOREIGN KEY(build_id) REFERENCES build (id) ON DELETE CASCADE
);

CREATE TABLE token (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    hash TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    user_id INTEGER,
    namespace TEXT NOT NULL,
    grants JSON,
    created FLOAT NOT NULL,
    "by" TEXT NOT NULL,
    expires FLOAT,
    last_used FLOAT,
    revoked FLOAT,
    parent INTEGER,
    CONSTRAINT ck_token_kind CHECK (kind IN ('token', 'session', 'predefined')),
    CONSTRAINT uq_token_hash UNIQUE (hash),
    CONSTRAINT fk_token_user_id FOREIGN KEY(user_id) REFERENCES user (id) ON DELETE CASCADE,
    CONSTRAINT fk_token_parent FOREIGN KEY(parent) REFERENCES token (id) ON DELETE CASCADE
);

CREATE TABLE watch_file (
    path TEXT NOT NULL,
    watch TEXT NOT NULL,
    sha256 TEXT,
    namespace TEXT NOT NULL,
    name TEXT,
    build_id INTEGER,
    problem TEXT,
    seen FLOAT NOT NULL,
    CONSTRAINT pk_watch_file PRIMARY KEY (path),
    CONSTRAINT fk_watch_file_build_id FOREIGN KEY(build_id) REFERENCES build (id) ON DELETE SET NULL
);

CREATE TABLE build_platform (
    build_id INTEGER NOT NULL,
    platform TEXT NOT NULL,
    request TEXT NOT NULL,
    spec JSON NOT NULL,
    lock TEXT,
    realization TEXT,
    CONSTRAINT pk_build_platform PRIMARY KEY (build_id, platform),
    CONSTRAINT fk_build_platform_build_id FOREIGN KEY(build_id) REFERENCES build (id) ON DELETE CASCADE,
    CONSTRAINT fk_build_platform_lock FOREIGN KEY(lock) REFERENCES lock (digest) ON DELETE RESTRICT,
    CONSTRAINT fk_build_platform_realization FOREIGN KEY(realization) REFERENCES realization (name) ON DELETE SET NULL
)
 WITHOUT ROWID;

CREATE INDEX ix_answer_build_id ON answer (build_id);

CREATE INDEX ix_audit_object_id ON audit (object, id);

CREATE INDEX ix_audit_who_id ON audit (who, id);

CREATE INDEX ix_build_by_id ON build ("by", id);

CREATE INDEX ix_build_ended_id ON build (ended, id);

CREATE INDEX ix_build_environment_id_id ON build (environment_id, id);

CREATE INDEX ix_build_name_id ON build (name, id);

CREATE INDEX ix_build_namespace_id_deleted_size ON build (namespace_id, deleted, size);

CREATE INDEX ix_build_namespace_id_id ON build (namespace_id, id);

CREATE INDEX ix_build_namespace_id_name_id ON build (namespace_id, name, id);

CREATE INDEX ix_build_namespace_id_started ON build (namespace_id, started);

CREATE INDEX ix_build_platform_lock ON build_platform (lock);

CREATE INDEX ix_build_platform_platform_request ON build_platform (platform, request);

CREATE INDEX ix_build_platform_realization ON build_platform (realization);

CREATE INDEX ix_build_request_status ON build (request, status);

CREATE INDEX ix_build_scheduled_id ON build (scheduled, id);

CREATE INDEX ix_build_specification_id ON build (specification_id);

CREATE INDEX ix_build_started_id ON build (started, id);

CREATE INDEX ix_build_status_id ON build (status, id);

CREATE INDEX ix_environment_build_id ON environment (build_id);

CREATE INDEX ix_environment_name ON environment (name);

CREATE INDEX ix_event_build_id_id ON event (build_id, id);

CREATE INDEX ix_grant_pattern ON grant (pattern);

CREATE INDEX ix_history_build_id ON history (build_id);

CREATE INDEX ix_history_environment_id_id ON history (environment_id, id);

CREATE INDEX ix_lock_package_name_version_lock ON lock_package (name, version, lock);

CREATE INDEX ix_realization_lock ON realization (lock);

CREATE INDEX ix_token_expires ON token (expires);

CREATE INDEX ix_token_parent ON token (parent);

CREATE INDEX ix_token_user_id ON token (user_id);

CREATE INDEX ix_watch_file_watch ON watch_file (watch);

CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'rows of audit are never changed'); END;

CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'rows of audit are never changed'); END;

