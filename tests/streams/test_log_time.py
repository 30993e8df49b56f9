import numpy as np

from driftline.schemas.events import MICROSECONDS
from driftline.streams.log_time import LogTime
from tests.streams.monitor.log import START, FakeRecord

HOUR = 3600
YEAR = 365 * 24 * HOUR


def at(seconds: float) -> int:
    return START + round(seconds * MICROSECONDS)


def record(seconds: float, by_broker: bool = True) -> FakeRecord:
    return FakeRecord(0, b"", None, at(seconds) // 1_000, int(by_broker))


def hear(time: LogTime, seconds: float) -> bool:
    moves = time.hears(record(seconds))
    if moves:
        time.hear(record(seconds))
    return moves


def test_before_any_time_is_known_nothing_is_ahead() -> None:
    time = LogTime(HOUR)
    assert time.latest is None
    assert not time.is_ahead(at(50 * YEAR))
    assert not time.hears(record(0, by_broker=False))
    assert not time.are_ahead(np.array([at(50 * YEAR)])).any()


def test_it_is_the_later_of_the_tick_and_the_broker_in_steps_of_a_minute() -> None:
    time = LogTime(HOUR)
    assert hear(time, 0)
    assert time.latest == at(HOUR)
    assert not hear(time, 59)
    assert hear(time, 60)
    assert time.latest == at(60 + HOUR)
    time.tick = at(90)
    assert time.latest == at(90 + HOUR)
    assert time.are_ahead(np.array([at(90 + HOUR), at(90 + HOUR) + 1])).tolist() == [False, True]
    assert time.is_ahead(at(90 + HOUR) + 1)
    later = LogTime(HOUR, time.tick, time.heard)
    assert (later.latest, later.heard) == (time.latest, time.heard)


def test_a_broker_that_was_ahead_and_is_right_again_is_believed() -> None:
    time = LogTime(HOUR, tick=at(10))
    assert hear(time, YEAR)
    assert not time.is_ahead(at(YEAR))
    assert hear(time, 20)
    assert time.latest == at(20 + HOUR)
