from driftline.schemas.clock import ManualClock
from driftline.schemas.events import MICROSECONDS
from driftline.streams.health import Health
from driftline.streams.runtime.time_watch import APART_S, LASTS_S, TimeWatch

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
    assert told(watch, health, clock, {0: None, 1: -2.0, 2: APART_S - 1}) == []
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
