"""The state topic: one record per source partition holds everything of that partition, and the offset it stands for.

One record is at worst old, never torn. The newest record of a partition of the topic is the partition's state: there is
one key per partition, and one writer.
"""

import asyncio
from collections.abc import Collection

import cramjam
import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.structs import ConsumerRecord

from driftline.schemas.codec import pack, unpack
from driftline.schemas.errors import PermanentError
from driftline.schemas.topics import LARGE

VERSION = 1
LIMIT = LARGE - 128 * 1024  # leaves room for what Kafka's record format and a second compression add
_LEVEL = 3  # zstd's own default


class State(msgspec.Struct, frozen=True):
    """Of one source partition, after absorbing everything up to `offset`."""

    offset: int
    published: dict[str, int]  # topic -> offset of the newest result in the partition's partition of it
    snapshot: bytes


class _Stored(msgspec.Struct, frozen=True, array_like=True):
    version: int
    offset: int
    published: dict[str, int]
    compressed: bytes


def key(partition: int) -> bytes:
    return b"p%d" % partition


async def encode(state: State) -> bytes:
    """The record's value. Compresses on another thread.

    :raises PermanentError: too large for one record.
    """
    compressed = bytes(await asyncio.to_thread(cramjam.zstd.compress, state.snapshot, _LEVEL))
    value = pack(_Stored(VERSION, state.offset, state.published, compressed))
    if len(value) > LIMIT:
        raise PermanentError(
            f"The state is {len(value) / 2**20:.1f} MiB compressed, and {LIMIT / 2**20:.1f} MiB fit in one record: "
            "spread the apps over more partitions, or lower what is kept per app"
        )
    return value


def decode(value: bytes) -> State:
    """:raises PermanentError: written by another version of Driftline."""
    stored = unpack(value, _Stored)
    if stored.version != VERSION:
        raise PermanentError(
            f"The state has version {stored.version}, this Driftline reads {VERSION}: install the one that wrote it"
        )
    return State(stored.offset, stored.published, bytes(cramjam.zstd.decompress(stored.compressed)))


async def read_newest(
    consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition]
) -> dict[TopicPartition, ConsumerRecord]:
    """The newest record of each partition that has one. The consumer is started, and of no group."""
    newest: dict[TopicPartition, ConsumerRecord] = {}
    if not partitions:
        return newest
    consumer.assign(list(partitions))
    first = await consumer.beginning_offsets(partitions)
    end = await consumer.end_offsets(partitions)
    for tp in partitions:
        consumer.seek(tp, max(first[tp], end[tp] - 1))
    await _read_to_end(consumer, partitions, newest)
    # The last offset may hold no record (a transaction's marker, say): then look through the whole partition.
    holes = [tp for tp in partitions if tp not in newest and end[tp] > first[tp]]
    for tp in holes:
        consumer.seek(tp, first[tp])
    await _read_to_end(consumer, holes, newest)
    return newest


async def _read_to_end(
    consumer: AIOKafkaConsumer, partitions: Collection[TopicPartition], newest: dict[TopicPartition, ConsumerRecord]
) -> None:
    """The end is the high water mark of a fetch. An empty poll is not the end, and the embedded broker's answer to
    "latest offset" is the first offset of the last batch plus one."""
    unread = set(partitions)
    while unread:
        for tp, records in (await consumer.getmany(*unread, timeout_ms=50)).items():
            newest[tp] = records[-1]
        unread = {tp for tp in unread if not await _at_end(consumer, tp)}


async def _at_end(consumer: AIOKafkaConsumer, tp: TopicPartition) -> bool:
    highwater = consumer.highwater(tp)
    return highwater is not None and await consumer.position(tp) >= highwater
