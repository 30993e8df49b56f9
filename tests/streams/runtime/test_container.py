"""The runtime on the Kafka of a public image, as users have it."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.brokers import Broker, Kafka, eventually
from tests.streams.runtime.test_exact_state import Traffic, Worker, feeding


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    started: list[Worker] = []
    yield started
    for worker in started:
        worker.end()


@pytest.mark.docker
async def test_a_killed_worker_goes_on(kafka_container: Broker, workers: list[Worker], tmp_path: Path) -> None:
    config = kafka_container.config(checkpoint_s=0.05)
    async with Kafka(config) as kafka:
        traffic = Traffic(kafka)
        killed = Worker(config, tmp_path / "killed.log", kill_at="saved", kill_after=2)
        workers.append(killed)
        async with feeding(traffic):
            assert await killed.exit_code() == -signal.SIGKILL, killed.said
        last = Worker(config, tmp_path / "last.log")
        workers.append(last)
        await traffic.send(3)
        await eventually(traffic.absorbed, "everything absorbed", timeout_s=60)
        await traffic.check()
        assert await last.terminate() == 0, last.said
