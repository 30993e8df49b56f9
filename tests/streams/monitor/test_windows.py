from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.detectors.base import State
from driftline.detectors.state import pack, unpack
from driftline.schemas.events import MICROSECONDS, Score, Trace
from driftline.schemas.results import WindowStats
from driftline.streams.monitor.columns import score_columns, trace_columns
from driftline.streams.monitor.config import LimitsConfig, WindowConfig
from driftline.streams.monitor.names import OTHER, ErrorTypes, Names, ScoreSeries, TraceSeries
from driftline.streams.monitor.windows import Windows
from driftline.streams.pricing import UNKNOWN

START = 1_793_606_400 * MICROSECONDS  # a whole hour
CONFIG = WindowConfig(size_s=60, grace_s=5, lateness_s=600)


def trace(at_s: float, **fields: Any) -> Trace:
    return Trace(app="a", ts=START + round(at_s * MICROSECONDS), trace_id=f"t{at_s}", release="v1", **fields)


class Adding(Windows):
    """Takes events as the fold does."""

    def __init__(self, state: State | None = None) -> None:
        super().__init__(CONFIG, state)
        self.names: tuple[Names[TraceSeries], Names[ScoreSeries]] = (Names(TraceSeries), Names(ScoreSeries))

    def add(self, traces: list[Trace], costs: list[int | None]) -> None:
        ts = np.array([t.ts for t in traces], np.int64)
        known = np.array([UNKNOWN if cost is None else cost for cost in costs], np.int64)
        self.add_traces(
            *trace_columns(
                traces, ts, ts.astype(np.uint64), self.names[0], ErrorTypes(LimitsConfig()), lambda *_: known
            )
        )

    def rate(self, scores: list[Score]) -> None:
        ts = np.array([s.ts for s in scores], np.int64)
        self.add_scores(score_columns(scores, ts, ts.astype(np.uint64), self.names[1]))

    def close(self, watermark: int, revision: int) -> list[WindowStats]:
        self.settle(self.names[0].names, self.names[1].names)
        return super().close(watermark, revision)

    def snapshot(self) -> State:
        self.settle(self.names[0].names, self.names[1].names)
        return super().snapshot()


def add(windows: Adding, traces: list[Trace], cost: int | None = None) -> None:
    windows.add(traces, [cost] * len(traces))


def after(seconds: float) -> int:
    return START + round(seconds * MICROSECONDS)


def test_rules_see_what_closed_and_what_a_correction_adds() -> None:
    windows = Adding()
    add(windows, [trace(1, input_tokens=10), trace(2, status="error")], cost=5)
    windows.close(after(65), 1)
    [first] = windows.closed
    assert (first.app, first.release, first.start, first.corrected) == ("a", "v1", START, False)
    assert (first.counts["requests"], first.counts["errors"], first.new_nanousd) == (2, 1, 10)
    windows = Adding(unpack(pack(windows.snapshot())))
    add(windows, [trace(3)], cost=7)
    windows.close(after(66), 2)
    [again] = windows.closed
    assert (again.corrected, again.counts["nanousd"], again.new_nanousd) == (True, 17, 7)
    windows.close(after(67), 3)
    assert windows.closed == []


def test_a_window_holds_what_happened_in_its_minute() -> None:
    windows = Adding()
    windows.add(
        [
            trace(0, latency_ms=100, ttft_ms=10, input_tokens=5, output_tokens=7, cache_read_input_tokens=2),
            trace(59.9, latency_ms=300, status="error", error_type="503"),
            trace(60, latency_ms=1),
        ],
        [1_500_000_000, None, 0],
    )
    windows.rate(
        [Score(app="a", release="v1", ts=START, id=str(v), trace_id="t", name="q", value=v) for v in (0.25, 0.5)]
    )
    [window] = windows.close(after(65), revision=7)
    assert (window.requests, window.errors, window.errors_by_type) == (2, 1, {"503": 1})
    assert (window.input_tokens, window.output_tokens, window.cache_read_input_tokens) == (5, 7, 2)
    assert (window.cost_usd, window.unpriced) == (1.5, 1)
    assert window.latency_ms is not None
    assert window.ttft_ms is not None
    assert (window.latency_ms.count, window.latency_ms.sum) == (2, 400)
    assert window.latency_ms.p99 == pytest.approx(100, rel=0.01)
    assert window.ttft_ms.count == 1
    assert (window.scores["q"].count, window.scores["q"].mean) == (2, 0.375)
    assert (window.start, window.size_s, window.revision, window.late) == (START, 60, 7, 0)


