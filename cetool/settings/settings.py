"""Load the settings: built-in < ``conda-execute`` in ``.condarc`` < ``config.yaml`` < ``CETOOL_*`` < options.

Every value remembers where it came from, and is read by the same function in every place.
``docs/reference/configuration.md`` describes the keys for users.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast

from cetool.base.errors import CetoolError, ConfigError, Location, UsageError
from cetool.base.ownership import is_trusting
from cetool.base.text import nearest
from cetool.base.values import Value
from cetool.settings.condarc import Condarc, conda_dirs, load_condarc
from cetool.settings.file import plain_value, read_config_file
from cetool.settings.paths import conda_root, config_file_path

#: The values of ``engine``; ``auto`` in a file or variable undoes the choice of a lower layer.
ENGINES = ("mamba", "micromamba", "conda", "rattler")
BUILT_IN = "built-in"
#: The options whose names differ from their settings'.
_OPTIONS = {"channels": "--channel", "trust": "--yes"}


class Settings(Value):
    """The effective settings.

    ``remove_if_unused_for`` is in hours, ``stall_timeout`` and ``server_wait`` in seconds, ``max_size`` in bytes (None:
    no limit). ``engine`` is None for the first one found, ``channels`` None for those of the engine's configuration
    (they are as written, credentials included: never put them into messages); ``env_dir`` and ``pkg_dir`` are absolute,
    None for the default; ``overlays_dir`` is a path in which ``{overlays}`` and ``{env_name}`` are still to be
    replaced; ``servers`` are URLs without a slash at the end, None for none.
    """

    env_dir: Path | None = None
    remove_if_unused_for: float = 25.0
    max_size: int | None = None
    engine: str | None = None
    channels: tuple[str, ...] | None = None
    offline: bool = False
    auto_gc: bool = True
    verbosity: Literal["quiet", "normal", "verbose"] = "normal"
    pip_installer: Literal["auto", "uv", "pip"] = "auto"
    trust_cache_dir: bool = False
    stall_timeout: float = 300.0
    pkg_dir: Path | None = None
    trust: Literal["ask", "always", "never"] = "ask"
    locked: bool = False
    frozen: bool = False
    overlays_dir: str | None = None
    user_site: bool = False
    servers: tuple[str, ...] | None = None
    server_wait: float = 60.0
    server_upload: bool = True
    verify_channels: bool = False


class Origin(Value):
    """A setting's value and where it came from: ``built-in``, ``FILE:LINE``, the name of a variable or option."""

    value: object
    source: str
    #: as written there; both may contain credentials
    raw: object = None


class LoadedSettings(Value):
    """The settings, the origin of each by key, and conda's configuration, which is read with them."""

    settings: Settings
    origins: Mapping[str, Origin]
    condarc: Condarc
    config_file: Path | None
    #: the unknown variables that start with ``CETOOL_``
    unknown: tuple[str, ...] = ()


#: The built-in settings by key, spelled as in files and options (``env-dir``).
DEFAULTS: dict[str, object] = {name.replace("_", "-"): value for name, value in Settings()._asdict().items()}
KEYS = tuple(DEFAULTS)
#: The variable with a token for a server, for programs that run cetool.
SERVER_TOKEN = "CETOOL_SERVER_TOKEN"
#: The variables that are not settings; those of ``_OF_OTHERS`` are for cetool's tests and the server.
_OTHER_VARIABLES = (
    *("CETOOL_CACHE_DIR", "CETOOL_CONFIG_FILE", "CETOOL_DATA_DIR", "CETOOL_GITHUB_TOKEN"),
    SERVER_TOKEN,
    *("CETOOL_RUN_RECURSION_DEPTH", "CETOOL_RUN_MAX_RECURSION_DEPTH", "CETOOL_TRACEBACK"),
)
_OF_OTHERS = ("CETOOL_TEST_", "CETOOL_SERVER_")


def variable_of(key: str) -> str:
    """Return the environment variable of a setting: ``CETOOL_MAX_SIZE`` for ``max-size``."""
    return "CETOOL_" + key.upper().replace("-", "_")


_VARIABLES = (*map(variable_of, KEYS), *_OTHER_VARIABLES)


class Wrong(ValueError):
    """A value is invalid; the message continues «KEY », or «KEY: » if ``apart``."""

    def __init__(self, problem: str, hint: str | None = None, *, apart: bool = False) -> None:
        super().__init__(problem)
        self.hint = hint
        self.apart = apart

    def message(self, key: str) -> str:
        """Return the message for a key or an option."""
        return f"{key}{':' * self.apart} {self}"


class Context(Value):
    """What values are read with: the variables, conda's configuration, and whether the value is in a file."""

    environ: Mapping[str, str]
    condarc: Condarc
    in_file: bool = False


