"""Fixtures that several parts of the tests share: a broker of each kind, and fresh topics on them."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest

from driftline.streams.embedded_kafka import EmbeddedKafka
from driftline.streams.runtime.config import KafkaConfig
from tests.brokers import ApacheKafka, Broker, Kafka, find_free_port

hypothesis.settings.register_profile("driftline", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("driftline")


@pytest.fixture
def free_port() -> int:
    return find_free_port()


@pytest.fixture(scope="session")
def embedded_kafka() -> Iterator[Broker]:
    with EmbeddedKafka(find_free_port()) as kafka:
        yield Broker("embedded", KafkaConfig(brokers=kafka.brokers, partitions=2).for_embedded())


@pytest.fixture(scope="session")
def apache_kafka_home() -> Path:
    home = os.environ.get("KAFKA_HOME")
    if not home:
        pytest.skip("KAFKA_HOME is not set: unpack an Apache Kafka download and point it there")
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip("Apache Kafka needs Java 17, and there is no java")
    return Path(home).resolve()


@pytest.fixture(scope="session")
def apache_kafka_node(apache_kafka_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApacheKafka]:
    node = ApacheKafka(apache_kafka_home, tmp_path_factory.mktemp("apache-kafka"))
    node.format()
    node.start()
    try:
        yield node
    finally:
        node.kill()


@pytest.fixture(scope="session")
def apache_kafka(apache_kafka_node: ApacheKafka) -> Broker:
    config = KafkaConfig(brokers=apache_kafka_node.brokers, partitions=2, session_timeout_s=2, heartbeat_interval_s=0.3)
    return Broker("apache", config)


@pytest.fixture(params=["embedded", pytest.param("apache", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> Broker:
    """Each test that asks for it runs on the embedded broker and on Apache Kafka."""
    found: Broker = request.getfixturevalue("embedded_kafka" if request.param == "embedded" else "apache_kafka")
    return found


@pytest.fixture(scope="session")
def kafka_container() -> Iterator[Broker]:
    image = os.environ.get("DRIFTLINE_TEST_KAFKA_IMAGE", "confluentinc/cp-kafka:8.0.0")
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker engine answers")
    if subprocess.run([docker, "image", "inspect", image], capture_output=True, check=False).returncode:
        pytest.skip(f"image {image} is absent: docker pull {image}, or set DRIFTLINE_TEST_KAFKA_IMAGE")
    from testcontainers.community.kafka import KafkaContainer

    with KafkaContainer(image=image).with_kraft() as container:
        yield Broker("container", KafkaConfig(brokers=container.get_bootstrap_server(), partitions=2))


@pytest.fixture
async def kafka(broker: Broker) -> AsyncIterator[Kafka]:
    """Fresh topics on each kind of broker."""
    async with Kafka(broker.config()) as kafka:
        yield kafka
