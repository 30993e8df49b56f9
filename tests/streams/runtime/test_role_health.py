"""A Faust role whose broker goes away."""

from pathlib import Path
from typing import Any

import aiohttp

from driftline.schemas.events import MICROSECONDS
from driftline.streams.embedded_kafka import EmbeddedKafka
from driftline.streams.runtime.config import KafkaConfig
from tests.brokers import Kafka, eventually, find_free_port
from tests.streams.runtime.test_exact_state import Worker, owns

NOON = 1_700_000_000 * MICROSECONDS


async def test_a_role_without_its_broker_says_so(tmp_path: Path) -> None:
    port = find_free_port()
    with EmbeddedKafka(find_free_port()) as broker:
        config = KafkaConfig(brokers=broker.brokers, partitions=2).for_embedded()
        async with Kafka(config) as kafka:
            worker = Worker(config, tmp_path / "worker.log", health_port=port)
            try:
                await owns(worker, 2)
                async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:

                    async def ask() -> tuple[int, list[Any]]:
                        async with session.get("/healthz") as answer:
                            return answer.status, (await answer.json())["problems"]

                    assert await ask() == (200, [])
                    await kafka.tick(NOON)
                    broker.stop()

                    async def away() -> str:
                        status, problems = await ask()
                        return str(problems[0]["what"]) if status == 503 else ""

                    what = await eventually(away, "/healthz says that Kafka is away")
                    assert what.startswith(f"Kafka at {broker.brokers} does not answer: ")
                    assert worker.process.poll() is None
            finally:
                worker.end()
