"""Looks after a consumer from outside: is the broker there, how far behind is each partition, does one stand still."""

import asyncio
import logging
from collections.abc import Collection, Coroutine, Mapping
from typing import Protocol

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError

from driftline.schemas.clock import Clock, SystemClock
from driftline.streams import metrics
from driftline.streams.health import Health
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.lag import LagWatch

logger = logging.getLogger(__name__)

PATIENCE_S = 10.0  # with a broker at the start, before somebody is told
LOOK_S = 15.0  # between looks, as often as Prometheus usually asks: a small request or two each


class Watched(Protocol):
    """A consumer, as a watch sees it."""

    def owned(self) -> Collection[TopicPartition]: ...
    def working(self) -> Collection[TopicPartition]:
        """Of which something is being worked on, or cannot be because a neighbour is away: no reason for a restart."""

    async def position(self, tp: TopicPartition) -> int:
        """The next offset to take: of those that work the one after the last that is done, of the others the one that
        is asked for next (after the last record there may be offsets without one: a transaction's marker, say)."""

    async def ends(self, owned: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The offsets after the last records that may be taken."""

    async def written(self, owned: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The offsets after the last records, those of open transactions and behind them too; where known."""


async def watch(watched: Watched, lag: LagWatch, health: Health, kafka: KafkaConfig) -> None:
    """Look again and again.

    :raises RetryableError: a partition stands still for so long that only a restart helps.
    """
    key = f"broker.{lag.name}"
    while True:
        await asyncio.sleep(LOOK_S)
        owned = watched.owned()
        try:
            async with asyncio.timeout(kafka.request_timeout_s):
                ends = await watched.ends(owned) if owned else {}
                written = await watched.written(owned) if owned and kafka.idempotent else {}
                positions = {tp: await watched.position(tp) for tp in owned}
        except IllegalStateError as error:  # a rebalance has begun meanwhile
            logger.debug("Positions of %s are not known: %r.", lag.name, error)
        except (KafkaError, TimeoutError) as error:
            metrics.erred(lag.name, error)
            health.wrong(key, *kafka_away(kafka, error))
            lag.blind()
        else:
            health.right(key)
            lag.look(positions, ends, watched.working(), written)


def kafka_away(kafka: KafkaConfig, error: BaseException | None = None) -> tuple[str, str]:
    """For Health: what is wrong, and what to do."""
    what = f"Kafka at {kafka.brokers} does not answer" + (f": {error!r}" if error else "")
    return what, "see that it runs and can be reached from here; the role goes on by itself"


class ConsumerWatch:
    """Watches a plain aiokafka consumer, which says when it is `busy` and what it has committed."""

    def __init__(
        self, name: str, consumer: AIOKafkaConsumer, kafka: KafkaConfig, health: Health, clock: Clock | None = None
    ) -> None:
        self.busy = False  # set while the consumer works, or waits for a neighbour, instead of asking for records
        self._consumer = consumer
        self._kafka = kafka
        self._health = health
        self._lag = LagWatch(name, health, clock or SystemClock())
        self._committed: dict[TopicPartition, int] = {}

    def assigned(self) -> None:
        """After a rebalance: others may have gone on with our partitions meanwhile."""
        self._committed = {}

    def committed(self, offsets: Mapping[TopicPartition, int], newest_ms: Mapping[TopicPartition, int]) -> None:
        """`newest_ms`: the Kafka timestamp of the newest record before each offset, where known."""
        self._committed |= offsets
        for tp, timestamp in newest_ms.items():
            self._lag.taken(tp, timestamp)

    async def during(self, work: Coroutine[None, None, None], *beside: Coroutine[None, None, None]) -> None:
        """Do the work, watched, with what goes on `beside` it. Raises what any of them raises."""
        looking = watch(self, self._lag, self._health, self._kafka)
        tasks = [asyncio.create_task(each) for each in (work, looking, *beside)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # What `watch` asks.

    def owned(self) -> Collection[TopicPartition]:
        assignment: Collection[TopicPartition] = self._consumer.assignment()
        return assignment

    def working(self) -> Collection[TopicPartition]:
        return self.owned() if self.busy else ()

    async def position(self, tp: TopicPartition) -> int:
        position: int = await self._consumer.position(tp)
        return self._committed.get(tp, position) if self.busy else position

    async def ends(self, owned: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        ends: Mapping[TopicPartition, int] = await self._consumer.end_offsets(list(owned))
        return ends

    async def written(self, owned: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        told = {tp: self._consumer.highwater(tp) for tp in self._consumer.assignment() & set(owned)}
        return {tp: end for tp, end in told.items() if end is not None}
