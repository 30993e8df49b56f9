import io
import json

import pytest
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from driftline.schemas.errors import RetryableError
from driftline.sinks.clickhouse.client import connect
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.query import run_query

SQL = "SELECT number AS n, if(number = 1, NULL, 'a,b') AS s FROM numbers(2)"


def test_a_table_for_people(tables: ClickHouseConfig) -> None:
    table = run_query(tables, SQL)
    assert isinstance(table, Table)
    assert [column.header for column in table.columns] == ["n", "s"]
    assert [column.justify for column in table.columns] == ["right", "left"]
    text = io.StringIO()
    Console(width=40, file=text).print(table)
    assert "a,b" in text.getvalue()


def test_json_and_csv_for_scripts(tables: ClickHouseConfig) -> None:
    lines = str(run_query(tables, SQL, "json")).splitlines()
    assert [json.loads(line) for line in lines] == [{"n": 0, "s": "a,b"}, {"n": 1, "s": None}]
    assert run_query(tables, SQL, "csv") == '"n","s"\n0,"a,b"\n1,\\N\n'


def test_it_changes_nothing(tables: ClickHouseConfig) -> None:
    with pytest.raises(RetryableError, match="readonly"):
        run_query(tables, "DROP TABLE traces_raw", "json")
    with connect(tables) as client:
        assert client.command("EXISTS TABLE traces_raw") == 1


def test_errors_are_clickhouses_own(tables: ClickHouseConfig) -> None:
    with pytest.raises(RetryableError, match=r"^Code: 47\. DB::Exception: .*`nope`"):
        run_query(tables, "SELECT nope")


def test_nobody_listens() -> None:
    with pytest.raises(RetryableError, match=r"127\.0\.0\.1"):
        run_query(ClickHouseConfig(dsn=SecretStr("http://127.0.0.1:9"), connect_timeout_s=1), "SELECT 1")
