BEGIN TRANSACTION;
CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num));
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE answer (
	platform TEXT NOT NULL, 
	request TEXT NOT NULL, 
	build_id INTEGER NOT NULL, 
	record TEXT NOT NULL, 
	created FLOAT NOT NULL, 
	CONSTRAINT pk_answer PRIMARY KEY (platform, request), 
	CONSTRAINT fk_answer_build_id FOREIGN KEY(build_id) REFERENCES build (id) ON DELETE CASCADE
);
INSERT INTO "answer" VALUES('linux-64','11a4a60b518bf24989d481468076e5d5982884626aed9faeb35b8576fcd223e1',1,'{"build": 1}',1.79591079755499505995e+09);
CREATE TABLE audit (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	at FLOAT NOT NULL, 
	who TEXT NOT NULL, 
	action TEXT NOT NULL, 
	object TEXT NOT NULL, 
	data JSON NOT NULL, 
	address TEXT
);
INSERT INTO "audit" VALUES(1,1.0,'ana','token.create','token 1','{}',NULL);
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
INSERT INTO "build" VALUES(1,1,1,'one',1,'68982baef556db340c9df159f2ed44d19bf0e0b6f444495a805b255d5330c5d6','COMPLETED','made an environment of 2 packages',NULL,NULL,NULL,NULL,NULL,NULL,'ana',1.79591079750100231175e+09,1.79591079752200388905e+09,1.79591079756601905825e+09,NULL,1,0.0,NULL,NULL,1,0,0,2000,'plain','api');
INSERT INTO "build" VALUES(2,1,1,'one',2,'1a24e53915e9d166ef866822769f17f08cc409d3e17800c469444d6ef46c491a','FAILED','broken does not exist','spec-unsatisfiable',NULL,NULL,NULL,NULL,NULL,'ana',1.79591079760898804668e+09,1.79591079761099958419e+09,1.79591079762998962398e+09,NULL,1,0.0,NULL,NULL,2,0,0,NULL,'plain','api');
INSERT INTO "build" VALUES(3,2,2,'gone',3,'36d03cc21f190c5114067c07ceea3fa00b6c4ff8755d299ab47690b83e41e097','COMPLETED','made an environment of 1 package',NULL,NULL,NULL,NULL,NULL,NULL,'ana',1.7959107976429848671e+09,1.79591079764499664305e+09,1.79591079768201112749e+09,1.79591079771001338959e+09,1,0.0,NULL,NULL,1,0,0,1000,'plain','api');
INSERT INTO "build" VALUES(4,2,3,'stopped',4,'d031f1fcb4a263ffbda8c911b12054cf0fd1d422dafc1020e2a5f0a45786e625','CANCELED','canceled by bob','build-canceled',NULL,NULL,NULL,NULL,NULL,'ana',1.79591079775298237799e+09,NULL,1.7959107977609887123e+09,NULL,0,0.0,NULL,NULL,1,1,0,NULL,'plain','api');
INSERT INTO "build" VALUES(5,1,4,'two',5,'ed50539a159a1a0812650867da2d5d0aeb750b84628a711238daa31b5e4d73f2','QUEUED',NULL,NULL,NULL,NULL,NULL,NULL,NULL,'ana',1.79591079792598485947e+09,NULL,NULL,NULL,0,0.0,NULL,NULL,0,0,0,NULL,'plain','api');
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
 WITHOUT ROWID

