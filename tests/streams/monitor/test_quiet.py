"""Time without events costs next to nothing, and changes nothing: jumping over it equals walking through it."""

import asyncio
import random
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.detectors.config import BudgetConfig, CanaryConfig, DetectorsConfig
from driftline.schemas.codec import encode_events
from driftline.schemas.events import EARLIEST_TS, MICROSECONDS, Event, Release, Score, Tick, Trace
from driftline.schemas.results import Alert, BreakerSignal, Result, WindowStats
from driftline.streams.monitor.analysis import Analysis
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.pricing import Pricer
from driftline.streams.settings import load_settings
from tests.streams.monitor.log import START, TOPICS, FakeRecord, results_of

HOUR, DAY = 3600, 86_400
TICK = 23.7  # seconds: no divisor of anything
RULES = load_settings(Path("infra/rules.example.toml")).monitor


Kind = Literal["promoted", "rolled_back", "canary_start"]


def fold(snapshot: bytes | None = None, tick_s: float = TICK, config: MonitorConfig = RULES) -> MonitorFold:
    detectors = DetectorsConfig(budget=BudgetConfig(tick_s=tick_s), canary=CanaryConfig(min_s=0))
    return MonitorFold(config, detectors, TOPICS, Pricer(), snapshot)


def absorb(into: MonitorFold, *records: Sequence[Event]) -> list[Result]:
    batch = [FakeRecord(i, encode_events(list(events))) for i, events in enumerate(records)]
    return results_of(asyncio.run(into.absorb(batch)))


def tick(at: float) -> list[Event]:
    return [Tick(ts=START + round(at * MICROSECONDS))]


def burst(at: float, n: int, seed: int = 0, app: str = "bot", failed: float = 0.0) -> list[Event]:
    """Requests of both arms of a canary with their scores, within a tick's length."""
    rng = random.Random(f"{at} {seed}")
    events: list[Event] = []
    for i in range(n):
        ts = START + round((at + TICK * i / n) * MICROSECONDS)
        release, id_, bad = rng.choice(["v1", "v2"]), f"{at}-{seed}-{i}", rng.random() < failed
        of: dict[str, Any] = {
            "app": app,
            "ts": ts,
            "release": release,
            "conversation_id": f"c{id_}",
            "canary_share": 0.5,
        }
        trace = Trace(
            **of, trace_id=id_, user_id=f"u{id_}", provider="openai", request_model="gpt-4o-mini", input_tokens=90,
            output_tokens=90, latency_ms=rng.lognormvariate(6, 0.3), status="error" if bad else "ok",
            error_type=rng.choice(["503", "timeout", "429", f"code {round(at)}"]) if bad else "",
            ttft_ms=rng.lognormvariate(4, 0.3), finish_reasons=[rng.choice(["stop", "stop", "length"])],
        )  # fmt: skip
        events += [trace, Score(**of, id=id_, trace_id=id_, name="relevance", value=rng.random())]
        if i % 20 == 0:  # of the golden set
            golden = {**of, "release": "golden", "conversation_id": f"answer {i % 60}"}
            events.append(Score(**golden, id=f"g{id_}", trace_id=id_, name="relevance", value=rng.random()))
    return events


def release(at: float, number: int, kind: Kind) -> list[Event]:
    """A promotion, after which baselines are learned anew in a day; a canary that begins; one that is taken back."""
    promoted, ts = kind == "promoted", START + round(at * MICROSECONDS)
    of: dict[str, Any] = {"app": "bot", "ts": ts, "id": f"r{number}", "release": "v2", "stable": "v1"}
    if kind == "canary_start":
        return [Release(**of, kind="canary_start", deployment_id=f"d{number}", share=0.5)]
    outcome: Any = "promoted" if promoted else "rolled_back"
    return [Release(**of, kind="canary_stop", deployment_id="d", outcome=outcome)]


