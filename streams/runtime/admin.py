"""Topics as declared, on a broker that may already have some of them. Nothing is ever deleted."""

import asyncio
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from driftline.schemas.errors import ConfigError, RetryableError
from driftline.schemas.topics import LARGE, Topic, Topics
from driftline.streams.logs import without
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.listener import require_tls

logger = logging.getLogger(__name__)

_LARGEST = "max.message.bytes"
_CLEANUP = "cleanup.policy"
_REMOVED_OTHERWISE = {  # declared -> by any other policy
    "delete": "all records of a key but the newest, unread ones too",
    "compact": "states by age, the newest of a key too",
}
VISIBLE_TIMEOUT_S = 30.0  # until a topic just created shows up in the cluster's metadata


@dataclass(frozen=True)
class TopicOutcome:
    name: str
    state: Literal["created", "grown", "ok", "differs"]
    notes: tuple[
        str, ...
    ] = ()  # what differs from the declaration, and what to do; of `grown` from how many partitions


async def apply_topics(config: KafkaConfig, topics: Topics) -> list[TopicOutcome]:
    """Create the topics that are missing, add partitions to those with too few, and report where existing ones differ
    from their declaration.

    :raises ConfigError: partitions would have to go, or apps to move.
    :raises RetryableError: the broker does not answer, or refuses to create or grow a topic; one line that says which
        and why.
    """
    async with _Admin(config) as admin:
        try:
            declared = topics.all()
            partitions = await _partition_counts(admin, (topic.name for topic in declared))
            missing = [topic for topic in declared if topic.name not in partitions]
            growing = to_grow(config, topics, partitions)
            created = await _create(admin, config, missing)
            existing = [topic for topic in declared if topic.name not in created]
            settings = await _settings(admin, existing)
            for name in growing:
                await admin.create_partitions({name: NewPartitions(config.partitions)})
            if created or growing:
                await _wait_until_visible(admin, {*created, *growing}, config.partitions)
        except KafkaError as error:
            raise RetryableError(
                f"Kafka at {config.brokers} refused to list, create or grow topics: {error!r}"
            ) from error
    return [
        TopicOutcome(topic.name, "created")
        if topic.name in created
        else _compare(topic, settings.get(topic.name, {}), partitions[topic.name] if topic.name in growing else None)
        for topic in declared
    ]


def to_grow(config: KafkaConfig, topics: Topics, partitions: Mapping[str, int]) -> Sequence[str]:
    """Which of the existing topics, with so many `partitions` each, need more, in the order in which they get them:
    what is computed from the events has its place before there are any.

    :raises ConfigError: one has too many, which Kafka never takes away; or apps' homes would be elsewhere than where
        they have been counted so far.
    """
    for name, count in partitions.items():
        if count > config.partitions:
            raise too_many(config, name, count)
    fewest = min(partitions.values(), default=config.partitions)
    if config.home_partitions > fewest:
        raise ConfigError(
            f"Topics have {fewest} partitions, and kafka.partitions is {config.partitions}: set kafka.homes = {fewest} "
            "beside it, so that apps stay where they are counted, and run this again. infra/growing.md says what "
            "adding partitions does"
        )
    return sorted((n for n, count in partitions.items() if count < config.partitions), key=topics.events.__eq__)


def too_many(config: KafkaConfig, topic: str, partitions: int) -> ConfigError:
    """Somebody has added partitions to a topic."""
    return ConfigError(
        f"Topic {topic} has {partitions} partitions, and kafka.partitions is {config.partitions}; Kafka never takes "
        f"partitions away. Set kafka.partitions = {partitions} and kafka.homes = {config.home_partitions} for all "
        "roles, run `driftline topics apply`, which grows the other topics too, and start the roles again: what came "
        "meanwhile is in Kafka, and is taken then"
    )


async def wait_for_broker(config: KafkaConfig, timeout_s: float = 30.0) -> None:
    """Return as soon as a broker answers.

    :raises RetryableError: none did within the time; one line that says which and why.
    """
    now = asyncio.get_running_loop().time
    began, said_at, pause = now(), -math.inf, 5.0
    with without("aiokafka"):  # five errors a second
        while True:
            try:
                async with asyncio.timeout_at(began + timeout_s), _Admin(config):
                    return
            except (RetryableError, TimeoutError) as error:
                if now() + 0.2 >= began + timeout_s:
                    raise RetryableError(
                        f"No Kafka broker answers at {config.brokers} (waited {timeout_s:g} s): "
                        "check brokers and security_protocol"
                    ) from error
            if now() >= said_at + pause:
                logger.warning("Kafka at %s does not answer yet; waited %.0f s.", config.brokers, now() - began)
                said_at, pause = now(), pause * 2
            await asyncio.sleep(0.2)


async def require_topics(config: KafkaConfig, names: Iterable[str]) -> None:
    """:raises ConfigError: a topic is missing or has another number of partitions than configured.
    :raises RetryableError: Kafka does not answer."""
    wanted = list(names)
    async with _Admin(config) as admin:
        partitions = await _partition_counts(admin, wanted)
    for name in wanted:
        if name not in partitions:
            raise ConfigError(f"Topic {name} is missing: run `driftline topics apply`")
        if partitions[name] > config.partitions:
            raise too_many(config, name, partitions[name])
        if partitions[name] < config.partitions:
            raise ConfigError(
                f"Topic {name} has {partitions[name]} partitions, and kafka.partitions is {config.partitions}: run "
                "`driftline topics apply`, which adds them"
            )


