"""Read files that list the packages of an environment: ``environment.yml`` (CEP 24), and one match spec per line."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from cetool.base.errors import Location, MetadataError, ScriptNotFoundError, ScriptNotReadableError
from cetool.base.limits import ENVIRONMENT_FILE
from cetool.base.text import nearest, pattern, printable, shorten
from cetool.declare.channels import channels_of, ends_channels
from cetool.declare.dialects.conda_execute import read_packages, read_variables
from cetool.declare.match_specs import canonical_spec
from cetool.declare.nodes import Node, parse_yaml
from cetool.declare.platforms import current_platform, selectors
from cetool.declare.requirements import Ignored, Requirements
from cetool.declare.source import decode, read_bytes

#: CEP 24's keys.
KEYS = ("name", "prefix", "channels", "dependencies", "variables")
_SELECTOR = pattern(r"(?<!\S)# ?\[([^\[\]]*)\]\s*$")
_SELECTOR_WORD = pattern(r"[A-Za-z_][A-Za-z0-9_.]*|[()]|[^\s()A-Za-z_]+")
#: The names of selectors that CEP 24 adopts from conda-build, and osx64.
_SELECTOR_NAMES = frozenset(
    (
        *("linux", "osx", "win", "unix", "linux32", "linux64", "osx64", "win32", "win64", "x86", "x86_64"),
        *("aarch64", "arm64", "armv6l", "armv7l", "ppc64le", "s390x"),
    )
)
#: Also with one slash, which remains after conversion to a path.
_WAS_URL = pattern(r"(?:https?|ftp|s3|file):/")
_SEL = pattern(r"sel\((.*)\)")
_SEL_NAMES = frozenset(("unix", "linux", "osx", "win"))


#: Keys of an environment.yml under any name; no match spec is followed by a colon.
_YAML_KEYS = pattern(r"^(?:dependencies|channels)[ \t]*:", re.MULTILINE)
_LOCK_FILE = "Pass it with --lock-file."
#: Files that are passed by mistake: what they are, regular expressions for lines that they have in this order, a hint.
_OTHER_FORMATS = (
    (
        "a list of exact packages (@EXPLICIT)",
        (r"^[ \t]*@EXPLICIT",),
        "Create its environment with `cetool create --file FILE`, or run a script in it with --lock-file FILE.",
    ),
    ("a conda-lock.yml", (r"^metadata:", r"^package:"), _LOCK_FILE),
    ("a pixi.lock", (r"^environments:", r"^packages:"), _LOCK_FILE),
    (
        "a pyproject.toml",
        (r"^\[(?:project|build-system|dependency-groups|tool\.[^\[\]\n]+)\][ \t]*$",),
        "To install the project, write an environment.yml with `dependencies: [python, {pip: [.]}]`.",
    ),
    (
        "a pixi.toml",
        (r"^\[(?:workspace|dependencies|pypi-dependencies|tasks|feature\.[^\[\]\n]+)\][ \t]*$",),
        "Write an environment.yml with `pixi workspace export conda-environment`, or use [tool.pixi] in the script.",
    ),
    (
        "a requirements file of pip",
        (
            r"^(?:-[rceif]\b|--[a-z]|"
            r"[A-Za-z0-9](?:[^\s#]* @ |[^#\n]*(?:;[ \t]*(?:python|sys|os|platform|implementation)_| --hash)))",
        ),
        "Write an environment.yml that includes it: `dependencies: [python, {pip: [-r requirements.txt]}]`.",
    ),
)


def read_environment_file(path: str | os.PathLike[str], platform: str | None = None) -> Requirements:
    """Return what the file requests on a platform (None: this one); paths start from its directory.

    A name that ends in ``.yml`` or ``.yaml``, or the keys of an environment.yml, mean YAML; other files have one match
    spec per line. Raises MetadataError.
    """
    given = os.fspath(path)
    name = printable(given)
    try:
        data = read_bytes(given, name, "environment file", limit=ENVIRONMENT_FILE)
    except (ScriptNotFoundError, ScriptNotReadableError) as error:
        if _WAS_URL.match(given):
            message = "an environment file cannot be a URL"
            raise _malformed(message, None, "Download it, check it, and pass the file.") from None
        # the exit statuses 126 and 127 are for the script itself
        raise error.turned_into(MetadataError, code="environment-file-malformed") from None
    return environment_in(decode(_as_utf8(data), name), Path(given).absolute(), name, platform)


def environment_in(text: str, path: Path, name: str, platform: str | None = None) -> Requirements:
    """Return what the text of a file requests; see :func:`read_environment_file`. ``name`` is for messages."""
    _refuse_other_formats(text, name)
    if path.name.lower().endswith((".yml", ".yaml")) or _YAML_KEYS.search(text):
        return _read_yaml(text, name, path.parent, platform or current_platform())
    return _read_lines(text, name, path.parent)


def _refuse_other_formats(text: str, name: str) -> None:
    """Raise MetadataError for a file of another tool, whatever its name: say what it is, and what to do with it."""
    for what, signs, hint in _OTHER_FORMATS:
        found: list[re.Match[str]] = []
        for sign in signs:  # one search each: a single expression for both would take quadratic time
            match = re.compile(sign, re.MULTILINE).search(text, found[-1].end() if found else 0)
            if match is None:
                break
            found.append(match)
        else:
            line = text.count("\n", 0, found[0].start()) + 1
            raise _malformed(f"this is {what}, not an environment file", Location(name, line), hint)


def _malformed(message: str, where: Location | None, hint: str) -> MetadataError:
    return MetadataError(message, code="environment-file-malformed", where=where, hint=hint)


def _as_utf8(data: bytes) -> bytes:
    """Return the file in UTF-8; like conda, accept UTF-16, which PowerShell writes."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and not data.startswith(codecs.BOM_UTF32_LE):
        with contextlib.suppress(UnicodeDecodeError):
            return data.decode("utf-16").encode()
    return data


