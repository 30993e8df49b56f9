"""Write `tables.json` anew, after a migration was added: `python -m tests.sinks.clickhouse.snapshot`."""

import tempfile
from pathlib import Path

import msgspec
from pydantic import SecretStr

from driftline.sinks.clickhouse import tables
from driftline.sinks.clickhouse.client import session
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.embedded import EmbeddedServer
from driftline.sinks.clickhouse.migrate import apply


def snapshot(config: ClickHouseConfig) -> bytes:
    """Of a database that all migrations were applied to."""
    with session(config) as client:
        found = tables.read_tables(client)
    ours = [
        msgspec.structs.replace(table, columns=()) if table.select else table  # those of its table
        for name, table in sorted(found.items())
        if name != "schema_migrations"
    ]
    return msgspec.json.format(msgspec.json.encode(ours), indent=1) + b"\n"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder), port=0) as server:
        config = ClickHouseConfig(dsn=SecretStr(server.dsn), database="snapshot")
        apply(config)
        Path(tables.__file__).with_name("tables.json").write_bytes(snapshot(config))
