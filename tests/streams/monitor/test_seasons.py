"""Baselines in force that learn how the hours differ."""

import numpy as np

from driftline.detectors.config import BudgetConfig, DetectorsConfig, PitConfig
from driftline.detectors.registry import make
from driftline.detectors.seasons import DAY, NO_HOURS
from driftline.detectors.state import pack, unpack
from driftline.streams.monitor.places import Places
from driftline.streams.monitor.watch import Streams, Units, Watch

HOUR = 6  # ticks
CONFIG = DetectorsConfig(budget=BudgetConfig(tick_s=600, streams=10), scalar_drift=PitConfig(min_units=500))


def new_watch(streams: Streams, state: object = None) -> Watch:
    return Watch(make("scalar_drift", CONFIG), streams, Places(CONFIG.budget), state)  # type: ignore[arg-type]


def units(rng: np.random.Generator, number: int, tick: int, *, slow: float = 1.0, learn: bool = True) -> Units:
    level = 100 * slow * (1.5 if tick // HOUR % DAY > 11 else 1.0)
    n = 12
    session = tick * n + np.arange(n)
    return Units(np.full(n, number), level * rng.lognormal(0, 0.3, n), session, np.full(n, learn))


def test_a_baseline_becomes_better_after_two_seven_and_fourteen_days() -> None:
    streams = Streams()
    number = streams.number("bot", "v1", "latency")
    watch, rng = new_watch(streams), np.random.default_rng(1)
    made, alarms = [], []
    for tick in range(16 * DAY * HOUR):
        if tick % 500 == 0:
            watch = new_watch(streams, unpack(pack(watch.snapshot())))
        alarms += [(t.kind, tick) for t in watch.step(units(rng, number, tick), tick)]
        made += [(fit.last_tick // HOUR / DAY, len(fit.baseline.hour_means)) for fit in watch.fits()]
    assert [hours for _, hours in made] == [0, DAY, DAY, 7 * DAY]
    days = [round(day, 1) for day, _ in made]
    assert days[0] < 1
    assert days[1:] == sorted(days[1:])
    assert all(late - day < 1.5 for late, day in zip(days[1:], (2, 7, 14), strict=True))
    assert not [tick for _, tick in alarms if tick > 3 * DAY * HOUR]
    assert NO_HOURS not in watch.readings()[0].note
    assert b"seasons" in pack(watch.snapshot())
    assert watch.snapshot()["seasons"] == {"groups": []}


def test_until_the_hours_are_known_alarms_are_part_of_them() -> None:
    streams = Streams()
    number = streams.number("bot", "v1", "latency")
    watch, rng = new_watch(streams), np.random.default_rng(1)
    units_seen = in_alarm = 0
    for tick in range(DAY * HOUR):
        before = watch.snapshot()["seasons"]["groups"]
        units_seen += 12 * bool(before)
        watch.step(units(rng, number, tick), tick)
        in_alarm += bool(watch.snapshot()["alarms"])
    assert in_alarm > HOUR  # by the hour of the day
    watch.step(units(rng, number, DAY * HOUR), DAY * HOUR)
    [group] = watch.snapshot()["seasons"]["groups"]
    assert units_seen - group[-1]["cells"][:, 0].sum() <= 12


def test_incidents_and_canaries_are_no_part_of_it() -> None:
    """One watch lives through an incident and a canary; the other misses them, and knows the same hours in the end."""
    streams = Streams()
    stable, canary = streams.number("bot", "v1", "latency"), streams.number("bot", "v2", "latency")
    calm, troubled = new_watch(streams), new_watch(streams)
    rng, other = np.random.default_rng(1), np.random.default_rng(2)
    incident = range(3 * DAY * HOUR, (3 * DAY + 5) * HOUR)
    skipped = 0
    for tick in range(4 * DAY * HOUR):
        healthy = units(rng, stable, tick)
        quiet = not troubled.snapshot()["alarms"]
        if tick in incident:
            troubled.step(units(other, stable, tick, slow=9), tick)
        else:
            troubled.step(healthy, tick)
            if tick > incident.start:
                troubled.step(units(other, canary, tick, slow=3, learn=False), tick)
        ignored = tick > incident.start and not quiet
        if not ignored and tick not in incident:
            calm.step(healthy, tick)
        skipped += ignored
    assert skipped > HOUR
    [mine], [theirs] = (watch.snapshot()["seasons"]["groups"] for watch in (calm, troubled))
    assert mine[2] == theirs[2] == ["v1"]
    learned_before_the_alarm = theirs[-1]["cells"][:, 0].sum() - mine[-1]["cells"][:, 0].sum()
    assert 0 <= learned_before_the_alarm <= 3 * 12


def test_the_next_release_has_the_hours_of_the_one_before() -> None:
    streams = Streams()
    old, new = streams.number("bot", "v1", "latency"), streams.number("bot", "v2", "latency")
    watch, rng = new_watch(streams), np.random.default_rng(1)
    for tick in range(3 * DAY * HOUR):
        watch.step(units(rng, old, tick), tick)
    before = watch.baseline("bot", "latency")
    assert before is not None
    watch.relearn("bot", "v2", [])
    for tick in range(3 * DAY * HOUR, 4 * DAY * HOUR):
        watch.step(units(rng, new, tick, slow=1.2), tick)
    after = watch.baseline("bot", "latency")
    assert after is not None
    assert after.center > before.center * 1.05
    assert np.ptp(after.hour_means[:, 0]) == np.ptp(before.hour_means[:, 0]) > 0.3


def test_a_baseline_fitted_by_hand_stays_as_it_is() -> None:
    streams = Streams()
    number = streams.number("bot", "v1", "latency")
    watch, rng = new_watch(streams), np.random.default_rng(1)
    for tick in range(DAY * HOUR):
        watch.step(units(rng, number, tick), tick)
    assert len(watch.snapshot()["seasons"]["groups"]) == 1
    watch.install("bot", "latency", watch.baseline("bot", "latency"))
    assert watch.snapshot()["seasons"]["groups"] == []
