"""Lines below ``pip:``, as pip reads them in a requirements file: requirements, options, and files with more of them.

What a line says of indexes and versions becomes the same settings that ``[tool.uv]`` has, so that uv and pip both get
them, and the environment is named after them. Variables (``${NAME}``) are refused: the lines come with the script.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import unquote, urlsplit

from cetool.base.errors import Location, MetadataError, ScriptNotFoundError, ScriptNotReadableError
from cetool.base.patterns import pattern
from cetool.base.text import has_control, printable, shorten
from cetool.base.urls import quotable, redact
from cetool.declare.channels import file_url
from cetool.declare.nodes import Node
from cetool.declare.pypi import PYPI_NAME, PypiSettings, canonical_requirement, place_url
from cetool.declare.requirements import Requirements
from cetool.declare.source import decode, read_bytes, with_home

if TYPE_CHECKING:
    import argparse

#: Bytes that a requirements file may have, and how many files there may be.
MAX_SIZE = 1024 * 1024
MAX_FILES = 50
MAX_LINE = 10_000

_COMMENT = pattern(r"(?:^|\s)#.*")
_VARIABLE = pattern(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_URL = pattern(r"(?:https?|file|(?:git|hg|svn|bzr)\+(?:https?|ssh|git|file|svn|lp))://\S+")
_ARCHIVE = (".whl", ".tar.gz", ".zip", ".tar.bz2", ".tgz", ".tar.xz")
_EXTRAS = pattern(r"(?P<path>.*?)(?P<extras>\[[A-Za-z0-9._, -]*\])?")
_HASH = pattern(r"sha(?:256:[0-9a-f]{64}|384:[0-9a-f]{96}|512:[0-9a-f]{128})")
_NAMES = pattern(r":all:|:none:|[A-Za-z0-9][A-Za-z0-9._-]*")
_EGG = pattern(r"(?:^|&)egg=(?P<name>[A-Za-z0-9._-]+)(?P<extras>\[[A-Za-z0-9._, -]*\])?(?:-\d[^&]*)?")
_WHAT = "Below 'pip:' write requirements, as in 'requests >=2.31', and options of requirements files."


@functools.cache
def _parser() -> argparse.ArgumentParser:
    """pip's options for requirements files; it raises ValueError for what is none."""
    import argparse  # 5 ms, which those without such lines need not wait for

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ValueError(message)

    parser = Parser(prog="", add_help=False, allow_abbrev=False)
    add = parser.add_argument
    add("words", nargs="*")
    add("-r", "--requirement", "--requirements", action="append", dest="files", default=[])
    add("-c", "--constraint", "--constraints", action="append", dest="constraints", default=[])
    add("-e", "--editable", action="append", dest="editable", default=[])
    add("-i", "--index-url", "--pypi-url")
    add("--extra-index-url", action="append", default=[])
    add("-f", "--find-links", action="append", default=[])
    add("--no-binary", action="append", default=[])
    add("--only-binary", action="append", default=[])
    add("--trusted-host", action="append", default=[])
    add("--hash", action="append", dest="hashes", default=[])
    for flag in ("--no-index", "--pre", "--prefer-binary", "--require-hashes"):
        add(flag, action="store_true")
    return parser


def read_pip_lines(nodes: tuple[Node, ...], base_dir: str | os.PathLike[str]) -> Requirements:
    """What the entries of a list ``pip:`` ask for; relative paths start from ``base_dir``. Raises MetadataError."""
    reader = _Reader()
    for node in nodes:
        reader.line(node.as_text("an entry of pip", _WHAT), node.where, Path(base_dir))
    return reader.found()


