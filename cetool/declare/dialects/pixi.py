"""Read ``[tool.pixi]`` in a script's TOML block as pixi does, as far as one environment is concerned.

docs/reference/pixi.md shows :data:`KEYS` to users, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cetool.base.codec import sha256_of
from cetool.base.durations import cutoff
from cetool.base.errors import Location, MetadataError, UsageError
from cetool.base.text import nearest, normalized, pattern, shorten
from cetool.declare.channels import channels_of
from cetool.declare.dialects.conda_execute import read_variables
from cetool.declare.dialects.dependencies import PIXI_FIELDS, conda_dependencies, pypi_dependency
from cetool.declare.nodes import Directory, Node
from cetool.declare.platforms import FAMILIES, PLATFORMS, selectors
from cetool.declare.pypi import INDEX_STRATEGY, PRERELEASE, PypiSettings, index_url, package_names
from cetool.declare.requirements import NO_SOLVING, Ignored, Requirements, Solving

HONOURED, REFUSED, IRRELEVANT = "honoured", "refused", "irrelevant"
#: The keys of ``pypi-options``, and how each is treated.
PIXI_OPTIONS = {
    **dict.fromkeys(("index-url", "extra-index-urls", "find-links", "no-build", "no-binary"), HONOURED),
    **dict.fromkeys(("no-build-isolation", "index-strategy", "prerelease-mode", "dependency-overrides"), HONOURED),
    "skip-wheel-filename-check": REFUSED,
}
_BUILDS = "cetool does not build packages; list what the script needs in [tool.pixi.dependencies]"
_ONE = "a script has one environment; list what it needs in [tool.pixi.dependencies]"
_MOMENT = "use one date for all packages: [tool.pixi.workspace] exclude-newer"
#: The last part of each refused key, and the hint.
_WHY = {
    "scripts": "set the variables in the script itself",
    **dict.fromkeys(("build-dependencies", "host-dependencies", "run-dependencies"), _BUILDS),
    **dict.fromkeys(("dev", "package"), "cetool does not build packages"),
    **dict.fromkeys(("environments", "feature"), _ONE),
    **dict.fromkeys(("exclude-newer", "pypi-exclude-newer"), _MOMENT),
    "system-requirements": "set CONDA_OVERRIDE_CUDA, CONDA_OVERRIDE_GLIBC and so on where it runs",
    "conda-pypi-map": "cetool uses the names of installed packages",
    "s3-options": "cetool downloads packages from http, https and file URLs",
}
_TABLE = {
    **dict.fromkeys(("activation.env", "constraints", "dependencies", "pypi-dependencies"), HONOURED),
    **dict.fromkeys(("activation.scripts", "build-dependencies", "dev"), REFUSED),
    **dict.fromkeys(("host-dependencies", "run-dependencies"), REFUSED),
    "tasks": IRRELEVANT,
}
_WORKSPACE = {
    **dict.fromkeys(("channel-priority", "channels", "exclude-newer", "platforms", "solve-strategy"), HONOURED),
    "pypi-options": HONOURED,
    **dict.fromkeys(("conda-pypi-map", "s3-options"), REFUSED),
    **dict.fromkeys(("authors", "description", "documentation", "homepage", "license", "license-file"), IRRELEVANT),
    **dict.fromkeys(("name", "readme", "repository", "version", "preview", "requires-pixi"), IRRELEVANT),
    **dict.fromkeys(("build-variants", "build-variants-files", "dependencies", "target"), IRRELEVANT),
}
#: What cetool does with each key of ``[tool.pixi]``: it honours it, refuses the script, or ignores the key.
KEYS = {
    **_TABLE,
    **{f"target.PLATFORM.{key}": what for key, what in _TABLE.items()},
    **{f"workspace.{key}": what for key, what in _WORKSPACE.items()},
    **dict.fromkeys(("environments", "exclude-newer", "feature", "package", "pypi-exclude-newer"), REFUSED),
    "system-requirements": REFUSED,
    "pypi-options": HONOURED,
    **dict.fromkeys(("$schema", "tool"), IRRELEVANT),
}
#: The keys of a table that can be at the top or below a target, and those at the top.
_TABLE_KEYS = tuple(dict.fromkeys(key.partition(".")[0] for key in _TABLE))
_TOP_KEYS = tuple(dict.fromkeys((*_TABLE_KEYS, "workspace", "project", "target", *(k for k in KEYS if "." not in k))))
_EXPANDED = pattern(r"\$|%[^%]*%")
_STRATEGIES = ("highest", "lowest", "lowest-direct")
_PRIORITIES = ("strict", "flexible", "disabled")


def read_pixi(root: Node, *, platform: str, base_dir: Directory) -> Requirements:
    """Return what ``[tool.pixi]`` requests on a platform. Raises MetadataError, also for keys that :data:`KEYS`
    refuses.
    """
    keys = root.as_mapping("[tool.pixi]")
    warnings = _check_keys(keys, _TOP_KEYS, "tool.pixi")
    if "project" in keys and "workspace" in keys:
        keys["project"].fail(
            "[tool.pixi] has both 'project' and 'workspace', but pixi reads only one",
            "Keep [tool.pixi.workspace]: 'project' is its former name.",
        )
    found = Requirements()
    own: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    for title in ("project", "workspace"):
        if title in keys:
            found, own, known = _workspace(keys[title], f"tool.pixi.{title}", platform, base_dir)
    constraints: dict[str, str] = {}
    packages: dict[str, str] = {}
    pypi: dict[str, Requirements] = {}
    for title, layer in _layers(keys, platform, own, known, warnings):
        found = found.plus(Requirements(variables=_activation(layer.get("activation"), title)))
        for key, value in layer.items():
            if key == "constraints":
                table = value.as_mapping(f"[{title}.constraints]")
                fields = ("version", "build")
                constraints |= conda_dependencies(table, platform=platform, base_dir="/", known=fields)
            elif key == "dependencies":
                table = value.as_mapping(f"[{title}.{key}]")
                packages |= conda_dependencies(table, platform=platform, base_dir=base_dir, known=PIXI_FIELDS)
            elif key == "pypi-dependencies":
                for name, item in value.as_mapping("[pypi-dependencies]").items():
                    pypi[name] = _pypi_dependency(name, item, base_dir)
    if "pypi-options" in keys:
        options = _pypi_options(keys["pypi-options"], "tool.pixi.pypi-options", base_dir)
        found = found.plus(Requirements(pypi_settings=options))
    for each in pypi.values():
        found = found.plus(each)
    return found._replace(
        packages=tuple(packages.values()),
        warnings=tuple(warnings),
        solving=found.solving._replace(constraints=tuple(sorted(constraints.values()))),
    )


def refuse_partial(requirements: Requirements, where: Location) -> None:
    """Raise MetadataError for settings of the solver that would apply only to some of the packages."""
    solving = requirements.solving
    if requirements.overlay is not None and (solving != NO_SOLVING or requirements.exclude_newer is not None):
        raise MetadataError(
            "constraints and other settings of the solver cannot be used with a base",
            where=where,
            hint="Remove them from [tool.pixi], or the base from [tool.cetool].",
        )
    if solving.strategy is not None and requirements.pypi:
        raise MetadataError(
            "solve-strategy applies to conda packages only, and the script also has PyPI requirements",
            where=where,
            hint="Remove it from [tool.pixi.workspace], and give each package the version that it needs.",
        )


def _check_keys(keys: Mapping[str, Node], known: Iterable[str], title: str, prefix: str = "") -> list[Ignored]:
    """Check that cetool honours or may ignore each key of a table; return warnings about ignored ones.

    ``known`` are keys of :data:`KEYS` without the ``prefix``. Raises MetadataError with the key's line.
    """
    warnings = []
    for key, node in keys.items():
        if key not in known:
            node.fail(f"unknown key {shorten(key)!r} in [{title}]", nearest(key, known), code="key-unknown", about=key)
        if KEYS.get(f"{prefix}{key}") == REFUSED and not _is_empty(node):
            _refuse(node, f"{title}.{key}")
        if key == "tasks":
            warnings.append(Ignored(f"{title}.{key} is ignored: cetool does not run tasks", node.where))
    return warnings


def _refuse(node: Node, name: str) -> None:
    why = _WHY[name.rpartition(".")[2]]
    node.fail(f"{name} is not supported in a script", f"{why[:1].upper()}{why[1:]}.")


def _is_empty(node: Node) -> bool:
    return node.kind in ("list", "mapping") and not node.items and not node.entries


def _layers(
    keys: Mapping[str, Node], platform: str, own: Sequence[str], known: Sequence[str], warnings: list[Ignored]
) -> list[tuple[str, Mapping[str, Node]]]:
    """Return the tables that apply here with their titles, the most general first: later ones override earlier ones.

    ``own`` are the script's names for this platform, ``known`` all its names for platforms.
    """
    layers = [("tool.pixi", keys)]
    targets = keys["target"].as_mapping("[tool.pixi.target]") if "target" in keys else {}
    names = (*FAMILIES, *PLATFORMS, *known)
    for name, target in targets.items():
        title = f"tool.pixi.target.{name}"
        if name not in names:
            message = f"tool.pixi.target.{shorten(name)}: unknown platform {shorten(name)!r}"
            target.fail(message, nearest(name, names), code="platform-invalid")
        table = target.as_mapping(f"[{title}]")
        warnings += _check_keys(table, _TABLE_KEYS, title)
        _activation(table.get("activation"), title)  # a mistake for one platform is an error on all
    for name in (*reversed(selectors(platform)), *own):
        if name in targets:
            layers.append((f"tool.pixi.target.{name}", targets[name].entries))
    return layers


def _activation(node: Node | None, title: str) -> tuple[tuple[str, str], ...]:
    """Return the variables of one table. Raises MetadataError, also for scripts."""
    if node is None:
        return ()
    keys = node.as_mapping(f"[{title}.activation]", ("env", "scripts"))
    if "scripts" in keys and not _is_empty(keys["scripts"]):
        _refuse(keys["scripts"], f"{title}.activation.scripts")
    named = keys.get("env")
    for name, value in () if named is None else named.entries.items():
        if _EXPANDED.search(value.text):
            value.fail(
                f"the variable {shorten(name)} refers to another variable, which cetool does not expand",
                "Write the value itself, or set the variable in the script.",
            )
    return read_variables(named)


def _workspace(
    node: Node, title: str, platform: str, base_dir: Directory
) -> tuple[Requirements, tuple[str, ...], tuple[str, ...]]:
    """Return what the workspace's table requests, its names for this platform, and all its names for platforms.

    Raises MetadataError, also if it is only for other platforms.
    """
    table = node.as_mapping(f"[{title}]")
    _check_keys(table, tuple(_WORKSPACE), title, "workspace.")
    priority, strategy = table.get("channel-priority"), table.get("solve-strategy")
    solving = Solving(
        channel_priority=None if priority is None else _one_of(priority, f"{title}.channel-priority", _PRIORITIES),
        strategy=None if strategy is None else _one_of(strategy, f"{title}.solve-strategy", _STRATEGIES),
    )
    if solving.strategy == "highest":
        solving = solving._replace(strategy=None)
    moment = None
    if (newer := table.get("exclude-newer")) is not None:
        try:
            moment = cutoff(newer.text if newer.kind == "date" else newer.as_text("exclude-newer"))
        except UsageError as error:
            newer.fail(f"{title}.exclude-newer: {error.message}", error.hint)
    named = table.get("platforms")
    own = _names(named, title, platform)
    known = () if named is None else tuple(each.entries["name"].text for each in named.items if "name" in each.entries)
    settings = PypiSettings()
    if "pypi-options" in table:
        settings = _pypi_options(table["pypi-options"], f"{title}.pypi-options", base_dir)
    channels = channels_of(table.get("channels"), base_dir, f"{title}.channels")
    wanted = Requirements(channels=channels, pypi_settings=settings, solving=solving, exclude_newer=moment)
    return wanted, own, known


def _one_of(node: Node, what: str, values: Sequence[str]) -> str:
    text = node.as_text(what)
    if text not in values:
        node.fail(f"{what} cannot be {shorten(text)!r}", nearest(text, values))
    return text


def _names(node: Node | None, title: str, platform: str) -> tuple[str, ...]:
    """Return the name that ``platforms`` gives a platform, if any; the first matching entry counts, as in pixi."""
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
            message = f"{shorten(str(subdir))!r} is not a platform"
            item.fail(message, nearest(str(subdir), PLATFORMS), code="platform-invalid")
        if subdir == platform:
            fitting.append(() if name in (None, subdir) else (str(name),))
    if not fitting:
        node.fail(
            f"the script is not for {platform}: it is not in [{title}] platforms",
            f'Add "{platform}" there.',
            code="platform-mismatch",
        )
    return fitting[0]


# --- packages from PyPI -----------------------------------------------------------------------------------------------


def _pypi_dependency(name: str, node: Node, base_dir: Directory) -> Requirements:
    text = pypi_dependency(name, node, base_dir)
    index = node.entries.get("index")
    if index is None:
        return Requirements(pypi=(text,))
    url = index_url(index, base_dir)
    table = {"name": f"index-{sha256_of(url.encode())[:12]}", "url": url, "explicit": True}
    sources = {normalized(name): [{"index": table["name"]}]}
    return Requirements(pypi=(text,), pypi_settings=PypiSettings().with_options(index=[table], sources=sources))


def _pypi_options(node: Node, what: str, base_dir: Directory) -> PypiSettings:
    """Return the settings in a table ``pypi-options``. Raises MetadataError."""
    keys = node.as_mapping(f"[{what}]", PIXI_OPTIONS)
    options: dict[str, Any] = {}
    for key, value in keys.items():
        name = f"{what}.{key}"
        if PIXI_OPTIONS[key] == REFUSED:
            value.fail(f"{name} is not supported", "Remove it, or rename the wheel to match its content.")
        if key in ("no-build", "no-binary", "no-build-isolation"):
            if value.kind == "list":
                options[f"{key}-package"] = package_names(value, name)
            else:
                options[key] = value.as_flag(name)
        elif key == "index-strategy":
            options[key] = value.as_choice(name, INDEX_STRATEGY)
        elif key == "prerelease-mode":
            options["prerelease"] = value.as_choice(name, PRERELEASE)
        elif key == "dependency-overrides":
            overrides = value.as_mapping(f"[{name}]").items()
            options["override-dependencies"] = sorted(pypi_dependency(each, item, base_dir) for each, item in overrides)

    def urls(key: str) -> tuple[str, ...]:
        items = keys[key].as_list(f"{what}.{key}") if key in keys else ()
        return tuple(index_url(_link(item) if key == "find-links" else item, base_dir) for item in items)

    return PypiSettings(
        index_url=index_url(keys["index-url"], base_dir) if "index-url" in keys else None,
        extra_index_urls=urls("extra-index-urls"),
        find_links=urls("find-links"),
    ).with_options(**options)


def _link(item: Node) -> Node:
    """Return the path or URL in an entry of ``find-links``, which pixi writes as a table."""
    if item.kind != "mapping":
        return item
    fields = item.as_mapping("an entry of find-links", ("path", "url"))
    if len(fields) != 1:
        item.fail("an entry of find-links needs either 'path' or 'url'")
    return next(iter(fields.values()))
