"""What happens at a tick: the events it closes go, in canonical order, to detectors, breakers and canary tests; what
these find becomes evidence, alerts, breaker changes and rollback verdicts."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from driftline.detectors.base import State
from driftline.detectors.config import DetectorsConfig
from driftline.detectors.registry import make
from driftline.detectors.units import FirstEvents, SessionMeans
from driftline.schemas.events import MICROSECONDS, Release
from driftline.schemas.results import Result
from driftline.streams.monitor.breakers import ProviderBreakers
from driftline.streams.monitor.canaries import Canaries
from driftline.streams.monitor.columns import (
    NO_SCORES,
    NO_TRACES,
    Bools,
    Integers,
    Scores,
    ScoreSeries,
    Traces,
    TraceSeries,
    first_seen,
    rows,
)
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.contributors import Contributors
from driftline.streams.monitor.incidents import Incidents
from driftline.streams.monitor.watch import Streams, Transition, Units, Watch

TRACE_RULES = ("error_rate", "latency_p99", "ttft_p99", "cost_p99")
RULES = (*TRACE_RULES, "quality")
NANO = 1_000_000_000


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

    @property
    def counters(self) -> dict[str, int]:
        return {
            "streams_over_limit": sum(watch.over_limit for watch in self._watches.values()),
            "sessions_forgotten": self._first.overflow + self._means.overflow + self._canaries.sessions_forgotten,
        }

    def advance(
        self,
        traces: Traces,
        trace_names: Sequence[TraceSeries],
        scores: Scores,
        score_names: Sequence[ScoreSeries],
        releases: Sequence[Release],
        until: int,
        revision: int,
    ) -> list[Result]:
        """Take the events that are complete up to `until` (microseconds; a whole number of ticks), each kind in
        canonical order. Those that came too late for their own tick join the first open one."""
        end = until // self._tick_us
        if self._next_tick is None:
            earliest = [*traces.ts[:1].tolist(), *scores.ts[:1].tolist(), *(release.ts for release in releases[:1])]
            self._next_tick = min([*(ts // self._tick_us for ts in earliest), end])
        results: list[Result] = []
        for release in releases:
            results += self._release(release, revision)
        by_trace, by_score = self._slices(traces.ts), self._slices(scores.ts)
        stream, learn = self._streams_of(traces.series, ((n.app, n.release, "") for n in trace_names))
        score_stream, _ = self._streams_of(scores.series, ((n.app, n.release, n.name) for n in score_names))
        for tick in range(self._next_tick, end):
            now = (tick + 1) * self._tick_us
            part, score_part = by_trace.get(tick), by_score.get(tick)
            its_traces = NO_TRACES if part is None else rows(traces, part)
            its_scores = NO_SCORES if score_part is None else rows(scores, score_part)
            results += self._breakers.update(its_traces, trace_names, now, revision)
            results += self._canaries.step(its_traces, trace_names, its_scores, score_names, now, revision)
            if part is not None:
                self._contributors.add(its_traces, trace_names)
                results += self._traces(tick, now, its_traces, stream[part], learn[part], revision)
            results += self._scores(tick, now, its_scores, score_stream[score_part or _NONE], revision)
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

    def _slices(self, ts: Integers) -> dict[int, slice]:
        """Where each tick's events stand; events are sorted, and late ones count as of the first open tick."""
        if not len(ts):
            return {}
        assert self._next_tick is not None
        ticks = np.maximum(ts // self._tick_us, self._next_tick)
        bounds = [0, *(np.flatnonzero(np.diff(ticks)) + 1).tolist(), len(ticks)]
        return {int(ticks[start]): slice(start, stop) for start, stop in pairwise(bounds)}

    def _streams_of(self, series: Integers, names: Iterable[tuple[str, str, str]]) -> tuple[Integers, Bools]:
        """Each row's stream, numbered in order of appearance, and whether it may serve as a reference."""
        known = list(names)
        numbers, learn = np.zeros(len(known), np.int64), np.zeros(len(known), np.bool_)
        for number in first_seen(series):
            numbers[number] = self._streams.number(*known[number])
            learn[number] = self._canaries.is_stable(*known[number][:2])
        return numbers[series], learn[series]

    def _traces(
        self, tick: int, now: int, traces: Traces, stream: Integers, learn: Bools, revision: int
    ) -> list[Result]:
        results: list[Result] = []
        taken = self._first.take(stream, traces.session, now)
        first = rows(traces, taken.mask)
        stream, session, learn = stream[taken.mask], taken.session[taken.mask], learn[taken.mask]
        values = {
            "error_rate": first.failed.astype(np.float64),
            "latency_p99": first.latency,
            "ttft_p99": first.ttft,
            "cost_p99": np.where(first.nanousd >= 0, first.nanousd / NANO, np.nan),
        }
        for name in TRACE_RULES:
            value = values[name]
            known = ~np.isnan(value)
            units = Units(stream[known], value[known], session[known], learn[known])
            results += self._report(name, self._watches[name].step(units, tick), revision)
        return results

    def _scores(self, tick: int, now: int, scores: Scores, stream: Integers, revision: int) -> list[Result]:
        closed = self._means.step(stream, scores.session, scores.value, now)
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
