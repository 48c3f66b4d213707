"""Groups of measurements: cases, and the comparisons between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.measure import Case, Samples, ratio


@dataclass(frozen=True)
class Comparison:
    """A number computed from cases, with the bounds of its 95 % interval, and its target."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    target: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        return None if self.target is None else self.value <= self.target


@dataclass(frozen=True)
class Ratio:
    """The ratio of what two cases add to their bases.

    Without bases it is the ratio of their times.
    """

    name: str
    above: str
    below: str
    above_base: str = ""
    below_base: str = ""
    target: float | None = None

    def drawn(self, samples: Mapping[str, Samples]) -> Comparison:
        """Compute the comparison from samples."""
        upper = _over(samples, self.above, self.above_base)
        lower = _over(samples, self.below, self.below_base)
        return Comparison(self.name, *ratio(upper, lower), "", self.target)


@dataclass(frozen=True)
class Difference:
    """The difference between the medians of two cases in seconds, or the median of one case."""

    name: str
    above: str
    base: str = ""
    target: float | None = None

    def drawn(self, samples: Mapping[str, Samples]) -> Comparison:
        """Compute the comparison from samples."""
        return Comparison(self.name, *ratio(_over(samples, self.above, self.base), [1.0]), "s", self.target)


@dataclass(frozen=True)
class Peak:
    """The peak memory of a case in bytes."""

    name: str
    above: str
    target: float | None = None

    def drawn(self, samples: Mapping[str, Samples]) -> Comparison:
        """Compute the comparison from samples."""
        peaks = [float(peak) for peak in samples[self.above].peaks]
        return Comparison(self.name, max(peaks), min(peaks), max(peaks), "B", self.target)


@dataclass(frozen=True)
class Group:
    """Cases that are measured in turns for ``rounds``, and the comparisons between them."""

    name: str
    title: str
    rounds: int
    cases: Sequence[Case]
    comparisons: Sequence[Ratio | Difference | Peak] = ()
    notes: list[str] = field(default_factory=list)


def _over(samples: Mapping[str, Samples], name: str, base: str) -> list[float]:
    return samples[name].over(samples[base]) if base else list(samples[name].seconds.values())
