"""``[tool.pixi]`` in a script's TOML block, read as pixi reads it as far as one environment goes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

from cetool.spec.channels import file_url
from cetool.spec.dependencies import PIXI_FIELDS, conda_dependencies
from cetool.spec.environment import Ignored, Requirements
from cetool.spec.matchspecs import canonical_requirement
from cetool.spec.nodes import Node, channels_of, nearest, shorten
from cetool.spec.pixi_keys import (
    TABLE_KEYS,
    TOP_KEYS,
    WORKSPACE_KEYS,
    check_keys,
    declared_names,
    read_activation,
    read_constraints,
    read_workspace,
    target_names,
)
from cetool.spec.platforms import FAMILIES, PLATFORMS

_PYPI_FIELDS = (
    "version",
    "extras",
    "git",
    "branch",
    "tag",
    "rev",
    "subdirectory",
    "url",
    "path",
    "editable",
    "env-markers",
)


def read_pixi(root: Node, *, platform: str, base_dir: str | os.PathLike[str]) -> Requirements:
    """What ``[tool.pixi]`` asks for on ``platform``.

    Raises MetadataError, also for what cetool does not do: :data:`cetool.spec.pixi_keys.KEYS` lists that.
    """
    keys = root.as_mapping("[tool.pixi]")
    warnings = check_keys(keys, TOP_KEYS, "tool.pixi")
    found = Requirements()
    own: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    for title in ("project", "workspace"):
        if title not in keys:
            continue
        what = f"tool.pixi.{title}"
        table = keys[title].as_mapping(f"[{what}]")
        check_keys(table, WORKSPACE_KEYS, what)
        wanted, own = read_workspace(table, what, platform)
        known += declared_names(table.get("platforms"))
        found = found.plus(wanted._replace(channels=channels_of(table.get("channels"), base_dir, f"{what}.channels")))
    constraints: dict[str, str] = {}
    packages: dict[str, str] = {}
    pypi: dict[str, str] = {}
    for title, layer in _layers(keys, platform, own, known, warnings):
        constraints |= read_constraints(layer.get("constraints"), title, platform)
        found = found.plus(Requirements(variables=read_activation(layer.get("activation"), title)))
        for key, value in layer.items():
            what = f"[{title}.{key}]"
            if key == "dependencies":
                packages |= conda_dependencies(
                    value.as_mapping(what), platform=platform, base_dir=base_dir, known=PIXI_FIELDS
                )
            elif key == "pypi-dependencies":
                pypi |= {name: _pypi_requirement(name, item, base_dir) for name, item in value.as_mapping(what).items()}
    return found._replace(
        packages=tuple(packages.values()),
        pypi=tuple(pypi.values()),
        warnings=tuple(warnings),
        solving=found.solving._replace(constraints=tuple(sorted(constraints.values()))),
    )


def _layers(
    keys: Mapping[str, Node], platform: str, own: Sequence[str], known: Sequence[str], warnings: list[Ignored]
) -> list[tuple[str, Mapping[str, Node]]]:
    """The tables that count here, the most general first, so that the later replace the earlier, with their titles.

    ``own`` are the names that the script gives this platform, ``known`` all that it gives to platforms.
    """
    layers = [("tool.pixi", keys)]
    if "target" not in keys:
        return layers
    targets = keys["target"].as_mapping("[tool.pixi.target]")
    names = (*FAMILIES, *PLATFORMS, *known)
    for name, target in targets.items():
        if name not in names:
            target.fail(f"tool.pixi.target.{shorten(name)} is no platform", nearest(name, names))
        title = f"tool.pixi.target.{name}"
        table = target.as_mapping(f"[{title}]")
        warnings += check_keys(table, TABLE_KEYS, title)
        read_activation(table.get("activation"), title)  # what is wrong on one platform is an error on all
    for name in target_names(platform, own):
        if name in targets:
            layers.append((f"tool.pixi.target.{name}", targets[name].entries))
    return layers


def _pypi_requirement(name: str, node: Node, base_dir: str | os.PathLike[str]) -> str:
    """One entry of ``pypi-dependencies`` as a PEP 508 requirement."""
    if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", name):
        node.fail(f"{shorten(name)!r} is not the name of a PyPI package")
    if node.kind != "mapping":
        version = node.as_text(f"the version of {name}", 'Write it as in requests = ">=2.31", or "*" for any.')
        return canonical_requirement(name + _version(version), where=node.where)
    for field, value in node.entries.items():
        if field in ("index", "no-build-isolation", "no-binary", "no-build"):
            value.fail(f"'{field}' of {name} is not supported", "Indexes for all packages can be named in [tool.uv].")
    fields = node.as_mapping(f"the table of {name}", _PYPI_FIELDS)
    texts = {
        field: value.as_text(f"{field} of {name}")
        for field, value in fields.items()
        if field not in ("extras", "editable")
    }
    editable = fields.get("editable")
    if editable is not None and editable.text != "false":
        editable.fail(
            f"{name} is to be installed editable, which a script's environment cannot be",
            "It never changes once it is made: take 'editable' out to install the directory as it is now.",
        )
    sources = [field for field in ("version", "git", "url", "path") if field in texts]
    if len(sources) > 1 and sources != ["version"]:
        node.fail(f"{name} says twice where it comes from: {' and '.join(sources)}", "Keep one of them.")
    text = name
    if "extras" in fields:
        text += f"[{','.join(fields['extras'].as_texts('extras'))}]"
    text += _origin(name, node, texts, base_dir) if sources else ""
    if "env-markers" in texts:
        text += f" ; {texts['env-markers']}"
    return canonical_requirement(text, where=node.where, base_dir=base_dir)


def _version(version: str) -> str:
    return "" if version.strip() == "*" else f" {version.strip()}"


def _origin(name: str, node: Node, texts: Mapping[str, str], base_dir: str | os.PathLike[str]) -> str:
    """The version or the direct reference that the fields spell."""
    if "version" in texts:
        return _version(texts["version"])
    if "path" in texts:
        return f" @ {file_url(texts['path'], base_dir, where=node.where)}"
    if "url" in texts:
        return f" @ {_word(name, node, texts['url'])}"
    pins = [field for field in ("branch", "tag", "rev") if field in texts]
    if len(pins) > 1:
        node.fail(f"{name} says twice what to take: {' and '.join(pins)}", "Keep one of branch, tag and rev.")
    url = texts["git"] if texts["git"].startswith("git+") else f"git+{texts['git']}"
    revision = f"@{texts[pins[0]]}" if pins else ""
    subdirectory = f"#subdirectory={texts['subdirectory']}" if "subdirectory" in texts else ""
    return f" @ {_word(name, node, url + revision + subdirectory)}"


def _word(name: str, node: Node, text: str) -> str:
    if re.search(r"[\s;]", text):
        node.fail(f"the URL of {name} holds a blank or a semicolon", "Write them as %20 and %3B.")
    return text