def _read_yaml(text: str, name: str, directory: Path, platform: str) -> Requirements:
    root = parse_yaml(_selected(text, name, platform), name=name, aliases=True)
    if root is None or root.kind == "nothing":
        raise _malformed("the environment file is empty", Location(name), "Add `dependencies:`.")
    keys = root.as_mapping("the environment file")
    if "dependencies" not in keys:
        message, wanted = "the environment file has no dependencies", ("dependencies",)
        for key in keys:
            if key not in KEYS and nearest(key, wanted).startswith("Did"):
                hint = "Did you mean 'dependencies'?"
                raise _malformed(f"{message}, but a key {shorten(key)!r}", keys[key].where, hint)
        raise _malformed(message, Location(name), "Add `dependencies:`.")
    listed = read_packages(_without_sel(keys["dependencies"], platform), "dependencies", directory)
    channels = channels_of(keys.get("channels"), directory)
    return listed._replace(
        channels=channels,
        configured=channels is not None and not ends_channels(keys["channels"]),
        variables=read_variables(keys.get("variables")),
        warnings=tuple(_ignored(keys)),
    )


def _selected(text: str, name: str, platform: str) -> str:
    """Return the text without the lines whose selector (``# [win]``, as in conda-lock) is false on a platform.

    Lines are emptied, not removed, so that line numbers stay. Raises MetadataError for a selector that contains more
    than names of systems and processors, as conda-build's may.
    """
    if "[" not in text or "#" not in text:
        return text
    holds = _selector_names(platform)
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        found = _SELECTOR.search(line)
        if found is None or not line[: found.start()].strip():
            continue
        if not _SELECTOR_NAMES.intersection(_SELECTOR_WORD.findall(found[1])):
            continue  # a comment with brackets
        value = _evaluated(found[1], _SELECTOR_NAMES, holds)
        if value is None:
            raise _malformed(
                f"the selector [{shorten(found[1])}] is not supported",
                Location(name, number),
                f"Use and, or, not, parentheses and these names: {', '.join(sorted(_SELECTOR_NAMES))}.",
            )
        lines[number - 1] = line if value else ""
    return "\n".join(lines)


def _selector_names(platform: str) -> set[str]:
    """Return the names of selectors that are true on a platform (conda-build's, and osx64)."""
    system, _, processor = platform.partition("-")
    names = {system, *selectors(platform)[1:], {"64": "x86_64"}.get(processor, processor)}
    if processor in ("64", "32"):
        names |= {"x86", f"{system}{processor}"}
    return names


def _evaluated(text: str, names: frozenset[str], holds: set[str]) -> bool | None:
    """Evaluate an expression of names, ``and``, ``or``, ``not`` and parentheses; return None if it is not one."""
    import ast

    def value(node: ast.expr) -> bool:
        if isinstance(node, ast.Name):
            return node.id in holds
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return not value(node.operand)
        if isinstance(node, ast.BoolOp):
            values = [value(each) for each in node.values]
            return all(values) if isinstance(node.op, ast.And) else any(values)
        raise ValueError

    if not set(_SELECTOR_WORD.findall(text)) <= {*names, "and", "or", "not", "(", ")"}:
        return None
    try:
        return value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _without_sel(node: Node, platform: str) -> Node:
    """Return the dependencies with each ``sel(EXPRESSION): spec`` (CEP 24) replaced by its spec, or removed."""
    if node.kind == "nothing":
        return node
    items: list[Node] = []
    for item in node.as_list("dependencies", "Write one match spec per entry: [python >=3, numpy]."):
        conditions = {key: found[1] for key in item.entries if (found := _SEL.fullmatch(key))}
        rest = {key: value for key, value in item.entries.items() if key not in conditions}
        for key, condition in conditions.items():
            value = item.entries[key]
            held = _evaluated(condition, _SEL_NAMES, _selector_names(platform))
            if held is None:
                value.fail(
                    f"{shorten(key)!r} is not a selector", "Write sel(unix), sel(linux), sel(osx) or sel(win) (CEP 24)."
                )
            if value.kind != "text":
                value.fail(f"{key} must be followed by one match spec, not {value.in_words}", code="match-spec-invalid")
            items += [value] if held else []
        if rest or not conditions:
            items.append(item._replace(entries=rest) if conditions else item)
    return node._replace(items=tuple(items))


def _ignored(keys: Mapping[str, Node]) -> Iterator[Ignored]:
    """Yield warnings about ignored keys."""
    for key, node in keys.items():
        if key == "prefix":
            yield Ignored("'prefix' is ignored: cetool chooses where environments are", node.where)
        elif key not in KEYS:
            # CEP 24 says to ignore unknown keys, even misspelled ones: so suggest a known key
            meant = nearest(key, KEYS)
            more = f". {meant}" if meant.startswith("Did") else ""
            yield Ignored(f"unknown key {shorten(key)!r}: ignored{more}", node.where)


def _read_lines(text: str, name: str, directory: Path) -> Requirements:
    packages = []
    for number, line in enumerate(text.split("\n"), start=1):
        spec = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
        if not spec:
            continue
        where = Location(name, number)
        packages.append(canonical_spec(spec, where=where, base_dir=directory))
    if not packages:
        raise _malformed("the file has no packages", Location(name), "Write one match spec per line.")
    return Requirements(packages=tuple(packages))
