"""Read tables of packages as conda-script, pixi and uv write them: a package's name, and a version or a table of
fields.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from cetool.base.text import pattern, shorten
from cetool.base.urls import redact
from cetool.declare.channels import canonical_channel, file_url
from cetool.declare.match_fields import PACKAGE_NAME
from cetool.declare.match_specs import canonical_spec
from cetool.declare.nodes import Directory, Node
from cetool.declare.platforms import PLATFORMS, virtual_package_holds
from cetool.declare.pypi import PYPI_NAME, canonical_requirement

#: The fields of a conda-script dependency.
FIELDS = ("version", "build", "build-number", "channel", "subdir", "md5", "sha256", "url", "when", "extras", "flags")
#: pixi has more fields.
PIXI_FIELDS = (*FIELDS, "file-name", "license")

_PINS = ("branch", "tag", "rev")
_PYPI_FIELDS = ("version", "extras", "git", *_PINS, "subdirectory", "url", "path", "editable", "env-markers", "index")
_SCHEME = pattern(r"[A-Za-z][A-Za-z0-9+.-]*://")
_IN_BRACKETS = {"build-number": "build_number", "file-name": "fn"}
_BUILT_FROM_SOURCE = ("git", "path", "branch", "tag", "rev", "subdirectory")
_DIGITS = {"md5": 32, "sha256": 64}
_ITEM = pattern(r"[A-Za-z0-9_.:+-]+")


def conda_dependencies(
    table: Mapping[str, Node], *, platform: str, base_dir: Directory, known: tuple[str, ...] = FIELDS
) -> dict[str, str]:
    """Return canonical match specs by package name, without those whose ``when`` is false on ``platform``.

    Raises MetadataError for a field that is not in ``known``, or whose value a match spec cannot contain.
    """
    found = {}
    for name, node in table.items():
        if not PACKAGE_NAME.fullmatch(name.lower()):
            node.fail(
                f"{shorten(name)!r} is not a package name",
                'The key is only the name: numpy = ">=1.26". It has only letters, digits, and . _ -',
            )
        spec = _dependency(name.lower(), node, platform, base_dir, known)
        if spec is not None:
            found[name.lower()] = spec
    return found


def _dependency(name: str, node: Node, platform: str, base_dir: Directory, known: tuple[str, ...]) -> str | None:
    if node.kind != "mapping":
        version = node.as_text(f"the version of {name}", 'Write it like numpy = ">=1.26", or "*" for any.')
        return canonical_spec(f'{name}[version="{_value(node, "version", version)}"]', where=node.where)
    if any(field in _BUILT_FROM_SOURCE for field in node.entries) and "url" not in node.entries:
        node.fail(
            f"cetool cannot build {name} from source",
            "Use a package from a channel or from PyPI.",
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


def _field(field: str, value: Node, base_dir: Directory) -> str:
    """Return the checked text of one field."""
    if field == "build-number" and value.kind == "number":
        return value.text
    text = value.as_text(field).strip()
    if field == "channel":
        return canonical_channel(text, base_dir=base_dir, where=value.where)
    if field == "subdir" and text not in (*PLATFORMS, "noarch"):
        value.fail(
            f"{shorten(text)!r} is not a platform",
            "Write one such as linux-64, osx-arm64, win-64 or noarch.",
            code="platform-invalid",
        )
    if field in _DIGITS and not re.fullmatch(rf"[0-9a-fA-F]{{{_DIGITS[field]}}}", text):
        value.fail(f"{shorten(text)!r} is not a {field} digest", f"It has {_DIGITS[field]} hexadecimal digits.")
    if field == "url" and not re.fullmatch(r"(?:https?|file)://\S+\.(?:conda|tar\.bz2)(?:#\S*)?", text):
        value.fail(
            "the url of a dependency must be that of a conda package",
            "It must start with https:// or file:// and end with .conda or .tar.bz2.",
        )
    return text


def _value(node: Node, field: str, text: str) -> str:
    """Return the text if it can be in double quotes. Raises MetadataError otherwise."""
    if '"' in text or "\\" in text:
        node.fail(
            f"{field} = {shorten(text)!r} contains a quote or a backslash, which is not possible in a match spec",
            code="match-spec-invalid",
        )
    return text


def _quoted(node: Node, text: str) -> str:
    """Return the text in quotes that it does not contain."""
    if '"' in text and "'" not in text and "\\" not in text:
        return f"'{text}'"
    return f'"{_value(node, "a field", text)}"'


# --- packages from PyPI -----------------------------------------------------------------------------------------------


def pypi_dependency(name: str, node: Node, base_dir: Directory) -> str:
    """Return an entry of pixi's ``pypi-dependencies`` as a PEP 508 requirement. Raises MetadataError."""
    if not PYPI_NAME.fullmatch(name):
        node.fail(f"{shorten(name)!r} is not a PyPI package name", code="requirement-invalid")
    if node.kind != "mapping":
        version = node.as_text(f"the version of {name}", 'Write it like requests = ">=2.31", or "*" for any.')
        return canonical_requirement(name + _version(version), where=node.where)
    fields = node.as_mapping(f"the table of {name}", _PYPI_FIELDS)
    texts = {
        field: value.as_text(f"{field} of {name}")
        for field, value in fields.items()
        if field not in ("extras", "editable")
    }
    refuse_editable(name, fields.get("editable"))
    sources = [field for field in ("version", "git", "url", "path") if field in texts]
    if len(sources) > 1:
        node.fail(f"{name} has several sources: {' and '.join(sources)}", "Keep one of them.")
    if "index" in texts and sources not in ([], ["version"]):
        node.fail(f"{name} has both an index and a {sources[0]}", "Keep one of them.")
    text = name
    if "extras" in fields:
        text += f"[{','.join(fields['extras'].as_texts('extras'))}]"
    if "version" in texts:
        text += _version(texts["version"])
    elif sources:
        text += f" @ {direct_reference(name, node, texts, base_dir)}"
    elif stray := [field for field in (*_PINS, "subdirectory") if field in texts]:
        node.fail(f"{name} has {stray[0]!r}, which needs a 'git' or 'url'")
    if "env-markers" in texts:
        text += f" ; {texts['env-markers']}"
    return canonical_requirement(text, where=node.where, base_dir=base_dir)