@cache
def lived() -> bytes:
    """The state of an app that has never rested for a day, and is in the middle of everything."""
    monitor = fold()
    begin: list[Event] = [
        Release(app="bot", ts=START, id="r", kind="canary_start", release="v2", stable="v1", deployment_id="d")
    ]
    absorb(monitor, begin)
    for hour in range(26):
        absorb(monitor, burst(hour * HOUR, 60, app="bot"), burst(hour * HOUR, 3, app="cat"), tick((hour + 0.5) * HOUR))
    absorb(monitor, burst(26 * HOUR, 400, failed=0.6), burst(26 * HOUR, 1000, app="cat"), tick(26 * HOUR + 30))
    return monitor.snapshot()


def each_tick(analysis: Analysis, used: Collection[int], end: int) -> Iterator[int]:
    assert analysis._next_tick is not None
    return iter(range(analysis._next_tick, end))


@settings(max_examples=6)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.floats(1, 100), st.floats(60, 2 * HOUR), st.floats(HOUR, 5 * HOUR)),
            st.integers(0, 30),
            st.sampled_from([0.0, 0.5, 1.0]),
            st.sampled_from(["bot", "cat", "new"]),
            st.booleans(),
            st.none() | st.sampled_from(get_args(Kind)),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_jumping_equals_walking(script: list[tuple[float, int, float, str, bool, Kind | None]]) -> None:
    records, at = [], 26.0 * HOUR + 31
    for number, (gap, requests, failed, app, told, kind) in enumerate(script):
        at += gap
        records += [release(at, number, kind)] if kind else []
        records.append(burst(at, requests, number, app, failed))
        records += [tick(at + TICK)] * told
    records.append(tick(at + TICK + 30))
    jumped = fold(lived())
    results = absorb(jumped, *records)
    walked = fold(lived())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Analysis, "_ticks", each_tick)
        assert absorb(walked, *records) == results
    assert jumped.snapshot() == walked.snapshot()


@cache
def many_apps() -> bytes:
    """Of ten apps, in the state of the one above."""
    monitor = fold(tick_s=1)
    for hour in range(25):
        absorb(monitor, *(burst(hour * HOUR, 20, app=f"app{i}") for i in range(10)), tick(hour * HOUR + 100))
    return monitor.snapshot()


@pytest.mark.parametrize("days", [1, 30, 365])
def test_being_away_for_long_takes_few_steps_and_says_little(days: int, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot, steps = many_apps(), 0
    ticks = Analysis._ticks

    def counted(analysis: Analysis, used: Collection[int], end: int) -> Iterator[int]:
        nonlocal steps
        for number in ticks(analysis, used, end):
            steps += 1
            yield number

    monkeypatch.setattr(Analysis, "_ticks", counted)
    results = absorb(fold(snapshot, tick_s=1), tick(25 * HOUR + days * DAY))
    assert steps <= 24 * min(days, 8) + 2 * 10 + 10  # hours until apps are given up, and each app's silence
    assert len(results) < 1_000


def test_an_event_of_years_ago_takes_few_steps() -> None:
    """The first event of an app's life decides where time begins."""
    old = Trace(app="bot", ts=EARLIEST_TS, trace_id="t", latency_ms=1.0)
    results = absorb(fold(tick_s=1), [old], tick(0))
    assert [r.start for r in results if isinstance(r, WindowStats)] == [EARLIEST_TS - EARLIEST_TS % (60 * MICROSECONDS)]


@pytest.mark.parametrize("tick_s", [1.0, TICK])
def test_one_tick_for_all_says_what_ticks_one_by_one_say(tick_s: float) -> None:
    """But for the record that it says it at, and the regular report."""
    told = []
    for step in (37.0, 3 * HOUR):
        monitor = fold(lived())
        results = absorb(monitor, *(tick(26 * HOUR + 31 + n * step) for n in range(1, 1 + round(3 * HOUR / step))))
        results += absorb(monitor, tick(29 * HOUR + 60))
        told.append({r.id for r in results if isinstance(r, Alert | BreakerSignal)})
    assert told[0] == told[1]
    assert told[0]
