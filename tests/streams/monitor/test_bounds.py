"""What strangers start is bounded: canaries, references, baselines. A good app's results stay what they are."""

from itertools import islice
from typing import Any

import msgspec
import numpy as np
import pytest

from benchmarks.harness.hostile import Hostile
from driftline.detectors.base import Measurement
from driftline.detectors.config import BudgetConfig, CanaryConfig, DetectorsConfig
from driftline.detectors.registry import make
from driftline.detectors.state import pack, unpack
from driftline.schemas.codec import encode_event
from driftline.schemas.events import MICROSECONDS, Release, Tick
from driftline.schemas.results import Alert, Result
from driftline.streams.monitor import incidents as incidents_module
from driftline.streams.monitor import watch as watch_module
from driftline.streams.monitor.alerts import Wording
from driftline.streams.monitor.canaries import Canaries
from driftline.streams.monitor.columns import NO_SCORES, NO_TRACES
from driftline.streams.monitor.config import LimitsConfig, MonitorConfig, WindowConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.monitor.incidents import Incidents
from driftline.streams.monitor.places import Places
from driftline.streams.monitor.rollouts import Unproven
from driftline.streams.monitor.watch import Stream, Streams, Units, Watch
from driftline.streams.pricing import Pricer
from tests.streams.monitor.log import START, TOPICS, FakeRecord, results_of, traffic

LIMITS = LimitsConfig(
    apps=20, releases=3, models=3, scores=3, error_types=3, series=200, canaries=4, canaries_of_app=2, idle_s=86_400
)
BUDGET = DetectorsConfig(budget=BudgetConfig(streams=2, idle_s=100))


def start(app: str, release: str, at_s: int = 0) -> Release:
    fields = {"app": app, "ts": START + at_s * MICROSECONDS, "id": f"{app}{release}", "kind": "canary_start"}
    return msgspec.convert({"type": "release", "release": release, "stable": "v1", "share": 0.1, **fields}, Release)


def running(canaries: Canaries) -> list[str]:
    return [r["deployment_id"] for r in canaries.snapshot()["running"]]


def test_canaries_judged_at_once_are_limited_and_the_first_stay() -> None:
    canaries = Canaries("", CanaryConfig(), limits=LIMITS)
    for app, release in [("a", "v2"), ("a", "v3"), ("a", "v4"), ("b", "v2"), ("c", "v2"), ("d", "v2")]:
        canaries.release(start(app, release))
    assert running(canaries) == ["a/v2", "a/v3", "b/v2", "c/v2"]
    assert canaries.over_limit == 2
    assert not canaries.is_stable("d", "v2")  # its traffic is no reference all the same


def test_a_canary_that_serves_nobody_gives_way_after_an_hour() -> None:
    canaries = Canaries("", CanaryConfig(), limits=LIMITS)
    for i, app in enumerate("abcd"):
        canaries.release(start(app, "v2", at_s=i))
    canaries = Canaries("", CanaryConfig(), unpack(pack(canaries.snapshot())), LIMITS)
    canaries.release(start("e", "v2", at_s=3599))
    assert running(canaries) == ["a/v2", "b/v2", "c/v2", "d/v2"]
    canaries.release(start("e", "v2", at_s=3600))
    assert running(canaries) == ["b/v2", "c/v2", "d/v2", "e/v2"]


def test_a_tick_without_a_canarys_events_costs_it_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    canaries = Canaries("", CanaryConfig(), limits=LIMITS)
    canaries.release(start("a", "v2"))
    monkeypatch.setattr("driftline.detectors.canary.Canary.update", None)
    assert canaries.step(NO_TRACES, [], NO_SCORES, [], START + MICROSECONDS, 0) == []


def test_the_latest_unproven_releases_are_known() -> None:
    limits = LimitsConfig(releases=2, series=3)
    unproven = Unproven(limits=limits)
    for release in ("v1", "v2", "v1", "v3"):
        unproven.take(start("a", release))
    assert unproven.snapshot() == [["a", "v1"], ["a", "v3"]]
    unproven = Unproven([(app, release) for app, release in unproven.snapshot()], limits)
    for app in "bcd":
        unproven.take(start(app, "v1"))
    assert unproven.snapshot() == [["b", "v1"], ["c", "v1"], ["d", "v1"]]


def units(streams: Streams, app: str, n: int, release: str = "v1") -> Units:
    number = streams.number(app, release)
    return Units(np.full(n, number), np.zeros(n), np.arange(n), np.ones(n, np.bool_))


def learning(watch: Watch) -> list[str]:
    return [group[0] for group, _ in watch.snapshot()["references"]]


def test_what_learns_is_limited_and_the_idle_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "_MOST_REFERENCES", 2)
    streams = Streams()
    watch = Watch(make("error_rate", BUDGET), streams, Places(BUDGET.budget))
    for tick, app in enumerate("abc"):
        watch.step(units(streams, app, 5), tick)
    assert learning(watch) == ["a", "b"]
    watch.step(units(streams, "a", 5), 50)
    watch.step(units(streams, "c", 5), 100)
    assert learning(watch) == ["a", "b"]
    watch.step(units(streams, "c", 5), 101)
    assert learning(watch) == ["a", "c"]
    assert watch.over_limit == 2