def load_settings(environ: Mapping[str, str], *, options: Mapping[str, object] | None = None) -> LoadedSettings:
    """Load the settings for these variables and options.

    ``options`` are by key (``max-size`` or ``max_size``): None, a string, or a value of the setting's type. Raises
    ConfigError with its place for an unknown key, an invalid value or a malformed file; UsageError for a wrong option.
    """
    condarc = load_condarc(environ, root_prefix=conda_root(environ))
    context = Context(environ, condarc)
    in_file = Context(environ, condarc, in_file=True)
    origins = {key: Origin(value, BUILT_IN, value) for key, value in DEFAULTS.items()}
    config_file = config_file_path(environ)
    layers = [condarc.section, {} if config_file is None else read_config_file(config_file, trust=is_trusting(environ))]
    for layer in layers:
        for name, (value, where) in layer.items():
            if name not in DEFAULTS:
                raise no_setting(name, ConfigError, where)
            if value is not None:  # a key without a value sets nothing
                origins[name] = _origin(name, plain_value(value), where, in_file)
    unknown = unknown_variables(environ)
    for key in KEYS:
        if text := environ.get(variable_of(key)):
            origins[key] = _origin(key, text, Location(variable_of(key)), context)
    for name, value in (options or {}).items():
        key = name.replace("_", "-")
        if key not in DEFAULTS:  # possible only for users of the library
            raise no_setting(key)
        if value is not None:
            origins[key] = _origin(key, value, None, context)
    _refuse_envs_dir(origins["env-dir"], condarc, environ)
    values: dict[str, Any] = {key.replace("-", "_"): origin.value for key, origin in origins.items()}
    return LoadedSettings(Settings(**values), origins, condarc, config_file, unknown)


def check_value(key: str, value: object, environ: Mapping[str, str]) -> object:
    """Return what a value in ``config.yaml`` would set. Raises UsageError for an unknown key or an invalid value."""
    if key not in DEFAULTS:
        raise no_setting(key)
    condarc = load_condarc(environ, root_prefix=conda_root(environ))
    try:
        found = _reader(key)(value, Context(environ, condarc, in_file=True))
    except Wrong as wrong:
        raise UsageError(wrong.message(key), hint=wrong.hint) from None
    if key == "env-dir":
        _refuse_envs_dir(Origin(found, key), condarc, environ)
    return found


def no_setting(key: str, kind: type[CetoolError] = UsageError, where: Location | None = None) -> CetoolError:
    """Return the error for an unknown key."""
    return kind(f"unknown setting {key!r}", about=key, code="setting-unknown", where=where, hint=nearest(key, KEYS))


def unknown_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the variables that start with ``CETOOL_`` and are unknown; another version may know them.

    Raises ConfigError for a misspelled known variable: to ignore it would run something else than intended.
    """
    unknown = [name for name in environ if name.startswith("CETOOL") and environ[name] and name not in _VARIABLES]
    unknown = [name for name in unknown if not name.startswith(_OF_OTHERS)]
    for name in unknown:
        if meant := _similar(name, 0.85):
            raise ConfigError(
                f"{name} is not a variable of cetool",
                code="setting-unknown",
                about=name,
                where=Location(name),
                hint=f"Did you mean {meant}? If not, unset {name}.",
            )
    return tuple(sorted(name for name in unknown if name.startswith("CETOOL_")))


def ignored_variable(name: str) -> str:
    """Return the warning about an unknown variable, with the one that was probably meant."""
    meant = _similar(name, 0.78)
    return f"{name} is not a variable of cetool" + (f"; did you mean {meant}?" if meant else "")


def _similar(name: str, cutoff: float) -> str:
    import difflib

    return next(iter(difflib.get_close_matches(name, _VARIABLES, n=1, cutoff=cutoff)), "")


def _origin(key: str, value: object, where: Location | None, context: Context) -> Origin:
    """Read a value; ``where`` is the file's line or the variable, None for an option."""
    option = _OPTIONS.get(key, f"--{value if key == 'verbosity' else key}")
    try:
        return Origin(_reader(key)(value, context), option if where is None else str(where), value)
    except Wrong as wrong:
        if where is None:
            raise UsageError(wrong.message(option), hint=wrong.hint) from None
        raise ConfigError(wrong.message(key), where=where, hint=wrong.hint) from None


def _refuse_envs_dir(origin: Origin, condarc: Condarc, environ: Mapping[str, str]) -> None:
    """Refuse conda's own directories of environments, which ``conda env list`` shows."""
    if not isinstance(origin.value, Path):
        return
    if os.path.realpath(origin.value) in map(os.path.realpath, conda_dirs("envs_dirs", condarc, environ)):
        raise ConfigError(
            f"env-dir ({origin.source}) is {origin.value}, one of the directories where conda keeps its environments",
            hint="Choose another directory, such as one next to it: {config.envs_dirs[0]}/../tmp_envs",
        )


def _reader(key: str) -> Callable[[object, Context], object]:
    """Return the function that reads a setting's value; their module is imported only if a setting is set."""
    return cast("Callable[[object, Context], object]", import_module("cetool.settings.reading").READERS[key])
