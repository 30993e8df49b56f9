"""The same calls against the embedded server and, where one is given, a real ClickHouse."""

import asyncio
import datetime
import gzip
import json
import subprocess
from collections.abc import Callable
from typing import Any

import aiohttp
import clickhouse_connect
import cramjam
import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError
from clickhouse_connect.driver.external import ExternalData

from driftline.sinks.clickhouse.client import connect
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.embedded import EmbeddedServer
from tests.sinks.clickhouse.conftest import EXTERNAL

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "zstd": lambda data: bytes(cramjam.zstd.compress(data)),
    "lz4": lambda data: bytes(cramjam.lz4.compress(data)),
}
NOW = datetime.datetime(2026, 11, 21, 9, 30, 0, 123456)  # noqa: DTZ001 (what the driver gives for a UTC column)


@pytest.fixture
def database(empty: ClickHouseConfig) -> ClickHouseConfig:
    with connect(empty, database="default") as client:
        client.command(f"CREATE DATABASE {empty.database}")
        client.command(
            f"CREATE TABLE {empty.database}.t (n UInt64, s Nullable(String), at DateTime64(6, 'UTC')) "
            "ENGINE = MergeTree ORDER BY n"
        )
    return empty


def get_client(config: ClickHouseConfig, **options: Any) -> Client:
    dsn = config.dsn.get_secret_value()
    return clickhouse_connect.get_client(dsn=dsn, database=config.database, **options)


@pytest.mark.parametrize("compress", [True, False, "lz4", "zstd", "gzip"])
def test_the_driver_writes_and_reads(database: ClickHouseConfig, compress: bool | str) -> None:
    rows = [[n, f"text {n}" * 50 if n % 3 else None, NOW] for n in range(3000)]
    with get_client(database, compress=compress) as client:
        summary = client.insert("t", rows, column_names=["n", "s", "at"])
        assert summary.written_rows == 3000
        assert [list(row) for row in client.query("SELECT * FROM t ORDER BY n").result_rows] == rows
        assert client.query_arrow("SELECT n FROM t").num_rows == 3000
        assert client.command("SELECT count() FROM t") == 3000
        assert client.query("SELECT * FROM t LIMIT 0").column_names == ("n", "s", "at")


def test_bound_parameters(database: ClickHouseConfig) -> None:
    text = "it's a \\ tab\tand\nnewline"
    with get_client(database) as client:
        row = client.query(
            "SELECT {n:UInt64}, {s:String}, {a:Array(String)}, {none:Nullable(String)}, count() FROM {t:Identifier}",
            parameters={"n": 7, "s": text, "a": ["x", "y'z"], "none": None, "t": "t"},
        ).result_rows[0]
    assert row == (7, text, ["x", "y'z"], None, 0)


def test_settings_are_of_one_query(database: ClickHouseConfig) -> None:
    with get_client(database) as client:  # in a session, which outlives the query
        asked = client.query("SELECT getSetting('max_block_size')", settings={"max_block_size": 4321}).result_rows
        after = client.query("SELECT getSetting('max_block_size')").result_rows
    assert asked == [(4321,)]
    assert after != asked


def test_a_session_keeps_temporary_tables_and_its_database(database: ClickHouseConfig) -> None:
    with get_client(database, autogenerate_session_id=True) as client:
        client.command("CREATE TEMPORARY TABLE mine (n UInt8)")
        client.insert("mine", [[1], [2]], column_names=["n"], database="", column_type_names=["UInt8"])
        assert client.command("SELECT sum(n) FROM mine") == 3
    with get_client(database, autogenerate_session_id=True) as client, pytest.raises(DatabaseError) as raised:
        client.command("SELECT sum(n) FROM mine")
    assert raised.value.code == 60


def test_external_data(database: ClickHouseConfig) -> None:
    external = ExternalData(file_name="ext", data=b"1,a\n2,b\n", fmt="CSV", structure=["n UInt8", "s String"])
    with get_client(database) as client:
        rows = client.query("SELECT * FROM ext ORDER BY n", external_data=external).result_rows
    assert rows == [(1, "a"), (2, "b")]


