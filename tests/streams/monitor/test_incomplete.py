"""A fold without a state that begins in the middle of a log."""

from collections import Counter
from collections.abc import Sequence

import pytest

from driftline.detectors.config import DetectorsConfig
from driftline.schemas.codec import encode_events
from driftline.schemas.events import MICROSECONDS, Event, Tick, Trace
from driftline.schemas.results import LeftOut, Result, WindowStats
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.pricing import Pricer
from tests.streams.monitor.log import START, TOPICS, FakeRecord, run_log, traffic

SECONDS = 240
CUT_S = 90  # where the log's beginning is gone: in the middle of the second minute
MINUTE = 60 * MICROSECONDS


def log_of(by_broker: bool) -> list[FakeRecord]:
    """A record of traces and a tick each second; each reaches the broker a tenth of a second later."""
    traces = list(traffic(5, 0, SECONDS, 4))
    records: list[FakeRecord] = []
    for second in range(1, SECONDS + 1):
        now = START + second * MICROSECONDS
        its = [t for t in traces if now - MICROSECONDS <= t.ts < now]
        for events in (its, [Tick(ts=now)]):
            sent = (now + 100_000) // 1_000 if by_broker else 0
            records.append(FakeRecord(len(records), encode_events(list[Event](events)), None, sent, int(by_broker)))
    return records


def new_fold(snapshot: bytes | None = None) -> MonitorFold:
    return MonitorFold(MonitorConfig(), DetectorsConfig(), TOPICS, Pricer(), snapshot)


def windows(results: Sequence[Result]) -> dict[tuple[str, int], WindowStats]:
    return {(r.id, r.revision): r for r in results if isinstance(r, WindowStats)}


@pytest.mark.parametrize("by_broker", [True, False])
async def test_only_windows_that_are_whole_are_published_and_equal_those_of_the_whole_log(by_broker: bool) -> None:
    log = log_of(by_broker)
    cut = log[2 * CUT_S :]
    whole = windows(await run_log(new_fold(), log))
    folds = [new_fold() for _ in range(2)]
    results = await run_log(folds[0], cut)
    assert await run_log(folds[1], cut, size=7) == results
    assert folds[0].snapshot() == folds[1].snapshot()
    found = windows(results)
    assert {w.start for w in whole.values()} >= {START, START + MINUTE, START + 2 * MINUTE}
    assert min(w.start for w in found.values()) == START + 2 * MINUTE
    assert found == {key: window for key, window in whole.items() if window.start >= START + 2 * MINUTE}
    said = Counter[tuple[str, int]]()
    for result in results:
        if isinstance(result, LeftOut):
            said[result.reason, result.start] += result.events
    in_log = sum(START + CUT_S * MICROSECONDS <= trace.ts < START + 2 * MINUTE for trace in traffic(5, 0, SECONDS, 4))
    assert said == {("incomplete", START + MINUTE): in_log}
    assert folds[0].counters["incomplete"] == in_log


async def test_it_is_the_same_after_a_restart_before_the_first_tick() -> None:
    cut = log_of(by_broker=False)[2 * CUT_S :]
    fold = new_fold()
    outputs = await run_log(fold, cut[:1])
    fold = new_fold(fold.snapshot())
    outputs += await run_log(fold, cut[1:])
    straight = new_fold()
    assert outputs == await run_log(straight, cut)
    assert fold.snapshot() == straight.snapshot()


async def test_no_baseline_is_learned_from_a_part_of_a_window() -> None:
    cut = log_of(by_broker=True)[2 * CUT_S :]
    fold = new_fold()
    await run_log(fold, cut[: 2 * (118 - CUT_S)])
    assert fold.counters["incomplete"] > 0
    assert fold.watches["error_rate"].references() == []


async def test_what_came_too_late_or_ahead_of_its_time_is_that_in_the_middle_too() -> None:
    def record(offset: int, *events: Event) -> FakeRecord:
        return FakeRecord(offset, encode_events(list(events)))

    def trace(at: int) -> Trace:
        return Trace(app="a", ts=START + at * MICROSECONDS, trace_id=str(at))

    later, later_still = START + 5000 * MICROSECONDS, START + 5001 * MICROSECONDS
    log = [record(7, Tick(ts=later)), record(8, trace(0), trace(4979), trace(9000)), record(9, Tick(ts=later_still))]
    results = await run_log(new_fold(), log)
    assert sorted((r.reason, r.events) for r in results if isinstance(r, LeftOut)) == [
        ("ahead_of_time", 1),
        ("incomplete", 1),
        ("too_late", 1),
    ]


async def test_a_log_that_is_whole_leaves_nothing_out() -> None:
    fold = new_fold()
    results = await run_log(fold, log_of(by_broker=True))
    assert fold.counters["incomplete"] == 0
    assert not [result for result in results if isinstance(result, LeftOut)]
    assert min(w.start for w in windows(results).values()) == START
    assert fold.begins is None


async def test_a_state_goes_on_wherever_it_stands() -> None:
    log = log_of(by_broker=True)
    fold = new_fold()
    await run_log(fold, log[: 2 * CUT_S])
    fold = new_fold(fold.snapshot())
    await run_log(fold, log[2 * CUT_S + 10 :])
    assert fold.counters["incomplete"] == 0
