"""Events that count in no window, and so for no detector: said at each tick, so that sums add up."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import State
from driftline.schemas.events import MICROSECONDS, BaselineSet, Release, Score, Trace
from driftline.schemas.ids import stable_id
from driftline.schemas.results import LeftOut, LeftOutReason
from driftline.streams.fold import Record, broker_time
from driftline.streams.log_time import LogTime
from driftline.streams.monitor.config import WindowConfig

Kind = Literal["trace", "score"]


_UNKNOWN = 2**62  # after all times: all is incomplete


class LeftOuts:
    """Per app and window start, the distinct events of a kind are those counted in windows and those said here."""

    def __init__(self, config: WindowConfig, state: State | None = None) -> None:
        state = state or {}
        self._size_s = config.size_s
        self._size = config.size_s * MICROSECONDS
        self._open = (config.grace_s + config.lateness_s) * MICROSECONDS
        self.time = LogTime(config.ahead_s, state.get("now"), state.get("heard", 0))
        self._begun: bool = state.get("begun", False)
        self._begins: int | None = state.get("begins")
        self._unsaid: Counter[tuple[str, Kind, LeftOutReason, int]] = Counter(
            {(app, kind, reason, start): n for app, kind, reason, start, n in state.get("unsaid", [])}
        )
        self.too_late: int = state.get("too_late", 0)
        self.ahead_of_time: int = state.get("ahead_of_time", 0)
        self.incomplete: int = state.get("incomplete", 0)

    @property
    def begins(self) -> int | None:
        """Of a log whose beginning is gone: windows that began before that are incomplete. None: it is whole."""
        return self._begins

    def begin(self, first: Record) -> None:
        """Call it with the next record that is absorbed; the first one says whether the log begins with it. Without
        the broker's time the first tick says when that is."""
        if not self._begun:
            self._begun = True
            if first.offset > 0:
                sent = broker_time(first)
                self._begins = _UNKNOWN if sent is None else sent

    def timely(self, kind: Kind, events: Sequence[Trace | Score], ts: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which events count; the others are noted. Nothing is too late before the first tick."""
        late = incomplete = np.zeros(len(ts), np.bool_)
        starts = ts - ts % self._size
        if self.time.tick is not None:
            late = starts + self._size <= self.time.tick - self._open
        ahead = self.time.are_ahead(ts)
        if self._begins is not None:
            incomplete = (starts < self._begins) & ~late & ~ahead
        reasons: tuple[tuple[NDArray[np.bool_], LeftOutReason], ...] = (
            (late, "too_late"),
            (ahead, "ahead_of_time"),
            (incomplete, "incomplete"),
        )
        for mask, reason in reasons:
            for i in np.flatnonzero(mask).tolist():
                self._unsaid[events[i].app, kind, reason, events[i].ts - events[i].ts % self._size] += 1
        self.too_late += int(late.sum())
        self.ahead_of_time += int(ahead.sum())
        self.incomplete += int(incomplete.sum())
        return ~(late | ahead | incomplete)

    def first_tick(self, watermark: int) -> int:
        """Before it nothing may have said what time it is. Returns where the windows begin that are ahead of it: what
        they have counted is to be taken out, and passed to `taken_out`."""
        self.time.tick = watermark
        latest = self.time.latest
        assert latest is not None  # there is a tick
        return latest - latest % self._size + self._size

    def taken_out(self, windows: Iterable[tuple[str, int, int, int]]) -> None:
        """Of each its app, its start, and how many traces and scores it had."""
        for app, start, *counts in windows:
            for kind, events in zip(get_args(Kind), counts, strict=True):
                if events:
                    self._unsaid[app, kind, "ahead_of_time", start] += events
                    self.ahead_of_time += events

    def timely_release(self, event: Release | BaselineSet) -> bool:
        """A release that comes late still says what serves now."""
        ahead = self.time.is_ahead(event.ts)
        self.ahead_of_time += ahead
        return not ahead

    def tick(self, watermark: int, revision: int) -> list[LeftOut]:
        """What has been left out since the last tick."""
        self.time.tick = watermark
        if self._begins == _UNKNOWN:
            self._begins = watermark
        said = [
            LeftOut(
                id=stable_id("left_out", app, kind, reason, start, watermark),
                app=app,
                kind=kind,
                reason=reason,
                start=start,
                size_s=self._size_s,
                tick=watermark,
                revision=revision,
                events=events,
            )
            for (app, kind, reason, start), events in sorted(self._unsaid.items())
        ]
        self._unsaid.clear()
        return said

    def snapshot(self) -> State:
        return {
            "now": self.time.tick,
            "begun": self._begun,
            "begins": self._begins,
            "heard": self.time.heard,
            "unsaid": [[*key, events] for key, events in sorted(self._unsaid.items())],
            "too_late": self.too_late,
            "ahead_of_time": self.ahead_of_time,
            "incomplete": self.incomplete,
        }
