"""What roles do when somebody adds partitions. `tests/storms/test_storm_growth.py` has the whole pipeline."""

from pathlib import Path

import pytest

from driftline.streams.supervisor import EXIT_CONFIG
from tests.brokers import Broker, Kafka, eventually
from tests.streams.runtime.test_exact_state import Traffic, Worker

pytestmark = pytest.mark.kafka


async def test_a_role_that_meets_new_partitions_says_what_to_set_and_ends(apache_kafka: Broker, tmp_path: Path) -> None:
    async with Kafka(apache_kafka.config()) as kafka:
        worker = Worker(kafka.config, tmp_path / "role.log")
        try:
            traffic = Traffic(kafka)
            await traffic.send(2)
            await eventually(traffic.absorbed, "all is absorbed")
            await kafka.add_partitions(kafka.topics.events, 4)
            assert await worker.exit_code() == EXIT_CONFIG
        finally:
            worker.end()
    [said] = [line for line in worker.said.splitlines() if "Role monitor cannot" in line]
    assert f"Topic {kafka.topics.events} has 4 partitions, and kafka.partitions is 2" in said
    assert "Set kafka.partitions = 4 and kafka.homes = 2" in said
    assert "Traceback" not in worker.said