;
INSERT INTO "build_platform" VALUES(1,'linux-64','11a4a60b518bf24989d481468076e5d5982884626aed9faeb35b8576fcd223e1','{"packages": ["python"], "channels": ["conda-forge"]}','fd32e8d2e6fa0445680fd0b86b0a74d1748095fa4bbe35cd7b100d17c829d506','fd32e8d2e6fa0445680f');
INSERT INTO "build_platform" VALUES(2,'linux-64','f526795c95399cea27c055c842c3d6ab018ed0fa4f66f701c28ab22dec28237b','{"packages": ["broken"], "channels": ["conda-forge"]}',NULL,NULL);
INSERT INTO "build_platform" VALUES(3,'linux-64','73dd0baf8e5438da8816254a073ee43b61f8b2cdef6f393e0059cdbc55cb8d9c','{"packages": ["numpy"], "channels": ["conda-forge"]}','9e857f70562a3b8633aa79e9331919d60cb8c1369ecd77bae010bd2e1def967c','9e857f70562a3b8633aa');
INSERT INTO "build_platform" VALUES(4,'linux-64','8e35c2cd3bf6641bdb0e2050b76932cbb2e6034a0ddacc1d9bea82a6ba57f7cf','{"packages": ["q"], "channels": ["conda-forge"]}',NULL,NULL);
INSERT INTO "build_platform" VALUES(5,'linux-64','b91780636b12da5ea37add0c8d2e659d47184fa8e70242f8d20b86e429afd6e2','{"packages": ["scipy"], "channels": ["conda-forge"]}',NULL,NULL);
INSERT INTO "build_platform" VALUES(5,'osx-arm64','b91780636b12da5ea37add0c8d2e659d47184fa8e70242f8d20b86e429afd6e2','{"packages": ["scipy"], "channels": ["conda-forge"]}',NULL,NULL);
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
INSERT INTO "environment" VALUES(1,1,'one','',1,2,1.79591079746201634408e+09,1.79591079756799030303e+09);
INSERT INTO "environment" VALUES(2,2,'gone','',NULL,3,1.79591079763300704962e+09,1.79591079769601225848e+09);
INSERT INTO "environment" VALUES(3,2,'stopped','',NULL,1,1.79591079775000524521e+09,1.79591079775000524521e+09);
INSERT INTO "environment" VALUES(4,1,'two','',NULL,1,1.79591079791198372835e+09,1.79591079791198372835e+09);
CREATE TABLE event (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	at FLOAT NOT NULL, 
	kind TEXT NOT NULL, 
	namespace TEXT, 
	environment TEXT, 
	build_id INTEGER, 
	data JSON NOT NULL
);
INSERT INTO "event" VALUES(1,1.79591079746000480653e+09,'namespace.created','team',NULL,NULL,'{"by": "ana"}');
INSERT INTO "event" VALUES(2,1.7959107974629819393e+09,'environment.created','team','one',NULL,'{"by": "ana"}');
INSERT INTO "event" VALUES(3,1.79591079751500344273e+09,'build.queued','team','one',1,'{}');
INSERT INTO "event" VALUES(4,1.79591079752498126035e+09,'build.started','team','one',1,'{"attempt": 1}');
INSERT INTO "event" VALUES(5,1.79591079756899619102e+09,'environment.moved','team','one',1,'{"by": "ana", "action": "build", "from": null}');
INSERT INTO "event" VALUES(6,1.79591079758999800685e+09,'build.completed','team','one',1,'{}');
INSERT INTO "event" VALUES(7,1.79591079760999393463e+09,'build.queued','team','one',2,'{}');
INSERT INTO "event" VALUES(8,1.79591079761200547214e+09,'build.started','team','one',2,'{"attempt": 1}');
INSERT INTO "event" VALUES(9,1.79591079763099551198e+09,'build.failed','team','one',2,'{"code": "spec-unsatisfiable", "reason": "broken does not exist"}');
INSERT INTO "event" VALUES(10,1.79591079763200140006e+09,'namespace.created','other',NULL,NULL,'{"by": "ana"}');
INSERT INTO "event" VALUES(11,1.79591079763300704962e+09,'environment.created','other','gone',NULL,'{"by": "ana"}');
INSERT INTO "event" VALUES(12,1.79591079764399075505e+09,'build.queued','other','gone',3,'{}');
INSERT INTO "event" VALUES(13,1.79591079765799188617e+09,'build.started','other','gone',3,'{"attempt": 1}');
INSERT INTO "event" VALUES(14,1.79591079768301701549e+09,'environment.moved','other','gone',3,'{"by": "ana", "action": "build", "from": null}');
INSERT INTO "event" VALUES(15,1.79591079768398261071e+09,'build.completed','other','gone',3,'{}');
INSERT INTO "event" VALUES(16,1.79591079769601225848e+09,'environment.moved','other','gone',NULL,'{"by": "ana", "from": 3}');
INSERT INTO "event" VALUES(17,1.79591079773700976369e+09,'build.deleted','other','gone',3,'{"by": "ana", "freed": 1000}');
INSERT INTO "event" VALUES(18,1.79591079775101089477e+09,'environment.created','other','stopped',NULL,'{"by": "ana"}');
INSERT INTO "event" VALUES(19,1.79591079775298237799e+09,'build.queued','other','stopped',4,'{}');
INSERT INTO "event" VALUES(20,1.79591079791101813313e+09,'build.canceled','other','stopped',4,'{}');
INSERT INTO "event" VALUES(21,1.79591079791198372835e+09,'environment.created','team','two',NULL,'{"by": "ana"}');
INSERT INTO "event" VALUES(22,1.79591079792699074742e+09,'build.queued','team','two',5,'{}');
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
INSERT INTO "grant" VALUES(1,'user','ana','team/*','editor',1.0,'operator');
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
INSERT INTO "history" VALUES(1,1,1,'build','ana',1.79591079756799030303e+09,NULL);
INSERT INTO "history" VALUES(2,2,3,'build','ana',1.79591079768301701549e+09,NULL);
CREATE TABLE lock (
	digest TEXT NOT NULL, 
	platform TEXT NOT NULL, 
	content JSON NOT NULL, 
	packages INTEGER NOT NULL, 
	size INTEGER NOT NULL, 
	created FLOAT NOT NULL, 
	CONSTRAINT pk_lock PRIMARY KEY (digest)
);
INSERT INTO "lock" VALUES('fd32e8d2e6fa0445680fd0b86b0a74d1748095fa4bbe35cd7b100d17c829d506','linux-64','{"platform": "linux-64", "conda": [{"name": "python", "version": "1.0", "build": "0", "subdir": "noarch", "url": "https://conda.example/channel/noarch/python-1.0-0.conda", "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "md5": null, "size": 1000, "depends": [], "constrains": [], "noarch": null}, {"name": "zlib", "version": "1.0", "build": "0", "subdir": "noarch", "url": "https://conda.example/channel/noarch/zlib-1.0-0.conda", "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "md5": null, "size": 1000, "depends": [], "constrains": [], "noarch": null}], "pypi": [], "request": null}',2,2000,1.79591079753998804089e+09);
INSERT INTO "lock" VALUES('9e857f70562a3b8633aa79e9331919d60cb8c1369ecd77bae010bd2e1def967c','linux-64','{"platform": "linux-64", "conda": [{"name": "numpy", "version": "1.0", "build": "0", "subdir": "noarch", "url": "https://conda.example/channel/noarch/numpy-1.0-0.conda", "sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "md5": null, "size": 1000, "depends": [], "constrains": [], "noarch": null}], "pypi": [], "request": null}',1,1000,1.79591079765899777412e+09);
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
 WITHOUT ROWID

