"""Read names of a server's environments: the key ``environment``, ``--env``, ``server:`` in baselines and bases.

A name is ``NAMESPACE/NAME``, which means the current build, or ``NAMESPACE/NAME@BUILD``.
"""

from __future__ import annotations

from collections.abc import Mapping

from cetool.base.errors import Location, MetadataError
from cetool.base.text import pattern, shorten
from cetool.base.urls import redact
from cetool.base.values import Value
from cetool.declare.nodes import Directory, Node
from cetool.declare.requirements import SERVER, Requirements

_PART = r"[A-Za-z0-9+_@$&?^~.=-]{1,255}"
_NAMED = pattern(rf"(?P<namespace>{_PART})/(?P<name>{_PART}?)(?:@(?P<build>[0-9]{{1,18}}))?\Z")
_EXAMPLE = "Write NAMESPACE/NAME, as in environment: team/analysis, or NAMESPACE/NAME@BUILD for one of its builds."


class Named(Value):
    """The name of a server's environment."""

    namespace: str
    name: str
    #: The number of one of its builds; None for the current one.
    build: int | None = None

    @property
    def place(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"

    def __str__(self) -> str:
        return self.place if self.build is None else f"{self.place}@{self.build}"


def parse_named(text: str, where: Location | None = None, hint: str = _EXAMPLE) -> Named:
    """Return the name in a text. Raises MetadataError."""
    found = _NAMED.match(text.strip())
    if found is None or {found["namespace"], found["name"]} & {".", ".."}:
        raise MetadataError(
            f"{shorten(redact(text))!r} is not the name of an environment on a server",
            code="environment-name-invalid",
            where=where,
            hint=hint,
        )
    return Named(found["namespace"], found["name"], None if found["build"] is None else int(found["build"]))


def is_named(text: str) -> bool:
    """Return whether a baseline or base is an environment of a server."""
    return text.startswith(SERVER)


def canonical_named(text: str, where: Location | None = None) -> str:
    """Return a baseline or base ``server:NAMESPACE/NAME`` in canonical form. Raises MetadataError."""
    hint = f"Write it as in {SERVER}team/analysis, or {SERVER}team/analysis@12 for one of its builds."
    return f"{SERVER}{parse_named(text.strip().removeprefix(SERVER), where, hint)}"


def read_keys(needs: Requirements, keys: Mapping[str, Node], _: Directory) -> Requirements:
    """Return the requirements with the value of ``environment``. Raises MetadataError."""
    node = keys["environment"]
    if node.kind in ("list", "mapping"):
        node.fail(
            f"environment must be a string, not {node.in_words}",
            "List packages in 'env'; 'environment' is the name of an environment on a server: team/analysis",
        )
    named = parse_named(node.as_text("environment", _EXAMPLE), node.where)
    needs = needs._replace(environment=str(named))
    needs.refuse_more(node.where)
    return needs
