"""Read what a request declares, with the readers of the command line: its specification on each platform."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cetool.app.deciding import dated
from cetool.base.codec import sha256_of
from cetool.base.errors import CetoolError, MetadataError
from cetool.base.limits import ENVIRONMENT_FILE, LOCK, SCRIPT, in_words
from cetool.base.text import nearest, printable
from cetool.base.urls import strip_credentials
from cetool.declare.blocks import find_block
from cetool.declare.dialects.environment_yml import environment_in
from cetool.declare.environment import EnvironmentSpec, Exact
from cetool.declare.metadata import read_metadata
from cetool.declare.platforms import PLATFORMS
from cetool.declare.requirements import Requirements
from cetool.declare.source import script_from_text, sent_text
from cetool.lock.find import FORMATS, PIXI
from cetool.server.config_values import Profiles
from cetool.server.data.schema import KINDS
from cetool.server.locked import locks_in
from cetool.server.policies import NOWHERE, Policy

_PACKAGES = re.compile(r"^packages:", re.MULTILINE)
_DEPENDENCIES = re.compile(r"^dependencies[ \t]*:", re.MULTILINE)
#: The most platforms of a request, and of each of its lists: packages, PyPI packages, channels, variables.
_MOST, _LONGEST_LIST = 12, 1000
#: The most characters of a text by its kind. Reading takes time in proportion, which other requests wait for.
_LONGEST = {"environment-yaml": ENVIRONMENT_FILE // 4, "specs": ENVIRONMENT_FILE // 4, "script": SCRIPT, "lock": LOCK}


@dataclass(frozen=True, slots=True)
class Declared:
    """A text that declares an environment."""

    #: ``environment-yaml``, ``script``, ``specs`` or ``lock``.
    kind: str
    text: str
    #: Its name in messages; its suffix says what language a script is in.
    filename: str


def kind_of(text: str, filename: str = "") -> str:
    """Return what kind of declaration a text is, by its content and the name of its file."""
    if text.lstrip().startswith("{") and '"package"' in text and '"metadata"' in text:
        return "lock"
    if any(form.mark.search(text) for form in FORMATS if form.name != PIXI or _PACKAGES.search(text)):
        return "lock"
    if filename.lower().endswith((".yml", ".yaml")) or _DEPENDENCIES.search(text):
        return "environment-yaml"
    with sent_text(), contextlib.suppress(CetoolError):
        return "specs" if find_block(script_from_text(text, NOWHERE / "request", "<request>")) is None else "script"
    return "script"


def specifications(
    declared: Declared, platforms: Sequence[str], policy: Policy, virtual: Mapping[str, tuple[tuple[str, str], ...]]
) -> dict[str, EnvironmentSpec]:
    """Return the specification for each platform; ``virtual`` are the virtual packages of the profile by platform.

    Raises CetoolError, with the line in the text, if it is malformed, and for what the policy refuses.
    """
    if declared.kind not in KINDS:
        raise CetoolError(
            f"unknown kind {declared.kind!r} of a specification",
            code="request-malformed",
            about="kind",
            hint=f"The kinds are {', '.join(KINDS)}.",
        )
    _check_length(declared)
    found = {}
    with sent_text():
        if declared.kind == "lock":
            found = _of_lock(declared, platforms)
        else:
            for platform in platforms:
                needs = policy.completed(_requirements(declared, platform))
                found[platform] = _specified(needs, policy, virtual.get(platform, ()), declared)
    for spec in found.values():
        policy.check(spec)
    return found


def _check_length(declared: Declared) -> None:
    longest = _LONGEST[declared.kind]
    if len(declared.text) > longest:
        raise CetoolError(
            f"the text is larger than {in_words(longest)}",
            code="too-large",
            about="text",
            hint="Name only the packages that you use; cetool adds their dependencies.",
        )


def _requirements(declared: Declared, platform: str) -> Requirements:
    name = printable(declared.filename) or "<request>"
    path = NOWHERE / (Path(declared.filename).name or "request")
    if declared.kind == "script":
        needs = read_metadata(script_from_text(declared.text, path, name), platform).requirements
    else:
        path = path.with_suffix(".yml" if declared.kind == "environment-yaml" else ".txt")
        needs = environment_in(declared.text, path, name, platform)
    if needs.overlay is not None or needs.baselines:
        what = "overlays" if needs.overlay is not None else "baselines"
        raise CetoolError(
            f"the server cannot build {what}",
            code="request-malformed",
            about=what,
            hint="Lock the script on your machine (`cetool lock`), and send the lock.",
        )
    return needs


def _specified(
    needs: Requirements, policy: Policy, virtual: tuple[tuple[str, str], ...], declared: Declared
) -> EnvironmentSpec:
    channels = policy.default_channels if needs.needs_configured else ()
    spec = dated(EnvironmentSpec.of(needs, default_channels=channels, virtual_packages=virtual), needs)
    lists = {"packages": spec.packages, "PyPI packages": spec.pypi, "channels": spec.channels}
    for what, listed in {**lists, "variables": spec.variables}.items():
        if len(listed) > _LONGEST_LIST:
            problem = f"the request names {len(listed)} {what}; up to {_LONGEST_LIST} are allowed"
            raise CetoolError(problem, code="too-large", about=what)
    if not spec.packages and not spec.pypi:
        raise MetadataError(
            "the request names no packages",
            code="environment-file-malformed",
            hint="Add at least one match spec, such as python.",
        )
    return spec


def _of_lock(declared: Declared, platforms: Sequence[str]) -> dict[str, EnvironmentSpec]:
    locks = locks_in(declared.text, platforms, printable(declared.filename) or "<request>")
    missing = [each for each in platforms if each not in {lock.platform for lock in locks}]
    if missing:
        raise CetoolError(
            f"the lock has no packages for {', '.join(missing)}",
            code="lock-platform-missing",
            hint="Lock for these platforms too, or leave them out.",
        )
    return {each.platform: EnvironmentSpec(Exact(each.conda, each.pypi), channels=()) for each in locks}


def platforms_of_lock(declared: Declared) -> tuple[str, ...]:
    """Return the platforms of a lock. Raises MetadataError."""
    with sent_text():
        return tuple(each.platform for each in locks_in(declared.text, (), printable(declared.filename)))


def check_platforms(platforms: Sequence[str]) -> tuple[str, ...]:
    """Return the platforms, each once, sorted. Raises CetoolError for an unknown one, and for too many."""
    for each in platforms:
        if each not in PLATFORMS or each == "noarch":
            hint = nearest(each, PLATFORMS)
            raise CetoolError(f"unknown platform {each!r}", code="platform-invalid", about=each, hint=hint)
    found = tuple(sorted(set(platforms)))
    if len(found) > _MOST:
        raise CetoolError(f"a request can have up to {_MOST} platforms", code="request-malformed", about="platforms")
    return found


def virtual_packages(profiles: Profiles, name: str) -> Mapping[str, tuple[tuple[str, str], ...]]:
    """Return the virtual packages of a profile by platform. Raises CetoolError for an unknown one."""
    if name not in profiles:
        raise CetoolError(
            f"unknown profile {name!r}",
            code="request-malformed",
            about="profile",
            hint=f"The profiles are {', '.join(profiles)}.",
        )
    return profiles[name]


# --- what is stored ---------------------------------------------------------------------------------------------------


def row_of(
    declared: Declared, specs: Mapping[str, EnvironmentSpec], name: str | None, description: str | None
) -> dict[str, Any]:
    """Return the row of table ``specification``, without its number and time; ``data`` is conda-store's object."""
    spec = next(iter(specs.values()))
    data: dict[str, Any] = {"name": name or "", "description": description or "", "prefix": None}
    if declared.kind == "lock":
        data |= {"channels": [], "dependencies": [], "lockfile": True}
    else:
        pip = [{"pip": list(map(strip_credentials, spec.pypi))}] if spec.pypi else []
        data["channels"] = list(map(strip_credentials, spec.channels))
        data["dependencies"] = [*map(strip_credentials, spec.packages), *pip]
    data["variables"] = dict(spec.variables) or None
    whole = [declared.kind, declared.text, name, description, data]
    text = json.dumps(whole, sort_keys=True, ensure_ascii=True)
    return {
        "sha256": sha256_of(text.encode()),
        "kind": declared.kind,
        "name": name or "",
        "text": declared.text,
        "data": data,
    }
