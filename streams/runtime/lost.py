"""What retention deleted before a role had read it: noticed, and said for good in a dead letter without bytes.

Kafka's clients go on at the first record there is, without a word. Ours ask not to (`auto_offset_reset` none), and get
an error that says where they stood.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError

from driftline.schemas.codec import encode
from driftline.schemas.errors import PermanentError
from driftline.schemas.ids import stable_id
from driftline.schemas.results import DeadLetter
from driftline.schemas.topics import Topics
from driftline.streams import metrics
from driftline.streams.health import Health
from driftline.streams.runtime.config import KafkaConfig

logger = logging.getLogger(__name__)

OUT_OF_RANGE = (OffsetOutOfRangeError, NoOffsetForPartitionError)


class Gap(NamedTuple):
    """Offsets `first` to before `until` of a partition are gone."""

    topic: str
    partition: int
    first: int
    until: int

    def __str__(self) -> str:
        where = f"{self.topic}[{self.partition}]"
        return f"{self.until - self.first} records of {where}, offsets {self.first} to {self.until - 1}"


async def go_on(consumer: AIOKafkaConsumer, error: Exception) -> list[Gap]:
    """After one of OUT_OF_RANGE: seeks to the first record there is, and returns what is gone. Of a partition that the
    group has never read nothing is; the broker forgets of others that they were (`offsets.retention.minutes`), so the
    log says where such a one begins in the middle.

    :raises PermanentError: the log ends before what was read already.
    """
    stood: dict[TopicPartition, int | None] = (
        dict(error.args[0]) if isinstance(error, OffsetOutOfRangeError) else {error.args[0]: None}
    )
    partitions = [tp for tp in stood if tp in consumer.assignment()]
    if not partitions:
        return []
    beginnings = await consumer.beginning_offsets(partitions)
    ends = await consumer.end_offsets(partitions)
    gaps = []
    for tp in partitions:
        at = stood[tp]
        if at is not None and at > ends[tp]:
            raise truncated(tp.topic, tp.partition, at, ends[tp])
        if at is not None and at < beginnings[tp]:
            gaps.append(Gap(tp.topic, tp.partition, at, beginnings[tp]))
        if at is None and beginnings[tp] > 0:
            logger.warning(
                "The group has no offset of %s[%d], whose log begins at %d: what came before is not read. A first "
                "start, or one after longer than the broker keeps offsets (offsets.retention.minutes).",
                *(tp.topic, tp.partition, beginnings[tp]),
            )
        if at is None or at < beginnings[tp]:
            consumer.seek(tp, beginnings[tp])
    return gaps


def truncated(topic: str, partition: int, at: int, end: int) -> PermanentError:
    return PermanentError(
        f"{topic}[{partition}] ends at offset {end}, and everything before {at} has been read already: the topic was "
        "made anew, or a broker lost its end. Restore the topic; or, when what it held is not to come back, stop "
        "the role, run `driftline state reset --role R`, or reset its consumer group to the earliest offset, and start "
        "it again"
    )


def letter(role: str, gap: Gap) -> DeadLetter:
    return DeadLetter(
        id=stable_id(gap.topic, gap.partition, gap.first, gap.until, "lost", role),
        topic=gap.topic,
        partition=gap.partition,
        offset=gap.first,
        index=-1,
        reason=f"lost: retention deleted {gap}, before {role} had read them",
        raw=b"",
        count=gap.until - gap.first,
        role=role,
        until=gap.until,
    )


def tell(role: str, gap: Gap, health: Health | None = None) -> tuple[str, str, str]:
    """Counts and logs it; returns, and gives to `health`, its key, what is wrong and what to do."""
    metrics.dropped(role, {"lost": gap.until - gap.first})
    what = f"Retention deleted {gap}, before {role} had read them"
    do = (
        "`driftline dlq ls --reason lost` keeps a note of it. Raise the topic's retention.ms, or find out why the role "
        "was behind. This is said for an hour"
    )
    logger.error("%s.", what)
    told = (f"lost.{role}.{gap.topic}.{gap.partition}", what, do)
    if health is not None:
        health.told(*told)
    return told


async def send_letters(kafka: KafkaConfig, topics: Topics, letters: list[DeadLetter]) -> None:
    """For a role that has no producer, acknowledged."""
    options: dict[str, Any] = {
        **kafka.client_options(),
        **kafka.producer_options(linger_ms=0),
        "enable_idempotence": False,
    }
    async with AIOKafkaProducer(**options) as producer:
        await publish(producer, topics.dlq, letters)


async def publish(producer: AIOKafkaProducer, dlq: str, letters: Sequence[DeadLetter]) -> None:
    """Dead letters, acknowledged: each to the partition of its record's number, where the topic has so many."""
    partitions = len(await producer.partitions_for(dlq))  # of the events topic there may be more
    acks = [
        await producer.send(dlq, encode(letter), key=letter.key, partition=letter.partition % partitions)
        for letter in letters
    ]
    await asyncio.gather(*acks)
