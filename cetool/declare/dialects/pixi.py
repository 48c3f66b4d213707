"""The keys of ``[tool.pixi]``: what cetool does with each, and the reader of those that choose how a script runs.

docs/pixi.md shows :data:`KEYS` to users, and a test compares the two.

``[tool.pixi]`` in a script's TOML block, read as pixi reads it as far as one environment goes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from cetool.base.durations import exclude_newer, rfc3339
from cetool.base.errors import Location, MetadataError, UsageError
from cetool.base.patterns import pattern
from cetool.base.text import nearest, shorten
from cetool.declare.channels import channels_of
from cetool.declare.dialects.dependencies import PIXI_FIELDS, conda_dependencies
from cetool.declare.dialects.own_keys import read_variables
from cetool.declare.dialects.pypi_tables import read_pixi_options, read_pixi_pypi
from cetool.declare.environment import NO_SOLVING, Ignored, Requirements, Solving
from cetool.declare.nodes import Node
from cetool.declare.platforms import FAMILIES, PLATFORMS, selectors
from cetool.declare.pypi import PypiSettings

HONOURED, REFUSED, IRRELEVANT = "honoured", "refused", "irrelevant"

_TABLE = {
    "activation.env": HONOURED,
    "activation.scripts": REFUSED,
    "build-dependencies": REFUSED,
    "constraints": HONOURED,
    "dependencies": HONOURED,
    "dev": REFUSED,
    "host-dependencies": REFUSED,
    "pypi-dependencies": HONOURED,
    "run-dependencies": REFUSED,
    "tasks": IRRELEVANT,
}
_WORKSPACE = {
    **dict.fromkeys(("channel-priority", "channels", "exclude-newer", "platforms", "solve-strategy"), HONOURED),
    **dict.fromkeys(("conda-pypi-map", "s3-options"), REFUSED),
    **dict.fromkeys(("authors", "description", "documentation", "homepage", "license", "license-file"), IRRELEVANT),
    **dict.fromkeys(("name", "readme", "repository", "version", "preview", "requires-pixi"), IRRELEVANT),
    **dict.fromkeys(("build-variants", "build-variants-files", "dependencies", "target"), IRRELEVANT),
    "pypi-options": HONOURED,
}
#: What cetool does with each key of ``[tool.pixi]``: it honours it, refuses the script, or passes it over.
KEYS = {
    **_TABLE,
    **{f"target.PLATFORM.{key}": what for key, what in _TABLE.items()},
    **{f"workspace.{key}": what for key, what in _WORKSPACE.items()},
    **dict.fromkeys(("environments", "exclude-newer", "feature", "package", "pypi-exclude-newer"), REFUSED),
    "system-requirements": REFUSED,
    "pypi-options": HONOURED,
    "$schema": IRRELEVANT,
    "tool": IRRELEVANT,
}
_WHY = {
    "scripts": "a script that sets variables can be part of the script itself",
    "build-dependencies": "cetool builds no packages; name what the script needs in [tool.pixi.dependencies]",
    "dev": "cetool builds no packages",
    "environments": "a script has one environment; name what it needs in [tool.pixi.dependencies]",
    "feature": "a script has one environment; name what it needs in [tool.pixi.dependencies]",
    "exclude-newer": "cetool takes one moment for all packages: [tool.pixi.workspace] exclude-newer",
    "pypi-exclude-newer": "cetool takes one moment for all packages: [tool.pixi.workspace] exclude-newer",
    "system-requirements": "set CONDA_OVERRIDE_CUDA, CONDA_OVERRIDE_GLIBC and so on where it runs",
    "conda-pypi-map": "cetool goes by the names of installed packages",
    "s3-options": "cetool takes packages from http, https and file URLs",
    "package": "cetool builds no packages",
}
_WHY |= dict.fromkeys(("host-dependencies", "run-dependencies"), _WHY["build-dependencies"])
_EXPANDED = pattern(r"\$|%[^%]*%")
_STRATEGIES = ("highest", "lowest", "lowest-direct")
_PRIORITIES = ("strict", "flexible", "disabled")


def check_keys(keys: Mapping[str, Node], known: Iterable[str], title: str) -> list[Ignored]:
    """See that each key of a table is one that cetool honours or may pass over; what to say of those it passes over.

    ``known`` are keys of :data:`KEYS` without what stands before them. Raises MetadataError, naming the key's line.
    """
    names = {name.partition(".")[0] for name in known}
    warnings = []
    prefix = {"tool.pixi.workspace": "workspace.", "tool.pixi.project": "workspace."}.get(title, "")
    for key, node in keys.items():
        if key not in names:
            node.fail(f"unknown key {shorten(key)!r} in [{title}]", nearest(key, names), code="key-unknown", about=key)
        if KEYS.get(f"{prefix}{key}") == REFUSED and not _is_empty(node):
            node.fail(f"{title}.{key} is not supported in a script", f"{_capital(_WHY[key])}.")
        if key == "tasks":
            warnings.append(Ignored(f"cetool runs no tasks: it passes over {title}.{key}", node.where))
    return warnings


#: The keys of a table that can stand at the top or below a target, and of the workspace's.
TABLE_KEYS = tuple(dict.fromkeys(key.partition(".")[0] for key in _TABLE))
WORKSPACE_KEYS = tuple(_WORKSPACE)
TOP_KEYS = (*TABLE_KEYS, "workspace", "project", "target", *(key for key in KEYS if "." not in key))


def _is_empty(node: Node) -> bool:
    return node.kind in ("list", "mapping") and not node.items and not node.entries


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def refuse_partial(requirements: Requirements, where: Location) -> None:
    """Raise MetadataError where what is said of the solver would hold for a part of the packages only."""
    solving = requirements.solving
    if requirements.overlay is not None and (solving != NO_SOLVING or requirements.exclude_newer is not None):
        raise MetadataError(
            "constraints and other settings of the solver do not go with a base",
            where=where,
            hint="Take them out of [tool.pixi], or the base out of [tool.cetool].",
        )
    if solving.strategy is not None and requirements.pypi:
        raise MetadataError(
            "solve-strategy is for conda packages, and the script has PyPI requirements as well",
            where=where,
            hint="Take it out of [tool.pixi.workspace], and give each package the version that it needs.",
        )


def read_constraints(node: Node | None, title: str, platform: str) -> dict[str, str]:
    """The constraints of one table as canonical match specs, by package. Raises MetadataError."""
    if node is None:
        return {}
    named = node.as_mapping(f"[{title}.constraints]")
    return conda_dependencies(named, platform=platform, base_dir="/", known=("version", "build"))


def read_activation(node: Node | None, title: str) -> tuple[tuple[str, str], ...]:
    """The variables of one table. Raises MetadataError, also for scripts."""
    if node is None:
        return ()
    keys = node.as_mapping(f"[{title}.activation]", ("env", "scripts"))
    scripts = keys.get("scripts")
    if scripts is not None and not _is_empty(scripts):
        scripts.fail(f"{title}.activation.scripts is not supported in a script", f"{_capital(_WHY['scripts'])}.")
    named = keys.get("env")
    for name, value in () if named is None else named.entries.items():
        if _EXPANDED.search(value.text):
            value.fail(
                f"the variable {shorten(name)} refers to another one, which cetool does not replace",
                "Write its value out, or set it in the script.",
            )
    return read_variables(named)


def read_workspace(table: Mapping[str, Node], title: str, platform: str) -> tuple[Requirements, tuple[str, ...]]:
    """How the workspace's table has the environment solved, and the names for this platform that it gives.

    Raises MetadataError, also where it is for other platforms only.
    """
    priority, strategy = table.get("channel-priority"), table.get("solve-strategy")
    solving = Solving(
        channel_priority=None if priority is None else _one_of(priority, f"{title}.channel-priority", _PRIORITIES),
        strategy=None if strategy is None else _one_of(strategy, f"{title}.solve-strategy", _STRATEGIES),
    )
    if solving.strategy == "highest":
        solving = solving._replace(strategy=None)
    moment = None
    if "exclude-newer" in table:
        node = table["exclude-newer"]
        try:
            moment = rfc3339(exclude_newer(node.text if node.kind == "date" else node.as_text("exclude-newer")))
        except UsageError as error:
            node.fail(f"{title}.exclude-newer: {error.message}", error.hint)
    return Requirements(solving=solving, exclude_newer=moment), _names(table.get("platforms"), title, platform)


def _one_of(node: Node, what: str, values: Sequence[str]) -> str:
    text = node.as_text(what)
    if text not in values:
        node.fail(f"{what} cannot be {shorten(text)!r}", nearest(text, values))
    return text


def _names(node: Node | None, title: str, platform: str) -> tuple[str, ...]:
    """The name that ``platforms`` has for a platform, if it has one; the first entry that fits counts, as in pixi."""
    if node is None or _is_empty(node):
        return ()
    fitting: list[tuple[str, ...]] = []
    for item in node.as_list(f"{title}.platforms", 'Write ["linux-64"].'):
        name = subdir = None
        if item.kind == "mapping":
            fields = item.as_mapping(f"an entry of {title}.platforms")
            more = next((key for key in fields if key not in ("name", "platform")), None)
            if more is not None:
                hint = "Set CONDA_OVERRIDE_CUDA, CONDA_OVERRIDE_GLIBC and so on where it runs."
                fields[more].fail(f"{shorten(more)!r} of a platform is not supported in a script", hint)
            name = fields["name"].as_text("the name of a platform") if "name" in fields else None
            subdir = fields["platform"].as_text("a platform") if "platform" in fields else name
        else:
            subdir = item.as_text("a platform")
        if subdir not in PLATFORMS:
            item.fail(
                f"{shorten(str(subdir))!r} is not a platform", nearest(str(subdir), PLATFORMS), code="platform-invalid"
            )
        if subdir == platform:
            fitting.append(() if name in (None, subdir) else (str(name),))
    if not fitting:
        node.fail(
            f"the script is not for {platform}: [{title}] platforms does not name it",
            f'Add "{platform}" there.',
            code="platform-mismatch",
        )
    return fitting[0]


def declared_names(node: Node | None) -> tuple[str, ...]:
    """All names that ``platforms`` has for platforms."""
    items = () if node is None else node.items
    return tuple(item.entries["name"].text for item in items if "name" in item.entries)


def target_names(platform: str, own: Sequence[str]) -> tuple[str, ...]:
    """The names of targets that count on a platform, the most general first."""
    return (*reversed(selectors(platform)), *own)


_ONE_WORKSPACE = "Keep [tool.pixi.workspace]: 'project' is its former name."


def read_pixi(root: Node, *, platform: str, base_dir: str | os.PathLike[str]) -> Requirements:
    """What ``[tool.pixi]`` asks for on ``platform``.

    Raises MetadataError, also for what cetool does not do: :data:`cetool.declare.dialects.pixi.KEYS` lists that.
    """
    keys = root.as_mapping("[tool.pixi]")
    warnings = check_keys(keys, TOP_KEYS, "tool.pixi")
    found = Requirements()
    settings = PypiSettings()
    own: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    if "project" in keys and "workspace" in keys:
        keys["project"].fail("[tool.pixi] has both 'project' and 'workspace', of which pixi reads one", _ONE_WORKSPACE)
    for title in ("project", "workspace"):
        if title not in keys:
            continue
        what = f"tool.pixi.{title}"
        table = keys[title].as_mapping(f"[{what}]")
        check_keys(table, WORKSPACE_KEYS, what)
        wanted, own = read_workspace(table, what, platform)
        known += declared_names(table.get("platforms"))
        if "pypi-options" in table:
            settings = settings.plus(read_pixi_options(table["pypi-options"], f"{what}.pypi-options", base_dir))
        found = found.plus(wanted._replace(channels=channels_of(table.get("channels"), base_dir, f"{what}.channels")))
    constraints: dict[str, str] = {}
    packages: dict[str, str] = {}
    pypi: dict[str, Requirements] = {}
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
                pypi |= read_pixi_pypi(value, base_dir)
    if "pypi-options" in keys:
        settings = settings.plus(read_pixi_options(keys["pypi-options"], "tool.pixi.pypi-options", base_dir))
    for each in pypi.values():
        settings = settings.plus(each.pypi_settings)
    return found._replace(
        packages=tuple(packages.values()),
        pypi=tuple(text for each in pypi.values() for text in each.pypi),
        pypi_settings=settings,
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
            target.fail(
                f"tool.pixi.target.{shorten(name)} is no platform", nearest(name, names), code="platform-invalid"
            )
        title = f"tool.pixi.target.{name}"
        table = target.as_mapping(f"[{title}]")
        warnings += check_keys(table, TABLE_KEYS, title)
        read_activation(table.get("activation"), title)  # what is wrong on one platform is an error on all
    for name in target_names(platform, own):
        if name in targets:
            layers.append((f"tool.pixi.target.{name}", targets[name].entries))
    return layers
