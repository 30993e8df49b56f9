import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.detectors.base import Floats, Insufficient, TickBatch
from driftline.detectors.baselines import dump, load
from driftline.detectors.config import BudgetConfig
from driftline.detectors.registry import AnyDetector
from driftline.detectors.seasons import DAY, NO_HOURS, WEEK, Season, confidence
from driftline.detectors.state import pack, unpack
from tests.detectors.test_conformance import KINDS, SAME, batch, config, make

BUDGET = BudgetConfig(tick_s=600)  # six ticks an hour
HOUR = 6
WITH_HOURS = ("finish_reason", "scalar_drift", "quality_pit", "judge_drift", "embedding_drift", "embedding_witness")
WITHOUT = ("error_rate", "latency_p99", "quality", "invalid_rate")


def season(hours: int = WEEK, state: object = None) -> Season:
    return Season(lambda value, _: value[:, None], 1, BUDGET, hours=hours, state=state)  # type: ignore[arg-type]


def lived(days: int, mean: Floats, noise: float, per_tick: int = 4, hours: int = WEEK) -> Season:
    """mean: [hours lived]."""
    rng, learned = np.random.default_rng(1), season(hours)
    for tick in range(days * DAY * HOUR + 1):  # the last one ends the last hour
        value = mean[tick // HOUR % len(mean)] + noise * rng.normal(size=per_tick)
        learned.add(value, np.arange(per_tick), tick)
    return learned


CYCLE = np.sin(2 * np.pi * np.arange(DAY) / DAY)


def test_hours_that_differ_are_known_apart_and_equal_ones_together() -> None:
    equal = lived(14, np.zeros(DAY), 1.0).fit(np.ones(1))
    assert equal.mean.shape == (WEEK, 1)
    assert np.ptp(equal.mean) < 0.1
    assert equal.units.min() > 500  # where an hour of the week has 48 of its own
    differ = lived(14, CYCLE, 1.0).fit(np.ones(1))
    assert np.abs(differ.mean[:, 0] - np.tile(CYCLE, 7)).max() < 0.25
    assert 200 < differ.units.min() <= differ.units.max() < 600  # an hour of the day has 336: the week adds nothing


def test_weeks_are_known_after_two_of_them() -> None:
    week = np.repeat([0.0, 0, 0, 0, 0, 1, 1], DAY)
    assert lived(13, week, 0.1).fit(np.full(1, 0.01)).mean.shape == (DAY, 1)
    known = lived(14, week, 0.1).fit(np.full(1, 0.01))
    assert np.abs(known.mean[:, 0] - week).max() < 0.1
    assert lived(14, week, 0.1, hours=DAY).fit(np.full(1, 0.01)).mean.shape == (DAY, 1)


def test_what_days_do_of_their_own_accord_is_uncertain() -> None:
    days = np.random.default_rng(2).normal(0, 0.5, 14 * DAY)
    [apart] = set(lived(14, days, 1.0, hours=DAY).fit(np.ones(1)).apart.round(3).ravel())
    assert apart == pytest.approx(0.25, rel=0.2)
    assert lived(14, np.zeros(DAY), 1.0).fit(np.ones(1)).apart.max() < 0.01


def test_an_hour_without_traffic_is_as_uncertain_as_hours_differ() -> None:
    learned = season(DAY)
    rng = np.random.default_rng(3)
    for tick in range(7 * DAY * HOUR + 1):
        if (hour := tick // HOUR % DAY) != 5:
            learned.add(CYCLE[hour] + 0.1 * rng.normal(size=4), np.arange(4), tick)
    known = learned.fit(np.full(1, 0.01))
    assert known.mean[5, 0] == pytest.approx(0, abs=0.05)
    assert known.apart[5, 0] == pytest.approx(0.5, rel=0.1)
    assert known.apart[6, 0] < 0.001


@settings(max_examples=25)
@given(st.lists(st.integers(0, 5), min_size=5, max_size=200), st.integers(0, 199))
def test_it_continues_to_the_bit(sizes: list[int], cut: int) -> None:
    rng = np.random.default_rng(1)
    straight = Season(lambda value, _: value[:, None], 1, BUDGET, batch=9)
    resumed = straight
    for tick, size in enumerate(sizes):
        value = rng.normal(size=size)
        if tick == cut % len(sizes):
            state = unpack(pack(straight.snapshot()))
            resumed = Season(lambda value, _: value[:, None], 1, BUDGET, batch=9, state=state)
        straight.add(value, np.arange(size), tick * 3)
        if resumed is not straight:
            resumed.add(value, np.arange(size), tick * 3)
    assert pack(straight.snapshot()) == pack(resumed.snapshot())


def test_evidence_says_what_is_known() -> None:
    assert confidence(0, WEEK) == NO_HOURS
    assert "two weeks" in confidence(DAY, WEEK)
    assert confidence(WEEK, WEEK) == confidence(DAY, DAY) == ""


def daily(name: str, rng: np.random.Generator, tick: int, n: int) -> Floats:
    """A part of the units is as those of an incident, and the part depends on the hour."""
    kind = KINDS[name]
    part = 0.2 * (1 + np.sin(2 * np.pi * (tick // HOUR % DAY) / DAY))
    healthy, other = kind.healthy(rng, n), kind.bad(rng, n)
    if name == "finish_reason":  # new categories are news at any hour
        other[other == 40] = 30
    return np.where((rng.random(n) < part).reshape(-1, *[1] * (healthy.ndim - 1)), other, healthy)


def alarms(detector: AnyDetector, name: str, days: int, slots: int = 4) -> int:
    rng, found = np.random.default_rng(5), 0
    for tick in range(days * DAY * HOUR):
        value = np.concatenate([daily(name, rng, tick, 12) for _ in range(slots)])
        fired = detector.update(TickBatch(np.repeat(np.arange(slots), 12), value, np.arange(len(value))), tick).fired
        found += len(fired)
        for slot in fired:
            detector.reset(slot)
    return found


@pytest.mark.parametrize("name", WITH_HOURS)
def test_a_daily_cycle_is_no_drift_and_drift_is_still_found(name: str) -> None:
    settings = config(BudgetConfig(tick_s=600, false_alarms=1, per_days=600 * 500 / 86_400, streams=1))
    assert settings.budget.alpha == pytest.approx(1 / 500)
    detector, rng = make(name, settings), np.random.default_rng(4)
    ticks = [daily(name, rng, tick, 12) for tick in range(7 * DAY * HOUR + 1)]
    reference = detector.reference()
    for i, value in enumerate(ticks):
        reference.add(value, i * 12 + np.arange(12))
    plain = detector.fit(reference)
    assert not isinstance(plain, Insufficient)
    learned = detector.season(plain)
    assert learned is not None
    for tick, value in enumerate(ticks):
        learned.add(value, tick * 12 + np.arange(12), tick)
        if tick == 500:
            learned = detector.season(plain, unpack(pack(learned.snapshot())))
            assert learned is not None
    seasoned = detector.seasoned(plain, learned)
    assert seasoned.id != plain.id
    assert detector.carried(plain, plain) is plain
    assert dump(load(name, settings, dump(seasoned))) == dump(seasoned)
    found = []
    for baseline in (plain, seasoned, detector.carried(plain, seasoned)):
        detector = make(name, settings)
        for _ in range(4):
            detector.open(baseline)
        found.append(alarms(detector, name, 2))
    allowed = 4 * 2 * DAY * HOUR / 500
    assert found[0] > allowed >= max(found[1:])

    detector = make(name, settings)
    detector.open(seasoned)
    fired = [detector.update(batch(KINDS[name].bad(rng, 12)), tick).fired for tick in range(30 * HOUR)]
    assert [0] in fired
    resumed = make(name, settings)
    resumed.restore(unpack(pack(detector.snapshot())))
    for tick in range(30 * HOUR, 60 * HOUR):
        value = daily(name, rng, tick, 12)
        assert resumed.update(batch(value), tick) == detector.update(batch(value), tick)
    assert pack(resumed.snapshot()) == pack(detector.snapshot())


def test_contracts_hold_at_any_hour() -> None:
    assert set(KINDS) - {*WITH_HOURS, *WITHOUT, *SAME} == set()
    for name in WITHOUT:
        detector = make(name, config())
        assert detector.season(None) is None