def refuse_editable(name: str, node: Node | None) -> None:
    """Raise MetadataError if a field ``editable`` is not false."""
    if node is not None and node.text != "false":
        node.fail(
            f"{name} cannot be editable in a script's environment, which never changes",
            "Remove 'editable' to install the current state of the directory.",
        )


def _version(version: str) -> str:
    return "" if version.strip() == "*" else f" {version.strip()}"


def direct_reference(name: str, node: Node, texts: Mapping[str, str], base_dir: Directory) -> str:
    """Return the URL that ``path``, ``url`` or ``git`` and the related fields give. Raises MetadataError."""
    pins = [field for field in _PINS if field in texts]
    if "git" not in texts and (pins or ("path" in texts and "subdirectory" in texts)):
        stray = [*pins, "subdirectory"][0]
        node.fail(f"{name} has {stray!r}, which needs a 'git'", "Remove it.")
    if "path" in texts:
        return file_url(texts["path"].removeprefix("file://"), base_dir, where=node.where)
    below = f"subdirectory={_word(name, node, texts['subdirectory'], '#?&')}" if "subdirectory" in texts else ""
    if "url" in texts:
        url = _word(name, node, texts["url"])
        return url if not below else f"{url}{'&' if '#' in url else '#'}{below}"
    if len(pins) > 1:
        node.fail(f"{name} has several revisions: {' and '.join(pins)}", "Keep one of branch, tag and rev.")
    url = _word(name, node, texts["git"].removeprefix("git+"), "#")
    if not _SCHEME.match(url):
        node.fail(
            f"{shorten(redact(url))!r} is not the URL of a repository",
            "Write it like https://host/repository, ssh://git@host/repository or file:///directory.",
        )
    revision = f"@{_word(name, node, texts[pins[0]], '#?@')}" if pins else ""
    return f"git+{url}{revision}{'#' if below else ''}{below}"


def _word(name: str, node: Node, text: str, refused: str = "") -> str:
    if re.search(r"[\s;]", text):
        node.fail(f"the URL of {name} contains a blank or a semicolon", "Write them as %20 and %3B.")
    if wrong := next((char for char in refused if char in text), None):
        node.fail(f"{shorten(redact(text))!r} of {name} contains {wrong!r}, which is not possible there")
    return text
