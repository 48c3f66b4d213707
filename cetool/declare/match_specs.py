"""Match specs and PyPI requirements in their one canonical form.

A match spec is read as conda reads it (:mod:`cetool.declare.match_fields`) and written as py-rattler writes it. What
could be something else on an engine's command line is refused first.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from cetool.base.errors import Location, MetadataError
from cetool.base.patterns import pattern
from cetool.base.urls import redact, scrub
from cetool.declare.channels import canonical_channel, file_url
from cetool.declare.match_fields import MAX_VERSION, PACKAGE_NAME, check_name, read_fields
from cetool.declare.nodes import has_control, shorten

MAX_SPEC = 1000

_HINT = "Write a name and, if need be, a version: numpy, 'numpy >=1.26,<2', 'numpy 1.26.*', conda-forge::numpy."
_CANONICAL_NAME = pattern(r"(?:[^\s\[]*::?)?([a-z0-9_][a-z0-9_.-]*)")
_CHANNEL_PATH = pattern(r"((?:\.{0,2}|~)/[^\[\]\"'=]*?|\.{1,2}|~)::")
_BRACKET_PATH = pattern(r"channel\s*=\s*[\"']?\s*(?:\.{0,2}/|~|\.{1,2}[\"'\],])")
_LISTS = pattern(r"\b(extras|flags)=\[([^\[\]\"']*)\]")
# how clauses of one version are ordered: what people write first, first
_OPERATORS = ("===", "==", "~=", "!=", ">=", "<=", ">", "<", "=", "")
_RANKS = {"==": 0, "=": 0, "": 0, "===": 0, "~=": 1, ">=": 2, ">": 2, "<": 3, "<=": 3, "!=": 4}
# A spec as nearly all are: a name, and nothing or clauses of numbers. A clause of one alone may stand without operator.
_NUMBERS = r"(?:0|[1-9][0-9]{0,9})(?:\.(?:0|[1-9][0-9]{0,9})){0,6}"
_CLAUSE = rf"(?:(?:[<>]=?|[!=]=) *{_NUMBERS}|{_NUMBERS}\.\*)"
_PLAIN = pattern(
    r"([A-Za-z_][A-Za-z0-9_.-]*)(?:"
    rf"(?: +| *(?=[<>!=]))({_CLAUSE}(?: *, *{_CLAUSE})*)| *=({_NUMBERS})(?:\.\*)?| +({_NUMBERS}))?"
)
_URL_SCHEMES = pattern(r"(?:https?|file|(?:git|hg|svn|bzr)\+(?:https?|ssh|git|file|svn|lp))\Z")


def canonical_spec(text: str, *, where: Location | None = None, base_dir: str | os.PathLike[str] | None = None) -> str:
    """The canonical form of a match spec: ``python>=3`` and ``Python >=3`` are both ``python >=3``.

    The clauses of a version stand in one order (``>=1,<2``). A channel that is a directory is taken relative to
    ``base_dir`` (the working directory where None). Raises MetadataError, quoting the spec, for what py-rattler does
    not parse and for what could be taken for something else: a leading ``-``, control characters, comments.
    """
    spec = text.strip()
    if len(spec) <= MAX_SPEC and (found := _CHANNEL_PATH.match(spec)):
        channel = canonical_channel(found[1], base_dir=base_dir or Path.cwd(), where=where)
        spec = f"{channel}::{spec[found.end() :]}"
    if len(spec) <= MAX_SPEC and not has_control(text):
        spec = _package_file(spec, base_dir or Path.cwd(), where)
    _refuse_outright(text, spec, where)
    if _BRACKET_PATH.search(spec):
        _refuse(spec, where, "the channel is a directory", "Write it in front: ./channel::name")
    canonical = _parse(spec, where)
    if len(canonical) > MAX_SPEC:
        _refuse(spec, where, f"it is longer than {MAX_SPEC} characters")
    return canonical


def _package_file(spec: str, base_dir: str | os.PathLike[str], where: Location | None) -> str:
    """The spec with a URL or path of a package file in brackets, its digest beside it."""
    if ".conda" not in spec and ".tar.bz2" not in spec:
        return spec
    from cetool.declare.package_urls import PackageUrlError, with_brackets

    try:
        return with_brackets(spec, base_dir, where)
    except PackageUrlError as error:
        _refuse(spec, where, str(error), error.hint)


def _refuse(spec: str, where: Location | None, reason: str, hint: str | None = None) -> NoReturn:
    quoted = shorten(redact(spec)).encode("unicode_escape", "surrogatepass").decode() if has_control(spec) else None
    raise MetadataError(
        f"'{quoted or shorten(redact(spec))}' is not a match spec: {shorten(scrub(reason), 200)}",
        where=where,
        hint=hint or _HINT,
    )


def _refuse_outright(text: str, spec: str, where: Location | None) -> None:
    """Raise for what must not reach the parser, which would take it for something harmless."""
    if not spec:
        raise MetadataError("a match spec is empty", where=where, hint=_HINT)
    if len(spec) > MAX_SPEC:
        _refuse(spec, where, f"it is longer than {MAX_SPEC} characters")
    if has_control(text):
        _refuse(text, where, "it holds a line break or a control character")
    if spec.startswith("-"):
        _refuse(spec, where, "it starts with a '-', as an option would", "Options cannot be given among match specs.")
    strange = next((char for char in spec if not char.isascii()), None)
    if strange is not None:
        _refuse(spec, where, f"it holds the character {strange!r}, which is not ASCII")
    if "\\" in spec:
        _refuse(spec, where, "it holds a backslash")
    if "#" in spec and ("://" not in spec or re.search(r"\s#", spec)):
        _refuse(spec, where, "it holds a '#'", "A comment goes on a line of its own.")


def _plainly(spec: str) -> str | None:
    """What :func:`_canonical` gives for a spec of a name and plain clauses; None for all others.

    py-rattler takes 40 ms to import, which whoever has another engine make the environment need not wait for.
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
    """The canonical form. Raises ValueError with the reason where there is none."""
    from rattler import MatchSpec

    is_url = "://" in spec and "::" not in spec and "[" not in spec
    try:
        match = MatchSpec(spec if is_url else read_fields(spec).text())
        canonical = str(match)
    except Exception as error:
        raise ValueError(str(error).partition("\n")[0]) from None
    name = spec_name(canonical)
    check_name(name)
    canonical = _LISTS.sub(lambda found: f"{found[1]}=[{', '.join(_listed(found[2]))}]", canonical)
    if match.version is not None:
        plain = _with_version(canonical, name, match.version, _ordered(match.version))
        canonical = plain if _means(plain, plain) else canonical
    if not _means(canonical, canonical):
        raise ValueError("it cannot be written down again as it was read")
    return canonical


