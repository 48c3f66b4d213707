"""Write the files and options that tell uv and pip what to install, and from where: the only module that does.

Text from a script, lock or index is data, but both installers replace ``${NAME}`` in requirements by the variable's
value. Such text is therefore written in a form that they do not change (:func:`literal`). Passwords are written to
private files or passed to git in variables, never in arguments, which every user of the machine can read.
"""

from __future__ import annotations

import configparser
import io
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cetool.base.errors import EngineError
from cetool.base.files import write_new
from cetool.base.limits import SETTINGS, read_text
from cetool.base.text import normalized, pattern
from cetool.base.urls import redact, scrub, split_url
from cetool.base.values import Value
from cetool.declare.dialects.uv import KEYS
from cetool.declare.pypi import OWN_OPTIONS, PypiSettings

#: The hint if pip does not support what a script requires.
GET_UV = "Install uv (`pipx install 'cetool[uv]'`, or see https://docs.astral.sh/uv/)."
USE_UV = f"{GET_UV} If pip-installer is set to pip, change it to auto."

#: Options of pip that would install elsewhere, install something else, or write other files.
_PIP_ASTRAY = frozenset(
    (
        *("target", "prefix", "root", "user", "python", "require-virtualenv", "src", "log", "report", "dry-run"),
        *("requirement", "constraint", "build-constraint", "editable", "no-deps", "ignore-installed"),
        *("force-reinstall", "upgrade", "upgrade-strategy", "root-user-action"),
    )
)
#: The settings that uv reads from requirements files, with the options that name these files.
_LISTS = {
    "constraint-dependencies": "--constraint",
    "override-dependencies": "--override",
    "exclude-dependencies": "--excludes",
    "build-constraint-dependencies": "--build-constraint",
}
#: Settings that have no effect if all files are given.
_OF_SOLUTIONS = ("constraint-dependencies", "override-dependencies", "exclude-dependencies")
_NOT_IN_TOML = (*_LISTS, *OWN_OPTIONS, "index", "sources")
_AS_PIP = ("allow", "if-necessary", "if-necessary-or-explicit")
#: In :attr:`Call.rebuilt`: all packages.
EVERYTHING = ":all:"
_REPOSITORY = pattern(r"git\+(?P<url>(?:https?|ssh)://[^\s;]*)")
_NAME = pattern(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an installer."""

    #: Lines of a requirements file: requirements, URLs, ``-e`` before a directory.
    lines: Sequence[str]
    settings: PypiSettings = field(default_factory=PypiSettings)
    #: Packages that must not change: normalized name to version.
    pins: Mapping[str, str] = field(default_factory=dict)
    #: The lines are exact files: settings for resolving are ignored.
    exactly: bool = False
    #: Dependencies are not installed.
    alone: bool = False
    #: Each line has a digest, which is required.
    hashed: bool = False
    #: No index is used.
    no_index: bool = False
    #: Install to this directory instead of the python's environment.
    target: Path | None = None
    #: Packages that uv builds again even if it has them in its cache.
    rebuilt: Sequence[str] = ()


class Told(Value):
    """How an installer is started: the ``arguments`` that name the files, and its variables."""

    arguments: tuple[str, ...]
    environ: Mapping[str, str]

    @property
    def arguments_of_compile(self) -> list[str]:
        """The arguments for ``uv pip compile``, which takes requirements files without an option."""
        return [argument for argument in self.arguments if argument != "--requirement"]


def write_private(path: Path, text: str) -> None:
    """Write a new file that no other user can read. Raises OSError if it exists."""
    write_new(path, text.encode(), mode=0o600)


def _invalid(problem: str, hint: str | None = None) -> EngineError:
    return EngineError(problem, code="requirement-invalid", hint=hint)


def literal(line: str) -> str:
    """Return a line of a requirements file in which uv and pip replace no variables.

    In a URL, ``{`` is written as ``%7B``, which has the same meaning. Raises EngineError if ``${`` is elsewhere, or if
    the line could be read as several lines or as an option.
    """
    if any(ord(char) < 32 for char in line) or line.lstrip().startswith("-"):
        raise _invalid(f"{redact(line)!r} is not a requirement")
    before, found, _ = line.partition("${")
    if not found:
        return line
    url, marker, rest = line.partition(" ;")
    if "://" not in before or re.search(r"\s;", before) or "${" in rest:
        raise _invalid(f"{redact(line)!r} contains '${{', which uv and pip would replace", "Remove it.")
    return url.replace("${", "$%7B") + marker + rest


def _source_lines(settings: PypiSettings) -> list[str]:
    """Return the lines of a requirements file for indexes and files. Raises EngineError for an invalid URL."""
    places = [("--index-url", settings.index_url)] if settings.index_url else []
    places += [("--extra-index-url", url) for url in settings.extra_index_urls]
    places += [("--find-links", place) for place in settings.find_links]
    for _, place in places:
        if re.search(r"\s", place) or place.startswith("-"):
            raise _invalid(f"{redact(place)!r} is not a valid location of packages", "Use a URL or a path.")
    return [f"{option} {place.replace('${', '$%7B')}" for option, place in places]


def refuse_for_pip(settings: PypiSettings) -> None:
    """Raise EngineError for settings that only uv supports."""
    for key, value in settings.named.items():
        able = key in OWN_OPTIONS or (key in KEYS and KEYS[key].pip and key not in ("index", "sources"))
        if not able or (key == "prerelease" and value not in _AS_PIP):
            named = {"index": "this entry of [[tool.uv.index]]", "sources": "a source with an index"}
            what = named.get(key, f"the setting {key!r}")
            raise EngineError(f"{what} requires uv, but pip is used", code="installer-missing", hint=USE_UV)


class _CallFiles:
    """Writes the files of one call, and collects the options and variables for them."""

    def __init__(self, directory: Path, environ: Mapping[str, str]) -> None:
        self.directory = directory
        self.environ = environ
        self.arguments: list[str] = []

    def write(self, name: str, option: str, lines: Iterable[str]) -> None:
        """Write a file and pass it with this option."""
        write_private(self.directory / name, "\n".join([*lines, ""]))
        self.arguments += [option, str(self.directory / name)]

    def shared(self, call: Call, lines: Iterable[str], lists: Iterable[str]) -> None:
        """Write what uv and pip have in common: indexes, these lines, and the settings that are lists."""
        hashes = {} if call.exactly else call.settings.named.get("hashes", {})
        plain = [_hashed(line, hashes) for line in self.without_logins(lines)]
        self.write("requirements.txt", "--requirement", [*_source_lines(call.settings), *plain])
        for key in lists:
            if key in call.settings.named and not (call.exactly and key in _OF_SOLUTIONS):
                self.write(f"{key}.txt", _LISTS[key], map(literal, self.without_logins(call.settings.named[key])))
        if call.pins and not call.exactly:  # the files of a lock are exact, and constraints would need hashes
            pins = (f"{name}=={version}" for name, version in sorted(call.pins.items()))
            self.write("constraints.txt", "--constraint", pins)
        self.arguments += ["--prefix", str(call.target)] if call.target is not None else []
        flags = {"--no-deps": call.alone or call.exactly, "--require-hashes": call.hashed, "--no-index": call.no_index}
        self.arguments += [flag for flag, given in flags.items() if given]

    def without_logins(self, lines: Iterable[str]) -> list[str]:
        """Return the lines without passwords in URLs of git repositories; git gets those in its variables.

        Installers would pass a repository's URL to git as an argument. Each password is sent to its repository only.
        """
        found: list[tuple[str, str]] = []
        texts = [_REPOSITORY.sub(lambda match: _without_login(match, found), line) for line in lines]
        if found:
            known = dict(self.environ)
            count = int(known["GIT_CONFIG_COUNT"]) if known.get("GIT_CONFIG_COUNT", "").isdigit() else 0
            for number, (key, value) in enumerate(dict.fromkeys(found), count):
                known[f"GIT_CONFIG_KEY_{number}"], known[f"GIT_CONFIG_VALUE_{number}"] = key, value
                known["GIT_CONFIG_COUNT"] = str(number + 1)
            self.environ = known
        return texts


def _without_login(match: re.Match[str], found: list[tuple[str, str]]) -> str:
    """Return a repository's URL without its password; git's settings for it are appended to ``found``."""
    try:
        url = split_url(match["url"])
    except ValueError as error:
        problem = f"{redact(match[0])!r} is not the URL of a repository: {error}"
        raise _invalid(problem, "Write / in a password as %2F.") from None
    if url.userinfo is None:
        return match[0]
    user, given, _ = url.userinfo.partition(":")
    if url.scheme == "ssh":  # ssh ignores a password in a URL
        return f"git+{url._replace(userinfo=user).joined()}"
    head, at, _ = url.path.rpartition("@")
    place = f"{url.scheme}://{url.place}{head if at else url.path}".rstrip("/")
    if given:
        found.append((f"http.{place}.extraHeader", f"Authorization: {url.basic}"))
    else:
        found.append((f"credential.{place}.username", unquote(user)))
    return f"git+{url.joined(login=False)}"


# --- uv -------------------------------------------------------------------------------------------------------------


def tell_uv(directory: Path, call: Call, environ: Mapping[str, str]) -> Told:
    """Write the files for ``uv pip install`` and ``uv pip compile`` to uv's working directory. Raises EngineError."""
    named, files = call.settings.named, _CallFiles(directory, environ)
    sources, indexes = named.get("sources", {}), named.get("index", [])
    pinned = [line for line in call.lines if _name_of(line) in sources and " @ " not in line]
    files.shared(call, (line for line in call.lines if line not in pinned), _LISTS)
    toml = {key: value for key, value in named.items() if key not in _NOT_IN_TOML}
    tables: dict[str, Any] = {"index": indexes} if indexes else {}
    if pinned:
        tables["sources"] = {key: sources[key] for key in map(_name_of, pinned)}
        files.arguments += ["--requirement", str(directory / "pyproject.toml")]
    known = _without_passwords_of(indexes, files.environ)
    if (toml or indexes) and (own := _own_config(environ)) is not None:
        known = {key: value for key, value in known.items() if key not in ("UV_CONFIG_FILE", "UV_NO_CONFIG")}
        # the script's settings take precedence and lists are joined, as in uv
        merged = {**own, **toml, "index": [*indexes, *own.get("index", [])]}
        files.write("uv.toml", "--config-file", [_toml(merged)])
        toml = {}
    if toml or tables:
        project = {"name": "cetool-script", "version": "0", "dependencies": [_hashed(line, {}) for line in pinned]}
        write_private(directory / "pyproject.toml", _toml({"project": project, "tool": {"uv": {**toml, **tables}}}))
    return Told(tuple(files.arguments), known)


def _without_passwords_of(indexes: Sequence[Mapping[str, Any]], environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return the variables without ``UV_INDEX_NAME_PASSWORD`` and the like for indexes that a script names.

    uv would send the password to any URL that the script gives to an index of this name.
    """
    names = {re.sub(r"[^A-Z0-9]", "_", str(index["name"]).upper()) for index in indexes if "name" in index}
    gone = {f"UV_INDEX_{name}_{what}" for name in names for what in ("USERNAME", "PASSWORD")}
    return {key: value for key, value in environ.items() if key.upper() not in gone} if gone else environ


def has_files_of_uv(settings: PypiSettings) -> bool:
    """Return whether a ``pyproject.toml`` is written, which an old uv may not support."""
    return any(key not in (*_LISTS, *OWN_OPTIONS) for key in settings.named)


def _name_of(line: str) -> str:
    found = _NAME.match(line)
    return normalized(found[0]) if found else ""


def _hashed(line: str, hashes: Mapping[str, Sequence[str]]) -> str:
    """Return a requirement as a line with its required digests: its own, or those of its package."""
    text, _, locked = line.partition(" --hash=")  # the digest of a locked file
    editable = "-e " if text.startswith("-e ") else ""  # a checkout laid over a base
    digests = [locked] if locked else hashes.get(line) or []
    if not digests and hashes and "://" not in text:
        digests = [each for key, found in hashes.items() if _name_of(key) == _name_of(text) for each in found]
    return " ".join([editable + literal(text.removeprefix(editable)), *(f"--hash={each}" for each in digests)])


def _own_config(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Return the user's configuration if variables select another file, or none, instead of the usual files."""
    import tomli

    if environ.get("UV_NO_CONFIG", "").lower() in ("1", "true", "yes", "on", "t", "y"):
        return {}
    named = environ.get("UV_CONFIG_FILE")
    if not named or named == "/dev/null":
        return {} if named else None
    config = Path(named).absolute()
    try:
        return tomli.loads(read_text(config, SETTINGS))
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(
            f"cannot read uv's configuration {config}: {scrub(str(error))}", code="setting-invalid"
        ) from None


def _toml(document: Mapping[str, Any]) -> str:
    import tomlkit

    return tomlkit.dumps(document)


# --- pip ------------------------------------------------------------------------------------------------------------


def tell_pip(directory: Path, call: Call, environ: Mapping[str, str]) -> Told:
    """Write the files for ``pip install``. Raises EngineError for settings that pip does not support."""
    refuse_for_pip(call.settings)
    named, files = call.settings.named, _CallFiles(directory, environ)
    files.shared(call, call.lines, ("constraint-dependencies",))
    arguments = files.arguments
    flags = ("no-index", "no-build-isolation", *(() if call.exactly else ("prefer-binary", "require-hashes")))
    arguments += [f"--{key}" for key in flags if named.get(key)]
    if named.get("prerelease") == "allow":
        arguments.append("--pre")
    formats = (("no-build", "--only-binary"), ("no-binary", "--no-binary"))
    arguments += [f"{option}=:all:" for key, option in formats if named.get(key)]
    arguments += [f"{option}={','.join(named[name])}" for key, option in formats if named.get(name := f"{key}-package")]
    arguments += [f"--trusted-host={host}" for host in named.get("allow-insecure-host", [])]
    for key, value in named.get("config-settings", {}).items():
        for item in value if isinstance(value, list) else [value]:
            arguments.append(f"--config-settings={key}={str(item).lower() if isinstance(item, bool) else item}")
    return Told(tuple(arguments), files.environ)


def pip_environ(directory: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for pip, which reads the user's configuration without options that install elsewhere."""
    known = {name: value for name, value in environ.items() if not (name.startswith("PIP_") and _is_astray(name[4:]))}
    known["PIP_CONFIG_FILE"] = str(_write_pip_config(directory, environ))
    # ignore an EXTERNALLY-MANAGED file in the prefix, which belongs to cetool; older pips do not have the option
    return {**known, "PIP_BREAK_SYSTEM_PACKAGES": "1", "PIP_ROOT_USER_ACTION": "ignore", "PIP_REQUIRE_VIRTUALENV": "0"}


def _is_astray(key: str) -> bool:
    return key.lower().replace("_", "-") in _PIP_ASTRAY


def _write_pip_config(directory: Path, environ: Mapping[str, str]) -> Path:
    """Write the user's pip configuration without options that install elsewhere; pip reads it instead."""
    home = environ.get("HOME") or environ.get("USERPROFILE") or ""
    config = environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    files = [f"{home}/.pip/pip.conf", f"{config}/pip/pip.conf"]
    if sys.platform == "darwin":
        files.append(f"{home}/Library/Application Support/pip/pip.conf")
    if os.name == "nt":
        files = [f"{home}/pip/pip.ini", f"{environ.get('APPDATA', '')}/pip/pip.ini"]
    named = environ.get("PIP_CONFIG_FILE")
    parser = configparser.RawConfigParser()
    for name in [named] if named else files:
        try:
            parser.read(name, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError) as error:
            reason = scrub(str(error)).splitlines()[0]
            raise EngineError(f"cannot read pip's configuration {name}: {reason}", code="setting-invalid") from None
    for section in parser.sections():
        for key in list(parser[section]):
            if _is_astray(key):
                parser.remove_option(section, key)
    text = io.StringIO()
    parser.write(text)
    write_private(directory / "pip.conf", text.getvalue())
    return directory / "pip.conf"
