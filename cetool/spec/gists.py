"""Which file a gist's page means: GitHub's API tells what files there are.

Reference: https://docs.github.com/en/rest/gists/gists#get-a-gist
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from cetool.errors import CetoolError, UsageError
from cetool.limits import parse_json
from cetool.spec.addresses import Address, parse_address
from cetool.spec.pages import gist_of
from cetool.spec.source import printable

_API = "https://api.github.com/gists/"
_RAW_HOST = "gist.githubusercontent.com"
_ANCHOR = re.compile(r"file-(?P<file>.+?)(?:-L[0-9]+(?:-L?[0-9]+)?)?\Z")
_MARKS = ("/// script", "/// conda-script", "conda execute")
_MOST_NAMED = 20


@dataclass(frozen=True)
class _File:
    """A file of a gist: its name, the address of its bytes, and its text as far as the API has it."""

    name: str
    address: Address
    text: str


def file_of_gist(address: Address, ask: Callable[[Address], bytes]) -> Address:
    """The address of the file that a gist's page means; the same address where this is no such page.

    That is the one whose anchor the link has (``#file-name-py``), the only one, or the only one with a block that says
    what it needs. ``ask`` fetches an address. Where the API does not answer (it serves sixty requests in an hour to
    those without a token) the gist's first file is taken, if the link has no anchor.

    Raises UsageError where it could be several or is none of them, and what ``ask`` raises where an anchor has to be
    looked up.
    """
    gist = gist_of(address)
    if gist is None:
        return address
    path, number, revision = gist
    anchor = _ANCHOR.match(address.fragment)
    try:
        files = _files(ask(parse_address(f"{_API}{number}{revision and '/' + revision}")))
    except CetoolError:
        if anchor is not None:
            raise
        files = []
    if not files:
        return replace(address, url=f"{address.origin}{path}/raw{revision and '/' + revision}")
    return _chosen(address, files, None if anchor is None else anchor["file"]).address


def _chosen(address: Address, files: list[_File], anchor: str | None) -> _File:
    if anchor is not None:
        named = [file for file in files if _anchor_of(file.name) == _anchor_of(anchor)]
        if len(named) == 1:
            return named[0]
        raise UsageError(
            f"this gist has no file for #file-{printable(anchor)}", where=address.where, hint=_which(files)
        )
    if len(files) == 1:
        return files[0]
    speaking = [file for file in files if any(mark in file.text for mark in _MARKS)]
    if len(speaking) == 1:
        return speaking[0]
    raise UsageError("this gist has several files", where=address.where, hint=_which(files))


def _which(files: list[_File]) -> str:
    told = ", ".join(f"#file-{_anchor_of(file.name)} ({printable(file.name)})" for file in files[:_MOST_NAMED])
    return (
        f"Say which one by what follows the link, between quotes: {told}{', ...' if len(files) > _MOST_NAMED else ''}"
    )


def _anchor_of(name: str) -> str:
    """What GitHub makes of a file's name, as far as two names can be told apart by it."""
    return re.sub(r"[^\w]+", "-", name.lower())


def _files(answer: bytes) -> list[_File]:
    """The files that the API tells of, in its order; none where this is not its form."""
    try:
        listed: Any = parse_json(answer)["files"]
        found = [
            _File(str(item["filename"]), parse_address(str(item["raw_url"])), str(item.get("content") or ""))
            for item in listed.values()
        ]
    except (ValueError, KeyError, TypeError, AttributeError, UsageError):
        return []
    # what the answer names is asked for as if the user had: so it has to be where GitHub keeps gists
    return [file for file in found if file.address.host == _RAW_HOST and file.address.scheme == "https"]
