"""What happens at a tick: the events it closes go, in canonical order, to detectors, breakers and canary tests; what
these find becomes evidence, alerts, breaker changes and rollback verdicts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from driftline.detectors.base import State
from driftline.detectors.config import DetectorsConfig
from driftline.detectors.registry import make
from driftline.detectors.units import FirstEvents, SessionMeans
from driftline.schemas.events import MICROSECONDS, Release, Score, Trace
from driftline.schemas.results import Result
from driftline.streams.monitor.breakers import ProviderBreakers
from driftline.streams.monitor.canaries import Canaries
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.contributors import Contributors
from driftline.streams.monitor.incidents import Incidents
from driftline.streams.monitor.watch import Streams, Transition, Units, Watch

TRACE_RULES = ("error_rate", "latency_p99", "ttft_p99", "cost_p99")
RULES = (*TRACE_RULES, "quality")
_NAN = float("nan")


class Analysis:
    """All detection of one partition of the events topic."""

    def __init__(self, config: MonitorConfig, detectors: DetectorsConfig, state: State | None = None) -> None:
        state = state or {}
        self._config = config
        self._tick_us = round(detectors.budget.tick_s * MICROSECONDS)
        self._streams = Streams(state.get("streams"))
        watches = state.get("watches", {})
        self._watches = {
            name: Watch(make(name, detectors), self._streams, detectors.budget.streams, watches.get(name))
            for name in RULES
        }
        self._incidents = Incidents(detectors.budget, state.get("incidents"))
        self._first = FirstEvents(detectors.units)
        self._means = SessionMeans(detectors.units)
        if "first" in state:
            self._first.restore(state["first"])
            self._means.restore(state["means"])
        self._contributors = Contributors(state.get("contributors"))
        self._breakers = ProviderBreakers(detectors.breaker, state.get("breakers"))
        self._canaries = Canaries(config.quality_score, detectors.canary, state.get("canaries"))
        self._next_tick: int | None = state.get("next_tick")
        self._reported: int = state.get("reported", 0)

    def snapshot(self) -> State:
        return {
            "streams": self._streams.snapshot(),
            "watches": {name: watch.snapshot() for name, watch in self._watches.items()},
            "incidents": self._incidents.snapshot(),
            "first": self._first.snapshot(),
            "means": self._means.snapshot(),
            "contributors": self._contributors.snapshot(),
            "breakers": self._breakers.snapshot(),
            "canaries": self._canaries.snapshot(),
            "next_tick": self._next_tick,
            "reported": self._reported,
        }

    def advance(
        self,
        traces: Sequence[Trace],
        scores: Sequence[Score],
        releases: Sequence[Release],
        until: int,
        revision: int,
    ) -> list[Result]:
        """Take the events that are complete up to `until` (microseconds; a whole number of ticks), each list in
        canonical order. Those that came too late for their own tick join the first open one."""
        end = until // self._tick_us
        if self._next_tick is None:
            earliest = [events[0].ts // self._tick_us for events in (traces, scores, releases) if events]
            self._next_tick = min([*earliest, end])
        results: list[Result] = []
        for release in releases:
            results += self._release(release, revision)
        by_trace, by_score = self._slices(traces), self._slices(scores)
        columns = _Columns(traces, self._streams, self._canaries)
        score_columns = _ScoreColumns(scores, self._streams)
        for tick in range(self._next_tick, end):
            now = (tick + 1) * self._tick_us
            in_traces, in_scores = by_trace.get(tick, _NONE), by_score.get(tick, _NONE)
            results += self._breakers.update(traces[in_traces], now, revision)
            results += self._canaries.step(traces[in_traces], scores[in_scores], now, revision)
            results += self._traces(tick, now, traces[in_traces], columns, in_traces, revision)
            results += self._scores(tick, now, score_columns, in_scores, revision)
        if end > self._next_tick:
            for name, watch in self._watches.items():
                results += self._report(name, watch.advance(end - 1), revision)
            self._next_tick = end
        self._contributors.prune(until)
        if until - self._reported >= self._config.evidence_s * MICROSECONDS:
            self._reported = until
            for name, watch in self._watches.items():
                results += self._incidents.readings(name, watch.readings(), until, revision)
        return results

    def _slices(self, events: Sequence[Trace] | Sequence[Score]) -> dict[int, slice]:
        """Where each tick's events stand; events are sorted, and late ones count as of the first open tick."""
        assert self._next_tick is not None
        slices: dict[int, slice] = {}
        start = 0
        ticks = [max(event.ts // self._tick_us, self._next_tick) for event in events]
        for i, tick in enumerate(ticks):
            if i + 1 == len(ticks) or ticks[i + 1] != tick:
                slices[tick] = slice(start, i + 1)
                start = i + 1
        return slices

    def _traces(
        self, tick: int, now: int, traces: Sequence[Trace], columns: "_Columns", part: slice, revision: int
    ) -> list[Result]:
        if not traces:
            return []
        self._contributors.add(traces)
        results: list[Result] = []
        taken = self._first.take(columns.stream[part].tolist(), columns.session[part], now)
        for name in TRACE_RULES:
            value = columns.values[name][part]
            chosen = taken.mask & ~np.isnan(value)
            units = Units(
                columns.stream[part][chosen], value[chosen], taken.session[chosen], columns.learn[part][chosen]
            )
            results += self._report(name, self._watches[name].step(units, tick), revision)
        return results

    def _scores(self, tick: int, now: int, columns: "_ScoreColumns", part: slice, revision: int) -> list[Result]:
        closed = self._means.step(columns.stream[part].tolist(), columns.session[part], columns.value[part], now)
        if not len(closed.stream):
            return []
        learn = np.array([self._canaries.is_stable(*self._streams.names[n][:2]) for n in closed.stream.tolist()])
        units = Units(closed.stream, closed.value, closed.session, learn)
        return self._report("quality", self._watches["quality"].step(units, tick), revision)

    def _report(self, rule: str, transitions: Sequence[Transition], revision: int) -> list[Result]:
        results: list[Result] = []
        for transition in transitions:
            app, release, _ = transition.stream
            since = self._incidents.since(transition)
            top = self._contributors.top(rule, app, release, since, self._config.top_contributors)
            results += self._incidents.apply(rule, transition, revision, top)
        return results

    def _release(self, release: Release, revision: int) -> list[Result]:
        self._canaries.release(release)
        if release.kind != "canary_stop" or release.outcome == "promoted":
            return []
        reason = f"{release.release} was taken out of traffic ({release.outcome or 'stopped'})"
        results: list[Result] = []
        for name, watch in self._watches.items():
            alarmed = watch.forget(release.app, release.release)
            results += self._incidents.abandon(name, alarmed, release.ts, revision, reason)
        return results


_NONE = slice(0, 0)


class _Columns:
    """Traces as arrays."""

    def __init__(self, traces: Sequence[Trace], streams: Streams, canaries: Canaries) -> None:
        self.stream = np.array([streams.number(t.app, t.release) for t in traces], dtype=np.int64)
        self.session = [t.conversation_id for t in traces]
        self.learn = np.array([canaries.is_stable(t.app, t.release) for t in traces], dtype=np.bool_)
        self.values: dict[str, Any] = {
            "error_rate": np.array([t.status == "error" for t in traces], dtype=np.float64),
            "latency_p99": _floats([t.latency_ms for t in traces]),
            "ttft_p99": _floats([t.ttft_ms for t in traces]),
            "cost_p99": _floats([t.cost_usd for t in traces]),
        }


class _ScoreColumns:
    def __init__(self, scores: Sequence[Score], streams: Streams) -> None:
        self.stream = np.array([streams.number(s.app, s.release, s.name) for s in scores], dtype=np.int64)
        self.session = [s.conversation_id for s in scores]
        self.value = np.array([s.value for s in scores], dtype=np.float64)


def _floats(values: Sequence[float | None]) -> Any:
    return np.array([_NAN if value is None else value for value in values], dtype=np.float64)
