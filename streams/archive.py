"""The archive role: every event and every result into ClickHouse, once. It is also the only role that dead-letters what
cannot be decoded.

In this order, always: rows are in ClickHouse and dead letters on their topic, both acknowledged; then the offsets are
committed. A crash in between repeats rows, and the tables keep one of several copies. While one batch is written, the
next is read.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from tenacity import AsyncRetrying, before_sleep_log, retry_if_exception_type, wait_random_exponential

from driftline.schemas.codec import Decoded, DecodeError, decode, decode_events, encode
from driftline.schemas.events import Tick, Trace
from driftline.schemas.ids import stable_id
from driftline.schemas.results import Alert, BreakerSignal, DeadLetter, Evidence, Result, RollbackSignal, WindowStats
from driftline.schemas.topics import LARGE, Topics
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.rows import TRACES, event_head, event_row, result_row, trace_row
from driftline.sinks.clickhouse.writer import Writer
from driftline.streams.ready import mark_ready
from driftline.streams.runtime.config import KafkaConfig

logger = logging.getLogger(__name__)

POLL_S = 0.5  # the longest that a stop goes unnoticed on a quiet stream
STOP_S = 2.0  # after a stop, what is read gets this long to be written; the rest is read again after the next start
FETCH_WAIT_MS = 250  # rows wait for their batch anyway, and idle fetches cost the broker
REBALANCE_S = 60.0
FETCH_BYTES = 4 * 2**20  # of a partition at once: more would hold up heartbeats while it is decoded
FOREVER_MS = 2**31 - 1


class Pricing(Protocol):
    def cost_usd(self, trace: Trace) -> float | None:
        """US dollars; None: unknown model, or no token counts."""


class Origin(NamedTuple):
    """Where a row comes from."""

    record: ConsumerRecord
    position: int  # among the decoded events of the record
    element: int  # of the record's array; -1: the whole record


class Batch:
    """Consumed records as rows, and the offsets that stand for them. No I/O."""

    def __init__(self, topics: Topics, pricing: Pricing) -> None:
        self._events = topics.events
        self._types: dict[str, type[Result] | type[DeadLetter]] = result_types(topics)
        self._pricing = pricing
        self.rows: dict[str, list[bytes]] = {}
        self.origins: dict[str, list[Origin]] = {}
        self.letters: list[DeadLetter] = []
        self.offsets: dict[TopicPartition, int] = {}  # of the next record to read
        self.size = 0
        self.bytes = 0

    def add(self, partition: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        for record in records:
            if record.topic == self._events:
                self._add_events(record)
            else:
                self._add_result(record)
        self.offsets[partition] = records[-1].offset + 1

    def _add_events(self, record: ConsumerRecord) -> None:
        decoded = decode_events(record.value)
        indices = _indices(record.value, decoded)
        head = event_head(record.offset)
        for position, event in enumerate(decoded.events):
            if isinstance(event, Tick):
                continue
            if isinstance(event, Trace):
                price = self._pricing.cost_usd(event) if event.cost_usd is None else None
                table, row = TRACES, trace_row(event, head, price)
            else:
                table, row = event_row(event, head)
            self._add_row(table, row, Origin(record, position, indices[position]))
        for reject in decoded.rejects:
            self.letters.append(dead_letter(record, reject.index, reject.reason, reject.raw))

    def _add_result(self, record: ConsumerRecord) -> None:
        try:
            result = decode(record.value, self._types[record.topic])
        except DecodeError as error:
            self.letters.append(dead_letter(record, -1, str(error), record.value or b""))
            return
        table, row = result_row(result, record.offset)
        self._add_row(table, row, Origin(record, 0, -1))

    def _add_row(self, table: str, row: bytes, origin: Origin) -> None:
        self.rows.setdefault(table, []).append(row)
        self.origins.setdefault(table, []).append(origin)
        self.size += 1
        self.bytes += len(row)


def result_types(topics: Topics) -> dict[str, type[Result] | type[DeadLetter]]:
    return {
        topics.windows: WindowStats,
        topics.evidence: Evidence,
        topics.alerts: Alert,
        topics.rollbacks: RollbackSignal,
        topics.breakers: BreakerSignal,
        topics.dlq: DeadLetter,
    }


def dead_letter(record: ConsumerRecord, index: int, reason: str, raw: bytes) -> DeadLetter:
    return DeadLetter(
        id=stable_id(record.topic, record.partition, record.offset, index),
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        index=index,
        reason=reason,
        raw=raw,
        key=record.key,
    )


def _indices(value: bytes | None, decoded: Decoded) -> Sequence[int]:
    """Where each decoded event stands in the record's array."""
    if not decoded.rejects:
        return range(len(decoded.events)) if value and value.lstrip()[:1] == b"[" else (-1,)
    taken = {reject.index for reject in decoded.rejects}
    return [i for i in range(len(decoded.events) + len(taken)) if i not in taken]


