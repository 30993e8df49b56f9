"""Forget a role's states, so that it builds them anew from the log: a record without a value after each. Or let it
begin at the log's end: an empty state of there."""

import asyncio
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from driftline.schemas.errors import PermanentError, RetryableError
from driftline.schemas.text import counted
from driftline.schemas.topics import Topics
from driftline.streams.operate.log import Log
from driftline.streams.runtime import state as states
from driftline.streams.runtime.admin import members, require_topics
from driftline.streams.runtime.config import KafkaConfig

FOLDS: Mapping[str, tuple[str, ...]] = {"embed": ("embed",), "judge": ("judge",), "monitor": ("monitor", "drift")}


async def stored(config: KafkaConfig, topics: Topics, role: str) -> list[TopicPartition]:
    """Which partitions of the role's state topics hold a state.

    :raises PermanentError: the role is running.
    :raises RetryableError: Kafka does not answer.
    """
    names = [topics.state(fold) for fold in FOLDS[role]]
    await require_topics(config, names)
    if running := await members(config, f"{topics.prefix}.{role}"):
        raise PermanentError(
            f"{counted(running, 'worker')} of role {role} must be stopped first. One that was killed is forgotten "
            f"after {config.session_timeout_s:g} s"
        )
    partitions = [TopicPartition(name, number) for name in names for number in range(config.partitions)]
    consumer = AIOKafkaConsumer(**config.reader_options())
    try:
        async with asyncio.timeout(2 * config.request_timeout_s):
            await consumer.start()
            return sorted(await states.read_newest(consumer, partitions))
    except (TimeoutError, KafkaError) as error:
        raise RetryableError(f"Kafka at {config.brokers} did not give the states: {error!r}") from error
    finally:
        await consumer.stop()


async def forget(config: KafkaConfig, partitions: list[TopicPartition]) -> None:
    """Of `stored`. The state's key comes last: the newest record of a partition says what there is.

    :raises RetryableError: Kafka did not take it; what is not forgotten yet is there as before.
    """
    await _write(config, dict.fromkeys(partitions))


async def begin_at_end(config: KafkaConfig, topics: Topics, role: str) -> None:
    """Let a role that does not run (`stored` says so) go on with what comes next, without anything it knows.

    :raises RetryableError: Kafka does not answer, or did not take it.
    """
    async with Log(config) as log:
        for fold in FOLDS[role]:
            partitions = [TopicPartition(topics.source(fold), number) for number in range(config.partitions)]
            ends = await log.ends(partitions)
            values = {
                TopicPartition(topics.state(fold), tp.partition): await states.encode(states.State(end - 1, {}, b""))
                for tp, end in ends.items()
            }
            await _write(config, values)


async def _write(config: KafkaConfig, values: Mapping[TopicPartition, bytes | None]) -> None:
    options: dict[str, Any] = {
        **config.client_options(),
        **config.producer_options(linger_ms=0),
        "enable_idempotence": False,
    }
    try:
        async with AIOKafkaProducer(**options) as producer:
            for (topic, number), value in values.items():
                await producer.send_and_wait(topic, None, key=states.note_key(number), partition=number)
                await producer.send_and_wait(topic, value, key=states.key(number), partition=number)
    except KafkaError as error:
        raise RetryableError(f"Kafka at {config.brokers} did not take the reset: {error!r}") from error
