"""From positions and ends to metrics, health and the decision to restart."""

import pytest
from aiokafka import TopicPartition
from prometheus_client import REGISTRY

from driftline.schemas.clock import ManualClock
from driftline.schemas.errors import RetryableError
from driftline.streams.health import Health
from driftline.streams.runtime.lag import HELD_S, STALL_S, LagWatch

NOW_US = 1_700_000_000_000_000
GARBAGE = (-1, 0, 2**62, -(2**63), NOW_US // 1_000_000, NOW_US, NOW_US * 1_000)  # seconds, micro-, nanoseconds


class Bench:
    def __init__(self, name: str) -> None:
        self.name = name
        self.clock = ManualClock(NOW_US)
        self.health = Health("test", self.clock)
        self.lag = LagWatch(name, self.health, self.clock, {"named": f"{name}.fold"})
        self.here = TopicPartition("topic", 2)

    def look(self, position: int, end: int, *, working: bool = False) -> None:
        self.lag.look({self.here: position}, {self.here: end}, [self.here] if working else [])

    def metric(self, what: str, topic: str = "topic", consumer: str = "") -> float | None:
        labels = {"consumer": consumer or self.name, "topic": topic, "partition": "2"}
        return REGISTRY.get_sample_value(f"driftline_lag_{what}", labels)


def test_lag_is_records_and_the_age_of_the_newest_taken() -> None:
    bench = Bench("lag1")
    bench.look(0, 7)
    assert (bench.metric("records"), bench.metric("seconds")) == (7, None), "of what age they are is not known yet"
    bench.lag.taken(bench.here, NOW_US // 1_000 - 30_000)
    bench.look(5, 7)
    assert (bench.metric("records"), bench.metric("seconds")) == (2, 30)
    bench.clock.advance(60)
    bench.look(7, 7)
    assert (bench.metric("records"), bench.metric("seconds")) == (0, 0)


def test_records_behind_an_open_transaction_are_told_once_it_stands_for_long() -> None:
    bench = Bench("lag9")

    def look(end: int, written: int) -> list[str]:
        bench.clock.advance(HELD_S / 2)
        bench.lag.look({bench.here: end}, {bench.here: end}, [], {bench.here: written})
        return [problem.what for problem in bench.health.problems]

    assert [look(end, end + 3) for end in (4, 7, 10, 13)] == [[]] * 4, "transactions that end are no problem"
    assert look(13, 33) == []
    (told,) = look(13, 33)
    assert "20 records of topic[2], from offset 13 on, are held back by a transaction" in told
    labels = {"consumer": "lag9", "topic": "topic", "partition": "2"}
    assert REGISTRY.get_sample_value("driftline_held_back_records", labels) == 20
    assert look(33, 33) == []
    assert REGISTRY.get_sample_value("driftline_held_back_records", labels) == 0


def test_a_partition_that_moved_away_is_not_reported_any_more() -> None:
    bench = Bench("lag2")
    bench.look(5, 7)
    bench.lag.look({}, {}, [])
    assert bench.metric("records") is None


def test_the_label_can_depend_on_the_topic() -> None:
    bench = Bench("lag3")
    tp = TopicPartition("named", 2)
    bench.lag.look({tp: 1}, {tp: 4}, [])
    assert bench.metric("records", "named", "lag3.fold") == 3


def test_a_stall_is_told_at_half_of_its_limit_and_ends_the_role_at_the_limit() -> None:
    bench = Bench("lag4")
    bench.look(5, 9)
    bench.clock.advance(STALL_S / 2 - 1)
    bench.look(5, 9)
    assert bench.health.problems == []
    bench.clock.advance(1)
    bench.look(5, 10)
    (problem,) = bench.health.problems
    assert problem.what == "lag4 got nothing of topic[2] for 60 s: it stands at 5, the log goes on to 10"
    bench.clock.advance(STALL_S / 2)
    with pytest.raises(RetryableError, match=r"got nothing of topic\[2\] for 120 s"):
        bench.look(5, 10)


def test_a_stall_that_ends_is_forgotten() -> None:
    bench = Bench("lag5")
    bench.look(5, 9)
    bench.clock.advance(STALL_S - 1)
    bench.look(5, 9)
    assert bench.health.problems
    bench.look(6, 9)
    assert bench.health.problems == []
    bench.clock.advance(STALL_S - 1)
    bench.look(6, 9)


def test_who_works_does_not_stand_still() -> None:
    bench = Bench("lag6")
    for _ in range(10):
        bench.look(5, 9, working=True)
        bench.clock.advance(STALL_S)
    assert bench.health.problems == []


def test_an_outage_of_the_broker_is_no_stall() -> None:
    bench = Bench("lag7")
    bench.look(5, 9)
    bench.clock.advance(10 * STALL_S)
    bench.lag.blind()
    bench.look(5, 9)
    assert bench.health.problems == []


@pytest.mark.parametrize("timestamp", GARBAGE)
def test_a_timestamp_that_says_nothing_is_no_lag_of_years(timestamp: int) -> None:
    bench = Bench(f"garbage{timestamp}")
    bench.lag.taken(bench.here, NOW_US // 1_000 - 30_000)
    bench.lag.taken(bench.here, timestamp)
    bench.look(5, 7)
    assert bench.metric("seconds") == 30
