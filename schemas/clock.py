"""Time is injected. No logic reads the wall clock itself."""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST = (datetime.min.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)
_LAST = (datetime.max.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


def utc(us: int) -> datetime:
    """A timestamp (microseconds since the Unix epoch), to show it to people. What is before year 1 or after year 9999
    is shown as their first or last moment: numbers of others may be anything."""
    return EPOCH + timedelta(microseconds=min(max(us, _FIRST), _LAST))


class Clock(Protocol):
    def now(self) -> int:
        """Microseconds since the Unix epoch, UTC."""

    def monotonic(self) -> float:
        """Seconds, for durations."""


class SystemClock:
    def now(self) -> int:
        return time.time_ns() // 1_000

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that stands still until it is told to move, for tests and simulations."""

    def __init__(self, now: int) -> None:
        self._now = now

    def now(self) -> int:
        return self._now

    def monotonic(self) -> float:
        return self._now / 1_000_000

    def advance(self, seconds: float) -> None:
        self._now += round(seconds * 1_000_000)
