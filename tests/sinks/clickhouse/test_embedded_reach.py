"""Whatever the engine has, those that come with its next version too: nothing of it reads a file for a client."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError
from pydantic import SecretStr

from driftline.sinks.clickhouse.client import connect
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.embedded import EmbeddedServer, limits

SECRET = "hunter2"


@pytest.fixture
def client(embedded: EmbeddedServer) -> Iterator[Client]:
    with connect(ClickHouseConfig(dsn=SecretStr(embedded.dsn)), database="default") as client:
        client.command("CREATE DATABASE reach")
        client.database = "reach"
        yield client
        client.command("DROP DATABASE reach")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "secret.csv"
    file.write_text(f"{SECRET}\n")
    return file


def names(client: Client, of: str) -> list[str]:
    return [str(row[0]) for row in client.query(f"SELECT DISTINCT name FROM system.{of} ORDER BY name").result_rows]


def said(client: Client, sql: str) -> str:
    try:
        return client.raw_query(sql).decode(errors="replace")
    except ClickHouseError as error:
        return str(error)


def telling(client: Client, statements: Sequence[str]) -> list[str]:
    return [sql for sql in statements if SECRET in said(client, sql)]


def test_tables_have_engines_of_the_list_only(client: Client, file: Path) -> None:
    buffered = f"('default', '{file}', 1, 1, 1, 1, 1, 1, 1)"
    arguments = ("", "()", f"('default', '{file}')", f"('{file}', 'CSV')", buffered)
    for engine, rest in itertools.product(names(client, "table_engines"), arguments):
        order = " ORDER BY tuple()" if engine.endswith("MergeTree") else ""
        said(client, f"CREATE TABLE {engine}_{arguments.index(rest)} (query String) ENGINE = {engine}{rest}{order}")
    made = names(client, "tables WHERE database = 'reach'")
    engines = {name.rpartition("_")[0] for name in made}
    assert "MergeTree" in engines
    assert engines <= set(limits.ENGINES)


def test_no_table_function_reads_it(client: Client, file: Path) -> None:
    arguments = (f"'{file}'", f"'{file}', 'CSV'", f"'{file}', 'CSV', 'c1 String'", f"'default', '{file}'")
    asked = [f"SELECT * FROM `{f}`({a})" for f in names(client, "table_functions") for a in arguments]
    assert len(asked) > 100
    assert telling(client, asked) == []


@pytest.mark.slow
def test_no_function_reads_it(client: Client, file: Path) -> None:
    ways = (
        f"SELECT `{{}}`('{file}')",
        f"SELECT `{{}}`(materialize('{file}'), 'x')",
        f"SELECT arrayMap(`{{}}`, ['{file}'])",
        f"SELECT * APPLY `{{}}` FROM (SELECT '{file}' AS x)",
    )
    asked = [way.format(f) for f in names(client, "functions") for way in ways]
    assert len(asked) > 4_000
    assert telling(client, asked) == []
