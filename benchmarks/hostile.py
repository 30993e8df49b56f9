"""Real roles on Apache Kafka, fed with what strangers write among good events of a known count.

    python -m benchmarks.hostile --json FILE [--seconds N] [--rate N] [--seed N]

Good events go out one by one, in arrays, and in arrays beside garbage. Hostile records come from the JSON Schema of
the events, mutated, from a list of what has hurt, and from a random generator (`harness/hostile.py`). Nothing is
injected into the roles: what ends by itself is started again, and counted. Prints JSON:

    sent, good, stored, dead_lettered   records of strangers; good events; of those in ClickHouse; dead letters there
    restarts                            of roles that ended by themselves, with the last line of their logs
    wrong_windows                       app and minute of good events whose windows count other than was sent
    peak_rss_mb, rss_mb                 by role; over time, in twenty samples
    longest_stall_s                     by role: the longest time without progress on a partition that had records
"""

import argparse
import asyncio
import json
import logging
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from benchmarks.harness.hostile import Hostile
from benchmarks.harness.processes import BenchmarkFailed, Worker, clean_up_at_sigterm, peak_rss_mb, rss_mb
from benchmarks.harness.services import Rows, Services, services
from benchmarks.throughput import machine
from driftline.schemas.clock import SystemClock
from driftline.schemas.codec import encode_event, encode_events
from driftline.schemas.events import MICROSECONDS, Trace
from driftline.schemas.topics import Topics

logger = logging.getLogger("benchmarks.hostile")

ROLES = ("monitor", "embed", "judge", "archive", "notify")
PARTITIONS = 4
GOOD_APPS = 6
GOOD_EVERY_S = 0.25  # a record of good events to each app
HEAVY_EVERY_S = 20.0
LOOK_S = 3.0
SAMPLES = 20
MINUTE = 60 * MICROSECONDS
SETTLE_S = 300.0  # for the last rows and windows, after the last record
GROUPS = {"monitor": "monitor", "embed": "embed", "archive": "archive"}  # role -> consumer group of the events topic


class Roles:
    """The workers, started again when they end by themselves."""

    def __init__(self, ground: Services, stack: ExitStack) -> None:
        self._ground = ground
        self._stack = stack
        self._workers = {name: self._start(name) for name in ROLES}
        self.restarts: list[dict[str, str]] = []
        self.peaks: dict[str, float] = dict.fromkeys(ROLES, 0.0)
        self.memory: list[dict[str, float]] = []

    def _start(self, name: str) -> Worker:
        return self._stack.enter_context(self._ground.role(name, ticks=True))

    async def ready(self) -> None:
        await asyncio.gather(*(asyncio.to_thread(worker.wait_ready) for worker in self._workers.values()))

    def look(self) -> None:
        for name, worker in self._workers.items():
            try:
                worker.check()
                self.peaks[name] = max(self.peaks[name], peak_rss_mb(worker.pid))
            except BenchmarkFailed:
                lines = worker.log.read_text(errors="replace").splitlines() or [""]
                self.restarts.append({"role": name, "said": lines[-1][:500]})
                logger.warning("%s ended: %s", name, "\n".join(lines[-20:]))
                kept = worker.log.with_suffix(f".{len(self.restarts)}.log")
                worker.log.rename(kept)
                self._workers[name] = self._start(name)
        self.memory.append({name: rss_mb(worker.pid) for name, worker in self._workers.items() if worker.alive})


