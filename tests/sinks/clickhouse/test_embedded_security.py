"""What an embedded ClickHouse must never do for whoever reaches its port, in odd spellings too."""

import os
from pathlib import Path

import aiohttp
import pytest

from driftline.sinks.clickhouse.client import connect
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.embedded import EmbeddedServer

SECRET = "hunter2"
NOWHERE = "http://127.0.0.1:1/x.csv"

READS = [
    "SELECT * FROM file('{file}', 'CSV', 'a String')",
    "SELECT * FROM/**/fIlE/**/('{file}')",
    "SELECT * FROM `{file}`",
    "SELECT * FROM '{file}'",
    "DESCRIBE `{file}`",
    "SELECT file('{file}')",
    "SELECT arrayMap(file, ['{file}'])",
    "SELECT arrayMap(`file` AS f, ['{file}'])",
    "SELECT * APPLY file FROM (SELECT '{file}' AS x)",
    "SELECT * APPLY(file) APPLY length FROM (SELECT '{file}' AS x)",
    "SELECT x.* APPLY `file` FROM (SELECT '{file}' AS x) AS x",
    "SELECT * APPLY x -> file(x) FROM (SELECT '{file}' AS x)",
    "SELECT 1 AS `a'`, file('{file}')",
    "SELECT 1 AS \"'\", file('{file}')",
    "INSERT INTO t VALUES (file('{file}'))",
    "INSERT INTO t VALUES ('a'), (concat('a', `file`('{file}')))",
    "INSERT INTO t FORMAT Values (file('{file}'))",
    "INSERT INTO t SETTINGS input_format_values_interpret_expressions = 1 VALUES (file('{file}'))",
    "SELECT * FROM format(JSONEachRow, 'a String, b String DEFAULT file(''{file}'')', '{{\"a\":1}}')",
    "SELECT * FROM format('JSONEachRow', 'a String, b String DEFAULT file(''{file}'')', '{{\"a\":1}}')",
    "SELECT b FROM values('a String, b String ALIAS file(''{file}'')', 'x')",
    "SELECT b FROM values((('a String, b String ALIAS file(''{file}'')', 1)).1, 'x')",
    "SELECT b FROM generateRandom('a String, b String ALIAS file(''{file}'')') LIMIT 1",
    "INSERT INTO FUNCTION null('a String, b UInt8 DEFAULT toUInt8(file(''{file}''))') (a) VALUES ('x')",
    "INSERT INTO t SELECT b FROM input('a String, b String DEFAULT file(''{file}'')') FORMAT JSONEachRow {{\"a\":1}}",
    "SELECT * FROM viewIfPermitted(SELECT 1 ELSE null('a String, b String ALIAS file(''{file}'')'))",
    "SELECT `file`('{file}')",
    "SELECT \"file\" -- x\n ('{file}')",
    "WITH x AS (SELECT * FROM file('{file}')) SELECT * FROM x",
    "SELECT 1 WHERE 'a' IN (SELECT * FROM file('{file}'))",
    "SELECT * FROM view(SELECT * FROM file('{file}'))",
    "SELECT * FROM viewExplain('EXPLAIN', '', (SELECT * FROM file('{file}')))",
    "SELECT * FROM eval('SELECT file(''{file}'')')",
    "SELECT * FROM loop(file('{file}'))",
    "EXPLAIN SELECT * FROM file('{file}')",
    "SELECT * FROM fileCluster('default', '{file}')",
    "SELECT * FROM icebergLocal('{file}')",
    "SELECT * FROM deltaLakeLocal('{file}')",
    "SELECT * FROM sqlite('{file}', 't')",
    "SELECT * FROM filesystem('{file}')",
    "SELECT * FROM Python(os)",
    "SELECT * FROM executable('cat {file}', 'CSV', 'a String')",
    "INSERT INTO t FROM INFILE '{file}' FORMAT CSV",
    "INSERT INTO t\u00a0FROM\u00a0INFILE\u00a0‘{file}’ FORMAT CSV",
    "INSERT INTO t /* FORMAT */ FROM INFILE '{file}' SETTINGS max_threads = 1 FORMAT CSV",
    "INSERT INTO t SELECT file('{file}')",
    "CREATE VIEW v AS SELECT * FROM file('{file}')",
    "CREATE VIEW v AS SELECT file('{file}')",
    "CREATE TABLE f (a String DEFAULT file('{file}')) ENGINE = Memory",
    "ALTER TABLE t ADD COLUMN b String DEFAULT file('{file}')",
    "CREATE TABLE f AS file('{file}')",
    "CREATE TABLE f (a String) ENGINE = File(CSV, '{file}')",
    "CREATE TEMPORARY TABLE f (a String) ENGINE = File(CSV)",
    "CREATE TABLE f (c1 String) ENGINE = Buffer('default', '{file}', 1, 1, 1, 1, 1, 1, 1)",
    "CREATE TABLE f (c1 String) ENGINE = `Buffer`('default', '{file}', 1, 1, 1, 1, 1, 1, 1)",
    "CREATE OR REPLACE TABLE f (c1 String) ENGINE=/**/Buffer(default, `{file}`, 1, 1, 1, 1, 1, 1, 1)",
    "CREATE TABLE f (c1 String) ENGINE = Merge('default', '.*')",
    "CREATE TABLE f ENGINE = Alias('default', '{file}')",
    "CREATE TABLE f (query String) ENGINE = QueryRunner",
    "CREATE TABLE f (a String) ENGINE = GenerateRandom('a String DEFAULT file(''{file}'')')",
    "CREATE TABLE f (a String) ENGINE = FileLog('{file}', 'CSV')",
    "CREATE TABLE f (a String) ENGINE = ExecutablePool('cat {file}', 'CSV')",
    "CREATE MATERIALIZED VIEW f ENGINE = Merge('default', '.*') AS SELECT 1 AS a",
    "CREATE DATABASE f ENGINE = DataLakeCatalog('{file}')",
    "CREATE DATABASE f ENGINE = Overlay('default')",
    "CREATE VIEW v DEFINER = default SQL SECURITY NONE AS SELECT * FROM default.`{file}`",
    "CREATE TABLE f (a String) ENGINE = Executable('cat {file}', 'CSV')",
    "CREATE TABLE f (a String) ENGINE = EmbeddedRocksDB(0, '{file}') PRIMARY KEY a",
    "CREATE DATABASE f ENGINE = Filesystem('/')",
    "CREATE DATABASE f ENGINE = SQLite('{file}')",
    "CREATE DICTIONARY d (a String) PRIMARY KEY a SOURCE(FILE(path '{file}' format 'CSV')) LAYOUT(FLAT()) LIFETIME(0)",
    "ATTACH TABLE f FROM '{file}' (a String) ENGINE = MergeTree ORDER BY a",
    "RESTORE TABLE t FROM File('{file}')",
    "SELECT 1 FORMAT Template SETTINGS format_template_row = '{file}'",
    "SELECT 1 FORMAT CapnProto SETTINGS format_schema = '{file}:M'",
    "SET format_schema = '{file}'",
]
WRITES = [
    "INSERT INTO FUNCTION file('{out}', 'CSV', 'a Int8') SELECT 1",
    "SELECT 1 INTO OUTFILE '{out}'",
    "SELECT 1 INTO\u00a0OUTFILE ‘{out}’ FORMAT TSV",
    "SELECT 1 INTO/**/OUTFILE '{out}' TRUNCATE FORMAT TSV",
    "(SELECT 1) INTO OUTFILE '{out}'",
    "EXPLAIN SELECT 1 INTO OUTFILE '{out}'",
    "SHOW TABLES INTO OUTFILE '{out}'",
    "CREATE VIEW w AS SELECT 1 INTO OUTFILE '{out}'",
    "BACKUP TABLE t TO File('{out}')",
    "SELECT 1 FORMAT Protobuf SETTINGS output_format_schema = '{out}'",
    "INSERT INTO t SETTINGS input_format_record_errors_file_path = '{out}' FORMAT CSV x",
    "CREATE TABLE f (a Int8) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = 'local', path = '{out}/')",
    "CREATE DATABASE f ENGINE = Atomic SETTINGS disk = disk(type = 'local', path = '{out}/')",
]
CALLS = [
    f"SELECT * FROM url('{NOWHERE}', 'CSV', 'a String')",
    f"SELECT * FROM `{NOWHERE}`",
    f"INSERT INTO FUNCTION url('{NOWHERE}', 'CSV', 'a Int8') SELECT 1",
    "SELECT * FROM remote('127.0.0.1:1', 'system.one')",
    "SELECT * FROM s3('http://b.127.0.0.1:1/x')",
    "SELECT * FROM gcs('http://127.0.0.1:1/bucket/x')",
    "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM postgresql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM mongodb('127.0.0.1:1', 'a', 'b', 'c', 'd', 'a Int8')",
    "SELECT * FROM redis('127.0.0.1:1', 'k', 'k String')",
    f"CREATE TABLE f (a Int8) ENGINE = URL('{NOWHERE}', 'CSV')",
    "CREATE TABLE f (a Int8) ENGINE = S3('http://b.127.0.0.1:1/x', 'CSV')",
    "CREATE TABLE f (a Int8) ENGINE = MySQL('a', 'b', 'c', 'd', 'e')",
    "CREATE TABLE f (a Int8) ENGINE = Kafka SETTINGS kafka_broker_list = 'a'",
    "CREATE TABLE f (a Int8) ENGINE = Distributed('default', 'db', 't')",
    f"CREATE MATERIALIZED VIEW v ENGINE = URL('{NOWHERE}', 'CSV') AS SELECT 1 AS a",
    "CREATE DATABASE f ENGINE = MySQL('127.0.0.1:1', 'a', 'b', 'c')",
    f"CREATE TABLE f (a Int8) ENGINE = MergeTree ORDER BY a SETTINGS disk = disk(type = 'web', endpoint = '{NOWHERE}')",
    "SELECT reverseDNSQuery('127.0.0.1')",
    "SELECT hasColumnInTable('127.0.0.1:1', 'u', 'p', 'd', 't', 'c')",
    "SELECT aiGenerate('x', 'y')",
    "SYSTEM SHUTDOWN",
    "SYSTEM STOP MERGES",
    "DETACH TABLE t",
    "CREATE TABLE u (a Int8) ENGINE = Null PARALLEL WITH DETACH TABLE t",
    "DROP TABLE IF EXISTS u PARALLEL WITH SYSTEM STOP MERGES",
    "SELECT 1 PARALLEL WITH DROP TABLE t",
    "DETACH DATABASE default",
    "ATTACH TABLE t",
    "CREATE FUNCTION f AS x -> x",
    "CREATE NAMED COLLECTION n AS a = 'b'",
    "CREATE USER u",
    "GRANT ALL ON *.* TO default",
    "EXECUTE AS default SELECT 1",
    "SELECT 1 SETTINGS dialect = 'kusto'",
    "SET max_memory_usage = 99999999999999",
    "SET max_memory_usage = 0",
    "SET max_memory_usage_for_user = 0",
    "SET max_untracked_memory = 99999999999999",
    "SET max_execution_time = 0",
    "SET max_execution_time = 100000",
    "SET max_result_bytes = 0",
    "SET max_parser_depth = 0",
    "SET max_query_size = 0",
    "SET max_ast_depth = 0",
    "SET max_temporary_data_on_disk_size_for_user = 0",
    "SELECT 1 SETTINGS max_threads = 100000",
    "SELECT 1 SETTINGS max_insert_threads = 100000",
    "SELECT 1 SETTINGS max_memory_usage = 0",
    "SELECT 1 SETTINGS max_execution_time = 0",
    "SELECT 1; DROP TABLE t",
]


