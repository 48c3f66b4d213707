"""What a group of measurements is: its cases, and the comparisons that are drawn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.measure import Case, Samples, ratio


@dataclass(frozen=True)
class Comparison:
    """A number drawn from the cases, with the bounds of its 95 % interval, and what it is to stay below."""

    name: str
    value: float
    low: float
    high: float
    unit: str
    target: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether it stays within its target; None where there is none."""
        return None if self.target is None else self.value <= self.target


@dataclass(frozen=True)
class Ratio:
    """What one case takes over another of its base, against what a third takes over its own.

    A name left empty stands for nothing: with ``above`` and ``below`` alone the ratio is that of their whole times.
    """

    name: str
    above: str
    below: str
    above_base: str = ""
    below_base: str = ""
    target: float | None = None

    def drawn(self, samples: Mapping[str, Samples]) -> Comparison:
        """The comparison that these samples give."""
        upper = _over(samples, self.above, self.above_base)
        lower = _over(samples, self.below, self.below_base)
        return Comparison(self.name, *ratio(upper, lower), "", self.target)


@dataclass(frozen=True)
class Difference:
    """Seconds that one case takes more than another (or, where that is empty, in all), by their medians."""

    name: str
    above: str
    base: str = ""
    target: float | None = None

    def drawn(self, samples: Mapping[str, Samples]) -> Comparison:
        """The comparison that these samples give."""
        return Comparison(self.name, *ratio(_over(samples, self.above, self.base), [1.0]), "s", self.target)


@dataclass(frozen=True)
class Peak:
    """Bytes of memory that a case takes at the most."""

    name: str
    above: str
    target: float | None = None

    def drawn(self, samples: Mapping[str, Samples]) -> Comparison:
        """The comparison that these samples give."""
        peaks = [float(peak) for peak in samples[self.above].peaks]
        return Comparison(self.name, max(peaks), min(peaks), max(peaks), "B", self.target)


@dataclass(frozen=True)
class Group:
    """Cases that are measured in turns, in so many ``rounds``, and what is to be drawn from them."""

    name: str
    title: str
    rounds: int
    cases: Sequence[Case]
    comparisons: Sequence[Ratio | Difference | Peak] = ()
    notes: list[str] = field(default_factory=list)


def _over(samples: Mapping[str, Samples], name: str, base: str) -> list[float]:
    return samples[name].over(samples[base]) if base else list(samples[name].seconds.values())
