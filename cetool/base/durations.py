"""Parse and format durations, sizes and dates as users write them (``1d12h``, ``20GB``, ``2026-01-31``).

Parsing is strict: a wrong guess would remove environments. A number without a unit is refused, since conda-execute
documented hours and read them as days.
"""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta, timezone

from cetool.base.errors import UsageError
from cetool.base.text import counted, pattern, shorten

_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_PREFIXES = "KMGTP"
_BYTES = {
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate(_PREFIXES, 1)},
    **{f"{prefix}IB": 1024**power for power, prefix in enumerate(_PREFIXES, 1)},
}
#: A longer duration is a typing mistake, and would overflow dates later.
_LONGEST = 100 * 365 * 86400
_LARGEST = 2**63 - 1

_NUMBER = r"[0-9]{1,18}(?:\.[0-9]{1,9})?"
_PART = pattern(rf"\s*({_NUMBER})\s*([a-z]+)")
_SIZE = pattern(rf"({_NUMBER})\s*([A-Za-z]+)\Z")
_TIME_HINT = "Write a number and its unit: 45s, 90m, 25h, 7d, 2w, or several: 1d12h."
_SIZE_HINT = "Write a number and its unit: 500MB, 20GB, 1.5TB (powers of 1000), or 500MiB, 20GiB (powers of 1024)."

_DAY = re.compile(r"(\d{4})-(\d\d)-(\d\d)", re.ASCII)
_MOMENT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(?:([Zz])|([+-])(\d\d):?(\d\d))", re.ASCII
)
_DAY_HINT = (
    "Write a day (2026-01-31), a moment with its time zone (2026-01-31T12:00:00Z), or a duration before now (7d)."
)
#: A span in ISO 8601, without months and years, whose lengths differ.
_ISO_SPAN = r"P(?=[0-9T])(?:([0-9]+)W)?(?:([0-9]+)D)?(?:T(?=[0-9])(?:([0-9]+)H)?(?:([0-9]+)M)?(?:([0-9]+)S)?)?"
#: Units as words, by their names in :func:`parse_duration`.
_WORD = r"(?i)(w)eeks?\b|(d)ays?\b|(h)(?:ou)?rs?\b|(m)in(?:ute)?s?\b|(s)ec(?:ond)?s?\b"


def age(when: float, now: float) -> float:
    """Return the seconds since a moment; 0 for one in the future, which means that the clock was set back."""
    return max(0.0, now - when)


def is_due(when: float, seconds: float) -> bool:
    """Return whether an action last done at a moment is due: after so many seconds, or if the clock was set back."""
    return not 0 <= time.time() - when < seconds


def parse_duration(text: str) -> float:
    """Return the seconds in a duration such as ``25h``, ``90m``, ``7d``, ``2w``, ``1d12h``, ``1.5h`` or ``0s``.

    Each unit may occur once, in any order. Raises UsageError for everything else: a number without a unit, a negative
    duration, more than a hundred years.
    """
    from decimal import Decimal

    stripped = text.strip()
    shown = repr(stripped if len(stripped) <= 40 else stripped[:40] + "...")
    _refuse_bare(stripped, shown, "duration", _TIME_HINT)
    total = Decimal(0)
    seen: set[int] = set()
    position = 0
    while position < len(stripped):
        match = _PART.match(stripped, position)
        unit = _SECONDS.get(match[2]) if match is not None else None
        if match is None or unit is None or unit in seen:
            raise UsageError(f"{shown} is not a duration", code="value-invalid", hint=_TIME_HINT)
        seen.add(unit)
        total += Decimal(match[1]) * unit
        position = match.end()
    if total > _LONGEST:
        raise UsageError(f"{shown} is longer than a hundred years", code="value-invalid", hint=_TIME_HINT)
    return float(total)


