"""Names of strangers: bounded, first come in the log, the rest counted under `(other)`."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from driftline.detectors.config import DetectorsConfig
from driftline.schemas.events import MICROSECONDS, Event, Score, Tick, Trace
from driftline.schemas.results import WindowStats
from driftline.streams.monitor import windows as windows_module
from driftline.streams.monitor.config import LimitsConfig, MonitorConfig, WindowConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.monitor.names import OTHER, ErrorTypes, Names, ScoreSeries, TraceSeries
from driftline.streams.pricing import Pricer
from tests.streams.monitor.log import START, TOPICS, Log, run_log

LIMITS = LimitsConfig(apps=3, releases=2, models=2, scores=2, error_types=2, series=8)
HOUR = 3600 * MICROSECONDS


def trace(i: int, **fields: object) -> Trace:
    known = {"app": "bot", "ts": START + i * 1000, "trace_id": f"t{i}", "request_model": "m"}
    return Trace(**{**known, **fields})  # type: ignore[arg-type]


def series(app: str = "bot", release: str = "v1", model: str = "m") -> tuple[str, ...]:
    return (app, release, "p", model, model)


def named(names: Names[TraceSeries], *keys: tuple[str, ...]) -> list[TraceSeries]:
    return [names.names[number] for number in names.numbers(keys)]


def test_the_first_names_are_known_apart_and_the_rest_together() -> None:
    names = Names(TraceSeries, LIMITS)
    told = named(names, *(series(release=f"v{i}") for i in range(4)), series(model="x"), series(model="y"))
    assert [s.release for s in told] == ["v0", "v1", OTHER, OTHER, "v1", "v1"]
    assert [s.model for s in told] == ["m", "m", "m", "m", "x", OTHER]
    assert names.overflow == 3


def test_apps_above_the_limit_are_one() -> None:
    names = Names(TraceSeries, LIMITS)
    told = named(names, *(series(app=f"a{i}") for i in range(5)))
    assert [s.app for s in told] == ["a0", "a1", "a2", OTHER, OTHER]
    assert told[3] == (OTHER,) * 5
    assert not told[3].watched


def test_a_place_is_free_again_after_a_day_without_events() -> None:
    names = Names(TraceSeries, LIMITS)
    names.tick(START, names.numbers([series(release="old"), series(release="used")]))
    assert named(names, series(release="new"))[0].release == OTHER
    later = START + 25 * HOUR
    names.tick(later, names.numbers([series(release="used")]))
    renumbered = names.sweep([])
    assert renumbered is not None
    assert named(names, series(release="new"), series(release="used"), series(release="old")) == [
        series(release="new"), series(release="used"), series(release=OTHER),
    ]  # fmt: skip


def test_series_of_waiting_events_are_not_idle() -> None:
    names = Names(ScoreSeries, LIMITS)
    waiting = names.numbers([("bot", "v1", "quality", "m")])
    names.tick(START + 48 * HOUR, np.empty(0, np.int64))
    assert names.sweep([waiting]) is None
    assert names.names == [("bot", "v1", "quality", "m")]


def test_a_restored_state_admits_what_the_first_would() -> None:
    names = Names(TraceSeries, LIMITS)
    names.numbers([series(release=f"v{i}") for i in range(3)])
    again = Names(TraceSeries, LIMITS, names.snapshot())
    keys = [series(release="v9"), series(app="b", release="v9"), series(model="z")]
    assert named(names, *keys) == named(again, *keys)
    assert names.overflow == again.overflow == 1 + 1


def test_what_has_no_place_takes_no_memory() -> None:
    names = Names(TraceSeries, LIMITS)
    for start in range(0, 30_000, 1000):
        names.numbers([series(release=f"v{i}") for i in range(start, start + 1000)])
    assert len(names) < 10_100
    assert len(names.names) == 3
    assert names.overflow == 29_998


def test_error_types_fall_free_too() -> None:
    types = ErrorTypes(LIMITS)
    types.tick(START)
    assert [types.known("bot", e) for e in ("a", "b", "c", "a", "")] == ["a", "b", OTHER, "a", ""]
    assert types.known("another", "c") == "c"
    types = ErrorTypes(LIMITS, types.snapshot())
    types.tick(START + 25 * HOUR)
    assert types.known("bot", "c") == "c"
    assert types.overflow == 1


def fold(limits: LimitsConfig = LIMITS, snapshot: bytes | None = None) -> MonitorFold:
    config = MonitorConfig(limits=limits, windows=WindowConfig(grace_s=0))
    return MonitorFold(config, DetectorsConfig(), TOPICS, Pricer(), snapshot)


def wild(n: int) -> list[Event]:
    """All names of their own, with a price, and every other one a failure."""
    events: list[Event] = []
    for i in range(n):
        failed = {"status": "error", "error_type": f"e{i}"} if i % 2 else {}
        names = {"app": f"app{i % 5}", "release": f"v{i}", "provider": f"p{i}", "request_model": f"m{i}"}
        events.append(trace(i, cost_usd=0.001, **names, **failed))
        score = Score(app=f"app{i % 5}", ts=START + i * 1000, id=f"s{i}", trace_id=f"t{i}", name=f"n{i}", value=0.5)
        events.append(score)
    return events


def log_of(events: Sequence[Event]) -> Log:
    log = Log()
    for start in range(0, len(events), 40):
        log.append(events[start : start + 40])
    log.append([Tick(ts=START + 61 * MICROSECONDS)])
    return log


async def test_sums_hold_whatever_the_names() -> None:
    results = await run_log(fold(), log_of(wild(300)).records)
    windows = [r for r in results if isinstance(r, WindowStats)]
    assert sum(w.requests for w in windows) == 300
    assert sum(w.errors for w in windows) == 150
    assert all(sum(w.errors_by_type.values()) == w.errors for w in windows)
    assert sum(s.count for w in windows for s in w.scores.values()) == 300
    assert sum(w.cost_usd or 0 for w in windows) == pytest.approx(0.3)
    requests: Counter[str] = Counter()
    for w in windows:
        requests[w.app] += w.requests
    assert requests == {"app0": 60, "app1": 60, "app2": 60, OTHER: 120}
    assert len(windows) < 30


async def test_prices_are_those_of_the_models_own_names() -> None:
    events = [trace(i, request_model=f"junk{i}") for i in range(2)]
    events.append(trace(2, provider="openai", request_model="gpt-4o-mini", input_tokens=1_000_000, output_tokens=0))
    windows = [w for w in await run_log(fold(), log_of(events).records) if isinstance(w, WindowStats)]
    assert {w.model: w.cost_usd for w in windows} == {"junk0": None, "junk1": None, OTHER: 0.15}


@pytest.mark.parametrize("size", [1, 3, 100])
async def test_results_do_not_depend_on_batches_or_restarts(size: int) -> None:
    records = log_of(wild(200)).records
    whole = fold()
    expected = await run_log(whole, records)
    half = fold()
    results = await run_log(half, records[:5], size)
    again = fold(snapshot=half.snapshot())
    assert results + await run_log(again, records[5:], size) == expected
    assert again.snapshot() == whole.snapshot()
    assert again.counters == whole.counters


async def test_too_many_windows_are_one_of_each_app_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows_module, "MAX_WINDOWS", 3)
    many = LimitsConfig()
    first = [trace(i, release=f"v{i}", latency_ms=100.0) for i in range(10)]
    monitor = fold(many)
    results = await run_log(monitor, log_of(first).records)
    windows = [w for w in results if isinstance(w, WindowStats)]
    assert {(w.release, w.model): w.requests for w in windows} == {
        ("v0", "m"): 1, ("v1", "m"): 1, ("v2", "m"): 1, (OTHER, OTHER): 7,
    }  # fmt: skip
    assert monitor.counters["windows_overflow"] == 7
    assert [w.latency_ms.count for w in windows if w.latency_ms] == [w.requests for w in windows]


def test_an_app_keeps_names_of_its_own_though_a_stranger_fills_what_all_share() -> None:
    limits = LimitsConfig(apps=3, releases=50, models=50, error_types=50, series=8)
    names, errors = Names(TraceSeries, limits), ErrorTypes(limits)
    named(names, *(series(app="stranger", release=f"v{i}") for i in range(40)))
    assert [s.release for s in named(names, *(series(release=f"v{i}") for i in range(4)))] == ["v0", "v1", OTHER, OTHER]
    assert named(names, series(app="stranger", release="w"))[0].release == OTHER
    told = [errors.known(app, f"{app} {i}") for app in ("stranger", "bot") for i in range(20)]
    assert [name for name in told if name.startswith("bot")] == ["bot 0", "bot 1"]
    assert len(names.names) <= 8 + 3 * 3
