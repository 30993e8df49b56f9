import json

import pytest
from pydantic import SecretStr, ValidationError

from driftline.schemas.errors import RetryableError
from driftline.sinks.clickhouse.client import connect
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.query import count_rows, parse, read_bytes, read_rows

SQL = "SELECT number AS n, if(number = 1, NULL, 'a,b') AS s FROM numbers(2)"


def everything(config: ClickHouseConfig, sql: str, output: str | None = None) -> bytes:
    with read_bytes(config, sql, output) as pieces:
        return b"".join(pieces)


def test_rows_for_people(tables: ClickHouseConfig) -> None:
    found = read_rows(tables, SQL, 10)
    assert found.columns == [("n", True), ("s", False)]
    assert [list(row) for row in found.rows] == [[0, "a,b"], [1, None]]
    assert not found.more


def test_no_more_rows_than_asked_for(tables: ClickHouseConfig) -> None:
    found = read_rows(tables, "SELECT number FROM numbers(1000000)", 3)
    assert ([row[0] for row in found.rows], found.more) == ([0, 1, 2], True)
    assert not read_rows(tables, "SELECT number FROM numbers(3)", 3).more
    assert read_rows(tables, "SELECT number FROM numbers(0)", 3).rows == []


def test_any_format_for_scripts(tables: ClickHouseConfig) -> None:
    lines = everything(tables, SQL, "JSONEachRow").splitlines()
    assert [json.loads(line) for line in lines] == [{"n": 0, "s": "a,b"}, {"n": 1, "s": None}]
    assert everything(tables, SQL, "CSVWithNames") == b'"n","s"\n0,"a,b"\n1,\\N\n'
    assert everything(tables, SQL, "Parquet")[:4] == b"PAR1"
    assert json.loads(everything(tables, f"{SQL} FORMAT JSON"))["rows"] == 2


def test_data_goes_out_as_it_is(tables: ClickHouseConfig) -> None:
    assert everything(tables, r"SELECT '[INST]\x1b[31m\x00' AS s", "TSVRaw") == b"[INST]\x1b[31m\x00\n"


@pytest.mark.parametrize(
    ("sql", "without", "named"),
    [
        ("SELECT 1 FORMAT JSON", "SELECT 1 FORMAT JSON", "JSON"),
        ("select 1 format Vertical ; \n", "select 1 format Vertical", "Vertical"),
        ("SELECT 1 FORMAT CSV SETTINGS max_threads = 1", "SELECT 1 FORMAT CSV SETTINGS max_threads = 1", "CSV"),
        ("SELECT 1 FORMAT CSV -- really", "SELECT 1 FORMAT CSV", "CSV"),
        ("SELECT 'FORMAT JSON'", "SELECT 'FORMAT JSON'", None),
        ("SELECT 1 -- FORMAT JSON\n;;", "SELECT 1", None),
        ("SELECT format FROM t", "SELECT format FROM t", None),
        ("SELECT format('{}', 1)", "SELECT format('{}', 1)", None),
        ("SELECT (SELECT 1 FORMAT JSON)", "SELECT (SELECT 1 FORMAT JSON)", None),
        ("", "", None),
        (" ; -- nothing", "", None),
    ],
)
def test_a_statement_may_name_its_format(sql: str, without: str, named: str | None) -> None:
    assert parse(sql) == (without, named)


def test_it_changes_nothing(tables: ClickHouseConfig) -> None:
    for attempt in (lambda: everything(tables, "DROP TABLE traces_raw", "CSV"), lambda: count_rows(tables, "nope")):
        with pytest.raises(RetryableError, match=r"readonly|nope"):
            attempt()
    with connect(tables) as client:
        assert client.command("EXISTS TABLE traces_raw") == 1


def test_errors_are_clickhouses_own(tables: ClickHouseConfig) -> None:
    with pytest.raises(RetryableError, match=r"^Code: 47\. DB::Exception: .*`nope`"):
        read_rows(tables, "SELECT nope", 1)
    with pytest.raises(RetryableError, match=r"^Code: 60\. .*driftline migrate"):
        everything(tables, "SELECT * FROM nope", "CSV")


def test_nobody_listens() -> None:
    config = ClickHouseConfig(dsn=SecretStr("http://127.0.0.1:9"), connect_timeout_s=1)
    with pytest.raises(
        RetryableError, match=r"^ClickHouse at http://127\.0\.0\.1:9 does not answer \(Connection refus"
    ):
        read_rows(config, "SELECT 1", 1)


@pytest.mark.parametrize(
    "dsn", ["localhost:8123", "http://", "ftp://host", "http://host:http", "http://host:99999", "", "clickhouse"]
)
def test_an_address_that_is_none_is_refused_at_once(dsn: str) -> None:
    with pytest.raises(ValidationError, match=r"expected http\[s\]://"):
        ClickHouseConfig(dsn=SecretStr(dsn))


@pytest.mark.parametrize("password", ["a/b", "a#b", "a?b", "12/3", "[x"])
def test_a_password_that_breaks_the_address_is_said_without_it(password: str) -> None:
    with pytest.raises(ValidationError, match="%2F") as told:
        ClickHouseConfig(dsn=SecretStr(f"http://me:{password}@host:8123"))
    assert password not in str(told.value)
    assert ClickHouseConfig(dsn=SecretStr("http://me:a%2Fb@host"))
