"""Match specs that name a package file by its URL or path, with the digest that the file must have.

conda writes the digest behind the URL (``URL#MD5``, ``URL#sha256:SHA256``), pixi into brackets. py-rattler's parser
reads the brackets and drops everything behind a URL, so all forms are rewritten to ``NAME[url="...", sha256="..."]``.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from cetool.base.patterns import pattern
from cetool.base.urls import strip_credentials
from cetool.declare.channels import file_url
from cetool.declare.match_fields import check_file

if TYPE_CHECKING:
    from rattler import MatchSpec

    from cetool.base.errors import Location

_SUFFIX = r"\.(?:conda|tar\.bz2)"
#: The fields of a spec that say which file a package is.
IDENTITY = ("md5", "sha256", "url")
#: A URL or a path of a package file, what follows its ``#``, and brackets.
_DIRECT = pattern(
    r"(?:(?P<name>[A-Za-z0-9_.-]+)\s*@\s*)?"
    rf"(?P<place>[A-Za-z][A-Za-z0-9+.-]*://[^\s#\[\"']+{_SUFFIX}|(?:~?/|\.{{1,2}}/)[^#\[\"']*{_SUFFIX}"
    rf"|[^\s:\\#\[\"'=<>!]+-[^\s:/\\#\[\"'=<>!-]+-[^\s:/\\#\[\"'=<>!-]+{_SUFFIX})"
    r"(?P<query>\?[^\s#\[\"']*)?(?:#(?P<fragment>[^\s\[\]]*))?\s*(?:\[(?P<fields>.*)\])?"
)
#: A ``url`` in brackets, in quotes or without.
_FIELD = pattern(r"(?P<before>[\[,]\s*url\s*=\s*)(?P<quote>[\"']?)(?P<url>[^\"',\[\]\s]+)(?P=quote)")
_DIGEST = pattern(r"(?:md5[:=])?(?P<md5>[0-9a-fA-F]{32})|(?:sha256[:=])?(?P<sha256>[0-9a-fA-F]{64})", re.IGNORECASE)
_GIVEN = pattern(r"(?:^|[\[,])\s*(md5|sha256)\s*=\s*[\"']?([^\"',\[\]\s]*)")
_IN_CANONICAL = pattern(r'\burl="([^"]*)"')
_STEM = pattern(rf"(?P<name>.+)-(?P<version>[^-]+)-(?P<build>[^-]+){_SUFFIX}")
_HINT_DIGEST = "MD5 has 32 hexadecimal digits (URL#MD5), SHA-256 has 64 (URL#sha256:SHA256)."


def names_file(spec: str) -> bool:
    """Whether a spec as it is written names a package file by a path."""
    found = _DIRECT.fullmatch(spec.strip())
    return found is not None and "://" not in found["place"]


class PackageUrlError(ValueError):
    """A spec names a package file in a way that no file can fit; ``hint`` says what to write."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.hint = hint


def with_brackets(spec: str, base_dir: str | os.PathLike[str], where: Location | None = None) -> str:
    """The spec in the one form that py-rattler reads completely; unchanged where it names no package file.

    Paths start from ``base_dir``. Raises PackageUrlError for a digest that is not one or that contradicts another, and
    for a name that is not the file's.
    """
    if ".conda" not in spec and ".tar.bz2" not in spec:
        return spec
    if (direct := _DIRECT.fullmatch(spec)) is not None:
        place = direct["place"]
        url = place if "://" in place else file_url(place, base_dir, where=where)
        if direct["query"]:
            raise PackageUrlError("it has a query", "Name the file by a URL without one.")
        name = _name_in(url, direct["name"])
        fields = [direct["fields"].strip()] if (direct["fields"] or "").strip() else []
        if any(_GIVEN.search(each) is None and re.search(r"(?:^|,)\s*url\s*=", each) for each in fields):
            raise PackageUrlError("it names two URLs")
        digest = _digest(direct["fragment"] or "", fields)
        return f"{name}[{', '.join([f'url={_quoted(url)}', *digest, *fields])}]"
    field = _FIELD.search(spec)
    if field is None:
        return spec
    url, mark, fragment = field["url"].partition("#")
    _name_in(url, re.split(r"[\s\[<>=!~]", spec.rpartition("::")[2] if "::" in spec.partition("[")[0] else spec)[0])
    digest = _digest(fragment, [spec[: field.start()] + spec[field.end() :]]) if mark else []
    return spec[: field.start()] + field["before"] + ", ".join([_quoted(url), *digest]) + spec[field.end() :]


def url_in(text: str) -> str | None:
    """The URL that a canonical spec names its package by; None where it names none."""
    found = _IN_CANONICAL.search(text)
    return found[1] if found else None


def is_same_file(spec: MatchSpec, text: str, url: str, sha256: str | None, md5: str | None) -> bool:
    """Whether a package file with these digests is the one that a spec names, if it names one.

    ``text`` is the spec in its canonical form. Digests that can be compared decide; if there are none, the URL does.
    """
    wanted = ((spec.sha256, sha256), (spec.md5, md5))
    compared = [digest.hex() == known for digest, known in wanted if digest and known]
    if compared:
        return all(compared)
    if any(digest for digest, _ in wanted):
        return False
    address = url_in(text)
    return address is None or strip_credentials(address) == strip_credentials(url)


def _name_in(url: str, name: str | None) -> str:
    """The package's name in the name of its file, which must be ``name`` where that is given."""
    file = unquote(url.partition("?")[0].rpartition("/")[2])
    found = _STEM.fullmatch(file)
    if found is None:
        raise PackageUrlError(
            f"the file is called {file!r}", "A package file is called NAME-VERSION-BUILD.conda or .tar.bz2."
        )
    try:
        check_file(found["version"], found["build"])
    except ValueError as error:
        raise PackageUrlError(f"its file is called {file[:80]!r}, and {error}", "Name a conda package file.") from None
    if name and name.lower() != found["name"].lower():
        raise PackageUrlError(f"it names {name}, but its URL leads to {found['name']}", f"Write {found['name']}.")
    return found["name"]


def _digest(fragment: str, fields: list[str]) -> list[str]:
    """The digest of a fragment as a field; nothing where there is none, or where the fields have the same."""
    if not fragment:
        return []
    found = _DIGEST.fullmatch(fragment)
    if found is None:
        raise PackageUrlError(f"{fragment[:80]!r} is not a digest", _HINT_DIGEST)
    kind = "md5" if found["md5"] else "sha256"
    value = found[kind].lower()
    given = {key: text.lower() for field in fields for key, text in _GIVEN.findall(field)}
    if kind not in given:
        return [f'{kind}="{value}"']
    if given[kind] != value:
        raise PackageUrlError(f"it has two {kind} digests, {given[kind]} and {value}")
    return []


def _quoted(url: str) -> str:
    return f'"{url}"'
