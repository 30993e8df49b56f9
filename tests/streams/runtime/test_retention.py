"""What retention deletes before a role has read it is said, for good, and the role goes on after it."""

import asyncio
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from driftline.schemas.codec import decode
from driftline.schemas.results import DeadLetter
from driftline.streams.runtime import state as states
from tests.brokers import Broker, Kafka, eventually
from tests.streams.runtime.sums_role import ROLE
from tests.streams.runtime.test_exact_state import Traffic, Worker, owns

pytestmark = pytest.mark.kafka


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    started: list[Worker] = []
    yield started
    for worker in started:
        worker.end()


async def letters(kafka: Kafka, count: int) -> list[DeadLetter]:
    found = [decode(record.value, DeadLetter) for record in await kafka.read(kafka.topics.dlq)]
    return found if len({letter.id for letter in found}) >= count else []


async def test_a_fold_says_what_is_gone_whether_it_ran_or_not(
    apache_kafka: Broker, workers: list[Worker], tmp_path: Path
) -> None:
    config = apache_kafka.config(checkpoint_s=0.05, session_timeout_s=20.0, heartbeat_interval_s=1.0)
    async with Kafka(config) as kafka:
        traffic = Traffic(kafka)
        worker = Worker(config, tmp_path / "first.log")
        workers.append(worker)
        await traffic.send(2)
        await eventually(traffic.absorbed, "everything absorbed")
        first = traffic.last_offsets[0] + 1
        worker.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(5 * config.fetch_max_wait_ms / 1_000)  # until the fetch under way is answered, with nothing
        await traffic.send(2)
        await kafka.delete_before(kafka.topics.events, 0, first + 3)
        worker.process.send_signal(signal.SIGCONT)
        [running] = await eventually(partial(letters, kafka, 1), "a letter of what is gone")
        assert (running.topic, running.partition) == (kafka.topics.events, 0)
        assert (running.role, running.offset, running.until) == (ROLE, first, first + 3)
        await eventually(traffic.absorbed, "what is left is absorbed")
        assert await worker.terminate() == 0, worker.said
        second = traffic.last_offsets[1] + 1
        await traffic.send(2)
        await kafka.delete_before(kafka.topics.events, 1, second + 5)
        worker = Worker(config, tmp_path / "second.log")
        workers.append(worker)
        found = await eventually(partial(letters, kafka, 2), "a letter of what went meanwhile")
        assert {(letter.partition, letter.offset, letter.until) for letter in found} == {
            (0, first, first + 3),
            (1, second, second + 5),
        }
        await eventually(traffic.absorbed, "what is left is absorbed")
        assert await worker.terminate() == 0, worker.said


async def test_a_log_that_ends_before_what_was_absorbed_ends_the_role_with_a_way_out(
    apache_kafka: Broker, workers: list[Worker], tmp_path: Path
) -> None:
    config = apache_kafka.config(checkpoint_s=0.05, session_timeout_s=2.0, heartbeat_interval_s=0.3)
    async with Kafka(config) as kafka:
        traffic = Traffic(kafka)
        worker = Worker(config, tmp_path / "first.log")
        workers.append(worker)
        await owns(worker, 2)
        await traffic.send(2)
        await eventually(traffic.absorbed, "everything absorbed")
        assert await worker.terminate() == 0, worker.said
        await kafka.make_anew(kafka.topics.events)
        worker = Worker(config, tmp_path / "second.log")
        workers.append(worker)
        assert await worker.exit_code() == 1
        assert "ends at offset 0" in worker.said
        assert "driftline state reset" in worker.said


async def test_a_topic_made_anew_under_a_role_is_noticed_however_long_it_has_become(
    apache_kafka: Broker, workers: list[Worker], tmp_path: Path
) -> None:
    config = apache_kafka.config(checkpoint_s=0.05, session_timeout_s=2.0, heartbeat_interval_s=0.3)
    async with Kafka(config) as kafka:
        traffic = Traffic(kafka)
        worker = Worker(config, tmp_path / "first.log")
        workers.append(worker)
        await traffic.send(2)
        await eventually(traffic.absorbed, "everything absorbed")
        ends = {record.partition: record.offset for record in await kafka.read(kafka.topics.events)}

        async def saved() -> bool:
            found = [record for record in await kafka.read(kafka.topics.state(ROLE)) if not states.is_note(record)]
            reached = {record.partition: states.decode(record.value).offset for record in found}
            return all(reached.get(partition, -1) >= end for partition, end in ends.items())

        await eventually(saved, "states that cover it")
        before = len(await kafka.read(kafka.topics.windows))
        await kafka.make_anew(kafka.topics.events)
        await traffic.send(10)
        if worker.process.poll() is None:
            worker.process.terminate()  # as a deployment would, should it not have noticed yet
        await worker.exit_code()
        worker = Worker(config, tmp_path / "second.log")
        workers.append(worker)
        assert await worker.exit_code() == 1
        [said] = [line for line in worker.said.splitlines() if "ERROR" in line]
        assert "the topic was made anew" in said
        assert "driftline state reset" in said
        assert len(await kafka.read(kafka.topics.windows)) == before, "nothing is published from the wrong log"
