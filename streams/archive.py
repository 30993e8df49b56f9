"""The archive role: every event and every result into ClickHouse, once. It is also the only role that dead-letters what
cannot be decoded.

In this order, always: rows are in ClickHouse and dead letters on their topic, both acknowledged; then the offsets are
committed. A crash in between repeats rows, and the tables keep one of several copies. While one batch is written, the
next is read.
"""

import asyncio
import logging
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from operator import attrgetter
from typing import NamedTuple, Protocol

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError, KafkaTimeoutError
from tenacity import AsyncRetrying, before_sleep_log, retry_if_exception, wait_random_exponential

from driftline.schemas.clock import Clock, SystemClock
from driftline.schemas.codec import DecodeError, Reject, bounded, decode, decode_logged, encode
from driftline.schemas.events import CONTROLS, Trace
from driftline.schemas.ids import stable_id
from driftline.schemas.results import DeadLetter, result_types
from driftline.schemas.text import for_log
from driftline.schemas.topics import LARGE, Topics
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.errors import Answered
from driftline.sinks.clickhouse.rows import Row, TraceRow, complete_row, decode_rows, result_row, settle_cost
from driftline.sinks.clickhouse.writer import TablesAltered, Writer
from driftline.streams import metrics
from driftline.streams.fold import sent_at
from driftline.streams.health import Health
from driftline.streams.poison import ArchiveConfig, PoisonWatch
from driftline.streams.ready import mark_ready
from driftline.streams.runtime import lost
from driftline.streams.runtime.admin import require_cleanup, require_topics, wait_for_broker
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.watch import PATIENCE_S, ConsumerWatch, kafka_away
from driftline.streams.table_watch import watch_tables

logger = logging.getLogger(__name__)

POLL_S = 0.5  # the longest that a stop goes unnoticed on a quiet stream
STOP_S = 2.0  # after a stop, what is read gets this long to be written; the rest is read again after the next start
FETCH_WAIT_MS = 500  # rows wait for their batch anyway, and idle fetches cost the broker
REBALANCE_S = 60.0
FETCH_BYTES = 4 * 2**20  # of a partition at once: more would hold up heartbeats while it is decoded
FOREVER_MS = 2**31 - 1
CLICKHOUSE = "clickhouse"
MOST_RAW = LARGE  # bytes in a dead letter: base64 makes four of three, and its topic takes twice LARGE
EXCERPT = 64 * 1024  # bytes in one of a record that has more
TOLD = 2_000  # characters of a problem in a log line: a place, a reason and an example
MOST_KEY = 1_000  # bytes: an app's name has at most 800


class Pricing(Protocol):
    def cost_usd(self, trace: Trace) -> float | None:
        """US dollars; None: unknown model, or no token counts."""


class Origin(NamedTuple):
    """Where rows of a table come from: those from `row` on to the next origin."""

    row: int
    record: ConsumerRecord
    positions: Sequence[int]  # of each row, among the decoded events of the record


