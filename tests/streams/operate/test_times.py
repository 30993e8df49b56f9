import pytest

from driftline.schemas.events import MICROSECONDS
from driftline.streams.operate.times import parse_time, show_time

NOW = 1_795_262_400 * MICROSECONDS  # 2026-11-21T12:00:00Z


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("now", 0),
        ("-90s", -90),
        ("-2h", -7_200),
        ("-1d12h", -129_600),
        ("-1w", -604_800),
        ("2026-11-21T11:59:59", -1),
        ("2026-11-21T11:59:59Z", -1),
        ("2026-11-21T13:00+01:00", 0),
        ("2026-11-21", -43_200),
        (" 2026-11-21 12:00:00.5 ", 0.5),
    ],
)
def test_a_time_is_iso_or_relative_and_utc_unless_it_says_otherwise(text: str, seconds: float) -> None:
    assert parse_time(text, NOW) == NOW + round(seconds * MICROSECONDS)


@pytest.mark.parametrize("text", ["", "yesterday", "2h", "-2", "-2 h", "+2h", "2026-13-01", "12:00", "-h"])
def test_what_is_no_time_is_refused_with_what_would_be(text: str) -> None:
    with pytest.raises(ValueError, match="write ISO 8601"):
        parse_time(text, NOW)


def test_a_time_is_shown_as_it_can_be_typed() -> None:
    for ts in (NOW, NOW + 1, NOW - 500_000):
        assert parse_time(show_time(ts), 0) == ts
    assert show_time(NOW) == "2026-11-21T12:00:00Z"
