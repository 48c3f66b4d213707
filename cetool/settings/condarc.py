"""Read conda's configuration as conda (and mamba) would: search path, merging, environment variables.

Only what cetool uses is read: channels, caches, the network and cetool's own section. All other keys are ignored,
whatever their values. Nothing in a file is executed, and no message quotes a value that may hold a secret. Reference:
https://docs.conda.io/projects/conda/en/stable/user-guide/configuration/use-condarc.html
"""

from __future__ import annotations

import functools
import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cetool.base.errors import ConfigError, Location
from cetool.base.limits import SETTINGS
from cetool.base.ownership import OwnershipError, is_trusting, read_own_file
from cetool.base.plain_yaml import settings_of
from cetool.base.text import pattern
from cetool.base.values import Value
from cetool.settings.file import line_of, load_mapping
from cetool.settings.paths import conda_root, home_directory

#: The default of ``channel_alias``.
DEFAULT_ALIAS = "https://conda.anaconda.org"
#: The key of the section for cetool, named after its predecessor.
SECTION = "conda-execute"

_FILE_NAMES = {".condarc", "condarc", ".mambarc", "mambarc"}
_YAML_SUFFIXES = {".yml", ".yaml"}
_BOM = b"\xef\xbb\xbf"
_VARIABLE = pattern(r"\$(?:\{(?P<braced>[^}]*)\}|(?P<named>\w+))")

# The keys by type, each with conda's aliases; a sequence's delimiter splits its CONDA_ variable.
_SEQUENCES = {
    "channels": (("channels", "channel"), ","),
    "default_channels": (("default_channels",), ","),
    "allowlist_channels": (("allowlist_channels", "whitelist_channels"), ","),
    "denylist_channels": (("denylist_channels",), ","),
    "pinned_packages": (("pinned_packages",), "&"),
    "pkgs_dirs": (("pkgs_dirs",), ","),
    "envs_dirs": (("envs_dirs", "envs_path"), os.pathsep),
}
_MAPS_OF_TEXTS, _MAPS_OF_LISTS = ("custom_channels", "proxy_servers"), ("custom_multichannels", "mirrored_channels")
_SCALARS = {
    "channel_alias": ("channel_alias",),
    "channel_priority": ("channel_priority",),
    "offline": ("offline",),
    "ssl_verify": ("ssl_verify", "verify_ssl"),
    "client_ssl_cert": ("client_ssl_cert", "client_cert"),
    "remote_max_retries": ("remote_max_retries",),
}


class Condarc(Value):
    """conda's configuration, merged. Sequences are in order of priority; unset keys have conda's defaults.

    ``channels`` and the other names are as written (``${VAR}`` replaced), credentials included: never put them into
    messages. ``channel_priority`` is ``strict``, ``flexible`` or ``disabled``; ``ssl_verify`` a bool, or the path of
    certificates; ``pkgs_dirs`` and ``envs_dirs`` absolute paths; None means conda's default. ``section`` holds the keys
    of ``conda-execute:``, each with its place; ``sources`` are the files read, lowest priority first.
    """

    channels: tuple[str, ...] = ()
    channel_alias: str = DEFAULT_ALIAS
    custom_channels: Mapping[str, str] = MappingProxyType({})
    custom_multichannels: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    default_channels: tuple[str, ...] = ()
    allowlist_channels: tuple[str, ...] = ()
    denylist_channels: tuple[str, ...] = ()
    channel_priority: str = "flexible"
    mirrored_channels: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    offline: bool = False
    pkgs_dirs: tuple[str, ...] = ()
    envs_dirs: tuple[str, ...] = ()
    ssl_verify: bool | str = True
    client_ssl_cert: str | None = None
    proxy_servers: Mapping[str, str] = MappingProxyType({})
    remote_max_retries: int | None = None
    pinned_packages: tuple[str, ...] = ()
    section: Mapping[str, tuple[Any, Location]] = MappingProxyType({})
    sources: tuple[str, ...] = ()


class _Entry(Value):
    """One key of one source."""

    value: Any
    where: Location
    #: the ``#!`` flags of the key and of its items
    flag: str | None = None
    item_flags: tuple[str | None, ...] = ()
    #: the lines of a mapping's keys
    lines: Mapping[str, int | None] = MappingProxyType({})


_Layer = Mapping[str, _Entry]