@pytest.fixture
def database(empty: ClickHouseConfig) -> ClickHouseConfig:
    with connect(empty, database="default") as client:
        client.command(f"CREATE DATABASE {empty.database}")
        client.command(f"CREATE TABLE {empty.database}.t (a String) ENGINE = MergeTree ORDER BY a")
    return empty


async def refused(config: ClickHouseConfig, sql: str, **parameters: str) -> None:
    """By POST, in the body and in the URL; with data behind, and without."""
    async with aiohttp.ClientSession(config.dsn.get_secret_value()) as http:
        for query, body in ((None, sql), (sql, ""), (sql, "x\n")):
            params = {"database": config.database, **parameters, **({"query": query} if query else {})}
            async with http.post("/", params=params, data=body.encode()) as response:
                text = await response.text()
                assert response.status >= 400, (sql, text)
                assert SECRET not in text
        params = {"database": config.database, "query": "SELECT count() FROM t", **parameters}
        async with http.post("/", params=params) as response:
            if not parameters:
                assert await response.text() == "0\n", sql


@pytest.mark.parametrize("sql", READS)
async def test_no_file_is_read(embedded: EmbeddedServer, database: ClickHouseConfig, tmp_path: Path, sql: str) -> None:
    file = tmp_path / "secret.csv"
    file.write_text(f"{SECRET}\n")
    await refused(database, sql.format(file=file))