def bare_requirement(line: str) -> str | None:
    """The requirement in a line, without comment and options; None where the line is no requirement with a name."""
    text = _split(_COMMENT.sub("", line).strip())[0]
    found = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*(?=$|[\s\[;@<>=!~(])", text)
    return text if found else None


def option_lines(settings: PypiSettings) -> tuple[str, ...] | None:
    """The lines that mean these settings; None where pip has no option for one of them."""
    named = settings.named
    flags = {"no-index": "--no-index", "prefer-binary": "--prefer-binary", "require-hashes": "--require-hashes"}
    lists = {
        **{"allow-insecure-host": "--trusted-host", "no-build-package": "--only-binary"},
        "no-binary-package": "--no-binary",
    }
    whole = {"no-build": "--only-binary :all:", "no-binary": "--no-binary :all:"}
    if settings.exclude_newer is not None or named.get("prerelease", "allow") != "allow":
        return None
    if named.keys() - {*flags, *lists, *whole, "prerelease"}:
        return None
    lines = [f"--index-url {settings.index_url}"] if settings.index_url else []
    lines += [f"--extra-index-url {url}" for url in settings.extra_index_urls]
    lines += [f"--find-links {url}" for url in settings.find_links]
    lines += ["--pre"] if "prerelease" in named else []
    lines += [option for key, option in {**flags, **whole}.items() if named.get(key)]
    lines += [f"{option} {text}" for key, option in lists.items() for text in named.get(key, ())]
    return tuple(lines)


def _split(line: str) -> tuple[str, str]:
    """The requirement at the front of a line, and the options that follow it."""
    words = line.split(" ")
    at = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    return " ".join(words[:at]).strip(), " ".join(words[at:]).strip()


class _Reader:
    """Collects what lines say, through the files that they name."""

    def __init__(self) -> None:
        self._pypi: list[str] = []
        self._constraints: list[str] = []
        self._hashes: dict[str, list[str]] = {}
        self._settings = PypiSettings()
        self._files: list[str] = []
        self._open: list[str] = []

    def found(self) -> Requirements:
        """All that was said."""
        constraints, hashes = sorted(set(self._constraints)), {key: sorted(set(v)) for key, v in self._hashes.items()}
        settings = self._settings.plus(PypiSettings().with_options(constraint_dependencies=constraints, hashes=hashes))
        return Requirements(pypi=tuple(self._pypi), pypi_settings=settings, files=tuple(dict.fromkeys(self._files)))

    def line(self, line: str, where: Location, directory: Path, *, constraint: bool = False) -> None:
        """Take a line in; ``directory`` is where relative paths start. Raises MetadataError."""
        text = _COMMENT.sub("", line).strip()
        if not text:
            return
        shown = quotable(text)
        if len(text) > MAX_LINE or has_control(text.replace("\t", " ")):
            raise MetadataError(
                f"'{shown}' is not a line for pip: it is too long, or holds a line break or a control character",
                code="requirement-invalid",
                where=where,
            )
        if variable := _VARIABLE.search(text):
            raise MetadataError(
                f"'{shown}' refers to the variable {variable[0]}, and a script's requirements have no variables",
                code="requirement-invalid",
                where=where,
                hint="Keep passwords in ~/.netrc, and your own indexes in the configuration of uv or pip.",
            )
        wanted, options = _split(text.replace("\t", " "))
        try:
            given = _parser().parse_intermixed_args(shlex.split(options))
        except ValueError as error:
            raise MetadataError(
                f"'{shown}' cannot be read as a line for pip: {shorten(redact(str(error)))}",
                code="requirement-invalid",
                where=where,
                hint=_WHAT,
            ) from None
        wanted = " ".join([wanted, *given.words]).strip()
        self._options(given, where, directory, constraint=constraint)
        if not wanted:
            if given.hashes:
                raise MetadataError("--hash belongs behind a requirement", code="requirement-invalid", where=where)
            return
        known = _requirement(wanted, where, directory)
        if constraint:
            if known != wanted and _URL.match(known):
                raise MetadataError(
                    f"the constraint '{shown}' needs a name", code="requirement-invalid", where=where, hint="NAME @ URL"
                )
            self._constraints.append(known)
        else:
            self._pypi.append(known)
        if given.hashes and not re.search(r"://|===?[^*]*$", known.partition(";")[0]):
            raise MetadataError(
                f"'{shown}' has a digest, and several versions fit",
                code="requirement-invalid",
                where=where,
                hint="Name one: NAME==VERSION --hash=..., as `pip freeze` or `uv pip compile` write it.",
            )
        for digest in given.hashes:
            if not _HASH.fullmatch(digest.lower()):
                raise MetadataError(
                    f"--hash={shorten(digest)} is not a digest",
                    code="requirement-invalid",
                    where=where,
                    hint="Write sha256: and 64 hexadecimal digits.",
                )
            self._hashes.setdefault(known, []).append(digest.lower())

    def _options(self, given: argparse.Namespace, where: Location, directory: Path, *, constraint: bool) -> None:
        if given.editable:
            raise MetadataError(
                f"-e {shorten(redact(given.editable[0]))!r} is to be installed editable, and an environment never "
                "changes once it is made",
                code="requirement-invalid",
                where=where,
                hint="Write the directory or URL without -e to install it as it is now.",
            )
        node = Node("text", where)
        places = [*given.extra_index_url, *given.find_links, *([given.index_url] if given.index_url else [])]
        for text in places:
            if text.startswith("-") or not text.strip():
                raise MetadataError(
                    f"{shorten(redact(text))!r} is not a URL or a path", code="requirement-invalid", where=where
                )
        settings = PypiSettings(
            index_url=place_url(given.index_url, node, directory) if given.index_url else None,
            extra_index_urls=tuple(place_url(text, node, directory) for text in given.extra_index_url),
            find_links=tuple(place_url(text, node, directory) for text in given.find_links),
        )
        flags = {
            "no-index": given.no_index,
            "prefer-binary": given.prefer_binary,
            "require-hashes": given.require_hashes,
            "prerelease": "allow" if given.pre else None,
            "allow-insecure-host": sorted(set(given.trusted_host)),
        }
        named = {key: value for key, value in flags.items() if value}
        self._settings = self._settings.plus(settings.with_options(**named))
        for key, lists in (("no-binary", given.no_binary), ("no-build", given.only_binary)):
            for names in lists:
                self._formats(key, names, where)
        for name in given.constraints:
            self._file(name, where, directory, constraint=True)
        for name in given.files:
            self._file(name, where, directory, constraint=constraint)

    def _formats(self, key: str, names: str, where: Location) -> None:
        """``--no-binary`` and ``--only-binary``: names, ``:all:`` or ``:none:``, which undoes what was said before."""
        for name in filter(None, map(str.strip, names.split(","))):
            if not _NAMES.fullmatch(name):
                raise MetadataError(
                    f"{shorten(name)!r} is not the name of a PyPI package",
                    code="requirement-invalid",
                    where=where,
                    hint="Names, :all: or :none:.",
                )
            named = self._settings.named
            if name in (":all:", ":none:"):
                settings = self._settings.with_options(**{key: True if name == ":all:" else None, f"{key}-package": []})
            else:
                known = re.sub(r"[-_.]+", "-", name).lower()
                settings = self._settings.with_options(
                    **{f"{key}-package": sorted({*named.get(f"{key}-package", []), known})}
                )
            self._settings = settings

    def _file(self, name: str, where: Location, directory: Path, *, constraint: bool) -> None:
        """Take in all lines of a file. Raises MetadataError where it cannot be read, or leads back to itself."""
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name) and not name.startswith("file://"):
            raise MetadataError(
                f"{shorten(redact(name))!r} is not a file on this machine, and cetool reads no others",
                code="requirement-invalid",
                where=where,
                hint="Put the file beside the script, or write its lines here.",
            )
        local = unquote(urlsplit(name).path) if name.startswith("file://") else name
        path = os.path.abspath(directory / with_home(local, where))
        shown = printable(os.path.relpath(path) if path.startswith(os.getcwd() + os.sep) else path)
        if path in self._open:
            raise MetadataError(
                f"{shown} leads back to itself",
                code="requirement-invalid",
                where=where,
                hint="Take one of the lines -r out.",
            )
        if len(self._files) >= MAX_FILES:
            raise MetadataError(
                f"more than {MAX_FILES} requirements files are named", code="requirement-invalid", where=where
            )
        self._files.append(path)
        try:
            data = b"" if _is_empty(path) else read_bytes(path, shown, "requirements file", limit=MAX_SIZE)
        except (ScriptNotFoundError, ScriptNotReadableError) as error:
            raise error.turned_into(
                MetadataError, message=f"{error.message} (named here)", code="requirement-invalid", where=where
            ) from None
        self._open.append(path)
        for number, line in _lines(decode(data, shown) if data else ""):
            self.line(line, Location(shown, number), Path(path).parent, constraint=constraint)
        self._open.pop()


def _is_empty(path: str) -> bool:
    """Whether a file has nothing in it, which asks for nothing."""
    try:
        return os.path.isfile(path) and os.path.getsize(path) == 0
    except (OSError, ValueError):
        return False


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a requirements file with their numbers, continued ones joined."""
    parts: list[str] = []
    first = 1
    for number, line in enumerate(text.split("\n"), start=1):
        if not parts:
            first = number
        comment = re.match(r"\s*#", line) is not None
        if line.endswith("\\") and not comment:
            parts.append(line[:-1])
            continue
        # a comment ends what it stands in, as in pip
        yield first, "".join([*parts, f" {line}" if comment else line])
        parts = []
    if parts:
        yield first, "".join(parts)


def _requirement(text: str, where: Location, directory: Path) -> str:
    """A requirement in its canonical form: PEP 508, or a URL alone where nothing tells the package's name."""
    parts = re.split(r"\s+;|;\s", text, maxsplit=1)
    body, marker = parts[0].strip(), parts[1] if len(parts) > 1 else ""
    if not _URL.match(body) and not _is_path(body):
        return canonical_requirement(text, where=where, base_dir=directory)
    if _URL.match(body):
        path, extras = (body, "") if "#" in body else _with_extras(body)
        url = path if not path.startswith("file:") else _file_url(path, directory, where)
    else:
        path, extras = _with_extras(body)
        url = file_url(path, directory, where=where)
    name, more = _name(url)
    extras = extras or more
    if name is not None:
        before, _, fragment = url.partition("#")
        fragment = _EGG.sub("", fragment).strip("&")
        url = f"{before}#{fragment}" if fragment else before
    if name is None and extras:
        raise MetadataError(
            f"{shorten(redact(text))!r} asks for extras of a package whose name nothing tells",
            code="requirement-invalid",
            where=where,
            hint=f"Put the name in front: 'NAME{extras} @ {redact(path)}'.",
        )
    held = f" ; {marker.strip()}" if marker.strip() else ""
    if name is not None:
        return canonical_requirement(f"{name}{extras} @ {url}{held}", where=where, base_dir=directory)
    # with some name in front the rest is checked like any other requirement
    return canonical_requirement(f"x @ {url}{held}", where=where, base_dir=directory).partition(" @ ")[2]


def _is_path(text: str) -> bool:
    """Whether pip takes a requirement for the path of a directory or an archive."""
    if " @ " in text or re.match(r"[A-Za-z0-9._-]+\s*(?:\[[^\]]*\])?\s*@", text):
        return False
    plain = _with_extras(text)[0]
    return (
        plain.startswith(("./", "../", "/", "~/"))
        or plain in (".", "..")
        or "/" in plain
        or (plain.lower().endswith(_ARCHIVE))
    )


def _with_extras(text: str) -> tuple[str, str]:
    found = _EXTRAS.fullmatch(text)
    return (text, "") if found is None else (found["path"], (found["extras"] or "").replace(" ", ""))


def _file_url(url: str, directory: Path, where: Location) -> str:
    parts = urlsplit(url)
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    return file_url(unquote(parts.path), directory, where=where) + fragment


def _name(url: str) -> tuple[str | None, str]:
    """The name of the package at a URL, and its extras, as far as the URL or the directory tells."""
    from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename

    parts = urlsplit(url)
    if egg := _EGG.search(parts.fragment):
        return egg["name"], egg["extras"] or ""
    file = unquote(parts.path).rpartition("/")[2]
    try:
        if file.endswith(".whl"):
            return str(parse_wheel_filename(file)[0]), ""
        if file.endswith((".tar.gz", ".zip")) and "+" not in parts.scheme:
            return str(parse_sdist_filename(file)[0]), ""
    except (InvalidWheelFilename, InvalidSdistFilename):
        return None, ""
    return (_declared_name(Path(unquote(parts.path))) if parts.scheme == "file" else None), ""


def _declared_name(directory: Path) -> str | None:
    """The name that a directory's pyproject.toml or setup.cfg gives its package."""
    import configparser

    import tomli

    try:
        project = tomli.loads(read_bytes(str(directory / "pyproject.toml"), "", limit=MAX_SIZE).decode())
        name = project.get("project", {}).get("name")
    except (MetadataError, ScriptNotFoundError, ScriptNotReadableError, ValueError, AttributeError, RecursionError):
        name = None
    if name is None:
        parser = configparser.RawConfigParser()
        try:
            parser.read_string(read_bytes(str(directory / "setup.cfg"), "", limit=MAX_SIZE).decode())
            name = parser.get("metadata", "name", fallback=None)
        except (MetadataError, ScriptNotFoundError, ScriptNotReadableError, ValueError, configparser.Error):
            name = None
    return name if isinstance(name, str) and PYPI_NAME.fullmatch(name) else None
