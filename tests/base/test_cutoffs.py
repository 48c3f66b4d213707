"""What ``exclude-newer`` takes: days, moments, and spans of time before now."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from cetool.base.durations import as_of, cutoff, exclude_newer, moment_text
from cetool.base.errors import UsageError


@pytest.mark.parametrize(
    ("texts", "canonical", "seconds"),
    [
        (("7d", "1w", "168h", "7 days", "1 week", "P7D", "P1W", "PT168H", " 7 d ", "7 days ago"), "P7D", 7 * 86400),
        (("36h", "1d12h", "1.5d", "36 hours", "PT36H", "P1DT12H"), "P1DT12H", 36 * 3600),
        (("90m", "90 minutes", "1h 30min"), "P0DT1H30M", 5400),
    ],
)
def test_a_span_counts_back_from_now_and_has_one_canonical_text(
    texts: tuple[str, ...], canonical: str, seconds: int
) -> None:
    for text in texts:
        assert cutoff(text) == cutoff(canonical) == canonical
        before = datetime.now(timezone.utc) - timedelta(seconds=seconds + 1)
        moment = exclude_newer(text)
        assert before <= moment <= datetime.now(timezone.utc) - timedelta(seconds=seconds)
        assert moment_text(text).endswith("Z")


def test_days_and_moments_are_what_they_are() -> None:
    assert cutoff("2026-01-31") == "2026-01-31T23:59:59Z"
    assert cutoff("2026-01-31T12:00:00+01:00") == "2026-01-31T11:00:00Z"
    assert moment_text("2026-01-31") == "2026-01-31"
    assert as_of("2026-01-31T23:59:59Z") == "2026-01-31T23:59:59Z" and as_of("P1DT12H") == "1d 12h before creation"


@pytest.mark.parametrize(
    "text", ["", "7", "-7d", "1 month", "1y", "P1M", "P", "PT", "last week", "7d ago 1", "1d1d", "7x"]
)
def test_what_is_neither_is_an_error_with_the_three_forms(text: str) -> None:
    with pytest.raises(UsageError, match="is not a date") as raised:
        cutoff(text)
    assert all(form in str(raised.value.hint) for form in ("2026-01-31", "T12:00:00Z", "7d"))


def test_a_span_of_centuries_is_an_error() -> None:
    with pytest.raises(UsageError, match="hundred years"):
        cutoff("9999w")
