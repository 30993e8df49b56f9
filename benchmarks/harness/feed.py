"""The producer of the benchmarks, in a process of its own: plain aiokafka, batches built with `create_batch`, as fast
as the broker acknowledges or at a given rate. Far cheaper than any application, so what is measured is the pipeline."""

import asyncio
import logging
import multiprocessing
import resource
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty
from typing import Any

from aiokafka import AIOKafkaProducer

from benchmarks.harness import traffic
from benchmarks.harness.processes import BenchmarkFailed
from driftline.producers import ProducerConfig
from driftline.schemas.topics import Topics
from driftline.streams.runtime.config import KafkaConfig

AHEAD = 4  # batches that wait for a partition's turn
PREPARED = 1_500_000  # traces that are encoded before the clock starts: 1.5 GB; more are made on the way
PROBE_S = 0.1


@dataclass(frozen=True)
class Pace:
    """`per_s` 0: as fast as possible. `probes`: time a single trace of its own, to each partition in turn."""

    per_s: float = 0.0
    probes: bool = False


@dataclass(frozen=True)
class Fed:
    """Times are seconds since the epoch."""

    began: float
    ended: float  # all acknowledged
    cpu_s: float
    events: int  # traces and scores
    traces: int
    bytes: int
    peak_rss_mb: float
    probes: dict[str, float]  # trace id -> when it was handed to the client


class Feeder:
    """Prepares at once; sends from `go` on."""

    def __init__(self, kafka: KafkaConfig, shape: traffic.Shape, pace: Pace | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self.shape = shape
        self.probing = pace is not None and pace.probes
        self._ready, self._go = context.Event(), context.Event()
        self._result: Any = context.Queue()
        self._process = context.Process(
            target=_run, args=(kafka, shape, pace or Pace(), self._ready, self._go, self._result), daemon=True
        )
        self._fed: Fed | None = None
        self._process.start()

    def wait_ready(self) -> None:
        while not self._ready.wait(0.2):
            if not self._process.is_alive():
                raise BenchmarkFailed("the producer ended before it began")

    def go(self) -> None:
        self._go.set()

    def look(self) -> Fed | None:
        """None while it still sends."""
        if self._fed is None:
            alive = self._process.is_alive()
            with suppress(Empty):
                self._fed = self._result.get(timeout=0.001)
                self._process.join()
            if self._fed is None and not alive:
                raise BenchmarkFailed("the producer failed")
        return self._fed

    def result(self) -> Fed:
        while (fed := self.look()) is None:
            time.sleep(0.05)
        return fed

    def kill(self) -> None:
        if self._process.is_alive():
            self._process.kill()
        self._process.join()


def _run(kafka: KafkaConfig, shape: traffic.Shape, pace: Pace, ready: Any, go: Any, result: Any) -> None:
    logging.basicConfig(level=logging.WARNING)
    blocks: Iterable[traffic.Block] = traffic.blocks(shape, kafka.topics.controls)
    if shape.traces <= PREPARED:
        blocks = list(blocks)
    result.put(asyncio.run(_feed(kafka, shape, blocks, pace, ready, go)))


class _Lane:
    """One partition: records into batches, batches to the broker in order."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, partition: int) -> None:
        self._producer = producer
        self._topic = topic
        self._partition = partition
        self._batch = producer.create_batch()
        self._queue: asyncio.Queue[Any] = asyncio.Queue(AHEAD)
        self._acks: list[Any] = []
        self._sending = asyncio.create_task(self._send())

    async def add(self, key: bytes | None, value: bytes) -> None:
        if self._batch.append(key=key, value=value, timestamp=None) is None:
            await self.flush()
            if self._batch.append(key=key, value=value, timestamp=None) is None:
                raise BenchmarkFailed("a record is larger than a batch")

    async def flush(self) -> None:
        if self._batch.record_count():
            batch, self._batch = self._batch, self._producer.create_batch()
            await self._queue.put(batch)
            if self._sending.done():
                await self._sending

    async def _send(self) -> None:
        while (batch := await self._queue.get()) is not None:
            batch.close()
            ack = await self._producer.send_batch(batch, self._topic, partition=self._partition)
            self._acks = [each for each in self._acks if not each.done() or each.exception()] + [ack]

    async def close(self) -> None:
        await self.flush()
        await self._queue.put(None)
        await self._sending
        await asyncio.gather(*self._acks)


async def _feed(
    kafka: KafkaConfig, shape: traffic.Shape, blocks: Iterable[traffic.Block], pace: Pace, ready: Any, go: Any
) -> Fed:
    # Compressed as the SDK does it. (aiokafka's lz4 is the slow, thorough kind: 17 µs an event for zstd's 6.)
    options = {**kafka.producer_options(), "compression_type": ProducerConfig(app="benchmark").compression}
    producer = AIOKafkaProducer(**kafka.client_options(), **options)
    await producer.start()
    probes: dict[str, float] = {}
    events = size = 0
    try:
        lanes = [_Lane(producer, Topics(kafka.prefix).events, number) for number in range(shape.partitions)]
        made = iter(blocks)
        block = next(made, None)  # the pool of records is made with the first
        ready.set()
        await asyncio.to_thread(go.wait)
        began, cpu = time.time(), time.process_time()
        next_probe = began
        while block is not None:
            if pace.probes and (now := time.time()) >= next_probe:
                next_probe += PROBE_S
                number = len(probes)
                probes[f"probe-{number}"] = now
                when = traffic.START_US + events * 1_000_000 // shape.rate
                partition = number % shape.partitions
                app = traffic.named("probe", partition, shape.partitions)
                await lanes[partition].add(app.encode(), traffic.probe(app, number, when))
            for message in block.messages:
                await lanes[message.partition].add(message.key, message.value)
                size += len(message.value)
            events += block.events
            if pace.per_s:
                for lane in lanes:
                    await lane.flush()
                ahead = began + events / pace.per_s - time.time()
                await asyncio.sleep(max(0.0, ahead))
            block = next(made, None)
        for lane in lanes:
            await lane.close()
        ended, used = time.time(), time.process_time() - cpu
    finally:
        await producer.stop()
    sent = len(probes)
    return Fed(began, ended, used, events + sent, shape.sent_traces + sent, size, _own_peak_mb(), probes)


def _own_peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
