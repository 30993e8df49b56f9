"""One, two and four monitor workers on eight partitions of Apache Kafka, and one app alone, which is one partition.

    KAFKA_HOME=… python -m benchmarks.scale_out [--events 400000] [--workers 1 2 4]

Everyone is ready before the first event; measured is from the first send to the last window. The windows of all runs of
the same traffic must be the same, to the last digit. Prints JSON.
"""

import argparse
import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.harness.feed import Feeder
from benchmarks.harness.processes import BenchmarkFailed, Meter, Worker, clean_up_at_sigterm
from benchmarks.harness.services import broker, role
from benchmarks.harness.traffic import Shape
from driftline.schemas.codec import decode, encode
from driftline.schemas.results import Progress, WindowStats
from driftline.schemas.topics import Topics
from driftline.streams.runtime.admin import apply_topics
from driftline.streams.runtime.config import KafkaConfig
from tests.brokers import Kafka

logger = logging.getLogger("benchmarks.scale_out")

PARTITIONS = 8
STALLED_S = 120.0
SETTLE_S = 3.0  # the last worker's rebalance is over

Windows = dict[str, dict[str, Any]]


def measure(kafka: KafkaConfig, broker_pid: int, shape: Shape, workers: int) -> tuple[dict[str, Any], Windows]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="driftline-bench-")))
        asyncio.run(apply_topics(kafka, Topics(kafka.prefix)))
        feeder = Feeder(kafka, shape)
        stack.callback(feeder.kill)
        group = [stack.enter_context(role("monitor", kafka, folder, f"monitor-{n}")) for n in range(workers)]
        for worker in group:
            worker.wait_ready()
        feeder.wait_ready()
        time.sleep(SETTLE_S)
        meter = Meter({"broker": broker_pid, **{worker.name: worker.pid for worker in group}})
        feeder.go()
        ended = asyncio.run(absorbed(kafka, shape.last_tick, group))
        used, other = meter.used(), meter.machine()
        peak = max(meter.peaks()[worker.name] for worker in group)
        fed = feeder.result()
    seconds = ended - fed.began
    cpu = sum(used[worker.name] for worker in group)
    return {
        "workers": workers,
        "apps": shape.apps,
        "events": fed.events,
        "seconds": round(seconds, 2),
        "events_per_s": round(fed.events / seconds),
        "cpu_s_per_million_events": round(cpu / fed.events * 1e6, 2),
        "cpu_s_by_worker": [used[worker.name] for worker in group],
        "broker_cpu_s_per_million_events": round(used["broker"] / fed.events * 1e6, 2),
        "peak_rss_mb": peak,
        "other_cpu_s": round(max(0.0, other - sum(used.values()) - fed.cpu_s), 2),
    }, asyncio.run(windows(kafka, fed.traces))


async def absorbed(kafka: KafkaConfig, last_tick: int, group: list[Worker]) -> float:
    """When every partition has absorbed the last tick: its windows are published before its Progress record."""
    topic = Topics(kafka.prefix).progress
    partitions = [TopicPartition(topic, number) for number in range(kafka.partitions)]
    consumer = AIOKafkaConsumer(**kafka.reader_options())
    await consumer.start()
    try:
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        done: set[int] = set()
        heard = time.monotonic()
        while len(done) < kafka.partitions:
            for worker in group:
                worker.check()
            for records in (await consumer.getmany(timeout_ms=200)).values():
                heard = time.monotonic()
                for record in records:
                    progress = decode(record.value, Progress)
                    if progress.role == "monitor" and progress.watermark == last_tick:
                        done.add(progress.partition)
            if time.monotonic() - heard > STALLED_S:
                raise BenchmarkFailed(f"no progress; {len(done)} of {kafka.partitions} partitions are done")
        return time.time()
    finally:
        await consumer.stop()


async def windows(kafka: KafkaConfig, traces: int) -> Windows:
    """The last revision of each, by id."""
    newest: dict[str, WindowStats] = {}
    async with Kafka(kafka) as broker:
        for record in await broker.read(broker.topics.windows):
            if b'"type":"window"' not in record.value:
                continue  # what was left out of them
            window = decode(record.value, WindowStats)
            if window.id not in newest or window.revision >= newest[window.id].revision:
                newest[window.id] = window
    counted = sum(window.requests for window in newest.values())
    if counted != traces:
        raise BenchmarkFailed(f"the windows count {counted} requests of {traces}")
    return {key: {**json.loads(encode(window)), "revision": None} for key, window in newest.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=400_000, help="traces per run")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    clean_up_at_sigterm()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logger.setLevel(logging.INFO)
    if not os.environ.get("KAFKA_HOME"):
        print(json.dumps({"benchmark": "scale_out", "skipped": "KAFKA_HOME is not set"}))
        return
    results, found = [], []
    cases = [(Shape(arguments.events, 200, PARTITIONS), workers) for workers in arguments.workers]
    cases.append((Shape(arguments.events // 4, 200, PARTITIONS, apps=1), 1))
    with broker("apache", PARTITIONS) as (kafka, pid):
        for number, (shape, workers) in enumerate(cases):
            own = kafka.model_copy(update={"prefix": f"scale{number}"})
            result, seen = measure(own, pid, shape, workers)
            logger.info("%d workers, %d apps: %d events/s", workers, shape.apps, result["events_per_s"])
            results.append(result)
            found.append(seen)
    same = all(seen == found[0] for seen in found[: len(arguments.workers)])
    report = {"benchmark": "scale_out", "cpus": os.cpu_count(), "partitions": PARTITIONS}
    print(json.dumps({**report, "windows": len(found[0]), "windows_identical": same, "results": results}, indent=2))
    if not same:
        raise SystemExit("the windows differ between runs")


if __name__ == "__main__":
    main()
