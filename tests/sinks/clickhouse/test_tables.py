"""Whatever somebody alters that decides over rows is named, and what is advised sets it right."""

import re
from importlib import resources

import pytest

from driftline.schemas.errors import ConfigError
from driftline.sinks.clickhouse import tables
from driftline.sinks.clickhouse.client import connect
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.migrate import check, migrate, repair
from tests.sinks.clickhouse.snapshot import snapshot

REMADE = "CREATE TABLE scores_raw AS away ENGINE = MergeTree PARTITION BY toYYYYMM(ts) ORDER BY (app, id)"
HARM: dict[str, tuple[list[str], str, str]] = {  # what is done, the table and column that are named
    "a column dropped": (["ALTER TABLE traces_raw DROP COLUMN user_id"], "traces_raw", "user_id"),
    "a column renamed": (["ALTER TABLE traces_raw RENAME COLUMN user_id TO customer"], "traces_raw", "user_id"),
    "a default dropped": (["ALTER TABLE traces_raw MODIFY COLUMN status REMOVE DEFAULT"], "traces_raw", "status"),
    "a default added": (
        ["ALTER TABLE traces_raw MODIFY COLUMN environment LowCardinality(String) DEFAULT 'x'"],
        "traces_raw",
        "environment",
    ),
    "a type narrowed": (
        ["ALTER TABLE traces_raw MODIFY COLUMN latency_ms Nullable(Float32)"],
        "traces_raw",
        "latency_ms",
    ),
    "a column computed": (
        ["ALTER TABLE traces_raw MODIFY COLUMN environment LowCardinality(String) MATERIALIZED 'x'"],
        "traces_raw",
        "environment",
    ),
    "a table dropped": (["DROP TABLE dead_letters_raw"], "dead_letters_raw", ""),
    "a view dropped": (["DROP TABLE traces"], "traces", ""),
    "a view with copies": (["CREATE OR REPLACE VIEW scores AS SELECT * FROM scores_raw"], "scores", ""),
    "a view with less": (
        ["CREATE OR REPLACE VIEW traces AS SELECT * EXCEPT user_id FROM traces_raw FINAL"],
        "traces",
        "user_id",
    ),
    "a table for a view": (["DROP TABLE traces", "CREATE TABLE traces AS traces_raw ENGINE = Memory"], "traces", ""),
    "a table that keeps copies": (
        ["RENAME TABLE scores_raw TO away", REMADE, "DROP TABLE away"],
        "scores_raw",
        "",
    ),
}
HARMLESS = [
    "ALTER TABLE traces_raw ADD COLUMN tenant String",
    "ALTER TABLE traces_raw ADD COLUMN hour DateTime MATERIALIZED toStartOfHour(ts)",
    "ALTER TABLE traces_raw ADD INDEX by_user user_id TYPE bloom_filter(0.01) GRANULARITY 1",
    "ALTER TABLE traces_raw DROP INDEX by_trace",
    "ALTER TABLE traces_raw ADD CONSTRAINT c CHECK length(user_id) < 100",
    "ALTER TABLE traces_raw MODIFY COLUMN input_text CODEC(ZSTD(9))",
    "ALTER TABLE traces_raw MODIFY COLUMN input_text TTL toDateTime(ts) + INTERVAL 7 DAY",
    "ALTER TABLE traces_raw COMMENT COLUMN user_id 'ours'",
    "ALTER TABLE traces_raw MODIFY COLUMN user_id LowCardinality(String)",
    "ALTER TABLE traces_raw MODIFY COLUMN request_model String",
    "ALTER TABLE traces_raw MODIFY SETTING merge_with_ttl_timeout = 3600",
    "CREATE TABLE theirs (n UInt8) ENGINE = MergeTree ORDER BY n",
]
INSERT = """INSERT INTO traces_raw (app, ts, trace_id, revision)
    VALUES ('a', '2026-01-01', 't', 1), ('a', '2026-01-01', 't', 2)"""


def execute(config: ClickHouseConfig, *statements: str) -> None:
    with connect(config) as client:
        for statement in statements:
            client.command(statement)


def test_what_is_shipped_is_what_the_migrations_make(clickhouse: ClickHouseConfig) -> None:
    shipped = resources.files("driftline.sinks.clickhouse").joinpath("tables.json").read_bytes()
    assert shipped == snapshot(clickhouse), "python -m tests.sinks.clickhouse.snapshot writes it anew"


