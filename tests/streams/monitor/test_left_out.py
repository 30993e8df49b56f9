"""Whatever happens, per app and window: distinct events = those counted in windows + those said to be left out."""

from collections import Counter
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from driftline.detectors.config import DetectorsConfig
from driftline.detectors.state import unpack
from driftline.schemas.codec import encode_events
from driftline.schemas.events import CLOCK, EARLIEST_TS, LATEST_TS, MICROSECONDS, Event, Release, Score, Tick, Trace
from driftline.schemas.results import LeftOut, WindowStats
from driftline.streams.monitor.config import DedupConfig, MonitorConfig, WindowConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.pricing import Pricer
from tests.streams.monitor.log import START, TOPICS, FakeRecord, results_of, run_log

CONFIG = MonitorConfig(
    windows=WindowConfig(size_s=10, grace_s=2, lateness_s=20, ahead_s=30), dedup=DedupConfig(horizon_s=3600)
)
SIZE = 10 * MICROSECONDS
PRICER = Pricer()


def new_fold(snapshot: bytes | None = None) -> MonitorFold:
    return MonitorFold(CONFIG, DetectorsConfig(), TOPICS, PRICER, snapshot)


class Step(NamedTuple):
    """What happens in one second: events by (app, id, offset in time), then perhaps a tick, perhaps a new fold."""

    traces: list[tuple[str, int, int]]
    scores: list[tuple[str, int, int]]
    ticks: bool
    restarts: bool


NAMED = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30), st.integers(-60, 60)), max_size=8)
STEPS = st.lists(st.builds(Step, NAMED, NAMED, st.booleans(), st.booleans()), min_size=1, max_size=40)


def events_of(step: Step, now: int) -> list[Event]:
    traces = [
        Trace(app=app, ts=now + at * MICROSECONDS, trace_id=f"t{number}", release=f"v{number % 2}")
        for app, number, at in step.traces
    ]
    scores = [
        Score(app=app, ts=now + at * MICROSECONDS, id=f"s{number}", trace_id="t", name=f"n{number % 2}", value=0.5)
        for app, number, at in step.scores
    ]
    return [*traces, *scores]


Distinct = set[tuple[str, str, tuple[str, ...], int]]


def distinct(events: list[Event]) -> Distinct:
    return {
        ("trace" if isinstance(event, Trace) else "score", event.app, event.key, event.ts - event.ts % SIZE)
        for event in events
        if isinstance(event, Trace | Score)
    }


@given(STEPS, st.integers(1, 5))
async def test_distinct_events_are_counted_or_said_to_be_left_out(steps: list[Step], array: int) -> None:
    fold, now, sent, outputs = new_fold(), START, [], []
    for i, step in enumerate(steps):
        now += 7 * MICROSECONDS
        events = events_of(step, now)
        sent += events
        parts = [events[first : first + array] for first in range(0, len(events), array)]
        if step.ticks:
            parts.append([Tick(ts=now)])
        outputs += await fold.absorb([FakeRecord(i, encode_events(part)) for part in parts])
        if step.restarts:
            fold = new_fold(fold.snapshot())
    for last in (now + 1, now + 300 * MICROSECONDS):
        outputs += await fold.absorb([FakeRecord(len(steps), encode_events([Tick(ts=last)]))])

    found: Counter[tuple[str, str, int]] = Counter()
    windows: dict[str, WindowStats] = {}
    left_out: dict[str, LeftOut] = {}
    for result in results_of(outputs):
        if isinstance(result, WindowStats):
            windows[result.id] = result  # the last copy is the one that counts
        if isinstance(result, LeftOut):
            assert result.id not in left_out
            left_out[result.id] = result
    for window in windows.values():
        found["trace", window.app, window.start] += window.requests
        found["score", window.app, window.start] += sum(score.count for score in window.scores.values())
    for said in left_out.values():
        found[said.kind, said.app, said.start] += said.events
    expected = Counter((kind, app, start) for kind, app, _, start in distinct(sent))
    assert +found == expected

    counters = fold.counters
    assert counters["too_late"] == sum(said.events for said in left_out.values() if said.reason == "too_late")
    assert counters["ahead_of_time"] == sum(said.events for said in left_out.values() if said.reason == "ahead_of_time")
    assert counters["repeated"] == len(sent) - expected.total()


