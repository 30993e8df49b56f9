"""The events half of the monitor: the log to windows at once, and to detectors at each tick."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from typing import Any, TypeAlias, TypeVar

import msgspec
import numpy as np

from driftline.detectors.config import DetectorsConfig
from driftline.detectors.digests import Digests, digests
from driftline.detectors.state import pack, size_of, unpack
from driftline.schemas.codec import encode
from driftline.schemas.errors import PermanentError
from driftline.schemas.events import MICROSECONDS, BaselineSet, Event, Release, Score, Tick, Trace
from driftline.schemas.ids import all_joined, joined
from driftline.schemas.results import (
    Alert,
    Baseline,
    BreakerSignal,
    Evidence,
    LeftOut,
    Result,
    RollbackSignal,
    WindowStats,
)
from driftline.schemas.topics import Topics
from driftline.streams.fold import Fold, FoldFactory, Output, Record
from driftline.streams.intake import Intake
from driftline.streams.monitor.analysis import Analysis
from driftline.streams.monitor.columns import (
    NO_SCORES,
    NO_TRACES,
    Bools,
    Integers,
    Pending,
    score_columns,
    trace_columns,
)
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.dedup import RecentKeys
from driftline.streams.monitor.left_out import LeftOuts
from driftline.streams.monitor.names import ErrorTypes, ScoreSeries, TraceSeries
from driftline.streams.monitor.watch import Watch
from driftline.streams.monitor.windows import Windows
from driftline.streams.pricing import Pricer

Arrived: TypeAlias = Callable[[int, int, int, str], None]
"""(partition, events at home there, events of apps at home elsewhere, one of those apps or "")"""

VERSION = 7  # of the snapshot's layout
MOST_WAITING = 1_000  # releases, and baselines, that wait for their tick: up to an hour
LEAST_KEYS = 100_000  # of events that are remembered, however full the state is
CHUNK = 1_000  # events that become columns together: enough for arrays to pay, few enough to stay in the cache


R = TypeVar("R", Release, BaselineSet)


class MonitorFold:
    """absorb: records → events → those at home here → those not seen before → columns → windows, and pending until
    their tick. Events of apps at home in another partition are sent there, and not counted here.
    A tick closes windows, says what was left out, and gives the events whose time is complete to the detectors."""

    def __init__(
        self,
        config: MonitorConfig,
        detectors: DetectorsConfig,
        topics: Topics,
        pricer: Pricer,
        snapshot: bytes | None,
        watch: type[Watch] = Watch,
        partition: int | None = None,
        arrived: Arrived | None = None,
    ) -> None:
        """`partition`: of the events topic; None: over records that Driftline makes itself, of apps from anywhere.
        `arrived`: told of each `absorb`'s events."""
        state = load_state(snapshot, "monitor", VERSION)
        self._pricer = pricer
        self._publish = Publisher(topics)
        self._grace = config.windows.grace_s * MICROSECONDS
        self._tick_us = round(detectors.budget.tick_s * MICROSECONDS)
        self._watermark: int | None = state.get("watermark")
        self._undecodable: int = state.get("undecodable", 0)
        self._forwarded: int = state.get("forwarded", 0)
        self._adopted: int = state.get("adopted", 0)
        self._not_waited: int = state.get("not_waited", 0)  # releases and baselines too many
        self._intake = Intake(topics, partition)
        self._partition, self._arrived = partition, arrived
        self._seen = RecentKeys(config.dedup, config.windows, state.get("seen"))
        self._left_out = LeftOuts(config.windows, state.get("left_out"))
        self._windows = Windows(config.windows, state.get("windows"), partition)
        self._traces = Pending(NO_TRACES, TraceSeries, config.limits, state.get("traces"))
        self._scores = Pending(NO_SCORES, ScoreSeries, config.limits, state.get("scores"))
        self._error_types = ErrorTypes(config.limits, state.get("error_types"))
        self._releases: list[Release] = msgspec.convert(state.get("releases", []), list[Release])
        self._baselines: list[BaselineSet] = msgspec.convert(state.get("baselines", []), list[BaselineSet])
        self._analysis = Analysis(config, detectors, self._windows.spending, state.get("analysis"), watch)

    @property
    def watermark(self) -> int | None:
        return self._watermark

    @property
    def counters(self) -> Mapping[str, int]:
        """What was not counted, or not as long as it should have been."""
        return {
            "undecodable": self._undecodable,
            "forwarded": self._forwarded,
            "adopted": self._adopted,
            "repeated": self._seen.repeated,
            "too_late": self._left_out.too_late,
            "ahead_of_time": self._left_out.ahead_of_time,
            "incomplete": self._left_out.incomplete,
            "dedup_overflow": self._seen.overflow,
            "series_overflow": self._traces.names.overflow + self._scores.names.overflow,
            "error_types_overflow": self._error_types.overflow,
            "windows_overflow": self._windows.overflow,
            "pending_overflow": self._traces.overflow + self._scores.overflow + self._not_waited,
            **self._analysis.counters,
        }

    @property
    def begins(self) -> int | None:
        """Where the beginning of the log is gone: the time from which on windows are whole."""
        return self._left_out.begins

    @property
    def watches(self) -> Mapping[str, Watch]:
        """By detector."""
        return self._analysis.watches

    def snapshot(self) -> bytes:
        self._windows.settle(self._traces.names.names, self._scores.names.names)
        return pack(
            {
                "version": VERSION,
                "watermark": self._watermark,
                "undecodable": self._undecodable,
                "forwarded": self._forwarded,
                "adopted": self._adopted,
                "not_waited": self._not_waited,
                "seen": self._seen.snapshot(),
                "left_out": self._left_out.snapshot(),
                "windows": self._windows.snapshot(),
                "traces": self._traces.snapshot(),
                "scores": self._scores.snapshot(),
                "error_types": self._error_types.snapshot(),
                "releases": msgspec.to_builtins(self._releases),
                "baselines": msgspec.to_builtins(self._baselines),
                "analysis": self._analysis.snapshot(),
            }
        )

    async def absorb(self, records: Sequence[Record]) -> list[Output]:
        outputs: list[Output] = []
        batch: list[Event] = []
        at_home, away_before, app = 0, self._forwarded, ""
        if records:
            self._left_out.begin(records[0])
        for record in records:
            if self._left_out.time.hears(record):
                self._take(batch)
                batch = []
                self._left_out.time.hear(record)
            events, rejects, adopted, away = self._intake(record)
            self._undecodable += rejects
            if adopted:
                self._adopted += adopted
            if away:
                self._forwarded += len(away)
                app = away[0].app
                outputs += self._intake.forward(record.offset, away)
            if Tick not in map(type, events):
                at_home += len(events) - adopted
                batch += events
                if len(batch) >= CHUNK:
                    self._take(batch)
                    batch = []
                    await asyncio.sleep(0)  # a backlog holds up no other partition
                continue
            for event in events:
                if isinstance(event, Tick):
                    self._take(batch)
                    batch = []
                    outputs += self._tick(event.ts, record.offset)
                    await asyncio.sleep(0)
                else:
                    batch.append(event)
        self._take(batch)
        if self._arrived is not None and self._partition is not None:
            self._arrived(self._partition, at_home, self._forwarded - away_before, app)
        return outputs

    def _take(self, events: Sequence[Event]) -> None:
        """Count events into their windows and keep them for the tick that will close their time."""
        kinds = set(map(type, events))
        if Trace in kinds:
            self._take_traces([event for event in events if isinstance(event, Trace)])
        if Score in kinds:
            self._take_scores([event for event in events if isinstance(event, Score)])
        if Release in kinds:
            self._take_releases([event for event in events if isinstance(event, Release)])
        if BaselineSet in kinds:
            self._take_baselines([event for event in events if isinstance(event, BaselineSet)])

    def _take_traces(self, traces: list[Trace]) -> None:
        names_of = [f"T{t.app}" for t in traces], [t.trace_id for t in traces], [t.span_id for t in traces]
        key, ts = digests(all_joined(*names_of)), _times(traces)
        traces, key, ts = _some(traces, key, ts, self._seen.new(key, ts))
        traces, key, ts = _some(traces, key, ts, self._left_out.timely("trace", traces, ts))
        if traces:
            names, price = self._traces.names, self._pricer.costs_nanousd
            columns, tokens = trace_columns(traces, ts, key, names, self._error_types, price)
            self._windows.add_traces(columns, tokens)
            self._traces.add(columns, self._left_out.time.now)

    def _take_scores(self, scores: list[Score]) -> None:
        key, ts = digests(all_joined([f"S{s.app}" for s in scores], [s.id for s in scores])), _times(scores)
        scores, key, ts = _some(scores, key, ts, self._seen.new(key, ts))
        scores, key, ts = _some(scores, key, ts, self._left_out.timely("score", scores, ts))
        if scores:
            columns = score_columns(scores, ts, key, self._scores.names)
            self._windows.add_scores(columns)
            self._scores.add(columns, self._left_out.time.now)

    def _take_releases(self, releases: list[Release]) -> None:
        key, ts = digests(joined(f"R{r.app}", r.id) for r in releases), _times(releases)
        new = compress(releases, self._seen.new(key, ts).tolist())
        self._wait(self._releases, [release for release in new if self._left_out.timely_release(release)])

    def _take_baselines(self, baselines: list[BaselineSet]) -> None:
        key, ts = digests(joined(f"B{b.app}", b.id) for b in baselines), _times(baselines)
        new = compress(baselines, self._seen.new(key, ts).tolist())
        self._wait(self._baselines, [baseline for baseline in new if self._left_out.timely_release(baseline)])

    def _take_out_ahead(self, first_tick: int) -> None:
        """What had come before anything said what time it is."""
        cut = self._left_out.first_tick(first_tick)
        self._left_out.taken_out(self._windows.take_out(cut))
        self._traces.take_out(cut)
        self._scores.take_out(cut)
        self._releases = list(filter(self._left_out.timely_release, self._releases))
        self._baselines = list(filter(self._left_out.timely_release, self._baselines))

    def _wait(self, waiting: list[R], news: list[R]) -> None:
        room = max(0, MOST_WAITING - len(waiting))
        waiting += news[:room]
        self._not_waited += max(0, len(news) - room)

    def _tick(self, ts: int, offset: int) -> list[Output]:
        if self._watermark is not None and ts <= self._watermark:
            return []
        first, self._watermark = self._watermark is None, ts
        self._seen.tick(ts)
        self._windows.settle(self._traces.names.names, self._scores.names.names)
        if first:
            self._take_out_ahead(ts)
        results: list[Result] = [*self._windows.close(ts, offset), *self._left_out.tick(ts, offset)]
        until = (ts - self._grace) // self._tick_us * self._tick_us
        releases = sorted((r for r in self._releases if r.ts < until), key=lambda r: (r.ts, r.key))
        self._releases = [r for r in self._releases if r.ts >= until]
        baselines = sorted((b for b in self._baselines if b.ts < until), key=lambda b: (b.ts, b.key))
        self._baselines = [b for b in self._baselines if b.ts >= until]
        results += self._analysis.advance(
            self._traces.take(until, ts),
            self._traces.names.names,
            self._scores.take(until, ts),
            self._scores.names.names,
            releases,
            baselines,
            until,
            offset,
        )
        results += self._analysis.close(self._windows.closed, ts - self._grace, offset)
        self._traces.forget_idle()
        self._scores.forget_idle()
        self._error_types.tick(ts)
        waiting = size_of([msgspec.to_builtins(each) for each in (*self._releases, *self._baselines)])
        others = self._traces.nbytes + self._scores.nbytes + waiting
        left = self._analysis.keep_to_size(others + self._seen.nbytes, until)
        if left < 0:
            self._seen.keep(max(LEAST_KEYS, (self._seen.nbytes + left) // 8))
        return [self._publish(result) for result in results]


E = TypeVar("E", Trace, Score)


def _some(events: list[E], key: Digests, ts: Integers, mask: Bools) -> tuple[list[E], Digests, Integers]:
    if mask.all():
        return events, key, ts
    return list(compress(events, mask.tolist())), key[mask], ts[mask]


def _times(events: Sequence[Trace | Score | Release | BaselineSet]) -> Integers:
    return np.array([event.ts for event in events], np.int64)


def load_state(snapshot: bytes | None, name: str, version: int) -> dict[str, Any]:
    """:raises PermanentError: written by another version of Driftline."""
    state: dict[str, Any] = unpack(snapshot) if snapshot else {}
    if state and state["version"] != version:
        raise PermanentError(
            f"The {name}'s state has version {state['version']}, this Driftline reads {version}: install the one that "
            "wrote it, or stop the monitor and run `driftline state reset --role monitor`, after which it builds its "
            "state anew from the log"
        )
    return state


class Publisher:
    """Each kind of result to its topic, keyed by app; baselines each by itself."""

    def __init__(self, topics: Topics) -> None:
        self._topic: dict[type, str] = {
            WindowStats: topics.windows,
            LeftOut: topics.windows,
            Evidence: topics.evidence,
            Alert: topics.alerts,
            RollbackSignal: topics.rollbacks,
            BreakerSignal: topics.breakers,
            Baseline: topics.baselines,
        }

    def __call__(self, result: Result) -> Output:
        key = result.app
        if isinstance(result, Baseline):  # its topic is compacted: a record of each stays
            key = joined(result.app, result.detector, result.component, result.id)
        return Output(self._topic[type(result)], key.encode(), encode(result))


def monitor_fold_factory(
    config: MonitorConfig, detectors: DetectorsConfig, topics: Topics, arrived: Arrived | None = None
) -> FoldFactory:
    pricer = Pricer()

    def make(partition: int, snapshot: bytes | None) -> Fold:
        return MonitorFold(config, detectors, topics, pricer, snapshot, partition=partition, arrived=arrived)

    return make
