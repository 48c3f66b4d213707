"""From the address of a page that shows a file to that of the file itself, by the forms that code hosts have."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from cetool.spec.addresses import Address, parse_address
from cetool.spec.urls import split_url

_GITHUB = frozenset({"github.com", "www.github.com"})
_GIST = re.compile(r"(?P<gist>(?:/[^/]+)?/(?P<id>[0-9a-f]{20,40}))(?P<revision>/[0-9a-f]{40})?/?\Z")
#: GitHub: a file looked at, raw, edited, or with who wrote each line. A ref's own slashes are sorted out over there.
_GITHUB_FILE = re.compile(r"/([^/]+)/([^/]+)/(?:blob|raw|edit|blame)/([^/]+/.+)\Z")
#: GitLab on any host: groups in groups stand before the ``/-/``, which nothing else has.
_GITLAB_FILE = re.compile(r"(/[^/]+/.+?)/-/(?:blob|edit|blame)/(.+)\Z")
_GITLAB_OLD = re.compile(r"(/[^/]+/.+?)/(?:blob|edit|blame)/(.+)\Z")
_GITLAB_SNIPPET = re.compile(r"(/.*|)(/-/snippets/[0-9]+)/?\Z")
#: Gitea and Forgejo (Codeberg) on any host.
_GITEA_FILE = re.compile(r"(/[^/]+/[^/]+)/src/((?:branch|tag|commit)/[^/]+/.+)\Z")
_BITBUCKET_FILE = re.compile(r"(/[^/]+/[^/]+)/src/([^/]+/.+)\Z")
_SOURCEHUT_FILE = re.compile(r"(/~[^/]+/[^/]+)/tree/(.+?)/item/(.+)\Z")
_HUGGINGFACE_FILE = re.compile(r"(/.+?)/blob/([^/]+/.+)\Z")


def raw_file(address: Address) -> Address:
    """The address of the file itself where this is that of the page which shows it; else the same.

    A user and password go along only where the host stays. A gist's page is left, with the fragment that may name a
    file, to :func:`cetool.spec.gists.file_of_gist`, which has to ask which files there are; all others lose theirs.
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
    changed = _HOSTS.get(address.host, _anywhere)(path)
    return address if changed is None else replace(address, url=_with_path(address.url, path, changed))


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


def _anywhere(path: str) -> str | None:
    """By the forms of programs that run on hosts of any name."""
    snippet = _GITLAB_SNIPPET.match(path)
    if snippet is not None:
        return f"{snippet[1]}{snippet[2]}/raw"
    found = _GITLAB_FILE.match(path)
    if found is not None:
        return f"{found[1]}/-/raw/{found[2]}"
    found = _GITEA_FILE.match(path)
    return None if found is None else f"{found[1]}/raw/{found[2]}"


def _gitlab(path: str) -> str | None:
    found = None if "/-/" in path else _GITLAB_OLD.match(path)  # as links were written before 2019
    return _anywhere(path) if found is None else f"{found[1]}/-/raw/{found[2]}"


def _as_it_is(path: str) -> None:
    """Serves files only, under paths that may look like any of the forms."""


def _bitbucket(path: str) -> str | None:
    found = _BITBUCKET_FILE.match(path)
    return None if found is None else f"{found[1]}/raw/{found[2]}"


def _sourcehut(path: str) -> str | None:
    found = _SOURCEHUT_FILE.match(path)
    return None if found is None else f"{found[1]}/blob/{found[2]}/{found[3]}"


def _huggingface(path: str) -> str | None:
    found = _HUGGINGFACE_FILE.match(path)
    return None if found is None else f"{found[1]}/resolve/{found[2]}"


_HOSTS: dict[str, Callable[[str], str | None]] = {
    "raw.githubusercontent.com": _as_it_is,
    "gist.githubusercontent.com": _as_it_is,
    "gist.github.com": _as_it_is,
    "gitlab.com": _gitlab,
    "bitbucket.org": _bitbucket,
    "git.sr.ht": _sourcehut,
    "huggingface.co": _huggingface,
    "hf.co": _huggingface,
}


def _with_path(url: str, path: str, changed: str) -> str:
    head, _, rest = url.partition("://")
    host, _, _ = rest.partition("/")
    return f"{head}://{host}{changed}{rest[len(host) + len(path) :]}"
