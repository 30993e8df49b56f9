"""A transaction that a producer leaves open holds back all apps of its partition, and nothing says that all is well."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from driftline.schemas.codec import encode_event
from driftline.streams.health import Health
from driftline.streams.runtime.watch import ConsumerWatch
from tests.streams.operate.conftest import Pipeline, trace
from tests.streams.operate.test_reconcile import reconciled


@pytest.mark.kafka
@pytest.mark.parametrize("broker", ["apache"], indirect=True)
async def test_what_it_holds_back_is_told(pipeline_on_each: Pipeline) -> None:
    pipeline = pipeline_on_each
    kafka, here = pipeline.kafka, TopicPartition(pipeline.kafka.topics.events, pipeline.home("bot"))
    await pipeline.send([trace(1, 1)])
    await pipeline.flush()
    one = AIOKafkaProducer(
        bootstrap_servers=kafka.config.brokers, transactional_id=kafka.config.prefix, transaction_timeout_ms=600_000
    )
    consumer = AIOKafkaConsumer(**kafka.config.reader_options())
    async with one, consumer:
        await one.begin_transaction()
        await one.send_and_wait(here.topic, encode_event(trace(2, 1)), partition=here.partition)
        await pipeline.send([trace(3, 2)])
        await pipeline.tick(700)
        found = await reconciled(pipeline, wait_s=1)
        assert (found.held, found.equal) == (3, False)

        consumer.assign([here])
        consumer.seek(here, 0)
        watch = ConsumerWatch("held", consumer, kafka.config, Health("held"))
        async with asyncio.timeout(20):
            while len(await consumer.getmany(timeout_ms=200)) == 0:
                pass
        assert await watch.ends([here]) == {here: 1}
        assert await watch.written([here]) == {here: 4}
        await one.abort_transaction()
    await pipeline.monitor()
    found = await reconciled(pipeline)
    assert (found.held, found.equal) == (0, True)
