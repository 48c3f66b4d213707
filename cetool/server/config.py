"""Read the server's configuration: built-in values, a YAML file, ``CETOOL_SERVER_*``, options; each overrides the last.

:data:`KEYS` describes each key; ``docs/reference/server-settings.md`` lists them, and a test compares the two.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from cetool.base.errors import CetoolError, ConfigError, Location, UsageError
from cetool.base.limits import parse_json
from cetool.base.ownership import is_trusting
from cetool.base.text import nearest
from cetool.server.config_values import (
    KEYS,
    Allowed,
    PredefinedToken,
    PredefinedUser,
    Profiles,
    Watch,
    Wrong,
    builtin_profiles,
)
from cetool.settings.file import plain_value, read_config_file
from cetool.settings.paths import config_file_path, trust_directory
from cetool.settings.settings import KEYS as SETTINGS
from cetool.settings.settings import variable_of as setting_variable

#: Every variable of the server starts with it.
PREFIX = "CETOOL_SERVER_"
#: What Kubernetes sets in each container for a service named ``cetool-server``; these are not keys.
_NOT_OURS = ("SERVICE_", "PORT_", "TEST_")


def _processors() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(2, usable)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The configuration. Durations are in seconds, sizes in bytes; :data:`KEYS` says what each field means."""

    data: Path
    bind: str = "127.0.0.1:8484"
    workers: int = field(default_factory=_processors)
    url_prefix: str = ""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    behind_proxy: bool = False
    anonymous_access: bool = False
    allowed_origins: tuple[str, ...] = ()
    sandbox: Literal["auto", "required", "off"] = "auto"
    build_timeout: float = 3600.0
    stall_timeout: float = 300.0
    build_memory: int | None = 4_000_000_000
    build_output: int = 10_000_000
    build_processes: int = 512
    build_size: int | None = 50_000_000_000
    queue_length: int = 1000
    retries: int = 3
    retry_backoff: float = 10.0
    lease: float = 60.0
    database_wait: float = 30.0
    body_size: int = 10_000_000
    log: Literal["text", "json"] = "text"
    log_requests: bool = False
    hosts: tuple[str, ...] = ()
    streams: int = 1000
    stream_timeout: float = 3600.0
    session_lifetime: float = 86400.0
    login_attempts: int = 10
    storage_threshold: int | None = 1_000_000_000
    keep_builds: int = 5
    keep_builds_for: float = 30 * 86400.0
    keep_logs_for: float = 90 * 86400.0
    keep_unused_for: float = 7 * 86400.0
    upload: bool = True
    default_platforms: tuple[str, ...] = ()
    default_namespace: str = "default"
    profiles: Profiles = field(default_factory=builtin_profiles)
    channels_allowed: Allowed = None
    channels_default: tuple[str, ...] = ("conda-forge",)
    channels_required: tuple[str, ...] = ()
    packages_allowed: Allowed = None
    packages_default: tuple[str, ...] = ()
    packages_required: tuple[str, ...] = ()
    watch: tuple[Watch, ...] = ()
    ui_dir: Path | None = None
    public_metrics: bool = False
    users: tuple[PredefinedUser, ...] = field(default=(), repr=False)
    tokens: tuple[PredefinedToken, ...] = field(default=(), repr=False)

    @property
    def database(self) -> Path:
        """The database."""
        return self.data / "server.sqlite3"

    @property
    def host(self) -> str:
        """The address to listen on."""
        return self.bind.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        """The port to listen on; 0 for a free one."""
        return int(self.bind.rpartition(":")[2])