def load_condarc(environ: Mapping[str, str], *, root_prefix: str | None = None, mamba: bool = False) -> Condarc:
    """Load the configuration that conda, or with ``mamba`` mamba, would have in this environment.

    ``root_prefix`` is the installation whose own files count (``CONDA_ROOT``, or mamba's root prefix). Raises
    ConfigError, with file and line, for a file that cannot be read or is not a YAML mapping, and for a value of the
    wrong type: to ignore it could create an environment from the wrong channels.
    """
    files = list(dict.fromkeys(_files(_search_path(environ, root_prefix, mamba), environ)))
    installed = list(filter(None, [_root(environ, root_prefix, mamba), environ.get("CONDA_PREFIX")]))
    layers: list[_Layer] = [_read(path, environ, installed) for path in files]
    layers += filter(None, [_variables(environ)])
    if not layers:
        return Condarc()
    values: dict[str, Any] = {}
    for name, (aliases, _) in _SEQUENCES.items():
        items = _merged_sequence(_entries(layers, aliases), environ)
        values[name] = tuple(_absolute(item, environ) for item in items) if name.endswith("_dirs") else items
    for name in (*_MAPS_OF_TEXTS, *_MAPS_OF_LISTS):
        values[name] = _merged_map(_entries(layers, (name,)), environ, of_sequences=name in _MAPS_OF_LISTS)
    for name, aliases in _SCALARS.items():
        found = _entries(layers, aliases)
        if found and found[-1].value is not None:
            values[name] = _scalar(name, found[-1], environ)
    return Condarc(**values, section=_section(layers), sources=tuple(map(str, files)))


def search_path(environ: Mapping[str, str], *, root_prefix: str | None = None, mamba: bool = False) -> list[str]:
    """Return the paths of all files and directories that :func:`load_condarc` looks for, existing or not."""
    return [_expand_user(path, environ) for path in _search_path(environ, root_prefix, mamba) if path]


