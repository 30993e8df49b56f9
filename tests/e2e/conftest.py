"""One running stack for all end-to-end tests."""

import signal
from collections.abc import AsyncIterator, Iterator

import pytest
from pydantic import SecretStr

from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.streams.running import KEY, find
from driftline.streams.runtime.config import KafkaConfig
from tests.brokers import Kafka
from tests.e2e.stack import RunningStack, stack_environment, start_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    folder = tmp_path_factory.mktemp("stack")
    environment = stack_environment(folder / "state")
    log = folder / "up.log"
    process = start_stack(environment, log)
    brokers = f"127.0.0.1:{environment['DRIFTLINE_STACK__KAFKA_PORT']}"
    running = find(folder / "state")
    assert running is not None
    dsn = running.clickhouse
    key = folder / "state" / KEY  # the test's ticks are the stack's
    kafka = KafkaConfig(partitions=2).for_embedded().model_copy(update={"brokers": brokers, "control_key_file": key})
    yield RunningStack(process, log, environment, kafka, ClickHouseConfig(dsn=SecretStr(dsn)))
    process.send_signal(signal.SIGINT)  # nothing to one that has ended
    process.wait(timeout=10)


@pytest.fixture
async def events(stack: RunningStack) -> AsyncIterator[Kafka]:
    async with Kafka(stack.kafka) as kafka:
        yield kafka
