"""Read ``[tool.uv.sources]``: where single packages come from instead of the indexes.

Sources with a path, a URL or a repository turn their requirements into direct references (PEP 508), so that these are
locked, exported, compared and shown like any other. Sources with an index remain settings for uv.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cetool.base.errors import MetadataError
from cetool.base.text import normalized, shorten
from cetool.base.values import Value
from cetool.declare.dialects.dependencies import direct_reference, refuse_editable
from cetool.declare.nodes import Directory, Node
from cetool.declare.pypi import canonical_requirement, checked_name

_FIELDS = (
    *("path", "url", "git", "index", "workspace", "subdirectory", "rev", "tag", "branch", "lfs"),
    *("editable", "package", "marker", "extra", "group"),
)
_PLACES = ("path", "url", "git", "index", "workspace")
_OPPOSITE = {
    **{"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"},
    **{"in": "not in", "not in": "in", "===": "!="},
}


class Source(Value):
    """One source of a package, with a URL or an index."""

    node: Node
    #: The URL of a direct reference.
    url: str | None = None
    #: The name of an index.
    pin: str | None = None
    #: The condition for the source.
    marker: str | None = None


class Sources:
    """The sources of a block, by package, and which of them are used by a requirement."""

    def __init__(self, sources: Mapping[str, tuple[Source, ...]], base_dir: Directory) -> None:
        self._sources = sources
        self._base_dir = base_dir
        self._used: set[str] = set()

    def applied(self, requirements: Iterable[str]) -> tuple[str, ...]:
        """Return the canonical requirements with the sources applied. Raises MetadataError if one already has a URL."""
        return tuple(text for requirement in requirements for text in self._applied(requirement))

    def _applied(self, requirement: str) -> list[str]:
        from packaging.requirements import InvalidRequirement, Requirement

        try:
            asked = Requirement(requirement)
        except InvalidRequirement:  # a URL without a name, for which there is no source
            return [requirement]
        name = normalized(asked.name)
        sources = self._sources.get(name)
        if sources is None:
            return [requirement]
        self._used.add(name)
        if asked.url is not None:
            sources[0].node.fail(
                f"{name} has two sources: the URL in the requirement {requirement.partition(' @ ')[0]!r} "
                "and [tool.uv.sources]",
                "Remove one of them.",
            )
        direct = [source for source in sources if source.url is not None]
        if not direct:
            return [requirement]
        own = [] if asked.marker is None else [str(asked.marker)]
        found = []
        for source in direct:
            asked.url = source.url
            found.append(self._written(asked, own + ([source.marker] if source.marker else [])))
        others = [_negation(source.marker, source.node) for source in direct if source.marker]
        if len(others) == len(direct):
            asked.url = None
            found.append(self._written(asked, own + others))
        return found

    def _written(self, requirement: Any, markers: list[str]) -> str:
        """Return the requirement under the condition that all of the markers hold."""
        from packaging.requirements import Requirement

        specifier = "" if requirement.url is not None else str(requirement.specifier)
        extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
        place = f" @ {requirement.url}" if requirement.url is not None else ""
        held = " and ".join(f"({marker})" for marker in markers)
        text = f"{requirement.name}{extras}{specifier}{place}" + (f" ; {held}" if held else "")
        return canonical_requirement(str(Requirement(text)), base_dir=self._base_dir)

    def pins(self) -> dict[str, list[dict[str, str]]]:
        """Return the sources with an index, as in ``[tool.uv.sources]``."""
        found: dict[str, list[dict[str, str]]] = {}
        for name, sources in self._sources.items():
            for source in sources:
                if source.pin is not None:
                    marker = {"marker": source.marker} if source.marker else {}
                    found.setdefault(name, []).append({"index": source.pin, **marker})
        return found

    def refuse_unused(self) -> None:
        """Raise MetadataError for sources without a requirement, which uv would silently ignore."""
        for name, sources in self._sources.items():
            if name not in self._used:
                sources[0].node.fail(
                    f"tool.uv.sources.{name} has no effect: the script does not require {name}",
                    f"Add {name!r} to 'dependencies', even if only another package needs it, or remove the source.",
                )


def read_sources(node: Node | None, indexes: Iterable[str], base_dir: Directory) -> Sources:
    """Read the table ``[tool.uv.sources]``; ``indexes`` are the names of indexes. Raises MetadataError."""
    found: dict[str, tuple[Source, ...]] = {}
    for name, value in {} if node is None else node.as_mapping("[tool.uv.sources]").items():
        known = checked_name(name, value)
        items = value.items if value.kind == "list" else (value,)
        if not items:
            value.fail(f"tool.uv.sources.{name} is empty", "Remove it.")
        sources = tuple(_source(name, item, tuple(indexes), base_dir) for item in items)
        always = next((source for source in sources if source.marker is None), None)
        if len(sources) > 1 and always is not None:
            always.node.fail(
                f"{name} has several sources, but one of them has no marker",
                "Give each of them a 'marker': { ..., marker = \"sys_platform == 'linux'\" }.",
            )
        found[known] = sources
    return Sources(found, base_dir)


def _source(name: str, node: Node, indexes: tuple[str, ...], base_dir: Directory) -> Source:
    fields = node.as_mapping(f"tool.uv.sources.{name}", _FIELDS)
    places = [field for field in _PLACES if field in fields]
    if len(places) != 1:
        found = f"has several sources: {' and '.join(places)}" if places else "has no source"
        node.fail(f"tool.uv.sources.{name} {found}", "Give it one of path, url, git and index.")
    place = places[0]
    if place == "workspace":
        fields[place].fail(
            f"{name} cannot come from a workspace: a script is not part of one",
            'Use its directory: { path = "../directory" }.',
        )
    refuse_editable(name, fields.get("editable"))
    if "package" in fields and not fields["package"].as_flag("package"):
        fields["package"].fail(f"'package = false' is not supported: {name} can only be installed as a package")
    if "lfs" in fields and fields["lfs"].as_flag("lfs"):
        fields["lfs"].fail(f"cetool cannot fetch the files of {name} from Git LFS", "Use an archive or a wheel of it.")
    for field in [field for field in ("extra", "group") if field in fields]:
        fields[field].fail(f"a script has no {field}s, so this source of {name} has no effect", "Remove it.")
    marker = _marker(name, fields["marker"]) if "marker" in fields else None
    if place == "index":
        index = fields[place].as_text(f"the index of {name}", "Write the name of an index in [[tool.uv.index]].")
        if index not in indexes:
            listed = f"Use one of: {', '.join(sorted(indexes))}." if indexes else "Add it, with 'name' and 'url'."
            fields[place].fail(f"no index {shorten(index)!r} in [[tool.uv.index]]", listed)
        stray = next((field for field in ("subdirectory", "rev", "tag", "branch") if field in fields), None)
        if stray is not None:
            fields[stray].fail(f"{name} comes from an index, which has no {stray!r}", "Remove it.")
        return Source(node, pin=index, marker=marker)
    named = [field for field in ("path", "url", "git", "subdirectory", "rev", "tag", "branch") if field in fields]
    texts = {field: fields[field].as_text(f"{field} of {name}") for field in named}
    return Source(node, url=direct_reference(name, node, texts, base_dir), marker=marker)


def _marker(name: str, node: Node) -> str:
    from packaging.markers import InvalidMarker, Marker

    text = node.as_text(f"the marker of {name}")
    try:
        return str(Marker(text))
    except (InvalidMarker, RecursionError):
        node.fail(f"{shorten(text)!r} is not a marker", "Write it like \"sys_platform == 'linux'\".")


def _negation(marker: str, node: Node) -> str:
    """Return the marker for the opposite condition. Raises MetadataError if there is none."""
    from packaging.markers import Marker

    return _negated(Marker(marker)._markers, node)


def _negated(part: Any, node: Node) -> str:
    """Negate what the parser made of a marker: an operand, or a list of them with operators in between."""
    if isinstance(part, tuple):
        left, operator, right = (item.serialize() for item in part)
        if operator not in _OPPOSITE:
            raise MetadataError(
                f"the marker {shorten(f'{left} {operator} {right}')!r} is for some machines only, and cetool cannot "
                "negate it for the others",
                where=node.where,
                hint="Write it with >= and <, or give all machines a source.",
            )
        return f"{left} {_OPPOSITE[operator]} {right}"
    # «or» binds less than «and»: everything between two of them is one operand
    groups: list[list[str]] = [[]]
    for item in part:
        if item == "or":
            groups.append([])
        elif item != "and":
            groups[-1].append(_negated(item, node))
    return " and ".join("(" + " or ".join(f"({text})" for text in group) + ")" for group in groups)
