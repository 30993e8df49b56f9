"""Points in time as people type them: `2026-11-21T10:00`, `-2h`, `now`."""

import re
from datetime import UTC, datetime, timedelta

from driftline.schemas.clock import EPOCH, utc
from driftline.schemas.events import MICROSECONDS

_MICROSECOND = timedelta(microseconds=1)
_PART = re.compile(r"(\d+)([smhdw])")
_RELATIVE = re.compile(rf"-(?:{_PART.pattern})+")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def parse_time(text: str, now: int) -> int:
    """Microseconds since the Unix epoch; without an offset the time is UTC.

    :raises ValueError: neither ISO 8601 nor relative to now; the message says what would be.
    """
    text = text.strip()
    if text == "now":
        return now
    if _RELATIVE.fullmatch(text):
        return now - sum(int(n) * _SECONDS[unit] for n, unit in _PART.findall(text)) * MICROSECONDS
    try:
        when = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no time: write ISO 8601 (2026-11-21, 2026-11-21T10:00, 2026-11-21T10:00+01:00; UTC unless it "
            "says otherwise), or relative (-90s, -15m, -2h, -1d12h), or now"
        ) from error
    when = when.replace(tzinfo=when.tzinfo or UTC)
    return (when - EPOCH) // _MICROSECOND


def show_time(ts: int) -> str:
    """ISO 8601, UTC, to the second; fractions where there are any."""
    return utc(ts).replace(tzinfo=None).isoformat() + "Z"