@pytest.mark.parametrize("sql", WRITES)
async def test_no_file_is_written(
    embedded: EmbeddedServer, database: ClickHouseConfig, tmp_path: Path, sql: str
) -> None:
    await refused(database, sql.format(out=tmp_path / "out"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("sql", CALLS)
async def test_nothing_else_is_reached_or_changed(
    embedded: EmbeddedServer, database: ClickHouseConfig, sql: str
) -> None:
    await refused(database, sql)


@pytest.mark.parametrize("name", ["format_schema", "output_format_schema", "dialect", "implicit_select"])
async def test_settings_of_the_url_are_those_allowed(
    embedded: EmbeddedServer, database: ClickHouseConfig, name: str
) -> None:
    await refused(database, "SELECT 1", **{name: "0"})


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "sql",
    ["KILL QUERY WHERE 1", "DROP TABLE t", "INSERT INTO t VALUES ('x')", "CREATE TABLE u (a Int8) ENGINE = Memory"],
)
async def test_get_only_reads(embedded: EmbeddedServer, database: ClickHouseConfig, method: str, sql: str) -> None:
    async with aiohttp.ClientSession(database.dsn.get_secret_value()) as http:
        params = {"database": database.database, "query": sql}
        async with http.request(method, "/", params=params) as response:
            assert response.status >= 400


async def test_what_merely_names_such_things_is_run(embedded: EmbeddedServer, database: ClickHouseConfig) -> None:
    for sql in (
        "SELECT 'INTO OUTFILE', 'file(', \"x.disk = \" FROM (SELECT 1 AS `x.disk = `)",
        "SELECT 'it''s', '\\\\', 'url(' AS `FROM INFILE`",
        "SELECT $$SYSTEM SHUTDOWN$$",
        "SELECT format('{}: {}', 'a', toString(1)), 'file(', \"`\" FROM (SELECT 1 AS \"`\")",
        "SELECT t.file, 'file' FROM (SELECT 1 AS n) AS t ARRAY JOIN [1] AS aisle WHERE 0 = 1".replace("t.file", "t.n"),
        "/* DETACH */ SELECT sum(number) FROM numbers(3) SETTINGS max_threads = 1",
    ):
        async with (
            aiohttp.ClientSession(database.dsn.get_secret_value()) as http,
            http.post("/", data=sql.encode()) as response,
        ):
            assert response.status == 200, (sql, await response.text())