class Feed:
    """Good events of a known count among records of strangers."""

    def __init__(self, ground: Services, rate: float, seed: int) -> None:
        self._topic = Topics(ground.kafka.prefix).events
        self._producer = AIOKafkaProducer(**ground.kafka.client_options(), **ground.kafka.producer_options())
        self._clock = SystemClock()
        self._hostile = Hostile(seed, self._clock.now)
        self._rate = rate
        self.sent = 0
        self.good: Counter[tuple[str, int]] = Counter()  # by app and minute, acknowledged

    async def run(self, seconds: float) -> None:
        await self._producer.start()
        try:
            async with asyncio.timeout(2 * seconds + 60):
                until = time.monotonic() + seconds
                await asyncio.gather(self._good(until), self._strangers(until), self._heavy(until))
        finally:
            await self._producer.stop()

    async def _good(self, until: float) -> None:
        number = 0
        while time.monotonic() < until:
            for app in range(GOOD_APPS):
                events = [self._trace(f"good-{app}", number + i) for i in range(1 + number % 5)]
                number += len(events)
                await self._send_good(events, number)
            await asyncio.sleep(GOOD_EVERY_S)

    def _trace(self, app: str, number: int) -> Trace:
        return Trace(
            app=app,
            ts=self._clock.now(),
            trace_id=f"g-{number}",
            conversation_id=f"c-{number // 3}",
            release="v1",
            request_model="gpt-4o-mini",
            provider="openai",
            input_tokens=10,
            output_tokens=20,
            latency_ms=100.0 + number % 50,
            input_text=f"How do I reset my password, attempt {number % 7}?",
            output_text="Open the settings and choose reset.",
        )

    async def _send_good(self, events: list[Trace], number: int) -> None:
        value = encode_event(events[0]) if len(events) == 1 else encode_events(events)
        if len(events) > 1 and number % 2:
            value = value[:-1] + b', 17, {"type": "trace"}, "garbage"]'
        await self._producer.send_and_wait(self._topic, value, key=events[0].app.encode())
        self.good.update((event.app, event.ts // MINUTE) for event in events)

    async def _strangers(self, until: float) -> None:
        began = time.monotonic()
        for key, value in self._hostile.records():
            if time.monotonic() >= until:
                return
            await self._send(key, value)
            await asyncio.sleep(max(0.0, began + self.sent / self._rate - time.monotonic()))

    async def _heavy(self, until: float) -> None:
        while time.monotonic() < until:
            await self._send(b"hostile-heavy", self._hostile.heavy())
            await asyncio.sleep(HEAVY_EVERY_S)

    async def _send(self, key: bytes | None, value: bytes | None) -> None:
        # aiokafka refuses a record that is nothing at all; other clients do not
        await self._producer.send(self._topic, value, key=b"" if key is None and value is None else key)
        self.sent += 1


class Stalls:
    """By role: how long a partition with unread records has stood still at most."""

    def __init__(self, ground: Services) -> None:
        self._kafka, self._prefix = ground.kafka, ground.kafka.prefix
        self._partitions = [TopicPartition(Topics(self._prefix).events, number) for number in range(PARTITIONS)]
        self._since: dict[tuple[str, TopicPartition], tuple[int, float]] = {}
        self.longest: dict[str, float] = defaultdict(float)
        self.lag: dict[str, int] = {}

    async def look(self) -> None:
        for role, group in GROUPS.items():
            consumer = AIOKafkaConsumer(group_id=f"{self._prefix}.{group}", **self._kafka.reader_options())
            await consumer.start()
            try:
                ends = await consumer.end_offsets(self._partitions)
                done = {tp: await consumer.committed(tp) or 0 for tp in self._partitions}
            finally:
                await consumer.stop()
            self.lag[role] = sum(ends[tp] - done[tp] for tp in self._partitions)
            now = time.monotonic()
            for tp in self._partitions:
                offset, since = self._since.get((role, tp), (-1, now))
                if done[tp] != offset or done[tp] >= ends[tp]:
                    self._since[role, tp] = (done[tp], now)
                else:
                    self.longest[role] = max(self.longest[role], now - since)


async def watch(roles: Roles, stalls: Stalls) -> None:
    while True:
        roles.look()
        try:
            await stalls.look()
        except KafkaError as error:
            logger.warning("no look at the offsets: %r", error)
        await asyncio.sleep(LOOK_S)


async def settled(what: Awaitable[None], roles: Roles) -> None:
    try:
        async with asyncio.timeout(SETTLE_S):
            await what
    except TimeoutError:
        logger.warning("not settled within %g s; restarts: %s", SETTLE_S, roles.restarts)


async def until_counted(rows: Rows, good: Counter[tuple[str, int]]) -> None:
    """Every window of good events is there, or the time for it ends."""
    while found(rows) != good:  # noqa: ASYNC110 (ClickHouse tells nobody)
        await asyncio.sleep(LOOK_S)


def found(rows: Rows) -> Counter[tuple[str, int]]:
    counted: Counter[tuple[str, int]] = Counter()
    sql = (
        "SELECT concat(app, '/', toString(intDiv(toUnixTimestamp(start), 60))), sum(requests) FROM windows "
        "WHERE startsWith(app, 'good-') GROUP BY 1"
    )
    for name, requests in rows.pairs(sql):
        app, _, minute = name.rpartition("/")
        counted[app, int(minute)] = requests
    return counted


async def storm(ground: Services, seconds: float, rate: float, seed: int, stack: ExitStack) -> dict[str, Any]:
    roles, stalls, feed = Roles(ground, stack), Stalls(ground), Feed(ground, rate, seed)
    await roles.ready()
    rows = Rows(ground.clickhouse)
    watching = asyncio.create_task(watch(roles, stalls))
    try:
        await feed.run(seconds)
        await settled(until_counted(rows, feed.good), roles)
    finally:
        watching.cancel()
        await asyncio.wait([watching])
    counted = found(rows)
    wrong = sorted(place for place in counted.keys() | feed.good.keys() if counted[place] != feed.good[place])
    every = max(1, len(roles.memory) // SAMPLES)
    return {
        "benchmark": "hostile",
        "machine": machine(),
        "seconds": seconds,
        "sent": feed.sent,
        "good": sum(feed.good.values()),
        "stored": rows.number("SELECT uniqExact(app, trace_id) FROM traces WHERE startsWith(app, 'good-')"),
        "dead_lettered": rows.number("SELECT count() FROM dead_letters"),
        "restarts": len(roles.restarts),
        "ended": roles.restarts,
        "wrong_windows": len(wrong),
        "wrong": [[*place, counted[place], feed.good[place]] for place in wrong[:10]],
        "peak_rss_mb": {name: round(peak, 1) for name, peak in roles.peaks.items()},
        "rss_mb": {name: list(samples(roles.memory[::every], name)) for name in ROLES},
        "longest_stall_s": {role: round(stall, 1) for role, stall in stalls.longest.items()},
        "lag": stalls.lag,
    }


def samples(memory: list[dict[str, float]], name: str) -> Iterator[int]:
    return (round(look[name]) for look in memory if name in look)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--seconds", type=float, default=120.0, help="of traffic; for figures to keep, an hour")
    parser.add_argument("--rate", type=float, default=100.0, help="records of strangers per second")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    clean_up_at_sigterm()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logger.setLevel(logging.INFO)
    with ExitStack() as stack:
        ground = stack.enter_context(services("apache", PARTITIONS))
        figures = asyncio.run(storm(ground, arguments.seconds, arguments.rate, arguments.seed, stack))
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
