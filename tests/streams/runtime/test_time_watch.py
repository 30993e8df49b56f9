import pytest
from aiokafka import ConsumerRecord

from driftline.schemas.clock import ManualClock
from driftline.schemas.codec import encode_event
from driftline.schemas.events import CLOCK, MICROSECONDS, Tick
from driftline.schemas.topics import Topics
from driftline.streams.health import Health
from driftline.streams.intake import Intake
from driftline.streams.runtime.time_watch import APART_S, LASTS_S, TimeWatch, within

NOW = 1_793_606_400 * MICROSECONDS


def told(watch: TimeWatch, health: Health, clock: ManualClock, apart: dict[int, float | None]) -> list[str]:
    for _ in range(2):
        watch.look(
            {n: None if s is None else clock.now() + round(s * MICROSECONDS) for n, s in apart.items()}, clock.now()
        )
        clock.advance(LASTS_S)
    return [problem.what for problem in health.problems]


def test_a_time_far_from_the_clock_is_told_for_as_long_as_it_is() -> None:
    clock = ManualClock(NOW)
    health = Health("monitor", clock)
    watch = TimeWatch("events", health)
    assert told(watch, health, clock, {0: 0.0, 1: -2.0, 2: APART_S - 1}) == []
    behind, ahead = sorted(told(watch, health, clock, {0: 3600.0, 1: -600.0}), key=len, reverse=True)
    assert ahead.startswith("Windows and detectors of events[0] have come to 2026-11-02T09:")
    assert ahead.endswith("3600 s ahead of the clock here")
    assert behind.startswith("Windows, detectors and alerts of events[1] stand at 2026-11-02T07:")
    assert behind.endswith("600 s behind the clock here")
    assert len(told(watch, health, clock, {0: 0.0, 1: -600.0})) == 1
    assert told(watch, health, clock, {0: 0.0}) == []  # another worker's now


def test_catching_up_after_a_start_is_not_told() -> None:
    clock = ManualClock(NOW)
    health = Health("monitor", clock)
    TimeWatch("events", health).look({0: NOW - 3600 * MICROSECONDS}, NOW)
    clock.advance(LASTS_S - 1)
    assert health.problems == []


def test_ticks_that_never_come_are_told() -> None:
    clock = ManualClock(NOW)
    health = Health("monitor", clock)
    watch = TimeWatch("events", health)
    [what] = told(watch, health, clock, {0: None, 1: 0.0})
    assert what.startswith("events[0] has brought no tick yet")
    assert told(watch, health, clock, {0: 0.0, 1: 0.0}) == []


@pytest.mark.parametrize("here", [0, 3 * MICROSECONDS, -1, NOW, 2**62])
def test_whatever_the_clock_here_says_a_tick_brings_the_brokers_time(here: int) -> None:
    topics = Topics()
    tick = topics.controls.signed(Tick(ts=within(here), source=CLOCK), 0)
    record = ConsumerRecord("events", 0, 7, NOW // 1_000, 1, None, encode_event(tick), None, 0, 0, ())
    taken = Intake(topics, 0)(record)
    assert (taken.rejects, [event.ts for event in taken.events]) == (0, [NOW])
