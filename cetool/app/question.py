"""Describe what a script from a URL would do here: what the question shows, and what the answer depends on.

The rows have all fields of what was read. A new field is shown under its own name until it gets a label, or a reason in
:data:`UNSHOWN`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from cetool.app.decision import Subject
from cetool.app.overlaying import base_of
from cetool.app.reporting import flow
from cetool.app.world import World
from cetool.base.errors import CetoolError
from cetool.base.text import counted, printable
from cetool.base.urls import redact, split_url
from cetool.declare.channels import resolve_channel
from cetool.declare.metadata import ScriptMetadata, read_metadata
from cetool.declare.requirements import Requirements
from cetool.declare.source import Script
from cetool.lock import EMBEDDED_MARK
from cetool.lock.embedded import read_embedded
from cetool.lock.model import Lock

#: What rows are called, by the class and the field.
LABELS = {
    "Requirements.packages": "env",
    "Requirements.pypi": "pip",
    "Requirements.baselines": "baseline",
    "OverlayKeys.entries": "overlay",
    "PypiSettings.index_url": "index",
    "PypiSettings.extra_index_urls": "indexes",
    "ScriptMetadata.language": "kernel",
    "ScriptMetadata.kernel": "kernel name",
}
#: The fields that are not shown, each with the reason.
UNSHOWN = {
    "ScriptMetadata.dialect": "how the declaration is written",
    "ScriptMetadata.path": "a path on this machine, made from the URL's",
    "ScriptMetadata.lines": "where it is written",
    "ScriptMetadata.cell": "where it is written",
    "ScriptMetadata.chosen": "how run_with was found, which is shown",
    "ScriptMetadata.undecided": "how run_with was found, which is shown",
    "Requirements.warnings": "cetool's own sentences, printed before",
    "Requirements.configured": "shown with the channels",
}
#: Variables that make programs load code that the user did not choose.
_LOADERS = re.compile(
    r"LD_.*|DYLD_.*|GCONV_PATH|PATH|.*_PATH|PYTHON.*|BASH_ENV|ENV|ZDOTDIR|SHELLOPTS|PROMPT_COMMAND|NODE_.*|R_.*|PERL.*"
    r"|RUBY.*|GEM_.*|CLASSPATH|_?(?:JAVA|JDK_JAVA).*OPTIONS|JULIA_.*|LUA_.*|GIT_.*|CARGO_.*|RUSTC.*|MAKEFLAGS|IFS"
)
#: Those whose values are or contain paths.
_PATHS = re.compile(
    r"LD_(?:PRELOAD|AUDIT|LIBRARY_PATH)|DYLD_.*|GCONV_PATH|.*PATH|PYTHON(?:STARTUP|HOME)|BASH_ENV|ENV|ZDOTDIR"
    r"|NODE_OPTIONS|R_(?:PROFILE|ENVIRON|LIBS).*|PERL5?(?:LIB|OPT)|RUBY(?:LIB|OPT)|CLASSPATH|_?(?:JAVA|JDK_JAVA).*OPTIONS"
)
_HOST = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'\[\]]*(?:\[[0-9A-Fa-f:.]*\][^\s\"'\[\]]*)?")
_RELATIVE = re.compile(r"(?:^|[\s=:,;\"'])\.{1,2}(?:/|$|[\s:,;\"'])")
#: A script is read as if it were here, to see what depends on its directory: deeper than ``../..`` leads.
_ELSEWHERE = Path("/", *["-"] * 64)
#: Columns of a row's name, and of a whole line that has blanks to be broken at; characters of one that has none.
_NAMES, _WIDTH, _LONGEST = 12, 100, 1000
_PYPI_FILES = "https://files.pythonhosted.org/packages/"


@dataclass(frozen=True, slots=True)
class Question:
    """What a script would do, as the question shows it."""

    #: Names and values, in the order in which they are shown.
    rows: tuple[tuple[str, str], ...]
    #: Directories and files on this machine that the declaration refers to; the answer counts for these only.
    places: tuple[str, ...]
    #: The lock that the script carries.
    lock: Lock | None


def question_of(subject: Subject, world: World) -> Question:
    """Return the question about a script and what the command line adds. Raises CetoolError for a broken lock."""
    script = subject.source.script
    lock = read_embedded(script) if EMBEDDED_MARK in script.text else None
    declared = {platform: read for platform in subject.platforms if (read := _read(script, platform)) is not None}
    shown = list(declared.items()) if subject.metadata is None else [(None, subject.metadata)]
    rows_for = [(platform, [*rows_of(metadata), *_cautions(metadata)]) for platform, metadata in shown]
    rows: list[tuple[str, str]] = []
    for platform, of_platform in rows_for:
        for name, value in of_platform:
            everywhere = all((name, value) in others for _, others in rows_for)
            row = (name, value if everywhere else f"{value} ({platform})")
            rows += [row] if row not in rows else []
    rows += [] if lock is None else list(_locked_rows(lock, world.platform))
    hosts = _hosts([metadata for _, metadata in shown], lock, world)
    places = {place for platform, read in declared.items() for place in _places(script, platform, read, world)}
    places |= {text for text in _lines(lock) if "file://" in text}
    if not any(name == "channels" for name, _ in rows):
        rows.insert(0, ("channels", "(from your configuration)"))
    return Question((("hosts", ", ".join(hosts) or "none"), *rows), tuple(sorted(map(redact, places))), lock)


def _read(script: Script, platform: str | None) -> ScriptMetadata | None:
    """Return what the script declares; None if it declares nothing and the command line names its packages."""
    try:
        return read_metadata(script, platform)
    except CetoolError:
        return None


# --- rows -------------------------------------------------------------------------------------------------------------


def rows_of(value: object) -> list[tuple[str, str]]:
    """Return name and text of each field that is set, including the fields of values inside."""
    rows = []
    for name, content in _fields(value).items():
        key = f"{type(value).__name__}.{name}"
        if key in UNSHOWN or content in (None, False, (), ""):
            continue
        if _fields(content):
            rows += rows_of(content)
        else:
            text = _text(content)
            if key == "Requirements.channels" and isinstance(value, Requirements) and value.configured:
                text += ", then those in your configuration"
            rows.append((LABELS.get(key, name if name == "run_with" else name.replace("_", "-")), text))
    return rows


def _fields(value: object) -> dict[str, Any]:
    """The fields of a value with named ones, empty for any other."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    names: tuple[str, ...] = getattr(value, "_fields", ())
    return {name: getattr(value, name) for name in names}


