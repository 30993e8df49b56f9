"""What clients rely on, client by client: acks, idempotence, transactions, codecs, headers, keys, batches, large ones.
Partitioners and mixed arrays are in `test_foreign_clients.py`; kafkajs is there, kcat in `test_producers_md.py`."""

import asyncio
import itertools
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka import Producer

from driftline.schemas.codec import encode_event, encode_events
from driftline.schemas.events import Trace
from tests.brokers import on_each_broker
from tests.streams.operate.conftest import Pipeline, trace
from tests.streams.operate.test_foreign_clients import counted

LARGE = 4 * 2**20  # bytes of a text, which a codec makes small
LIMIT = 8 * 2**20  # what clients are told to send at most
YEARS_AGO_MS = 1_600_000_000_000


@dataclass(frozen=True)
class Way:
    """How a producer is set up."""

    acks: int = -1  # all
    codec: str = "none"
    idempotent: bool = False
    transaction: str = ""  # its name; empty: none
    commits: bool = True


class Sent(NamedTuple):
    value: bytes
    key: bytes | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
    timestamp_ms: int | None = None


Send: TypeAlias = Callable[[str, str, Way, list[Sent]], None]
"""(brokers, topic, way, records): returns when the broker has them"""


def with_librdkafka(brokers: str, topic: str, way: Way, records: list[Sent]) -> None:
    config: dict[str, Any] = {
        "bootstrap.servers": brokers,
        "acks": way.acks,
        "compression.type": way.codec,
        "enable.idempotence": way.idempotent,
        "linger.ms": 20,
        "message.max.bytes": LIMIT,
        "message.copy.max.bytes": LIMIT,
        **({"transactional.id": way.transaction} if way.transaction else {}),
    }
    producer, errors = Producer(config), []
    if way.transaction:
        producer.init_transactions(30)
        producer.begin_transaction()
    for record in records:
        producer.produce(
            *(topic, record.value, record.key),
            headers=list(record.headers),
            timestamp=record.timestamp_ms or 0,
            on_delivery=lambda error, _: errors.append(error) if error else None,
        )
    assert producer.flush(30) == 0
    assert errors == []
    if way.transaction:
        (producer.commit_transaction if way.commits else producer.abort_transaction)(30)


def with_kafka_python(brokers: str, topic: str, way: Way, records: list[Sent]) -> None:
    script = Path(__file__).with_name("kafka_python_client.py")
    given = pickle.dumps((brokers, topic, asdict(way), [tuple(record) for record in records], LIMIT))
    subprocess.run([sys.executable, "-W", "ignore", script], input=given, check=True, timeout=120)


def with_aiokafka(brokers: str, topic: str, way: Way, records: list[Sent]) -> None:
    async def send() -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=brokers,
            acks={-1: "all"}.get(way.acks, way.acks),
            compression_type=None if way.codec == "none" else way.codec,
            enable_idempotence=way.idempotent,
            linger_ms=20,
            max_request_size=LIMIT,
            transactional_id=way.transaction or None,
        )
        async with producer:
            if way.transaction:
                await producer.begin_transaction()
            acks = [
                await producer.send(topic, r.value, r.key, headers=list(r.headers), timestamp_ms=r.timestamp_ms)
                for r in records
            ]
            await asyncio.gather(*acks)
            if way.transaction:
                await (producer.commit_transaction if way.commits else producer.abort_transaction)()

    asyncio.run(send())


CLIENTS: dict[str, tuple[Send, tuple[str, ...]]] = {  # and the codecs that it brings
    "librdkafka": (with_librdkafka, ("none", "gzip", "snappy", "lz4", "zstd")),
    "kafka-python": (with_kafka_python, ("none", "gzip", "lz4")),
    "aiokafka": (with_aiokafka, ("none", "gzip", "snappy", "lz4", "zstd")),
}


def ways(codecs: tuple[str, ...], *, apache: bool) -> Iterator[Way]:
    yield from (Way(codec=codec) for codec in codecs)
    yield Way(acks=1)
    if apache:
        yield Way(idempotent=True, codec="gzip")
        for number, commits in enumerate((True, False, True)):
            yield Way(idempotent=True, codec="lz4", transaction=f"t{number % 2}", commits=commits)


def records(numbers: Iterator[int]) -> list[Sent]:
    """One of each shape, and a run of small ones, which becomes one batch."""

    def one(**fields: Any) -> Trace:
        return trace(next(numbers), 1, **fields)

    return [
        Sent(encode_event(one()), b"bot"),
        Sent(encode_event(one())),
        Sent(encode_event(one()), b"\xff\x00"),
        Sent(encode_events([one() for _ in range(50)]), b"bot", (("traceparent", b"00-ab"), ("", b""), ("é", b"\xff"))),
        Sent(encode_event(one()), b"bot", timestamp_ms=YEARS_AGO_MS),
        Sent(encode_event(one(input_text="so long " * (LARGE // 8))), b"bot"),
        *(Sent(encode_event(one()), b"bot") for _ in range(200)),
    ]


EVENTS = 255


@on_each_broker
@pytest.mark.parametrize("client", CLIENTS)
async def test_every_event_is_counted_once(pipeline_on_each: Pipeline, client: str) -> None:
    pipeline, numbers, sent = pipeline_on_each, itertools.count(), Counter[str]()
    send, codecs = CLIENTS[client]
    kafka = pipeline.kafka
    for partition in range(kafka.config.partitions):  # a log that begins with what was aborted would look cut
        await kafka.send(kafka.topics.events, encode_event(trace(next(numbers), 1)), partition=partition)
        sent["bot"] += 1
    for way in ways(codecs, apache=kafka.config.idempotent):
        way = replace(way, transaction=way.transaction and f"{kafka.config.prefix}-{way.transaction}")
        await asyncio.to_thread(send, kafka.config.brokers, kafka.topics.events, way, records(numbers))
        sent["bot"] += EVENTS if way.commits else 0
    await counted(pipeline, sent)
    letters = pipeline.command("SELECT count() FROM dead_letters")
    assert letters == "0"
