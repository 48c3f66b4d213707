"""Read the values of settings: from a file, a variable, an option or the library, in the same way."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from cetool.base.durations import parse_duration, parse_size
from cetool.base.errors import CetoolError
from cetool.base.text import pattern
from cetool.settings.condarc import conda_dirs
from cetool.settings.paths import conda_root, expand_user
from cetool.settings.settings import ENGINES, Context, Wrong


def _as_truth(value: object, context: Context) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, (str, int)) else ""
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise Wrong(f"must be true or false, not {_shown(value)}")


def _as_hours(value: object, context: Context) -> float:
    return _seconds(value, "h") / 3600  # without a unit, hours: as in conda-execute


def _as_seconds(value: object, context: Context) -> float:
    seconds = _seconds(value, "s")
    if seconds <= 0:
        raise Wrong("must be more than 0 seconds")
    return seconds


def _as_wait(value: object, context: Context) -> float:
    return _seconds(value, "s")


def _seconds(value: object, unit: str) -> float:
    """Return the seconds in a duration with its unit, or in a number (also as a string) of ``unit``."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = f"{float(value):f}"
    if not isinstance(value, str):
        raise Wrong(f"must be a duration, not {_shown(value)}", "Write a number and its unit: 90m, 25h, 7d, 1d12h.")
    is_number = re.fullmatch(r"-?[0-9]{1,18}(\.[0-9]{1,9})?", value.strip())
    return float(_asked(parse_duration, f"{value.strip()}{unit}" if is_number else value))


def _as_size(value: object, context: Context) -> int | None:
    if isinstance(value, str) and value.strip().lower() == "none":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Wrong(f"must be a size, not {_shown(value)}", "Write a number and its unit: 500MB, 20GB, 20GiB.")
    return int(_asked(parse_size, str(value)))


def _asked(parse: Callable[[str], float], text: str) -> float:
    try:
        return parse(text)
    except CetoolError as error:
        raise Wrong(error.message, error.hint, apart=True) from None


def _one_of(*words: str) -> Callable[[object, Context], str]:
    def read(value: object, context: Context) -> str:
        word = value.strip().lower() if isinstance(value, str) else None
        if word in words:
            return str(word)
        raise Wrong(f"must be one of {', '.join(words)}, not {_shown(value)}")

    return read


def _as_engine(value: object, context: Context) -> str | None:
    word = _one_of(*ENGINES, "auto")(value, context)
    return None if word == "auto" else word


def _as_channels(value: object, context: Context) -> tuple[str, ...] | None:
    """Return the channels of a list, or of a string with commas. No message quotes one: it may hold a password."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise Wrong("must be a list of channels", "Write each on a line after '- ', or [conda-forge, bioconda].")
    channels = tuple(dict.fromkeys(item.strip() for item in items))
    channels = tuple(filter(None, channels)) if isinstance(value, str) else channels
    for number, channel in enumerate(channels, 1):
        if not channel or channel.startswith("-") or re.search(r"[\s\x00-\x1f\x7f\"'`<>\\]", channel):
            raise Wrong(
                f"channel {number} is not a valid channel name",
                "A channel is a name (conda-forge), a URL or a directory, without blanks or quotes.",
                apart=True,
            )
        if context.in_file and (channel in (".", "..") or channel.startswith(("./", "../"))):
            raise Wrong(
                f"channel {number} is a relative path",
                "A setting applies in every directory: write the full path, starting with /.",
                apart=True,
            )
    return channels or None


def _as_servers(value: object, context: Context) -> tuple[str, ...] | None:
    """Return the URLs of a list, or of a string with commas; ``none`` is no server."""
    if isinstance(value, str) and value.strip().lower() == "none":
        return None
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise Wrong("must be a list of URLs", "Write each on a line after '- ', as in - https://envs.example.org")
    urls = tuple(dict.fromkeys(url for item in items if (url := item.strip().rstrip("/"))))
    for number, url in enumerate(urls, 1):
        if not re.fullmatch(r"https?://[^\s/@?#\"'<>\\]+(?:/[^\s@?#\"'<>\\]*)?", url, re.IGNORECASE):
            raise Wrong(
                f"server {number} is not the URL of a server",
                "Write it as in https://envs.example.org; `cetool login URL` stores the token.",
                apart=True,
            )
    return urls or None


def _as_directory(value: object, context: Context) -> Path:
    """Return an absolute path; ``~``, ``${VAR}`` and the templates of conda-execute's documentation are replaced."""
    if not isinstance(value, (str, Path)) or not str(value).strip():
        raise Wrong(f"must be the path of a directory, not {_shown(value)}")
    text = str(value).strip()
    if any(mark in text for mark in "${%"):
        text = _REFERENCE.sub(lambda match: _referred(match, context), text)
    text = expand_user(text, context.environ)
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise Wrong("contains a control character")
    if not Path(text).is_absolute():
        raise Wrong(
            f"must be an absolute path, not {_shown(text)}",
            "Write the full path, starting with /, ~ or ${HOME}.",
        )
    return Path(os.path.normpath(text))


def _as_overlays_dir(value: object, context: Context) -> str | None:
    """Return a path as :func:`_as_directory` does, but keep ``{overlays}`` (at the start) and ``{env_name}``."""
    kept = {"{overlays}": "/\ufdd0", "{env_name}": "\ufdd1"}
    text = str(value)
    if "{overlays}" in text[1:]:
        raise Wrong("can have {overlays} only at the start", "Write it as in {overlays}/{env_name}.")
    for mark, instead in kept.items():
        text = text.replace(mark, instead)
    path = str(_as_directory(text if isinstance(value, (str, Path)) else value, context))
    for mark, instead in kept.items():
        path = path.replace(instead, mark)
    return path


_REFERENCE = pattern(r"\$\{(?P<braced>\w+)\}|\$(?P<named>\w+)|\{(?P<template>[^{}]*)\}|(?P<percent>%s)")
_CONFIG = pattern(r"config\.(?P<name>\w+)(?:\[(?P<index>[0-9]{1,3})\])?")


def _referred(match: re.Match[str], context: Context) -> str:
    """Return the value of a variable or template in a path."""
    variable = match["braced"] or match["named"]
    if variable is None:
        return _conda_value(match, context)
    value = context.environ.get(variable)
    if not value:
        raise Wrong(f"uses the environment variable {variable}, which is not set")
    return value


def _conda_value(match: re.Match[str], context: Context) -> str:
    """Return a value of conda's such as ``{config.envs_dirs[0]}``; ``%s`` is its first directory of environments."""
    found = _CONFIG.fullmatch("config.envs_dirs[0]" if match["percent"] else match["template"].strip())
    root = conda_root(context.environ)
    if found is not None and found["index"] is None and found["name"] in ("root_prefix", "root_dir") and root:
        return root
    if found is not None and found["index"] is not None:
        values = conda_dirs(found["name"], context.condarc, context.environ)
        if int(found["index"]) < len(values):
            return values[int(found["index"])]
    raise Wrong(
        f"contains {match[0]!r}, which has no value here",
        "Use ${VAR}, {config.envs_dirs[0]}, {config.pkgs_dirs[0]} or, if CONDA_EXE is set, {config.root_prefix}.",
    )


def _shown(value: object) -> str:
    if isinstance(value, bool):  # as YAML spells it
        return str(value).lower()
    text = "empty" if value is None or value == "" else repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


READERS: dict[str, Callable[[object, Context], object]] = {
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
    "servers": _as_servers,
    "server-wait": _as_wait,
    "server-upload": _as_truth,
    "verify-channels": _as_truth,
}
