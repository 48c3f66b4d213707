"""The files and options that tell uv and pip what to install, and from where: written here and nowhere else.

What a script, a lock or an index says is data. Both installers replace ``${NAME}`` in requirements by a variable's
value, so such a text is written in a form that they leave alone (:func:`literal`). Passwords go into private files and
into git's environment, never into arguments, which every user of the machine can read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from cetool.base.errors import EngineError
from cetool.base.limits import SETTINGS, read_text
from cetool.base.patterns import pattern
from cetool.base.urls import redact, scrub, split_url
from cetool.base.values import Value
from cetool.declare.pypi import OWN_OPTIONS, PypiSettings

#: What is said where pip cannot do what a script asks for.
GET_UV = "Install uv: pipx install 'cetool[uv]', or https://docs.astral.sh/uv/."

#: The settings that uv takes from files of requirements, with the options that name them.
_LISTS = {
    "constraint-dependencies": "--constraint",
    "override-dependencies": "--override",
    "exclude-dependencies": "--excludes",
    "build-constraint-dependencies": "--build-constraint",
}
#: Those that say nothing where all files are named already.
_OF_SOLUTIONS = ("constraint-dependencies", "override-dependencies", "exclude-dependencies")
_NOT_IN_TOML = (*_LISTS, *OWN_OPTIONS, "index", "sources")
_AS_PIP = ("allow", "if-necessary", "if-necessary-or-explicit")
_REPOSITORY = pattern(r"git\+(?P<url>(?:https?|ssh)://[^\s;]*)")
_NAME = pattern(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Told(Value):
    """What an installer is started with: ``arguments`` that name the files, and its variables."""

    arguments: tuple[str, ...]
    environ: Mapping[str, str]

    @property
    def arguments_of_compile(self) -> list[str]:
        """The same for ``uv pip compile``, which takes files of requirements without an option."""
        return [argument for argument in self.arguments if argument != "--requirement"]


def write_private(path: Path, text: str) -> None:
    """Write a new file that no other user may read. Raises OSError where there is one."""
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(text, encoding="utf-8")


def literal(line: str) -> str:
    """A line of a requirements file in which neither uv nor pip finds a variable to replace.

    In a URL ``{`` may be written ``%7B``: servers and files see no difference. Raises EngineError where ``${`` is
    elsewhere, or the line could be taken for several or for an option.
    """
    if any(ord(char) < 32 for char in line) or line.lstrip().startswith("-"):
        raise EngineError(f"{redact(line)!r} is not a requirement", code="requirement-invalid")
    before, found, _ = line.partition("${")
    if not found:
        return line
    if "://" not in before or re.search(r"\s;", before):
        raise EngineError(
            f"{redact(line)!r} holds '${{', which uv and pip would replace",
            code="requirement-invalid",
            hint="Take it out.",
        )
    url, marker, rest = line.partition(" ;")
    if "${" in rest:
        raise EngineError(
            f"{redact(line)!r} holds '${{', which uv and pip would replace",
            code="requirement-invalid",
            hint="Take it out.",
        )
    return url.replace("${", "$%7B") + marker + rest


def source_lines(settings: PypiSettings) -> list[str]:
    """The lines of a requirements file that say where packages come from. Raises EngineError for what is no URL."""
    lines = []
    for option, values in (
        ("--index-url", [settings.index_url] if settings.index_url else []),
        ("--extra-index-url", settings.extra_index_urls),
        ("--find-links", settings.find_links),
    ):
        for value in values:
            if re.search(r"\s", value) or value.startswith("-"):
                raise EngineError(
                    f"{redact(value)!r} is not a place for packages",
                    code="requirement-invalid",
                    hint="A URL or a path.",
                )
            lines.append(f"{option} {value.replace('${', '$%7B')}")
    return lines


def refuse_for_pip(settings: PypiSettings) -> None:
    """Raise EngineError where the settings ask for something that only uv can do."""
    from cetool.declare.dialects.uv import KEYS

    for key, value in settings.named.items():
        able = key in OWN_OPTIONS or (key in KEYS and KEYS[key].pip and key not in ("index", "sources"))
        if not able or (key == "prerelease" and value not in _AS_PIP):
            what = {"index": "such an entry of [[tool.uv.index]]", "sources": "a source with an index"}
            raise EngineError(
                f"only uv can do {what.get(key, f'what {key!r} asks for')}, and uv is not found",
                code="installer-missing",
                hint=GET_UV,
            )


# --- uv -------------------------------------------------------------------------------------------------------------


def tell_uv(
    directory: Path, settings: PypiSettings, lines: Iterable[str], environ: Mapping[str, str], *, exactly: bool = False
) -> Told:
    """Write the files for ``uv pip install`` and ``uv pip compile`` into the directory that uv is to work in.

    ``exactly``: the lines name all files, so what is for resolving is left out. Raises EngineError.
    """
    named = settings.named
    sources = named.get("sources", {})
    plain: list[str] = []
    pinned: list[str] = []
    for line in lines:
        (pinned if _name_of(line) in sources and " @ " not in line else plain).append(line)
    plain, known = _without_logins(plain, environ)
    arguments: list[str] = []
    hashes = {} if exactly else named.get("hashes", {})
    text = [*source_lines(settings), *(_hashed(line, hashes) for line in plain), ""]
    write_private(directory / "requirements.txt", "\n".join(text))
    arguments += ["--requirement", str(directory / "requirements.txt")]
    for key, option in _LISTS.items():
        if key in named and not (exactly and key in _OF_SOLUTIONS):
            items, known = _without_logins(named[key], known)
            write_private(directory / f"{key}.txt", "\n".join([*map(literal, items), ""]))
            arguments += [option, str(directory / f"{key}.txt")]
    toml = {key: value for key, value in named.items() if key not in _NOT_IN_TOML}
    project = [f"dependencies = {_toml([_hashed(line, {}) for line in pinned])}"]
    tables = [f"[[tool.uv.index]]\n{_pairs(table)}" for table in named.get("index", [])]
    if pinned:
        tables.append(f"[tool.uv.sources]\n{_pairs({key: sources[key] for key in map(_name_of, pinned)})}")
        arguments += ["--requirement", str(directory / "pyproject.toml")]
    known = _without_passwords_of(named.get("index", []), known)
    config = _own_config(environ)
    if config is not None and (toml or "index" in named):
        known = {key: value for key, value in known.items() if key not in ("UV_CONFIG_FILE", "UV_NO_CONFIG")}
        write_private(directory / "uv.toml", _merged(config, toml, named.get("index", [])))
        arguments += ["--config-file", str(directory / "uv.toml")]
        toml = {}
    if toml or tables:
        head = '[project]\nname = "cetool-script"\nversion = "0"\n' + "\n".join(project)
        body = "\n".join([head, "[tool.uv]", _pairs(toml), *tables, ""])
        write_private(directory / "pyproject.toml", body)
    return Told(tuple(arguments), known)


def _without_passwords_of(indexes: Sequence[Mapping[str, Any]], environ: Mapping[str, str]) -> Mapping[str, str]:
    """The variables without ``UV_INDEX_NAME_PASSWORD`` and the like for the names that a script gives to indexes.

    uv would send a password to whatever URL a script puts behind the name.
    """
    names = {re.sub(r"[^A-Z0-9]", "_", str(index["name"]).upper()) for index in indexes if "name" in index}
    gone = {f"UV_INDEX_{name}_{what}" for name in names for what in ("USERNAME", "PASSWORD")}
    return {key: value for key, value in environ.items() if key.upper() not in gone} if gone else environ


def has_files_of_uv(settings: PypiSettings) -> bool:
    """Whether a ``pyproject.toml`` is written, which an old uv may not understand."""
    return any(key not in (*_LISTS, *OWN_OPTIONS) for key in settings.named)


def _name_of(line: str) -> str:
    found = _NAME.match(line)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def _hashed(line: str, hashes: Mapping[str, Sequence[str]]) -> str:
    """A requirement as a line, with the digests that it has to have: its own, or those of its package."""
    text, _, locked = line.partition(" --hash=")  # of a lock's file
    editable = "-e " if text.startswith("-e ") else ""  # a checkout laid over a base
    digests = [locked] if locked else hashes.get(line) or []
    if not digests and hashes and "://" not in text:
        digests = [each for key, found in hashes.items() if _name_of(key) == _name_of(text) for each in found]
    return " ".join([editable + literal(text.removeprefix(editable)), *(f"--hash={each}" for each in digests)])


def _own_config(environ: Mapping[str, str]) -> Path | None:
    """The user's own configuration file where uv was told to read no others (``/dev/null``: none at all)."""
    if environ.get("UV_NO_CONFIG", "").lower() in ("1", "true", "yes", "on", "t", "y"):
        return Path("/dev/null")
    named = environ.get("UV_CONFIG_FILE")
    return Path(named).absolute() if named else None


def _merged(config: Path, settings: Mapping[str, Any], indexes: Sequence[Mapping[str, Any]]) -> str:
    """The user's ``uv.toml`` with a script's settings in front: a script's win, lists are joined, as uv does it."""
    import tomli

    try:
        theirs = {} if str(config) == "/dev/null" else tomli.loads(read_text(config, SETTINGS))
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(
            f"uv's configuration {config} cannot be read: {scrub(str(error))}", code="setting-invalid"
        ) from None
    listed = [*indexes, *theirs.pop("index", [])]
    tables = [f"[[index]]\n{_pairs(table)}" for table in listed]
    return "\n".join([_pairs({**theirs, **settings}), *tables, ""])


def _pairs(table: Mapping[str, Any]) -> str:
    return "\n".join(f"{_text(key)} = {_toml(value)}" for key, value in table.items())


def _toml(value: Any) -> str:
    """A JSON value as TOML."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_text(key)} = {_toml(item)}' for key, item in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return (
        _text(value) if isinstance(value, str) else json.dumps(value) if not hasattr(value, "isoformat") else str(value)
    )


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


# --- pip ------------------------------------------------------------------------------------------------------------


def tell_pip(
    directory: Path, settings: PypiSettings, lines: Iterable[str], environ: Mapping[str, str], *, exactly: bool = False
) -> Told:
    """Write the files for ``pip install``. Raises EngineError where pip cannot do what the settings ask for."""
    refuse_for_pip(settings)
    named = settings.named
    plain, known = _without_logins(lines, environ)
    hashes = {} if exactly else named.get("hashes", {})
    text = [*source_lines(settings), *(_hashed(line, hashes) for line in plain), ""]
    write_private(directory / "requirements.txt", "\n".join(text))
    arguments = ["--requirement", str(directory / "requirements.txt")]
    if "constraint-dependencies" in named and not exactly:
        items, known = _without_logins(named["constraint-dependencies"], known)
        write_private(directory / "constraint-dependencies.txt", "\n".join([*map(literal, items), ""]))
        arguments += ["--constraint", str(directory / "constraint-dependencies.txt")]
    flags = ("no-index", "no-build-isolation", *(() if exactly else ("prefer-binary", "require-hashes")))
    arguments += [f"--{key}" for key in flags if named.get(key)]
    if named.get("prerelease") == "allow":
        arguments.append("--pre")
    for key, option in (("no-build", "--only-binary"), ("no-binary", "--no-binary")):
        arguments += [f"{option}=:all:"] if named.get(key) else []
    for key, option in (("no-build", "--only-binary"), ("no-binary", "--no-binary")):
        arguments += [f"{option}={','.join(names)}"] if (names := named.get(f"{key}-package")) else []
    arguments += [f"--trusted-host={host}" for host in named.get("allow-insecure-host", [])]
    for key, value in named.get("config-settings", {}).items():
        for item in value if isinstance(value, list) else [value]:
            arguments.append(f"--config-settings={key}={str(item).lower() if isinstance(item, bool) else item}")
    return Told(tuple(arguments), known)


# --- passwords of repositories --------------------------------------------------------------------------------------


def _without_logins(lines: Iterable[str], environ: Mapping[str, str]) -> tuple[list[str], Mapping[str, str]]:
    """The lines without passwords in the URLs of git repositories, and variables by which git knows them.

    The installers hand a repository's URL to git as an argument. A password is sent for its own repository alone.
    """
    found: list[tuple[str, str]] = []

    def plain(match: re.Match[str]) -> str:
        try:
            url = split_url(match["url"])
        except ValueError as error:
            raise EngineError(
                f"{redact(match[0])!r} is not the URL of a repository: {error}",
                code="requirement-invalid",
                hint="In a password, / is %2F.",
            ) from None
        if url.userinfo is None:
            return match[0]
        user, given, _ = url.userinfo.partition(":")
        if url.scheme == "ssh":  # which takes no password from a URL
            return f"git+{url._replace(userinfo=user).joined()}"
        head, at, _ = url.path.rpartition("@")
        place = f"{url.scheme}://{url.place}{head if at else url.path}".rstrip("/")
        if given:
            found.append((f"http.{place}.extraHeader", f"Authorization: {url.basic}"))
        else:
            found.append((f"credential.{place}.username", unquote(user)))
        return f"git+{url.joined(login=False)}"

    texts = [_REPOSITORY.sub(plain, line) for line in lines]
    if not found:
        return texts, environ
    known = dict(environ)
    count = int(known["GIT_CONFIG_COUNT"]) if known.get("GIT_CONFIG_COUNT", "").isdigit() else 0
    for key, value in dict.fromkeys(found):
        known[f"GIT_CONFIG_KEY_{count}"], known[f"GIT_CONFIG_VALUE_{count}"] = key, value
        count += 1
    known["GIT_CONFIG_COUNT"] = str(count)
    return texts, known
