"""The day that an environment is to be solved as of (``--exclude-newer``): as people write it, as engines take it."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from cetool.base.errors import UsageError
from cetool.declare.nodes import shorten

_DAY = re.compile(r"(\d{4})-(\d\d)-(\d\d)", re.ASCII)
_MOMENT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(?:([Zz])|([+-])(\d\d):?(\d\d))", re.ASCII
)
_HINT = "Write a day, 2026-01-31, or a moment with its time zone (RFC 3339): 2026-01-31T12:00:00Z."


def exclude_newer(text: str) -> datetime:
    """The moment in UTC, to the second, after which nothing counts that was published later.

    A day (``2026-01-31``) counts to its end, in UTC so that it means the same on every machine; a moment is RFC 3339
    (``2026-01-31T12:00:00+01:00``). Raises UsageError for everything else.
    """
    stripped = text.strip()
    try:
        if day := _DAY.fullmatch(stripped):
            year, month, number = map(int, day.groups())
            return datetime(year, month, number, 23, 59, 59, tzinfo=timezone.utc)
        if moment := _MOMENT.fullmatch(stripped):
            year, month, number, hour, minute = (int(moment[index]) for index in range(1, 6))
            offset = timedelta(0)
            if moment[9]:
                offset = timedelta(hours=int(moment[10]), minutes=int(moment[11])) * (-1 if moment[9] == "-" else 1)
            # a leap second is the last one of its minute
            second = min(int(moment[6] or 0), 59)
            there = datetime(year, month, number, hour, minute, second, tzinfo=timezone(offset))
            return there.astimezone(timezone.utc)
    except (ValueError, OverflowError):
        pass  # the 31st of April, 25 o'clock
    raise UsageError(f"{shorten(text)!r} is not a date", hint=_HINT)


def rfc3339(moment: datetime) -> str:
    """A moment as ``2026-01-31T23:59:59Z``: for engines, lock files and digests."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ").zfill(20)