def conda_dirs(name: str, condarc: Condarc, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return conda's ``envs_dirs`` (the configured ones, then its defaults) or ``pkgs_dirs`` (else its defaults)."""
    if name not in ("envs_dirs", "pkgs_dirs"):
        return ()
    kind = name.removesuffix("_dirs")
    root, home = conda_root(environ), home_directory(environ)
    candidates = (root and os.path.join(root, kind), home and str(home / ".conda" / kind))
    defaults = tuple(str(candidate) for candidate in candidates if candidate)
    return (*condarc.envs_dirs, *defaults) if kind == "envs" else condarc.pkgs_dirs or defaults


def _search_path(environ: Mapping[str, str], root_prefix: str | None, mamba: bool) -> Iterator[str]:
    """Yield the candidates, lowest priority first, without those that depend on an unset variable."""
    home = _home(environ)
    root = _root(environ, root_prefix, mamba)
    configs = [environ.get("XDG_CONFIG_HOME"), home and f"{home}/.config"]
    if sys.platform == "win32":
        yield from _in_directory("C:/ProgramData/conda", mamba)
    else:
        yield from _in_directory("/etc/conda", mamba)
        yield from _in_directory("/var/lib/conda", mamba)
    yield from _in_directory(root, mamba)
    for config in configs:
        yield from _in_directory(config and f"{config}/conda", False)
    if home:
        yield from _in_directory(f"{home}/.conda", False)
        yield f"{home}/.condarc"
    if mamba:
        for directory in (*(config and f"{config}/mamba" for config in configs), home and f"{home}/.mamba"):
            if directory:
                yield from (f"{directory}/.mambarc", f"{directory}/mambarc", f"{directory}/mambarc.d")
        if home:
            yield f"{home}/.mambarc"
    yield from _in_directory(environ.get("CONDA_PREFIX"), mamba)
    yield environ.get("CONDARC", "")
    if mamba:
        yield environ.get("MAMBARC", "")


def _root(environ: Mapping[str, str], root_prefix: str | None, mamba: bool) -> str | None:
    return root_prefix or environ.get("CONDA_ROOT") or (environ.get("MAMBA_ROOT_PREFIX") if mamba else None)


def _in_directory(directory: str | None, mamba: bool) -> Iterator[str]:
    if directory:
        yield from (f"{directory}/.condarc", f"{directory}/condarc", f"{directory}/condarc.d")
        if mamba:
            yield f"{directory}/.mambarc"


def _files(candidates: Iterable[str], environ: Mapping[str, str]) -> Iterator[Path]:
    """Yield the files among the candidates, and those in the directories among them, sorted by name."""
    for candidate in filter(None, candidates):
        path = Path(_expand_user(candidate, environ))
        try:
            mode = path.stat().st_mode
            if stat.S_ISDIR(mode):
                yield from sorted(
                    entry for entry in path.iterdir() if entry.suffix in _YAML_SUFFIXES and entry.is_file()
                )
            elif stat.S_ISREG(mode) and (path.name in _FILE_NAMES or path.suffix in _YAML_SUFFIXES):
                yield path
        except OSError:
            continue  # as conda does


def _home(environ: Mapping[str, str]) -> str | None:
    return environ.get("USERPROFILE" if sys.platform == "win32" else "HOME") or None


def _expand_user(path: str, environ: Mapping[str, str]) -> str:
    home = _home(environ)
    return home + path[1:] if home and (path == "~" or path.startswith("~/")) else path


def _absolute(path: str, environ: Mapping[str, str]) -> str:
    return os.path.abspath(_expand_user(path, environ))


def _read(path: Path, environ: Mapping[str, str], installed: Iterable[str]) -> _Layer:
    """Return a file's entries.

    A file in an installation may belong to the installation's owner, but then it must not have cetool's section, which
    decides what is trusted.
    """
    trust = is_trusting(environ)
    try:
        owners = {os.stat(root).st_uid for root in installed if path.is_relative_to(root) and os.path.isdir(root)}
        layer = _parse(str(path), read_own_file(path, limit=SETTINGS, trust=trust, owners=owners))
        if owners and SECTION in layer:
            read_own_file(path, limit=SETTINGS, trust=trust)
        return layer
    except OwnershipError as error:
        raise error.turned_into(ConfigError, where=Location(str(path))) from None
    except OSError as error:
        raise ConfigError(f"cannot read the file: {error.strerror}", where=Location(str(path))) from None


@functools.lru_cache(maxsize=64)
def _parse(place: str, content: bytes) -> _Layer:
    """Return a file's entries; cached, since a run reads the same files several times, for conda and for mamba."""
    settings = None if b"#!" in content else settings_of(content.removeprefix(_BOM).decode(errors="replace"))
    if settings is not None:
        return {key: _Entry(each.value, Location(place, each.line), lines=each.lines) for key, each in settings.items()}
    data = load_mapping(
        content,
        place,
        form="conda's configuration is a mapping of settings",
        hint="Fix the file; `conda config --validate` checks it.",
    )
    return {str(key): _entry(data, key, place) for key in data}


def _entry(data: Any, key: Any, place: str) -> _Entry:
    """Return one key of a round-trip mapping, with the flags that conda reads from its comments."""
    value = data[key]
    flags: tuple[str | None, ...] = ()
    if isinstance(value, list):
        flags = tuple(_flag(value, index, 0) for index in range(len(value)))
    lines = {str(each): line_of(value, each) for each in value} if isinstance(value, Mapping) else {}
    return _Entry(value, Location(place, line_of(data, key)), _flag(data, key, 2), flags, lines)


def _flag(collection: Any, key: Any, position: int) -> str | None:
    """Return ``top``, ``bottom`` or ``final`` if the comment after an item is ``#!top`` and so on."""
    try:
        flag = collection.ca.items[key][position].value.strip().split("\n")[0].strip(" #!")
    except (AttributeError, KeyError, IndexError, TypeError):
        return None
    return flag if flag in ("top", "bottom", "final") else None


def _variables(environ: Mapping[str, str]) -> dict[str, _Entry]:
    """Return the ``CONDA_`` variables that set one of the keys, as the layer above all files; skip empty ones."""
    layer: dict[str, _Entry] = {}
    for aliases, delimiter in (*_SEQUENCES.values(), *((names, "") for names in _SCALARS.values())):
        for alias in aliases:
            variable = f"CONDA_{alias.upper()}"
            if text := environ.get(variable):
                items = filter(None, map(str.strip, text.split(delimiter))) if delimiter else ()
                layer[alias] = _Entry(list(items) if delimiter else text.strip(), Location(f"${variable}"))
    return layer


def _entries(layers: Iterable[_Layer], aliases: tuple[str, ...]) -> list[_Entry]:
    """Return the entries of a key, lowest priority first, without those that a ``#!final`` one overrides."""
    found: list[_Entry] = []
    for layer in layers:
        entry = next((layer[alias] for alias in aliases if alias in layer), None)
        if entry is not None:
            found.append(entry)
            if entry.flag == "final":
                break
    return found


def _merged_sequence(entries: list[_Entry], environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return all items, highest priority first; ``#!top`` and ``#!bottom`` items come before and after all others."""
    top: list[str] = []
    bottom: list[str] = []
    middle: list[str] = []
    for entry in entries:
        items = _strings(entry, entry.value, environ)
        flags = entry.item_flags or (None,) * len(items)
        top += [item for item, flag in zip(items, flags, strict=True) if flag == "top"]
        bottom = [item for item, flag in zip(items, flags, strict=True) if flag == "bottom"] + bottom
        middle = [*items, *middle]
    # an item flagged as bottom stays there even if another file has it higher up
    ordered = [*(item for item in (*top, *middle) if item not in bottom), *bottom]
    return tuple(dict.fromkeys(ordered))


def _merged_map(entries: list[_Entry], environ: Mapping[str, str], *, of_sequences: bool) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for entry in entries:
        if entry.value is None:
            continue
        if not isinstance(entry.value, Mapping):
            raise ConfigError("expected a mapping (`name: value` lines)", where=entry.where)
        for key, value in entry.value.items():
            if of_sequences:
                items = _strings(entry, value, environ)
                merged[str(key)] = tuple(dict.fromkeys((*items, *merged.get(str(key), ()))))
            elif isinstance(value, str):
                merged[str(key)] = _expand(value, environ)
            elif value is not None:
                raise ConfigError(f"the value of {str(key)!r} must be a string", where=entry.where)
    return merged


def _strings(entry: _Entry, value: Any, environ: Mapping[str, str]) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(
            "expected a list of names", where=entry.where, hint="Write each name on its own line after '- '."
        )
    return [_expand(str(item), environ) for item in value]


def _scalar(name: str, entry: _Entry, environ: Mapping[str, str]) -> Any:
    value = _expand(entry.value, environ) if isinstance(entry.value, str) else entry.value
    if name in ("channel_alias", "client_ssl_cert") and isinstance(value, str):
        return value
    if name == "remote_max_retries" and not isinstance(value, bool):
        try:
            return int(value)
        except (TypeError, ValueError):
            raise ConfigError(f"{name} must be a number", where=entry.where) from None
    truth = _truth(value)
    if name == "offline" and truth is not None:
        return truth
    if name == "ssl_verify" and (truth is not None or isinstance(value, str)):
        # `truststore` means the system's certificates, which the embedded engine uses anyway
        return truth if truth is not None else value == "truststore" or _absolute(value, environ)
    if name == "channel_priority":
        choice = str(value).lower() if truth is None else ("flexible" if truth else "disabled")
        if choice in ("strict", "flexible", "disabled"):
            return choice
        raise ConfigError("channel_priority must be one of strict, flexible, disabled", where=entry.where)
    raise ConfigError(f"the value of {name} has the wrong type", where=entry.where)


_TRUTHS = {
    **dict.fromkeys(("true", "yes", "on", "y", "1"), True),
    **dict.fromkeys(("false", "no", "off", "n", "0", "none"), False),
}


def _truth(value: Any) -> bool | None:
    """Return the boolean that conda reads; None if the value is not one."""
    if isinstance(value, (bool, int, float)):
        return bool(value)
    return _TRUTHS.get(value.strip().lower()) if isinstance(value, str) else None


def _expand(text: str, environ: Mapping[str, str]) -> str:
    """Replace ``$VAR`` and ``${VAR}``; unset ones stay unchanged."""
    if "$" not in text:
        return text
    return _VARIABLE.sub(lambda match: environ.get(match["braced"] or match["named"] or "", match[0]), text)


def _section(layers: Iterable[_Layer]) -> dict[str, tuple[Any, Location]]:
    merged: dict[str, tuple[Any, Location]] = {}
    for layer in layers:
        entry = layer.get(SECTION)
        if entry is None or entry.value is None:
            continue
        if not isinstance(entry.value, Mapping):
            raise ConfigError(f"{SECTION} must be a mapping of settings", where=entry.where)
        for key, value in entry.value.items():
            merged[str(key)] = (value, Location(entry.where.path, entry.lines[str(key)]))
    return merged
