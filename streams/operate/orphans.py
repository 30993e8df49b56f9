"""Alerts that nobody resolves any more: what knew of their episodes is gone, a broker's log or a role's state."""

import asyncio
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from driftline.schemas.codec import encode
from driftline.schemas.errors import RetryableError
from driftline.schemas.homes import home
from driftline.schemas.results import Alert
from driftline.sinks.clickhouse.client import session
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.streams.monitor.alerts import resolved
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.runtime.quarantine import RULE as QUARANTINE

_OPEN = """
SELECT
    * EXCEPT (ingested_at)
    REPLACE (
        toUnixTimestamp64Micro(ts) AS ts, toUnixTimestamp64Micro(since) AS since,
        toUnixTimestamp64Micro(fired_at) AS fired_at, NULL AS resolved_at
    )
FROM alerts
WHERE state = 'firing' AND rule != {quarantine:String}
    AND id NOT IN (SELECT id FROM alerts WHERE state = 'resolved')
ORDER BY ts, id
"""


async def resolve(kafka: KafkaConfig, clickhouse: ClickHouseConfig, at: int, reason: str) -> list[Alert]:
    """Publishes the end of each alert that is open in ClickHouse, for its tables and for whoever was paged.

    :raises RetryableError: ClickHouse does not answer, or Kafka does not take it.
    """
    alerts = await asyncio.to_thread(_open, clickhouse)
    ended = [resolved(alert, max(at, alert.ts), alert.revision, reason) for alert in alerts]
    if not ended:
        return []
    topic = kafka.topics.alerts
    try:
        async with AIOKafkaProducer(**kafka.client_options(), **kafka.producer_options()) as producer:
            for alert in ended:
                partition = home(alert.app, kafka.home_partitions)
                await producer.send_and_wait(topic, encode(alert), key=alert.app.encode(), partition=partition)
    except KafkaError as error:
        raise RetryableError(f"Kafka at {kafka.brokers} does not take the ends of open alerts: {error!r}") from error
    return ended


def _open(config: ClickHouseConfig) -> list[Alert]:
    with session(config) as client:
        found = client.query(_OPEN, parameters={"quarantine": QUARANTINE})
        rows: list[dict[str, Any]] = list(found.named_results())
    return [msgspec.convert(row, Alert) for row in rows]