@pytest.mark.parametrize(
    ("sql", "code", "name"),
    [
        ("SELECT nope", 47, "UNKNOWN_IDENTIFIER"),
        ("SELECT * FROM nope", 60, "UNKNOWN_TABLE"),
        ("SELECT * FROM t WHERE", 62, "SYNTAX_ERROR"),
        ("SELECT throwIf(1)", 395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
    ],
)
def test_errors_have_code_and_name(database: ClickHouseConfig, sql: str, code: int, name: str) -> None:
    with get_client(database) as client, pytest.raises(DatabaseError) as raised:
        client.query(sql)
    assert (raised.value.code, raised.value.name) == (code, name)


async def test_the_async_driver_runs_queries_side_by_side(database: ClickHouseConfig) -> None:
    dsn = database.dsn.get_secret_value()
    async with await clickhouse_connect.get_async_client(
        dsn=dsn, database=database.database, autogenerate_session_id=False
    ) as client:
        blocks = [b"".join(b'{"n":%d}\n' % n for n in range(i * 100, i * 100 + 100)) for i in range(8)]
        await asyncio.gather(*(client.raw_insert("t", insert_block=block, fmt="JSONEachRow") for block in blocks))
        assert await client.command("SELECT uniqExact(n) FROM t") == 800
        with pytest.raises(DatabaseError) as raised:
            await client.raw_insert("t", insert_block=b'{"n":"x"}\n', fmt="JSONEachRow")
    assert raised.value.code in (27, 72)


@pytest.mark.parametrize("encoding", COMPRESS)
async def test_plain_http(database: ClickHouseConfig, encoding: str) -> None:
    url, name = database.dsn.get_secret_value(), database.database
    compress = COMPRESS[encoding]
    async with aiohttp.ClientSession(url) as http:
        async with http.get("/ping") as response:
            assert await response.text() == "Ok.\n"
        # The statement in the URL, the data in the body.
        insert = {"query": f"INSERT INTO {name}.t FORMAT CSV", "query_id": f"id-{encoding}"}
        body = compress(b'1,"a\nb",2026-11-21 09:30:00\n2,,2026-11-21 09:30:00\n')
        async with http.post("/", params=insert, data=body, headers={"Content-Encoding": encoding}) as response:
            assert (response.status, await response.text()) == (200, "")
            assert response.headers["X-ClickHouse-Query-Id"] == f"id-{encoding}"
            assert json.loads(response.headers["X-ClickHouse-Summary"])["written_rows"] == "2"
        # All in the body, with a bound parameter and an answer's format.
        params = {"database": name, "default_format": "JSONCompactEachRow", "param_n": "1"}
        async with http.post("/", params=params, data=b"SELECT n, s FROM t WHERE n = {n:UInt8}") as response:
            assert await response.text() == '[1, "a\\nb"]\n'
            assert response.headers["X-ClickHouse-Format"] == "JSONCompactEachRow"
            assert "X-ClickHouse-Timezone" in response.headers
            assert "X-ClickHouse-Server-Display-Name" in response.headers
        async with http.get("/", params={"query": "SELECT 1 FORMAT TSV"}) as response:
            assert await response.text() == "1\n"


async def test_plain_http_errors(database: ClickHouseConfig) -> None:
    async with aiohttp.ClientSession(database.dsn.get_secret_value()) as http:
        async with http.get("/", params={"query": "SELECT nope"}) as response:
            assert response.status == 404
            assert response.headers["X-ClickHouse-Exception-Code"] == "47"
            assert (await response.text()).startswith("Code: 47. DB::Exception: ")
        async with http.get("/", params={"query": f"DROP DATABASE {database.database}"}) as response:
            assert response.headers["X-ClickHouse-Exception-Code"] == "164"  # GET only reads
        for data in (b"INSERT INTO t FORMAT CSV", b"INSERT INTO t VALUES (1)"):
            params = {"database": database.database, "readonly": "1"}
            async with http.post("/", params=params, data=data) as response:
                assert response.headers["X-ClickHouse-Exception-Code"] == "164"
        async with http.post("/", data=b"SELECT 1; SELECT 2") as response:
            assert (response.status, response.headers["X-ClickHouse-Exception-Code"]) == (400, "62")
        missing = {"query": "SELECT 1", "session_id": "none such", "session_check": "1"}
        async with http.post("/", params=missing) as response:
            assert response.headers["X-ClickHouse-Exception-Code"] == "372"


async def test_an_insert_that_fails_at_its_end_is_no_success(database: ClickHouseConfig) -> None:
    with get_client(database) as client:
        client.command("ALTER TABLE t ADD CONSTRAINT c CHECK n != 5")
        inserts: list[Callable[[], object]] = [
            lambda: client.raw_insert("t", insert_block=b'{"n":5}\n', fmt="JSONEachRow"),
            lambda: client.insert("t", [[5]], column_names=["n"]),
            lambda: client.command("INSERT INTO t (n) VALUES (5)"),
        ]
        for insert in inserts:
            with pytest.raises(DatabaseError) as raised:
                insert()
            assert raised.value.code == 469
        client.command("CREATE TABLE p (n UInt64) ENGINE = MergeTree ORDER BY n PARTITION BY n")
        rows = b"".join(b'{"n":%d}\n' % n for n in range(200))
        with pytest.raises(DatabaseError) as raised:
            client.raw_insert("p", insert_block=rows, fmt="JSONEachRow")
        assert raised.value.code == 252
        client.raw_insert("p", insert_block=rows, fmt="JSONEachRow", settings={"max_partitions_per_insert_block": 0})
        assert client.command("SELECT count() FROM p") == 200


async def test_multipart_form(database: ClickHouseConfig) -> None:
    form = aiohttp.FormData()
    form.add_field("query", "SELECT {x:UInt8} + 1 FORMAT CSV", content_type="text/plain")
    form.add_field("param_x", "41", content_type="text/plain")
    async with (
        aiohttp.ClientSession(database.dsn.get_secret_value()) as http,
        http.post("/", data=form) as response,
    ):
        assert await response.text() == "42\n"


async def test_one_query_at_a_time_in_a_session(database: ClickHouseConfig) -> None:
    async with aiohttp.ClientSession(database.dsn.get_secret_value()) as http:

        async def sleep() -> str | None:
            async with http.post("/", params={"session_id": "busy"}, data=b"SELECT sleep(1)") as response:
                return response.headers.get("X-ClickHouse-Exception-Code")

        assert sorted(str(code) for code in await asyncio.gather(sleep(), sleep())) == ["373", "None"]


def test_curl(database: ClickHouseConfig) -> None:
    url, name = database.dsn.get_secret_value(), database.database

    def curl(*arguments: str) -> str:
        try:
            done = subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, check=True)
        except FileNotFoundError:
            pytest.skip("there is no curl")
        return done.stdout

    assert curl(url, "-d", f"INSERT INTO {name}.t (n) VALUES (5), (6)") == ""  # sent as a form, but it is none
    assert curl("--compressed", f"{url}/?query=SELECT+sum(n)+FROM+{name}.t") == "11\n"


