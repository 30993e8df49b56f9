"""Brokers that tests start, and what tests do with topics."""

import asyncio
import base64
import itertools
import os
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.admin.records_to_delete import RecordsToDelete
from aiokafka.structs import ConsumerRecord, RecordMetadata

from driftline.schemas.codec import encode_event, encode_events
from driftline.schemas.events import Event, Tick
from driftline.streams.embedded_kafka import die_with_parent
from driftline.streams.runtime.admin import apply_topics
from driftline.streams.runtime.config import KafkaConfig

START_TIMEOUT_S = 60.0

# For tests of what brokers do differently: joins, commits, what a restart finds. Others run on one, see `broker`.
on_each_broker = pytest.mark.parametrize(
    "broker", ["embedded", pytest.param("apache", marks=pytest.mark.kafka)], indirect=True
)


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True)
class Broker:
    """A running broker. Tests keep apart by prefix: `config()` gives a new one each time."""

    name: str
    base: KafkaConfig
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def config(self, **changes: Any) -> KafkaConfig:
        return self.base.model_copy(update={"prefix": f"t{os.getpid()}-{next(self._numbers)}", **changes})


class ApacheKafka:
    """One KRaft node from an Apache Kafka download, with its own ports and data folder."""

    def __init__(self, home: Path, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.port, self._controller_port = find_free_port(), find_free_port()
        self._bin, self._folder = home / "bin", folder
        self._properties = folder / "server.properties"
        self._more = environment or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def brokers(self) -> str:
        return f"127.0.0.1:{self.port}"

    def format(self) -> None:
        listeners = f"PLAINTEXT://127.0.0.1:{self.port}"
        controller = f"127.0.0.1:{self._controller_port}"
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{controller}",
            "listeners": f"{listeners},CONTROLLER://{controller}",
            "advertised.listeners": listeners,
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "log.dirs": str(self._folder / "data"),
            "auto.create.topics.enable": "false",
            # One node: internal topics cannot be replicated.
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            # Groups start at once and notice a dead member within seconds.
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
        }
        self._properties.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        cluster = base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=").replace("-", "_")  # no leading "-"
        subprocess.run(
            [self._bin / "kafka-storage.sh", "format", "-t", cluster, "-c", str(self._properties)],
            env=self._environment(), check=True, capture_output=True,
        )  # fmt: skip

    def start(self) -> None:
        log = (self._folder / "server.log").open("ab")
        self._process = subprocess.Popen(
            [self._bin / "kafka-server-start.sh", self._properties],
            env=self._environment(),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
        log.close()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers(self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Apache Kafka did not start, see {self._folder}/server.log")
            time.sleep(0.05)

    def kill(self) -> None:
        """As a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _environment(self) -> dict[str, str]:
        own = {"LOG_DIR": str(self._folder / "logs"), "KAFKA_HEAP_OPTS": "-Xmx512m"}
        return {**os.environ, **own, **self._more}


def answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Kafka:
    """A test's own topics on a broker, and what tests do with them."""

    def __init__(self, config: KafkaConfig) -> None:
        self.config = config
        self.topics = config.topics
        self._producer: AIOKafkaProducer | None = None

    @property
    def producer(self) -> AIOKafkaProducer:
        assert self._producer is not None, "use it as an async context manager"
        return self._producer

    async def __aenter__(self) -> Self:
        await apply_topics(self.config, self.topics)
        producer = AIOKafkaProducer(**self.config.client_options(), **self.config.producer_options(linger_ms=0))
        await producer.start()
        self._producer = producer
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._producer is not None:
            await self._producer.stop()

    async def send(
        self, topic: str, value: bytes | None, *, key: bytes | None = None, partition: int = 0
    ) -> RecordMetadata:
        return await self.producer.send_and_wait(topic, value, key=key, partition=partition)

    async def send_many(
        self, topic: str, values: Sequence[bytes], *, key: bytes | None = None, partition: int = 0
    ) -> None:
        acks = [await self.producer.send(topic, value, key=key, partition=partition) for value in values]
        await asyncio.gather(*acks)

    async def send_events(self, events: Sequence[Event], *, partition: int = 0) -> RecordMetadata:
        """As one record, an array; control records signed."""
        signed = self.topics.controls.all_signed(events, partition)
        return await self.send(self.topics.events, encode_events(signed), partition=partition)

    async def tick(self, ts: int) -> None:
        """To every partition of the events topic."""
        for partition in range(self.config.partitions):
            value = encode_event(self.topics.controls.signed(Tick(ts=ts), partition))
            await self.send(self.topics.events, value, partition=partition)

    async def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """As retention does."""
        admin = AIOKafkaAdminClient(**self.config.client_options())
        await admin.start()
        try:
            await admin.delete_records({TopicPartition(topic, partition): RecordsToDelete(offset)})
        finally:
            await admin.close()

    async def alter(self, topic: str, settings: dict[str, str]) -> None:
        """Returns once the broker tells of them."""
        admin = AIOKafkaAdminClient(**self.config.client_options())
        await admin.start()
        try:
            [answer] = await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, settings)])
            assert [code for code, *_ in answer.resources] == [0], answer

            async def told() -> bool:
                [described] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic)])
                [(*_, entries)] = described.resources
                return settings.items() <= {entry[0]: entry[1] for entry in entries}.items()

            await eventually(told, f"{topic} is altered")
        finally:
            await admin.close()

    async def add_partitions(self, topic: str, partitions: int) -> None:
        """Until there are so many, as `kafka-topics --alter` does."""
        admin = AIOKafkaAdminClient(**self.config.client_options())
        await admin.start()
        try:
            await admin.create_partitions({topic: NewPartitions(partitions)})

            async def there() -> bool:
                [described] = await admin.describe_topics([topic])
                return len(described["partitions"]) == partitions

            await eventually(there, f"{topic} has {partitions} partitions")
        finally:
            await admin.close()

    async def make_anew(self, topic: str) -> None:
        """Delete a topic and create it."""
        admin = AIOKafkaAdminClient(**self.config.client_options())
        await admin.start()
        try:
            await admin.delete_topics([topic])

            async def gone() -> bool:
                return topic not in await admin.list_topics()

            await eventually(gone, f"{topic} is deleted")
        finally:
            await admin.close()
        await apply_topics(self.config, self.topics)

    async def read(self, topic: str) -> list[ConsumerRecord]:
        """Everything in the topic now, by partition and offset."""
        partitions = [TopicPartition(topic, number) for number in range(self.config.partitions)]
        consumer = AIOKafkaConsumer(
            **self.config.client_options(),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=20,
            isolation_level="read_committed",
        )
        await consumer.start()
        found: list[ConsumerRecord] = []
        try:
            consumer.assign(partitions)
            await consumer.seek_to_beginning(*partitions)
            unread = set(partitions)
            while unread:
                for records in (await consumer.getmany(*unread, timeout_ms=50)).values():
                    found += records
                for tp in list(unread):
                    highwater = consumer.highwater(tp)  # of a fetch: the embedded broker's "latest offset" is too low
                    if highwater is not None and await consumer.position(tp) >= highwater:
                        unread.discard(tp)
        finally:
            await consumer.stop()
        return sorted(found, key=lambda record: (record.partition, record.offset))


async def eventually(
    condition: Callable[[], Awaitable[object]], what: str, *, timeout_s: float = 30.0, every_s: float = 0.05
) -> Any:
    """The first true value of `condition()`; fails the test after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not (value := await condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {what}")
        await asyncio.sleep(every_s)
    return value
