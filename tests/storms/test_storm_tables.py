"""Somebody alters ClickHouse's tables under traffic, and retention deletes what roles have not read."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiokafka import TopicPartition
from pydantic import SecretStr

from driftline.schemas.codec import decode
from driftline.schemas.results import DeadLetter, result_types
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.migrate import check, repair
from driftline.streams.operate.balance import Balance
from driftline.streams.operate.reconcile import reconcile
from driftline.streams.operate.tally import Selection
from driftline.streams.settings import Settings
from driftline.streams.supervisor import EXIT_CONFIG
from tests.brokers import eventually
from tests.storms.conftest import Pipeline
from tests.storms.harness import PARTITIONS, World

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

ALTERATIONS = [
    ("ALTER TABLE traces_raw RENAME COLUMN user_id TO u", "ALTER TABLE traces_raw RENAME COLUMN u TO user_id"),
    ("RENAME TABLE scores_raw TO away", "RENAME TABLE away TO scores_raw"),
    (
        "ALTER TABLE windows_raw RENAME COLUMN requests TO calls",
        "ALTER TABLE windows_raw RENAME COLUMN calls TO requests",
    ),
    ("DROP TABLE windows", ""),
    ("CREATE OR REPLACE VIEW traces AS SELECT * EXCEPT user_id FROM traces_raw", ""),
    ("ALTER TABLE evidence_raw DROP COLUMN note", ""),
    ("DROP TABLE left_out_raw", ""),
    ("ALTER TABLE traces_raw ADD COLUMN tenant String", "ALTER TABLE traces_raw DROP COLUMN tenant"),
]


def clickhouse_of(world: World) -> ClickHouseConfig:
    return ClickHouseConfig(dsn=SecretStr(world.server.dsn), database=world.database)


async def reconciled(world: World) -> Balance:
    settings = Settings(kafka=world.kafka.config, clickhouse=clickhouse_of(world))
    windows = settings.monitor.windows
    selection = Selection(windows.size_s, open_s=windows.grace_s + windows.lateness_s)
    return await reconcile(settings, selection, wait_s=30, tell=lambda stage, done, of: None)


async def from_the_beginning(world: World) -> None:
    """What `kafka-consumer-groups --reset-offsets --to-earliest` does, with no member there."""
    topics = world.kafka.topics
    names = (topics.events, *result_types(topics))
    async with world.reader(group=f"{topics.prefix}.archive") as reader:
        partitions = [TopicPartition(name, number) for name in names for number in range(PARTITIONS)]
        beginnings = await reader.beginning_offsets(partitions)
        reader.assign(partitions)
        await reader.commit(dict(beginnings))


async def test_somebody_alters_tables_under_traffic(pipeline: Pipeline) -> None:
    """Nothing is stored without a field it came with; what was dropped comes back from the log."""
    async with pipeline(seed=71, traces=20) as world:
        _, archive = await world.started("monitor", "archive")
        config = clickhouse_of(world)
        async with world.traffic.flowing():
            await world.pause(2, 3)
            for harm, undo in ALTERATIONS:
                await world.store.query(harm)
                await world.pause(2, 3)
                altered = (await reconciled(world)).altered
                assert bool(altered) == ("ADD COLUMN" not in harm), harm
                if undo:
                    await world.store.query(undo)
                else:
                    await asyncio.to_thread(repair, config)
                assert (await asyncio.to_thread(check, config)).differences == [], harm
                await world.pause(2, 3)
        assert not archive.ended, archive.tail
        await world.settle()
        await archive.stop()
        await from_the_beginning(world)
        await world.started("archive")
        await world.finish("tables altered")


async def test_an_archive_does_not_start_on_an_altered_table_and_a_table_emptied_is_seen(pipeline: Pipeline) -> None:
    async with pipeline(seed=72, traces=20) as world:
        _, archive = await world.started("monitor", "archive")
        async with world.traffic.flowing():
            await world.pause(3, 4)
            await world.store.query("ALTER TABLE traces_raw DROP COLUMN user_id")
            await world.pause(2, 3)
            archive.kill()
            await eventually(_ended(archive, EXIT_CONFIG), "an exit with 78")
            assert "traces_raw lacks the column user_id: `driftline migrate --repair` adds it, empty" in archive.tail
            await asyncio.to_thread(repair, clickhouse_of(world))
            await world.pause(2, 3)
        await world.settle()
        assert (await reconciled(world)).equal
        await world.store.query("TRUNCATE TABLE scores_raw")
        assert {d.kind for d in (await reconciled(world)).differences} == {"score"}
        await archive.stop()
        await from_the_beginning(world)
        await world.started("archive")
        await world.finish("a table emptied, a column dropped", may_end=True)


async def test_retention_deletes_what_archive_and_monitor_have_not_read(pipeline: Pipeline) -> None:
    async with pipeline(seed=73, traces=20) as world:
        monitor, archive, notify = await world.started("monitor", "archive", "notify")
        topics = world.kafka.topics
        async with world.traffic.flowing():
            await world.pause(3, 4)
            for process in (monitor, archive, notify):
                await process.stop()
            await world.pause(4, 5)
            cut: dict[int, int] = {}
            async with world.reader() as reader:
                ends = await reader.end_offsets([TopicPartition(topics.events, p) for p in range(PARTITIONS)])
            for tp, end in ends.items():
                cut[tp.partition] = end - 2
                await world.kafka.delete_before(tp.topic, tp.partition, end - 2)
            await world.started("monitor", "archive", "notify")
            await world.pause(4, 5)
        await world.settle()
        letters = [decode(record.value, DeadLetter) for record in await world.kafka.read(topics.dlq)]
        lost = {(letter.role, letter.partition): letter for letter in letters if letter.until}
        for role in ("archive", "monitor"):
            for partition, until in cut.items():
                assert lost[role, partition].until == until
                assert lost[role, partition].count == until - lost[role, partition].offset
        found = await reconciled(world)
        assert not found.equal
        assert {(each.role, each.partition, each.until) for each in found.lost} == {
            (role, partition, until) for role in ("archive", "monitor") for partition, until in cut.items()
        }
        assert found.differences == []
        assert all("Retention deleted" in process.log.read_text() for process in world.processes[3:5])
        await world.stop()


def _ended(process: Any, code: int) -> Callable[[], Awaitable[bool]]:
    async def ended() -> bool:
        return code in process.ended

    return ended
