"""Runs folds with exact state, as one Faust app in a process of its own.

Per fetched run of records, always in this order (`partition.py`):

    absorb → publish the results, await every ack → Progress
    and every `checkpoint_s`: → one state record, await its ack → acknowledge the source records

A crash anywhere repeats work whose results are identical, and loses none. After every rebalance memory is dropped and
each partition starts anew from its state. What goes wrong ends the process before anything is acknowledged: a
supervisor starts it again, and it goes on from the state. A partition without new records, and a stop, save what is
absorbed, so that little is repeated.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import InvalidTimestampError, KafkaError
from aiokafka.structs import ConsumerRecord, RecordMetadata
from faust.types.tuples import TP

from driftline.schemas.clock import Clock, SystemClock
from driftline.schemas.codec import encode_event
from driftline.schemas.errors import ConfigError, DriftlineError, PermanentError, RetryableError
from driftline.schemas.events import CLOCK, Tick
from driftline.schemas.text import for_log
from driftline.schemas.topics import Topics
from driftline.streams import metrics
from driftline.streams.fold import Fold, FoldFactory, Output
from driftline.streams.health import Health, HealthConfig, Note, serve
from driftline.streams.ready import mark_ready
from driftline.streams.runtime import state as states
from driftline.streams.runtime.admin import largest_records, require_cleanup, require_topics, wait_for_broker
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.lag import LagWatch
from driftline.streams.runtime.lost import Gap
from driftline.streams.runtime.partition import Hook, Partition, Surroundings
from driftline.streams.runtime.quarantine import Raised
from driftline.streams.runtime.time_watch import TimeWatch, within
from driftline.streams.runtime.transport import FoldApp, Run
from driftline.streams.runtime.watch import PATIENCE_S, kafka_away, watch
from driftline.streams.supervisor import EXIT_CONFIG

logger = logging.getLogger(__name__)

TOLD = 2_000  # characters of what ended the role, in a log line: with what to do
BROKER_TIMEOUT_S = 60.0  # to wait for a broker at the start, before a supervisor tries again
LAST_SAVE_S = 1.5  # of the three seconds that a supervisor waits; a save takes milliseconds, a run's absorbing may not
LEAVE_S = 1.0  # of the rebalance that waits for it; a small record takes milliseconds
STOP_TIMEOUT_S = 5.0  # stopping takes about a second; Faust and aiokafka have been seen to hang there


@dataclass(frozen=True)
class Source:
    """One fold of a role: what it reads, and its name, which names its state topic and its Progress records.
    `settings`: those that shape its state, by key; they are kept with it and must not change under it."""

    topic: str
    fold: str
    factory: FoldFactory
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ticker:
    """Writes the wall clock into the log: the worker that owns partition p of the events topic sends it a Tick every
    `interval_s`. Off in simulations, whose traffic carries its own ticks."""

    clock: Clock = field(default_factory=SystemClock)
    interval_s: float = 1.0  # windows close and detectors step at ticks: this much is added to their latency


def _no_hook(step: str, partition: int) -> None: ...


class FaustRole:
    """One role's folds on a Faust app. `run` returns the process's exit code."""

    def __init__(
        self,
        name: str,
        config: KafkaConfig,
        topics: Topics,
        sources: Sequence[Source],
        *,
        ticker: Ticker | None = None,
        hook: Hook = _no_hook,
        health: Health | None = None,
    ) -> None:
        self.name = name
        self._config = config
        self._topics = topics
        self._sources = {source.topic: source for source in sources}
        self._ticker = ticker
        self._clock: Clock = SystemClock()
        self._health = health or Health(name)
        self._lag = LagWatch(name, self._health, self._clock, {source.topic: source.fold for source in sources})
        self._largest: dict[str, int] = {}
        self._around = Surroundings(
            config, topics, self._clock, self._send, self._is_current, hook, self._largest, self._health.told
        )
        self._epoch = 0
        self._revocations = 0
        self._partitions: dict[TP, Partition] = {}
        self._leaving: list[Partition] = []  # a rebalance has begun
        self._stop = asyncio.Event()
        self._failed = asyncio.Event()
        self._code = 0  # of the process's exit
        self._ending = False
        self._app = FoldApp(f"{topics.prefix}.{name}", config, self)
        for source in sources:
            topic = self._app.topic(source.topic, value_serializer="raw", key_serializer="raw")
            self._app.agent(topic, name=source.fold, isolated_partitions=True)(self._agent)

    async def run(self) -> int:
        """Work until SIGTERM, SIGINT or a failure. What fails once it was asked to stop is told, and no failure."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        work = [self._start(), self._save_idle(), watch(self, self._lag, self._health, self._config)]
        if self._ticker is not None:
            work.append(self._tick(self._ticker))
        tasks = [asyncio.create_task(coroutine) for coroutine in work]
        for task in tasks:
            task.add_done_callback(self._task_ended)
        await self._app.wait_first(self._stop.wait(), self._failed.wait())  # ends when the app crashes, too
        if self._app.should_stop:
            self._fail("crashed inside Faust", self._app.crash_reason)
        self._ending = True
        for task in tasks:
            task.cancel()
        if not self._code:
            await self._save_last()
        await self._end()
        return self._code

    async def _start(self) -> None:
        with self._health.until_done("start", *kafka_away(self._config), after_s=PATIENCE_S):
            await wait_for_broker(self._config, BROKER_TIMEOUT_S)
        names = [self._topics.progress]
        for source in self._sources.values():
            names += [source.topic, self._topics.state(source.fold)]
        await require_topics(self._config, names)
        await require_cleanup(self._config, self._topics)
        self._largest.update(await largest_records(self._config, self._topics))
        await self._app.start()

    async def _save_idle(self) -> None:
        while True:
            await asyncio.sleep(self._config.checkpoint_s)
            await asyncio.gather(*(partition.save_if_due() for partition in self._partitions.values()))

    async def _save_last(self) -> None:
        """What cannot be saved now is repeated after the next start."""
        try:
            async with asyncio.timeout(LAST_SAVE_S):
                await asyncio.gather(*(partition.close_note() for partition in self._partitions.values()))
                await asyncio.gather(*(partition.save() for partition in self._partitions.values()))
        except Exception as error:  # noqa: BLE001 (whatever it is: the process ends)
            logger.warning("Role %s stops without a last save of all its states: %r.", self.name, error)

    async def _end(self) -> None:
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._app.stop()
        except TimeoutError:
            logger.warning("Role %s did not stop within %g s and is ended.", self.name, STOP_TIMEOUT_S)
            logging.shutdown()
            os._exit(self._code)  # nothing is lost: it starts again from its states
        except Exception as error:  # noqa: BLE001 (whatever it is: the process ends)
            logger.warning("Role %s did not stop cleanly: %r.", self.name, error)

    def _task_ended(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled():
            if not self._ending and not self._stop.is_set():  # else it is how tasks end
                self._fail("lost one of its tasks", asyncio.CancelledError(task.get_name()))
        elif task.exception() is not None:
            self._fail("cannot go on", task.exception())

    def _fail(self, what: str, error: BaseException | None) -> None:
        if self._stop.is_set():
            logger.warning("Role %s %s while it stops: %r", self.name, what, error)
        elif not self._failed.is_set():
            # A known error says in its message what to do; for the others the way there matters.
            trace = None if isinstance(error, DriftlineError) else error
            told = for_log(str(error) or repr(error), TOLD)
            logger.error("Role %s %s and stops: %s", self.name, what, told, exc_info=trace)
            if error is not None:
                metrics.erred(self.name, error)
            self._code = EXIT_CONFIG if isinstance(error, ConfigError) else 1
        self._failed.set()

    async def _agent(self, stream: Any) -> None:
        # A rebalance cancels it at work. Faust would take that for a crash, start it again on the stream that was taken
        # away, and end the process at the third within a second.
        with suppress(asyncio.CancelledError):
            await self._absorb_all(stream)

    async def _absorb_all(self, stream: Any) -> None:
        async for event in stream.noack().events():
            run: Run = event.message.value
            partition = self._partition_of(run)
            if partition is None:
                continue  # handed out before the last rebalance; it is read again from the state on
            try:
                await partition.take(run, event.ack)
                self._lag.taken(TopicPartition(run.topic, run.partition), run.records[-1].timestamp)
            except Raised as error:
                logger.error("%s failed on %s[%d], %s", partition.name, run.topic, run.partition, for_log(error))
                metrics.erred(partition.name, error.__cause__ or error)
                await self._build_again(TP(run.topic, run.partition))
            except Exception as error:  # noqa: BLE001 (whatever it is: Faust would acknowledge the run and go on)
                where = f"{run.topic}[{run.partition}], offsets {run.position} to {run.offset}"
                self._fail(f"failed on {where}, having absorbed {partition.offset},", error)
                await asyncio.Event().wait()  # until the process ends

    async def _build_again(self, tp: TP) -> None:
        """A fold that raised, from its state, as after a crash."""
        self._partitions.pop(tp, None)
        try:
            consumer: Any = self._app.consumer  # a `transport.Consumer`
            await consumer.start_again(tp)
        except Exception as error:  # noqa: BLE001 (as where it cannot be built after a rebalance)
            self.failed(error)
            await asyncio.Event().wait()  # until the process ends

    def _partition_of(self, run: Run) -> Partition | None:
        if self._ending:  # after the last save
            return None
        partition = self._partitions.get(TP(run.topic, run.partition))
        return partition if partition is not None and partition.epoch == run.epoch else None

    def _is_current(self, partition: Partition) -> bool:
        return self._partitions.get(TP(partition.topic, partition.number)) is partition

    # What the transport asks of us (`transport.Feed`).

    def revoked(self) -> None:
        self._leaving += self._partitions.values()
        self._partitions = {}
        self._revocations += 1
        self._health.ready = False

    async def left(self) -> None:
        leaving, self._leaving = self._leaving, []
        try:
            async with asyncio.timeout(LEAVE_S):
                await asyncio.gather(*(partition.leave() for partition in leaving))
        except (TimeoutError, DriftlineError) as error:
            logger.info("Role %s did not say of all its partitions that it leaves them: %r.", self.name, error)

    def failed(self, error: Exception) -> None:
        self._fail("cannot take its partitions", error)

    def busy(self, tp: TP) -> bool:
        partition = self._partitions.get(tp)
        return partition is not None and partition.busy

    def handed_out(self, run: Run) -> None:
        partition = self._partition_of(run)
        if partition is not None:
            partition.handed_out(run)

    async def positions(self, assigned: set[TP]) -> tuple[int, dict[TP, int]]:
        """Build every assigned partition's fold from its state; each starts at the record after it."""
        if added := {tp.topic for tp in assigned if tp.partition >= self._config.partitions}:
            await require_topics(self._config, added)
        self._epoch += 1
        epoch = self._epoch
        what = "The states of the partitions are not loaded yet"
        do = "see that the state topics can be read; the role ends by itself if that takes too long"
        with self._health.until_done("states", what, do, after_s=PATIENCE_S):
            self._partitions = await self._load(epoch, assigned)
        self._health.ready = True  # also without partitions: then it stands by for a member that leaves
        positions = {tp: partition.offset + 1 for tp, partition in self._partitions.items()}
        if assigned:
            where = ", ".join(f"{tp.topic}[{tp.partition}]@{offset}" for tp, offset in sorted(positions.items()))
            logger.info("Role %s starts at %s.", self.name, where)
            mark_ready()
        return epoch, positions

    async def again(self, tp: TP) -> tuple[int, dict[TP, int]]:
        self._epoch += 1
        epoch, revocations = self._epoch, self._revocations
        loaded = await self._load(epoch, {tp})
        if self._revocations != revocations or self._ending:  # a rebalance has begun: it comes to `positions`
            return epoch, {}
        self._partitions |= loaded
        return epoch, {tp: partition.offset + 1 for tp, partition in loaded.items()}

    async def _load(self, epoch: int, assigned: set[TP]) -> dict[TP, Partition]:
        if not assigned:
            return {}
        places = {tp: self._state_place(tp) for tp in assigned}
        async with asyncio.timeout(2 * self._config.request_timeout_s), self._reader() as reader:
            found = await states.read_found(reader, places.values())
            kept = {tp: self._decoded(tp, record) for tp, place in places.items() if (record := found[place].state)}
            await states.check_log(reader, {TopicPartition(*tp): state for tp, state in kept.items()})
            beginnings = await reader.beginning_offsets([TopicPartition(*tp) for tp in assigned])
        partitions = {}
        for tp, place in places.items():
            partitions[tp] = self._open(tp, epoch, found[place], kept.get(tp), beginnings[TopicPartition(*tp)])
        return partitions

    @asynccontextmanager
    async def _reader(self, *, committed: bool = True) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(**self._config.reader_options(committed=committed))
        try:
            await consumer.start()
            yield consumer
        finally:
            await consumer.stop()

    def _state_place(self, tp: TP) -> TopicPartition:
        return TopicPartition(self._topics.state(self._sources[tp.topic].fold), tp.partition)

    def _decoded(self, tp: TP, record: ConsumerRecord) -> states.State:
        try:
            return states.decode(record.value, self._sources[tp.topic].fold)
        except PermanentError as error:
            raise states.unusable(self.name, f"{record.topic}[{record.partition}]@{record.offset}", error) from error

    def _fold(self, tp: TP, state: states.State | None) -> Fold:
        factory = self._sources[tp.topic].factory
        if state is None:
            return factory(tp.partition, None)
        try:
            return factory(tp.partition, state.snapshot)
        except (ConfigError, RetryableError, MemoryError):
            raise
        except Exception as error:  # whatever a snapshot of others makes of a fold
            place = self._state_place(tp)
            raise states.unusable(self.name, f"{place.topic}[{place.partition}]", error) from error

    def _open(self, tp: TP, epoch: int, found: states.Found, state: states.State | None, beginning: int) -> Partition:
        source = self._sources[tp.topic]
        if state is not None:
            states.check_settings(self.name, source.fold, state.settings, source.settings)
            state = msgspec.structs.replace(state, settings=dict(source.settings))
        fold = self._fold(tp, state)
        fresh = states.State(beginning - 1, {}, b"", settings=dict(source.settings))
        gone: tuple[Gap, ...] = ()
        if state is not None and state.offset < fresh.offset:
            gone = (Gap(tp.topic, tp.partition, state.offset + 1, beginning),)
            state = msgspec.structs.replace(state, offset=fresh.offset, timestamp=states.UNKNOWN)
        if state is not None:  # of what the log no longer has nobody needs to know
            state = msgspec.structs.replace(state, skipped=tuple(s for s in state.skipped if s.offset >= beginning))
        state_at = states.NOWHERE if found.state is None else found.state.offset
        partition = Partition(
            *(
                tp.topic,
                tp.partition,
                epoch,
                source.fold,
                fold,
                state or fresh,
                self._around,
                found.note,
                state_at,
                gone,
            )
        )
        partition.tell()
        return partition

    # What the watch asks of us (`watch.Watched`).

    def owned(self) -> Collection[TopicPartition]:
        return [TopicPartition(*tp) for tp in self._partitions]

    def working(self) -> Collection[TopicPartition]:
        return [TopicPartition(*tp) for tp, partition in self._partitions.items() if partition.working]

    async def position(self, tp: TopicPartition) -> int:
        partition = self._partitions.get(TP(*tp))
        if partition is not None and partition.working:
            return partition.offset + 1
        return await self._app.consumer.position(TP(*tp)) or 0

    async def ends(self, owned: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        async with self._reader() as reader:  # a new one each time: the consumer itself may be what hangs
            ends: Mapping[TopicPartition, int] = await reader.end_offsets(list(owned))
        return ends

    async def written(self, owned: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        async with self._reader(committed=False) as reader:
            ends: Mapping[TopicPartition, int] = await reader.end_offsets(list(owned))
        return ends

    # Sending.

    async def _send(self, outputs: Sequence[Output], partition: int) -> list[RecordMetadata]:
        """Send all, then await every ack."""
        producer = self._app.producer
        try:
            async with asyncio.timeout(2 * self._config.request_timeout_s):
                acks = [
                    await producer.send(
                        output.topic,
                        output.key,
                        output.value,
                        partition if output.partition is None else output.partition,
                        timestamp=None,
                        headers=None,
                    )
                    for output in outputs
                ]
                return await asyncio.gather(*acks)
        except (TimeoutError, KafkaError) as error:
            names = ", ".join(sorted({output.topic for output in outputs}))
            raise RetryableError(
                f"Kafka at {self._config.brokers} did not take records for {names}: {error!r}{_advice(error)}"
            ) from error

    async def _tick(self, ticker: Ticker) -> None:
        loop = asyncio.get_running_loop()
        controls = self._topics.controls
        times = TimeWatch(self._topics.events, self._health)
        due = loop.time()
        while True:
            due = max(due + ticker.interval_s, loop.time())
            await asyncio.sleep(due - loop.time())
            mine = {tp.partition: p.watermark for tp, p in self._partitions.items() if tp.topic == self._topics.events}
            times.look(mine, ticker.clock.now())
            if mine:
                tick = Tick(ts=within(ticker.clock.now()), source=CLOCK)
                await asyncio.gather(
                    *(
                        self._send([Output(self._topics.events, None, encode_event(controls.signed(tick, n)))], n)
                        for n in mine
                    )
                )


def _advice(error: Exception) -> str:
    if not isinstance(error, InvalidTimestampError):
        return ""
    return (
        ". The clock here is too far from the broker's for topics that keep their producer's time: put it right, and "
        "`driftline topics apply` prints how to give them the broker's"
    )


def run_faust_role(
    name: str,
    config: KafkaConfig,
    topics: Topics,
    sources: Sequence[Source],
    *,
    ticker: Ticker | None = None,
    hook: Hook = _no_hook,
    health: HealthConfig | None = None,
    notes: Callable[[], Sequence[Note]] = lambda: (),
) -> None:
    """Run a role until SIGTERM or SIGINT, in a process of its own: blocks, and exits the process with 1 on failure, or
    with 78 where the settings are wrong.
    `health`: where it tells of its health; None: nowhere. `notes`: what its health says beside problems."""
    # mode logs the starts and stops of its subclasses, ours too, under their module's name.
    for noisy in ("faust", "mode", "aiokafka", "driftline.streams.runtime.transport"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    async def main() -> int:
        own = Health(name, notes=notes)
        async with serve(own, health) if health else nullcontext():
            return await FaustRole(name, config, topics, sources, ticker=ticker, hook=hook, health=own).run()

    code = asyncio.run(main())
    if code:
        sys.exit(code)
