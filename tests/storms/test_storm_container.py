"""The pipeline on the Kafka of a public image, as users have it: every role that needs no model."""

from pathlib import Path

import pytest

from driftline.sinks.clickhouse.embedded import EmbeddedServer
from tests.brokers import Broker, Kafka, eventually
from tests.storms.harness import PARTITIONS, Services, World

pytestmark = [pytest.mark.docker, pytest.mark.slow]


async def test_the_pipeline_on_a_container(
    kafka_container: Broker, server: EmbeddedServer, services: Services, tmp_path: Path
) -> None:
    config = kafka_container.config(partitions=PARTITIONS, checkpoint_s=0.5)
    async with Kafka(config) as kafka:
        world = World(kafka, server, services, tmp_path, seed=71)
        async with world.supervised():
            _, _, notify = await world.started("monitor", "archive", "notify")
            async with world.traffic.flowing():
                await world.pause(15, 20)
            await world.settle()

            async def told() -> bool:
                return "rollback" in notify.log.read_text().lower()

            await eventually(told, "notify tells of the rollback")
            await world.finish("no storm, on a container")
