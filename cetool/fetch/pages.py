"""Turn the address of a page that shows a file into the address of the file, for the common code hosts.

For the page of a gist, GitHub's API lists the files.

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
#: GitHub: pages that view, download, edit or annotate a file. GitHub itself resolves slashes in the name of a ref.
_GITHUB_FILE = re.compile(r"/([^/]+)/([^/]+)/(?:blob|raw|edit|blame)/([^/]+/.+)\Z")
#: The path of a page and the path of the file, for programs that run on any host: GitLab, Gitea and Forgejo.
_ANYWHERE = (
    (r"(/.*|)(/-/snippets/[0-9]+)/?\Z", r"\1\2/raw"),
    # nested groups are in front of the /-/, which occurs nowhere else
    (r"(/[^/]+/.+?)/-/(?:blob|edit|blame)/(.+)\Z", r"\1/-/raw/\2"),
    (r"(/[^/]+/[^/]+)/src/((?:branch|tag|commit)/[^/]+/.+)\Z", r"\1/raw/\2"),
)
_HUGGINGFACE = ((r"(/.+?)/blob/([^/]+/.+)\Z", r"\1/resolve/\2"),)
#: The same for known hosts; those with no forms serve only files, whose paths may look like any of the forms.
_HOSTS: dict[str, tuple[tuple[str, str], ...]] = {
    **dict.fromkeys(("raw.githubusercontent.com", "gist.githubusercontent.com", "gist.github.com"), ()),
    # the first one is how links were written before 2019
    "gitlab.com": ((r"(?!.*/-/)(/[^/]+/.+?)/(?:blob|edit|blame)/(.+)\Z", r"\1/-/raw/\2"), *_ANYWHERE),
    "bitbucket.org": ((r"(/[^/]+/[^/]+)/src/([^/]+/.+)\Z", r"\1/raw/\2"),),
    "git.sr.ht": ((r"(/~[^/]+/[^/]+)/tree/(.+?)/item/(.+)\Z", r"\1/blob/\2/\3"),),
    **dict.fromkeys(("huggingface.co", "hf.co"), _HUGGINGFACE),
}


def raw_file(address: Address) -> Address:
    """Return the address of the file if this is the address of a page that shows it; otherwise the same address.

    User and password are kept only if the host stays the same. The address of a gist's page is returned unchanged,
    including the fragment, which may name a file: :func:`file_of_gist` has to request the list of files. All other
    fragments are removed.
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
    """Return a gist's path, id and revision (may be empty) if this is the page of a gist, otherwise None."""
    found = _GIST.match(split_url(address.url).path) if address.host == "gist.github.com" else None
    return None if found is None else (found["gist"], found["id"], (found["revision"] or "").lstrip("/"))


def likely_raw(address: Address) -> str | None:
    """Return a guess at the file's address for a page of an unknown host, in the form of GitHub Enterprise."""
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
    """A file of a gist: name, address of the raw file, and as much of its text as the API returned."""

    name: str
    address: Address
    text: str


def file_of_gist(address: Address, ask: Callable[[Address], bytes]) -> Address:
    """Return the address of the file that a gist's page refers to; any other address is returned unchanged.

    This is the file whose anchor the link has (``#file-name-py``), the only file, or the only file with a block.
    ``ask`` fetches an address. If the API does not answer (without a token it allows sixty requests an hour) and the
    link has no anchor, the gist's first file is taken.

    Raises UsageError if no file matches or several do, and the errors of ``ask`` if the link has an anchor.
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
            f"the gist has no file with the anchor #file-{printable(anchor)}",
            code="url-invalid",
            where=address.where,
            hint=_which(files),
        )
    if len(files) == 1:
        return files[0]
    speaking = [file for file in files if any(dialect.mark in file.text for dialect in DIALECTS.values())]
    if len(speaking) == 1:
        return speaking[0]
    raise UsageError("the gist has several files", code="url-invalid", where=address.where, hint=_which(files))


def _which(files: list[_File]) -> str:
    told = ", ".join(f"#file-{_anchor_of(file.name)} ({printable(file.name)})" for file in files[:_MOST_NAMED])
    more = ", ..." if len(files) > _MOST_NAMED else ""
    return f"Append the anchor of one of them to the link, and quote the link in a shell: {told}{more}"


def _anchor_of(name: str) -> str:
    """Return GitHub's anchor for a file name, approximately: enough to distinguish names."""
    return re.sub(r"[^\w]+", "-", name.lower())


def _files(answer: bytes) -> list[_File]:
    """Return the files that the API lists, in its order; none if the answer is malformed."""
    try:
        listed: Any = parse_json(answer)["files"]
        found = [
            _File(str(item["filename"]), parse_address(str(item["raw_url"])), str(item.get("content") or ""))
            for item in listed.values()
        ]
    except (ValueError, KeyError, TypeError, AttributeError, UsageError):
        return []
    # the URLs in the answer are requested as if the user had given them: accept only the host that serves gists
    return [file for file in found if file.address.host == _RAW_HOST and file.address.scheme == "https"]
