import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from driftline.schemas.errors import PermanentError
from driftline.schemas.topics import SOURCES
from driftline.streams.operate.reset import FOLDS, begin_at_end, forget, stored
from driftline.streams.roles import ROLES
from driftline.streams.runtime import state as states
from tests.brokers import Kafka, on_each_broker


def test_every_stateful_fold_belongs_to_a_role() -> None:
    assert sorted(fold for folds in FOLDS.values() for fold in folds) == sorted(SOURCES)
    assert FOLDS.keys() <= ROLES.keys()


@on_each_broker
async def test_a_reset_leaves_no_state_and_no_note_and_a_later_state_counts(kafka: Kafka) -> None:
    topic = kafka.topics.state("drift")
    place = TopicPartition(topic, 1)
    value = await states.encode(states.State(3, {}, b""))
    await kafka.send(topic, value, key=states.key(1), partition=1)
    note = states.encode_note(states.Note(0, 4, 5))
    await kafka.send(topic, note, key=states.note_key(1), partition=1)
    found = await stored(kafka.config, kafka.topics, "monitor")
    assert found == [place]
    await forget(kafka.config, found)
    assert await newest(kafka, place) == states.Found(None, None)
    assert await stored(kafka.config, kafka.topics, "monitor") == []
    # as a role writes that begins anew
    note = states.encode_note(states.Note(states.NOWHERE, 0, 1))
    await kafka.send(topic, note, key=states.note_key(1), partition=1)
    assert await newest(kafka, place) == states.Found(None, states.Note(states.NOWHERE, 0, 1))
    await kafka.send(topic, value, key=states.key(1), partition=1)
    assert await stored(kafka.config, kafka.topics, "monitor") == [place]


@on_each_broker
async def test_a_role_may_begin_at_the_end_of_its_log(kafka: Kafka) -> None:
    for number in range(3):
        await kafka.send_many(kafka.topics.events, [b"{}"] * (number + 1), partition=1)
    await kafka.send(kafka.topics.embeddings, b"", partition=0)
    await begin_at_end(kafka.config, kafka.topics, "monitor")
    ends = {("monitor", 0): 0, ("monitor", 1): 6, ("drift", 0): 1, ("drift", 1): 0}
    for (fold, number), end in ends.items():
        found = await newest(kafka, TopicPartition(kafka.topics.state(fold), number))
        assert found.note is None
        assert found.state is not None
        assert states.decode(found.state.value) == states.State(end - 1, {}, b"")


@on_each_broker
async def test_the_state_of_a_running_role_is_not_reset(kafka: Kafka) -> None:
    consumer = AIOKafkaConsumer(
        kafka.topics.events, group_id=f"{kafka.topics.prefix}.embed", **kafka.config.client_options()
    )
    await consumer.start()
    try:
        await consumer.getmany(timeout_ms=100)
        with pytest.raises(PermanentError, match="1 worker of role embed must be stopped first"):
            await stored(kafka.config, kafka.topics, "embed")
    finally:
        await consumer.stop()


async def newest(kafka: Kafka, place: TopicPartition) -> states.Found:
    consumer = AIOKafkaConsumer(**kafka.config.client_options(), enable_auto_commit=False)
    await consumer.start()
    try:
        return (await states.read_found(consumer, [place]))[place]
    finally:
        await consumer.stop()
