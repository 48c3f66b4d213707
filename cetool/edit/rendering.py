"""Render entries of tables (``numpy >=1.26`` becomes ``numpy = ">=1.26"``) and whole blocks.

Every entry is read again: if it does not mean what the text meant, there is no entry.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cetool.base.errors import CetoolError
from cetool.declare.blocks import CONDA_EXECUTE, CONDA_SCRIPT, PEP723
from cetool.declare.dialects.dependencies import conda_dependencies
from cetool.declare.dialects.pip_lines import bare_requirement
from cetool.declare.dialects.pixi import read_pixi
from cetool.declare.match_fields import read_fields
from cetool.declare.match_specs import canonical_spec, requires_python_spec, spec_name
from cetool.declare.nodes import Node
from cetool.declare.platforms import current_platform
from cetool.declare.pypi import canonical_requirement
from cetool.declare.toml import parse_toml
from cetool.edit.block_text import BlockText
from cetool.edit.toml import TomlText, array_text, key_text, quoted
from cetool.edit.yaml import quoted as yaml_text

_SPEC = re.compile(r"(?:(?P<channel>[^\s\[]+)::)?(?P<name>[A-Za-z0-9_.-]+)(?P<rest>(?:\s|(?=[<>=!~\[])).*)?")
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*\(?(?P<version>[^;@)]*)\)?")

#: A key, and a value as TOML.
Pair = tuple[str, str]


def conda_entry(text: str, base_dir: str | os.PathLike[str]) -> Pair | None:
    """Return the entry of a ``[dependencies]`` table for this match spec; None if there is none.

    Raises MetadataError if the text is not a match spec.
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
    """Return the fields of a canonical match spec that a table also has."""
    fields = read_fields(canonical)
    found = {"version": fields.version, "build": fields.build, "build-number": fields.get("build_number")}
    found["channel"] = fields.channel
    found |= {key: fields.get(key) for key in ("subdir", "md5", "sha256")}
    return {key: value for key, value in found.items() if value is not None}


def _conda_meaning(name: str, value: str, base_dir: str | os.PathLike[str]) -> str | None:
    try:
        table = parse_toml([f"{key_text(name)} = {value}"], [1], name="", first=1)
        return conda_dependencies(table.entries, platform=current_platform(), base_dir=base_dir).get(name.lower())
    except CetoolError:
        return None


def pypi_entry(text: str, base_dir: str | os.PathLike[str]) -> Pair | None:
    """Return the entry of a ``pypi-dependencies`` table for this requirement; None if there is none.

    Raises MetadataError if the text is not a requirement.
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
    try:
        root = parse_toml([f"pypi-dependencies = {{ {key_text(name)} = {value} }}"], [1], name="", first=1)
        read = read_pixi(root, platform=current_platform(), base_dir=base_dir).pypi
    except CetoolError:
        return None
    return (name, value) if read == (wanted,) else None


def _origin(url: str) -> dict[str, str]:
    """Return the fields for a direct reference: a repository, a path, or a file's URL."""
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


def python_specifier(text: str, base_dir: str | os.PathLike[str]) -> str | None:
    """Return the PEP 440 specifier for the same python as this match spec, if there is one."""
    wanted = canonical_spec(text, base_dir=base_dir)
    found = _SPEC.fullmatch(text.strip())
    rest = (found["rest"] or "").strip() if found and not found["channel"] else ""
    clauses = (",".join(map(_clause, each.split(","))) for each in (rest, wanted.partition(" ")[2]))
    for version in dict.fromkeys((rest, *clauses)):
        try:
            if version and requires_python_spec(version) == wanted:
                return version
        except CetoolError:
            continue
    return None


def _clause(text: str) -> str:
    """Return a clause of a conda version in PEP 440 form."""
    clause = text.strip()
    if clause[:1].isdigit():
        return f"=={clause}"
    if clause.startswith("=") and not clause.startswith("=="):
        return f"=={clause[1:].removesuffix('.*')}.*"
    return clause


_CETOOL = ("tool", "cetool")
#: Where a block in TOML lists packages for which it has no other place.
CETOOL_ENV = (*_CETOOL, "env")
_CONDA = ("tool", "conda")
_PIXI_PYPI = ("tool", "pixi", "pypi-dependencies")
_WORD = re.compile(r"[A-Za-z0-9_./=+:@%,-]+")


@dataclass(frozen=True)
class NewBlock:
    """The content of a new block, as a user would write it, not canonical. None leaves a key out."""

    packages: tuple[str, ...] = ()
    pypi: tuple[str, ...] = ()
    channels: tuple[str, ...] | None = None
    variables: tuple[tuple[str, str], ...] = ()
    run_with: tuple[str, ...] | None = None
    entrypoint: str | None = None
    comments: tuple[str, ...] = ()
    baselines: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    environment: str | None = None


def render(
    dialect: str, wanted: NewBlock, *, comment: str, base_dir: str | os.PathLike[str], shared: str = ""
) -> list[str]:
    """Return the lines of a block, without line ends. ``shared`` is TOML to copy into it: tables below ``tool``."""
    if dialect == CONDA_EXECUTE:
        return [f"{comment} conda execute", *(f"{comment} {line}" for line in _yaml(wanted, comment))]
    lines = _toml(dialect, wanted, base_dir, shared).rstrip("\n").split("\n")
    lines = [*(f"# {text}".rstrip() for text in wanted.comments), *lines]
    opening, closing = ("/// script", "///") if dialect == PEP723 else ("/// conda-script", "/// end-conda-script")
    return [f"{comment} {line}".rstrip() for line in (opening, *lines, closing)]