class Archive:
    """One member of the archive's consumer group."""

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        producer: AIOKafkaProducer,
        writer: Writer,
        topics: Topics,
        config: ClickHouseConfig,
        pricing: Pricing,
    ) -> None:
        self._consumer = consumer
        self._producer = producer
        self._writer = writer
        self._topics = topics
        self._config = config
        self._pricing = pricing
        self.counts: Counter[str] = Counter()  # rows by table, and dead letters sent; repeats included

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, and until what was read by then is written."""
        writing = asyncio.create_task(self._write(self._batch()))
        try:
            while not stop.is_set():
                batch = await self._read(stop)
                await writing
                writing = asyncio.create_task(self._write(batch))
            await writing
        finally:
            writing.cancel()
            counts = ", ".join(f"{n} {what}" for what, n in sorted(self.counts.items()))
            logger.info("Archived %s.", counts or "nothing")

    def _batch(self) -> Batch:
        return Batch(self._topics, self._pricing)

    async def _read(self, stop: asyncio.Event) -> Batch:
        """The next batch: full, or old enough; empty after a quiet while."""
        batch = self._batch()
        now = asyncio.get_running_loop().time
        closes = now() + POLL_S
        while not stop.is_set() and batch.size < self._config.batch_rows and batch.bytes < self._config.batch_bytes:
            left = closes - now()
            if left <= 0:
                break
            fetched = await self._consumer.getmany(timeout_ms=round(min(left, POLL_S) * 1000))
            if fetched and not batch.offsets:
                closes = now() + self._config.batch_age_s
            for partition, records in fetched.items():
                batch.add(partition, records)
                await asyncio.sleep(0)  # heartbeats go out between partitions
        return batch

    async def _write(self, batch: Batch) -> None:
        refusals = await asyncio.gather(*(self._insert(batch, table) for table in batch.rows))
        letters = [*batch.letters, *(letter for refused in refusals for letter in refused)]
        await self._send(letters)
        await self._commit(batch.offsets)
        self.counts.update({table: len(rows) for table, rows in batch.rows.items()})
        if letters:
            self.counts["dead letters sent"] += len(letters)

    async def _insert(self, batch: Batch, table: str) -> list[DeadLetter]:
        """Returns what ClickHouse refused."""
        letters = []
        for refused in await self._writer.insert(table, batch.rows[table]):
            record, position, element = batch.origins[table][refused.position]
            if record.topic == self._topics.dlq:  # a dead letter of a dead letter would come back for ever
                logger.error("ClickHouse refused the dead letter at %s[%d]@%d, left there: %s",
                             record.topic, record.partition, record.offset, refused.reason)  # fmt: skip
                continue
            raw = record.value if element == -1 else encode(decode_events(record.value).events[position])
            letters.append(dead_letter(record, element, refused.reason, raw))
        return letters

    async def _send(self, letters: list[DeadLetter]) -> None:
        """To the topic of dead letters, acknowledged. A repeat has the same id."""
        if letters:
            first = letters[0]
            logger.warning(
                "%d dead letters, the first from %s[%d]@%d: %s",
                *(len(letters), first.topic, first.partition, first.offset, first.reason),
            )
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(KafkaError),
            wait=wait_random_exponential(multiplier=0.4, max=self._config.retry_max_s),
            before_sleep=before_sleep_log(logger, logging.WARNING),
        ):
            with attempt:
                acks = [
                    await self._producer.send(
                        self._topics.dlq, encode(letter), key=letter.key, partition=letter.partition
                    )
                    for letter in letters
                ]
                await asyncio.gather(*acks)

    async def _commit(self, offsets: dict[TopicPartition, int]) -> None:
        """Partitions that went to another member are its to commit: what we wrote of them it writes again."""
        mine = {tp: offset for tp, offset in offsets.items() if tp in self._consumer.assignment()}
        if not mine:
            return
        try:
            await self._consumer.commit(mine)
        except (CommitFailedError, IllegalStateError) as error:
            logger.info("Offsets not committed, the group is rebalancing: %s", error)


class _MarkReady(ConsumerRebalanceListener):
    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        pass

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        mark_ready()


async def run_archive(
    kafka: KafkaConfig, clickhouse: ClickHouseConfig, topics: Topics, pricing: Pricing, *, stop: asyncio.Event
) -> None:
    """Archive until `stop` is set. Waits for ClickHouse for as long as it is away; raises ConfigError for a database
    whose migrations are not ours."""
    work = asyncio.create_task(_archive(kafka, clickhouse, topics, pricing, stop))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        done, _ = await asyncio.wait({work}, timeout=STOP_S)
        if done:
            work.result()
        else:
            logger.warning("Stopped before ClickHouse took the last rows: they are read again after the next start.")
    finally:
        stopped.cancel()
        work.cancel()
        await asyncio.wait({work, stopped})


async def _archive(
    kafka: KafkaConfig, clickhouse: ClickHouseConfig, topics: Topics, pricing: Pricing, stop: asyncio.Event
) -> None:
    writer = await Writer.open(clickhouse)
    consumer = AIOKafkaConsumer(
        group_id=f"{topics.prefix}.archive",
        # ClickHouse may be away for hours. Heartbeats alone say that this member lives, so it keeps its partitions.
        max_poll_interval_ms=FOREVER_MS,
        rebalance_timeout_ms=round(REBALANCE_S * 1000),
        max_partition_fetch_bytes=FETCH_BYTES,
        **kafka.client_options(),
        **{**kafka.group_options(), "fetch_max_wait_ms": FETCH_WAIT_MS},
    )
    producer = AIOKafkaProducer(**kafka.client_options(), **{**kafka.producer_options(), "max_request_size": 2 * LARGE})
    try:
        await producer.start()
        consumer.subscribe([topics.events, *result_types(topics)], listener=_MarkReady())
        await consumer.start()
        await Archive(consumer, producer, writer, topics, clickhouse, pricing).run(stop)
    finally:
        await consumer.stop()
        await producer.stop()
        await writer.close()
