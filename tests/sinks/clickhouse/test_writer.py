import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from driftline.schemas.errors import ConfigError, PermanentError
from driftline.sinks.clickhouse.client import connect
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.migrate import Check, check, migrate
from driftline.sinks.clickhouse.rows import TRACES, Row, TraceRow, complete_row
from driftline.sinks.clickhouse.writer import TablesAltered, Writer

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


async def test_a_table_that_takes_nothing_stops_the_insert(clickhouse: ClickHouseConfig) -> None:
    writer = await Writer.open(clickhouse, refusal_limit=20)
    with connect(clickhouse) as client:
        client.command("ALTER TABLE traces_raw ADD CONSTRAINT mine CHECK environment = 'mine'")
    try:
        assert len(await writer.insert(TRACES, [row(0, environment="mine"), *(row(n) for n in range(1, 20))])) == 19
        assert len(await writer.insert(TRACES, [row(n) for n in range(5)])) == 5
        with pytest.raises(PermanentError, match=r"(?s)refused 20 inserts into .*traces_raw.* archive\.poison_limit"):
            await writer.insert(TRACES, [row(n) for n in range(64)])
    finally:
        await writer.close()


async def test_however_many_rows_no_column_holds_the_table_is_not_at_fault_and_seldom_looked_at(
    tables: ClickHouseConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    def look(config: ClickHouseConfig) -> Check:
        nonlocal looks
        looks += 1
        return check(config)

    monkeypatch.setattr("driftline.sinks.clickhouse.writer.check", look)
    monkeypatch.setattr("driftline.sinks.clickhouse.writer.LOOKED_S", 3600.0)
    writer = await Writer.open(tables, refusal_limit=30)
    bad = {"app": "a", "ts": "yesterday"}
    assert len(await writer.insert(TRACES, [*[bad] * 50, row(0), *[bad] * 50])) == 100
    assert len(await writer.insert(TRACES, [bad] * 60)) == 60
    assert looks == 3  # at the first refusal, and once for each batch before its rows are given up
    await writer.close()
    assert query(tables, "SELECT count() FROM traces") == [(1,)]
    assert query(tables, "SELECT count() FROM system.tables WHERE startsWith(name, 'trial_')") == [(0,)]


async def test_rows_refused_by_a_table_that_is_altered_while_they_are_halved_are_tried_again(
    clickhouse: ClickHouseConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = asyncio.Queue[BaseException]()
    writer = await Writer.open(clickhouse, lambda _, error: told.put_nowait(error))
    monkeypatch.setattr("driftline.sinks.clickhouse.writer.LOOKED_S", 3600.0)
    assert len(await writer.insert(TRACES, [{"app": "a", "ts": "yesterday"}])) == 1  # the table was looked at
    with connect(clickhouse) as client:
        client.command("ALTER TABLE traces_raw MODIFY COLUMN user_id UInt64")
        insert = asyncio.create_task(writer.insert(TRACES, [row(n, user_id="who") for n in range(8)]))
        assert isinstance(await told.get(), TablesAltered)
        client.command("ALTER TABLE traces_raw MODIFY COLUMN user_id String")
    assert await insert == []
    await writer.close()
    assert query(clickhouse, "SELECT count() FROM traces") == [(8,)]


async def test_a_field_without_a_column_is_no_row(tables: ClickHouseConfig, writer: Writer) -> None:
    rows: list[Row] = [row(0), {"app": "a", "ts": str(TS), "trace_id": "t", "no_column": 1}]
    [refused] = await writer.insert(TRACES, rows)
    assert (refused.position, "no_column" in refused.reason) == (1, True)


@pytest.mark.parametrize(
    ("harm", "undo", "told"),
    [
        ("ALTER TABLE traces_raw DROP COLUMN user_id", "ALTER TABLE traces_raw ADD COLUMN user_id String", "user_id"),
        (
            "ALTER TABLE traces_raw RENAME COLUMN user_id TO u",
            "ALTER TABLE traces_raw RENAME COLUMN u TO user_id",
            "RENAME COLUMN u TO user_id",
        ),
        (
            "ALTER TABLE traces_raw MODIFY COLUMN user_id UInt64",
            "ALTER TABLE traces_raw MODIFY COLUMN user_id String",
            "traces_raw.user_id is UInt64, not String",
        ),
        ("RENAME TABLE traces_raw TO away", "RENAME TABLE away TO traces_raw", "the table traces_raw is missing"),
    ],
)
@pytest.mark.parametrize("rows", [1, 3])
async def test_rows_wait_while_somebody_has_altered_their_table(
    clickhouse: ClickHouseConfig, harm: str, undo: str, told: str, rows: int
) -> None:
    failures: list[str] = []
    often = asyncio.Event()

    def failed(what: str, error: BaseException) -> None:
        failures.append(f"{type(error).__name__}: {error}")
        if len(failures) == 3:
            often.set()

    writer = await Writer.open(clickhouse, failed)
    with connect(clickhouse) as client:
        client.command(harm)
        insert = asyncio.create_task(writer.insert(TRACES, [row(n, user_id="who") for n in range(rows)]))
        await often.wait()
        assert not insert.done()
        client.command(undo)
    assert await insert == []
    await writer.close()
    assert all(failure.startswith("TablesAltered") and told in failure for failure in failures)
    assert query(clickhouse, "SELECT count(), any(user_id) FROM traces") == [(rows, "who")]


async def test_rows_wait_while_the_journal_is_not_ours(clickhouse: ClickHouseConfig) -> None:
    """Nobody can tell then whether a row is at fault or its table."""
    told = asyncio.Queue[BaseException]()
    writer = await Writer.open(clickhouse, lambda _, error: told.put_nowait(error))
    with connect(clickhouse) as client:
        client.command("INSERT INTO schema_migrations (number, name, checksum) VALUES (1, 'x', 'other')")
        insert = asyncio.create_task(writer.insert(TRACES, [{"app": "a", "ts": "yesterday"}]))
        error = await told.get()
        assert (type(error), "Migration x" in str(error), insert.done()) == (TablesAltered, True, False)
        client.command("DELETE FROM schema_migrations WHERE name = 'x' SETTINGS mutations_sync = 1")
    [refused] = await insert
    assert refused.position == 0
    await writer.close()


async def test_an_altered_table_stops_the_start(clickhouse: ClickHouseConfig) -> None:
    with connect(clickhouse) as client:
        client.command("ALTER TABLE traces_raw DROP COLUMN user_id")
    with pytest.raises(ConfigError, match="traces_raw lacks the column user_id: `driftline migrate --repair`"):
        await Writer.open(clickhouse)


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
