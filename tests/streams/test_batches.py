"""Batches that inflate without end or cannot be read, on real brokers."""

import asyncio

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition

from driftline.schemas import batches
from driftline.schemas.codec import decode_events, encode_event
from driftline.schemas.events import Tick
from driftline.streams.operate.log import Log
from tests.brokers import Kafka, on_each_broker

TICK = encode_event(Tick(ts=1_793_606_400_000_000))


@on_each_broker
@pytest.mark.parametrize("compression", ["gzip", "snappy", "lz4", "zstd"])
async def test_a_bomb_is_one_reject_and_what_comes_after_it_is_read(
    kafka: Kafka, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "MOST_BYTES", 3_000_000)
    topic = kafka.topics.events
    options = {"enable_idempotence": False, "compression_type": compression, "max_request_size": 2**24}
    async with AIOKafkaProducer(**kafka.config.client_options(), **options) as producer:
        for value in (TICK, b"[%b]" % (b" " * 4_000_000), TICK):
            await producer.send_and_wait(topic, value, partition=0)
    async with Log(kafka.config) as log, asyncio.timeout(20):
        records = [record async for _, found in log.read({TopicPartition(topic, 0): 0}) for record in found]
    decoded = [decode_events(record.value) for record in records]
    assert [record.offset for record in records] == [0, 1, 2]
    assert [len(found.events) for found in decoded] == [1, 0, 1]
    assert "more than 3000000 bytes inflated" in decoded[1].rejects[0].reason


@on_each_broker
@pytest.mark.parametrize("compression", [None, "gzip", "lz4"])
async def test_headers_without_end_are_no_memory(kafka: Kafka, compression: str | None) -> None:
    """Two bytes of a header become a tuple and its place in a list."""
    topic = kafka.topics.events
    options = {"enable_idempotence": False, "compression_type": compression, "max_request_size": 2**24}
    many, few = [("", b"")] * 100_000, [("", b"")] * 1_000
    async with AIOKafkaProducer(**kafka.config.client_options(), **options) as producer:
        for headers in ([("a", b"b")], many, few, []):
            await producer.send_and_wait(topic, TICK, partition=0, headers=headers)
    async with Log(kafka.config) as log, asyncio.timeout(20):
        records = [record async for _, found in log.read({TopicPartition(topic, 0): 0}) for record in found]
    decoded = [decode_events(record.value) for record in records]
    assert [len(found.events) for found in decoded] == [1, 0, 1, 1]
    assert "a record in it has 100000 headers" in decoded[1].rejects[0].reason
    assert [len(record.headers) for record in records] == [1, 0, 0, 0]