@pytest.mark.parametrize("name", HARM)
def test_harm_is_named_and_the_advice_sets_it_right(clickhouse: ClickHouseConfig, name: str) -> None:
    statements, table, column = HARM[name]
    execute(clickhouse, *statements)
    [found] = check(clickhouse).differences
    assert (found.table, found.column) == (table, column)
    with pytest.raises(ConfigError, match=re.escape(found.what)) as caught:
        migrate(clickhouse)
    assert found.do in str(caught.value)
    for advised in re.findall(r"`([^`]+)`", found.do.partition(", else ")[0]):
        if advised == tables.REPAIR:
            assert repair(clickhouse)
        else:
            execute(clickhouse, advised)
    assert migrate(clickhouse) == []
    execute(clickhouse, INSERT)
    with connect(clickhouse) as client:
        assert client.query("SELECT revision, status, environment, user_id FROM traces").result_rows == [
            (2, "ok", "", "")
        ]


def test_a_column_that_may_have_been_renamed_is_not_put_back(clickhouse: ClickHouseConfig) -> None:
    execute(clickhouse, "ALTER TABLE traces_raw RENAME COLUMN user_id TO customer")
    assert repair(clickhouse) == []
    [found] = check(clickhouse).differences
    execute(clickhouse, found.do.split("`")[3])
    assert migrate(clickhouse) == []


def test_what_operators_may_do_is_no_difference(clickhouse: ClickHouseConfig) -> None:
    execute(clickhouse, *HARMLESS)
    assert migrate(clickhouse) == []
    execute(clickhouse, INSERT)
    with connect(clickhouse) as client:
        assert client.query("SELECT count() FROM traces").result_rows == [(1,)]


def test_a_database_of_nothing_is_named_in_one_line(empty: ClickHouseConfig, clickhouse: ClickHouseConfig) -> None:
    with connect(clickhouse) as client:
        for name in tables.made():
            client.command(f"DROP TABLE {name}")
    with pytest.raises(ConfigError, match=r"17 more differences \(`driftline migrate --check` lists them\)"):
        migrate(clickhouse)
    repair(clickhouse)
    assert migrate(clickhouse) == []
    assert snapshot(clickhouse) == resources.files("driftline.sinks.clickhouse").joinpath("tables.json").read_bytes()


def test_a_migration_that_misses_what_another_made_says_so(clickhouse: ClickHouseConfig) -> None:
    execute(clickhouse, "ALTER TABLE schema_migrations DELETE WHERE number = 7 SETTINGS mutations_sync = 1")
    execute(clickhouse, "DROP TABLE left_out_raw")
    assert check(clickhouse).pending == ["0007_incomplete_windows.sql"]
    with pytest.raises(
        ConfigError, match=r"0007_incomplete_windows\.sql cannot be applied .* `driftline migrate --repair`"
    ):
        migrate(clickhouse)
    repair(clickhouse)
    assert migrate(clickhouse) == ["0007_incomplete_windows.sql"]


def test_a_newer_version_may_make_views_and_keys_anew(clickhouse: ClickHouseConfig) -> None:
    execute(
        clickhouse,
        "CREATE OR REPLACE VIEW traces AS SELECT * FROM traces_raw FINAL WHERE app != ''",
        "INSERT INTO schema_migrations (number, name, checksum) VALUES (999, '0999_later.sql', 'x')",
    )
    assert check(clickhouse).differences == []
    execute(clickhouse, "ALTER TABLE traces_raw DROP COLUMN user_id")
    assert [found.column for found in check(clickhouse).differences] == ["user_id"]


@pytest.mark.parametrize(
    ("engine", "full"),
    [
        ("ReplacingMergeTree", "ReplacingMergeTree(revision) ORDER BY x"),
        (
            "SharedReplacingMergeTree",
            "SharedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', revision)",
        ),
        (
            "ReplicatedReplacingMergeTree",
            "ReplicatedReplacingMergeTree('/t/{uuid}', '{replica}', revision) PARTITION BY y",
        ),
    ],
)
def test_replicated_engines_are_engines(engine: str, full: str) -> None:
    assert tables.plain_engine(engine, full) == "ReplacingMergeTree(revision)"
    assert tables.plain_engine("MergeTree", "MergeTree ORDER BY x") == "MergeTree"