def _parse(spec: str, where: Location | None) -> str:
    try:
        return _plainly(spec) or _canonical(spec)
    except ValueError as error:
        _refuse(spec, where, str(error))


def _means(spec: str, canonical: str) -> bool:
    """Whether the parser gives this canonical form for the spec, lists in brackets aside."""
    from rattler import MatchSpec

    try:
        return str(MatchSpec(read_fields(spec).text())) == canonical
    except Exception:
        return False


def _listed(text: str) -> list[str]:
    return sorted({item.strip() for item in text.split(",")} - {""})


def _ordered(version: str) -> str:
    """The clauses of a version without repeats and in one order; one with alternatives stays as it is."""
    if any(char in version for char in "|()^$"):
        return version
    clauses = {clause.strip() for clause in version.split(",")} - {"", "*"}

    def rank(clause: str) -> tuple[int, str]:
        operator = next(operator for operator in _OPERATORS if clause.startswith(operator))
        return _RANKS[operator], clause

    return ",".join(sorted(clauses, key=rank)) or "*"


def _with_version(canonical: str, name: str, version: str, ordered: str) -> str:
    """The canonical spec with its version replaced; no version at all where any will do and no build follows."""
    head, found, tail = canonical.partition(f"{name} {version}")
    if not found or (head and not head.endswith(":")):
        return canonical
    if ordered == "*" and not tail.startswith(" "):
        return f"{head}{name}{tail}"
    return f"{head}{name} {ordered}{tail}"


