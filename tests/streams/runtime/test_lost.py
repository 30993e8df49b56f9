"""What is gone, and what nobody can tell."""

import asyncio
import logging
from collections.abc import Sequence

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError

from driftline.streams.runtime.lost import Gap, go_on, letter, publish

TP = TopicPartition("events", 1)


class Consumer:
    def __init__(self, beginning: int) -> None:
        self.beginning, self.sought = beginning, -1

    def assignment(self) -> set[TopicPartition]:
        return {TP}

    async def beginning_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, self.beginning)

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 100)

    def seek(self, tp: TopicPartition, offset: int) -> None:
        self.sought = offset


@pytest.mark.parametrize(("beginning", "told"), [(0, False), (40, True)])
async def test_where_the_broker_forgot_what_was_read_the_log_says_so(
    beginning: int, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    consumer = Consumer(beginning)
    with caplog.at_level(logging.WARNING):
        assert await go_on(consumer, NoOffsetForPartitionError(TP)) == []
    assert consumer.sought == beginning
    assert ("events[1], whose log begins at 40: what came before is not read" in caplog.text) == told


async def test_what_is_gone_has_a_beginning_and_an_end() -> None:
    consumer = Consumer(40)
    assert await go_on(consumer, OffsetOutOfRangeError({TP: 30})) == [Gap("events", 1, 30, 40)]
    assert consumer.sought == 40


async def test_letters_of_partitions_that_the_topic_of_dead_letters_lacks_are_published() -> None:
    """More partitions come to the events topic first."""
    sent: list[tuple[str, int]] = []

    class Two:
        async def partitions_for(self, topic: str) -> set[int]:
            return {0, 1}

        async def send(self, topic: str, value: bytes, *, key: bytes | None, partition: int) -> "asyncio.Future[None]":
            sent.append((topic, partition))
            done = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done

    letters = [letter("archive", Gap("events", partition, 0, 1)) for partition in (1, 2, 7)]
    await publish(Two(), "dlq", letters)
    assert sent == [("dlq", 1), ("dlq", 0), ("dlq", 1)]