class Batch:
    """Consumed records as rows, and the offsets that stand for them. No I/O."""

    def __init__(self, topics: Topics, pricing: Pricing, poison: PoisonWatch) -> None:
        self._topics = topics
        self._types = result_types(topics)
        self._pricing = pricing
        self._poison = poison
        self.rows: dict[str, list[Row]] = {}
        self._origins: dict[str, list[Origin]] = {}
        self.letters: list[DeadLetter] = []
        self.offsets: dict[TopicPartition, int] = {}  # of the next record to read
        self.newest_ms: dict[TopicPartition, int] = {}  # Kafka's timestamp of the record before it
        self.oldest_ms: dict[str, int] = {}  # by topic
        self.taken: Counter[str] = Counter()  # records by topic
        self.events: Counter[str] = Counter()  # the same, of what the records hold
        self.size = 0
        self.bytes = 0

    def add(self, partition: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        add = self._add_events if partition.topic == self._topics.events else self._add_result
        for record in records:
            add(record)
            self.bytes += len(record.value or b"")
        self.offsets[partition] = records[-1].offset + 1
        self.newest_ms[partition] = records[-1].timestamp
        self.oldest_ms[partition.topic] = min(
            records[0].timestamp, self.oldest_ms.get(partition.topic, records[0].timestamp)
        )
        self.taken[partition.topic] += len(records)

    def gone(self, gap: lost.Gap) -> None:
        """What retention deleted: a letter stands for it, before offsets say that it is past."""
        self.letters.append(lost.letter("archive", gap))
        self.offsets[TopicPartition(gap.topic, gap.partition)] = gap.until

    def _add_events(self, record: ConsumerRecord) -> None:
        offset = record.offset
        cost_usd = self._pricing.cost_usd
        decoded = self._topics.controls.decode(decode_rows, record.value, record.partition)
        self.events[record.topic] += len(decoded.events) + sum(reject.count for reject in decoded.rejects)
        positions: dict[str, list[int]] = {}
        for position, row in enumerate(decoded.events):
            if isinstance(row, CONTROLS):
                continue
            if isinstance(row, TraceRow):
                settle_cost(row, None if row.cost_usd is not None else cost_usd(row))
            table = complete_row(row, offset)
            self.rows.setdefault(table, []).append(row)
            positions.setdefault(table, []).append(position)
        for table, some in positions.items():
            self._came_from(table, record, some)
        if positions:
            self._poison.good(record.topic, record.partition)
        else:
            self._poison.rejected(record, decoded.rejects)
        for reject in decoded.rejects:
            self.letters.append(dead_letter(record, reject))

    def _add_result(self, record: ConsumerRecord) -> None:
        self.events[record.topic] += 1
        try:
            result = decode(record.value, self._types[record.topic])
        except DecodeError as error:
            self.letters.append(dead_letter(record, Reject(-1, str(error), record.value or b"")))
            return
        table, row = result_row(result, record.offset)
        self.rows.setdefault(table, []).append(row)
        self._came_from(table, record, (0,))

    def _came_from(self, table: str, record: ConsumerRecord, positions: Sequence[int]) -> None:
        first = len(self.rows[table]) - len(positions)
        self._origins.setdefault(table, []).append(Origin(first, record, positions))
        self.size += len(positions)

    def refused(self, table: str, row: int, reason: str) -> DeadLetter | None:
        """The dead letter of a row that ClickHouse refuses; None for one that came from a dead letter, which would
        come back for ever."""
        origins = self._origins[table]
        first, record, positions = origins[bisect_right(origins, row, key=attrgetter("row")) - 1]
        if record.topic == self._topics.dlq:
            logger.error("ClickHouse refused the dead letter at %s[%d]@%d, left there: %s",
                         record.topic, record.partition, record.offset, for_log(reason))  # fmt: skip
            return None
        if record.topic != self._topics.events:
            return dead_letter(record, Reject(-1, reason, record.value or b""))
        decoded, indexes = self._topics.controls.decode_indexed(decode_logged, record.value, record.partition)
        position = positions[row - first]
        element = indexes[position]
        raw = record.value if element == -1 else encode(decoded.events[position])
        return dead_letter(record, Reject(element, reason, raw))


def dead_letter(record: ConsumerRecord, reject: Reject) -> DeadLetter:
    """It fits its topic: what is larger is cut, and says where all of it is."""
    reason, raw, key = bounded(reject.reason), reject.raw, record.key
    if len(raw) > MOST_RAW:
        reason += (
            f". Here are the first {EXCERPT} of {len(raw)} bytes with SHA-256 {sha256(raw).hexdigest()}; the record is "
            f"at {record.topic}[{record.partition}]@{record.offset} for as long as the topic keeps it"
        )
        raw = raw[:EXCERPT]
    if key is not None and len(key) > MOST_KEY:
        reason += f". Of the key's {len(key)} bytes the first {MOST_KEY} are here"
        key = key[:MOST_KEY]
    return DeadLetter(
        id=stable_id(record.topic, record.partition, record.offset, record.timestamp, reject.index),
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        index=reject.index,
        reason=reason,
        raw=raw,
        key=key,
        count=reject.count,
    )


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
        poison: PoisonWatch,
        watch: ConsumerWatch,
        health: Health,
    ) -> None:
        self._consumer = consumer
        self._producer = producer
        self._writer = writer
        self._topics = topics
        self._config = config
        self._pricing = pricing
        self._poison = poison
        self._watch = watch
        self._health = health
        self._clock: Clock = SystemClock()
        self.counts: Counter[str] = Counter()  # rows by table, and dead letters sent; repeats included

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, and until what was read by then is written."""
        writing = asyncio.create_task(self._write(self._batch()))
        try:
            while not stop.is_set():
                batch = await self._read(stop)
                self._watch.busy = True  # a ClickHouse that is away is no reason to restart
                await writing
                self._watch.busy = False
                writing = asyncio.create_task(self._write(batch))
            await writing
        finally:
            writing.cancel()
            counts = ", ".join(f"{n} {what}" for what, n in sorted(self.counts.items()))
            logger.info("Archived %s.", counts or "nothing")

    def _batch(self) -> Batch:
        return Batch(self._topics, self._pricing, self._poison)

    async def _read(self, stop: asyncio.Event) -> Batch:
        """The next batch: full, or old enough; empty after a quiet while."""
        batch = self._batch()
        now = asyncio.get_running_loop().time
        closes = now() + POLL_S
        while not stop.is_set() and batch.size < self._config.batch_rows and batch.bytes < self._config.batch_bytes:
            left = closes - now()
            if left <= 0:
                break
            try:
                fetched = await self._consumer.getmany(timeout_ms=round(min(left, POLL_S) * 1000))
            except lost.OUT_OF_RANGE as error:
                for gap in await lost.go_on(self._consumer, error):
                    batch.gone(gap)
                    lost.tell("archive", gap, self._health)
                continue
            if fetched and not batch.offsets:
                closes = now() + self._config.batch_age_s
            for partition, records in fetched.items():
                # On another thread: heartbeats go out while a record of garbage is taken apart, which takes seconds.
                await asyncio.to_thread(batch.add, partition, records)
                if partition.topic == self._topics.events:
                    self._tell_of_garbage(partition)
        return batch

    def _tell_of_garbage(self, tp: TopicPartition) -> None:
        metrics.REJECTED_IN_A_ROW.labels("archive", *tp).set(self._poison.count(*tp))
        problem, key = self._poison.problem(*tp), f"garbage.{tp.topic}.{tp.partition}"
        if not problem:
            self._health.right(key)
            return
        self._health.told(
            key,
            problem,
            "find the producer by its key and correct it, or install the Driftline that reads it; `driftline dlq "
            "requeue` then sends again what came, and everything else goes on. This is said for an hour, or until a "
            "good event comes",
        )
        if self._poison.is_news(*tp):
            logger.error("%s.", for_log(problem, TOLD))

    async def _write(self, batch: Batch) -> None:
        refusals = await asyncio.gather(*(self._insert(batch, table) for table in batch.rows))
        self._health.right(CLICKHOUSE)
        letters = [*batch.letters, *(letter for refused in refusals for letter in refused)]
        await self._send(letters)
        await self._commit(batch.offsets)
        self._watch.committed(batch.offsets, batch.newest_ms)
        self._count(batch, sum(letter.count for letter in letters))

    def _count(self, batch: Batch, letters: int) -> None:
        for table, rows in batch.rows.items():
            self.counts[table] += len(rows)
            metrics.ROWS_OUT.labels(table).inc(len(rows))
        for topic, records in batch.taken.items():
            metrics.took("archive", topic, records, batch.events[topic])
            metrics.delayed("archive", topic, sent_at(batch.oldest_ms[topic]), self._clock.now())
        if letters:
            self.counts["dead letters sent"] += letters
            metrics.dropped("archive", {"dead_lettered": letters})

    async def _insert(self, batch: Batch, table: str) -> list[DeadLetter]:
        """Returns what ClickHouse refused."""
        refusals = await self._writer.insert(table, batch.rows[table])
        letters = (batch.refused(table, refused.position, refused.reason) for refused in refusals)
        return [letter for letter in letters if letter is not None]

    async def _send(self, letters: list[DeadLetter]) -> None:
        """To the topic of dead letters, acknowledged. A repeat has the same id."""
        if not letters:
            return
        first = letters[0]
        logger.warning(
            "%d dead letters, the first from %s[%d]@%d: %s",
            *(len(letters), first.topic, first.partition, first.offset, for_log(first.reason)),
        )
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(_will_pass),
            wait=wait_random_exponential(multiplier=0.4, max=self._config.retry_max_s),
            before_sleep=before_sleep_log(logger, logging.WARNING),
            reraise=True,
        ):
            with attempt:
                await lost.publish(self._producer, self._topics.dlq, letters)

    async def _commit(self, offsets: dict[TopicPartition, int]) -> None:
        """Partitions that went to another member are its to commit: what we wrote of them it writes again."""
        mine = {tp: offset for tp, offset in offsets.items() if tp in self._consumer.assignment()}
        if not mine:
            return
        try:
            await self._consumer.commit(mine)
        except (CommitFailedError, IllegalStateError) as error:
            logger.info("Offsets not committed, the group is rebalancing: %r", error)


def _will_pass(error: BaseException) -> bool:
    """What else Kafka answers stays as it is until somebody acts, so the process ends and says so."""
    return isinstance(error, KafkaTimeoutError) or (isinstance(error, KafkaError) and error.retriable)


class _MarkReady(ConsumerRebalanceListener):
    def __init__(self, health: Health, watch: ConsumerWatch) -> None:
        self._health = health
        self._watch = watch

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        pass

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._watch.assigned()
        self._health.ready = True
        mark_ready()


async def run_archive(
    kafka: KafkaConfig,
    clickhouse: ClickHouseConfig,
    topics: Topics,
    pricing: Pricing,
    *,
    stop: asyncio.Event,
    config: ArchiveConfig | None = None,
    health: Health | None = None,
) -> None:
    """Archive until `stop` is set. Waits for ClickHouse for as long as it is away, or a table altered; raises
    ConfigError for a database that is so at the start, or whose migrations are not ours, and for topics that are
    missing or have another number of partitions, and PermanentError when a table takes nothing."""
    work = asyncio.create_task(
        _archive(kafka, clickhouse, topics, pricing, config or ArchiveConfig(), health or Health("archive"), stop)
    )
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
    kafka: KafkaConfig,
    clickhouse: ClickHouseConfig,
    topics: Topics,
    pricing: Pricing,
    config: ArchiveConfig,
    health: Health,
    stop: asyncio.Event,
) -> None:
    def clickhouse_failed(what: str, error: BaseException) -> None:
        metrics.RETRIES.labels("archive", CLICKHOUSE).inc()
        metrics.erred("archive", error)
        match error:
            case TablesAltered():
                do = "undo the change as it says"
            case Answered():
                do = "set right in ClickHouse what it says"
            case _:
                do = "see that ClickHouse runs and that clickhouse.dsn is right"
        health.wrong(
            CLICKHOUSE,
            f"could not {what}: {error}",
            f"{do}; rows wait in Kafka, nothing is lost, and the role goes on by itself",
        )

    with health.until_done("start", *kafka_away(kafka), after_s=PATIENCE_S):
        await wait_for_broker(kafka, timeout_s=60)
    await require_topics(kafka, [topics.events, *result_types(topics)])
    await require_cleanup(kafka, topics)
    writer = await Writer.open(clickhouse, clickhouse_failed, config.poison_limit)
    poison = PoisonWatch(config.poison_limit)
    health.right(CLICKHOUSE)
    consumer = AIOKafkaConsumer(
        group_id=f"{topics.prefix}.archive",
        # ClickHouse may be away for hours. Heartbeats alone say that this member lives, so it keeps its partitions.
        max_poll_interval_ms=FOREVER_MS,
        rebalance_timeout_ms=round(REBALANCE_S * 1000),
        max_partition_fetch_bytes=FETCH_BYTES,
        **kafka.reader_options(FETCH_WAIT_MS),
        **kafka.group_options(),
    )
    watch = ConsumerWatch("archive", consumer, kafka, health)
    options = {
        **kafka.producer_options(),
        # A repeat of a dead letter has the same id. An idempotent producer that gave up a send for a broker that was
        # away has lost count, and never sends again (OutOfOrderSequenceNumber).
        "enable_idempotence": False,
        "max_request_size": 2 * LARGE,
    }
    producer = AIOKafkaProducer(**kafka.client_options(), **options)
    try:
        await producer.start()
        consumer.subscribe([topics.events, *result_types(topics)], listener=_MarkReady(health, watch))
        await consumer.start()
        archive = Archive(consumer, producer, writer, topics, clickhouse, pricing, poison, watch, health)
        await watch.during(archive.run(stop), watch_tables(clickhouse, health))
    finally:
        await consumer.stop()
        await producer.stop()
        await writer.close()
