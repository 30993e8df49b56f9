"""Kafka topics read as files: no group is joined, nothing is committed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection, Mapping
from typing import Self, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from driftline.schemas.errors import RetryableError
from driftline.streams.runtime.admin import require_topics
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.state import read_newest

T = TypeVar("T")

SILENT_S = 30.0  # a broker that gives no answer for so long is taken for gone
FETCH_BYTES = 4 * 2**20  # of a partition at once
WAIT_MS = 50


class Reading:
    """Partitions from given offsets to where each ended when it was first fetched."""

    def __init__(self, consumer: AIOKafkaConsumer, starts: Mapping[TopicPartition, int]) -> None:
        self._consumer = consumer
        self.starts = dict(starts)
        self.ends: dict[TopicPartition, int] = {}  # complete after the last record
        self.positions = dict(starts)  # how far it has read
        self.held: dict[TopicPartition, int] = {}  # records behind a transaction that was open then

    def stop(self, partition: TopicPartition) -> None:
        """Enough of this partition."""
        self.ends[partition] = self.positions[partition] = self.starts[partition]

    async def __aiter__(self) -> AsyncIterator[tuple[TopicPartition, list[ConsumerRecord]]]:
        """Records in order, per partition.

        :raises RetryableError: the broker went away, or deleted the beginning of what was to be read.
        """
        consumer, unread = self._consumer, set(self.starts)
        if not unread:
            return
        consumer.assign(list(self.starts))
        for tp, start in self.starts.items():
            consumer.seek(tp, start)
        now = asyncio.get_running_loop().time
        heard = now()
        while unread:
            fetched: dict[TopicPartition, list[ConsumerRecord]] = await _asked(
                consumer.getmany(*unread, timeout_ms=WAIT_MS)
            )
            for tp in unread - self.ends.keys():
                # Of a fetch: the embedded broker's answer to "latest offset" is too low.
                end = _end(consumer, tp)
                if end is not None:
                    self.ends[tp] = max(end, self.starts[tp])
                    self.held[tp] = max(0, (consumer.highwater(tp) or 0) - self.ends[tp])
                    heard = now()
            for tp, records in fetched.items():
                end = self.ends[tp]
                yield tp, records if records[-1].offset < end else [r for r in records if r.offset < end]
                heard = now()  # after what the reader does with them, which is none of Kafka's silence
            for tp in unread & self.ends.keys():
                self.positions[tp] = min(await _asked(consumer.position(tp)), self.ends[tp])
            unread = {tp for tp in unread if tp not in self.ends or self.positions[tp] < self.ends[tp]}
            if now() - heard > SILENT_S:
                raise RetryableError(f"Kafka has not answered for {SILENT_S:g} s: is it up?")


class Log:
    """The topics of one cluster. Use it as an async context manager."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._consumer = self._new_consumer()

    def _new_consumer(self, group: str | None = None) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            group_id=group, max_partition_fetch_bytes=FETCH_BYTES, **self._config.reader_options(WAIT_MS)
        )

    async def __aenter__(self) -> Self:
        """:raises RetryableError: Kafka does not answer."""
        await self._start(self._consumer)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def _start(self, consumer: AIOKafkaConsumer) -> None:
        try:
            await consumer.start()
        except KafkaError as error:
            await consumer.stop()
            raise RetryableError(self._config.no_answer(error)) from error

    async def partitions(self, topic: str) -> list[TopicPartition]:
        """:raises ConfigError: the topic is missing, or has another number of partitions than configured."""
        await require_topics(self._config, [topic])
        return [TopicPartition(topic, number) for number in range(self._config.partitions)]

    async def beginnings(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """The first offsets that retention has left."""
        found: dict[TopicPartition, int] = await _asked(self._consumer.beginning_offsets(list(partitions)))
        return found

    async def starts(self, partitions: Collection[TopicPartition], sent_from: int | None) -> dict[TopicPartition, int]:
        """The first offsets of records sent at `sent_from` (microseconds) or later; None: the beginnings. A partition
        with no such record is read from its beginning."""
        starts = await self.beginnings(partitions)
        if sent_from is not None:
            times = {tp: max(0, sent_from) // 1_000 for tp in partitions}
            for tp, found in (await _asked(self._consumer.offsets_for_times(times))).items():
                if found is not None:
                    starts[tp] = max(starts[tp], found.offset)
        return starts

    async def ends(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """The offsets after the last records, as a fetch tells: the embedded broker's own answer is too low."""
        reading = self.read(await _asked(self._consumer.end_offsets(list(partitions))))
        async for _ in reading:
            pass
        return reading.ends

    def read(self, starts: Mapping[TopicPartition, int]) -> Reading:
        """One at a time."""
        return Reading(self._consumer, starts)

    async def newest(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, ConsumerRecord]:
        """The last record of each partition that has one."""
        return await _asked(read_newest(self._consumer, partitions))

    async def committed(self, group: str, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """The next offset that a consumer group would read; 0 where it has committed nothing."""
        consumer = self._new_consumer(group)
        await self._start(consumer)
        try:
            consumer.assign(list(partitions))
            return {tp: await _asked(consumer.committed(tp)) or 0 for tp in partitions}
        finally:
            await consumer.stop()


def _end(consumer: AIOKafkaConsumer, tp: TopicPartition) -> int | None:
    """Of a partition that was fetched: before the first transaction that is still open."""
    highwater: int | None = consumer.highwater(tp)
    stable: int | None = consumer.last_stable_offset(tp)
    return stable if highwater is not None and stable is not None and 0 <= stable < highwater else highwater


async def _asked(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except OffsetOutOfRangeError as error:
        raise RetryableError("retention deleted the beginning of the topic while it was read: run it again") from error
    except KafkaError as error:
        raise RetryableError(f"Kafka refused: {error!r}") from error
