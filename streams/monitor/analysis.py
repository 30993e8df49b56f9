"""What happens at a tick: the events it closes go, in canonical order, to detectors, breakers and canary tests; what
these find becomes evidence, alerts, breaker changes and rollback verdicts."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from driftline.detectors.base import State
from driftline.detectors.config import DetectorsConfig
from driftline.detectors.registry import make
from driftline.detectors.units import FirstEvents, SessionMeans
from driftline.schemas.events import MICROSECONDS, BaselineSet, Release
from driftline.schemas.results import Result
from driftline.streams.monitor import golden, missing, mix, scalars
from driftline.streams.monitor.baselines import NEW_BASELINE, Baselines
from driftline.streams.monitor.breakers import ProviderBreakers
from driftline.streams.monitor.canaries import Canaries
from driftline.streams.monitor.columns import (
    NO_SCORES,
    NO_TRACES,
    Bools,
    Integers,
    Scores,
    Traces,
    first_seen,
    rows,
)
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.contributors import Contributors
from driftline.streams.monitor.incidents import Incidents
from driftline.streams.monitor.names import ScoreSeries, TraceSeries
from driftline.streams.monitor.new_codes import NewCodes
from driftline.streams.monitor.places import Places
from driftline.streams.monitor.rollouts import Promotions, left_traffic, not_before
from driftline.streams.monitor.rules.board import Board
from driftline.streams.monitor.rules.part import Context
from driftline.streams.monitor.silence import Silences, active_apps
from driftline.streams.monitor.watch import Stream, Streams, Transition, Units, Watch
from driftline.streams.monitor.windows import Closed

TRACE_RULES = ("error_rate", "latency_p99", "ttft_p99", "cost_p99", "finish_reason", "error_type")
SCORE_RULES = ("quality", "quality_pit")
RULES = (*TRACE_RULES, *SCORE_RULES, "invalid_rate", scalars.BANK, golden.RULE)
NANO = 1_000_000_000


class Analysis:
    """All detection of one partition of the events topic."""

    def __init__(
        self,
        config: MonitorConfig,
        detectors: DetectorsConfig,
        spending: Callable[[str, str, int], dict[str, list[int]]],
        state: State | None = None,
        watch: type[Watch] = Watch,
    ) -> None:
        """spending: `Windows.spending`."""
        state = state or {}
        self._spending = spending
        self._config = config
        self._tick_us = round(detectors.budget.tick_s * MICROSECONDS)
        self._remainder_ticks = detectors.budget.ticks(config.windows.lateness_s)
        self._streams = Streams(state.get("streams"))
        watches = state.get("watches", {})
        places = self._places = Places(detectors.budget, config.limits.state_bytes)
        self._watches = {name: watch(make(name, detectors), self._streams, places, watches.get(name)) for name in RULES}
        places.others = state.get("others", 0)
        self._incidents = Incidents(detectors.budget, state.get("incidents"))
        self._notices = Incidents(detectors.budget, state.get("notices"))  # what no detector says: outside the budget
        self._silences = Silences(config.silence, detectors.budget.tick_s, self._notices, state.get("silences"))
        self._new_codes = NewCodes(config.new_codes, self._notices, state.get("new_codes"))
        self._golden = golden.Golden(state.get("golden"))
        self._score_range = detectors.quality.low, detectors.quality.high
        self._first = FirstEvents(detectors.units)
        self._means = SessionMeans(detectors.units)
        if "first" in state:
            self._first.restore(state["first"])
            self._means.restore(state["means"])
        self._contributors = Contributors(state.get("contributors"))
        self._breakers = ProviderBreakers(detectors.breaker, state.get("breakers"))
        self._canaries = Canaries(config.quality_score, detectors.canary, state.get("canaries"), config.limits)
        self._baselines = Baselines(detectors, state.get("baselines_refused", 0))
        self._promotions = Promotions(config.relearn_after_s, state.get("relearn", ()))
        context = Context(self._canaries.is_stable, self._contributors_of)
        self._board = Board(config, detectors.budget, context, state.get("board"))
        self._next_tick: int | None = state.get("next_tick")
        self._reported: int = state.get("reported", 0)

    def snapshot(self) -> State:
        return {
            "streams": self._streams.snapshot(),
            "watches": {name: watch.snapshot() for name, watch in self._watches.items()},
            "others": self._places.others,
            "incidents": self._incidents.snapshot(),
            "notices": self._notices.snapshot(),
            "silences": self._silences.snapshot(),
            "new_codes": self._new_codes.snapshot(),
            "golden": self._golden.snapshot(),
            "first": self._first.snapshot(),
            "means": self._means.snapshot(),
            "contributors": self._contributors.snapshot(),
            "breakers": self._breakers.snapshot(),
            "canaries": self._canaries.snapshot(),
            "baselines_refused": self._baselines.refused,
            "relearn": self._promotions.snapshot(),
            "board": self._board.snapshot(),
            "next_tick": self._next_tick,
            "reported": self._reported,
        }

    @property
    def counters(self) -> dict[str, int]:
        return {
            "baselines_refused": self._baselines.refused,
            "streams_over_limit": sum(watch.over_limit for watch in self._watches.values()),
            "state_full": sum(watch.no_room for watch in self._watches.values()),
            "canaries_over_limit": self._canaries.over_limit,
            "rules_over_limit": self._board.over_limit,
            "sessions_forgotten": self._first.overflow + self._means.overflow + self._canaries.sessions_forgotten,
        }

    def close(self, windows: Sequence[Closed], closing: int, revision: int) -> list[Result]:
        """What rules make of the windows that a tick has closed or corrected, after `advance` took its events."""
        return list(self._board.close(windows, closing, revision))

    def keep_to_size(self, others: int, until: int) -> int:
        """To be called after each tick. others: bytes of the rest of the state. What is learned gives way first, then
        what is remembered of canaries. Returns the bytes that are left; below zero the rest has to become smaller."""
        self._streams.tick(until, self._held)
        places, canaries = self._places, self._canaries
        sessions = self._first.nbytes + self._means.nbytes + self._contributors.nbytes
        places.others = others + sessions + canaries.nbytes
        places.shed()
        if places.bytes_left < 0:
            canaries.shed(canaries.nbytes + places.bytes_left)
            places.others = others + sessions + canaries.nbytes
        return places.bytes_left

    def _held(self) -> set[int]:
        """The streams whose numbers are in use."""
        return self._means.held().union(*(watch.held() for watch in self._watches.values()))

    @property
    def watches(self) -> Mapping[str, Watch]:
        """By detector."""
        return self._watches

    def advance(
        self,
        traces: Traces,
        trace_names: Sequence[TraceSeries],
        scores: Scores,
        score_names: Sequence[ScoreSeries],
        releases: Sequence[Release],
        baselines: Sequence[BaselineSet],
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
            results += self._release(not_before(release, self._next_tick * self._tick_us), revision)
        for event in baselines:
            results += self._install(event, revision)
        self._promotions.relearn(until, self._watches, self._incidents.is_open)
        by_trace, by_score = self._slices(traces.ts), self._slices(scores.ts)
        stream, learn = self._streams_of(traces.series, ((n.app, n.release, "") for n in trace_names))
        score_stream, _ = self._streams_of(scores.series, ((n.app, n.release, n.name) for n in score_names))
        is_golden = np.array([n.release == self._config.golden_release for n in score_names], np.bool_)[scores.series]
        for tick in self._ticks({*by_trace, *by_score}, end):
            now = (tick + 1) * self._tick_us
            part, score_part = by_trace.get(tick), by_score.get(tick)
            its_traces = NO_TRACES if part is None else rows(traces, part)
            its_scores = NO_SCORES if score_part is None else rows(scores, score_part)
            results += self._breakers.update(its_traces, trace_names, now, revision)
            results += self._canaries.step(its_traces, trace_names, its_scores, score_names, now, revision)
            if part is not None:
                self._contributors.add(its_traces, trace_names)
                results += self._traces(tick, now, its_traces, stream[part], learn[part], revision)
            results += self._silences.step(active_apps(its_traces, trace_names), now, revision)
            results += self._new_codes.step(its_traces, trace_names, self._knows_error, now, revision)
            its_stream, of_judge = score_stream[score_part or _NONE], is_golden[score_part or _NONE]
            if of_judge.any():
                units = self._golden.units(rows(its_scores, of_judge), its_stream[of_judge], self._streams.names)
                results += self._report(golden.RULE, self._watches[golden.RULE].step(units, tick), revision)
                its_scores, its_stream = rows(its_scores, ~of_judge), its_stream[~of_judge]
            results += self._scores(tick, now, its_scores, its_stream, revision)
        if end > self._next_tick:
            for name, watch in self._watches.items():
                results += self._report(name, watch.advance(end - 1), revision)
            self._next_tick = end
        for name, watch in self._watches.items():
            results += [self._baselines.learned(name, fit, revision) for fit in watch.fits()]
        self._contributors.prune(until)
        if until - self._reported >= self._config.evidence_s * MICROSECONDS:
            self._reported = until
            for name, watch in self._watches.items():
                results += self._incidents.readings(name, watch.readings(), until, revision)
        return results

    def _ticks(self, used: Collection[int], end: int) -> Iterator[int]:
        """Those that may change anything: with events, or in which time alone does something. Of a stretch without
        events the last one is always among them, so that all stand where they would after each tick."""
        assert self._next_tick is not None
        tick = self._next_tick
        for stop in [*sorted(used), end]:
            while tick < stop:
                now = (tick + 1) * self._tick_us
                due = max(0, -(-self._due(now) // self._tick_us) - 1 - tick)
                skipped = min(due, stop - 1 - tick)
                if skipped:
                    self._silences.skip(skipped, now)
                yield tick + skipped
                tick += skipped + 1
            if stop < end:
                yield stop
            tick = stop + 1

    def _due(self, now: int) -> int:
        """When something happens by time alone, from the tick on that ends at `now`."""
        parts = (self._breakers.due, self._canaries.due, self._silences.due(now), self._new_codes.due, self._means.due)
        return min(parts)

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
            "finish_reason": mix.finish_reasons(self._watches["finish_reason"].detector, first),
            "error_type": mix.error_types(self._watches["error_type"].detector, first),
        }
        for name in TRACE_RULES:
            value = values[name]
            known = ~np.isnan(value)
            units = Units(stream[known], value[known], session[known], learn[known])
            results += self._report(name, self._watches[name].step(units, tick), revision)
        units = scalars.units(self._streams, first, stream, session, learn)
        results += self._report(scalars.BANK, self._watches[scalars.BANK].step(units, tick), revision)
        units = missing.of_requests(self._streams, first, stream, session, learn)
        return results + self._report("invalid_rate", self._watches["invalid_rate"].step(units, tick), revision)

    def _knows_error(self, app: str, code: str) -> bool | None:
        watch = self._watches["error_type"]
        baseline = watch.baseline(app)
        return None if baseline is None else mix.knows(watch.detector, baseline, code)

    def _scores(self, tick: int, now: int, scores: Scores, stream: Integers, revision: int) -> list[Result]:
        closed = self._means.step(stream, scores.session, scores.value, now)
        if not len(closed.stream):
            return []
        learn = np.array([self._canaries.is_stable(*self._streams.names[n][:2]) for n in closed.stream.tolist()])
        began = closed.opened // self._tick_us - 1
        units = Units(closed.stream, closed.value, closed.session, learn, began)
        lacking = missing.of_scores(self._streams, closed, learn, began, *self._score_range)
        results: list[Result] = []
        for name in SCORE_RULES:
            results += self._report(name, self._watches[name].step(units, tick), revision)
        return results + self._report("invalid_rate", self._watches["invalid_rate"].step(lacking, tick), revision)

    def _contributors_of(self, detector: str, app: str, release: str, since: int) -> list[str]:
        return self._contributors.top(detector, app, release, since, self._config.top_contributors)

    def _report(self, rule: str, transitions: Sequence[Transition], revision: int) -> list[Result]:
        results: list[Result] = []
        for transition in transitions:
            app, release, component = transition.stream
            if rule in golden.SUPPRESSES and transition.kind == "fired" and self._judge_drifts(app, component):
                self._watches[rule].dismiss(transition.stream)
                results += self._incidents.suppress(rule, transition, revision, golden.SUPPRESSED)
                continue
            since = self._incidents.since(transition)
            told, _ = scalars.published(rule, transition.stream)
            top = self._contributors_of(told, app, release, since)
            if told in ("cost_p99", "cost_drift") and transition.kind == "fired":
                why = self._board.why_requests_cost(app, since, self._spending(app, release, since))
                top += [why] * bool(why)
            results += self._incidents.apply(rule, transition, revision, top)
        return results

    def _judge_drifts(self, app: str, score: str) -> bool:
        return self._incidents.is_firing(golden.RULE, Stream(app, self._config.golden_release, score))

    def _release(self, release: Release, revision: int) -> list[Result]:
        self._canaries.release(release)
        self._promotions.take(release)
        reason = left_traffic(release)
        if not reason:
            for watch in self._watches.values():
                watch.welcome(release.app, release.release)
            return []
        until = release.ts // self._tick_us + self._remainder_ticks
        results: list[Result] = []
        for name, watch in self._watches.items():
            alarmed = watch.forget(release.app, release.release, until)
            results += self._incidents.abandon(name, alarmed, release.ts, revision, reason)
        results += self._board.forget(release.app, release.release, release.ts, revision, reason)
        return results

    def _install(self, event: BaselineSet, revision: int) -> list[Result]:
        assert self._next_tick is not None
        at = max(event.ts, self._next_tick * self._tick_us)
        installed = self._baselines.install(event, self._watches, at, revision)
        if installed is None:
            return []
        if installed.baseline.state == "active":
            self._promotions.fitted(event.app, event.baseline.detector, event.baseline.component)
        ended = self._incidents.abandon(event.baseline.detector, installed.alarmed, at, revision, NEW_BASELINE)
        return [*ended, installed.baseline]


_NONE = slice(0, 0)