def _text(value: object) -> str:
    if isinstance(value, Mapping):
        value = tuple(value.items())
    if not isinstance(value, (tuple, list, set, frozenset)):
        return str(value)
    return flow([_item(item) for item in value])


def _item(item: object) -> str:
    """An entry of a list; a pair is a name and its value."""
    if isinstance(item, tuple) and len(item) == 2 and all(isinstance(part, str) for part in item):
        return f"{item[0]}={item[1]}"
    inner = _fields(item)
    return " ".join(f"{name}={_text(value)}" for name, value in inner.items() if value) if inner else str(item)


def _cautions(metadata: ScriptMetadata) -> Iterator[tuple[str, str]]:
    loaders = [name for name, _ in metadata.requirements.variables if _LOADERS.fullmatch(name.upper())]
    if loaders:
        yield "caution", f"{', '.join(loaders)} can make programs load other code"


def _lines(lock: Lock | None) -> list[str]:
    """The lines of all platforms of a lock: URLs, and direct references."""
    if lock is None:
        return []
    return [line for each in lock.platforms for line in (*each.explicit, *each.explicit_pypi)]


def _locked_rows(lock: Lock, platform: str) -> Iterator[tuple[str, str]]:
    """Yield the packages of the lock in the script, grouped by where they come from."""
    here = lock.platform(platform)
    if here is None:
        yield "lock", f"in the script, for {', '.join(each.platform for each in lock.platforms)}"
        return
    yield "lock", f"in the script, {counted(len(here.conda) + len(here.pypi), 'package')}"
    groups: dict[str, list[str]] = {}
    for package in here.conda:
        channel, file = package.url.rsplit("/", 2)[0], package.url.rsplit("/", 1)[1]
        groups.setdefault(channel, []).append(file)
    for wheel in here.pypi:
        known = wheel.url.startswith(_PYPI_FILES)
        groups.setdefault(_PYPI_FILES if known else wheel.url, []).append(wheel.url.rsplit("/", 1)[1] if known else "")
    for place, files in groups.items():
        yield "locked", place if files == [""] else f"{place}: {', '.join(files)}"