async def say(fold: MonitorFold, *batches: list[Event]) -> list[LeftOut]:
    outputs = await fold.absorb([FakeRecord(i, encode_events(batch)) for i, batch in enumerate(batches)])
    return [result for result in results_of(outputs) if isinstance(result, LeftOut)]


def trace(number: int, at: float) -> Trace:
    return Trace(app="a", ts=START + round(at * MICROSECONDS), trace_id=str(number))


def tick(at: float) -> list[Event]:
    return [Tick(ts=START + round(at * MICROSECONDS))]


async def test_each_tick_says_what_was_left_out_since_the_last() -> None:
    fold = new_fold()
    assert await say(fold, tick(100), [trace(1, 60), trace(2, 65), trace(3, 200), trace(2, 65)]) == []
    fold = new_fold(fold.snapshot())
    ahead, late = await say(fold, tick(101))
    assert (late.reason, late.events, late.start, late.size_s) == ("too_late", 2, START + 60 * MICROSECONDS, 10)
    assert (ahead.reason, ahead.events, ahead.start) == ("ahead_of_time", 1, START + 200 * MICROSECONDS)
    assert late.kind == ahead.kind == "trace"
    assert late.tick == ahead.tick == START + 101 * MICROSECONDS
    assert await say(fold, [trace(1, 60), trace(3, 200)], tick(102)) == []
    assert fold.counters["repeated"] == 3


async def test_an_event_ahead_of_time_stays_left_out_when_its_time_has_come() -> None:
    fold = new_fold()
    assert len(await say(fold, tick(0), [trace(1, 50)], tick(1))) == 1
    assert await say(fold, tick(49), [trace(1, 50)], tick(100)) == []
    assert fold.counters["repeated"] == 1


async def test_the_last_moment_of_a_window() -> None:
    """[60, 70) takes events until the tick at 70 + 2 + 20."""
    fold = new_fold()
    assert await say(fold, tick(91.999), [trace(1, 60)], tick(92), [trace(2, 69.9)]) == []
    [late] = await say(fold, tick(93))
    assert late.events == 1


async def test_a_release_is_taken_however_late_but_not_ahead_of_time() -> None:
    fold = new_fold()
    releases: list[Event] = [
        Release(app="a", ts=START + at * MICROSECONDS, id=str(at), kind="deploy", release="v1") for at in (1, 500)
    ]
    assert await say(fold, tick(100), releases, releases, tick(101)) == []
    assert fold.counters["ahead_of_time"] == 1
    assert fold.counters["too_late"] == 0
    assert fold.counters["repeated"] == 2


async def test_what_cannot_be_decoded_is_counted() -> None:
    fold = new_fold()
    await fold.absorb([FakeRecord(0, b"nonsense"), FakeRecord(1, b'[{"type": "trace"}, 7]')])
    assert fold.counters["undecodable"] == 3
    assert new_fold(fold.snapshot()).counters == fold.counters


