"""The notify role: tells people and programs of alerts, rollbacks and breakers.

Each notifier is a consumer group of its own, so that one that is slow or down neither holds up the others nor makes
them repeat themselves. Per notifier, in the order of the log: deliver, then commit. What was told before a restart or
a rebalance is known again from the records just before the committed offset, so a copy that the monitor publishes
after a crash is told once.

Old news. A record that waited longer than FRESH_S, because the role or the receiver was down or because the group is
new, is told only if it still matters: a transition that a later one in the backlog supersedes is not told, nor is the
end of an episode whose beginning was not told. So a first start with a month of alerts in the topic reports the
episodes that are open, and a rollback decided long ago is not reported to a receiver that is new.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Coroutine, Iterable, Sequence
from dataclasses import dataclass

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError
from aiokafka.structs import ConsumerRecord

from driftline.schemas.clock import Clock, SystemClock
from driftline.schemas.codec import DecodeError, decode
from driftline.schemas.errors import ConfigError, PermanentError, RetryableError
from driftline.schemas.results import Alert, BreakerSignal, RollbackSignal
from driftline.schemas.text import for_log
from driftline.schemas.topics import Topics
from driftline.sinks.notify.base import Notice, Notifier, episode, notice_id, phase
from driftline.sinks.notify.build import open_notifiers
from driftline.sinks.notify.config import NotifyConfig
from driftline.streams import metrics
from driftline.streams.health import Health
from driftline.streams.ready import mark_ready
from driftline.streams.runtime import lost
from driftline.streams.runtime.admin import require_cleanup, require_topics, wait_for_broker
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.watch import PATIENCE_S as BROKER_PATIENCE_S
from driftline.streams.runtime.watch import ConsumerWatch, kafka_away

logger = logging.getLogger(__name__)

FRESH_S = 600.0  # what is younger is always told: a short restart hides nothing, and a page ten minutes late is news
BACKLOG = 100_000  # records looked at together, to see what supersedes what: months of alerts, some 100 MB
REMEMBERED = 1_000  # records before the committed offset, per partition: what a crashed monitor publishes again is less
POLL_MS = 500  # how soon the loop notices that it shall stop
PATIENCE = 20  # polls without a record before a partition that should have more is taken as read
GRACE_S = 2.0  # for a delivery under way when the role stops; the supervisor waits three seconds
NEVER = -1  # instead of a committed offset
FETCH_WAIT_MS = 500  # nobody notices half a second, and idle fetches cost the broker
PATIENCE_S = 60.0  # with a receiver, before somebody is told: what passes by itself has mostly passed
IDLE_MS = 24 * 3_600_000  # a receiver that is down for hours must not cost the group membership


@dataclass(frozen=True)
class Pending:
    notice: Notice
    tp: TopicPartition
    offset: int
    published_at: int  # microseconds since the Unix epoch: when the record was written
    first_start: bool = False  # this notifier has never been told of anything from this partition


def outdated(backlog: Sequence[Pending], now: int) -> set[int]:
    """Indexes of what is old and does not matter any more; `now` in microseconds since the Unix epoch."""
    newest = {episode(pending.notice): index for index, pending in enumerate(backlog)}
    begun = {
        episode(pending.notice)
        for pending in backlog
        if isinstance(pending.notice, Alert) and phase(pending.notice) == "begins"
    }
    return {
        index
        for index, pending in enumerate(backlog)
        if now - pending.published_at > FRESH_S * 1_000_000
        and (newest[episode(pending.notice)] != index or _old_news(pending, begun))
    }


def _old_news(pending: Pending, begun: Collection[str]) -> bool:
    """Of the last transition of an episode: whether nobody waits for it."""
    match phase(pending.notice):
        case "ends":
            return pending.first_start or episode(pending.notice) in begun
        case "begins":
            return pending.first_start and isinstance(pending.notice, RollbackSignal)
        case _:
            return False


class Courier(ConsumerRebalanceListener):
    """One notifier, and the consumer group that remembers what it has been told."""

    def __init__(self, notifier: Notifier, kafka: KafkaConfig, topics: Topics, clock: Clock, health: Health) -> None:
        self.counts: Counter[str] = Counter()  # delivered, undelivered, outdated, repeated, undecodable
        self._counted: Counter[str] = Counter()  # what of it the metrics have
        self.assigned = asyncio.Event()
        self._notifier = notifier
        self._kafka = kafka
        self._topics = topics
        self._clock = clock
        self._types: dict[str, type[Notice]] = {
            topics.alerts: Alert,
            topics.rollbacks: RollbackSignal,
            topics.breakers: BreakerSignal,
        }
        self._lost: list[lost.Gap] = []  # by retention, and not said yet
        self._told: dict[str, None] = {}  # in the order of telling, bounded
        self._next: dict[TopicPartition, int] = {}  # the offset read next
        self._newest_ms: dict[TopicPartition, int] = {}  # the Kafka timestamp of the record before it
        self._committed: dict[TopicPartition, int] = {}  # of the partitions that are ours; NEVER at a first start
        self._consumer = AIOKafkaConsumer(
            **kafka.reader_options(FETCH_WAIT_MS),
            **kafka.group_options(),
            group_id=f"{topics.prefix}.notify.{notifier.name}",
            max_poll_interval_ms=IDLE_MS,
        )
        self._consumer.subscribe(sorted(self._types), listener=self)
        self._name = f"notify.{notifier.name}"
        self._health = health
        self._watch = ConsumerWatch(self._name, self._consumer, kafka, health, clock)

    async def run(self, stop: asyncio.Event) -> None:
        try:
            await self._consumer.start()
            await self._watch.during(self._run(stop))
        finally:
            await self._consumer.stop()
            told = ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()) if count)
            logger.info("%s: %s.", self._notifier.name, told or "nothing to tell")

    async def _run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            backlog = await self._read(stop)
            self._watch.busy = True  # a receiver that is down is no reason to restart
            await self._tell_all(backlog, stop)
            self._watch.busy = False

    def _measure(self) -> None:
        """What was told or not told since the last time."""
        new, self._counted = self.counts - self._counted, self.counts.copy()
        metrics.NOTICES_DELIVERED.labels(self._name).inc(new.pop("delivered", 0))
        metrics.dropped(self._name, new)

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self._committed = {}

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self._watch.assigned()
        beginnings = await self._consumer.beginning_offsets(assigned) if assigned else {}
        for tp in assigned:
            committed = await self._consumer.committed(tp)
            start = max(beginnings[tp], NEVER if committed is None else committed - REMEMBERED)
            self._consumer.seek(tp, start)
            if committed is not None and committed < beginnings[tp]:
                self._lost.append(lost.Gap(tp.topic, tp.partition, committed, beginnings[tp]))
            self._next[tp] = start
            self._committed[tp] = NEVER if committed is None else committed
        self.assigned.set()

    async def _read(self, stop: asyncio.Event) -> list[Pending]:
        """Everything there is to read now, in the order of each partition."""
        backlog: list[Pending] = []
        patience = PATIENCE
        gaps, self._lost = self._lost, []
        await self._say_lost(gaps)
        while not stop.is_set() and len(backlog) < BACKLOG and patience:
            try:
                batches = await self._consumer.getmany(timeout_ms=POLL_MS)
            except lost.OUT_OF_RANGE as error:
                await self._say_lost(await lost.go_on(self._consumer, error))
                continue
            for tp, records in batches.items():
                if tp in self._committed:  # else it has just been assigned, and is read again from where it must start
                    backlog += filter(None, (self._pending(tp, record) for record in records))
                    self._next[tp] = records[-1].offset + 1
                    self._newest_ms[tp] = records[-1].timestamp
            patience = PATIENCE if batches else patience - 1
            if not self._behind():
                break
        return backlog

    async def _say_lost(self, gaps: Sequence[lost.Gap]) -> None:
        """Transitions that retention deleted before they were told."""
        if gaps:
            await lost.send_letters(self._kafka, self._topics, [lost.letter(self._name, gap) for gap in gaps])
        for gap in gaps:
            lost.tell(self._name, gap, self._health)
            self._next[TopicPartition(gap.topic, gap.partition)] = gap.until

    def _behind(self) -> bool:
        return any(self._next[tp] < end for tp, end in self._ends().items())

    def _ends(self) -> dict[TopicPartition, int]:
        """Where each partition ends, as fetches say (the embedded broker's "latest offset" is too low); of those that
        have been fetched."""
        ends = {tp: self._consumer.highwater(tp) for tp in self._committed.keys() & self._consumer.assignment()}
        return {tp: end for tp, end in ends.items() if end is not None}

    def _pending(self, tp: TopicPartition, record: ConsumerRecord) -> Pending | None:
        try:
            notice = decode(record.value, self._types[tp.topic])
        except DecodeError as error:
            self.counts["undecodable"] += 1
            logger.error("%s[%d] offset %d cannot be told: %s", tp.topic, tp.partition, record.offset, for_log(error))
            return None
        committed = self._committed[tp]
        if record.offset < committed:
            self._remember(notice)
            return None
        return Pending(notice, tp, record.offset, record.timestamp * 1_000, first_start=committed == NEVER)

    async def _tell_all(self, backlog: list[Pending], stop: asyncio.Event) -> None:
        """Deliver and commit; ends early, with the rest uncommitted, when it shall stop."""
        news = self._news(backlog)
        skipped = outdated(news, self._clock.now())
        if skipped:
            self.counts["outdated"] += len(skipped)
            logger.info("%s is not told %d transitions that are old and over.", self._notifier.name, len(skipped))
        for index, pending in enumerate(news):
            if pending.tp not in self._committed:  # another member has it since, and tells from the committed offset
                continue
            if index in skipped:
                self._remember(pending.notice)
            elif await _unless_stopped(self._tell(pending), stop):
                await self._commit({pending.tp: pending.offset + 1})
            else:
                return
        # Also what was read without being told, and of a first start that there was nothing to read.
        await self._commit({tp: self._next[tp] for tp, end in self._ends().items() if self._next[tp] >= end})

    def _news(self, backlog: list[Pending]) -> list[Pending]:
        """Without copies of what has been told, and of each other."""
        first: dict[str, Pending] = {}
        for pending in backlog:
            first.setdefault(notice_id(pending.notice), pending)
        news = [pending for id_, pending in first.items() if id_ not in self._told]
        self.counts["repeated"] += len(backlog) - len(news)
        return news

    async def _tell(self, pending: Pending) -> None:
        notice = pending.notice
        self._not_told(notice, "tried, no answer yet")
        try:
            await self._notifier.notify(notice)
        except (PermanentError, RetryableError) as error:
            self._give_up(notice, str(error))
        except Exception as error:  # a mistake in rendering one notice must not keep people from hearing of the next
            self._give_up(notice, f"{type(error).__name__}")
            logger.debug("The notice is %s", msgspec.json.encode(notice), exc_info=True)
        else:
            self.counts["delivered"] += 1
            self._health.right(self._name)
            metrics.delayed(self._name, pending.tp.topic, pending.published_at, self._clock.now())
        self._remember(notice)

    def _not_told(self, notice: Notice, reason: str) -> None:
        what = f"{self._notifier.name} has not been told of {episode(notice)}: {reason}"
        do = f"see that it is up and that its settings in [notify] are right; the log of {self._name} says more"
        self._health.wrong(self._name, what, do, after_s=PATIENCE_S)

    def _give_up(self, notice: Notice, reason: str) -> None:
        self.counts["undelivered"] += 1
        self._not_told(notice, reason)
        logger.error(
            "%s has not been told of %s (%s): %s",
            *(self._notifier.name, for_log(episode(notice)), for_log(notice_id(notice)), for_log(reason)),
        )

    def _remember(self, notice: Notice) -> None:
        self._told[notice_id(notice)] = None
        if len(self._told) > BACKLOG:
            del self._told[next(iter(self._told))]

    async def _commit(self, offsets: dict[TopicPartition, int]) -> None:
        self._measure()
        offsets = {tp: offset for tp, offset in offsets.items() if offset > self._committed.get(tp, NEVER)}
        if not offsets:
            return
        try:
            await self._consumer.commit(offsets)
        except CommitFailedError:
            logger.info("%s: a rebalance came before a commit; the next owner may tell once more.", self._notifier.name)
        else:
            self._committed |= {tp: offset for tp, offset in offsets.items() if tp in self._committed}
            self._watch.committed(offsets, self._newest_ms)


async def _unless_stopped(work: Coroutine[None, None, None], stop: asyncio.Event) -> bool:
    """Whether the work was done. When it shall stop it gets GRACE_S more, and is then cancelled."""
    task = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({task}, timeout=GRACE_S)
        if task.done():
            task.result()
        return task.done()
    finally:
        for pending in (task, stopping):
            pending.cancel()
        await asyncio.gather(task, stopping, return_exceptions=True)


async def run_notify(
    kafka: KafkaConfig,
    topics: Topics,
    config: NotifyConfig,
    *,
    stop: asyncio.Event,
    health: Health | None = None,
    clock: Clock | None = None,
) -> None:
    """Tell every configured notifier, until `stop` is set.

    Raises ConfigError when nobody is configured, a URL is none, or a topic is missing."""
    clock = clock or SystemClock()
    health = health or Health("notify", clock)
    async with open_notifiers(config, clock) as notifiers:
        if not notifiers:
            raise ConfigError("notify has nobody to tell: set notify.pagerduty, .slack, .webhooks or .log")
        with health.until_done("start", *kafka_away(kafka), after_s=BROKER_PATIENCE_S):
            await wait_for_broker(kafka, timeout_s=60)
        await require_topics(kafka, [topics.alerts, topics.rollbacks, topics.breakers])
        await require_cleanup(kafka, topics)
        couriers = [Courier(notifier, kafka, topics, clock, health) for notifier in notifiers]
        tasks = [asyncio.create_task(courier.run(stop)) for courier in couriers]
        tasks.append(asyncio.create_task(_when_assigned(couriers, health)))
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _when_assigned(couriers: Iterable[Courier], health: Health) -> None:
    for courier in couriers:
        await courier.assigned.wait()
    health.ready = True
    mark_ready()
