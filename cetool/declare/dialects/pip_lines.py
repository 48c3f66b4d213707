"""Read lines below ``pip:`` as pip reads them in a requirements file: requirements, options, and further files.

Indexes and versions in these lines become the same settings as in ``[tool.uv]``, so that uv and pip both get them, and
the environment's name depends on them. Variables (``${NAME}``) are refused, since the lines come with the script.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import unquote, urlsplit

from cetool.base.errors import Location, MetadataError, ScriptNotFoundError, ScriptNotReadableError
from cetool.base.text import has_control, normalized, pattern, printable, shorten
from cetool.base.urls import quotable, redact
from cetool.base.values import Value
from cetool.declare.channels import file_url
from cetool.declare.nodes import Directory, Node
from cetool.declare.pypi import PYPI_NAME, PypiSettings, canonical_requirement, place_url
from cetool.declare.requirements import Requirements
from cetool.declare.source import decode, read_bytes, with_home

if TYPE_CHECKING:
    import argparse

#: The most bytes of a requirements file, and the most files.
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
_WHAT = "Below 'pip:' write requirements such as 'requests >=2.31', and options of requirements files."


#: pip's options for requirements files: those with a value, which can be repeated, and flags.
_VALUED = {
    "files": ("-r", "--requirement", "--requirements"),
    "constraints": ("-c", "--constraint", "--constraints"),
    "editable": ("-e", "--editable"),
    "index": ("-i", "--index-url", "--pypi-url"),
    "extra": ("--extra-index-url",),
    "links": ("-f", "--find-links"),
    "no_binary": ("--no-binary",),
    "only_binary": ("--only-binary",),
    "trusted": ("--trusted-host",),
    "hashes": ("--hash",),
}
_FLAGS = ("--no-index", "--pre", "--prefer-binary", "--require-hashes")


@functools.cache
def _parser() -> argparse.ArgumentParser:
    """Return a parser of the options, which raises ValueError for unknown ones."""
    import argparse  # takes 5 ms, saved without such lines

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ValueError(message)

    parser = Parser(prog="", add_help=False, allow_abbrev=False)
    for name, spellings in _VALUED.items():
        parser.add_argument(*spellings, action="append", dest=name, default=[])
    for flag in _FLAGS:
        parser.add_argument(flag, action="store_true")
    return parser


class _Spot(Value):
    """Where a line is: its place, the directory for relative paths, and whether it is a constraint."""

    where: Location
    directory: Path
    constraint: bool = False

    def refuse(self, message: str, hint: str | None = None) -> NoReturn:
        """Raise MetadataError about the line."""
        raise MetadataError(message, code="requirement-invalid", where=self.where, hint=hint)


def read_pip_lines(nodes: tuple[Node, ...], base_dir: Directory) -> Requirements:
    """Return what the entries of a list ``pip:`` request; paths start from ``base_dir``. Raises MetadataError."""
    reader = _Reader()
    for node in nodes:
        reader.line(node.as_text("an entry of pip", _WHAT), _Spot(node.where, Path(base_dir)))
    return reader.found()


def bare_requirement(line: str) -> str | None:
    """Return the requirement in a line, without comment and options; None if it has no requirement with a name."""
    text = _split(_COMMENT.sub("", line).strip())[0]
    found = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*(?=$|[\s\[;@<>=!~(])", text)
    return text if found else None


def option_lines(settings: PypiSettings) -> tuple[str, ...] | None:
    """Return the lines for these settings; None if pip has no option for one of them."""
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
    """Split a line into the requirement and the options after it."""
    words = line.split(" ")
    at = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    return " ".join(words[:at]).strip(), " ".join(words[at:]).strip()


class _Reader:
    """Collects what lines declare, also in files that they name."""

    def __init__(self) -> None:
        self._pypi: list[str] = []
        self._constraints: set[str] = set()
        self._hashes: dict[str, set[str]] = {}
        self._settings = PypiSettings()
        self._files: list[str] = []
        self._open: list[str] = []

    def found(self) -> Requirements:
        """Return everything that was declared."""
        constraints, hashes = sorted(self._constraints), {key: sorted(each) for key, each in self._hashes.items()}
        settings = self._settings.plus(PypiSettings().with_options(constraint_dependencies=constraints, hashes=hashes))
        return Requirements(pypi=tuple(self._pypi), pypi_settings=settings, files=tuple(dict.fromkeys(self._files)))

    def line(self, line: str, spot: _Spot) -> None:
        """Read a line. Raises MetadataError."""
        text = _COMMENT.sub("", line).strip()
        if not text:
            return
        shown = quotable(text)
        if len(text) > MAX_LINE or has_control(text.replace("\t", " ")):
            spot.refuse(
                f"'{shown}' is not a line for pip: it is too long, or contains a line break or a control character"
            )
        if variable := _VARIABLE.search(text):
            spot.refuse(
                f"'{shown}' uses the variable {variable[0]}, which is not supported in a script's requirements",
                "Keep passwords in ~/.netrc, and your own indexes in the configuration of uv or pip.",
            )
        wanted, options = _split(text.replace("\t", " "))
        try:
            given, words = _parser().parse_known_args(shlex.split(options))
            if unknown := [word for word in words if word.startswith("-")]:
                raise ValueError(f"unrecognized arguments: {' '.join(unknown)}")
        except ValueError as error:
            spot.refuse(f"'{shown}' is not a line for pip: {shorten(redact(str(error)))}", _WHAT)
        wanted = " ".join([wanted, *words]).strip()
        self._options(given, spot)
        if not wanted:
            if given.hashes:
                spot.refuse("--hash needs a requirement before it")
            return
        known = _requirement(wanted, spot)
        if not spot.constraint:
            self._pypi.append(known)
        elif known != wanted and _URL.match(known):
            spot.refuse(f"the constraint '{shown}' needs a name", "Write NAME @ URL.")
        else:
            self._constraints.add(known)
        if given.hashes and not re.search(r"://|===?[^*]*$", known.partition(";")[0]):
            spot.refuse(
                f"'{shown}' has a digest, but allows several versions",
                "Pin one: NAME==VERSION --hash=..., as `pip freeze` or `uv pip compile` write it.",
            )
        for digest in given.hashes:
            if not _HASH.fullmatch(digest.lower()):
                spot.refuse(f"--hash={shorten(digest)} is not a digest", "Write sha256: and 64 hexadecimal digits.")
            self._hashes.setdefault(known, set()).add(digest.lower())

    def _options(self, given: Any, spot: _Spot) -> None:
        if given.editable:
            spot.refuse(
                f"-e {shorten(redact(given.editable[0]))!r} cannot be editable: environments never change",
                "Write the directory or URL without -e to install its current state.",
            )

        def places(texts: list[str]) -> tuple[str, ...]:
            return tuple(place_url(text, Node("text", spot.where), spot.directory) for text in texts)

        index = [text for text in given.index[-1:] if text]
        for text in (*given.extra, *given.links, *index):
            if text.startswith("-") or not text.strip():
                spot.refuse(f"{shorten(redact(text))!r} is not a URL or a path")
        settings = PypiSettings(next(iter(places(index)), None), places(given.extra), places(given.links))
        flags = {
            "no-index": given.no_index,
            "prefer-binary": given.prefer_binary,
            "require-hashes": given.require_hashes,
            "prerelease": "allow" if given.pre else None,
            "allow-insecure-host": sorted(set(given.trusted)),
        }
        named = {key: value for key, value in flags.items() if value}
        self._settings = self._settings.plus(settings.with_options(**named))
        for key, lists in (("no-binary", given.no_binary), ("no-build", given.only_binary)):
            for name in filter(None, (name.strip() for names in lists for name in names.split(","))):
                self._format(key, name, spot)
        for name in given.constraints:
            self._file(name, spot, constraint=True)
        for name in given.files:
            self._file(name, spot, constraint=spot.constraint)

    def _format(self, key: str, name: str, spot: _Spot) -> None:
        """Read ``--no-binary`` and ``--only-binary``: a name, ``:all:``, or ``:none:``, which resets earlier ones."""
        if not _NAMES.fullmatch(name):
            spot.refuse(f"{shorten(name)!r} is not a PyPI package name", "Write names, :all: or :none:.")
        some = f"{key}-package"
        changed: dict[str, Any]
        if name in (":all:", ":none:"):
            changed = {key: True if name == ":all:" else None, some: []}
        else:
            changed = {some: sorted({*self._settings.named.get(some, []), normalized(name)})}
        self._settings = self._settings.with_options(**changed)

    def _file(self, name: str, spot: _Spot, *, constraint: bool) -> None:
        """Read all lines of a file. Raises MetadataError if it cannot be read, or includes itself."""
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", name) and not name.startswith("file://"):
            spot.refuse(
                f"{shorten(redact(name))!r} is not a file on this machine",
                "Save the file next to the script, or write its lines here.",
            )
        local = unquote(urlsplit(name).path) if name.startswith("file://") else name
        path = os.path.abspath(spot.directory / with_home(local, spot.where))
        shown = printable(os.path.relpath(path) if path.startswith(os.getcwd() + os.sep) else path)
        if path in self._open:
            spot.refuse(f"{shown} includes itself", "Remove one of the -r lines.")
        if len(self._files) >= MAX_FILES:
            spot.refuse(f"there are more than {MAX_FILES} requirements files")
        self._files.append(path)
        try:
            data = b"" if _is_empty(path) else read_bytes(path, shown, "requirements file", limit=MAX_SIZE)
        except (ScriptNotFoundError, ScriptNotReadableError) as error:
            spot.refuse(f"{shown}: {error.message}", error.hint)
        self._open.append(path)
        for number, line in _lines(decode(data, shown) if data else ""):
            self.line(line, _Spot(Location(shown, number), Path(path).parent, constraint))
        self._open.pop()


def _is_empty(path: str) -> bool:
    """Return whether a file is empty, which is allowed."""
    try:
        return os.path.isfile(path) and os.path.getsize(path) == 0
    except (OSError, ValueError):
        return False


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a requirements file with their numbers; continued lines are joined."""
    parts: list[str] = []
    first = 1
    for number, line in enumerate(text.split("\n"), start=1):
        if not parts:
            first = number
        comment = re.match(r"\s*#", line) is not None
        if line.endswith("\\") and not comment:
            parts.append(line[:-1])
            continue
        # a comment ends a continued line, as in pip
        yield first, "".join([*parts, f" {line}" if comment else line])
        parts = []
    if parts:
        yield first, "".join(parts)


