"""ClickHouse tables that tests share: made once, emptied after each, for making them takes longer than most tests."""

from driftline.sinks.clickhouse.client import connect
from driftline.sinks.clickhouse.config import ClickHouseConfig


def truncate(config: ClickHouseConfig) -> None:
    """Every table of ours that holds rows."""
    with connect(config) as client:
        found = client.query(
            "SELECT name FROM system.tables WHERE database = currentDatabase() AND endsWith(name, '_raw') "
            "AND total_rows > 0"
        )
        for (name,) in found.result_rows:
            client.command(f"TRUNCATE TABLE {name}")
