"""``[dependencies]`` tables as conda-script and pixi write them: a package's name, a version or a table of fields."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from cetool.base.text import shorten
from cetool.declare.channels import canonical_channel
from cetool.declare.match_fields import PACKAGE_NAME
from cetool.declare.match_specs import canonical_spec
from cetool.declare.nodes import Node
from cetool.declare.platforms import PLATFORMS, virtual_package_holds

#: The fields of a conda-script dependency.
FIELDS = (
    "version",
    "build",
    "build-number",
    "channel",
    "subdir",
    "md5",
    "sha256",
    "url",
    "when",
    "extras",
    "flags",
)
#: pixi knows some more.
PIXI_FIELDS = (*FIELDS, "file-name", "license")

_IN_BRACKETS = {"build-number": "build_number", "file-name": "fn"}
_BUILT_FROM_SOURCE = ("git", "path", "branch", "tag", "rev", "subdirectory")
_DIGITS = {"md5": 32, "sha256": 64}
_ITEM = re.compile(r"[A-Za-z0-9_.:+-]+")


def conda_dependencies(
    table: Mapping[str, Node], *, platform: str, base_dir: str | os.PathLike[str], known: tuple[str, ...] = FIELDS
) -> dict[str, str]:
    """Canonical match specs by package name; one whose ``when`` does not hold on ``platform`` is left out.

    Raises MetadataError for a field that is not among ``known``, or whose value no match spec can hold.
    """
    found = {}
    for name, node in table.items():
        if not PACKAGE_NAME.fullmatch(name.lower()):
            node.fail(
                f"{shorten(name)!r} is not a package name",
                'The key is the name alone: numpy = ">=1.26". It holds letters, digits, and . _ - only.',
            )
        spec = _dependency(name.lower(), node, platform, base_dir, known)
        if spec is not None:
            found[name.lower()] = spec
    return found


def _dependency(
    name: str, node: Node, platform: str, base_dir: str | os.PathLike[str], known: tuple[str, ...]
) -> str | None:
    if node.kind != "mapping":
        version = node.as_text(f"the version of {name}", 'Write it as in numpy = ">=1.26", or "*" for any.')
        return canonical_spec(f'{name}[version="{_value(node, "version", version)}"]', where=node.where)
    if any(field in _BUILT_FROM_SOURCE for field in node.entries) and "url" not in node.entries:
        node.fail(
            f"{name} is to be built from source, which cetool does not do",
            "Name a package that a channel has, or take it from PyPI.",
        )
    fields = node.as_mapping(f"the table of {name}", known)
    parts = []
    for field, value in fields.items():
        if field == "when":
            condition = value.as_text("when")
            holds = virtual_package_holds(condition, platform, where=value.where)
            if holds is False:
                return None
            if holds is None:
                parts.append(f"when={_quoted(value, condition)}")
        elif field in ("extras", "flags"):
            items = value.as_texts(field)
            for item in items:
                if not _ITEM.fullmatch(item):
                    value.fail(f"{shorten(item)!r} cannot be one of the {field} of {name}")
            parts += [f"{field}=[{','.join(sorted(items))}]"] if items else []
        else:
            parts.append(f"{_IN_BRACKETS.get(field, field)}={_quoted(value, _field(field, value, base_dir))}")
    return canonical_spec(f"{name}[{','.join(parts)}]" if parts else name, where=node.where)


def _field(field: str, value: Node, base_dir: str | os.PathLike[str]) -> str:
    """The checked text of one field."""
    if field == "build-number" and value.kind == "number":
        return value.text
    text = value.as_text(field).strip()
    if field == "channel":
        return canonical_channel(text, base_dir=base_dir, where=value.where)
    if field == "subdir" and text not in (*PLATFORMS, "noarch"):
        value.fail(
            f"{shorten(text)!r} is not a platform",
            "Write it as in linux-64, osx-arm64, win-64, noarch.",
            code="platform-invalid",
        )
    if field in _DIGITS and not re.fullmatch(rf"[0-9a-fA-F]{{{_DIGITS[field]}}}", text):
        value.fail(f"{shorten(text)!r} is not the {field} of a file", f"It has {_DIGITS[field]} hexadecimal digits.")
    if field == "url" and not re.fullmatch(r"(?:https?|file)://\S+\.(?:conda|tar\.bz2)(?:#\S*)?", text):
        value.fail(
            "the url of a dependency must be that of a conda package",
            "It starts with https:// or file:// and ends in .conda or .tar.bz2.",
        )
    return text


def _value(node: Node, field: str, text: str) -> str:
    """The text, if it can stand between double quotes. Raises MetadataError otherwise."""
    if '"' in text or "\\" in text:
        node.fail(
            f"{field} = {shorten(text)!r} holds a quote or a backslash, which no match spec can hold there",
            code="match-spec-invalid",
        )
    return text


def _quoted(node: Node, text: str) -> str:
    """The text in the quotes that it does not hold itself."""
    if '"' in text and "'" not in text and "\\" not in text:
        return f"'{text}'"
    return f'"{_value(node, "a field", text)}"'
