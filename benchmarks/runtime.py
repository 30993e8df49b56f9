"""How many events a second pass through the runtime, with a fold that only decodes and counts them.

    python -m benchmarks.runtime [--events 400000]

Runs on the embedded broker, and on Apache Kafka when KAFKA_HOME is set. The topic is filled first; measured is one
worker process from its first record to its last, with checkpoints, while the broker shares the machine. CPU seconds
are the worker's own: they tell more where other work runs beside. Prints JSON.
"""

import argparse
import asyncio
import json
import logging
import multiprocessing
import os
import random
import string
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer

from driftline.schemas.codec import decode_events, encode_event, encode_events
from driftline.schemas.events import Tick, Trace
from driftline.schemas.topics import Topics
from driftline.streams.embedded_kafka import EmbeddedKafka
from driftline.streams.fold import Output, Record
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.worker import Source, run_faust_role
from tests.brokers import ApacheKafka, Kafka, eventually, find_free_port

START_US = 1_700_000_000_000_000
IN_FLIGHT = 500  # records


class Count:
    """Counts events; says so at a tick, with the time from the first record to it."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._events = 0
        self._started = self._cpu_started = 0.0
        self.watermark: int | None = None
        self.counters: dict[str, int] = {}

    async def absorb(self, records: Sequence[Record]) -> list[Output]:
        if not self._started:
            self._started, self._cpu_started = time.time(), time.process_time()
        for record in records:
            for event in decode_events(record.value).events:
                if isinstance(event, Tick):
                    self.watermark = event.ts
                    found = {
                        "events": self._events,
                        "started": self._started,
                        "ended": time.time(),
                        "cpu_started": self._cpu_started,
                        "cpu_ended": time.process_time(),
                    }
                    return [Output(self._topic, None, json.dumps(found).encode())]
                self._events += 1
        return []

    def snapshot(self) -> bytes:
        return b"%d" % self._events


def work(config: KafkaConfig) -> None:
    logging.basicConfig(level=logging.WARNING)
    topics = Topics(config.prefix)
    run_faust_role("bench", config, topics, [Source(topics.events, "monitor", lambda *_: Count(topics.windows))])


def example(number: int, letters: random.Random) -> Trace:
    text = "".join(letters.choices(string.ascii_lowercase + "     ", k=250))
    return Trace(
        app="bench",
        ts=START_US + number,
        trace_id=f"{number:032x}",
        span_id=f"{number:016x}",
        conversation_id=f"conversation-{number % 1000}",
        release="2026-11-21",
        provider="openai",
        request_model="gpt-5-mini",
        response_model="gpt-5-mini-2026-08",
        input_tokens=812,
        output_tokens=143,
        latency_ms=812.5,
        ttft_ms=213.25,
        finish_reasons=["stop"],
        input_text=text,
        output_text=text[::-1],
    )


async def fill(kafka: Kafka, events: int, size: int) -> int:
    """`events` events in records of `size`, and a tick at each partition's end. Returns the bytes of one event."""
    letters = random.Random(0)
    pool = [example(number, letters) for number in range(1000)]
    record = encode_events if size > 1 else lambda some: encode_event(some[0])
    values = [record(pool[start : start + size]) for start in range(0, len(pool), size)]
    records = events // size // kafka.config.partitions
    async with asyncio.TaskGroup() as group:
        for partition in range(kafka.config.partitions):
            group.create_task(fill_partition(kafka.producer, kafka.topics.events, partition, values, records))
    await kafka.tick(START_US)
    return len(encode_event(pool[0]))


async def fill_partition(
    producer: AIOKafkaProducer, topic: str, partition: int, values: list[bytes], records: int
) -> None:
    for start in range(0, records, IN_FLIGHT):
        several = range(start, min(start + IN_FLIGHT, records))
        acks = [await producer.send(topic, values[number % len(values)], partition=partition) for number in several]
        await asyncio.gather(*acks)


async def measure(config: KafkaConfig, events: int, size: int) -> dict[str, Any]:
    async with Kafka(config) as kafka:
        event_bytes = await fill(kafka, events, size)
        worker = multiprocessing.get_context("spawn").Process(target=work, args=(config,))
        worker.start()
        try:

            async def finished() -> list[dict[str, float]]:
                found = [json.loads(record.value) for record in await kafka.read(kafka.topics.windows)]
                return found if len(found) == config.partitions else []

            results = await eventually(finished, "all events counted", timeout_s=120, every_s=0.5)
        finally:
            worker.terminate()
            worker.join()
    counted = sum(result["events"] for result in results)
    seconds = max(result["ended"] for result in results) - min(result["started"] for result in results)
    cpu = max(result["cpu_ended"] for result in results) - min(result["cpu_started"] for result in results)
    return {
        "events_per_record": size,
        "event_bytes": event_bytes,
        "events": counted,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "events_per_second": round(counted / seconds),
        "events_per_cpu_second": round(counted / cpu),
    }


@contextmanager
def embedded() -> Iterator[KafkaConfig]:
    with EmbeddedKafka(find_free_port()) as kafka:
        yield KafkaConfig(brokers=kafka.brokers, partitions=4).for_embedded()


@contextmanager
def apache() -> Iterator[KafkaConfig]:
    with tempfile.TemporaryDirectory() as folder:
        node = ApacheKafka(Path(os.environ["KAFKA_HOME"]).resolve(), Path(folder))
        node.format()
        node.start()
        try:
            yield KafkaConfig(brokers=node.brokers, partitions=4)
        finally:
            node.kill()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--events", type=int, default=400_000)
    events: int = arguments.parse_args().events
    brokers: dict[str, Callable[[], Any]] = {"embedded": embedded}
    if os.environ.get("KAFKA_HOME"):
        brokers["apache"] = apache
    results = []
    for name, broker in brokers.items():
        with broker() as config:
            for size in (100, 1):
                run = config.model_copy(update={"prefix": f"bench{size}"})
                results.append({"broker": name, **asyncio.run(measure(run, events if size > 1 else events // 2, size))})
    print(json.dumps({"benchmark": "runtime", "cpus": os.cpu_count(), "results": results}, indent=2))


if __name__ == "__main__":
    main()