async def test_what_the_embedded_server_refuses(embedded: EmbeddedServer) -> None:
    async with aiohttp.ClientSession(embedded.dsn) as http:
        for params, headers, status in [
            ({"compress": "1", "query": "SELECT 1"}, {}, 501),
            ({"query": "SELECT 1 INTO OUTFILE '/tmp/x'"}, {}, 501),
            ({"query": "SELECT 1"}, {"Content-Encoding": "snappy"}, 415),
            ({"query": "SELECT 1"}, {"Host": "rebound.example"}, 403),
            ({"query": "SELECT 1"}, {"Origin": "https://evil.example"}, 403),
        ]:
            async with http.post("/", params=params, headers=headers, data=b"") as response:
                assert response.status == status, params


@pytest.mark.parametrize(
    "options",
    [
        {"form_encode_query_params": True},
        {"autogenerate_session_id": True, "autogenerate_query_id": True},
        {"session_id": "mine", "query_limit": 10},
        {"settings": {"max_execution_time": 30, "max_memory_usage": 10**9, "session_timeout": 100, "readonly": 2}},
        {"settings": {"connect_timeout": 5, "receive_timeout": 60, "send_timeout": 60, "log_queries": 1}},
        {"settings": {"wait_end_of_query": 1, "buffer_size": 1000, "send_progress_in_http_headers": 1}},
        {"settings": {"union_default_mode": "ALL", "join_use_nulls": 1, "http_response_buffer_size": 1000}},
    ],
)
def test_what_drivers_and_dashboards_usually_send(database: ClickHouseConfig, options: dict[str, Any]) -> None:
    with get_client(database, **options) as client:
        asked = client.query("SELECT {a:String}, {b:Array(UInt8)}, 5", parameters={"a": "x'y\n", "b": [1, 2]})
        external = ExternalData(file_name="e", data=b"1,a\n", fmt="CSV", types="UInt8,String")
        assert asked.result_rows == [("x'y\n", [1, 2], 5)]
        assert client.query("SELECT * FROM e", external_data=external).result_rows == [(1, "a")]
        with client.query_row_block_stream("SELECT number FROM numbers(3)") as blocks:
            assert [len(block) for block in blocks] == [3]


