"""Runs the scenario against a pipeline, in lock-step with it.

For each slice of event time: emit, wait until all is acknowledged, write the tick, and wait until monitor, drift and
judge have worked through it. Then the bot obeys what they published, and goes on. So the scores of a slice are in the
log before the next slice's events, and the whole run is determined by its seed, however fast or slow the machine is.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from driftline.producers import BreakerState, CanaryRouter, Tracer
from driftline.schemas.clock import Clock, SystemClock
from driftline.schemas.codec import decode, encode_event
from driftline.schemas.errors import DriftlineError
from driftline.schemas.events import MICROSECONDS, Release, Tick, Trace
from driftline.schemas.homes import home
from driftline.schemas.results import (
    Alert,
    Baseline,
    BreakerSignal,
    Evidence,
    LeftOut,
    Progress,
    Result,
    RollbackSignal,
    WindowStats,
)
from driftline.streams.demo.bot import SupportBot, stable_only
from driftline.streams.demo.corpus import load_corpus
from driftline.streams.demo.scenario import Phase, Scenario
from driftline.streams.demo.summary import Ledger, Summary
from driftline.streams.patience import Patience, Work, nobody
from driftline.streams.runtime.config import KafkaConfig

logger = logging.getLogger(__name__)

ROLES = ("monitor", "drift", "judge")  # those whose work the next slice depends on
STALL_S = 120.0  # without progress while nobody works; loading the embedding model takes some seconds
LOOK_S = 1.0  # between looks at who works
POLL_MS = 200

CountRows: TypeAlias = Callable[[str], Awaitable[int]]
"""Distinct rows of a ClickHouse table."""


class DemoError(DriftlineError):
    pass


@dataclass(frozen=True)
class Update:
    """Where the demo stands after a slice of event time."""

    at: int
    phase: Phase
    sent: int  # events acknowledged so far
    requests: int  # in this slice
    wall_s: float  # since the start
    releases: Sequence[Release]  # announced in this slice
    results: Sequence[Result]  # published since the last update


async def run_demo(
    kafka: KafkaConfig,
    count_rows: CountRows,
    *,
    seed: int = 7,
    speed: float | None = None,
    slice_s: int = 60,
    on_update: Callable[[Update], None] | None = None,
    clock: Clock | None = None,
    measure: Callable[[], Work] = nobody,
) -> Summary:
    """Play the whole scenario and account for it. `speed`: at most so many seconds of event time per second; None: as
    fast as the pipeline goes. The pipeline must be running, with ticks of its own switched off; `measure` tells what
    its processes do, where that is known: at work, they are waited for.

    Raises DemoError when the pipeline does not get on."""
    clock = clock or SystemClock()
    began = clock.monotonic()
    scenario = Scenario()
    router, breakers = CanaryRouter(stable_only()), BreakerState()
    bot = await asyncio.to_thread(lambda: SupportBot(scenario, load_corpus(), seed, router, breakers))
    ledger = Ledger(scenario)
    tracer = Tracer(scenario.app, brokers=kafka.brokers, topic_prefix=kafka.prefix, linger_ms=0)
    try:
        async with Pipeline(kafka, scenario.app, clock, measure) as pipeline:
            paced_from = clock.monotonic()
            for at in range(scenario.start, scenario.end, slice_s * MICROSECONDS):
                until = min(at + slice_s * MICROSECONDS, scenario.end)
                events = bot.step(at, until)
                await _send(tracer, events)
                results = await pipeline.advance(until)
                for result in results:
                    _obey(result, router, breakers, ledger)
                if on_update:
                    on_update(_update(scenario, until, events, results, tracer, clock.monotonic() - began))
                if speed:
                    due = paced_from + (until - scenario.start) / MICROSECONDS / speed
                    await asyncio.sleep(max(0.0, due - clock.monotonic()))
        sent = tracer.stats().sent
        stored, dead_lettered = await _settled(count_rows, sent, clock)
    finally:
        await tracer.aclose()
    return ledger.summarize(
        canary_ended_at=bot.canary_ended_at,
        requests=bot.plan.count,
        sent=sent,
        stored=stored,
        dead_lettered=dead_lettered,
        wall_seconds=clock.monotonic() - began,
        seed=seed,
    )


async def _send(tracer: Tracer, events: Iterable[Trace | Release]) -> None:
    tracer.emit_many(events)
    if not await tracer.aflush(STALL_S):
        raise DemoError(f"the broker at {tracer.config.brokers} does not acknowledge events")
    if dropped := tracer.stats().dropped:
        raise DemoError(f"the demo's own events were dropped: {dict(dropped)}")


def _obey(result: Result, router: CanaryRouter, breakers: BreakerState, ledger: Ledger) -> None:
    if isinstance(result, RollbackSignal):
        router.obey(result)
    elif isinstance(result, BreakerSignal):
        breakers.obey(result)
    if isinstance(result, Alert | RollbackSignal | BreakerSignal):
        ledger.add(result)


def _update(
    scenario: Scenario,
    at: int,
    events: Sequence[Trace | Release],
    results: Sequence[Result],
    tracer: Tracer,
    wall_s: float,
) -> Update:
    releases = [event for event in events if isinstance(event, Release)]
    return Update(
        at=at,
        phase=scenario.phase(at - 1),
        sent=tracer.stats().sent,
        requests=len(events) - len(releases),
        wall_s=wall_s,
        releases=releases,
        results=results,
    )


async def _settled(count_rows: CountRows, sent: int, clock: Clock) -> tuple[int, int]:
    """Stored and dead-lettered events, once they account for all that was sent or stop growing."""
    best, changed_at = -1, clock.monotonic()
    while True:
        stored = await count_rows("traces") + await count_rows("releases")
        dead_lettered = await count_rows("dead_letters")
        if stored + dead_lettered > best:
            best, changed_at = stored + dead_lettered, clock.monotonic()
        if best >= sent or clock.monotonic() - changed_at > STALL_S / 4:
            return stored, dead_lettered
        await asyncio.sleep(0.2)


class Pipeline:
    """The pipeline as the demo sees it: ticks in, progress and results out, of the one partition of its app."""

    def __init__(self, kafka: KafkaConfig, app: str, clock: Clock, measure: Callable[[], Work] = nobody) -> None:
        self._measure = measure
        self._kafka = kafka
        self._clock = clock
        self._topics = kafka.topics
        self._partition = home(app, kafka.home_partitions)
        self._types: dict[str, Any] = {
            self._topics.alerts: Alert,
            self._topics.rollbacks: RollbackSignal,
            self._topics.breakers: BreakerSignal,
            self._topics.windows: WindowStats | LeftOut,
            self._topics.evidence: Evidence,
        }
        self._progress: dict[str, Progress] = {}
        self._watermark = 0  # that is being waited for
        self._unread: dict[str, deque[Any]] = {topic: deque() for topic in self._types}
        self._read: dict[str, int] = dict.fromkeys(self._types, -1)

    async def __aenter__(self) -> Self:
        self._producer = AIOKafkaProducer(**self._kafka.client_options(), **self._kafka.producer_options(linger_ms=0))
        self._consumer = AIOKafkaConsumer(**self._kafka.reader_options())
        await self._producer.start()
        await self._consumer.start()
        mine = [TopicPartition(topic, self._partition) for topic in (self._topics.progress, *self._types)]
        self._consumer.assign(mine)
        await self._consumer.seek_to_beginning(*mine)
        return self

    async def __aexit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        await self._producer.stop()
        await self._consumer.stop()

    async def advance(self, ts: int) -> list[Result]:
        """Write the tick, wait for everybody, and return what they published up to there, in order of time."""
        tick = Tick(ts=ts, source="demo")
        self._watermark = ts
        for partition in range(self._kafka.partitions):
            value = encode_event(self._topics.controls.signed(tick, partition))
            await self._producer.send_and_wait(self._topics.events, value, partition=partition)
        published = await self._until_worked_through(ts)
        results: list[Result] = []
        for topic, unread in self._unread.items():
            while unread and unread[0].offset <= published.get(topic, -1):
                results.append(decode(unread.popleft().value, self._types[topic]))
        return sorted(results, key=_moment)

    async def _until_worked_through(self, ts: int) -> dict[str, int]:
        """The last offset of each topic that belongs to this tick."""
        began = self._clock.monotonic()
        patience = Patience(STALL_S, began, self._measure())
        looked = began
        while True:
            behind = [role for role in ROLES if not self._has_reached(role, ts)]
            if not behind:
                published = self._published()
                if all(self._read[topic] >= offset for topic, offset in published.items()):
                    return published
            await self._poll()
            now = self._clock.monotonic()
            if now - looked < LOOK_S:
                continue
            looked = now
            if patience.is_out(now, self._measure()):
                raise DemoError(
                    f"no progress in {now - began:.0f} s: waiting for {', '.join(behind) or 'results'} in partition "
                    f"{self._partition}; look at the logs of these roles"
                )

    def _has_reached(self, role: str, ts: int) -> bool:
        progress = self._progress.get(role)
        return progress is not None and progress.watermark is not None and progress.watermark >= ts

    def _published(self) -> dict[str, int]:
        published: dict[str, int] = {}
        for progress in self._progress.values():
            for topic, offset in progress.published.items():
                if topic in self._types:
                    published[topic] = max(offset, published.get(topic, -1))
        return published

    async def _poll(self) -> None:
        for partition, records in (await self._consumer.getmany(timeout_ms=POLL_MS)).items():
            for record in records:
                if partition.topic == self._topics.progress:
                    self._take_progress(decode(record.value, Progress))
                else:
                    self._unread[partition.topic].append(record)
                    self._read[partition.topic] = record.offset

    def _take_progress(self, progress: Progress) -> None:
        """The first that reaches the tick is kept until the next tick: what comes later belongs to later events."""
        if progress.role in ROLES and not self._has_reached(progress.role, self._watermark):
            self._progress[progress.role] = progress


def _moment(result: Result) -> tuple[int, str, str]:
    if isinstance(result, WindowStats):
        return result.start, "window", result.id
    if isinstance(result, LeftOut):
        return result.tick, "left_out", result.id
    if isinstance(result, RollbackSignal):
        return result.decided_at, "rollback", result.id
    if isinstance(result, BreakerSignal):
        return result.at, "breaker", result.id
    if isinstance(result, Baseline):
        return result.at, "baseline", result.id
    return result.ts, type(result).__name__, result.id
