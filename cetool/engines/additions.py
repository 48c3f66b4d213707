"""Which specs packages that stay as they are do not meet already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cetool.base.urls import redact
from cetool.declare.match_fields import PACKAGE_NAME
from cetool.declare.package import Package
from cetool.engines.errors import UnsatisfiableError
from cetool.lock.records import fits


def additions(specs: Iterable[str], pinned: Sequence[Package]) -> tuple[str, ...]:
    """The match specs that ask for a package which is not among the pinned ones.

    Raises EngineError, with the way out, where one asks for another version than is pinned.
    """
    there = {package.name: package for package in pinned}
    found = []
    for text in specs:
        if PACKAGE_NAME.fullmatch(text):  # a name alone: told without the import of a parser
            if text not in there:
                found.append(text)
            continue
        from rattler import MatchSpec

        spec = MatchSpec(text)
        name = getattr(spec.name, "normalized", None)
        if name is None or spec.condition is not None or name not in there:
            found.append(text)
        elif not fits(spec, text, kept := there[name], strictly=True):
            raise UnsatisfiableError(
                f"{redact(text)!r} does not fit the baseline, which has {name} {kept.version} ({kept.build})",
                code="baseline-conflict",
                hint=f"Take the baseline's out, and what is asked for is put in: without: [{name}]. "
                "Or ask for a version that fits.",
            )
    return tuple(found)
