"""Tumbling event-time windows per app x release x model.

All accumulators are exact (integers, nano-dollars, millionths of a score, DDSketch counts and sums), so a window is the
same to the last digit whatever the order of its events and however they were batched.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from driftline.detectors.base import Floats, State
from driftline.detectors.ddsketch import DDSketch, add_each
from driftline.schemas.events import MICROSECONDS
from driftline.schemas.ids import stable_id
from driftline.schemas.results import Quantiles, ScoreStats, WindowStats
from driftline.streams.monitor.columns import (
    Groups,
    Integers,
    Scores,
    Traces,
    join,
)
from driftline.streams.monitor.config import WindowConfig
from driftline.streams.monitor.names import OTHER, ScoreSeries, TraceSeries
from driftline.streams.pricing import Tokens

SCORE_UNIT = 1_000_000
NANO = 1_000_000_000
MOST = 2**63 - 1  # what tables hold
MAX_WINDOWS = 20_000  # of a partition: 1,600 series of ordinary traffic, which has one of each minute of lateness

Key = tuple[str, str, str, int]  # app, release, model, start


def _quantiles(sketch: DDSketch) -> Quantiles | None:
    if sketch.count == 0:
        return None
    p50, p95, p99 = (sketch.quantile(q) for q in (0.5, 0.95, 0.99))
    return Quantiles(count=sketch.count, sum=sketch.sum, p50=p50, p95=p95, p99=p99)


class Closed(NamedTuple):
    """A window that a tick has closed, or corrected after that, for rules. To be read at once: it goes on changing."""

    app: str
    release: str
    model: str
    start: int
    corrected: bool
    counts: Mapping[str, int]  # by the names in `_Window.COUNTS`
    new_nanousd: int  # what was spent in it, less what earlier closings told
    latency: DDSketch
    ttft: DDSketch
    scores: Mapping[str, Sequence[int]]  # name -> count and sum, in SCORE_UNIT


class _Window:
    __slots__ = ("changed", "closed", "counts", "errors", "late", "latency", "scores", "told_nanousd", "ttft")

    COUNTS = ("requests", "errors", "input_tokens", "output_tokens", "cache_read_input_tokens", "nanousd", "priced")

    def __init__(self, state: State | None = None) -> None:
        state = state or {}
        self.counts: dict[str, int] = dict(state.get("counts") or dict.fromkeys(self.COUNTS, 0))
        self.errors: Counter[str] = Counter(state.get("errors"))
        self.scores: dict[str, list[int]] = {name: list(pair) for name, pair in state.get("scores", {}).items()}
        self.latency = DDSketch(state.get("latency"))
        self.ttft = DDSketch(state.get("ttft"))
        self.late: int = state.get("late", 0)
        self.closed: bool = state.get("closed", False)
        self.changed: bool = state.get("changed", True)
        self.told_nanousd: int = state.get("told_nanousd", 0)

    def touch(self, events: int) -> None:
        self.changed = True
        if self.closed:
            self.late += events

    def take(self, other: "_Window") -> None:
        """All of another one that has not been published."""
        for name, count in other.counts.items():
            self.counts[name] += count
        self.errors.update(other.errors)
        for name, (count, total) in other.scores.items():
            sums = self.scores.setdefault(name, [0, 0])
            sums[0] += count
            sums[1] += total
        self.latency.merge(other.latency)
        self.ttft.merge(other.ttft)

    def snapshot(self) -> State:
        return {
            "counts": self.counts,
            "errors": dict(self.errors),
            "scores": self.scores,
            "latency": self.latency.snapshot(),
            "ttft": self.ttft.snapshot(),
            "late": self.late,
            "closed": self.closed,
            "changed": self.changed,
            "told_nanousd": self.told_nanousd,
        }


def _closed(key: Key, window: _Window) -> Closed:
    return Closed(
        *key,
        corrected=window.closed,
        counts=window.counts,
        new_nanousd=window.counts["nanousd"] - window.told_nanousd,
        latency=window.latency,
        ttft=window.ttft,
        scores=window.scores,
    )


class Windows:
    """The open and recently closed windows of one partition."""

    def __init__(self, config: WindowConfig, state: State | None = None, partition: int | None = None) -> None:
        self._config = config
        self._partition = partition
        self._size = config.size_s * MICROSECONDS
        self._fingerprint = stable_id(config.size_s, "ddsketch-0.01")[:8]
        state = state or {}
        self._windows: dict[Key, _Window] = {tuple(key): _Window(window) for key, window in state.get("windows", [])}
        self._new: list[Key] = [tuple(key) for key in state.get("new", [])]  # since the last tick
        self.overflow: int = state.get("overflow", 0)  # windows that count under `(other)`, for there were too many
        self._closing: int = state.get("closing", 0)  # windows that end at or before this have closed
        self.closed: list[Closed] = []  # by the last `close`, in order of key
        self._traces: list[tuple[Traces, Tokens]] = []  # added, but not in their windows yet
        self._scores: list[Scores] = []

    def add_traces(self, traces: Traces, tokens: Tokens) -> None:
        """None of them too late."""
        self._traces.append((traces, tokens))

    def add_scores(self, scores: Scores) -> None:
        """None of them too late."""
        self._scores.append(scores)

    def settle(self, traces: Sequence[TraceSeries], scores: Sequence[ScoreSeries]) -> None:
        """Count what was added into its windows: all at once, since a group of rows costs as much as a single one.
        Pass the names of the series."""
        if self._traces:
            columns, tokens = map(join, zip(*self._traces, strict=True))
            self._count_traces(columns, tokens, traces)
            self._traces = []
        if self._scores:
            self._count_scores(join(self._scores), scores)
            self._scores = []

    def _count_traces(self, traces: Traces, tokens: Tokens, names: Sequence[TraceSeries]) -> None:
        groups, windows = self._windows_of(traces.series, traces.ts, ((n.app, n.release, n.model) for n in names))
        priced = traces.nanousd >= 0
        columns = (
            groups.sizes.tolist(),
            groups.sums(traces.failed),
            *(groups.sums(np.maximum(count, 0)) for count in (tokens.input, tokens.output, tokens.cache_read)),
            groups.sums(np.where(priced, traces.nanousd, 0)),
            groups.sums(priced),
        )
        for window, sums in zip(windows, zip(*columns, strict=True), strict=True):
            for name, total in zip(_Window.COUNTS, sums, strict=True):
                window.counts[name] += total
        self._measure(groups, [window.latency for window in windows], traces.latency)
        self._measure(groups, [window.ttft for window in windows], traces.ttft)
        index = groups.index()
        failed = np.flatnonzero(traces.failed[groups.order])
        errors = Counter(zip(index[failed].tolist(), traces.error_type[groups.order[failed]].tolist(), strict=True))
        for (group, error_type), count in errors.items():
            windows[group].errors[error_type or "unknown"] += count

    def _measure(self, groups: Groups, sketches: Sequence[DDSketch], values: Floats) -> None:
        ordered = values[groups.order]
        measured = ~np.isnan(ordered)
        add_each(sketches, groups.index()[measured], ordered[measured])

    def _count_scores(self, scores: Scores, names: Sequence[ScoreSeries]) -> None:
        groups, windows = self._windows_of(scores.series, scores.ts, ((n.app, n.release, n.model) for n in names))
        series = scores.series[groups.order[groups.starts]].tolist()
        totals = groups.sums(np.rint(scores.value * SCORE_UNIT).astype(np.int64))
        for window, number, count, total in zip(windows, series, groups.sizes.tolist(), totals, strict=True):
            sums = window.scores.setdefault(names[number].name, [0, 0])
            sums[0] += count
            sums[1] += total

    def _windows_of(
        self, series: Integers, ts: Integers, names: Iterable[tuple[str, str, str]]
    ) -> tuple[Groups, list[_Window]]:
        """The rows of each series and window, and that window. Two groups may have the same."""
        groups = Groups(series << 32 | ts // self._size)
        known = list(names)
        windows = []
        for number, events in zip(groups.numbers.tolist(), groups.sizes.tolist(), strict=True):
            windows.append(self._window((*known[number >> 32], (number & 0xFFFFFFFF) * self._size), events))
        return groups, windows

    def close(self, watermark: int, revision: int) -> list[WindowStats]:
        """What the tick `watermark` closes or corrects, in order; windows past the allowed lateness are forgotten. Call
        `settle` before."""
        closing = watermark - self._config.grace_s * MICROSECONDS
        self._merge()
        results = []
        self.closed = []
        for key in sorted(self._windows):
            window = self._windows[key]
            if window.changed and key[3] + self._size <= closing:
                results.append(self._stats(key, window, revision))
                self.closed.append(_closed(key, window))
                window.closed, window.changed = True, False
                window.told_nanousd = window.counts["nanousd"]
        self._closing = closing
        expired = closing - self._config.lateness_s * MICROSECONDS
        for key in [key for key in self._windows if key[3] + self._size <= expired]:
            del self._windows[key]
        return results

    def take_out(self, cut: int) -> list[tuple[str, int, int, int]]:
        """Windows that begin at `cut` or later, before any has closed. Returns of each its app and start, and how many
        traces and scores it had. Call `settle` before."""
        taken = []
        for key in sorted(key for key in self._windows if key[3] >= cut):
            window = self._windows.pop(key)
            taken.append((key[0], key[3], window.counts["requests"], sum(n for n, _ in window.scores.values())))
        self._new = [key for key in self._new if key in self._windows]
        return taken

    def _merge(self) -> None:
        """Too many windows: of those that are new, an app's count as one of each time."""
        new = sorted(self._new)
        excess = max(0, min(len(new), len(self._windows) - MAX_WINDOWS))
        for left, key in zip(range(excess, 0, -1), new[len(new) - excess :], strict=True):
            app, *_, start = key
            together = (app, OTHER, OTHER, start)
            if together not in self._windows and len(self._windows) - left >= 2 * MAX_WINDOWS:
                together = (OTHER, OTHER, OTHER, start)
            if key == together:
                continue
            window = self._windows.pop(key)
            self._window(together, window.counts["requests"] + sum(n for n, _ in window.scores.values())).take(window)
            self.overflow += 1
        self._new = []

    def spending(self, app: str, release: str, since: int) -> dict[str, list[int]]:
        """By model, of the windows that end after `since`, open ones included: requests with a price, tokens, and
        nano-dollars. Call `settle` before."""
        models: dict[str, list[int]] = {}
        for (its_app, its_release, model, start), window in sorted(self._windows.items()):
            if (its_app, its_release) == (app, release) and start + self._size > since and window.counts["priced"]:
                row = models.setdefault(model, [0, 0, 0])
                row[0] += window.counts["priced"]
                row[1] += window.counts["input_tokens"] + window.counts["output_tokens"]
                row[2] += window.counts["nanousd"]
        return models

    def snapshot(self) -> State:
        """Call `settle` before."""
        return {
            "windows": [[list(key), window.snapshot()] for key, window in sorted(self._windows.items())],
            "new": [list(key) for key in self._new],
            "overflow": self.overflow,
            "closing": self._closing,
        }

    def _window(self, key: Key, events: int) -> _Window:
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window()
            self._new.append(key)
            # A window that nobody had seen before it closed is still one that closed.
            window.closed = key[3] + self._size <= self._closing
        window.touch(events)
        return window

    def _stats(self, key: Key, window: _Window, revision: int) -> WindowStats:
        app, release, model, start = key
        counts = window.counts
        where = (self._partition,) if app == OTHER else ()  # each partition has others of its own
        return WindowStats(
            id=stable_id("window", app, release, model, start, self._config.size_s, self._fingerprint, *where),
            app=app,
            release=release,
            model=model,
            start=start,
            size_s=self._config.size_s,
            revision=revision,
            requests=counts["requests"],
            errors=counts["errors"],
            errors_by_type=dict(sorted(window.errors.items())),
            latency_ms=_quantiles(window.latency),
            ttft_ms=_quantiles(window.ttft),
            input_tokens=min(counts["input_tokens"], MOST),
            output_tokens=min(counts["output_tokens"], MOST),
            cache_read_input_tokens=min(counts["cache_read_input_tokens"], MOST),
            cost_usd=counts["nanousd"] / NANO if counts["priced"] else None,
            unpriced=counts["requests"] - counts["priced"],
            scores={
                name: ScoreStats(count=count, mean=total / SCORE_UNIT / count)
                for name, (count, total) in sorted(window.scores.items())
            },
            late=window.late,
        )
