from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import ValidationError

from driftline.schemas.errors import ConfigError
from driftline.sinks.clickhouse.client import connect
from driftline.sinks.clickhouse.config import ClickHouseConfig, RetentionConfig
from driftline.sinks.clickhouse.migrate import Migration, migrate, pending, shipped

TABLES = {
    *("traces", "scores", "releases", "windows", "left_out", "evidence"),
    *("alerts", "rollbacks", "breakers", "baselines", "dead_letters"),
}


def test_migrating_twice_changes_nothing_the_second_time(empty: ClickHouseConfig) -> None:
    assert migrate(empty) == [migration.name for migration in shipped()]
    assert migrate(empty) == []
    with connect(empty) as client:
        names = {name for (name,) in client.query("SHOW TABLES").result_rows}
    assert names == TABLES | {f"{table}_raw" for table in TABLES} | {"schema_migrations"}


def test_several_processes_may_migrate_at_once(empty: ClickHouseConfig) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate, [empty] * 4))
    with connect(empty) as client:
        assert client.command("SELECT count() FROM schema_migrations FINAL") == len(shipped())


def test_a_changed_migration_is_refused(clickhouse: ClickHouseConfig) -> None:
    with connect(clickhouse) as client:
        client.command("INSERT INTO schema_migrations (number, name, checksum) VALUES (1, '0001_tables.sql', 'other')")
    with pytest.raises(ConfigError, match=r"0001_tables\.sql was applied .* with other contents"):
        migrate(clickhouse)


def test_pending() -> None:
    one, two = Migration(1, "0001_a.sql", "SELECT 1"), Migration(2, "0002_b.sql", "SELECT 2")
    applied = {1: (one.name, one.checksum)}
    assert pending([one, two], {}) == [one, two]
    assert pending([one, two], applied) == [two]
    assert pending([one], {**applied, 2: (two.name, two.checksum)}) == []  # the database is ahead


def test_statements_end_at_line_ends() -> None:
    assert Migration(1, "", "-- a; b\nSELECT ';';\n\nSELECT 2;\n").statements == ["-- a; b\nSELECT ';'", "\nSELECT 2"]


def test_migrations_are_numbered_without_gaps() -> None:
    assert [migration.number for migration in shipped()] == list(range(1, len(shipped()) + 1))


def test_retention_follows_the_config(clickhouse: ClickHouseConfig) -> None:
    def ttl(table: str) -> str:
        with connect(clickhouse) as client:
            sql = "SELECT engine_full FROM system.tables WHERE database = currentDatabase() AND name = {table:String}"
            return str(client.query(sql, parameters={"table": table}).result_rows[0][0])

    assert "toIntervalDay(90)" in ttl("traces_raw")
    retention = RetentionConfig(events_days=9, dead_letters_days=1)
    migrate(clickhouse.model_copy(update={"retention": retention}))
    assert "toIntervalDay(9)" in ttl("traces_raw")
    assert "toIntervalDay(1)" in ttl("dead_letters_raw")


def test_every_table_has_a_retention(clickhouse: ClickHouseConfig) -> None:
    with connect(clickhouse) as client:
        rows = client.query(
            "SELECT name FROM system.tables WHERE database = currentDatabase() AND endsWith(name, '_raw') "
            "AND engine_full NOT LIKE '%TTL toDateTime(ingested_at)%'"
        ).result_rows
    assert rows == []


def test_expired_rows_go(clickhouse: ClickHouseConfig) -> None:
    with connect(clickhouse) as client:
        for days in (1, 91):
            client.command(
                "INSERT INTO traces_raw (app, ts, trace_id, ingested_at) "
                f"SELECT 'a', '2026-01-01 00:00:00', '{days}', now() - INTERVAL {days} DAY"
            )
        client.command("OPTIMIZE TABLE traces_raw FINAL")
        assert client.query("SELECT trace_id FROM traces").result_rows == [("1",)]


def test_rows_stay_under_the_longest_retention(clickhouse: ClickHouseConfig) -> None:
    """The sum of an arrival and the retention is a `DateTime`, which begins anew in 1970 when it ends."""
    longest = next(bound.le for bound in RetentionConfig.model_fields["events_days"].metadata if hasattr(bound, "le"))
    retention = RetentionConfig(**dict.fromkeys(RetentionConfig.model_fields, longest))
    migrate(clickhouse.model_copy(update={"retention": retention}))
    with connect(clickhouse) as client:
        client.command(
            "INSERT INTO traces_raw (app, ts, trace_id, ingested_at) "
            "SELECT 'a', '2026-01-01 00:00:00', toString(number), now() + toIntervalYear(25 * number) FROM numbers(2)"
        )
        client.command("OPTIMIZE TABLE traces_raw FINAL")
        assert client.query("SELECT count() FROM traces").result_rows == [(2,)]


@pytest.mark.parametrize("days", [-1, 0, 18_251, 30_000, 65_536, 10**12])
def test_a_retention_that_clickhouse_cannot_count_is_refused(days: int) -> None:
    for key in RetentionConfig.model_fields:
        with pytest.raises(ValidationError):
            RetentionConfig(**{key: days})


def test_every_column_says_what_it_is(clickhouse: ClickHouseConfig) -> None:
    with connect(clickhouse) as client:
        silent = client.query(
            "SELECT table, name FROM system.columns "
            "WHERE database = currentDatabase() AND table != 'schema_migrations' AND comment = ''"
        ).result_rows
    assert silent == []


def test_a_view_reads_only_the_ranges_it_needs(clickhouse: ClickHouseConfig) -> None:
    with connect(clickhouse) as client:
        client.command(
            "INSERT INTO traces_raw (app, ts, trace_id) "
            "SELECT 'a' || number % 4, toDateTime64('2026-01-01 00:00:00', 6, 'UTC') + number, toString(number) "
            "FROM numbers(100000)"
        )
        plan = str(
            client.command(
                "EXPLAIN indexes = 1 SELECT count() FROM traces WHERE app = 'a1' AND ts < '2026-01-01 01:00:00'"
            )
        )
    assert "Granules: 1/13" in plan or "Granules: 1/14" in plan, plan
