"""Match specs and PyPI requirements as entries of a table: ``numpy >=1.26`` is ``numpy = ">=1.26"``.

Whatever is written is read again before it is taken: an entry means what the text meant, or there is none.
"""

from __future__ import annotations

import os
import re

from cetool.base.errors import CetoolError
from cetool.declare.dialects.dependencies import conda_dependencies
from cetool.declare.dialects.pixi import read_pixi
from cetool.declare.match_fields import read_fields
from cetool.declare.match_specs import canonical_spec, requires_python_spec
from cetool.declare.nodes import Node
from cetool.declare.platforms import current_platform
from cetool.declare.pypi import canonical_requirement
from cetool.declare.toml import parse_toml
from cetool.edit.toml import key_text, quoted

_SPEC = re.compile(r"(?:(?P<channel>[^\s\[]+)::)?(?P<name>[A-Za-z0-9_.-]+)(?P<rest>(?:\s|(?=[<>=!~\[])).*)?")
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*\(?(?P<version>[^;@)]*)\)?")

#: A key and a value, the latter as TOML.
Pair = tuple[str, str]


def conda_entry(text: str, base_dir: str | os.PathLike[str]) -> Pair | None:
    """The entry of a ``[dependencies]`` table that means this match spec; None where no entry can.

    Raises MetadataError where the text is no match spec.
    """
    wanted = canonical_spec(text, base_dir=base_dir)
    found = _SPEC.fullmatch(text.strip())
    if found is None:
        return None
    name, channel = found["name"], found["channel"]
    rest = (found["rest"] or "").strip()
    candidates = [] if channel or rest.startswith("[") else [quoted(rest or "*")]
    fields = _fields(wanted)
    if channel:
        fields["channel"] = channel
    written = [f"{key} = {quoted(value)}" for key, value in fields.items()]
    if "version" in fields:
        candidates.append(quoted(fields["version"]))
    candidates.append(f"{{ {', '.join(written)} }}")
    for value in candidates:
        if _conda_meaning(name, value, base_dir) == wanted:
            return name, value
    return None


def _fields(canonical: str) -> dict[str, str]:
    """The fields of a canonical match spec that a table has, too."""
    fields = read_fields(canonical)
    found = {"version": fields.version, "build": fields.build, "build-number": fields.get("build_number")}
    found["channel"] = fields.channel
    found |= {key: fields.get(key) for key in ("subdir", "md5", "sha256")}
    return {key: value for key, value in found.items() if value is not None}


def _conda_meaning(name: str, value: str, base_dir: str | os.PathLike[str]) -> str | None:
    table = _parsed(f"{key_text(name)} = {value}")
    if table is None:
        return None
    try:
        return conda_dependencies(table.entries, platform=current_platform(), base_dir=base_dir).get(name.lower())
    except CetoolError:
        return None


def pypi_entry(text: str, base_dir: str | os.PathLike[str]) -> Pair | None:
    """The entry of a ``pypi-dependencies`` table that means this requirement; None where no entry can.

    Raises MetadataError where the text is no requirement.
    """
    from packaging.requirements import Requirement

    wanted = canonical_requirement(text, base_dir=base_dir)
    requirement = Requirement(text.strip())
    found = _REQUIREMENT.match(text.strip())
    version = (found["version"].strip() if found else "") or str(requirement.specifier)
    fields = _origin(requirement.url) if requirement.url else {"version": quoted(version or "*")}
    if requirement.extras:
        fields["extras"] = f"[{', '.join(quoted(extra) for extra in sorted(requirement.extras))}]"
    if requirement.marker is not None:
        fields["env-markers"] = quoted(str(requirement.marker))
    plain = fields["version"] if list(fields) == ["version"] else None
    value = plain or f"{{ {', '.join(f'{key} = {each}' for key, each in fields.items())} }}"
    name = requirement.name
    root = _parsed(f"pypi-dependencies = {{ {key_text(name)} = {value} }}")
    try:
        read = () if root is None else read_pixi(root, platform=current_platform(), base_dir=base_dir).pypi
    except CetoolError:
        return None
    return (name, value) if read == (wanted,) else None


def _origin(url: str) -> dict[str, str]:
    """The fields for a direct reference: a repository, a path, or a file's URL."""
    if url.startswith("git+"):
        repository, _, fragment = url.removeprefix("git+").partition("#")
        head, found, revision = repository.rpartition("@")
        pinned = found and "/" in head.partition("://")[2]
        fields = {"git": quoted(head if pinned else repository)}
        if pinned:
            fields["rev"] = quoted(revision)
        if fragment.startswith("subdirectory="):
            fields["subdirectory"] = quoted(fragment.partition("=")[2])
        return fields
    return {"path" if re.match(r"\.{0,2}/|~/", url) else "url": quoted(url)}


def _parsed(line: str) -> Node | None:
    try:
        return parse_toml([line], [1], name="", first=1)
    except CetoolError:
        return None


def python_specifier(text: str, base_dir: str | os.PathLike[str]) -> str | None:
    """The PEP 440 specifier that means the same python as this match spec; None where there is none."""
    wanted = canonical_spec(text, base_dir=base_dir)
    found = _SPEC.fullmatch(text.strip())
    rest = (found["rest"] or "").strip() if found and not found["channel"] else ""
    for version in dict.fromkeys((rest, ",".join(map(_clause, rest.split(","))), *_canonical_clauses(wanted))):
        try:
            if version and requires_python_spec(version) == wanted:
                return version
        except CetoolError:
            continue
    return None


def _canonical_clauses(spec: str) -> tuple[str, ...]:
    version = spec.partition(" ")[2]
    return (",".join(map(_clause, version.split(","))),)


def _clause(text: str) -> str:
    """A clause of a conda version as PEP 440 writes it."""
    clause = text.strip()
    if clause[:1].isdigit():
        return f"=={clause}"
    if clause.startswith("=") and not clause.startswith("=="):
        return f"=={clause[1:].removesuffix('.*')}.*"
    return clause