async def test_what_came_while_the_monitor_was_away_is_not_ahead_of_its_time() -> None:
    """Ticks stand still meanwhile; the broker's time of each record goes on, however records are batched."""
    begin, week = START + 100 * MICROSECONDS, 7 * 24 * 3600
    sent = [0, 1, 30, 4000, 4001, 90_000, week]
    events: list[Trace] = [Trace(app="bot", ts=begin + at * MICROSECONDS, trace_id=f"t{at}") for at in sent]
    wrong = Trace(app="bot", ts=begin + (week + 7200) * MICROSECONDS, trace_id="wrong")
    log = [FakeRecord(0, encode_events([Tick(ts=begin)]))]
    for at, event in zip([*sent, week + 1], [*events, wrong], strict=True):
        log.append(FakeRecord(len(log), encode_events([event]), None, begin // 1_000 + at * 1_000, 1))
    end = Tick(ts=EARLIEST_TS, source=CLOCK)  # a wrong clock: the broker's counts
    log.append(FakeRecord(len(log), encode_events([end]), None, begin // 1_000 + (week + 70) * 1_000, 1))
    told = []
    for size in (1, 3, 99):
        fold = MonitorFold(MonitorConfig(), DetectorsConfig(), TOPICS, Pricer(), None)
        results = await run_log(fold, log, size)
        assert sum(r.requests for r in results if isinstance(r, WindowStats)) == len(sent)
        assert [(r.reason, r.events) for r in results if isinstance(r, LeftOut)] == [("ahead_of_time", 1)]
        assert fold.watermark == begin + (week + 70) * MICROSECONDS
        told.append(fold.snapshot())
    assert len(set(told)) == 1


async def test_an_event_ahead_of_the_broker_is_left_out_before_the_first_tick() -> None:
    """A first event of 2100 would wait for its tick, and be remembered, for a lifetime."""
    sent, ahead = [START, LATEST_TS], START + 7200 * MICROSECONDS
    events: list[Event] = [Trace(app="a", ts=ts, trace_id=str(ts)) for ts in (*sent, ahead)]
    release = Release(app="a", ts=ahead, id="r", kind="deploy", release="v1")
    fold = new_fold()
    log = [FakeRecord(i, encode_events([event]), None, START // 1_000, 1) for i, event in enumerate([*events, release])]
    log.append(FakeRecord(len(log), encode_events([Tick(ts=START + 100 * MICROSECONDS)]), None, START // 1_000, 1))
    results = await run_log(fold, log)
    assert [(r.start, r.reason) for r in results if isinstance(r, LeftOut)] == [
        (ahead, "ahead_of_time"),
        (LATEST_TS, "ahead_of_time"),
    ]
    assert sum(r.requests for r in results if isinstance(r, WindowStats)) == 1
    assert fold.counters["ahead_of_time"] == 3


async def test_what_the_first_tick_finds_ahead_of_it_is_taken_out() -> None:
    """Before it nothing says what time it is, where the topic keeps its producers' times. A window is left out as a
    whole: the one in which the latest time lies counts."""
    ahead = START + 30 * MICROSECONDS  # as far as events may be
    late = LATEST_TS - 2
    times = [START, ahead - 1, ahead + 9 * MICROSECONDS, ahead + 10 * MICROSECONDS, late, late + 1]
    events: list[Event] = [Trace(app="a", ts=ts, trace_id=str(ts)) for ts in times]
    events += [Score(app="a", ts=late, id=str(n), trace_id="t", name="n", value=0.5) for n in range(3)]
    for ts in (START, ahead + 1):
        events.append(Release(app="a", ts=ts, id=str(ts), kind="deploy", release="v1"))
    log = [FakeRecord(i, encode_events([event])) for i, event in enumerate(events)]
    log += [FakeRecord(len(log) + n, encode_events([Tick(ts=START + n * MICROSECONDS)])) for n in range(100)]
    told = []
    for size in (1, 7, 999):
        fold, results = new_fold(), []
        for first in range(0, len(log), size):
            results += results_of(await fold.absorb(log[first : first + size]))
            fold = new_fold(fold.snapshot())
        last = late - late % SIZE
        said = [(r.kind, r.start, r.reason, r.events, r.revision) for r in results if isinstance(r, LeftOut)]
        assert said == [
            ("score", last, "ahead_of_time", 3, len(events)),
            ("trace", ahead + SIZE, "ahead_of_time", 1, len(events)),
            ("trace", last, "ahead_of_time", 2, len(events)),
        ]
        assert sum(r.requests for r in results if isinstance(r, WindowStats)) == 3
        assert fold.counters["ahead_of_time"] == 7
        state = unpack(fold.snapshot())
        assert not len(state["traces"]["columns"]["ts"])
        assert not len(state["scores"]["columns"]["ts"])
        assert state["windows"]["windows"] == state["releases"] == []
        told.append(fold.snapshot())
    assert len(set(told)) == 1
