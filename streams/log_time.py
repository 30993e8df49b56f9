"""How far the time of an event may be, by the log alone."""

import numpy as np
from numpy.typing import NDArray

from driftline.schemas.events import MICROSECONDS
from driftline.streams.fold import Record, broker_time

_STEP_US = 60 * MICROSECONDS  # how often records move it on: far below what events may be ahead


class LogTime:
    """The later of the last tick and, moved on in steps of a minute, the broker's time of the records: ticks stand
    still while the monitor is away, and what was sent meanwhile is not ahead of its time."""

    def __init__(self, ahead_s: int, tick: int | None = None, heard: int = 0) -> None:
        """`ahead_s`: how far ahead of it events may be. The others go on from a state."""
        self._ahead = ahead_s * MICROSECONDS
        self.tick = tick  # the last one, microseconds; set it at each tick
        self.heard = heard

    def hears(self, record: Record) -> bool:
        """Whether the record moves it, on or back (the broker's clock was put right): then `hear` it after the events
        before it, before its own."""
        sent = broker_time(record)
        return sent is not None and abs(sent - self.heard) >= _STEP_US

    def hear(self, record: Record) -> None:
        self.heard = broker_time(record) or self.heard

    @property
    def now(self) -> int | None:
        """None: neither a tick nor the broker has said what time it is."""
        return None if self.tick is None and not self.heard else max(self.tick or 0, self.heard)

    @property
    def latest(self) -> int | None:
        """The latest time that an event may have; None: it is not known what time it is."""
        return None if self.now is None else self.now + self._ahead

    def are_ahead(self, ts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Of which events the clock is wrong."""
        latest = self.latest
        return np.zeros(len(ts), np.bool_) if latest is None else ts > latest

    def is_ahead(self, ts: int) -> bool:
        latest = self.latest
        return latest is not None and ts > latest