def spec_name(spec: str) -> str:
    """The package name of a canonical spec."""
    found = _CANONICAL_NAME.match(spec)
    return found[1] if found is not None else ""


def canonical_requirement(
    text: str, *, where: Location | None = None, base_dir: str | os.PathLike[str] | None = None
) -> str:
    """The canonical form of a PyPI requirement (PEP 508): name, extras and clauses in one spelling and order.

    ``name @ ./directory`` becomes a ``file://`` URL, relative to ``base_dir`` (the working directory where None).
    Raises MetadataError, quoting the requirement, for what is none and for pip's options.
    """
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    requirement = text.strip()
    _refuse_options(text, requirement, where)
    hint = "Write a name and, if need be, a version: requests, 'requests>=2.31', 'name @ https://...', 'name @ ./here'."
    try:
        parsed = Requirement(requirement)
        parsed.name = canonicalize_name(parsed.name)
        if parsed.url is not None:
            parsed.url = _canonical_url(parsed.url, base_dir or Path.cwd(), where)
        canonical = str(parsed)
        Requirement(canonical)
    except (InvalidRequirement, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        if re.match(r"(\.{0,2}|~)/|\w+(\+\w+)?://", requirement):
            reason = "a path or a URL needs the package's name in front"
        raise MetadataError(
            f"'{shorten(redact(requirement))}' is not a PyPI requirement: {shorten(scrub(reason), 200)}",
            where=where,
            hint=hint,
        ) from None
    return canonical


def _refuse_options(text: str, requirement: str, where: Location | None) -> None:
    """Raise for what must not reach an installer's command line."""
    if not requirement:
        raise MetadataError("a PyPI requirement is empty", where=where)
    shown = shorten(redact(requirement)).encode("unicode_escape", "surrogatepass").decode()
    if len(requirement) > 2 * MAX_SPEC or has_control(text):
        raise MetadataError(
            f"'{shown}' is not a PyPI requirement: it is too long, or holds a line break or a control character",
            where=where,
        )
    if not requirement.startswith("-"):
        return
    if re.match(r"-r|--requirement|-c|--constraint", requirement):
        hint = "Write the requirements themselves here, one an entry."
    elif re.match(r"-e|--editable", requirement):
        hint = "An environment never changes once it is made: write 'name @ ./directory' to install it as it is now."
    else:
        hint = "Indexes belong in [tool.uv] of a '# /// script' block, or in your own configuration."
    raise MetadataError(f"'{shown}' is an option of pip, which is not supported here", where=where, hint=hint)


def _canonical_url(url: str, base_dir: str | os.PathLike[str], where: Location | None) -> str:
    """The URL of a direct reference, made of a path where it is one. Raises ValueError for an unknown scheme."""
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", url) or re.match(r"[A-Za-z]:[\\/]", url):
        return file_url(url, base_dir, where=where)
    scheme = urlsplit(url).scheme
    if not _URL_SCHEMES.match(scheme):
        raise ValueError(f"URLs that start with {scheme}: cannot be installed from")
    return url


def requires_python_spec(text: str, *, where: Location | None = None) -> str:
    """The conda spec for python that a PEP 440 specifier set means: ``>=3.11,<4`` gives ``python >=3.11,<4``.

    ``~=3.11`` becomes what PEP 440 defines it as, ``>=3.11`` and ``3.*``. Raises MetadataError.
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
            else:  # in its normal form: PEP 440 has 3.13RC1 as well, conda has not
                clauses.append(f"{specifier.operator.replace('===', '==')}{Version(specifier.version)}")
        return _canonical(f"python {','.join(clauses)}".strip())
    except (InvalidSpecifier, ValueError):
        shown = shorten(text).encode("unicode_escape", "surrogatepass").decode()
        raise MetadataError(
            f"requires-python = '{shown}' is not a PEP 440 version specifier",
            where=where,
            hint="Write it as in '>=3.11' or '>=3.11,<4'.",
        ) from None