def _yaml(wanted: NewBlock, comment: str) -> list[str]:
    lines = [f"{comment} {text}".rstrip() for text in wanted.comments]
    if wanted.baselines:
        lines += [f"baseline: {_flow(wanted.baselines)}"]
    if wanted.without:
        lines += [f"without: {_flow(wanted.without)}"]
    if wanted.environment is not None:
        lines += [f"environment: {yaml_text(wanted.environment, flow=False)}"]
    if wanted.packages or wanted.pypi or not (wanted.baselines or wanted.environment):
        lines += ["env:", *(f" - {yaml_text(text, flow=False)}" for text in wanted.packages)]
    if wanted.pypi:
        lines += [" - pip:", *(f"   - {yaml_text(text, flow=False)}" for text in wanted.pypi)]
    if wanted.channels is not None:
        lines += [f"channels: {_flow(wanted.channels)}"]
    if wanted.run_with is not None:
        line = " ".join(wanted.run_with)
        plain = all(map(_WORD.fullmatch, wanted.run_with)) and yaml_text(line, flow=False) == line
        lines += [f"run_with: {line if plain else _flow(wanted.run_with)}"]
    if wanted.variables:
        lines += ["variables:", *(f" {key}: {yaml_text(text, flow=False)}" for key, text in wanted.variables)]
    return lines


def _flow(texts: Sequence[str]) -> str:
    return f"[{', '.join(yaml_text(text, flow=True) for text in texts)}]"


def add_to_table(
    toml: TomlText, table: tuple[str, ...], text: str, base_dir: str | os.PathLike[str], *, pypi: bool
) -> None:
    """Add a match spec or a PyPI requirement as an entry of a table.

    If an entry cannot express it (pip's options, URLs without a name), or its name is taken, it goes to ``[tool.cetool]
    env``.
    """
    if pypi:
        pair = None if bare_requirement(text) is None else pypi_entry(text, base_dir)
    else:
        pair = conda_entry(text, base_dir)
    if pair is not None and not toml.has(*table, pair[0]):
        toml.set(table, *pair)
    elif pypi:
        toml.append(CETOOL_ENV, f"{{ pip = [{quoted(text)}] }}")
    else:
        toml.append_text(CETOOL_ENV, text)


def _toml(dialect: str, wanted: NewBlock, base_dir: str | os.PathLike[str], shared: str) -> str:
    toml = TomlText(BlockText.of(shared.strip("\n")))
    channels = None if wanted.channels is None else array_text(wanted.channels)
    if dialect == CONDA_SCRIPT:
        toml.set((), "channels", channels or "[]")
        if wanted.entrypoint is not None:
            toml.set((), "entrypoint", quoted(wanted.entrypoint))
        for text in wanted.packages:
            add_to_table(toml, ("dependencies",), text, base_dir, pypi=False)
        for text in wanted.pypi:
            add_to_table(toml, _PIXI_PYPI, text, base_dir, pypi=True)
    else:
        packages = list(wanted.packages)
        python = [text for text in packages if spec_name(canonical_spec(text)) == "python"]
        specifier = python_specifier(python[0], base_dir) if len(python) == 1 else None
        if specifier is not None:
            packages.remove(python[0])
            toml.set((), "requires-python", quoted(specifier))
        elif [text.strip().lower() for text in python] == ["python"]:
            packages.remove(python[0])  # it is always included
        plain = [text for text in wanted.pypi if bare_requirement(text) is not None]
        toml.set((), "dependencies", array_text(plain))
        for text in wanted.pypi:
            if text not in plain:
                toml.append(CETOOL_ENV, f"{{ pip = [{quoted(text)}] }}")
        if channels is not None:
            toml.set(_CONDA, "channels", channels)
        if packages:
            toml.set(_CONDA, "dependencies", array_text(packages))
    for key, texts in (("baseline", wanted.baselines), ("without", wanted.without), ("run_with", wanted.run_with)):
        if texts or (key == "run_with" and texts is not None):
            toml.set(_CETOOL, key, array_text(texts))
    if wanted.environment is not None:
        toml.set(_CETOOL, "environment", quoted(wanted.environment))
    if wanted.variables:
        pairs = ", ".join(f"{key} = {quoted(value)}" for key, value in wanted.variables)
        toml.set(_CETOOL, "variables", f"{{ {pairs} }}")
    return toml.content


def toml_value(node: Node) -> str:
    """Return a value as TOML on one line."""
    if node.kind == "list":
        return f"[{', '.join(map(toml_value, node.items))}]"
    if node.kind == "mapping":
        pairs = [f"{key_text(key)} = {toml_value(item)}" for key, item in node.entries.items()]
        return f"{{ {', '.join(pairs)} }}"
    return quoted(node.text) if node.kind == "text" else node.text


def entrypoint_of(words: Sequence[str]) -> str | None:
    """Return the conda-script entry point that runs a script with these words; None unless they are plain words."""
    return " ".join((*words, "${SCRIPT}")) if all(map(_WORD.fullmatch, words)) else None


def words_of(entrypoint: str) -> tuple[str, ...] | None:
    """Return the words before the script's path in an entry point; None unless it is such a plain command."""
    *words, last = entrypoint.split() or [""]
    return tuple(words) if words and last == "${SCRIPT}" and all(map(_WORD.fullmatch, words)) else None
