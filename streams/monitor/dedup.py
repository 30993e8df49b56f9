"""Each event counts once."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import State
from driftline.detectors.digests import MISSING, Digests, DigestTable, firsts
from driftline.schemas.events import MICROSECONDS
from driftline.streams.monitor.config import DedupConfig, WindowConfig

_SWEEP_US = 60 * MICROSECONDS  # how often what has expired is swept; does not change what is answered


class RecentKeys:
    """What has been seen, as digests of keys: 8 bytes each.

    Of one key, the events of one window (by event time) are one event, as they are one row in ClickHouse. It is
    remembered for as long as its window still takes events, and at least for `horizon_s` after the tick that follows
    it, however far that tick jumps. A repeat that comes later than both finds its window gone: nothing counts twice in
    a window, but such a repeat is left out as too late, as if it were new. (An event ahead of time is remembered as if
    it were as far ahead as may be.) The exception is counted: `overflow` is the number of keys forgotten before their
    time because there were more than `max_keys`.
    """

    def __init__(self, config: DedupConfig, windows: WindowConfig, state: State | None = None) -> None:
        state = state or {}
        self._max_keys = config.max_keys
        self._horizon = config.horizon_s * MICROSECONDS
        self._size = windows.size_s * MICROSECONDS
        self._ahead = windows.ahead_s * MICROSECONDS
        self._open = (windows.size_s + windows.grace_s + windows.lateness_s) * MICROSECONDS
        self._until = DigestTable(state.get("until"))  # in seconds: remembered while the watermark is before that
        self._since_tick: list[Digests] = [state["since_tick"]] if state else []
        self._now: int | None = state.get("now")
        self._swept: int = state.get("swept", 0)
        self.repeated: int = state.get("repeated", 0)
        self.overflow: int = state.get("overflow", 0)

    def new(self, keys: Digests, ts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which events have not been seen before, by the digests of their keys and their times."""
        keys = keys ^ (ts - ts % self._size).astype(np.uint64)
        new = firsts(keys)
        new &= self._until.get(keys) <= self._expired
        until = ts + self._open
        if self._now is not None:
            until = np.maximum(until, self._now + self._horizon)
        self._until.put(keys[new], _seconds(until[new]))
        self._since_tick.append(keys[new])
        self.repeated += len(new) - int(new.sum())
        return new

    def tick(self, watermark: int) -> None:
        self._now = watermark
        if self._since_tick:
            keys = np.concatenate(self._since_tick)
            until = self._until.get(keys)
            # Only now is it known how far ahead a key may be: ticks stand still while the monitor is away.
            most = max(watermark + self._ahead + self._open, watermark + self._horizon)
            right = np.clip(until, _seconds(watermark + self._horizon), _seconds(most))
            self._until.put(keys[until != right], right[until != right])
            self._since_tick = []
        if watermark - self._swept >= _SWEEP_US:
            self._swept = watermark
            self._until.drop_below(self._expired + 1)
        self.overflow += self._until.trim(self._max_keys, self._expired + 1)

    @property
    def nbytes(self) -> int:
        """Of the snapshot, about."""
        return self._until.nbytes + sum(keys.nbytes for keys in self._since_tick)

    def keep(self, most: int) -> None:
        """Forget the oldest before their time if there are more."""
        self.overflow += self._until.trim(most, self._expired + 1)

    @property
    def _expired(self) -> int:
        """Keys that were to be remembered until then are forgotten."""
        return MISSING if self._now is None else self._now // MICROSECONDS

    def snapshot(self) -> State:
        return {
            "until": self._until.snapshot(self._expired + 1),
            "since_tick": np.concatenate([np.empty(0, np.uint64), *self._since_tick]),
            "now": self._now,
            "swept": self._swept,
            "repeated": self.repeated,
            "overflow": self.overflow,
        }


def _seconds(micros: Any) -> Any:
    """Rounded up."""
    return -(-micros // MICROSECONDS)
