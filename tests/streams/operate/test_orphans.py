import asyncio
from collections.abc import Sequence
from typing import Any

from driftline.schemas.codec import decode, encode
from driftline.schemas.events import MICROSECONDS
from driftline.schemas.results import Alert
from driftline.sinks.clickhouse.client import connect
from driftline.streams.monitor.alerts import resolved
from driftline.streams.operate import orphans
from driftline.streams.runtime.quarantine import RULE as QUARANTINE
from tests.brokers import eventually
from tests.sinks.notify.samples import alert
from tests.streams.operate.conftest import START, Pipeline

HOUR = 3_600 * MICROSECONDS


async def published(pipeline: Pipeline) -> list[Alert]:
    return [decode(record.value, Alert) for record in await pipeline.kafka.read(pipeline.kafka.topics.alerts)]


async def store(pipeline: Pipeline, alerts: Sequence[Alert]) -> None:
    for each in alerts:
        await pipeline.kafka.send(pipeline.kafka.topics.alerts, encode(each), partition=0)


async def test_what_is_open_is_resolved_for_tables_and_pagers(pipeline: Pipeline) -> None:
    begun: dict[str, Any] = {"ts": START, "since": START, "fired_at": START, "resolved_at": None, "state": "firing"}
    stays, over, record = (
        alert(id=name, dedup_key=name, rule=rule, **begun)
        for name, rule in (("open", "quality"), ("over", "quality"), ("record", QUARANTINE))
    )
    await store(pipeline, [stays, over, resolved(over, START + HOUR, 9, "well again"), record])

    def states() -> dict[str, str]:
        with connect(pipeline.settings.clickhouse) as client:
            rows = client.query("SELECT id, argMax(state, ts) FROM alerts GROUP BY id").result_rows
        return {str(id_): str(state) for id_, state in rows}

    async def stored_as(**expected: str) -> None:
        async def found() -> bool:
            return await asyncio.to_thread(states) == expected

        await eventually(found, f"the alerts in ClickHouse as {expected}")

    await stored_as(open="firing", over="resolved", record="firing")
    at = START + 2 * HOUR
    ended = await orphans.resolve(pipeline.kafka.config, pipeline.settings.clickhouse, at, "its log is gone")
    assert ended == [resolved(stays, at, stays.revision, "its log is gone")]
    assert (await published(pipeline))[-1:] == ended
    await stored_as(open="resolved", over="resolved", record="firing")
    assert await orphans.resolve(pipeline.kafka.config, pipeline.settings.clickhouse, at, "again") == []
