"""Applications that use librdkafka, each in its own way, beside the SDK's traffic."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from confluent_kafka import Producer

from driftline.schemas.codec import encode_event, encode_events
from driftline.schemas.events import Trace
from tests.brokers import eventually
from tests.storms.harness import PATIENCE, World

APPS = tuple(f"stranger-{number}" for number in range(7))
EVERY_S = 0.1

Config = dict[str, Any]


class Strangers:
    """Keep on sending, with event times of the world's traffic; `sent` counts what the broker has acknowledged and no
    transaction took back, by app."""

    def __init__(self, world: World, *, seed: int, transactions: bool = True) -> None:
        self._world = world
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self.sent: Counter[str] = Counter()
        self.taken_back = 0
        self._ways: list[Callable[[], None]] = [
            self._way({"partitioner": "consistent_random", "compression.type": "none"}, self._keyed),
            self._way({"partitioner": "murmur2_random", "compression.type": "gzip"}, self._keyed),
            self._way({"partitioner": "fnv1a_random", "compression.type": "snappy"}, self._mixed),
            self._way({"partitioner": "random", "compression.type": "lz4", "batch.num.messages": 3}, self._mixed),
            self._way({"compression.type": "zstd", "linger.ms": 50}, self._keyless),
            self._way({"enable.idempotence": True, "compression.type": "zstd"}, self._first_partition),
        ]
        if transactions:
            self._ways += [self._transaction(f"{seed}-{number}") for number in range(2)]

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        enough = asyncio.Event()
        task = asyncio.create_task(self._flow(enough))
        try:
            yield
        finally:
            enough.set()
            await task
            self._ways = []  # with their producers

    async def _flow(self, enough: asyncio.Event) -> None:
        for way in itertools.cycle(self._ways):
            if enough.is_set():
                return
            await asyncio.to_thread(way)
            await asyncio.sleep(EVERY_S)

    def _producer(self, config: Config) -> Producer:
        brokers = self._world.kafka.config.brokers
        ours = {"bootstrap.servers": brokers, "topic.metadata.refresh.interval.ms": 1_000, "log_level": 0}
        return Producer({**ours, **config})

    def _way(self, config: Config, send: Callable[[Producer, Counter[str]], None]) -> Callable[[], None]:
        producer = self._producer(config)

        def once() -> None:
            counts = Counter[str]()
            for _ in range(self._random.randint(1, 20)):
                send(producer, counts)
            assert producer.flush(60) == 0
            self.sent += counts

        return once

    def _transaction(self, name: str) -> Callable[[], None]:
        producer = self._producer({"transactional.id": f"{self._world.kafka.config.prefix}-{name}"})
        producer.init_transactions(60)

        def once() -> None:
            counts = Counter[str]()
            producer.begin_transaction()
            for _ in range(self._random.randint(1, 10)):
                self._mixed(producer, counts)
            assert producer.flush(60) == 0
            if self._random.random() < 0.4:
                producer.abort_transaction(60)
                self.taken_back += counts.total()
            else:
                producer.commit_transaction(60)
                self.sent += counts

        return once

    def _trace(self, app: str) -> Trace:
        world, number = self._world, next(self._numbers)
        return Trace(
            app=app,
            ts=world.traffic.now,
            trace_id=f"x{number}",
            release="v1",
            latency_ms=float(1 + number % 50),
            status="error" if number % 9 == 0 else "ok",
            input_tokens=number % 300,
        )

    def _send(self, producer: Producer, counts: Counter[str], apps: list[str], **where: Any) -> None:
        events = [self._trace(app) for app in apps]
        value = encode_event(events[0]) if len(events) == 1 else encode_events(events)
        producer.produce(self._world.kafka.topics.events, value, on_delivery=_delivered, **where)
        producer.poll(0)
        counts.update(apps)

    def _keyed(self, producer: Producer, counts: Counter[str]) -> None:
        app = self._random.choice(APPS)
        self._send(producer, counts, [app], key=app.encode())

    def _mixed(self, producer: Producer, counts: Counter[str]) -> None:
        apps = self._random.choices(APPS, k=self._random.randint(2, 6))
        self._send(producer, counts, apps, key=apps[0].encode())

    def _keyless(self, producer: Producer, counts: Counter[str]) -> None:
        self._send(producer, counts, [self._random.choice(APPS)])

    def _first_partition(self, producer: Producer, counts: Counter[str]) -> None:
        self._send(producer, counts, [self._random.choice(APPS)], partition=0)


def _delivered(error: Any, _: Any) -> None:
    assert error is None, error


async def come_home(world: World) -> None:
    """What was sent, and then what was forwarded, is absorbed: before the log's last ticks, which close its windows."""
    for _ in range(2):
        await eventually(world.saved("monitor", world.kafka.topics.events), "all has come home", **PATIENCE)


async def counted(world: World, strangers: Strangers) -> int:
    """Every event of theirs is in one window or said to be in none, by what they know and nobody else. Returns how many
    are in none: they came home more than ten minutes of the log's time after their own."""
    sent = dict(strangers.sent)
    stored = await _by_app(world, "SELECT app, uniqExact(trace_id) AS n FROM traces GROUP BY app")
    in_windows = await _by_app(world, "SELECT app, sum(requests) AS n FROM windows GROUP BY app")
    left_out = await _by_app(world, "SELECT app, sum(events) AS n FROM left_out WHERE kind = 'trace' GROUP BY app")
    assert stored == sent
    assert {app: in_windows.get(app, 0) + left_out.get(app, 0) for app in sent} == sent
    return sum(left_out.values())


async def _by_app(world: World, sql: str) -> dict[str, int]:
    return {row["app"]: int(row["n"]) for row in await world.store.query(sql) if row["app"] in APPS}
