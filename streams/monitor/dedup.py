"""Each event counts once: the keys of recent events, in two generations that take turns."""

from driftline.detectors.base import State
from driftline.schemas.events import MICROSECONDS
from driftline.streams.monitor.config import DedupConfig


class RecentKeys:
    """Remembers every key for at least `horizon_s` of ticks, or for the last `max_keys` keys, whichever is less."""

    def __init__(self, config: DedupConfig, state: State | None = None) -> None:
        state = state or {}
        self._config = config
        self._current: set[str] = set(state.get("current", ()))
        self._previous: set[str] = set(state.get("previous", ()))
        self._since: int | None = state.get("since")
        self.repeats: int = state.get("repeats", 0)

    def is_new(self, key: str) -> bool:
        if key in self._current or key in self._previous:
            self.repeats += 1
            return False
        self._current.add(key)
        return True

    def tick(self, watermark: int) -> None:
        if self._since is None:
            self._since = watermark
        old = watermark - self._since >= self._config.horizon_s * MICROSECONDS
        if old or len(self._current) >= self._config.max_keys:
            self._previous, self._current, self._since = self._current, set(), watermark

    def snapshot(self) -> State:
        return {
            "current": sorted(self._current),
            "previous": sorted(self._previous),
            "since": self._since,
            "repeats": self.repeats,
        }
