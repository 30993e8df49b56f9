"""The runner against a broker, with a stand-in for the pipeline that answers every tick."""

import asyncio
import io
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from rich.console import Console

from driftline.producers import ProducerConfig
from driftline.schemas.clock import SystemClock
from driftline.schemas.codec import decode_events, encode
from driftline.schemas.events import Tick
from driftline.schemas.results import Progress, RollbackSignal
from driftline.schemas.topics import Topics
from driftline.streams.demo import runner
from driftline.streams.demo.runner import ROLES, DemoError, Pipeline, Update, run_demo
from driftline.streams.demo.scenario import DEPLOYMENT, MINUTE, Scenario
from driftline.streams.demo.view import DemoView
from driftline.streams.patience import Work
from driftline.streams.runtime.admin import apply_topics
from driftline.streams.runtime.config import KafkaConfig
from tests.brokers import Broker

SCENARIO = Scenario()
VERDICT_AT = SCENARIO.bad_canary.began_at + 10 * MINUTE


def rollback() -> RollbackSignal:
    return RollbackSignal(
        id="r", deployment_id=DEPLOYMENT, app="support-bot", release="v2", stable="v1", decided_at=VERDICT_AT,
        revision=1, reason="worse", log_e={}, weights={}, log_e_total=5.0, threshold=4.0, alpha=0.01, counts={},
        effects={}, share=0.1,
    )  # fmt: skip


class StandIn:
    """Reads the events of all partitions; answers each tick with a Progress record of each role, on its partition."""

    def __init__(self, kafka: KafkaConfig, silent: str = "") -> None:
        self._kafka = kafka
        self._topics = Topics(kafka.prefix)
        self._silent = silent
        self.events: dict[int, int] = {}
        self.ticks: dict[int, list[int]] = {}

    async def run(self) -> None:
        options = self._kafka.client_options()
        consumer = AIOKafkaConsumer(**options, group_id=None, fetch_max_wait_ms=self._kafka.fetch_max_wait_ms)
        producer = AIOKafkaProducer(**options, **self._kafka.producer_options(linger_ms=0))
        await consumer.start()
        await producer.start()
        mine = [TopicPartition(self._topics.events, p) for p in range(self._kafka.partitions)]
        consumer.assign(mine)
        await consumer.seek_to_beginning(*mine)
        try:
            async for record in consumer:
                for event in decode_events(record.value).events:
                    if isinstance(event, Tick):
                        self.ticks.setdefault(record.partition, []).append(event.ts)
                        await self._answer(producer, record.partition, event.ts)
                    else:
                        self.events[record.partition] = self.events.get(record.partition, 0) + 1
        finally:
            await consumer.stop()
            await producer.stop()

    async def _answer(self, producer: AIOKafkaProducer, partition: int, ts: int) -> None:
        published: dict[str, int] = {}
        if ts >= VERDICT_AT and self.events.get(partition):
            value = encode(rollback())  # again and again, as after crashes
            sent = await producer.send_and_wait(self._topics.rollbacks, value, partition=partition)
            published[self._topics.rollbacks] = sent.offset
        for role in ROLES:
            if role != self._silent:
                progress = Progress(
                    role=role, topic="t", partition=partition, offset=0, watermark=ts, published=published
                )
                await producer.send_and_wait(self._topics.progress, encode(progress), partition=partition)


@asynccontextmanager
async def standing_in(kafka: KafkaConfig, silent: str = "") -> AsyncIterator[StandIn]:
    await apply_topics(kafka, Topics(kafka.prefix))
    stand_in = StandIn(kafka, silent)
    task = asyncio.create_task(stand_in.run())
    try:
        yield stand_in
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_the_whole_day(embedded_kafka: Broker) -> None:
    kafka = embedded_kafka.config()
    updates: list[Update] = []
    stored = 0

    async def count_rows(table: str) -> int:
        nonlocal stored
        if table != "traces":
            return 0
        stored = min(stored + 60_000, updates[-1].sent)  # the archive is behind, and catches up
        return stored

    async with standing_in(kafka) as pipeline:
        summary = await run_demo(kafka, count_rows, slice_s=600, on_update=updates.append)
    assert len(updates) == 33
    ticks = [SCENARIO.start + (i + 1) * 10 * MINUTE for i in range(33)]
    assert list(pipeline.ticks.values()) == [ticks] * kafka.partitions
    assert [update.at for update in updates] == ticks
    assert list(pipeline.events.values()) == [summary.events_sent] == [updates[-1].sent]
    assert (summary.events_stored, summary.lost, summary.duplicated) == (summary.events_sent, 0, 0)
    assert [(r.decided_at, r.obeyed_at) for r in summary.rollbacks] == [
        ("2026-11-02T11:20:00Z", "2026-11-02T11:20:00Z")
    ]
    assert [release.outcome for update in updates for release in update.releases] == ["", "", "rolled_back"]
    assert summary.incidents[1].detected_by == "rollback"
    assert summary.exit_code == 1  # nobody caught the others
    out = io.StringIO()
    console = Console(file=out, width=200)
    with DemoView(console, console) as view:
        for update in updates:
            view.update(update)
        view.show(summary)
    text = out.getvalue()
    assert "\x1b" not in text
    assert "canary_stop v2 rolled_back" in text
    assert "ROLLBACK" in text
    assert "failed: topic_drift was missed" in text
    assert "driftline query --demo" in text


async def test_a_stalled_pipeline_is_named(embedded_kafka: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "STALL_S", 1.0)
    kafka = embedded_kafka.config()

    async def count_rows(table: str) -> int:
        return 0

    async with standing_in(kafka, silent="judge"):
        with pytest.raises(DemoError, match="waiting for judge in partition"):
            await run_demo(
                kafka, count_rows, slice_s=60, measure=lambda: Work(cpu_s=0.0, read_bytes=0, spare_s=time.monotonic())
            )


async def test_the_runner_and_the_sdk_agree_on_the_partition(embedded_kafka: Broker) -> None:
    kafka = embedded_kafka.config(partitions=7)
    for app in ("support-bot", "a", "another-app", "ünïcode"):
        pipeline = Pipeline(kafka, app, SystemClock())
        producer = AIOKafkaProducer(bootstrap_servers=kafka.brokers)
        key = ProducerConfig(app=app).app.encode()
        assert producer._partitioner(key, list(range(7)), list(range(7))) == pipeline._partition
        await producer.stop()
