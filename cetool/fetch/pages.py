"""From the address of a page that shows a file to that of the file itself, by the forms that code hosts have.

Which file a gist's page means: GitHub's API tells what files there are.

Reference: https://docs.github.com/en/rest/gists/gists#get-a-gist
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from cetool.base.errors import CetoolError, UsageError
from cetool.base.limits import parse_json
from cetool.base.text import printable
from cetool.base.urls import split_url
from cetool.declare.blocks import DIALECTS
from cetool.fetch.addresses import Address, parse_address

_GITHUB = frozenset({"github.com", "www.github.com"})
_GIST = re.compile(r"(?P<gist>(?:/[^/]+)?/(?P<id>[0-9a-f]{20,40}))(?P<revision>/[0-9a-f]{40})?/?\Z")
#: GitHub: a file looked at, raw, edited, or with who wrote each line. A ref's own slashes are sorted out over there.
_GITHUB_FILE = re.compile(r"/([^/]+)/([^/]+)/(?:blob|raw|edit|blame)/([^/]+/.+)\Z")
#: The path of a page, and that of the file, by programs that run on hosts of any name: GitLab, Gitea and Forgejo.
_ANYWHERE = (
    (r"(/.*|)(/-/snippets/[0-9]+)/?\Z", r"\1\2/raw"),
    # groups in groups are in front of the /-/, which nothing else has
    (r"(/[^/]+/.+?)/-/(?:blob|edit|blame)/(.+)\Z", r"\1/-/raw/\2"),
    (r"(/[^/]+/[^/]+)/src/((?:branch|tag|commit)/[^/]+/.+)\Z", r"\1/raw/\2"),
)
_HUGGINGFACE = ((r"(/.+?)/blob/([^/]+/.+)\Z", r"\1/resolve/\2"),)
#: The same by hosts; those without any serve files only, under paths that may look like any of the forms.
_HOSTS: dict[str, tuple[tuple[str, str], ...]] = {
    **dict.fromkeys(("raw.githubusercontent.com", "gist.githubusercontent.com", "gist.github.com"), ()),
    # first as links were written before 2019
    "gitlab.com": ((r"(?!.*/-/)(/[^/]+/.+?)/(?:blob|edit|blame)/(.+)\Z", r"\1/-/raw/\2"), *_ANYWHERE),
    "bitbucket.org": ((r"(/[^/]+/[^/]+)/src/([^/]+/.+)\Z", r"\1/raw/\2"),),
    "git.sr.ht": ((r"(/~[^/]+/[^/]+)/tree/(.+?)/item/(.+)\Z", r"\1/blob/\2/\3"),),
    **dict.fromkeys(("huggingface.co", "hf.co"), _HUGGINGFACE),
}


def raw_file(address: Address) -> Address:
    """The address of the file itself where this is that of the page which shows it; else the same.

    A user and password go along only where the host stays. A gist's page is left, with the fragment that may name a
    file, to :func:`cetool.fetch.pages.file_of_gist`, which has to ask which files there are; all others lose theirs.
    """
    if gist_of(address) is not None:
        return address
    address = replace(address, fragment="")
    path = split_url(address.url).path
    if address.host in _GITHUB:
        found = _GITHUB_FILE.match(path)
        if found is None:
            return address
        return parse_address(f"{address.scheme}://raw.githubusercontent.com/{found[1]}/{found[2]}/{found[3]}")
    for page, file in _HOSTS.get(address.host, _ANYWHERE):
        if found := re.match(page, path):
            return replace(address, url=address.origin + found.expand(file) + address.url[len(address.origin + path) :])
    return address


def gist_of(address: Address) -> tuple[str, str, str] | None:
    """A gist's path, its id and its revision (which may be empty) where this is the page of one."""
    found = _GIST.match(split_url(address.url).path) if address.host == "gist.github.com" else None
    return None if found is None else (found["gist"], found["id"], (found["revision"] or "").lstrip("/"))


def likely_raw(address: Address) -> str | None:
    """What the file's address may be where a page of an unknown host came instead: GitHub Enterprise has this form."""
    path = split_url(address.url).path
    found = _GITHUB_FILE.match(path)
    if found is None or address.host in _HOSTS or "/raw/" in path:
        return None
    return f"{address.origin}/{found[1]}/{found[2]}/raw/{found[3]}"


_API = "https://api.github.com/gists/"
_RAW_HOST = "gist.githubusercontent.com"
_ANCHOR = re.compile(r"file-(?P<file>.+?)(?:-L[0-9]+(?:-L?[0-9]+)?)?\Z")
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
            f"this gist has no file for #file-{printable(anchor)}",
            code="url-invalid",
            where=address.where,
            hint=_which(files),
        )
    if len(files) == 1:
        return files[0]
    speaking = [file for file in files if any(dialect.mark in file.text for dialect in DIALECTS.values())]
    if len(speaking) == 1:
        return speaking[0]
    raise UsageError("this gist has several files", code="url-invalid", where=address.where, hint=_which(files))


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
