import os
import random

import cramjam
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from driftline.schemas.codec import pack
from driftline.schemas.errors import PermanentError
from driftline.streams.runtime.state import LIMIT, State, decode, encode, key, read_newest
from tests.brokers import Kafka, on_each_broker


async def test_a_state_survives_encoding() -> None:
    state = State(offset=41, published={"windows": 7}, snapshot=b"\x00abc" * 1000)
    value = await encode(state)
    assert decode(value) == state
    assert len(value) < 200, "it is compressed"


async def test_a_state_of_another_version_is_refused() -> None:
    with pytest.raises(PermanentError, match="version 2, this Driftline reads 1"):
        decode(pack([2, 0, {}, b""]))


async def test_a_state_that_fits_no_record_is_refused_before_it_is_sent() -> None:
    with pytest.raises(PermanentError, match="spread the apps over more partitions"):
        await encode(State(0, {}, os.urandom(LIMIT)))


ZEROS = bytes(cramjam.zstd.compress(bytes(2**28 + 1)))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (b"", "The record is no state"),
        (b"\xff" * 100, "The record is no state"),
        (b"\xdd\xff\xff\xff\xff", "The record is no state"),  # an array of four billion, it says
        (b"\x91" * 5_000, "The record is no state"),
        (pack([1, 0, {}, b"no zstd"]), "The record is no state"),
        (pack([1, 0, {}, ZEROS]), "The record is no state"),
        (pack([1, 0, {}, ZEROS, [], {}, -1, "", 7]), "its checksum is that of other bytes"),
    ],
)
def test_what_is_no_state_is_refused_in_bounded_memory(value: bytes, why: str) -> None:
    with pytest.raises(PermanentError, match=why):
        decode(value)


async def test_a_state_that_was_cut_or_is_anothers_is_refused() -> None:
    value = await encode(State(offset=41, published={}, snapshot=os.urandom(1000), fold="drift"))
    assert decode(value, "drift") == decode(value)
    with pytest.raises(PermanentError, match="The state is that of drift"):
        decode(value, "monitor")
    rng = random.Random(1)
    for _ in range(200):
        damaged = bytearray(value)
        damaged[rng.randrange(len(value))] ^= 1 << rng.randrange(8)
        for wrong in (bytes(damaged), value[: rng.randrange(len(value))]):
            try:
                assert decode(wrong).snapshot == decode(value).snapshot
            except PermanentError:
                continue


@on_each_broker
async def test_the_newest_record_of_each_partition_is_found(kafka: Kafka) -> None:
    topic = kafka.topics.state("monitor")
    large = await encode(State(3, {}, os.urandom(LIMIT - 1000)))
    for offset in range(3):
        await kafka.send(topic, await encode(State(offset, {}, b"")), key=key(0))
    await kafka.send(topic, large, key=key(0))
    assert {tp.partition: value for tp, value in (await newest(kafka, topic)).items()} == {0: large}


@on_each_broker
async def test_the_last_record_of_a_batch_is_found(kafka: Kafka) -> None:
    """The embedded broker's "latest offset" is that of the first record of the last batch, plus one."""
    topic = kafka.topics.state("monitor")
    await kafka.send_many(topic, [b"%d" % number for number in range(20)], key=key(1), partition=1)
    assert await newest(kafka, topic) == {TopicPartition(topic, 1): b"19"}


async def newest(kafka: Kafka, topic: str) -> dict[TopicPartition, bytes]:
    consumer = AIOKafkaConsumer(**kafka.config.client_options(), enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in range(kafka.config.partitions)]
        return {tp: record.value for tp, record in (await read_newest(consumer, partitions)).items()}
    finally:
        await consumer.stop()
