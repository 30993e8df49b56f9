from dataclasses import replace

import pytest

from driftline.schemas.errors import ConfigError, RetryableError
from driftline.schemas.topics import LARGE, Topic, Topics
from driftline.streams.runtime.admin import apply_topics, largest_records, require_topics, wait_for_broker
from driftline.streams.runtime.config import KafkaConfig
from tests.brokers import Broker, Kafka, on_each_broker


@on_each_broker
async def test_topics_are_created_once_and_then_compared(broker: Broker) -> None:
    config = broker.config()
    topics = Topics(config.prefix)
    assert {outcome.state for outcome in await apply_topics(config, topics)} == {"created"}
    again = await apply_topics(config, topics)
    assert {outcome.state for outcome in again} == {"ok"}
    assert [outcome.name for outcome in again] == [topic.name for topic in topics.all()]
    await require_topics(config, [topic.name for topic in topics.all()])


@on_each_broker
async def test_another_number_of_partitions_is_reported_and_nothing_changed(broker: Broker) -> None:
    config = broker.config()
    topics = Topics(config.prefix)
    await apply_topics(config, topics)
    more = config.model_copy(update={"partitions": 7})
    outcomes = await apply_topics(more, topics)
    assert {outcome.state for outcome in outcomes} == {"differs"}
    assert "has 2 partitions, 7 are configured: set partitions = 2" in outcomes[0].notes[0]
    with pytest.raises(ConfigError, match="has 2 partitions, but partitions = 7"):
        await require_topics(more, [topics.events])


@pytest.mark.kafka
async def test_another_setting_is_reported_with_the_command_that_changes_it(apache_kafka: Broker) -> None:
    config = apache_kafka.config()
    topics = Topics(config.prefix)
    await apply_topics(config, topics)

    class Changed(Topics):
        def all(self) -> list[Topic]:
            return [replace(topic, retention_ms=1) if topic.name == self.events else topic for topic in super().all()]

    differing = [outcome for outcome in await apply_topics(config, Changed(config.prefix)) if outcome.state != "ok"]
    assert [outcome.name for outcome in differing] == [topics.events]
    assert f"--topic {topics.events} --add-config retention.ms=1" in differing[0].notes[0]


@on_each_broker
async def test_records_may_be_as_large_as_topics_are_made_for(broker: Broker) -> None:
    async with Kafka(broker.config()) as kafka:
        largest = await largest_records(kafka.config, kafka.topics)
    assert largest.keys() == {topic.name for topic in kafka.topics.all()}
    assert largest[kafka.topics.alerts] == 1_048_588
    assert largest[kafka.topics.dlq] == LARGE, "our producers take no more"


@pytest.mark.kafka
async def test_records_are_no_larger_than_the_broker_says(apache_kafka: Broker) -> None:
    async with Kafka(apache_kafka.config()) as kafka:
        await kafka.alter(kafka.topics.alerts, {"max.message.bytes": "5000"})
        await kafka.alter(kafka.topics.windows, {"max.message.bytes": str(2 * LARGE)})
        largest = await largest_records(kafka.config, kafka.topics)
    assert largest[kafka.topics.alerts] == 5_000
    assert largest[kafka.topics.windows] == 1_048_588


async def test_topics_that_are_missing_are_taken_as_we_would_make_them(broker: Broker) -> None:
    config = broker.config()
    largest = await largest_records(config, Topics(config.prefix))
    assert largest[Topics(config.prefix).alerts] == 1_048_588


async def test_no_broker_is_one_clear_line(free_port: int) -> None:
    config = KafkaConfig(brokers=f"127.0.0.1:{free_port}")
    with pytest.raises(RetryableError, match=f"No Kafka broker answers at 127.0.0.1:{free_port}") as error:
        await wait_for_broker(config, timeout_s=0.3)
    assert "\n" not in str(error.value)


@on_each_broker
async def test_a_broker_that_answers_is_enough(broker: Broker) -> None:
    await wait_for_broker(broker.config(), timeout_s=10)
