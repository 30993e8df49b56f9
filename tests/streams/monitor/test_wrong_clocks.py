"""What wrong clocks send is said to be left out, and changes nothing else."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.detectors.config import CanaryConfig, DetectorsConfig, QualityConfig
from driftline.schemas.codec import encode_events
from driftline.schemas.events import CLOCK, EARLIEST_TS, MICROSECONDS, Event, Release, Score, Tick, Trace
from driftline.schemas.results import Alert, LeftOut, Result, RollbackSignal, WindowStats
from driftline.schemas.topics import Topics
from driftline.streams.fold import Output
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.pricing import Pricer
from tests.streams.monitor.log import START, TOPICS, FakeRecord, Log, run_log, traffic
from tests.streams.monitor.log import results_of as results_in

HOUR, YEAR = 3_600, 365 * 24 * 3_600
CONFIG = DetectorsConfig(quality=QualityConfig(min_units=500), canary=CanaryConfig(min_s=0))


def worse(trace: Trace, rng: random.Random) -> None:
    if (trace.ts - START) / MICROSECONDS >= 400 and rng.random() < 0.3:
        trace.status, trace.error_type = "error", "503"


def right() -> list[Event]:
    events: list[Event] = []
    for trace in traffic(3, 0, 600, 6, worse):
        key = trace.trace_id
        score = Score(app="bot", ts=trace.ts, id=key, trace_id=key, name="relevance", value=0.8, release="v1")
        events += [trace, msgspec.structs.replace(score, conversation_id=trace.conversation_id)]
    return events


def wrong(events: Sequence[Event], ahead_s: int) -> list[Event]:
    """Of the same app: what a second server of it sends between 100 s and 200 s, much worse."""
    found: list[Event] = []
    for event in events:
        if isinstance(event, Trace) and 100 <= (event.ts - START) / MICROSECONDS < 200:
            ts, id_ = event.ts + ahead_s * MICROSECONDS, f"wrong {event.trace_id}"
            bad = msgspec.structs.replace(event, ts=ts, trace_id=id_, status="error", error_type="nonsense")
            found += [bad, Score(app="bot", ts=ts, id=id_, trace_id=id_, name="relevance", value=0.0, release="v1")]
    return found


def log_of(events: Sequence[Event], among: Sequence[Event]) -> list[FakeRecord]:
    """The others come after 100 s, in as many records as would otherwise hold nothing."""
    log, rest = Log(), Log()
    log.extend([event for event in events if event.ts < START + 100 * MICROSECONDS], START + 100 * MICROSECONDS)
    rest.extend([event for event in events if event.ts >= START + 100 * MICROSECONDS], START + 700 * MICROSECONDS)
    for i in range(2_000):
        log.append(among[i : i + 1])
    return [FakeRecord(offset, record.value) for offset, record in enumerate([*log.records, *rest.records])]


async def results_of(topics: Topics, records: Sequence[FakeRecord]) -> list[Result]:
    return await run_log(MonitorFold(MonitorConfig(), CONFIG, topics, Pricer(), None), records)


@pytest.mark.parametrize("ahead_s", [YEAR, -YEAR, 2 * HOUR, -2 * HOUR])
async def test_they_change_nothing_but_what_is_said_to_be_left_out(topics: Topics, ahead_s: int) -> None:
    events = right()
    expected = await results_of(topics, log_of(events, []))
    others = wrong(events, ahead_s)
    found = await results_of(topics, log_of(events, others))
    assert any(isinstance(result, Alert) for result in expected)
    assert any(isinstance(result, WindowStats) for result in expected)
    assert [result for result in found if not isinstance(result, LeftOut)] == expected
    assert sum(result.events for result in found if isinstance(result, LeftOut)) == len(others)


async def test_releases_of_a_clock_a_year_behind_count_from_when_they_came(topics: Topics) -> None:
    def of_canary(trace: Trace, rng: random.Random) -> None:
        canary = rng.random() < 0.5
        trace.release, trace.canary_share = "v2" if canary else "v1", 0.5
        if canary and rng.random() < 0.5:
            trace.status, trace.error_type = "error", "503"

    def release(kind: Literal["canary_start", "canary_stop"]) -> Release:
        return Release(
            app="bot", ts=START - YEAR * MICROSECONDS, id=kind, kind=kind, release="v2", stable="v1",
            deployment_id="d", share=0.5, outcome="rolled_back" if kind == "canary_stop" else "",
        )  # fmt: skip

    log = Log()
    log.extend(list(traffic(4, 0, 200, 6)), START + 200 * MICROSECONDS)
    log.append([release("canary_start")])
    log.extend(list(traffic(5, 201, 400, 6, of_canary)), START + 400 * MICROSECONDS)
    log.append([release("canary_stop")])
    log.append([Tick(ts=START + 500 * MICROSECONDS)])
    results = await results_of(topics, log.records)
    [signal] = [result for result in results if isinstance(result, RollbackSignal)]
    assert signal.release == "v2"
    ended = [r for r in results if isinstance(r, Alert) and r.state == "resolved" and "out of traffic" in r.description]
    assert ended
    for alert in ended:
        assert alert.resolved_at is not None
        assert alert.fired_at < alert.resolved_at == alert.ts
        assert alert.resolved_at >= START + 390 * MICROSECONDS


class Sent(NamedTuple):
    """A record: how far the broker's clock moved since the last one, and what it holds; times in seconds beside it."""

    moves: int
    tick: bool
    events: list[tuple[str, int, int]]  # app, number, how far its clock is ahead
    release: int | None