async def require_cleanup(config: KafkaConfig, topics: Topics) -> None:
    """What a topic forgets, and how, is as declared, as far as the broker tells.

    :raises ConfigError: compaction or retention removes what nobody has read.
    :raises RetryableError: Kafka does not answer.
    """
    told = await _told(config, topics)
    for topic in topics.all():
        policy = told.get(topic.name, {}).get(_CLEANUP, topic.cleanup)
        if policy != topic.cleanup:
            what = _REMOVED_OTHERWISE[topic.cleanup]
            raise ConfigError(
                f"{_CLEANUP} of topic {topic.name} is {policy}, which removes {what}: kafka-configs --alter --topic "
                f"{topic.name} --add-config {_CLEANUP}={topic.cleanup}"
            )


async def members(config: KafkaConfig, group: str) -> int:
    """How many a consumer group has.

    :raises RetryableError: Kafka does not answer.
    """
    async with _Admin(config) as admin:
        deadline = asyncio.get_running_loop().time() + VISIBLE_TIMEOUT_S
        while True:
            try:
                described = await admin.describe_consumer_groups([group])
                break
            except KafkaError as error:  # of a cluster's first group, for a second
                if not error.retriable or asyncio.get_running_loop().time() > deadline:
                    what = f"Kafka at {config.brokers} does not say who is in {group}: {error!r}"
                    raise RetryableError(what) from error
            await asyncio.sleep(0.2)
    return sum(len(found["members"]) for answer in described for found in answer.to_object()["groups"])


async def largest_records(config: KafkaConfig, topics: Topics) -> dict[str, int]:
    """The bytes that a role may send to each topic in one record: what we make it with and our producers take, or less
    where the broker says so. A broker that does not tell is taken at the former."""
    told = await _told(config, topics)
    ours = {topic.name: min(topic.max_message_bytes, LARGE) for topic in topics.all()}
    return {name: min(most, int(told.get(name, {}).get(_LARGEST, most))) for name, most in ours.items()}


async def delete_topics(config: KafkaConfig, topics: Topics) -> None:
    """Remove an installation's topics with all they hold: for demos and tests, which leave nothing behind."""
    async with _Admin(config) as admin:
        await admin.delete_topics([topic.name for topic in topics.all()])


class _Admin:
    """An admin client for a `with` block; failures to connect become one RetryableError."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self._client = AIOKafkaAdminClient(**config.client_options())

    async def __aenter__(self) -> Any:
        try:
            await require_tls(self._config)
            await self._client.start()
        except (KafkaError, OSError) as error:
            await self._client.close()
            raise RetryableError(self._config.no_answer(error)) from error
        except BaseException:
            await self._client.close()
            raise
        return self._client

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()


async def _partition_counts(admin: Any, names: Iterable[str]) -> dict[str, int]:
    wanted = set(names)
    existing = wanted & set(await admin.list_topics())
    if not existing:
        return {}
    described = await admin.describe_topics(sorted(existing))
    return {topic["topic"]: len(topic["partitions"]) for topic in described if topic["error_code"] == 0}


async def _create(admin: Any, config: KafkaConfig, missing: list[Topic]) -> set[str]:
    if not missing:
        return set()
    response = await admin.create_topics(
        [NewTopic(topic.name, config.partitions, config.replication, topic_configs=topic.config()) for topic in missing]
    )
    created = set()
    for name, code, *message in response.topic_errors:
        error = for_code(code)
        if code == 0:
            created.add(name)
        elif error is not TopicAlreadyExistsError:  # another process was faster: not created by us, and fine
            raise RetryableError(
                f"Kafka refused to create topic {name}: {error.__name__} {message[0] if message else ''}"
            )
    return created


async def _wait_until_visible(admin: Any, names: set[str], partitions: int) -> None:
    expected = dict.fromkeys(names, partitions)
    async with asyncio.timeout(VISIBLE_TIMEOUT_S):
        while await _partition_counts(admin, names) != expected:  # noqa: ASYNC110 (only asking tells)
            await asyncio.sleep(0.05)


async def _told(config: KafkaConfig, topics: Topics) -> dict[str, dict[str, str]]:
    """The settings of the topics that there are; nothing from a broker that does not tell."""
    async with _Admin(config) as admin:
        existing = set(await admin.list_topics())
        try:
            return await _settings(admin, [topic for topic in topics.all() if topic.name in existing])
        except KafkaError as error:
            logger.info("Kafka at %s does not tell the settings of topics: %r.", config.brokers, error)
            return {}


async def _settings(admin: Any, existing: list[Topic]) -> dict[str, dict[str, str]]:
    """The settings of each topic, as far as the broker tells: the embedded one does not."""
    if not existing:
        return {}
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic.name) for topic in existing]
    found: dict[str, dict[str, str]] = {}
    for response in await admin.describe_configs(resources):
        for code, _, _, name, entries in response.resources:
            if code == 0:
                found[name] = {entry[0]: entry[1] for entry in entries}
    return found


def _compare(topic: Topic, settings: dict[str, str], grown_from: int | None) -> TopicOutcome:
    notes = [
        f"{key} is {settings[key]}, {value} is declared: "
        f"kafka-configs --alter --topic {topic.name} --add-config {key}={value}"
        for key, value in topic.config().items()
        if key in settings and settings[key] != value
    ]
    if grown_from is not None:
        return TopicOutcome(topic.name, "grown", (f"had {grown_from} partitions", *notes))
    return TopicOutcome(topic.name, "differs" if notes else "ok", tuple(notes))