def _hosts(shown: Sequence[ScriptMetadata], lock: Lock | None, world: World) -> list[str]:
    """Return the hosts that packages come from; directories on this machine are shown as ``this machine``."""
    texts: list[str] = _lines(lock)
    for metadata in shown:
        needs = metadata.requirements
        texts += needs.texts
        if needs.overlay is None or needs.overlay.conda:
            channels = needs.channels_after(world.default_channels if needs.needs_configured else ())
            texts += [url for channel in channels for url in resolve_channel(channel, world.condarc)]
        entries = () if needs.overlay is None else needs.overlay.entries
        if (needs.pypi or entries) and needs.pypi_settings.index_url is None:
            texts.append("https://pypi.org (or the index in your configuration)")
    found = {_host(url) for text in texts for url in _HOST.findall(text)}
    return sorted(found)


def _host(url: str) -> str:
    try:
        parts = split_url(url)
        if parts.scheme.rpartition("+")[2] == "file" and parts.host in ("", "localhost"):
            return "this machine"
        return parts.place.encode("idna").decode("ascii")
    except ValueError:
        return "this machine" if url.startswith("file:///") else url


# --- lines ------------------------------------------------------------------------------------------------------------


def shown_line(text: str) -> str:
    """Return foreign text as a line without control characters; runs of spaces are escaped."""
    return re.sub(r" {3,}", lambda found: r"\x20" * len(found[0]), printable(redact(text)))


def wrapped(name: str, value: str) -> list[str]:
    """Return a row as lines. Nothing is cut off, and only the first line begins as a row does."""
    lines, line = [], ""
    for word in shown_line(value).split(" "):
        while len(word) > _LONGEST:
            lines += [line] if line else []
            line, word = word[:_LONGEST], word[_LONGEST:]
        if line and len(line) + 1 + len(word) > _WIDTH - _NAMES:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    lines.append(line)
    return [f"  {f'{name}:' if at == 0 else '':{_NAMES}}{text}" for at, text in enumerate(lines)]


# --- what the answer depends on ---------------------------------------------------------------------------------------


def _places(script: Script, platform: str | None, read: ScriptMetadata, world: World) -> Iterator[str]:
    """Yield the directories and files on this machine that the declaration refers to.

    With others the declaration means something else, which takes another answer.
    """
    needs = read.requirements
    texts = set(needs.texts)
    yield from (text for text in texts if _is_local(text))
    if needs.overlay is not None and not os.path.isabs(needs.overlay.base):
        with contextlib.suppress(CetoolError):  # one that is not there
            yield str(base_of(needs.overlay.base, world)[0])
    there = _read(script._replace(path=_ELSEWHERE / script.path.name), platform)
    if there is None:
        yield os.getcwd()
    else:
        yield from texts - set(there.requirements.texts)
    if _starts_from_here(read):
        yield os.getcwd()


def _is_local(text: str) -> bool:
    return "file://" in text or os.path.isabs(text.removeprefix("-e "))


def _starts_from_here(read: ScriptMetadata) -> bool:
    """Return whether the command, or a variable that makes programs load code, has a relative path."""
    words = read.run_with or (read.entrypoint or "").split()
    if any(_is_relative(word.strip("\"'")) for word in words):
        return True
    for name, value in read.requirements.variables:
        if _RELATIVE.search(value):
            return True
        if _PATHS.fullmatch(name.upper()) and not all(map(os.path.isabs, _paths(value))):
            return True
    return False


def _is_relative(word: str) -> bool:
    return "/" in word and not word.startswith(("/", "-", "${")) and "://" not in word


def _paths(value: str) -> Iterable[str]:
    return re.split(rf"[{os.pathsep}\s]", value) if value else ()