def load_config(
    file: Path | None = None,
    options: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> ServerConfig:
    """Load the configuration from a file (default: ``CETOOL_SERVER_CONFIG``, else ``server.yaml`` next to cetool's
    own ``config.yaml`` if it exists), the variables, and options by key (``url-prefix`` or ``url_prefix``; None is not
    given).

    Raises ConfigError with the place for an unknown key or an invalid value, UsageError for a wrong option.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    for key, (value, where) in _in_file(file, environ).items():
        if key not in KEYS:
            raise _unknown(key, ConfigError, where)
        if value is not None:  # a key without a value sets nothing
            values[key] = _read(key, plain_value(value), where)
    _refuse_unknown_variables(environ)
    for key in KEYS:
        if text := environ.get(variable_of(key)):
            values[key] = _read(key, _from_variable(key, text), Location(variable_of(key)))
    for name, option in (options or {}).items():
        key = name.replace("_", "-")
        if key not in KEYS:
            raise _unknown(key, UsageError, None)
        if option is not None:
            values[key] = _read(key, option, None)
    values.setdefault("data", _default_data(environ))
    return _checked(ServerConfig(**{key.replace("-", "_"): value for key, value in values.items()}))


def variable_of(key: str) -> str:
    """Return the environment variable of a key: ``CETOOL_SERVER_URL_PREFIX`` for ``url-prefix``."""
    return PREFIX + key.upper().replace("-", "_")


def defaults() -> dict[str, object]:
    """Return the built-in value of each key but ``data``."""
    built_in = ServerConfig(Path("/"))
    names = [each.name for each in fields(ServerConfig) if each.name != "data"]
    return {name.replace("_", "-"): getattr(built_in, name) for name in names}


def config_file(file: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Return the configuration's file: the given one, ``CETOOL_SERVER_CONFIG``, or ``server.yaml`` if it exists.

    Raises ConfigError if a file that was named does not exist.
    """
    named = file or (Path(text) if (text := environ.get(PREFIX + "CONFIG")) else None)
    if named is not None:
        named = Path(os.path.abspath(named))
        if not named.exists():
            raise ConfigError("the configuration file does not exist", where=Location(str(named)))
        return named
    beside = config_file_path(environ)
    found = None if beside is None else beside.with_name("server.yaml")
    return found if found is not None and found.exists() else None


def _in_file(file: Path | None, environ: Mapping[str, str]) -> dict[str, tuple[object, Location]]:
    named = config_file(file, environ)
    return {} if named is None else read_config_file(named, trust=is_trusting(environ))


def _default_data(environ: Mapping[str, str]) -> Path:
    trust = trust_directory(environ)
    if trust is None:
        raise ConfigError(
            "there is no data directory: HOME is not set",
            code="home-missing",
            about="data",
            hint="Name a directory with `--data` or CETOOL_SERVER_DATA.",
        )
    return trust.with_name("server")


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {PREFIX + "CONFIG", *map(variable_of, KEYS), *map(setting_variable, SETTINGS)}
    for name in sorted(environ):
        rest = name.removeprefix(PREFIX)
        if name.startswith(PREFIX) and name not in known and rest != "PORT" and not rest.startswith(_NOT_OURS):
            raise ConfigError(
                f"{name} is not a variable of the server",
                code="setting-unknown",
                about=name,
                where=Location(name),
                hint=nearest(name, sorted(known)),
            )


def _from_variable(key: str, text: str) -> object:
    """Return the value in a variable: lists are separated by commas, mappings and lists of mappings are JSON."""
    if KEYS[key].json:
        try:
            return parse_json(text)
        except ValueError as error:
            raise ConfigError(
                f"{key} is not valid JSON: {error}", about=key, where=Location(variable_of(key))
            ) from None
    return text


def _read(key: str, value: object, where: Location | None) -> Any:
    try:
        return KEYS[key].read(value)
    except Wrong as wrong:
        kind = UsageError if where is None else ConfigError
        name = f"--{key}" if where is None else key
        raise kind(f"{name} {wrong}", code="setting-invalid", about=key, where=where, hint=wrong.hint) from None


def _unknown(key: str, kind: type[CetoolError], where: Location | None) -> CetoolError:
    hint = nearest(key, KEYS)
    return kind(f"unknown setting {key!r} of the server", code="setting-unknown", about=key, where=where, hint=hint)


def _checked(config: ServerConfig) -> ServerConfig:
    """Refuse values that contradict each other."""
    if (config.tls_cert is None) != (config.tls_key is None):
        given, missing = ("tls-cert", "tls-key") if config.tls_key is None else ("tls-key", "tls-cert")
        raise ConfigError(f"{given} is set, but {missing} is not", about=missing, hint=f"Set {missing} as well.")
    for entry in config.watch:
        if os.path.realpath(entry.path).startswith(os.path.realpath(config.data) + os.sep):
            raise ConfigError(f"watch: {entry.path} is in the server's own data directory", about="watch")
    return config