def test_a_baseline_nobody_has_used_for_a_week_gives_its_place_away() -> None:
    streams = Streams()
    watch = Watch(make("error_rate", BUDGET), streams, Places(BUDGET.budget))
    for tick, app in enumerate("ab"):
        watch.step(units(streams, app, 3000), tick)
    watch.step(units(streams, "c", 3000), 600)
    assert watch.baseline("a") is not None
    assert watch.baseline("c") is None
    watch.step(units(streams, "b", 5), 650)
    watch.step(units(streams, "c", 3000), 700)
    assert watch.baseline("a") is None
    assert watch.baseline("b") is not None
    assert watch.baseline("c") is not None
    restored = Watch(make("error_rate", BUDGET), streams, Places(BUDGET.budget), unpack(pack(watch.snapshot())))
    assert pack(restored.snapshot()) == pack(watch.snapshot())


def test_releases_that_left_long_ago_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "_MOST_LEFT", 3)
    watch = Watch(make("error_rate", BUDGET), Streams(), Places(BUDGET.budget))
    for i in range(5):
        watch.forget("a", f"v{i}", until=10)
    assert [left for left, _ in watch.snapshot()["left"]] == [["a", "v2"], ["a", "v3"], ["a", "v4"]]
    watch.advance(10)
    watch.forget("a", "v9", until=20)
    assert [left for left, _ in watch.snapshot()["left"]] == [["a", "v9"]]


def test_a_release_that_comes_back_after_weeks_finds_its_apps_baseline() -> None:
    streams = Streams()
    watch = Watch(make("error_rate", BUDGET), streams, Places(BUDGET.budget))
    for tick, app in enumerate("ab"):
        watch.step(units(streams, app, 3000), tick)
    watch.step(units(streams, "b", 5), 5_000)
    watch.step(units(streams, "a", 5, "v2"), 5_001)
    assert watch.baseline("a") is not None


class Log:
    """A good app's second by second, and beside it what a stranger writes."""

    def __init__(self, strangers: int) -> None:
        self._strangers = strangers
        self._now = START
        self._hostile = Hostile(7, lambda: self._now).records()
        self._good = list(traffic(1, 0, 120, 8))
        self._offset = 0
        config = MonitorConfig(limits=LIMITS, windows=WindowConfig(grace_s=0))
        self.fold = MonitorFold(config, DetectorsConfig(), TOPICS, Pricer(), None, partition=0)
        self.results: list[Result] = []

    async def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self._now += MICROSECONDS
            mine = [encode_event(t) for t in self._good if self._now - MICROSECONDS <= t.ts < self._now]
            strange = [value for _, value in islice(self._hostile, self._strangers)]
            tick = encode_event(TOPICS.controls.signed(Tick(ts=self._now), 0))
            values = [*mine, *strange, tick]
            records = [FakeRecord(self._offset + i, value) for i, value in enumerate(values)]
            self._offset += len(records)
            self.results += results_of(await self.fold.absorb(records))

    def told(self) -> list[Any]:
        """Of the good app, whatever the offsets."""
        return [msgspec.structs.replace(r, revision=0) for r in self.results if r.app == "bot"]

    def sizes(self) -> dict[str, int]:
        state = unpack(self.fold.snapshot())["analysis"]
        sizes = {name: len(watch["references"]) for name, watch in state["watches"].items()}
        canaries = state["canaries"]
        return sizes | {
            "running": len(canaries["running"]),
            "unproven": len(canaries["unproven"]),
            "streams": len(state["streams"]["streams"]),
        }


async def test_strangers_cost_a_constant_and_change_no_good_apps_results() -> None:
    alone, among = Log(strangers=0), Log(strangers=40)
    await alone.run(70)
    await among.run(70)
    assert among.told() == alone.told() != []
    assert among.fold.counters["canaries_over_limit"] > 0
    sizes = among.sizes()
    assert sizes["running"] == LIMITS.canaries
    assert sizes["unproven"] <= LIMITS.series
    assert sizes["streams"] <= 8 * LIMITS.series
    assert max(sizes[name] for name in among.fold.watches) <= 3 * LIMITS.series


DAY = 86_400 * MICROSECONDS


def test_numbers_of_streams_that_are_silent_for_a_day_are_given_to_others() -> None:
    streams = Streams()
    held: set[int] = set()
    for day in range(50):
        streams.tick(START + day * DAY, held.copy)
        for app in ("good", *(f"{day} {i}" for i in range(20))):
            streams.number(app, "v1")
        if day == 3:
            held |= {streams.number("3 7", "v1")}
        if day % 7 == 0:
            streams = Streams(unpack(pack(streams.snapshot())))
    assert len(streams.names) <= 3 * 21 + 1
    assert streams.number("good", "v1") == 0
    assert {streams.number("3 7", "v1")} == held
    assert len({streams.number(f"49 {i}", "v1") for i in range(20)}) == 20


def test_episodes_of_streams_above_what_is_counted_have_numbers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incidents_module, "_MOST_COUNTED", 2)
    incidents = Incidents(BUDGET.budget)

    def fire(app: str, at: int) -> int:
        measurement, wording = Measurement(threshold=0, guarantee="none"), Wording("info", "s", "d", "a", "f")
        stream = Stream(app, "v1", "")
        *_, alert = incidents.fire("error_rate", stream, at, at, 0, measurement, "", wording, [])
        incidents.resolve("error_rate", stream, at + MICROSECONDS, 0, measurement, "", "over")
        assert isinstance(alert, Alert)
        return alert.episode

    assert [fire(app, START) for app in "abcd"] == [1, 1, START // MICROSECONDS, START // MICROSECONDS]
    assert [fire(app, START + MICROSECONDS) for app in "ac"] == [2, START // MICROSECONDS + 1]
    assert len(incidents.snapshot()["episodes"]) == 2
