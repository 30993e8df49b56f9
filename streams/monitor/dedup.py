"""Each event counts once: digests of recent events' keys, in two generations that take turns."""

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import State
from driftline.schemas.events import MICROSECONDS
from driftline.streams.monitor.config import DedupConfig


class RecentKeys:
    """Remembers every key for at least `horizon_s` of ticks, or for the last `max_keys` keys, whichever is less.

    Keys are kept as 64-bit digests: 8 bytes of state each. Among a million of them a new event is taken for a repeat
    with a probability of 5e-14.
    """

    def __init__(self, config: DedupConfig, state: State | None = None) -> None:
        state = state or {}
        self._config = config
        self._current: set[int] = set(state["current"].tolist()) if state else set()
        self._previous: set[int] = set(state["previous"].tolist()) if state else set()
        self._since: int | None = state.get("since")
        self.repeats: int = state.get("repeats", 0)

    def is_new(self, key: str) -> bool:
        digest = int.from_bytes(blake2b(key.encode(), digest_size=8).digest())
        if digest in self._current or digest in self._previous:
            self.repeats += 1
            return False
        self._current.add(digest)
        return True

    def tick(self, watermark: int) -> None:
        if self._since is None:
            self._since = watermark
        old = watermark - self._since >= self._config.horizon_s * MICROSECONDS
        if old or len(self._current) >= self._config.max_keys:
            self._previous, self._current, self._since = self._current, set(), watermark

    def snapshot(self) -> State:
        return {
            "current": _sorted(self._current),
            "previous": _sorted(self._previous),
            "since": self._since,
            "repeats": self.repeats,
        }


def _sorted(digests: set[int]) -> NDArray[np.uint64]:
    return np.sort(np.fromiter(digests, np.uint64, len(digests)))
