import asyncio
import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import pytest

from driftline.detectors.config import DetectorsConfig
from driftline.schemas.codec import encode_events
from driftline.schemas.errors import PermanentError
from driftline.schemas.events import MICROSECONDS, Event, Release, Score, Tick, Trace
from driftline.schemas.results import Alert, BreakerSignal, Evidence, Result, WindowStats
from driftline.schemas.topics import Topics
from driftline.streams.monitor.canaries import Canaries
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.pricing import Pricer
from tests.streams.monitor.log import START, TOPICS, FakeRecord, Log, results_of, run_log, traffic

OUTAGE = (400, 500)
STOP = 900


def new_fold(topics: Topics, snapshot: bytes | None = None) -> MonitorFold:
    return MonitorFold(MonitorConfig(), DetectorsConfig(), topics, Pricer(), snapshot)


def failing(trace: Trace, rng: random.Random) -> None:
    at = (trace.ts - START) / MICROSECONDS
    if OUTAGE[0] <= at < OUTAGE[1] and rng.random() < 0.4:
        trace.status, trace.error_type = "error", "503"


def outage_log() -> Log:
    events: list[Event] = []
    for trace in traffic(1, 0, STOP, 6, failing):
        events.append(trace)
        if trace.status == "ok":
            value = 0.7 + 0.1 * ((trace.ts // 7) % 100) / 100
            events.append(
                Score(
                    app="bot",
                    ts=trace.ts,
                    id=f"s{trace.trace_id}",
                    trace_id=trace.trace_id,
                    name="relevance",
                    value=value,
                    release="v1",
                    conversation_id=trace.conversation_id,
                )
            )
    log = Log()
    log.extend(events, START + STOP * MICROSECONDS)
    return log


@pytest.fixture(scope="module")
def log() -> Log:
    return outage_log()


@pytest.fixture(scope="module")
def results(log: Log) -> list[Result]:
    """Of the log in one piece."""
    return asyncio.run(run_log(new_fold(TOPICS), log.records, size=len(log.records)))


async def test_apps_whose_names_hold_what_stands_between_names_are_counted_apart() -> None:
    pairs = [("us\x1fx", "y"), ("us", "x\x1fy"), ("us", "y"), ("\x1eus", "y"), ("us/x", "y")]
    log = Log()
    log.append([Trace(app=app, ts=START + 1, trace_id=name, span_id="s") for app, name in pairs])
    log.append(
        [Trace(app="us", ts=START + 1, trace_id=f"x{a}y", span_id=b) for a, b in (("\x1f", "z"), ("", "y\x1fz"))]
    )
    log.append([Score(app=app, ts=START + 1, id=name, trace_id="t", name="n", value=1) for app, name in pairs])
    log.append([Tick(ts=START + 120 * MICROSECONDS)])
    results = await run_log(new_fold(TOPICS), log.records)
    windows = [result for result in results if isinstance(result, WindowStats)]
    assert sum(window.requests for window in windows) == len(pairs) + 2
    assert sum(stats.count for window in windows for stats in window.scores.values()) == len(pairs)


async def test_two_apps_may_name_a_deployment_alike() -> None:
    canaries = Canaries("", DetectorsConfig().canary)
    kinds: list[tuple[str, Literal["canary_start", "canary_stop"]]] = [
        ("one", "canary_start"),
        ("two", "canary_start"),
        ("two", "canary_stop"),
    ]
    for app, kind in kinds:
        canaries.release(
            Release(
                app=app, ts=START, id=f"{app}{kind}", kind=kind, release="v2", stable="v1", share=0.1, deployment_id="d"
            )
        )
    assert [(each["app"], each["deployment_id"]) for each in canaries.snapshot()["running"]] == [("one", "d")]


async def test_an_outage_is_found_explained_and_resolved(results: list[Result]) -> None:
    alerts = [r for r in results if isinstance(r, Alert)]
    firing = {a.rule: a for a in alerts if a.state == "firing"}
    resolved = {a.rule: a for a in alerts if a.state == "resolved"}
    assert firing.keys() == resolved.keys() == {"error_rate", "error_type"}
    assert "share of requests with “503”" in firing["error_type"].summary
    alert = firing["error_rate"]
    begin = START + OUTAGE[0] * MICROSECONDS
    assert begin < alert.fired_at < begin + 60 * MICROSECONDS
    assert begin - 30 * MICROSECONDS <= alert.since <= alert.fired_at
    assert alert.id == resolved["error_rate"].id == alert.dedup_key
    assert "bot v1: error rate" in alert.summary
    assert alert.contributors == ["openai gpt-4o-mini: 503 (100%)"]
    assert "1 false alarm in 30 days" in alert.false_alarms
    ended = resolved["error_rate"].resolved_at
    assert ended is not None
    assert ended > START + OUTAGE[1] * MICROSECONDS
    states = [r.state for r in results if isinstance(r, BreakerSignal)]
    assert states[0] == "open"
    assert states[-1] == "closed"


async def test_windows_and_evidence_come_every_minute(log: Log, results: list[Result]) -> None:
    final = {r.start: r for r in results if isinstance(r, WindowStats)}
    traces = {e.trace_id for e in _events(log) if isinstance(e, Trace) and e.ts < START + (STOP - 60) * MICROSECONDS}
    assert sum(w.requests for w in final.values()) == len(traces)
    assert all(w.cost_usd and w.unpriced == 0 for w in final.values())
    evidence = [r for r in results if isinstance(r, Evidence)]
    assert {e.detector for e in evidence} >= {"error_rate", "latency_p99", "cost_p99", "quality", "error_type"}
    assert {e.detector for e in evidence}.isdisjoint({"ttft_p99", "finish_reason"})
    assert len({e.id for e in evidence}) == len(evidence)
    waiting = [e for e in evidence if e.state == "insufficient_reference"]
    assert waiting
    assert all(e.note for e in waiting)


def _events(log: Log) -> list[Event]:
    from driftline.schemas.codec import decode_events

    return [event for record in log.records for event in decode_events(record.value).events]


async def _in_pieces(records: Sequence[FakeRecord], cuts: Sequence[int], topics: Topics) -> list[Result]:
    fold = new_fold(topics)
    results: list[Result] = []
    for start, stop in pairwise([0, *sorted(cuts), len(records)]):
        results += results_of(await fold.absorb(records[start:stop]))
        fold = new_fold(topics, fold.snapshot())
    return results


async def test_batches_and_restarts_change_nothing(log: Log, results: list[Result], topics: Topics) -> None:
    rng = random.Random(5)
    cuts = rng.sample(range(len(log.records)), 12)
    assert await _in_pieces(log.records, cuts, topics) == results


async def test_repeats_count_once(log: Log, topics: Topics) -> None:
    twice = Log()
    for record in log.records[:600]:
        twice.records.append(FakeRecord(record.offset, record.value))
        twice.records.append(FakeRecord(record.offset, record.value))
    once = await run_log(new_fold(topics), log.records[:600])
    assert await run_log(new_fold(topics), twice.records) == once


async def test_malformed_records_are_skipped_and_their_neighbours_kept(topics: Topics) -> None:
    good = Trace(app="bot", ts=START + 1, trace_id="good")
    values = [
        b"\xff garbage",
        b"[" + encode_events([good])[1:-1] + b', {"type": "trace"}, {"type": "score", "value": NaN}]',
        encode_events([Tick(ts=START + 70 * MICROSECONDS)]),
    ]
    results = await run_log(new_fold(topics), [FakeRecord(i, value) for i, value in enumerate(values)])
    [window] = [r for r in results if isinstance(r, WindowStats)]
    assert window.requests == 1


async def test_an_event_with_a_clock_far_ahead_is_left_out(topics: Topics) -> None:
    fold = new_fold(topics)
    records = [
        FakeRecord(0, encode_events([Tick(ts=START)])),
        FakeRecord(1, encode_events([Trace(app="bot", ts=START + 7_200 * MICROSECONDS, trace_id="ahead")])),
        FakeRecord(2, encode_events([Tick(ts=START + 8_000 * MICROSECONDS)])),
    ]
    assert [r for r in await run_log(fold, records) if isinstance(r, WindowStats)] == []


async def test_a_tick_that_goes_back_is_ignored(topics: Topics) -> None:
    fold = new_fold(topics)
    await run_log(fold, [FakeRecord(i, encode_events([Tick(ts=START + s)])) for i, s in enumerate([5, 3])])
    assert fold.watermark == START + 5


async def test_alerts_of_a_release_that_left_traffic_resolve(topics: Topics) -> None:
    log = Log()
    events: list[Event] = list(traffic(2, 0, 900, 3))
    start, stop = START + 600 * MICROSECONDS, START + 800 * MICROSECONDS
    for event in events:
        remainder = stop + 60 * MICROSECONDS
        if isinstance(event, Trace) and start <= event.ts < remainder and event.trace_id < "8":
            event.release, event.canary_share = "v2", 0.5
            event.status, event.error_type = "error", "Timeout"
    common = {"app": "bot", "release": "v2", "stable": "v1", "deployment_id": "d", "share": 0.5}
    events.append(Release(ts=start, id="1", kind="canary_start", **common))  # type: ignore[arg-type]
    events.append(Release(ts=stop, id="2", kind="canary_stop", outcome="rolled_back", **common))  # type: ignore[arg-type]
    log.extend(events, START + 900 * MICROSECONDS)
    results = await run_log(new_fold(topics), log.records)
    alerts = [r for r in results if isinstance(r, Alert)]
    assert {(a.rule, a.release, a.state) for a in alerts} == {
        (rule, "v2", state) for rule in ("error_rate", "error_type") for state in ("firing", "resolved")
    }
    assert len(alerts) == 4
    assert all("taken out of traffic" in a.description for a in alerts if a.state == "resolved")


def test_state_of_another_version_is_refused(topics: Topics) -> None:
    from driftline.detectors.state import pack, unpack

    state = unpack(new_fold(topics).snapshot())
    with pytest.raises(
        PermanentError, match=r"version 99, this Driftline reads \d+: install.*`driftline state reset --role monitor`"
    ):
        new_fold(topics, pack({**state, "version": 99}))


async def test_a_backlog_holds_up_no_other_partition(log: Log) -> None:
    """Of a process: while one absorbs, the others have their turns, between chunks and between ticks."""
    hot, other, turns = new_fold(TOPICS), new_fold(TOPICS), 0
    absorbing = asyncio.create_task(hot.absorb(log.records))
    while not absorbing.done():
        await other.absorb([FakeRecord(turns, encode_events([Tick(ts=START + turns)]))])
        turns += 1
    assert turns >= STOP
    assert await absorbing == await new_fold(TOPICS).absorb(log.records)