;
INSERT INTO "lock_package" VALUES('9e857f70562a3b8633aa79e9331919d60cb8c1369ecd77bae010bd2e1def967c','conda','numpy','1.0','0','noarch','https://conda.example/channel');
INSERT INTO "lock_package" VALUES('fd32e8d2e6fa0445680fd0b86b0a74d1748095fa4bbe35cd7b100d17c829d506','conda','python','1.0','0','noarch','https://conda.example/channel');
INSERT INTO "lock_package" VALUES('fd32e8d2e6fa0445680fd0b86b0a74d1748095fa4bbe35cd7b100d17c829d506','conda','zlib','1.0','0','noarch','https://conda.example/channel');
CREATE TABLE meta (
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	CONSTRAINT pk_meta PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('id','0123456789abcdef');
CREATE TABLE namespace (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	name TEXT NOT NULL, 
	metadata JSON NOT NULL, 
	created FLOAT NOT NULL, 
	created_by TEXT NOT NULL, 
	CONSTRAINT uq_namespace_name UNIQUE (name)
);
INSERT INTO "namespace" VALUES(1,'team','{}',1.79591079746000480653e+09,'ana');
INSERT INTO "namespace" VALUES(2,'other','{}',1.79591079763200140006e+09,'ana');
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
INSERT INTO "realization" VALUES('fd32e8d2e6fa0445680f','fd32e8d2e6fa0445680fd0b86b0a74d1748095fa4bbe35cd7b100d17c829d506','linux-64',2000,2,1.79591079754099392897e+09,1.79591079754099392897e+09);
INSERT INTO "realization" VALUES('9e857f70562a3b8633aa','9e857f70562a3b8633aa79e9331919d60cb8c1369ecd77bae010bd2e1def967c','linux-64',1000,1,1.79591079766000366211e+09,1.79591079766000366211e+09);
CREATE TABLE setting (
	level TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	value JSON NOT NULL, 
	CONSTRAINT pk_setting PRIMARY KEY (level, "key")
);
INSERT INTO "setting" VALUES('team','channels-allowed','["conda-forge"]');
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
INSERT INTO "specification" VALUES(1,'python','specs','one','python','{}',1.79591079746398782726e+09);
INSERT INTO "specification" VALUES(2,'broken','specs','one','broken','{}',1.7959107975920095444e+09);
INSERT INTO "specification" VALUES(3,'numpy','specs','gone','numpy','{}',1.79591079763300704962e+09);
INSERT INTO "specification" VALUES(4,'q','specs','stopped','q','{}',1.79591079775101089477e+09);
INSERT INTO "specification" VALUES(5,'scipy','specs','two','scipy','{}',1.79591079791198372835e+09);
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
INSERT INTO "token" VALUES(1,'0000000000000000000000000000000000000000000000000000000000000000','token','laptop',1,'ana',NULL,1.0,'ana',NULL,NULL,NULL,NULL);
CREATE TABLE user (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	name TEXT NOT NULL, 
	password TEXT, 
	namespace TEXT NOT NULL, 
	created FLOAT NOT NULL, 
	disabled FLOAT, 
	CONSTRAINT uq_user_name UNIQUE (name)
);
INSERT INTO "user" VALUES(1,'ana','$argon2id$x','ana',1.0,NULL);
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
INSERT INTO "watch_file" VALUES('/srv/environment.yml','/srv','0000000000000000000000000000000000000000000000000000000000000000','filesystem','base',NULL,NULL,1.0);
CREATE INDEX ix_environment_name ON environment (name);
CREATE INDEX ix_environment_build_id ON environment (build_id);
CREATE INDEX ix_build_namespace_id_started ON build (namespace_id, started);
CREATE INDEX ix_build_started_id ON build (started, id);
CREATE INDEX ix_build_namespace_id_deleted_size ON build (namespace_id, deleted, size);
CREATE INDEX ix_build_by_id ON build ("by", id);
CREATE INDEX ix_build_status_id ON build (status, id);
CREATE INDEX ix_build_request_status ON build (request, status);
CREATE INDEX ix_build_ended_id ON build (ended, id);
CREATE INDEX ix_build_namespace_id_id ON build (namespace_id, id);
CREATE INDEX ix_build_environment_id_id ON build (environment_id, id);
CREATE INDEX ix_build_specification_id ON build (specification_id);
CREATE INDEX ix_build_name_id ON build (name, id);
CREATE INDEX ix_build_namespace_id_name_id ON build (namespace_id, name, id);
CREATE INDEX ix_build_scheduled_id ON build (scheduled, id);
CREATE INDEX ix_event_build_id_id ON event (build_id, id);
CREATE INDEX ix_grant_pattern ON grant (pattern);
CREATE INDEX ix_audit_who_id ON audit (who, id);
CREATE INDEX ix_audit_object_id ON audit (object, id);
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'rows of audit are never changed'); END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'rows of audit are never changed'); END;
CREATE INDEX ix_history_environment_id_id ON history (environment_id, id);
CREATE INDEX ix_history_build_id ON history (build_id);
CREATE INDEX ix_lock_package_name_version_lock ON lock_package (name, version, lock);
CREATE INDEX ix_answer_build_id ON answer (build_id);
CREATE INDEX ix_token_user_id ON token (user_id);
CREATE INDEX ix_token_parent ON token (parent);
CREATE INDEX ix_token_expires ON token (expires);
CREATE INDEX ix_watch_file_watch ON watch_file (watch);
CREATE INDEX ix_build_platform_lock ON build_platform (lock);
CREATE INDEX ix_build_platform_platform_request ON build_platform (platform, request);
CREATE INDEX ix_build_platform_realization ON build_platform (realization);
CREATE INDEX ix_realization_lock ON realization (lock);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('namespace',2);
INSERT INTO "sqlite_sequence" VALUES('event',22);
INSERT INTO "sqlite_sequence" VALUES('environment',4);
INSERT INTO "sqlite_sequence" VALUES('specification',5);
INSERT INTO "sqlite_sequence" VALUES('build',5);
INSERT INTO "sqlite_sequence" VALUES('history',2);
INSERT INTO "sqlite_sequence" VALUES('user',1);
INSERT INTO "sqlite_sequence" VALUES('token',1);
INSERT INTO "sqlite_sequence" VALUES('grant',1);
INSERT INTO "sqlite_sequence" VALUES('audit',1);
COMMIT;
