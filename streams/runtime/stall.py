"""Notices a consumer that has gone silent.

Kafka consumers have been seen to stop fetching for ever after an outage or a rebalance, without an error. Such a
process must be restarted, and only the position tells: it stands still while the log goes on and nothing is being
worked on.
"""

from collections.abc import Collection, Mapping
from typing import Generic, TypeVar

K = TypeVar("K")


class StallWatch(Generic[K]):
    def __init__(self) -> None:
        self._waiting: dict[K, tuple[int, float]] = {}  # position, and since when it is there

    def look(
        self, now: float, positions: Mapping[K, int], ends: Mapping[K, int], working: Collection[K]
    ) -> dict[K, float]:
        """For how many seconds, at monotonic time `now`, each partition has stood still before the log's end."""
        before, self._waiting = self._waiting, {}
        for key, position in positions.items():
            if position < ends[key] and key not in working:
                seen, since = before.get(key, (position, now))
                self._waiting[key] = (position, since if seen == position else now)
        return {key: now - since for key, (_, since) in self._waiting.items()}
