"""How a Faust role ends, and how it does not."""

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from functools import partial

import pytest
from aiokafka import TopicPartition

from driftline.schemas.clock import ManualClock
from driftline.schemas.codec import decode_events
from driftline.schemas.errors import ConfigError, RetryableError
from driftline.schemas.topics import Topics
from driftline.streams.fold import Output, Record
from driftline.streams.runtime import worker
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.worker import FaustRole, Source, Ticker
from tests.brokers import Broker, Kafka, eventually


class Slow:
    """Is at work when a rebalance comes."""

    watermark = None
    counters: Mapping[str, int] = {}

    def __init__(self, topics: Topics) -> None:
        self._topic = topics.windows

    async def absorb(self, records: Sequence[Record]) -> list[Output]:
        await asyncio.sleep(2)
        return [Output(self._topic, None, b"%d" % record.offset) for record in records]

    def snapshot(self) -> bytes:
        return b""


async def test_a_rebalance_that_finds_all_partitions_at_work_ends_nobody(embedded_kafka: Broker) -> None:
    partitions = 6
    config = embedded_kafka.config(partitions=partitions, checkpoint_s=0.1)
    async with Kafka(config) as kafka:
        source = Source(kafka.topics.events, "monitor", lambda partition, snapshot: Slow(kafka.topics))
        roles = [FaustRole("monitor", config, kafka.topics, [source]) for _ in range(2)]
        working = []

        async def published() -> bool:
            found = await kafka.read(kafka.topics.windows)
            return {(record.partition, record.value) for record in found} == {
                (partition, b"%d" % offset) for partition in range(partitions) for offset in range(2)
            }

        async def at_work(role: FaustRole) -> bool:
            return len(role.working()) == partitions

        async def has_some(role: FaustRole) -> bool:
            return bool(role.owned())

        try:
            working.append(asyncio.create_task(roles[0].run()))
            await eventually(partial(has_some, roles[0]), "the first has all")
            for partition in range(partitions):
                await kafka.send(kafka.topics.events, b"x", partition=partition)
            await eventually(partial(at_work, roles[0]), "all are worked on")
            working.append(asyncio.create_task(roles[1].run()))
            await eventually(partial(has_some, roles[1]), "the second has some")
            for partition in range(partitions):
                await kafka.send(kafka.topics.events, b"x", partition=partition)
            await eventually(published, "each record is absorbed by somebody")
            assert [task.done() for task in working] == [False, False]
        finally:
            for role in roles:
                role._stop.set()
            assert await asyncio.gather(*working) == [0, 0]


@pytest.fixture
def role(free_port: int) -> FaustRole:
    """Waits for its broker until it ends."""
    return FaustRole("monitor", KafkaConfig(brokers=f"127.0.0.1:{free_port}"), Topics("t"), [])


async def started(role: FaustRole) -> "asyncio.Task[int]":
    working = asyncio.create_task(role.run())
    await asyncio.sleep(0)
    return working


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_what_fails_after_a_stop_that_was_asked_for_is_told_and_no_failure(
    role: FaustRole, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def stop() -> None:
        role.failed(RetryableError("the broker is gone"))
        raise OSError("no goodbye")

    monkeypatch.setattr(role._app, "stop", stop)
    working = await started(role)
    os.kill(os.getpid(), number)
    assert await working == 0
    said = [(record.levelname, record.getMessage()) for record in caplog.records if "Role" in record.getMessage()]
    assert [level for level, _ in said] == ["WARNING", "WARNING"]
    assert "the broker is gone" in said[0][1]
    assert "no goodbye" in said[1][1]


@pytest.mark.parametrize(("error", "code"), [(RetryableError("away"), 1), (ConfigError("wrong"), 78)])
async def test_a_failure_before_a_stop_is_asked_for_keeps_its_exit_code(
    role: FaustRole, error: Exception, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stop() -> None: ...

    monkeypatch.setattr(role._app, "stop", stop)
    working = await started(role)
    role.failed(error)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await working == code


async def test_tasks_that_end_with_a_stop_are_not_lost(role: FaustRole, caplog: pytest.LogCaptureFixture) -> None:
    for asked in (True, False):
        if asked:
            role._stop.set()
        else:
            role._stop.clear()
        task = asyncio.create_task(asyncio.sleep(60))
        task.cancel()
        await asyncio.wait({task})
        role._task_ended(task)
        assert ("lost one of its tasks" in caplog.text) is not asked


async def test_each_tick_looks_how_far_the_time_of_the_log_and_the_clock_are_apart(
    role: FaustRole, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[tuple[Mapping[int, int | None], int]] = []
    ticked = asyncio.Event()

    class Watch:
        def __init__(self, *_: object) -> None: ...

        def look(self, watermarks: Mapping[int, int | None], now: int) -> None:
            looked.append((watermarks, now))

    class Stands:
        watermark = 5

    async def sent(outputs: Sequence[Output], _: int) -> None:
        decoded = decode_events(outputs[0].value)
        assert (len(decoded.events), decoded.rejects) == (1, [])  # also of a clock of 1970
        ticked.set()

    monkeypatch.setattr(worker, "TimeWatch", Watch)
    monkeypatch.setattr(role, "_send", sent)
    monkeypatch.setattr(
        role, "_partitions", {TopicPartition("t.events", 3): Stands(), TopicPartition("o", 1): Stands()}
    )
    ticking = asyncio.create_task(role._tick(Ticker(ManualClock(9), 0.01)))
    await asyncio.wait({ticking, waiting := asyncio.create_task(ticked.wait())}, return_when=asyncio.FIRST_COMPLETED)
    assert waiting.done()
    ticking.cancel()
    assert looked == [({3: 5}, 9)]
