"""The events half of the monitor: the log to windows at once, and to detectors at each tick."""

from collections.abc import Sequence
from typing import Any

import msgspec

from driftline.detectors.config import DetectorsConfig
from driftline.detectors.state import pack, unpack
from driftline.schemas.codec import decode_events, encode
from driftline.schemas.events import MICROSECONDS, Release, Score, Tick, Trace
from driftline.schemas.results import Alert, BreakerSignal, Evidence, Result, RollbackSignal, WindowStats
from driftline.schemas.topics import Topics
from driftline.streams.fold import Fold, FoldFactory, Output, Record
from driftline.streams.monitor.analysis import Analysis
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.dedup import RecentKeys
from driftline.streams.monitor.windows import NANO, Windows
from driftline.streams.pricing import Pricer

VERSION = 1  # of the snapshot's layout


class MonitorFold:
    def __init__(
        self, config: MonitorConfig, detectors: DetectorsConfig, topics: Topics, pricer: Pricer, snapshot: bytes | None
    ) -> None:
        state: dict[str, Any] = unpack(snapshot) if snapshot else {}
        if state and state["version"] != VERSION:
            raise ValueError(f"state of version {state['version']} cannot be read by this release (it reads {VERSION})")
        self._pricer = pricer
        self._publish = Publisher(topics)
        self._grace = config.windows.grace_s * MICROSECONDS
        self._ahead = config.windows.ahead_s * MICROSECONDS
        self._tick_us = round(detectors.budget.tick_s * MICROSECONDS)
        self._watermark: int | None = state.get("watermark")
        self._seen = RecentKeys(config.dedup, state.get("seen"))
        self._windows = Windows(config.windows, state.get("windows"))
        self._analysis = Analysis(config, detectors, state.get("analysis"))
        self._pending: list[Trace | Score | Release] = (
            msgspec.msgpack.decode(state["pending"], type=list[Trace | Score | Release]) if state else []
        )
        self._ahead_of_time: int = state.get("ahead_of_time", 0)

    @property
    def watermark(self) -> int | None:
        return self._watermark

    def snapshot(self) -> bytes:
        return pack(
            {
                "version": VERSION,
                "watermark": self._watermark,
                "seen": self._seen.snapshot(),
                "windows": self._windows.snapshot(),
                "analysis": self._analysis.snapshot(),
                "pending": msgspec.msgpack.encode(self._pending),
                "ahead_of_time": self._ahead_of_time,
            }
        )

    async def absorb(self, records: Sequence[Record]) -> list[Output]:
        outputs: list[Output] = []
        batch: list[Trace | Score | Release] = []
        for record in records:
            for event in decode_events(record.value).events:
                if isinstance(event, Tick):
                    self._take(batch)
                    batch = []
                    outputs += self._tick(event.ts, record.offset)
                else:
                    batch.append(event)
        self._take(batch)
        return outputs

    def _take(self, events: list[Trace | Score | Release]) -> None:
        """Count events into their windows and keep them for the tick that will close their time."""
        traces: list[Trace] = []
        costs: list[int | None] = []
        scores: list[Score] = []
        latest = None if self._watermark is None else self._watermark + self._ahead
        for event in events:
            if latest is not None and event.ts > latest:
                self._ahead_of_time += 1
                continue
            if not self._seen.is_new(f"{type(event).__name__[0]}{event.app}\x1f{event.key}"):
                continue
            event.attributes = {}
            if isinstance(event, Trace):
                event.input_text = event.output_text = ""
                cost = self._pricer.cost_nanousd(event)
                event.cost_usd = None if cost is None else cost / NANO
                traces.append(event)
                costs.append(cost)
            elif isinstance(event, Score):
                event.explanation = ""
                scores.append(event)
            self._pending.append(event)
        if traces:
            self._windows.add_traces(traces, costs)
        if scores:
            self._windows.add_scores(scores)

    def _tick(self, ts: int, offset: int) -> list[Output]:
        if self._watermark is not None and ts <= self._watermark:
            return []
        self._watermark = ts
        self._seen.tick(ts)
        until = (ts - self._grace) // self._tick_us * self._tick_us
        ready = sorted((e for e in self._pending if e.ts < until), key=lambda e: (e.ts, e.key))
        self._pending = [e for e in self._pending if e.ts >= until]
        results: list[Result] = list(self._windows.close(ts, offset))
        results += self._analysis.advance(
            [e for e in ready if isinstance(e, Trace)],
            [e for e in ready if isinstance(e, Score)],
            [e for e in ready if isinstance(e, Release)],
            until,
            offset,
        )
        return [self._publish(result) for result in results]


class Publisher:
    """Each kind of result to its topic, keyed by app."""

    def __init__(self, topics: Topics) -> None:
        self._topic: dict[type, str] = {
            WindowStats: topics.windows,
            Evidence: topics.evidence,
            Alert: topics.alerts,
            RollbackSignal: topics.rollbacks,
            BreakerSignal: topics.breakers,
        }

    def __call__(self, result: Result) -> Output:
        return Output(self._topic[type(result)], result.app.encode(), encode(result))


def monitor_fold_factory(config: MonitorConfig, detectors: DetectorsConfig, topics: Topics) -> FoldFactory:
    pricer = Pricer()

    def make(partition: int, snapshot: bytes | None) -> Fold:
        return MonitorFold(config, detectors, topics, pricer, snapshot)

    return make