async def test_what_go_s_driver_sends(embedded: EmbeddedServer) -> None:
    """Grafana's, by HTTP: the native format, gzip, its limits, and Basic auth out of the URL."""
    params = {
        "default_format": "Native", "client_protocol_version": "54460", "enable_http_compression": "1",
        "max_execution_time": "60", "database": "default", "quota_key": "grafana", "query_id": "0b3f-1",
    }  # fmt: skip
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        sql = b"SELECT displayName(), version(), revision(), timezone(), number FROM numbers(1000)"
        headers = {"Accept-Encoding": "gzip", "Content-Type": "application/octet-stream"}
        async with http.post(embedded.dsn, params=params, data=sql, headers=headers) as response:
            assert response.status == 200
            assert response.headers["Content-Encoding"] == "gzip"
            block = gzip.decompress(await response.read())
    assert block.startswith(b"\x05\xe8\x07\rdisplayName()\x06String")  # five columns, a thousand rows


def test_values_are_literals_expressions_or_parameters(database: ClickHouseConfig) -> None:
    with get_client(database) as client:
        client.command("INSERT INTO t VALUES (1, 'it''s', '2026-11-21 09:30:00.123456'), (2, NULL, 0);")
        client.command("INSERT INTO t VALUES (1 + 2, upper('x'), now()), (4, NULL, toDateTime64(0, 6))")
        client.command("INSERT INTO t (n, s) VALUES ({n:UInt64}, {s:String})", parameters={"n": 5, "s": "(') "})
        client.command("INSERT INTO t (n) FORMAT Values (6)")
        found = client.query("SELECT n, s FROM t ORDER BY n").result_rows
    assert found == [(1, "it's"), (2, None), (3, "X"), (4, None), (5, "(') "), (6, None)]


async def test_its_own_errors_have_a_name_as_clickhouse_s_have(embedded: EmbeddedServer) -> None:
    async with aiohttp.ClientSession(embedded.dsn) as http, http.post("/?compress=1", data=b"SELECT 1") as response:
        text = await response.text()
    assert text.startswith("Code: 48. DB::Exception: compress=1: use ")
    assert ". (NOT_IMPLEMENTED) (version " in text


@pytest.mark.skipif(EXTERNAL is None, reason="DRIFTLINE_TEST_CLICKHOUSE_DSN is not set: a ClickHouse to test as well")
def test_the_external_server_is_new_enough() -> None:
    """With one, every test of this folder runs on it too."""
    with clickhouse_connect.get_client(dsn=EXTERNAL) as client:
        assert int(str(client.command("SELECT version()")).split(".")[0]) >= 24
