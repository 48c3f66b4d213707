"""The merged view of a base and what lies over it: which requirements of its distributions hold (``pip check``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cetool.lock.installed import normalized
from cetool.overlays.base import Distribution


@dataclass(frozen=True)
class Breach:
    """A requirement that does not hold: of which distribution, and which version there is (None: it is missing)."""

    name: str
    version: str
    requirement: str
    needs: str
    found: str | None

    def __str__(self) -> str:
        what = f"{self.needs} is {self.found}" if self.found else f"there is no {self.needs}"
        return f"{self.name} {self.version} requires {self.requirement}, and {what}"


def breaches(distributions: Mapping[str, Distribution], markers: Mapping[str, str]) -> list[Breach]:
    """The requirements of these distributions that none of them fulfils; extras ask for nothing."""
    from packaging.markers import UndefinedEnvironmentName
    from packaging.requirements import InvalidRequirement, Requirement

    environment = {**markers, "extra": ""}
    found = []
    for distribution in distributions.values():
        for text in distribution.requires:
            try:
                requirement = Requirement(text)
                if requirement.marker is not None and not requirement.marker.evaluate(environment):
                    continue
            except (InvalidRequirement, UndefinedEnvironmentName):
                continue  # of old packages; no installer looks at it either
            needed = distributions.get(normalized(requirement.name))
            if needed is None or not requirement.specifier.contains(needed.version, prereleases=True):
                requirement.marker = None
                version = None if needed is None else needed.version
                needs = normalized(requirement.name)
                found.append(Breach(distribution.name, distribution.version, str(requirement), needs, version))
    return found


def new_breaches(
    below: Mapping[str, Distribution], over: Mapping[str, Distribution], markers: Mapping[str, str]
) -> list[Breach]:
    """The requirements that do not hold in the merged view and that the base by itself did not already leave open."""
    merged = {**below, **over}
    old = {(item.name, item.version, item.requirement) for item in breaches(below, markers)}
    return [item for item in breaches(merged, markers) if (item.name, item.version, item.requirement) not in old]
