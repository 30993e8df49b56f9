"""One query, for people and for scripts: `driftline query "SELECT …"`."""

from typing import Literal, TypeAlias

from clickhouse_connect.driver.exceptions import ClickHouseError
from rich.table import Table

from driftline.sinks.clickhouse.client import connect
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.errors import classify

OutputFormat: TypeAlias = Literal["table", "json", "csv"]

_READ_ONLY = {"readonly": 2}  # nothing is changed by a mistyped query; settings may be
_FORMATS = {"json": "JSONEachRow", "csv": "CSVWithNames"}
_NUMBERS = ("Int", "UInt", "Float", "Decimal")


def run_query(config: ClickHouseConfig, sql: str, output: OutputFormat = "table") -> Table | str:
    """A table to print with rich, or text: JSON, one object per row, or CSV with a header. Raises RetryableError or
    PermanentError with ClickHouse's own words."""
    try:
        with connect(config) as client:
            if output != "table":
                return client.raw_query(sql, fmt=_FORMATS[output], settings=_READ_ONLY).decode(errors="replace")
            result = client.query(sql, settings=_READ_ONLY)
    except ClickHouseError as error:
        raise classify(error) from error
    table = Table()
    for name, kind in zip(result.column_names, result.column_types, strict=True):
        numeric = (kind.base_type or "").startswith(_NUMBERS)
        table.add_column(str(name), justify="right" if numeric else "left", overflow="fold")
    for row in result.result_rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    return table


def count_rows(config: ClickHouseConfig, table: str) -> int:
    """Rows of one of our views, each once."""
    try:
        with connect(config) as client:
            return int(str(client.command(f"SELECT count() FROM `{table}`")))
    except ClickHouseError as error:
        raise classify(error) from error