def test_a_window_closes_once_the_tick_is_past_its_end_and_the_grace() -> None:
    windows = Adding()
    add(windows, [trace(30)])
    assert windows.close(after(64.9), 1) == []
    assert len(windows.close(after(65), 2)) == 1
    assert windows.close(after(66), 3) == []


def test_nothing_could_be_priced_is_not_a_cost_of_zero() -> None:
    windows = Adding()
    add(windows, [trace(0)])
    [window] = windows.close(after(65), 1)
    assert window.cost_usd is None
    assert window.latency_ms is None


def test_a_late_event_corrects_its_window_under_the_same_id() -> None:
    windows = Adding()
    add(windows, [trace(1)])
    [first] = windows.close(after(65), 1)
    add(windows, [trace(2)])
    [second] = windows.close(after(70), 2)
    assert (second.id, second.requests, second.late, second.revision) == (first.id, 2, 1, 2)


def test_an_event_for_a_closed_minute_that_nobody_had_seen_is_late() -> None:
    windows = Adding()
    windows.close(after(300), 1)
    add(windows, [trace(1)])
    [window] = windows.close(after(301), 2)
    assert window.late == 1


def test_sums_beyond_64_bits_are_exact() -> None:
    windows = Adding()
    add(windows, [trace(0, request_model="m")] * 10_000, cost=10**15)  # a million dollars each
    [window] = windows.close(after(65), 1)
    assert window.cost_usd == 10**19 / 10**9


def test_series_are_apart() -> None:
    windows = Adding()
    add(windows, [trace(0, response_model="m1"), trace(1, response_model="m2"), trace(2, request_model="m1")])
    found = windows.close(after(65), 1)
    assert [(w.model, w.requests) for w in found] == [("m1", 2), ("m2", 1)]
    assert len({w.id for w in found}) == 2


EVENTS = st.lists(
    st.builds(
        lambda at, model, latency, tokens, failed: trace(
            at,
            request_model=model,
            latency_ms=latency,
            input_tokens=tokens,
            status="error" if failed else "ok",
            error_type="e" if failed else "",
        ),
        st.floats(0, 300),
        st.sampled_from(["m1", "m2"]),
        st.none() | st.floats(0, 1e6),
        st.none() | st.integers(0, 2**40),
        st.booleans(),
    ),
    max_size=30,
)


def run(batches: list[list[Trace]], restore: bool) -> dict[str, WindowStats]:
    windows = Adding()
    for batch in batches:
        if batch:
            add(windows, batch, cost=123_456_789)
        if restore:
            windows = Adding(unpack(pack(windows.snapshot())))
    return {w.id: w for w in windows.close(after(400), 1)}


@given(EVENTS, st.data())
def test_order_batches_and_restarts_do_not_matter(events: list[Trace], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(events))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
    bounds = [0, *cuts, len(events)]
    batches = [list(shuffled[a:b]) for a, b in pairwise(bounds)]
    assert run([events], restore=False) == run(batches, restore=True)


@given(EVENTS)
def test_every_event_is_in_one_window(events: list[Trace]) -> None:
    found = run([events], restore=False)
    requests: dict[tuple[int, str], int] = defaultdict(int)
    for event in events:
        requests[event.ts // (60 * MICROSECONDS), event.request_model] += 1
    assert {(w.start // (60 * MICROSECONDS), w.model): w.requests for w in found.values()} == dict(requests)


def test_others_of_each_partition_are_windows_of_their_own() -> None:
    """Else ClickHouse would keep those of one partition alone."""

    def ids(app: str) -> set[str]:
        found = set()
        for partition in (0, 1):
            windows = Windows(CONFIG, None, partition)
            windows._window((app, OTHER, OTHER, START), 1)
            found |= {window.id for window in windows.close(START + 120 * MICROSECONDS, 1)}
        return found

    assert len(ids(OTHER)) == 2
    assert len(ids("bot")) == 1
