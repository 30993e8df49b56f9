"""Plain consumers: what is a stall and what is not, and what an absent broker looks like."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import IllegalStateError, KafkaConnectionError
from prometheus_client import REGISTRY

from driftline.schemas.clock import ManualClock
from driftline.schemas.errors import RetryableError
from driftline.streams.health import Health
from driftline.streams.runtime import watch
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.lag import STALL_S
from driftline.streams.runtime.watch import ConsumerWatch
from tests.brokers import eventually

HERE = TopicPartition("topic", 0)


class Consumer:
    """Stands where aiokafka's consumer stands, at 5 of 9 records."""

    def __init__(self) -> None:
        self.at = 5
        self.error: Exception | None = None
        self.looks = 0

    def assignment(self) -> set[TopicPartition]:
        return {HERE}

    async def position(self, tp: TopicPartition) -> int:
        return self.at

    def highwater(self, tp: TopicPartition) -> int | None:
        return None

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return dict.fromkeys(partitions, 9)


async def forever() -> None:
    await asyncio.Event().wait()


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock(1_700_000_000_000_000)
        self.health = Health("archive", self.clock)
        self.consumer = Consumer()
        self.watch = ConsumerWatch("watched", self.consumer, KafkaConfig(), self.health, self.clock)
        self.working = asyncio.create_task(self.watch.during(forever()))

    async def looks(self, times: int = 2) -> None:
        """Until it has looked some times since now."""
        enough = self.consumer.looks + times

        async def looked() -> bool:
            return self.consumer.looks >= enough or self.working.done()

        await eventually(looked, f"{times} looks", every_s=0.001)

    async def end(self) -> None:
        self.working.cancel()
        await asyncio.gather(self.working, return_exceptions=True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LOOK_S", 0.001)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    it = Bench()
    yield it
    await it.end()


def lag() -> float | None:
    return REGISTRY.get_sample_value(
        "driftline_lag_records", {"consumer": "watched", "topic": "topic", "partition": "0"}
    )


async def test_a_consumer_that_is_not_given_what_is_there_is_unhealthy_and_then_ends(bench: Bench) -> None:
    await bench.looks()
    assert lag() == 4
    bench.clock.advance(STALL_S / 2)
    await bench.looks()
    assert "watched got nothing of topic[0] for 60 s" in bench.health.problems[0].what
    assert not bench.working.done()
    bench.clock.advance(STALL_S / 2)
    with pytest.raises(RetryableError, match="for 120 s"):
        await asyncio.wait_for(bench.working, 10)


async def test_one_that_waits_for_a_neighbour_is_not_stalled_and_its_lag_is_what_is_not_committed(bench: Bench) -> None:
    bench.watch.committed({HERE: 3}, {HERE: 1_700_000_000_000})
    bench.watch.busy = True
    for _ in range(3):
        bench.clock.advance(STALL_S)
        await bench.looks()
    assert not bench.working.done()
    assert bench.health.problems == []
    assert lag() == 6
    bench.watch.assigned()
    await bench.looks()
    assert lag() == 4, "after a rebalance it is at what the group committed"


async def test_a_broker_that_does_not_answer_is_a_problem_and_no_stall(bench: Bench) -> None:
    await bench.looks()
    bench.consumer.error = KafkaConnectionError("refused")
    await bench.looks()
    (problem,) = bench.health.problems
    assert problem.what == "Kafka at 127.0.0.1:9092 does not answer: KafkaConnectionError('refused')"
    bench.clock.advance(2 * STALL_S)
    bench.consumer.error = None
    await bench.looks()
    assert bench.health.problems == []
    assert not bench.working.done()


async def test_a_rebalance_is_no_problem(bench: Bench) -> None:
    bench.consumer.error = IllegalStateError("no such partition")
    await bench.looks()
    assert bench.health.problems == []


async def test_what_the_work_raises_comes_through_and_its_end_is_the_end() -> None:
    async def fails() -> None:
        raise ValueError("no")

    async def ends() -> None:
        return

    health = Health("archive")
    it = ConsumerWatch("watched", Consumer(), KafkaConfig(), health)
    with pytest.raises(ValueError, match="no"):
        await it.during(fails())
    await it.during(ends())
