"""PyPI packages that a lock names exactly: what installers have to be told to install these files and no others."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cetool.base.process import own_module, python_command
from cetool.base.urls import split_url

_REFERENCE = re.compile(r"(?P<name>[^\s@]+)\s*@\s*(?P<url>[^\s#]+)(?:#(?P<fragment>\S*))?")
_URL = re.compile(r"(?:^|\s)(?:[a-z]+\+)?(?P<url>[A-Za-z][A-Za-z0-9.-]*://(?P<place>[^\s#]+))")
_DIGEST = re.compile(r"(?:^|&)(?P<digest>(?:sha256|sha384|sha512)=[0-9a-fA-F]+)(?=&|$)")


@dataclass(frozen=True)
class Step:
    """One call of the installer: lines of a requirements file, and the options that go with them.

    ``hashed``: every line has its digest, and the installer is to refuse what has another. ``wheels``: nothing has to
    be built, so no index has to be asked for anything.
    """

    lines: tuple[str, ...]
    hashed: bool
    wheels: bool


def steps(references: Iterable[str], logins: Sequence[str] = ()) -> list[Step]:
    """The calls that install these direct references (PEP 508), files with a digest first.

    ``logins`` are URLs with credentials: references to the same host get theirs back. Commits of repositories have no
    digest, and an installer that wants digests wants them of everything; so they go apart.
    """
    hashed: list[str] = []
    others: list[str] = []
    for reference in references:
        match = _REFERENCE.fullmatch(reference.strip())
        digest = _DIGEST.search(match["fragment"] or "") if match else None
        if match is None or digest is None:
            others.append(_with_login(reference, logins))
            continue
        rest = _DIGEST.sub("", match["fragment"]).strip("&")
        url = _with_login(match["url"], logins) + (f"#{rest}" if rest else "")
        hashed.append(f"{match['name']} @ {url} --hash={digest['digest'].lower().replace('=', ':')}")
    return [
        Step(tuple(lines), whole, all(_is_wheel(line) for line in lines))
        for lines, whole in ((hashed, True), (others, False))
        if lines
    ]


def without_digest(references: Iterable[str]) -> list[str]:
    """The names of files that a lock names without a digest: nothing tells that they are those that were locked.

    A commit of a repository is named by a digest of its own.
    """
    found = []
    for reference in references:
        match = _REFERENCE.fullmatch(reference.strip())
        if match is not None and not _DIGEST.search(match["fragment"] or "") and "git+" not in match["url"]:
            found.append(match["name"])
    return found


def pip_from_elsewhere(prefix: Path, python: Path) -> list[str] | None:
    """A command line that is pip for the environment's python without being installed in the environment.

    cetool's own, if it has one, is told to work there; else the wheel that a Python keeps for new environments
    (ensurepip) is run as it is. None where there is neither.
    """
    if importlib.util.find_spec("pip") is not None:
        return own_module("pip", "--python", str(python))
    places = [*prefix.glob("lib/python3*/ensurepip/_bundled"), prefix / "Lib" / "ensurepip" / "_bundled"]
    if own := importlib.util.find_spec("ensurepip"):
        places += [Path(place, "_bundled") for place in own.submodule_search_locations or ()]
    places.append(Path("/usr/share/python-wheels"))
    wheel = next((wheel for place in places for wheel in sorted(place.glob("pip-*.whl"), reverse=True)), None)
    return None if wheel is None else python_command(python, f"{wheel}{os.sep}pip")


def _is_wheel(line: str) -> bool:
    match = _REFERENCE.match(line)
    return match is not None and re.sub(r"[?#].*", "", match["url"]).endswith(".whl")


def _with_login(text: str, logins: Sequence[str]) -> str:
    """The text with the credentials that belong to scheme, host and port of its URL, if that has none itself."""
    found = _URL.search(text)
    if found is None:
        return text
    for login in logins:
        try:
            known, url = split_url(login), split_url(found["url"])
        except ValueError:
            continue
        if known.userinfo is not None and url.userinfo is None and known.origin == url.origin:
            at = found.start("place")
            return f"{text[:at]}{known.userinfo}@{text[at:]}"
    return text
