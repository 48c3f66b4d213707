"""Load the settings: built-in < ``conda-execute`` in ``.condarc`` < ``config.yaml`` < ``CETOOL_*`` < options.

Every value remembers where it came from, and is read by the same function in every place.
``docs/reference/configuration.md`` describes the keys for users.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from cetool.base.durations import parse_duration, parse_size
from cetool.base.errors import CetoolError, ConfigError, Location, UsageError
from cetool.base.ownership import is_trusting
from cetool.base.text import nearest, pattern
from cetool.base.values import Value
from cetool.settings.condarc import Condarc, conda_dirs, load_condarc
from cetool.settings.file import plain_value, read_config_file
from cetool.settings.paths import conda_root, config_file_path, expand_user

#: The values of ``engine``; ``auto`` in a file or variable undoes the choice of a lower layer.
ENGINES = ("mamba", "micromamba", "conda", "rattler")
BUILT_IN = "built-in"
#: The options whose names differ from their settings'.
_OPTIONS = {"channels": "--channel", "trust": "--yes"}


class Settings(Value):
    """The effective settings.

    ``remove_if_unused_for`` is in hours, ``stall_timeout`` in seconds, ``max_size`` in bytes (None: no limit).
    ``engine`` is None for the first one found, ``channels`` None for those of the engine's configuration (they are as
    written, credentials included: never put them into messages); ``env_dir`` and ``pkg_dir`` are absolute, None for the
    default; ``overlays_dir`` is a path in which ``{overlays}`` and ``{env_name}`` are still to be replaced.
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
#: The variables that are not settings; those of ``_OF_OTHERS`` are for cetool's tests and the server.
_OTHER_VARIABLES = (
    *("CETOOL_CACHE_DIR", "CETOOL_CONFIG_FILE", "CETOOL_DATA_DIR", "CETOOL_GITHUB_TOKEN"),
    *("CETOOL_RUN_RECURSION_DEPTH", "CETOOL_RUN_MAX_RECURSION_DEPTH", "CETOOL_TRACEBACK"),
)
_OF_OTHERS = ("CETOOL_TEST_", "CETOOL_SERVER_")


def variable_of(key: str) -> str:
    """Return the environment variable of a setting: ``CETOOL_MAX_SIZE`` for ``max-size``."""
    return "CETOOL_" + key.upper().replace("-", "_")


_VARIABLES = (*map(variable_of, KEYS), *_OTHER_VARIABLES)


class _Wrong(ValueError):
    """A value is invalid; the message continues «KEY », or «KEY: » if ``apart``."""

    def __init__(self, problem: str, hint: str | None = None, *, apart: bool = False) -> None:
        super().__init__(problem)
        self.hint = hint
        self.apart = apart

    def message(self, key: str) -> str:
        """Return the message for a key or an option."""
        return f"{key}{':' * self.apart} {self}"


class _Context(Value):
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
    context = _Context(environ, condarc)
    in_file = _Context(environ, condarc, in_file=True)
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
        found = _READERS[key](value, _Context(environ, condarc, in_file=True))
    except _Wrong as wrong:
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


def _origin(key: str, value: object, where: Location | None, context: _Context) -> Origin:
    """Read a value; ``where`` is the file's line or the variable, None for an option."""
    option = _OPTIONS.get(key, f"--{value if key == 'verbosity' else key}")
    try:
        return Origin(_READERS[key](value, context), option if where is None else str(where), value)
    except _Wrong as wrong:
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


# --- reading one value ----------------------------------------------------------------------------------------------


def _as_truth(value: object, context: _Context) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, (str, int)) else ""
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise _Wrong(f"must be true or false, not {_shown(value)}")


def _as_hours(value: object, context: _Context) -> float:
    return _seconds(value, "h") / 3600  # without a unit, hours: as in conda-execute


def _as_seconds(value: object, context: _Context) -> float:
    seconds = _seconds(value, "s")
    if seconds <= 0:
        raise _Wrong("must be more than 0 seconds")
    return seconds


