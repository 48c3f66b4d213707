"""Which virtual packages this machine offers (``__glibc``, ``__cuda``, ...)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def detect_virtual_packages(environ: Mapping[str, str], overrides: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The machine's virtual packages: name to ``VERSION=BUILD``, sorted, the overrides in place of what was found.

    Raises EngineError where they cannot be found out.
    """
    from cetool.engines.rattler.request import virtual_packages

    found = virtual_packages(overrides, environ)
    return {
        each.name.normalized: f"{each.version}={each.build_string}"
        for each in sorted(found, key=lambda each: each.name.normalized)
    }
