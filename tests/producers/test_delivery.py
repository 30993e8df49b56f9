"""The SDK against real brokers."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from driftline.producers import ProducerConfig, Tracer
from driftline.producers.kafka import _say_once, connect, disconnect
from driftline.schemas.events import Trace
from driftline.schemas.topics import Topics
from driftline.streams.embedded_kafka import EmbeddedKafka
from driftline.streams.runtime.admin import apply_topics
from driftline.streams.runtime.config import KafkaConfig
from tests.brokers import ApacheKafka, Broker, find_free_port, on_each_broker

Read = Callable[[str, str, int], Awaitable[list[Trace]]]

NOON = 1_793_620_800_000_000


def traces(began: int, ended: int) -> Iterator[Trace]:
    return (
        Trace(app=f"app-{i % 3}", ts=NOON + i, trace_id=str(i), input_text="why? " * 20) for i in range(began, ended)
    )


def tracer(kafka: KafkaConfig, **settings: Any) -> Tracer:
    return Tracer("app", brokers=kafka.brokers, topic_prefix=kafka.prefix, **settings)


def numbers(found: list[Trace]) -> list[int]:
    return [int(trace.trace_id) for trace in found]


@on_each_broker
@pytest.mark.parametrize("compression", ["zstd", "gzip", "lz4", "snappy", None])
async def test_everything_arrives_once_and_in_order(broker: Broker, compression: str | None, read_traces: Read) -> None:
    kafka = broker.config()
    await apply_topics(kafka, Topics(kafka.prefix))
    t = tracer(kafka, compression=compression, max_batch_events=7, linger_ms=5)
    t.emit_many(traces(0, 500))
    assert await t.aclose(30)
    assert t.stats().sent == 500
    found = await read_traces(kafka.brokers, f"{kafka.prefix}.events", 500)
    for app in range(3):
        assert [n for n in numbers(found) if n % 3 == app] == list(range(app, 500, 3))


@on_each_broker
async def test_idempotent_where_the_broker_can_be_and_the_other_is_told_of_once(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "driftline.producers.kafka")
    _say_once.cache_clear()
    for _ in range(2):
        producer = await connect(ProducerConfig(app="app", brokers=broker.base.brokers))
        assert (producer._txn_manager is not None) == (broker.name == "apache")
        await disconnect(producer)
    assert len([m for m in caplog.messages if "no idempotent producers" in m]) == (broker.name == "embedded")


async def test_a_broker_that_comes_late(read_traces: Read) -> None:
    port = find_free_port()
    kafka = KafkaConfig(brokers=f"127.0.0.1:{port}", prefix="late").for_embedded()
    t = tracer(kafka, request_timeout_ms=1000)
    t.emit_many(traces(0, 20))
    assert not await t.aflush(0.1)
    assert t.stats().pending == 20
    with EmbeddedKafka(port):
        assert await t.aflush(60)
        found = await read_traces(kafka.brokers, "late.events", 20)
        await t.aclose()
    assert sorted(numbers(found)) == list(range(20))
    assert t.stats().sent == 20


@pytest.mark.kafka
@pytest.mark.slow
async def test_nothing_is_lost_when_apache_kafka_is_killed(
    apache_kafka_node: ApacheKafka, apache_kafka: Broker, read_traces: Read
) -> None:
    kafka = apache_kafka.config()
    await apply_topics(kafka, Topics(kafka.prefix))
    t = tracer(kafka, max_batch_events=10)
    for began in range(0, 200, 100):
        t.emit_many(traces(began, began + 50))
        if not began:
            assert await t.aflush(60)
        apache_kafka_node.kill()
        t.emit_many(traces(began + 50, began + 100))
        apache_kafka_node.start()
    assert await t.aclose(90)
    assert t.stats().sent == 200
    found = await read_traces(kafka.brokers, f"{kafka.prefix}.events", 200)
    assert set(numbers(found)) == set(range(200))