def _seconds(value: object, unit: str) -> float:
    """Return the seconds in a duration with its unit, or in a number (also as a string) of ``unit``."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = f"{float(value):f}"
    if not isinstance(value, str):
        raise _Wrong(f"must be a duration, not {_shown(value)}", "Write a number and its unit: 90m, 25h, 7d, 1d12h.")
    is_number = re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,9})?", value.strip())
    return float(_asked(parse_duration, f"{value.strip()}{unit}" if is_number else value))


def _as_size(value: object, context: _Context) -> int | None:
    if isinstance(value, str) and value.strip().lower() == "none":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise _Wrong(f"must be a size, not {_shown(value)}", "Write a number and its unit: 500MB, 20GB, 20GiB.")
    return int(_asked(parse_size, str(value)))


def _asked(parse: Callable[[str], float], text: str) -> float:
    try:
        return parse(text)
    except CetoolError as error:
        raise _Wrong(error.message, error.hint, apart=True) from None


def _one_of(*words: str) -> Callable[[object, _Context], str]:
    def read(value: object, context: _Context) -> str:
        word = value.strip().lower() if isinstance(value, str) else None
        if word in words:
            return str(word)
        raise _Wrong(f"must be one of {', '.join(words)}, not {_shown(value)}")

    return read


def _as_engine(value: object, context: _Context) -> str | None:
    word = _one_of(*ENGINES, "auto")(value, context)
    return None if word == "auto" else word


def _as_channels(value: object, context: _Context) -> tuple[str, ...] | None:
    """Return the channels of a list, or of a string with commas. No message quotes one: it may hold a password."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise _Wrong("must be a list of channels", "Write each on a line after '- ', or [conda-forge, bioconda].")
    channels = tuple(dict.fromkeys(item.strip() for item in items))
    channels = tuple(filter(None, channels)) if isinstance(value, str) else channels
    for number, channel in enumerate(channels, 1):
        if not channel or channel.startswith("-") or re.search(r"[\s\x00-\x1f\x7f\"'`<>\\]", channel):
            raise _Wrong(
                f"channel {number} is not a valid channel name",
                "A channel is a name (conda-forge), a URL or a directory, without blanks or quotes.",
                apart=True,
            )
        if context.in_file and (channel in (".", "..") or channel.startswith(("./", "../"))):
            raise _Wrong(
                f"channel {number} is a relative path",
                "A setting applies in every directory: write the full path, starting with /.",
                apart=True,
            )
    return channels or None


def _as_directory(value: object, context: _Context) -> Path:
    """Return an absolute path; ``~``, ``${VAR}`` and the templates of conda-execute's documentation are replaced."""
    if not isinstance(value, (str, Path)) or not str(value).strip():
        raise _Wrong(f"must be the path of a directory, not {_shown(value)}")
    text = str(value).strip()
    if any(mark in text for mark in "${%"):
        text = _REFERENCE.sub(lambda match: _referred(match, context), text)
    text = expand_user(text, context.environ)
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise _Wrong("contains a control character")
    if not Path(text).is_absolute():
        raise _Wrong(
            f"must be an absolute path, not {_shown(text)}",
            "Write the full path, starting with /, ~ or ${HOME}.",
        )
    return Path(os.path.normpath(text))


def _as_overlays_dir(value: object, context: _Context) -> str | None:
    """Return a path as :func:`_as_directory` does, but keep ``{overlays}`` (at the start) and ``{env_name}``."""
    kept = {"{overlays}": "/\ufdd0", "{env_name}": "\ufdd1"}
    text = str(value)
    if "{overlays}" in text[1:]:
        raise _Wrong("can have {overlays} only at the start", "Write it as in {overlays}/{env_name}.")
    for mark, instead in kept.items():
        text = text.replace(mark, instead)
    path = str(_as_directory(text if isinstance(value, (str, Path)) else value, context))
    for mark, instead in kept.items():
        path = path.replace(instead, mark)
    return path


_REFERENCE = pattern(r"\$\{(?P<braced>\w+)\}|\$(?P<named>\w+)|\{(?P<template>[^{}]*)\}|(?P<percent>%s)")
_CONFIG = pattern(r"config\.(?P<name>\w+)(?:\[(?P<index>[0-9]{1,3})\])?")


def _referred(match: re.Match[str], context: _Context) -> str:
    """Return the value of a variable or template in a path."""
    variable = match["braced"] or match["named"]
    if variable is None:
        return _conda_value(match, context)
    value = context.environ.get(variable)
    if not value:
        raise _Wrong(f"uses the environment variable {variable}, which is not set")
    return value


def _conda_value(match: re.Match[str], context: _Context) -> str:
    """Return a value of conda's such as ``{config.envs_dirs[0]}``; ``%s`` is its first directory of environments."""
    found = _CONFIG.fullmatch("config.envs_dirs[0]" if match["percent"] else match["template"].strip())
    root = conda_root(context.environ)
    if found is not None and found["index"] is None and found["name"] in ("root_prefix", "root_dir") and root:
        return root
    if found is not None and found["index"] is not None:
        values = conda_dirs(found["name"], context.condarc, context.environ)
        if int(found["index"]) < len(values):
            return values[int(found["index"])]
    raise _Wrong(
        f"contains {match[0]!r}, which has no value here",
        "Use ${VAR}, {config.envs_dirs[0]}, {config.pkgs_dirs[0]} or, if CONDA_EXE is set, {config.root_prefix}.",
    )


def _shown(value: object) -> str:
    if isinstance(value, bool):  # as YAML spells it
        return str(value).lower()
    text = "empty" if value is None or value == "" else repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


_READERS: dict[str, Callable[[object, _Context], object]] = {
    "env-dir": _as_directory,
    "remove-if-unused-for": _as_hours,
    "max-size": _as_size,
    "engine": _as_engine,
    "channels": _as_channels,
    "offline": _as_truth,
    "auto-gc": _as_truth,
    "verbosity": _one_of("quiet", "normal", "verbose"),
    "pip-installer": _one_of("auto", "uv", "pip"),
    "trust-cache-dir": _as_truth,
    "stall-timeout": _as_seconds,
    "pkg-dir": _as_directory,
    "trust": _one_of("ask", "always", "never"),
    "locked": _as_truth,
    "frozen": _as_truth,
    "overlays-dir": _as_overlays_dir,
    "user-site": _as_truth,
}
