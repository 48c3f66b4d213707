"""``cetool config``: show the settings and their origins, and change the configuration file."""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cetool.base.errors import ConfigError, UsageError
from cetool.base.urls import redact
from cetool.cli import completing, options
from cetool.cli.output import print_data, print_json
from cetool.cli.tables import Column, Items, show_table
from cetool.cli.voice import Voice
from cetool.settings.file import read_config_file, remove_setting, write_setting
from cetool.settings.paths import config_file_path
from cetool.settings.settings import BUILT_IN, DEFAULTS, KEYS, LoadedSettings, check_value, load_settings, no_setting

#: Schema of ``config list --json``; incompatible changes increment it.
SCHEMA = "cetool.config/1"

app = options.Commands("config", help="Show and change settings.")

#: The settings that are lists.
_LISTS = ("channels", "servers")

_Key = Annotated[
    str,
    typer.Argument(
        metavar="KEY", autocompletion=completing.settings, help="A setting, such as max-size.", show_default=False
    ),
]


@dataclass(frozen=True)
class ListSettingsOptions(options.Group):
    """The options of ``cetool config list``."""

    as_json: options.AsJson = False


@app.command("list")
@options.command
def list_settings(*, given: ListSettingsOptions) -> None:
    """List all settings with their values and origins."""
    loaded = load_settings(os.environ)
    if given.as_json:
        print_json(_document(loaded))
        return
    origins = loaded.origins.items()
    rows = [
        (key, Items((setting_text(key, origin.value) or _unset(key),)), Items((origin.source,)))
        for key, origin in origins
    ]
    columns = map(Column, ("SETTING", "VALUE", "FROM"))
    show_table(list(columns), rows, bold=[origin.source != "built-in" for _, origin in origins])


@app.command("get")
def get_setting(key: _Key) -> None:
    """Print the value of a setting.

    Prints nothing if the setting has no value, and each of several channels on a line of its own.
    """
    _require_key(key)
    value = load_settings(os.environ).origins[key].value
    for item in value if isinstance(value, tuple) else (value,):
        if item is not None:
            print_data(f"{setting_text(key, item)}\n")


@dataclass(frozen=True)
class ChangeOptions(options.Group):
    """The options of ``cetool config set`` and ``unset``."""

    quiet: options.Quiet = False


@app.command("set")
@options.command
def set_setting(
    key: _Key,
    values: Annotated[
        list[str],
        typer.Argument(
            metavar="VALUE",
            autocompletion=completing.setting_values,
            help="The value; `channels` and `servers` take several.",
        ),
    ],
    *,
    given: ChangeOptions,
) -> None:
    """Set a value in the configuration file.

    Comments in the file are kept.
    """
    _require_key(key)
    if len(values) > 1 and key not in _LISTS:
        raise UsageError(f"{key} takes one value, not {len(values)}", hint="Quote a value that contains blanks.")
    stored = _stored(key, values)
    path = _config_file()
    write_setting(path, key, stored)
    voice = _voice(given)
    voice.say(f"Set {key} = {setting_text(key, stored)} in {path}")
    try:
        origin = load_settings(os.environ).origins[key]
    except ConfigError as error:
        voice.warn(str(error))
        return
    if not origin.source.startswith(f"{path}:"):
        voice.warn(f"{key} is {setting_text(key, origin.value)}, set by {origin.source}")


@app.command("unset")
@options.command
def unset_setting(key: _Key, *, given: ChangeOptions) -> None:
    """Remove a value from the configuration file."""
    path = _config_file()
    if key not in read_config_file(path):  # an unknown key in the file can be removed
        _require_key(key)
    changed = remove_setting(path, key)
    _voice(given).say(_now(key, path) if changed else f"{key} is not set in {path}")


@app.command("path")
def print_path() -> None:
    """Print the path of the configuration file."""
    print_data(f"{_config_file()}\n")


def _config_file() -> Path:
    path = config_file_path(os.environ)
    if path is None:
        raise ConfigError(
            "no directory for the configuration file: HOME is not set, and this user has no home directory",
            code="home-missing",
            hint="Set HOME, or set CETOOL_CONFIG_FILE to the path of the file.",
        )
    return path


def _require_key(key: str) -> None:
    if key not in DEFAULTS:
        raise no_setting(key)


def _stored(key: str, values: list[str]) -> object:
    """Return the value to store in the file, checked by the code that will read it."""
    text = values[0].strip()
    found = check_value(key, values if len(values) > 1 else text, os.environ)
    if isinstance(found, bool):
        return found
    if key in ("remove-if-unused-for", "stall-timeout", "server-wait") and re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return float(text) if "." in text else int(text)  # without the quotes that would make it a string
    if key not in _LISTS or (key == "servers" and text.lower() == "none"):
        return text
    if not isinstance(found, tuple):
        noun = key.removesuffix("s")
        raise UsageError(f"no {noun} given", hint=f"`cetool config unset {key}` removes the setting.")
    if any(redact(channel) != channel for channel in found):
        raise UsageError(
            "refusing to write a channel's password or token to the configuration file",
            code="secret-refused",
            hint="Store it where engines look for it: ~/.netrc, `conda auth login`, or `rattler auth login`.",
        )
    return list(found)


def _voice(given: ChangeOptions) -> Voice:
    """What confirms a change, even of a file that is not valid."""
    verbosity = "quiet" if given.quiet else "normal"
    if not given.quiet:
        with contextlib.suppress(ConfigError):
            verbosity = load_settings(os.environ).settings.verbosity
    return Voice(verbosity, os.environ)


def _now(key: str, path: Path) -> str:
    """What a setting is after it was removed from the file: its default, or what a variable or conda's file says."""
    try:
        origin = load_settings(os.environ).origins.get(key)
    except ConfigError:
        origin = None
    if origin is None:
        return f"Removed {key} from {path}"
    value = setting_text(key, origin.value) or _unset(key).strip("()")
    if origin.source == BUILT_IN:
        return f"{key} is back to its default ({value})"
    return f"Removed {key} from {path}; it is {value} ({origin.source})"


def _document(loaded: LoadedSettings) -> dict[str, object]:
    settings = [
        {
            "key": key,
            "value": _json_value(loaded.origins[key].value),
            "source": loaded.origins[key].source,
            "default": _json_value(DEFAULTS[key]),
        }
        for key in KEYS
    ]
    return {"schema": SCHEMA, "settings": settings}


def _json_value(value: object) -> object:
    if isinstance(value, tuple):
        return [redact(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _unset(key: str) -> str:
    """Return what a setting is called that has no value."""
    return "auto" if key == "engine" else "(not set)"


def setting_text(key: str, value: object) -> str:
    """Return a value in the form for `config set`, without credentials; empty for none."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ", ".join(redact(str(item)) for item in value)
    if key == "max-size" and isinstance(value, int):
        units = (("TB", 1000**4), ("GB", 1000**3), ("GiB", 1024**3), ("MB", 1000**2), ("MiB", 1024**2), ("kB", 1000))
        unit, size = next((pair for pair in units if value and value % pair[1] == 0), ("B", 1))
        return f"{value // size}{unit}"
    if isinstance(value, float):
        seconds = round(value * 3600 if key == "remove-if-unused-for" else value, 6)
        unit, length = next((pair for pair in (("h", 3600), ("m", 60)) if seconds % pair[1] == 0), ("s", 1))
        return f"{seconds / length:.6f}".rstrip("0").rstrip(".") + unit
    return redact(str(value))
