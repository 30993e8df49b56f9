import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer

from driftline.producers import kafka
from driftline.producers.config import ProducerConfig
from driftline.schemas.codec import decode_events
from driftline.schemas.events import Event, Trace
from tests.brokers import Broker

Behaviour = Callable[[bytes], BaseException | None]


class FakeCluster:
    """Stands where aiokafka's producer stands: keeps what it acknowledged, fails as told."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes, bytes]] = []
        self.producers = 0
        self.refuse_connections = 0
        self.fail: Behaviour = lambda value: None  # of the send call
        self.fail_ack: Behaviour = lambda value: None  # of the acknowledgement
        self.open = threading.Event()  # unset: acknowledgements wait
        self.open.set()

    async def connect(self, config: ProducerConfig) -> "FakeCluster":
        self.producers += 1
        if self.refuse_connections:
            self.refuse_connections -= 1
            raise ConnectionRefusedError("no broker")
        return self

    async def disconnect(self, producer: "FakeCluster") -> None:
        assert producer is self

    async def send(self, topic: str, value: bytes, key: bytes) -> "asyncio.Future[None]":
        if error := self.fail(value):
            raise error
        return asyncio.ensure_future(self._acknowledge(value, key))

    async def _acknowledge(self, value: bytes, key: bytes) -> None:
        while not self.open.is_set():  # noqa: ASYNC110  set by another thread
            await asyncio.sleep(0.001)
        if error := self.fail_ack(value):
            raise error
        self.records.append((key, value))

    def events(self) -> list[Event]:
        return [event for _, value in self.records for event in decode_events(value).events]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    fake = FakeCluster()
    monkeypatch.setattr(kafka, "connect", fake.connect)
    monkeypatch.setattr(kafka, "disconnect", fake.disconnect)
    return fake


@pytest.fixture
def tansu(embedded_kafka: Broker) -> str:
    return embedded_kafka.base.brokers


def eventually(condition: Callable[[], Any], timeout: float = 20.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


@pytest.fixture
def until() -> Callable[..., None]:
    return eventually


async def _read_traces(brokers: str, topic: str, count: int) -> list[Trace]:
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=brokers, auto_offset_reset="earliest", enable_auto_commit=False, group_id=None
    )
    await consumer.start()
    traces: list[Trace] = []
    try:
        async with asyncio.timeout(20):
            while len(traces) < count:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        events = decode_events(record.value).events
                        traces.extend(event for event in events if isinstance(event, Trace))
    finally:
        await consumer.stop()
    return traces


@pytest.fixture
def read_traces() -> Callable[[str, str, int], Awaitable[list[Trace]]]:
    return _read_traces


async def _until_async(condition: Callable[[], Any], timeout: float = 20.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110  the condition has no event
            await asyncio.sleep(0.005)


@pytest.fixture
def until_async() -> Callable[..., Awaitable[None]]:
    return _until_async
