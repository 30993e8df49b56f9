"""Our Faust transport. Three differences from Faust's own aiokafka driver:

1. An agent gets one message per fetched *run* of records instead of one per record: Faust's cost of about 68 µs is paid
   per run (measured: 100,000 single-event records a second instead of 15,000).
2. After every rebalance each partition starts where its state ends, not at the committed offset. A run carries the
   epoch of that start and the position it continues, so that whoever absorbs it can prove that none is missing.
3. Committed offsets only report lag: what was acknowledged last, without gap accounting, and a failed commit is no
   reason to stop.

It overrides private methods of Faust 0.15.3; `tests/contract/test_faust_assumptions.py` pins each of them.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import faust
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import IllegalStateError, KafkaError, NoOffsetForPartitionError
from aiokafka.structs import OffsetAndMetadata
from faust.tables.manager import TableManager
from faust.transport.drivers import aiokafka as driver
from faust.types.tuples import TP, ConsumerMessage

from driftline.schemas.errors import DriftlineError
from driftline.streams.fold import Record
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.lost import OUT_OF_RANGE, Gap, go_on

logger = logging.getLogger(__name__)

BUSY_POLL_S = 0.005  # while a partition is busy: how often the others, and whether it is free again, are looked at


class Fetched(Record, Protocol):
    """A record as it comes from Kafka."""


class Run(NamedTuple):
    """Consecutive records of one partition, as one fetch returned them."""

    topic: str
    partition: int
    epoch: int  # of the start position that this run continues
    position: int  # where the fetch continued: offsets in [position, records[0].offset) do not exist
    records: Sequence[Fetched]
    gone: tuple[Gap, ...] = ()  # what retention deleted before `position`, since the last run

    @property
    def offset(self) -> int:
        return self.records[-1].offset


class Feed(Protocol):
    """Who absorbs the runs."""

    def revoked(self) -> None:
        """A rebalance begins: nothing of what was handed out counts any more. Called from the consumer's thread."""

    async def left(self) -> None:
        """The same, before any other member can have what was ours. Must not take long, and raises nothing."""

    async def positions(self, assigned: set[TP]) -> tuple[int, dict[TP, int]]:
        """A new epoch, and the offset at which each partition starts in it."""

    async def again(self, tp: TP) -> tuple[int, dict[TP, int]]:
        """The same for one partition alone, whose fold must be built anew."""

    def busy(self, tp: TP) -> bool:
        """True while enough runs of the partition wait to be absorbed."""

    def handed_out(self, run: Run) -> None: ...

    def failed(self, error: Exception) -> None:
        """Positions could not be found: the process must stop."""


class _NoTables(TableManager):
    async def on_start(self) -> None:
        """Without Faust's wait of a second for tables to be declared."""
        await self._update_channels()
        await self.recovery.start()


class FoldApp(faust.App):
    """A Faust app without tables, files or web server, that feeds a `Feed`."""

    def __init__(self, name: str, kafka: KafkaConfig, feed: Feed) -> None:
        self.kafka = kafka
        self.feed = feed
        super().__init__(
            name,
            broker="aiokafka://" + ";".join(kafka.brokers.split(",")),
            store="memory://",
            cache="memory://",
            processing_guarantee="at_least_once",
            consumer_auto_offset_reset="earliest",
            producer_acks=-1,
            broker_session_timeout=kafka.session_timeout_s,
            broker_heartbeat_interval=kafka.heartbeat_interval_s,
            broker_request_timeout=max(90.0, 3 * kafka.request_timeout_s),  # ours are shorter, and stop the process
            topic_partitions=kafka.partitions,
            topic_replication_factor=kafka.replication,
            topic_allow_declare=False,
            topic_disable_leader=True,
            reply_create_topic=False,
            table_standby_replicas=0,
            stream_wait_empty=False,  # with held acks the default never ends
            stream_recovery_delay=0,
            TableManager=_NoTables,
            web_enabled=False,
            autodiscover=False,
        )
        self.transport = Transport(self.conf.broker_consumer, self)
        self.producer_transport = self.transport

    def on_rebalance_start(self) -> None:
        self.feed.revoked()
        super().on_rebalance_start()

    def _create_directories(self) -> None:
        """No tables, so no files."""


