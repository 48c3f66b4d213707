"""Draw the results as horizontal bars in SVG, in sections with one scale each, without a library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.measure import Spread
from benchmarks.report import Report, Result, amount

_WIDTH, _LABELS, _VALUES = 960, 360, 130
_BAR, _STEP, _HEAD = 16, 24, 44
_FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"
_INK, _FAINT, _OURS, _OTHERS = "#1f2328", "#57606a", "#2f6fb7", "#b6bec8"


@dataclass(frozen=True)
class Bar:
    """A bar: its label, its length with quartiles, and whether it is cetool's."""

    label: str
    spread: Spread
    ours: bool


@dataclass(frozen=True)
class Section:
    """Bars on one scale, in seconds."""

    title: str
    bars: Sequence[Bar]


def draw_chart(report: Report) -> str:
    """Return the chart of a report as the text of an SVG file."""
    sections = [section for result in report.results for section in _sections(result) if section.bars]
    height = 76 + sum(_HEAD + _STEP * len(section.bars) for section in sections) + 24
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{height}' "
        f"viewBox='0 0 {_WIDTH} {height}' role='img' aria-labelledby='title'>",
        "<title id='title'>How long cetool takes, beside other programs</title>",
        f"<rect width='{_WIDTH}' height='{height}' fill='#ffffff'/>",
        _text(24, 34, "Time that cetool takes, compared with other programs", size=20, weight="600"),
        _text(24, 56, f"{report.machine}; {report.date}. Medians; the lines are the quartiles.", color=_FAINT),
    ]
    top = 76
    for section in sections:
        lines += _drawn(section, top)
        top += _HEAD + _STEP * len(section.bars)
    return "\n".join([*lines, "</svg>", ""])


def _sections(result: Result) -> Iterator[Section]:
    """Yield the bars of a group: what cases add to their bases, or how long they take."""
    name = result.group.name
    if name in ("warm", "executable"):
        title = f"{result.group.title}: over and above what it is compared with"
        yield Section(title, list(_bars(result, added=True)))
    elif name == "parallel":
        for copies in sorted({samples.case.copies for samples in result.samples.values()}):
            bars = list(_bars(result, added=False, copies=copies))
            yield Section(f"{result.group.title}: {copies}", bars)
    else:
        bars = list(_bars(result, added=False))
        # a warm run would be invisible next to commands that take a hundred times as long
        slow = {each.case.name for each in result.samples.values() if each.case.peak}
        yield Section(result.group.title, [bar for bar in bars if bar.label not in slow])
        yield Section(f"{result.group.title}: other commands", [bar for bar in bars if bar.label in slow])


def _bars(result: Result, *, added: bool, copies: int | None = None) -> Iterator[Bar]:
    for samples in result.samples.values():
        case = samples.case
        if copies not in (None, case.copies) or (added and case.base is None):
            continue
        values = samples.over(result.samples[case.base]) if added and case.base else list(samples.seconds.values())
        yield Bar(case.name, Spread.of(values), "cetool" in case.name)


def _drawn(section: Section, top: int) -> Iterator[str]:
    longest = max(max(bar.spread.high for bar in section.bars), 1e-9)
    room = _WIDTH - _LABELS - _VALUES - 24
    yield _text(24, top + 28, section.title, size=14, weight="600")
    for number, bar in enumerate(section.bars):
        y = top + _HEAD + _STEP * number
        middle = y + _BAR / 2
        length, low, high = (
            max(0.0, value) / longest * room for value in (bar.spread.median, bar.spread.low, bar.spread.high)
        )
        color = _OURS if bar.ours else _OTHERS
        yield _text(_LABELS - 8, middle + 4.5, bar.label, anchor="end")
        yield f"<rect x='{_LABELS}' y='{y}' width='{max(length, 1):.1f}' height='{_BAR}' rx='2' fill='{color}'/>"
        yield (
            f"<path d='M{_LABELS + low:.1f} {middle}H{_LABELS + high:.1f}M{_LABELS + low:.1f} {middle - 4}v8"
            f"M{_LABELS + high:.1f} {middle - 4}v8' stroke='{_INK}' fill='none'/>"
        )
        yield _text(_LABELS + max(length, high) + 8, middle + 4.5, amount(bar.spread.median, "s"), weight="600")


def _text(
    x: float, y: float, text: str, *, size: int = 13, weight: str = "400", color: str = _INK, anchor: str = "start"
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' {_FONT} font-size='{size}' font-weight='{weight}' fill='{color}' "
        f"text-anchor='{anchor}'>{escape(text)}</text>"
    )
