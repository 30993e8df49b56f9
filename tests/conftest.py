"""Fixtures that several parts of the tests share: a broker of each kind, and fresh topics on them."""

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest

from driftline.streams.embedded_kafka import EmbeddedKafka
from driftline.streams.runtime.config import KafkaConfig
from tests.brokers import ApacheKafka, Broker, Kafka, find_free_port

# A busy machine is no failure. `make soak` looks for counterexamples for longer.
hypothesis.settings.register_profile("driftline", deadline=None, max_examples=30)
hypothesis.settings.register_profile("soak", deadline=None, max_examples=300)
hypothesis.settings.load_profile("driftline")

# A shell without job control has what it starts with `&` ignore Ctrl-C, which children inherit: here some must get it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Where a stack that runs is announced to commands elsewhere: tests run beside each other, and beside a user's stack.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="driftline-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

QUICK = ("benchmarks", "contract", "detectors", "schemas")  # folders


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts processes first, and last what only computes: workers take whole files, and small ones fill gaps."""
    tests = Path(__file__).parent
    items.sort(key=lambda item: item.path.relative_to(tests).parts[0] in QUICK)


@pytest.fixture
def free_port() -> int:
    return find_free_port()


@pytest.fixture(scope="session")
def embedded_kafka() -> Iterator[Broker]:
    with EmbeddedKafka(find_free_port()) as kafka:
        config = KafkaConfig(brokers=kafka.brokers, partitions=2).for_embedded()
        # Its joins take half the session, or twice that on a restart.
        yield Broker("embedded", config.model_copy(update={"session_timeout_s": 1.0, "heartbeat_interval_s": 0.2}))


def no_apache_kafka() -> str:
    """Why there is none; empty where there is."""
    if not os.environ.get("KAFKA_HOME"):
        return "KAFKA_HOME is not set: unpack an Apache Kafka download and point it there"
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        return "Apache Kafka needs Java 17, and there is no java"
    return ""


@pytest.fixture(scope="session")
def apache_kafka_home() -> Path:
    if reason := no_apache_kafka():
        pytest.skip(reason)
    return Path(os.environ["KAFKA_HOME"]).resolve()


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


@pytest.fixture
def broker(request: pytest.FixtureRequest) -> Broker:
    """Apache Kafka where there is one, else the embedded broker; each in turn for a test marked `on_each_broker`."""
    kind = getattr(request, "param", "embedded" if no_apache_kafka() else "apache")
    found: Broker = request.getfixturevalue(f"{kind}_kafka")
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
    """Fresh topics."""
    async with Kafka(broker.config()) as kafka:
        yield kafka