class Thread(driver.AIOKafkaConsumerThread):
    """Owns the aiokafka consumer, on a thread and event loop of its own."""

    app: FoldApp

    def __post_init__(self) -> None:
        super().__post_init__()
        self._starts: dict[TP, tuple[int, int]] = {}  # (epoch, position); only this thread touches it
        self._gone: dict[TP, tuple[Gap, ...]] = {}  # since the last run

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        kafka = self.app.kafka
        return AIOKafkaConsumer(
            group_id=self.app.conf.id,
            client_id=self.app.conf.id,
            partition_assignment_strategy=[RoundRobinPartitionAssignor],
            **kafka.reader_options(),
            **kafka.group_options(),
        )

    async def start_at(self, epoch: int, positions: Mapping[TP, int]) -> None:
        await self.call_thread(self._start_at, epoch, positions)

    async def _start_at(self, epoch: int, positions: Mapping[TP, int]) -> None:
        # No await in here: a fetch sees a partition with both its new offset and its new epoch, or with neither.
        consumer = self._ensure_consumer()
        for tp, offset in positions.items():
            consumer.seek(TopicPartition(tp.topic, tp.partition), offset)
            self._starts[tp] = (epoch, offset)
            self._gone.pop(tp, None)

    async def _fetch_records(
        self,
        consumer: AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,
        max_records: int | None = None,
    ) -> dict[TP, list[Run]]:
        before = {tp: epoch for tp, (epoch, _) in self._starts.items()}
        try:
            fetched = await super()._fetch_records(consumer, active_partitions, timeout, max_records)
        except OUT_OF_RANGE as error:
            await self._go_on(consumer, error, before)
            return {}
        runs = {}
        for tp, records in fetched.items():
            start = self._starts.get(tp)
            if start is None:
                continue
            if before.get(tp) != start[0]:
                # It was sent elsewhere meanwhile: these may be from before that, or from after it.
                consumer.seek(TopicPartition(tp.topic, tp.partition), start[1])
            else:
                runs[tp] = [self._run(tp, records)]
        return runs

    async def _go_on(self, consumer: AIOKafkaConsumer, error: Exception, before: Mapping[TP, int]) -> None:
        if isinstance(error, NoOffsetForPartitionError):
            return  # it has not been told where to start yet
        try:
            gaps = await go_on(consumer, error)
        except DriftlineError as failure:
            self.app.loop.call_soon_threadsafe(self.app.feed.failed, failure)
            return
        for gap in gaps:
            tp = TP(gap.topic, gap.partition)
            epoch, position = self._starts[tp]
            if before.get(tp) == epoch and position == gap.first:
                self._starts[tp] = (epoch, gap.until)
                self._gone[tp] = (*self._gone.get(tp, ()), gap)
            else:  # sent elsewhere meanwhile
                consumer.seek(TopicPartition(tp.topic, tp.partition), position)

    def _run(self, tp: TP, records: list[Any]) -> Run:
        epoch, position = self._starts[tp]
        self._starts[tp] = (epoch, records[-1].offset + 1)
        return Run(tp.topic, tp.partition, epoch, position, records, self._gone.pop(tp, ()))

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        assigned = self.assignment()
        mine = {
            TopicPartition(tp.topic, tp.partition): OffsetAndMetadata(offset, "")
            for tp, offset in offsets.items()
            if tp in assigned
        }
        try:
            await self._ensure_consumer().commit(mine)
        except KafkaError as error:
            logger.warning("Offsets were not committed, so lag looks larger than it is: %r.", error)
            return False
        return True


class _NothingRead(dict[TP, int | None]):
    """Faust skips what it believes it has read. What is new is decided by whoever absorbs, so it believes nothing."""

    def __getitem__(self, tp: TP) -> None:
        return None


class Consumer(driver.Consumer):
    app: FoldApp
    _thread: Thread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _NothingRead()
        self._positioning = asyncio.Lock()

    def _new_consumer_thread(self) -> Thread:
        return Thread(self, loop=self.loop, beacon=self.beacon)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        await self.app.feed.left()
        await super().on_partitions_revoked(revoked)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Faust calls this after every rebalance; we seek to where the states end."""
        async with self._positioning:
            try:
                epoch, positions = await self.app.feed.positions(set(self.assignment()))
                await self._thread.start_at(epoch, positions)
            except IllegalStateError:  # a partition was revoked meanwhile: the next rebalance comes here again
                raise
            except Exception as error:
                # Faust logs some failures here and goes on with partitions that would never be read.
                self.app.feed.failed(error)
                if isinstance(error, DriftlineError):
                    await asyncio.Event().wait()  # until the process ends: its message says all, a traceback nothing
                raise
        return positions

    async def start_again(self, tp: TP) -> None:
        """Go back to where one partition's state ends, between rebalances."""
        async with self._positioning:
            try:
                epoch, positions = await self.app.feed.again(tp)
                await self._thread.start_at(epoch, positions)
            except IllegalStateError:
                logger.info("%s[%d] has moved to another member meanwhile.", tp.topic, tp.partition)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Mapping[TP, list[Run]]:
        feed = self.app.feed
        active = active_partitions or set()
        free = {tp for tp in active if not feed.busy(tp)}
        if not free:  # an empty set would mean all partitions
            await self.sleep(BUSY_POLL_S)
            return {}
        wait = timeout if len(free) == len(active) else BUSY_POLL_S
        fetched: Mapping[TP, list[Run]] = await super()._getmany(free, wait)
        for runs in fetched.values():
            for run in runs:
                feed.handed_out(run)
        return fetched

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        run: Run = record
        value: Any = run  # Faust says bytes here, and only passes it on
        return ConsumerMessage(
            topic=run.topic,
            partition=run.partition,
            offset=run.offset,
            timestamp=0.0,
            timestamp_type=0,
            headers=None,
            key=None,
            value=value,
            checksum=None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    def _new_offset(self, tp: TP) -> int | None:
        """Runs are acknowledged in order, so the newest covers all before it."""
        acked = self._acked[tp]
        if not acked:
            return None
        newest: int = max(acked)
        acked.clear()
        self._acked_index[tp].clear()
        return newest + 1

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's own watch counts single records; it would complain about runs."""


class Producer(driver.Producer):
    app: FoldApp

    def _new_producer(self, transactional_id: str | None = None) -> AIOKafkaProducer:
        kafka = self.app.kafka
        # A run's results are sent together, so waiting for more would only add latency.
        return AIOKafkaProducer(
            client_id=self.app.conf.id, **kafka.client_options(), **kafka.producer_options(linger_ms=0)
        )


class Transport(driver.Transport):
    Consumer = Consumer
    Producer = Producer
