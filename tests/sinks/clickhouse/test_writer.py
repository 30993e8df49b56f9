import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from driftline.schemas.errors import ConfigError, PermanentError
from driftline.sinks.clickhouse.client import connect
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.migrate import migrate
from driftline.sinks.clickhouse.rows import TRACES, TraceRow, complete_row
from driftline.sinks.clickhouse.writer import Writer

TS = 1_790_000_000_000_000


@pytest.fixture
async def writer(tables: ClickHouseConfig) -> AsyncIterator[Writer]:
    writer = await Writer.open(tables)
    yield writer
    await writer.close()


def row(n: int, *, ts: int = TS, offset: int = 0, **fields: Any) -> TraceRow:
    made = TraceRow(app="a", ts=ts + n, trace_id=f"t{n}", **fields)
    complete_row(made, offset)
    return made


def query(config: ClickHouseConfig, sql: str) -> list[tuple[Any, ...]]:
    with connect(config) as client:
        return [tuple(row) for row in client.query(sql).result_rows]


async def test_a_copy_counts_once_in_whatever_part_it_is(tables: ClickHouseConfig, writer: Writer) -> None:
    rows = [row(n) for n in range(1000)]
    for batch in (rows, rows, rows[:500] + rows[:500]):
        assert await writer.insert(TRACES, batch) == []
    assert query(tables, "SELECT count(), uniqExact(trace_id) FROM traces") == [(1000, 1000)]
    assert query(tables, "SELECT count() FROM traces_raw")[0][0] > 1000  # or this test shows nothing
    with connect(tables) as client:
        client.command("OPTIMIZE TABLE traces_raw FINAL")
    assert query(tables, "SELECT count() FROM traces_raw") == [(1000,)]


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
async def test_of_two_versions_the_later_one_wins(
    tables: ClickHouseConfig, writer: Writer, order: tuple[int, int]
) -> None:
    for offset in order:
        await writer.insert(TRACES, [row(0, offset=offset, output_text=f"version {offset}")])
    assert query(tables, "SELECT output_text FROM traces") == [("version 2",)]


async def test_spans_of_one_trace_are_apart(tables: ClickHouseConfig, writer: Writer) -> None:
    await writer.insert(TRACES, [row(0, span_id="a"), row(0, span_id="b")])
    assert query(tables, "SELECT count() FROM traces") == [(2,)]


@pytest.mark.parametrize("bad", [{0}, {999}, {3, 4, 500}])
async def test_refused_rows_are_found_and_the_others_kept(
    tables: ClickHouseConfig, writer: Writer, bad: set[int]
) -> None:
    rows = [{"app": "a", "ts": "yesterday"} if n in bad else row(n) for n in range(1000)]
    refused = await writer.insert(TRACES, rows)
    assert [r.position for r in refused] == sorted(bad)
    assert all(r.reason.startswith("Code: ") and "http://" not in r.reason for r in refused)
    assert query(tables, "SELECT count() FROM traces") == [(1000 - len(bad),)]


async def test_a_table_that_takes_nothing_stops_the_insert(tables: ClickHouseConfig) -> None:
    writer = await Writer.open(tables, refusal_limit=20)
    bad = {"app": "a", "ts": "yesterday"}
    try:
        refused = await writer.insert(TRACES, [*[bad] * 40, *(row(n) for n in range(60))])  # the rows are at fault
        assert len(refused) == 40
        assert len(await writer.insert(TRACES, [bad] * 5)) == 5
        with pytest.raises(PermanentError, match=r"(?s)refused 20 inserts into .*traces_raw.* archive\.poison_limit"):
            await writer.insert(TRACES, [bad] * 64)
    finally:
        await writer.close()


async def test_unknown_fields_of_a_newer_version_are_left_out(tables: ClickHouseConfig, writer: Writer) -> None:
    assert await writer.insert(TRACES, [{"app": "a", "ts": str(TS), "trace_id": "t", "added_later": 1}]) == []


async def test_events_of_many_months_fit_one_batch(tables: ClickHouseConfig, writer: Writer) -> None:
    month = 31 * 86_400 * 1_000_000
    rows = [row(n, ts=TS + n * month) for n in range(150)]
    assert await writer.insert(TRACES, rows) == []
    assert query(tables, "SELECT count() FROM traces") == [(150,)]


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
async def test_compression(tables: ClickHouseConfig, compression: str) -> None:
    writer = await Writer.open(tables.model_copy(update={"compression": compression}))
    assert await writer.insert(TRACES, [row(n) for n in range(1000)]) == []
    await writer.close()
    assert query(tables, "SELECT count() FROM traces") == [(1000,)]


async def test_a_missing_table_is_waited_for(tables: ClickHouseConfig, writer: Writer) -> None:
    with connect(tables) as client:
        client.command("RENAME TABLE traces_raw TO elsewhere")
        insert = asyncio.create_task(writer.insert(TRACES, [row(0)]))
        done, _ = await asyncio.wait({insert}, timeout=0.5)
        assert not done
        client.command("RENAME TABLE elsewhere TO traces_raw")
    assert await insert == []
    assert query(tables, "SELECT count() FROM traces") == [(1,)]


class Flaky:
    """A driver that fails as told, then takes everything."""

    def __init__(self, *codes: int | None) -> None:
        self.codes = list(codes)
        self.taken: list[bytes] = []

    async def raw_insert(self, table: str, *, insert_block: AsyncIterator[bytes], **_: object) -> None:
        body = b"".join([chunk async for chunk in insert_block])
        if self.codes:
            raise DatabaseError("failed", code=self.codes.pop(0))
        self.taken.append(body)


async def test_every_try_sends_the_whole_body() -> None:
    flaky = Flaky(241, None, 252)
    writer = Writer(ClickHouseConfig(retry_max_s=0.01), flaky)  # type: ignore[arg-type]  # the part of the driver it uses
    rows = [{"n": n} for n in range(1000)]
    assert await writer.insert("t", rows) == []
    assert [json.loads(line) for line in b"".join(flaky.taken).splitlines()] == rows


async def test_a_database_of_other_migrations_stops_the_start(clickhouse: ClickHouseConfig) -> None:
    migrate(clickhouse)
    with connect(clickhouse) as client:
        client.command("INSERT INTO schema_migrations (number, name, checksum) VALUES (1, 'x', 'other')")
    with pytest.raises(ConfigError):
        await Writer.open(clickhouse)
