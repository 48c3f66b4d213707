"""Say what each key of the server's configuration means, and read its values."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cetool.base.durations import parse_duration, parse_size
from cetool.base.errors import CetoolError
from cetool.base.text import nearest, shorten
from cetool.declare.platforms import PLATFORMS
from cetool.server.access import is_name

#: Patterns of what is allowed; None allows everything.
Allowed = tuple[str, ...] | None
#: Name of a profile -> platform -> virtual packages (name and version).
Profiles = Mapping[str, Mapping[str, tuple[tuple[str, str], ...]]]


class Wrong(ValueError):
    """A value is invalid; the message continues the key."""

    def __init__(self, problem: str, hint: str | None = None) -> None:
        super().__init__(problem)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Key:
    """A key: how to read its value, what it means, and the type that the reference shows."""

    read: Callable[[Any], Any]
    kind: str
    text: str
    #: whether a variable holds it as JSON
    json: bool = False


@dataclass(frozen=True, slots=True)
class Watch:
    """A file or directory whose specifications become environments of a namespace."""

    path: Path
    namespace: str = "filesystem"
    recursive: bool = False
    #: seconds between two looks where the system does not report changes; None to detect that
    poll: float | None = None
    #: whether scripts count, and not only environment files
    scripts: bool = False
    #: empty for the server's default
    platforms: tuple[str, ...] = ()
    profile: str = "plain"


@dataclass(frozen=True, slots=True)
class PredefinedUser:
    """A user in the configuration: a password (as text, or as argon2 hash), and roles by pattern."""

    name: str
    password: str = field(repr=False)
    namespace: str
    grants: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class PredefinedToken:
    """A token in the configuration."""

    token: str = field(repr=False)
    name: str
    namespace: str
    grants: Mapping[str, tuple[str, ...]]


def builtin_profiles() -> Profiles:
    """Return the profiles that exist unless the configuration replaces them.

    ``plain`` adds nothing, so that its requests are those of a client without special hardware.
    """
    cuda = ("linux-64", "linux-aarch64", "win-64")
    versions = {"cuda11": "11.8", "cuda12": "12.8", "cuda13": "13.0"}
    found = {name: {each: (("__cuda", version),) for each in cuda} for name, version in versions.items()}
    return {"plain": {}, **found}


# --- one value ------------------------------------------------------------------------------------------------------


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise Wrong(f"must be a text, not {_shown(value)}")
    return value.strip()


def _flag(value: object) -> bool:
    word = str(value).strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise Wrong(f"must be true or false, not {_shown(value)}")


def _count(least: int, most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        text = str(value).strip()
        if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise Wrong(f"must be a number from {least} to {most}, not {_shown(value)}")
        return int(text)

    return read


def _duration(least: float) -> Callable[[object], float]:
    def read(value: object) -> float:
        text = str(value).strip()
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise Wrong(f"must be a duration, not {_shown(value)}", "Write a number and its unit: 90m, 25h, 7d.")
        if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text):
            text += "s"
        seconds = _parsed(parse_duration, text)
        if seconds < least:
            raise Wrong(f"must be at least {least:g} s, not {_shown(value)}")
        return seconds

    return read


def _size(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise Wrong(f"must be a size, not {_shown(value)}", "Write a number and its unit: 500MB, 20GB, 20GiB.")
    return int(_parsed(parse_size, str(value)))


def _size_or_none(value: object) -> int | None:
    return None if isinstance(value, str) and value.strip().lower() == "none" else _size(value)


def _parsed(parse: Callable[[str], float], text: str) -> float:
    try:
        return parse(text)
    except CetoolError as error:
        raise Wrong(f"is invalid: {error.message}", error.hint) from None


def _path(value: object) -> Path:
    """Return an absolute path: a relative one in a file would depend on where the server starts."""
    if isinstance(value, Path):
        return Path(os.path.abspath(value))
    text = os.path.expanduser(_text(value))
    if not Path(text).is_absolute():
        raise Wrong(f"must be an absolute path, not {_shown(value)}", "Write the full path, starting with / or ~.")
    return Path(os.path.normpath(text))


def _names(value: object) -> tuple[str, ...]:
    """Return a list of texts, or a text with commas. No message quotes an item: a channel may hold a password."""
    items = value.split(",") if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
        raise Wrong("must be a list of texts", "Write each on a line after '- ', or [one, other].")
    return tuple(dict.fromkeys(item.strip() for item in items if item.strip()))


def _allowed(value: object) -> Allowed:
    return None if value in ("*", ["*"]) else _names(value)


def _origins(value: object) -> tuple[str, ...]:
    """Return sites as browsers name them: scheme, host, and the port unless it is the scheme's own."""
    found = []
    for text in _names(value):
        match = re.fullmatch(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?/?", text.lower())
        if match is None:
            raise Wrong(f"must be a list of sites, not {_shown(text)}", "Write https://hub.example.org: no path.")
        scheme, host, port = match[1], match[2], match[3] or ""
        found.append(f"{scheme}://{host}{'' if port == {'http': ':80', 'https': ':443'}[scheme] else port}")
    return tuple(found)


def _platforms(value: object) -> tuple[str, ...]:
    names = _names(value)
    for name in names:
        _platform(name)
    return names


def _platform(name: str) -> str:
    if name not in PLATFORMS:
        raise Wrong(f"has the unknown platform {shorten(name)!r}", nearest(name, PLATFORMS))
    return name


def _one_of(*words: str) -> Callable[[object], str]:
    def read(value: object) -> str:
        # YAML reads `off` as false
        word = "off" if value is False else str(value).strip().lower()
        if word not in words:
            raise Wrong(f"must be one of {', '.join(words)}, not {_shown(value)}")
        return word

    return read


def _namespace(value: object) -> str:
    text = _text(value)
    if not is_name(text):
        raise Wrong(f"must be the name of a namespace, not {_shown(value)}", "Use letters, digits, `-`, `_` and `.`.")
    return text


def _prefix(value: object) -> str:
    """Return a prefix of paths as ``/x``, or nothing for the root."""
    text = str(value).strip().strip("/")
    if text and not re.fullmatch(r"[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*", text):
        raise Wrong(f"must be a path of URLs such as /cetool, not {_shown(value)}")
    return f"/{text}" if text else ""


def _bind(value: object) -> str:
    """Return ``host:port``; an address alone gets the default port. A bare word is more likely a slip than a host."""
    text = _text(value)
    host, colon, port = text.rpartition(":")
    if (not colon and ("." in text or text == "localhost")) or text.endswith("]"):
        host, port = text, "8484"
    is_port = re.fullmatch(r"[0-9]{1,5}", port) and int(port) < 65536
    if not is_port or not re.fullmatch(r"\[[0-9a-fA-F:.%]+\]|[A-Za-z0-9.-]+", host):
        raise Wrong(f"must be an address and a port, not {_shown(value)}", "Write 127.0.0.1:8484 or [::1]:8484.")
    return f"{host}:{int(port)}"


# --- mappings and lists of mappings ---------------------------------------------------------------------------------


def _profiles(value: object) -> Profiles:
    """Return the built-in profiles and those of the configuration, which replace equal names."""
    found: dict[str, Mapping[str, tuple[tuple[str, str], ...]]] = dict(builtin_profiles())
    for profile, platforms in _mapping(value, "profiles").items():
        found[profile] = {
            _platform(platform): tuple(sorted((name, str(version)) for name, version in packages.items()))
            for platform, each in _mapping(platforms, profile).items()
            for packages in [_mapping(each, f"{profile}.{platform}")]
        }
    return found


def _watches(value: object) -> tuple[Watch, ...]:
    return tuple(_watch(each) for each in (value if isinstance(value, list) else [value]))


def _watch(value: object) -> Watch:
    if isinstance(value, str):
        return Watch(_path(value))
    entry = _entry(value, ("path",), ("namespace", "recursive", "poll", "scripts", "platforms", "profile"))
    poll = entry.get("poll")
    return Watch(
        _path(entry["path"]),
        _namespace(entry.get("namespace", "filesystem")),
        _flag(entry.get("recursive", False)),
        None if poll is None else _duration(0.1)(poll),
        _flag(entry.get("scripts", False)),
        _platforms(entry.get("platforms", ())),
        _text(entry.get("profile", "plain")),
    )


def _users(value: object) -> tuple[PredefinedUser, ...]:
    found = []
    for each in value if isinstance(value, list) else [value]:
        entry = _entry(each, ("name", "password"), ("namespace", "grants"))
        name = _namespace(entry["name"])
        space = _namespace(entry.get("namespace", name))
        found.append(PredefinedUser(name, str(entry["password"]), space, _grants(entry.get("grants", {}))))
    return tuple(found)


def _tokens(value: object) -> tuple[PredefinedToken, ...]:
    found = []
    for each in value if isinstance(value, list) else [value]:
        entry = _entry(each, ("token",), ("name", "namespace", "grants"))
        token, name = str(entry["token"]), _text(entry.get("name", "predefined"))
        if len(token) < 16:
            raise Wrong(f"has a token of {len(token)} characters", "Use at least 16 random characters.")
        space = _namespace(entry.get("namespace", "default"))
        found.append(PredefinedToken(token, name, space, _grants(entry.get("grants", {}))))
    return tuple(found)


def _grants(value: object) -> dict[str, tuple[str, ...]]:
    return {pattern: _names(roles) for pattern, roles in _mapping(value, "grants").items()}


def _entry(value: object, needed: tuple[str, ...], optional: tuple[str, ...]) -> Mapping[str, Any]:
    entry = _mapping(value, "an entry")
    for key in entry:
        if key not in (*needed, *optional):
            raise Wrong(f"has an entry with the unknown key {key!r}", nearest(key, (*needed, *optional)))
    for key in needed:
        if entry.get(key) is None:
            raise Wrong(f"has an entry without {key!r}")
    return entry


def _mapping(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Wrong(f"is invalid: {what} must be a mapping, not {_shown(value)}")
    return {str(key): item for key, item in value.items()}


def _shown(value: object) -> str:
    return shorten(repr(value), 60)


_DURATION, _SIZE, _TRUTH, _PATH, _LIST = "duration", "size", "true, false", "absolute path", "list"
_OR_NONE = f"{_SIZE}, none"

#: All keys, the common ones first.
KEYS = {
    "data": Key(_path, _PATH, "The data directory: database, environments, logs and the server's key."),
    "bind": Key(_bind, "address:port", "Where the server listens."),
    "workers": Key(_count(0, 256), "number", "How many builds run at once; 0 builds nothing."),
    "url-prefix": Key(_prefix, "path", "The path below which all pages and APIs are."),
    "tls-cert": Key(_path, _PATH, "The certificate, with its chain, for HTTPS."),
    "tls-key": Key(_path, _PATH, "The certificate's private key."),
    "behind-proxy": Key(_flag, _TRUTH, "Whether a proxy does TLS; its `X-Forwarded-*` headers are trusted."),
    "anonymous-access": Key(_flag, _TRUTH, "Whether grants to `anonymous` hold for requests without a token."),
    "allowed-origins": Key(_origins, _LIST, "Other sites whose pages may use the API with the user's login."),
    "sandbox": Key(_one_of("auto", "required", "off"), "auto, required, off", "Whether builds link in a sandbox."),
    "build-timeout": Key(_duration(1), _DURATION, "How long a build may take."),
    "stall-timeout": Key(_duration(1), _DURATION, "How long a build may show no progress."),
    "build-memory": Key(_size_or_none, _OR_NONE, "How much memory a build may use."),
    "build-output": Key(_size, _SIZE, "How much a build may write to its log."),
    "build-processes": Key(_count(8, 1_000_000), "number", "How many processes a build may have."),
    "build-size": Key(_size_or_none, _OR_NONE, "How large an environment may be."),
    "queue-length": Key(_count(1, 1_000_000), "number", "How many builds may wait; more are refused."),
    "retries": Key(_count(0, 100), "number", "How often a build is repeated after a crash or a network failure."),
    "retry-backoff": Key(_duration(0), _DURATION, "The pause before the first repetition; it doubles each time."),
    "lease": Key(_duration(1), _DURATION, "How long a builder may be silent until another takes its build over."),
    "database-wait": Key(_duration(0), _DURATION, "How long a request waits for the database."),
    "log": Key(_one_of("text", "json"), "text, json", "The form of the server's log on standard error."),
    "log-requests": Key(_flag, _TRUTH, "Whether each request is a line of the log."),
    "hosts": Key(_names, _LIST, "Further names of the server; others are refused where it listens on loopback."),
    "body-size": Key(_size, _SIZE, "How large the body of a request may be."),
    "streams": Key(_count(1, 1_000_000), "number", "How many clients may follow logs and events at once."),
    "stream-timeout": Key(_duration(1), _DURATION, "How long a client may follow; it reconnects by itself."),
    "session-lifetime": Key(_duration(60), _DURATION, "How long a login in a browser lasts."),
    "login-attempts": Key(_count(1, 1_000_000), "number", "How many failed logins per minute are allowed."),
    "storage-threshold": Key(_size_or_none, _OR_NONE, "Refuse builds if the disk has less room than this."),
    "keep-builds": Key(_count(1, 1_000_000), "number", "How many completed builds of an environment are kept."),
    "keep-builds-for": Key(_duration(0), _DURATION, "How long other builds are kept."),
    "keep-logs-for": Key(_duration(0), _DURATION, "How long logs of deleted builds are kept."),
    "keep-unused-for": Key(
        _duration(0),
        _DURATION,
        "How long unneeded downloads and archives, and environments without a name, are kept.",
    ),
    "upload": Key(_flag, _TRUTH, "Whether clients may upload locks that they solved."),
    "default-platforms": Key(_platforms, _LIST, "The platforms of a request that names none."),
    "default-namespace": Key(_namespace, "name", "The namespace of requests by users without one of their own."),
    "profiles": Key(_profiles, "mapping", "Virtual packages by profile and platform.", json=True),
    "channels-allowed": Key(_allowed, f"{_LIST}, *", "The channels that requests may use."),
    "channels-default": Key(_names, _LIST, "The channels of a request that names none."),
    "channels-required": Key(_names, _LIST, "Channels that are added to each request."),
    "packages-allowed": Key(_allowed, f"{_LIST}, *", "The packages that requests may name."),
    "packages-default": Key(_names, _LIST, "Packages that are added to requests that name no packages."),
    "packages-required": Key(_names, _LIST, "Packages that are added to each request."),
    "watch": Key(_watches, "list of mappings", "Files and directories that become environments.", json=True),
    "public-metrics": Key(_flag, _TRUTH, "Whether `/metrics` answers other machines without a token."),
    "ui-dir": Key(_path, _PATH, "A directory with conda-store's web interface, served at `/ui`."),
    "users": Key(_users, "list of mappings", "Users with passwords, as text or argon2 hash.", json=True),
    "tokens": Key(_tokens, "list of mappings", "Tokens that always exist.", json=True),
}