def _requirement(text: str, spot: _Spot) -> str:
    """Return a requirement in canonical form: PEP 508, or only a URL if the package's name is unknown."""
    where, directory = spot.where, spot.directory
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
        spot.refuse(
            f"{shorten(redact(text))!r} has extras, but no package name",
            f"Write the name before it: 'NAME{extras} @ {redact(path)}'.",
        )
    held = f" ; {marker.strip()}" if marker.strip() else ""
    if name is not None:
        return canonical_requirement(f"{name}{extras} @ {url}{held}", where=where, base_dir=directory)
    # with any name before it, the rest is checked like other requirements
    return canonical_requirement(f"x @ {url}{held}", where=where, base_dir=directory).partition(" @ ")[2]


def _is_path(text: str) -> bool:
    """Return whether pip reads a requirement as the path of a directory or an archive."""
    if " @ " in text or re.match(r"[A-Za-z0-9._-]+\s*(?:\[[^\]]*\])?\s*@", text):
        return False
    plain = _with_extras(text)[0]
    return "/" in plain or plain in (".", "..") or plain.lower().endswith(_ARCHIVE)


def _with_extras(text: str) -> tuple[str, str]:
    found = _EXTRAS.fullmatch(text)
    return (text, "") if found is None else (found["path"], (found["extras"] or "").replace(" ", ""))


def _file_url(url: str, directory: Path, where: Location) -> str:
    parts = urlsplit(url)
    fragment = f"#{parts.fragment}" if parts.fragment else ""
    return file_url(unquote(parts.path), directory, where=where) + fragment


def _name(url: str) -> tuple[str | None, str]:
    """Return the name of the package at a URL, and its extras, if the URL or the directory tells them."""
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
    """Return the package name in a directory's pyproject.toml or setup.cfg."""
    import configparser

    import tomli

    def read(name: str) -> str:
        try:
            return read_bytes(str(directory / name), "", limit=MAX_SIZE).decode()
        except (MetadataError, ScriptNotFoundError, ScriptNotReadableError, ValueError):
            return ""

    try:
        name = tomli.loads(read("pyproject.toml")).get("project", {}).get("name")
    except (ValueError, AttributeError, RecursionError):
        name = None
    if name is None:
        parser = configparser.RawConfigParser()
        try:
            parser.read_string(read("setup.cfg"))
            name = parser.get("metadata", "name", fallback=None)
        except (ValueError, configparser.Error):
            name = None
    return name if isinstance(name, str) and PYPI_NAME.fullmatch(name) else None
