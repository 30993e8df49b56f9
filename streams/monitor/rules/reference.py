"""What a metric has been like: the median over the hours of the last seven days, each the median of its windows.

Only windows in which nothing was wrong are added, so an incident does not become its own reference; what stays
changed for seven days has outlived its reference, and is learned as the new normal. Medians, so that a bad hour that
nobody noticed moves nothing.
"""

from statistics import median

import numpy as np

from driftline.detectors.base import State
from driftline.schemas.events import MICROSECONDS

HOUR = 3_600 * MICROSECONDS
DAYS = 7


class Reference:
    def __init__(self, state: State | None = None) -> None:
        self._open: int | None = None  # the hour that `values` are of
        self._values: list[float] = []
        self._hours: list[tuple[int, int, float]] = []  # hour, how many windows, their median
        if state is not None:
            self._open, self._values = state["open"], state["values"].tolist()
            self._hours = list(zip(*(state[name].tolist() for name in ("hours", "counts", "medians")), strict=True))

    def add(self, start: int, value: float) -> None:
        """Of the window that starts then, not before any added earlier."""
        hour = start // HOUR
        if self._open is not None and hour != self._open:
            self._hours.append((self._open, len(self._values), median(self._values)))
            self._values = []
        self._open = hour
        self._values.append(value)

    def value(self, start: int, need: int) -> float | None:
        """For the window that starts then. None: fewer than `need` windows are known."""
        self._expire(start)
        if sum(n for _, n, _ in self._hours) + len(self._values) < need:
            return None
        return median([m for *_, m in self._hours] or self._values)

    def empty(self, start: int) -> bool:
        self._expire(start)
        return not self._hours and not self._values

    def _expire(self, start: int) -> None:
        oldest = start // HOUR - DAYS * 24
        while self._hours and self._hours[0][0] < oldest:
            del self._hours[0]
        if self._open is not None and self._open < oldest:
            self._open, self._values = None, []

    def snapshot(self) -> State:
        hours, counts, medians = zip(*self._hours, strict=True) if self._hours else ((), (), ())
        return {
            "open": self._open,
            "values": np.array(self._values, np.float64),
            "hours": np.array(hours, np.int32),
            "counts": np.array(counts, np.int32),
            "medians": np.array(medians, np.float64),
        }
