"""Tumbling event-time windows per app x release x model.

All accumulators are exact (integers, nano-dollars, millionths of a score, DDSketch counts and sums), so a window is the
same to the last digit whatever the order of its events and however they were batched.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import State
from driftline.detectors.ddsketch import DDSketch
from driftline.schemas.events import MICROSECONDS, Score, Trace
from driftline.schemas.ids import stable_id
from driftline.schemas.results import Quantiles, ScoreStats, WindowStats
from driftline.streams.monitor.config import WindowConfig

SCORE_UNIT = 1_000_000
NANO = 1_000_000_000

Key = tuple[str, str, str, int]  # app, release, model, start


def _quantiles(sketch: DDSketch) -> Quantiles | None:
    if sketch.count == 0:
        return None
    p50, p95, p99 = (sketch.quantile(q) for q in (0.5, 0.95, 0.99))
    return Quantiles(count=sketch.count, sum=sketch.sum, p50=p50, p95=p95, p99=p99)


class _Window:
    __slots__ = ("changed", "closed", "counts", "errors", "late", "latency", "scores", "ttft")

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

    def touch(self, events: int) -> None:
        self.changed = True
        if self.closed:
            self.late += events

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
        }


class Windows:
    """The open and recently closed windows of one partition."""

    def __init__(self, config: WindowConfig, state: State | None = None) -> None:
        self._config = config
        self._size = config.size_s * MICROSECONDS
        self._fingerprint = stable_id(config.size_s, "ddsketch-0.01")[:8]
        state = state or {}
        self._windows: dict[Key, _Window] = {tuple(key): _Window(window) for key, window in state.get("windows", [])}
        self._expired: int = state.get("expired", 0)  # windows that end at or before this take nothing any more
        self.too_late: int = state.get("too_late", 0)

    def add_traces(self, traces: Sequence[Trace], nanousd: Sequence[int | None]) -> None:
        """Count traces, each with its cost in nano-dollars (None: could not be priced)."""
        groups: dict[Key, int] = {}
        size = self._size
        group = np.array(
            [
                groups.setdefault(
                    (t.app, t.release, t.response_model or t.request_model, t.ts - t.ts % size), len(groups)
                )
                for t in traces
            ],
            dtype=np.intp,
        )
        n = len(groups)
        columns = {
            "requests": np.bincount(group, minlength=n),
            "errors": _sums(group, n, [t.status == "error" for t in traces]),
            "input_tokens": _sums(group, n, [t.input_tokens or 0 for t in traces]),
            "output_tokens": _sums(group, n, [t.output_tokens or 0 for t in traces]),
            "cache_read_input_tokens": _sums(group, n, [t.cache_read_input_tokens or 0 for t in traces]),
            "nanousd": _sums(group, n, [cost or 0 for cost in nanousd]),
            "priced": _sums(group, n, [cost is not None for cost in nanousd]),
        }
        nan = float("nan")
        latency = np.array([nan if t.latency_ms is None else t.latency_ms for t in traces])
        ttft = np.array([nan if t.ttft_ms is None else t.ttft_ms for t in traces])
        windows: list[_Window | None] = []
        for g, key in enumerate(groups):
            window = self._window(key, int(columns["requests"][g]))
            windows.append(window)
            if window is None:
                continue
            for name, sums in columns.items():
                window.counts[name] += int(sums[g])
            mine = slice(None) if n == 1 else group == g
            for sketch, values in ((window.latency, latency[mine]), (window.ttft, ttft[mine])):
                values = values[~np.isnan(values)]
                if len(values):
                    sketch.add(values)
        for i, trace in enumerate(traces):
            if trace.status == "error" and (window := windows[group[i]]) is not None:
                window.errors[trace.error_type or "unknown"] += 1

    def add_scores(self, scores: Sequence[Score]) -> None:
        for score in scores:
            key = (score.app, score.release, score.model, score.ts - score.ts % self._size)
            window = self._window(key, 1)
            if window is not None:
                total = window.scores.setdefault(score.name, [0, 0])
                total[0] += 1
                total[1] += round(score.value * SCORE_UNIT)

    def close(self, watermark: int, revision: int) -> list[WindowStats]:
        """What the tick `watermark` closes or corrects, in order; windows past the allowed lateness are forgotten."""
        closing = watermark - self._config.grace_s * MICROSECONDS
        results = []
        for key in sorted(self._windows):
            window = self._windows[key]
            if window.changed and key[3] + self._size <= closing:
                results.append(self._stats(key, window, revision))
                window.closed, window.changed = True, False
        self._expired = closing - self._config.lateness_s * MICROSECONDS
        for key in [key for key in self._windows if key[3] + self._size <= self._expired]:
            del self._windows[key]
        return results

    def snapshot(self) -> State:
        return {
            "windows": [[list(key), window.snapshot()] for key, window in sorted(self._windows.items())],
            "expired": self._expired,
            "too_late": self.too_late,
        }

    def _window(self, key: Key, events: int) -> _Window | None:
        if key[3] + self._size <= self._expired:
            self.too_late += events
            return None
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window()
            # A window that nobody had seen before it closed is still one that closed.
            window.closed = key[3] + self._size <= self._expired + self._config.lateness_s * MICROSECONDS
        window.touch(events)
        return window

    def _stats(self, key: Key, window: _Window, revision: int) -> WindowStats:
        app, release, model, start = key
        counts = window.counts
        return WindowStats(
            id=stable_id("window", app, release, model, start, self._config.size_s, self._fingerprint),
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
            input_tokens=counts["input_tokens"],
            output_tokens=counts["output_tokens"],
            cache_read_input_tokens=counts["cache_read_input_tokens"],
            cost_usd=counts["nanousd"] / NANO if counts["priced"] else None,
            unpriced=counts["requests"] - counts["priced"],
            scores={
                name: ScoreStats(count=count, mean=total / SCORE_UNIT / count)
                for name, (count, total) in sorted(window.scores.items())
            },
            late=window.late,
        )


def _sums(group: NDArray[np.intp], n: int, values: Sequence[int]) -> NDArray[np.int64]:
    sums = np.zeros(n, dtype=np.int64)
    np.add.at(sums, group, np.array(values, dtype=np.int64))
    return sums