CLOCKS = st.sampled_from([0, 0, 0, -1, 1, -20, 20, -700, 700, HOUR - 1, HOUR + 1, -HOUR, 30 * 24 * HOUR, YEAR, -YEAR])
SENT = st.builds(
    Sent,
    st.sampled_from([0, 1, 1, 5, 61, HOUR, 3 * 24 * HOUR, 30 * 24 * HOUR, -5, -2 * HOUR]),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 40), CLOCKS), max_size=12),
    st.none() | CLOCKS,
)


@settings(max_examples=40)
@given(st.lists(SENT, min_size=3, max_size=40), st.integers(1, 7), st.booleans())
async def test_whatever_clocks_do_a_replay_is_equal_to_the_bit(script: list[Sent], size: int, by_broker: bool) -> None:
    """However the log is cut into batches, and wherever it goes on from a state; and every event is counted once, or
    said to be left out."""
    now, records, sent = START, list[FakeRecord](), set[tuple[str, str, int]]()
    for number, step in enumerate(script):
        now = max(now + step.moves * MICROSECONDS, START - HOUR * MICROSECONDS)
        events: list[Event] = []
        for app, id_, ahead_s in step.events:
            trace = Trace(app=app, ts=now + ahead_s * MICROSECONDS, trace_id=str(id_), latency_ms=1.0)
            events += [trace, Score(app=app, ts=trace.ts, id=str(id_), trace_id=str(id_), name="n", value=0.5)]
            sent.add((app, str(id_), trace.ts // (60 * MICROSECONDS)))
        if step.release is not None:
            ts = now + step.release * MICROSECONDS
            events.append(Release(app="a", ts=ts, id=str(number), kind="deploy", release="v1"))
        if step.tick:
            events.append(Tick(ts=now if not by_broker else EARLIEST_TS, source=CLOCK if by_broker else ""))
        for event in events:
            records.append(FakeRecord(len(records), encode_events([event]), None, now // 1_000, int(by_broker)))
    end = max(now, START) + 2 * YEAR * MICROSECONDS
    records.append(FakeRecord(len(records), encode_events([Tick(ts=end)]), None, now // 1_000, int(by_broker)))

    whole, pieces = new_fold(), new_fold()
    expected = await whole.absorb(records)
    found = list[Output]()
    for first in range(0, len(records), size):
        found += await pieces.absorb(records[first : first + size])
        pieces = new_fold(pieces.snapshot())
    assert found == expected
    assert pieces.snapshot() == whole.snapshot()
    counted = {r.id: r for r in results_in(expected) if isinstance(r, WindowStats)}
    distinct = Counter((app, minute) for app, _, minute in sent)
    for window in counted.values():
        assert window.requests <= distinct[window.app, window.start // (60 * MICROSECONDS)], "counted twice"
    said = sum(r.events for r in results_in(expected) if isinstance(r, LeftOut) and r.kind == "trace")
    assert sum(window.requests for window in counted.values()) + said >= len(sent)


def new_fold(snapshot: bytes | None = None) -> MonitorFold:
    return MonitorFold(MonitorConfig(), CONFIG, TOPICS, Pricer(), snapshot)
