from dataclasses import replace

import pytest

from driftline.schemas.errors import ConfigError, RetryableError
from driftline.schemas.topics import LARGE, Topic, Topics
from driftline.streams.runtime.admin import (
    apply_topics,
    largest_records,
    require_cleanup,
    require_topics,
    to_grow,
    wait_for_broker,
)
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
async def test_partitions_that_would_move_apps_or_go_are_refused_and_nothing_changed(broker: Broker) -> None:
    config = broker.config()
    topics = Topics(config.prefix)
    await apply_topics(config, topics)
    more, fewer = (config.model_copy(update={"partitions": number}) for number in (7, 1))
    with pytest.raises(ConfigError, match=r"set kafka\.homes = 2 beside it"):
        await apply_topics(more, topics)
    with pytest.raises(ConfigError, match="is 7: run `driftline topics apply`"):
        await require_topics(more, [topics.events])
    for refuses in (apply_topics(fewer, topics), require_topics(fewer, [topics.events])):
        with pytest.raises(ConfigError, match=r"Set kafka\.partitions = 2 and kafka\.homes = 1") as error:
            await refuses
        assert "\n" not in str(error.value)
    await require_topics(config, [topic.name for topic in topics.all()])


@pytest.mark.kafka
async def test_topics_grow_together_and_events_last(apache_kafka: Broker) -> None:
    config = apache_kafka.config()
    topics = Topics(config.prefix)
    await apply_topics(config, topics)
    grown = config.model_copy(update={"partitions": 5, "homes": 2})
    names = [topic.name for topic in topics.all()]
    assert to_grow(grown, topics, dict.fromkeys(names, 2))[-1] == topics.events
    outcomes = await apply_topics(grown, topics)
    assert {(outcome.state, outcome.notes) for outcome in outcomes} == {("grown", ("had 2 partitions",))}
    await require_topics(grown, names)
    assert {outcome.state for outcome in await apply_topics(grown, topics)} == {"ok"}


def test_what_an_interrupted_growth_left_is_finished() -> None:
    config, topics = KafkaConfig(partitions=8, homes=4), Topics()
    counts = {topics.dlq: 8, topics.windows: 4, topics.events: 4}
    assert to_grow(config, topics, counts) == [topics.windows, topics.events]
    assert to_grow(config, topics, {topics.dlq: 4, topics.events: 8}) == [topics.dlq]  # somebody's kafka-topics --alter
    with pytest.raises(ConfigError, match=r"set kafka\.homes = 4"):
        to_grow(KafkaConfig(partitions=8), topics, {topics.dlq: 4, topics.events: 8})


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


@pytest.mark.kafka
@pytest.mark.parametrize(
    ("name", "policy", "says"),
    [
        ("events", "compact", "all records of a key but the newest, unread ones too"),
        ("windows", "compact,delete", "all records of a key but the newest, unread ones too"),
        ("baselines", "delete", "states by age"),
        ("baselines", "compact,delete", "states by age"),
    ],
)
async def test_what_removes_the_unread_is_refused(apache_kafka: Broker, name: str, policy: str, says: str) -> None:
    async with Kafka(apache_kafka.config()) as kafka:
        topic = getattr(kafka.topics, name)
        await require_cleanup(kafka.config, kafka.topics)
        await kafka.alter(topic, {"cleanup.policy": policy})
        with pytest.raises(ConfigError, match=says) as error:
            await require_cleanup(kafka.config, kafka.topics)
    assert f"--topic {topic} --add-config cleanup.policy=" in str(error.value)


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