def format_duration(seconds: float) -> str:
    """Format a duration in its two largest units, rounded down: ``45s``, ``3 min``, ``5h 12min``, ``2d 3h``, ``40d``.

    A negative duration (the clock was set back) counts as zero.
    """
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60} min"
    large, small, per = ("h", "min", 60) if whole < 86400 else ("d", "h", 24)
    count, rest = divmod(whole // _SECONDS[small], per)
    # after two weeks, hours are noise
    return f"{count}{large} {rest}{small}" if rest and whole < 14 * 86400 else f"{count}{large}"


def format_age(seconds: float, *, short: bool = False) -> str:
    """Return how long ago something was, in its largest unit: ``just now``, ``3 min ago``, ``1 day ago``.

    The short form is ``now``, ``3m``, ``1d``.
    """
    whole = max(0, int(seconds))
    if whole < 60:
        return "now" if short else "just now"
    units = ((365 * 86400, "year"), (30 * 86400, "month"), (86400, "day"), (3600, "hour"), (60, "min"))
    size, unit = next(each for each in units if whole >= each[0])
    count = whole // size
    if short:
        return f"{count}{'mo' if unit == 'month' else unit[0]}"
    return f"{count} min ago" if unit == "min" else f"{counted(count, unit)} ago"


def parse_size(text: str) -> int:
    """Return the bytes in a size such as ``20GB``, ``1.5TB`` (powers of 1000), ``500MiB`` (powers of 1024) or ``0B``.

    Raises UsageError for everything else: a number without a unit, a negative size, more than 2**63 - 1 bytes.
    """
    from decimal import Decimal

    stripped = text.strip()
    shown = repr(stripped if len(stripped) <= 40 else stripped[:40] + "...")
    _refuse_bare(stripped, shown, "size", _SIZE_HINT)
    match = _SIZE.match(stripped)
    unit = _BYTES.get(match[2].upper()) if match is not None else None
    if match is None or unit is None:
        raise UsageError(f"{shown} is not a size", code="value-invalid", hint=_SIZE_HINT)
    size = int(Decimal(match[1]) * unit)
    if size > _LARGEST:
        raise UsageError(f"{shown} is larger than any disk", code="value-invalid", hint=_SIZE_HINT)
    return size


def format_size(size: int) -> str:
    """Format a number of bytes with a decimal unit: ``0 B``, ``1.5 kB``, ``212 MB``, ``20 GB``."""
    if size < 1000:
        return f"{max(0, size)} B"
    value = float(size)
    for prefix in ("k", *_PREFIXES[1:]):
        value /= 1000
        # 999.6 would print as 1000
        if value < 999.5 or prefix == _PREFIXES[-1]:
            break
    number = f"{value:.0f}" if value >= 9.95 else f"{value:.1f}".removesuffix(".0")
    return f"{number} {prefix}B"


def _refuse_bare(text: str, shown: str, what: str, hint: str) -> None:
    """Refuse an empty text, a negative number, and a number without a unit."""
    if not text:
        raise UsageError(f"the {what} is empty", code="value-invalid", hint=hint)
    if text.startswith(("-", "\N{MINUS SIGN}")):
        raise UsageError(f"the {what} {shown} is negative", code="value-invalid", hint=hint)
    if re.fullmatch(r"\+?[0-9.,_]+", text):
        raise UsageError(f"the {what} {shown} has no unit", code="value-invalid", hint=hint)


def exclude_newer(text: str) -> datetime:
    """Return the moment in UTC, to the second, after which published packages are left out.

    A day (``2026-01-31``) counts to its end, in UTC so that it means the same on every machine. A moment is RFC 3339
    (``2026-01-31T12:00:00+01:00``). A span (``7d``, ``1 week``, ``P7D``) counts back from now. Raises UsageError for
    everything else.
    """
    stripped = text.strip()
    seconds = _span(stripped)
    if seconds is not None:
        return datetime.now(timezone.utc).replace(microsecond=0) - timedelta(seconds=seconds)
    try:
        if day := _DAY.fullmatch(stripped):
            year, month, number = map(int, day.groups())
            return datetime(year, month, number, 23, 59, 59, tzinfo=timezone.utc)
        if moment := _MOMENT.fullmatch(stripped):
            year, month, number, hour, minute = (int(moment[index]) for index in range(1, 6))
            offset = timedelta(0)
            if moment[9]:
                offset = timedelta(hours=int(moment[10]), minutes=int(moment[11])) * (-1 if moment[9] == "-" else 1)
            # a leap second counts as the second before it
            second = min(int(moment[6] or 0), 59)
            there = datetime(year, month, number, hour, minute, second, tzinfo=timezone(offset))
            return there.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        pass  # the 31st of April, 25 o'clock
    raise UsageError(f"{shorten(text)!r} is not a date", code="value-invalid", hint=_DAY_HINT)


def _span(text: str) -> int | None:
    """Return the whole seconds of a span of time, None for any other text. Raises UsageError for an overlong one."""
    if iso := re.fullmatch(_ISO_SPAN, text):
        units = ("w", "d", "h", "m", "s")
        text = "".join(f"{number}{unit}" for number, unit in zip(iso.groups(), units, strict=True) if number)
    elif not re.match(r"[0-9]+(?:\.[0-9]+)?\s*[a-zA-Z]", text):
        return None
    text = re.sub(_WORD, lambda match: str(match[match.lastindex or 0]).lower(), text)
    try:
        return int(parse_duration(text.removesuffix(" ago")))
    except UsageError as error:
        if "hundred years" in error.message:
            raise
        return None


def cutoff(text: str) -> str:
    """Return the canonical text of a value of ``exclude-newer``, which is part of an environment's name.

    That is a moment in RFC 3339 (UTC), or a duration in days and a rest (``P7D``, ``P1DT12H``), which stays relative:
    the environment of `7d` is the same tomorrow, and is solved as of seven days before it is created. Raises
    UsageError.
    """
    seconds = _span(text.strip())
    if seconds is None:
        return rfc3339(exclude_newer(text))
    days, rest = divmod(seconds, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    time_part = "".join(f"{count}{unit}" for count, unit in ((hours, "H"), (minutes, "M"), (rest, "S")) if count)
    return f"P{days}D" + (f"T{time_part}" if time_part else "")


def is_span(text: str) -> bool:
    """Return whether a value of ``exclude-newer`` counts back from now."""
    return _span(text.strip()) is not None


def as_of(text: str) -> str:
    """Format a value of ``exclude-newer`` for messages: ``2026-01-31T23:59:59Z``, ``7d before creation``."""
    seconds = _span(text)
    return text if seconds is None else f"{format_duration(seconds)} before creation"


def moment_text(text: str) -> str:
    """Return the moment that a span means now, as RFC 3339; any other text unchanged."""
    return rfc3339(exclude_newer(text)) if is_span(text) else text


def rfc3339(moment: datetime) -> str:
    """Format a moment as ``2026-01-31T23:59:59Z``, for engines, lock files and digests."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ").zfill(20)
