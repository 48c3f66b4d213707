"""Bring match specs into their canonical form, including those that name a package file by its URL or path.

A match spec is read as conda reads it (:mod:`cetool.declare.match_fields`) and written as py-rattler writes it. Text
that an engine's command line could read as something else is refused first. conda writes the digest of a package file
after the URL (``URL#MD5``, ``URL#sha256:SHA256``), pixi in brackets; py-rattler drops everything after a URL, so all
forms are rewritten to ``NAME[url="...", sha256="..."]``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import unquote

from cetool.base.errors import Location, MetadataError
from cetool.base.text import has_control, pattern, shorten
from cetool.base.urls import quotable, redact, scrub, strip_credentials
from cetool.declare.channels import canonical_channel, file_url
from cetool.declare.match_fields import MAX_VERSION, PACKAGE_NAME, check_file, check_name, read_fields
from cetool.declare.nodes import Directory

if TYPE_CHECKING:
    from rattler import MatchSpec

#: The most characters of a match spec, and half of those of a PyPI requirement.
MAX_SPEC = 1000

_HINT = "Write a name and optionally a version: numpy, 'numpy >=1.26,<2', 'numpy 1.26.*', conda-forge::numpy."
_CANONICAL_NAME = pattern(r"(?:[^\s\[]*::?)?([a-z0-9_][a-z0-9_.-]*)")
_CHANNEL_PATH = pattern(r"((?:\.{0,2}|~)/[^\[\]\"'=]*?|\.{1,2}|~)::")
_BRACKET_PATH = pattern(r"channel\s*=\s*[\"']?\s*(?:\.{0,2}/|~|\.{1,2}[\"'\],])")
_LISTS = pattern(r"\b(extras|flags)=\[([^\[\]\"']*)\]")
# the order of clauses in a version, as people usually write them; the longer of two operators comes first here
_RANKS = {"===": 0, "==": 0, "~=": 1, "!=": 4, ">=": 2, "<=": 3, ">": 2, "<": 3, "=": 0, "": 0}
# Nearly all specs: a name, and perhaps clauses of numbers. A single clause needs no operator.
_NUMBERS = r"(?:0|[1-9][0-9]{0,9})(?:\.(?:0|[1-9][0-9]{0,9})){0,6}"
_CLAUSE = rf"(?:(?:[<>]=?|[!=]=) *{_NUMBERS}|{_NUMBERS}\.\*)"
_PLAIN = pattern(
    r"([A-Za-z_][A-Za-z0-9_.-]*)(?:"
    rf"(?: +| *(?=[<>!=]))({_CLAUSE}(?: *, *{_CLAUSE})*)| *=({_NUMBERS})(?:\.\*)?| +({_NUMBERS}))?"
)


def canonical_spec(text: str, *, where: Location | None = None, base_dir: Directory | None = None) -> str:
    """Return the canonical form of a match spec: ``python>=3`` and ``Python >=3`` both become ``python >=3``.

    The clauses of a version get a fixed order (``>=1,<2``). A channel that is a directory is relative to ``base_dir``
    (None: the working directory). Raises MetadataError, quoting the spec, for text that py-rattler does not parse or
    that could be read as something else: a leading ``-``, control characters, comments.
    """
    spec = text.strip()
    if len(spec) <= MAX_SPEC and (found := _CHANNEL_PATH.match(spec)):
        channel = canonical_channel(found[1], base_dir=base_dir or Path.cwd(), where=where)
        spec = f"{channel}::{spec[found.end() :]}"
    try:
        if len(spec) <= MAX_SPEC and not has_control(text):
            spec = with_brackets(spec, base_dir or Path.cwd(), where)
        _refuse_outright(text, spec, where)
        canonical = _plainly(spec) or _canonical(spec)
    except PackageUrlError as error:
        _refuse(spec, where, str(error), error.hint)
    except ValueError as error:
        _refuse(spec, where, str(error))
    if len(canonical) > MAX_SPEC:
        _refuse(spec, where, f"it is longer than {MAX_SPEC} characters")
    return canonical


def _refuse(spec: str, where: Location | None, reason: str, hint: str | None = None) -> NoReturn:
    shown = quotable(spec) if has_control(spec) else shorten(redact(spec))
    raise MetadataError(
        f"'{shown}' is not a match spec: {shorten(scrub(reason), 200)}",
        code="match-spec-invalid",
        about=shown,
        where=where,
        hint=hint or _HINT,
    )


def _refuse_outright(text: str, spec: str, where: Location | None) -> None:
    """Refuse text that must not reach the parser, which would ignore what is wrong."""
    if not spec:
        raise MetadataError("the match spec is empty", code="match-spec-invalid", where=where, hint=_HINT)
    if len(spec) > MAX_SPEC:
        _refuse(spec, where, f"it is longer than {MAX_SPEC} characters")
    if has_control(text):
        _refuse(text, where, "it contains a line break or a control character")
    if spec[0] in "'\"":
        _refuse(spec, where, f"it starts with {spec[0]}", "Remove the inner quotes.")
    if spec.startswith("-"):
        _refuse(spec, where, "it starts with '-', like an option", "Options cannot be given among match specs.")
    strange = next((char for char in spec if not char.isascii()), None)
    if strange is not None:
        _refuse(spec, where, f"it contains the character {strange!r}, which is not ASCII")
    if "\\" in spec:
        _refuse(spec, where, "it contains a backslash")
    if "#" in spec and ("://" not in spec or re.search(r"\s#", spec)):
        _refuse(spec, where, "it contains a '#'", "Put comments on lines of their own.")
    if _BRACKET_PATH.search(spec):
        _refuse(spec, where, "its channel is a directory", "Write the channel first: ./channel::name")


def _plainly(spec: str) -> str | None:
    """Return the result of :func:`_canonical` for a spec of a name and plain clauses; None for all others.

    Importing py-rattler takes 40 ms, which a run with another engine can save.
    """
    found = _PLAIN.fullmatch(spec)
    if found is None or len(spec) > MAX_VERSION:
        return None
    name, clauses, series, version = found.groups()
    name = name.lower()
    if not PACKAGE_NAME.fullmatch(name):
        return None
    if clauses is not None:
        return f"{name} {_ordered(clauses.replace(' ', ''))}"
    if series is not None:
        return f"{name} {series}.*"
    return name if version is None else f"{name} =={version}"


@lru_cache(maxsize=1024)
def _canonical(spec: str) -> str:
    """Return the canonical form. Raises ValueError with the reason if there is none."""
    from rattler import MatchSpec

    is_url = "://" in spec and "::" not in spec and "[" not in spec
    try:
        match = MatchSpec(spec if is_url else read_fields(spec).text())
        canonical = str(match)
    except Exception as error:
        raise ValueError(str(error).partition("\n")[0]) from None
    name = spec_name(canonical)
    check_name(name)
    canonical = _LISTS.sub(lambda found: f"{found[1]}=[{', '.join(_items(found[2]))}]", canonical)
    if match.version is not None:
        plain = _with_version(canonical, name, match.version, _ordered(match.version))
        canonical = plain if _means(plain, plain) else canonical
    if not _means(canonical, canonical):
        raise ValueError("it has no canonical form")
    return canonical


def _means(spec: str, canonical: str) -> bool:
    """Return whether the parser turns the spec into this canonical form, except for lists in brackets."""
    from rattler import MatchSpec

    try:
        return str(MatchSpec(read_fields(spec).text())) == canonical
    except Exception:
        return False


def _ordered(version: str) -> str:
    """Return the clauses of a version in order without duplicates; a version with alternatives is unchanged."""
    if any(char in version for char in "|()^$"):
        return version
    clauses = set(_items(version)) - {"*"}
    ranks = {
        clause: next(rank for operator, rank in _RANKS.items() if clause.startswith(operator)) for clause in clauses
    }
    return ",".join(sorted(clauses, key=lambda clause: (ranks[clause], clause))) or "*"


def _items(text: str) -> list[str]:
    """Return the parts between commas, sorted, without duplicates."""
    return sorted({item.strip() for item in text.split(",")} - {""})


def _with_version(canonical: str, name: str, version: str, ordered: str) -> str:
    """Replace the version of a canonical spec; leave it out if it is ``*`` and no build follows."""
    head, found, tail = canonical.partition(f"{name} {version}")
    if not found or (head and not head.endswith(":")):
        return canonical
    if ordered == "*" and not tail.startswith(" "):
        return f"{head}{name}{tail}"
    return f"{head}{name} {ordered}{tail}"


def spec_name(spec: str) -> str:
    """Return the package name of a canonical spec."""
    found = _CANONICAL_NAME.match(spec)
    return found[1] if found is not None else ""


def requires_python_spec(text: str, *, where: Location | None = None) -> str:
    """Return the match spec for python of a PEP 440 specifier set: ``>=3.11,<4`` gives ``python >=3.11,<4``.

    ``~=3.11`` becomes ``>=3.11`` and ``3.*``, as PEP 440 defines it. Raises MetadataError.
    """
    from packaging.specifiers import InvalidSpecifier, SpecifierSet
    from packaging.version import Version

    clauses = []
    try:
        if has_control(text) or len(text) > MAX_SPEC:
            raise ValueError
        for specifier in SpecifierSet(text):
            if specifier.operator == "~=":
                series = Version(specifier.version).release[:-1]
                epoch = f"{Version(specifier.version).epoch}!" if Version(specifier.version).epoch else ""
                clauses += [f">={Version(specifier.version)}", f"{epoch}{'.'.join(map(str, series))}.*"]
            elif specifier.operator in ("==", "===") and specifier.version.endswith(".*"):
                clauses.append(specifier.version)
            elif specifier.version.endswith(".*"):
                clauses.append(f"{specifier.operator}{specifier.version}")
            else:  # normalized: PEP 440 also allows 3.13RC1, conda does not
                clauses.append(f"{specifier.operator.replace('===', '==')}{Version(specifier.version)}")
        return _canonical(f"python {','.join(clauses)}".strip())
    except (InvalidSpecifier, ValueError):
        shown = shorten(text).encode("unicode_escape", "surrogatepass").decode()
        raise MetadataError(
            f"requires-python = '{shown}' is not a PEP 440 version specifier",
            code="requirement-invalid",
            where=where,
            hint="Write it like '>=3.11' or '>=3.11,<4'.",
        ) from None


# --- package files --------------------------------------------------------------------------------------------------

_SUFFIX = r"\.(?:conda|tar\.bz2)"
#: The fields of a spec that identify a package file.
IDENTITY = ("md5", "sha256", "url")
#: A URL or path of a package file, the text after its ``#``, and brackets.
_DIRECT = pattern(
    r"(?:(?P<name>[A-Za-z0-9_.-]+)\s*@\s*)?"
    rf"(?P<place>[A-Za-z][A-Za-z0-9+.-]*://[^\s#\[\"']+{_SUFFIX}|(?:~?/|\.{{1,2}}/)[^#\[\"']*{_SUFFIX}"
    rf"|[^\s:\\#\[\"'=<>!]+-[^\s:/\\#\[\"'=<>!-]+-[^\s:/\\#\[\"'=<>!-]+{_SUFFIX})"
    r"(?P<query>\?[^\s#\[\"']*)?(?:#(?P<fragment>[^\s\[\]]*))?\s*(?:\[(?P<fields>.*)\])?"
)
#: A ``url`` in brackets, with or without quotes.
_FIELD = pattern(r"(?P<before>[\[,]\s*url\s*=\s*)(?P<quote>[\"']?)(?P<url>[^\"',\[\]\s]+)(?P=quote)")
_DIGEST = pattern(r"(?:md5[:=])?(?P<md5>[0-9a-fA-F]{32})|(?:sha256[:=])?(?P<sha256>[0-9a-fA-F]{64})", re.IGNORECASE)
_GIVEN = pattern(r"(?:^|[\[,])\s*(md5|sha256)\s*=\s*[\"']?([^\"',\[\]\s]*)")
_IN_CANONICAL = pattern(r'\burl="([^"]*)"')
_STEM = pattern(rf"(?P<name>.+)-(?P<version>[^-]+)-(?P<build>[^-]+){_SUFFIX}")
_HINT_DIGEST = "MD5 has 32 hexadecimal digits (URL#MD5), SHA-256 has 64 (URL#sha256:SHA256)."


def names_file(spec: str) -> bool:
    """Return whether a spec, as written, names a package file by a path."""
    found = _DIRECT.fullmatch(spec.strip())
    return found is not None and "://" not in found["place"]


class PackageUrlError(ValueError):
    """A spec names a package file that cannot exist; ``hint`` says what to write."""

    def __init__(self, reason: str, hint: str | None = None) -> None:
        super().__init__(reason)
        self.hint = hint


def with_brackets(spec: str, base_dir: Directory, where: Location | None = None) -> str:
    """Return the spec in the one form that py-rattler reads completely; unchanged if it names no package file.

    Paths start from ``base_dir``. Raises PackageUrlError for an invalid or contradictory digest, and for a name that is
    not the file's.
    """
    if ".conda" not in spec and ".tar.bz2" not in spec:
        return spec
    if (direct := _DIRECT.fullmatch(spec)) is not None:
        place = direct["place"]
        url = place if "://" in place else file_url(place, base_dir, where=where)
        if direct["query"]:
            raise PackageUrlError("its URL has a query", "Use a URL without a query.")
        name = _name_in(url, direct["name"])
        fields = [direct["fields"].strip()] if (direct["fields"] or "").strip() else []
        if any(_GIVEN.search(each) is None and re.search(r"(?:^|,)\s*url\s*=", each) for each in fields):
            raise PackageUrlError("it has two URLs")
        digest = _digest(direct["fragment"] or "", fields)
        quoted = f'"{url}"'
        return f"{name}[{', '.join([f'url={quoted}', *digest, *fields])}]"
    field = _FIELD.search(spec)
    if field is None:
        return spec
    url, mark, fragment = field["url"].partition("#")
    _name_in(url, re.split(r"[\s\[<>=!~]", spec.rpartition("::")[2] if "::" in spec.partition("[")[0] else spec)[0])
    digest = _digest(fragment, [spec[: field.start()] + spec[field.end() :]]) if mark else []
    return spec[: field.start()] + field["before"] + ", ".join([f'"{url}"', *digest]) + spec[field.end() :]


def url_in(text: str) -> str | None:
    """Return the URL of a package file in a canonical spec; None if there is none."""
    found = _IN_CANONICAL.search(text)
    return found[1] if found else None


def is_same_file(spec: MatchSpec, text: str, url: str, sha256: str | None, md5: str | None) -> bool:
    """Return whether a package file with these digests is the one that a spec names, if any.

    ``text`` is the canonical form of the spec. Comparable digests decide; without any, the URL does.
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
    """Return the package name in a file's name; it must be ``name`` if that is given."""
    file = unquote(url.partition("?")[0].rpartition("/")[2])
    found = _STEM.fullmatch(file)
    if found is None:
        raise PackageUrlError(
            f"{file!r} is not the name of a package file",
            "Package files are named NAME-VERSION-BUILD.conda or .tar.bz2.",
        )
    try:
        check_file(found["version"], found["build"])
    except ValueError as error:
        raise PackageUrlError(
            f"its file is {file[:80]!r}, and {error}", "Use the URL of a conda package file."
        ) from None
    if name and name.lower() != found["name"].lower():
        raise PackageUrlError(f"it names {name}, but its URL is that of {found['name']}", f"Write {found['name']}.")
    return found["name"]


def _digest(fragment: str, fields: list[str]) -> list[str]:
    """Return the digest of a fragment as a field; nothing if there is none, or if the fields already have it."""
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
