"""What the archive sees of its tables while it runs, of a ClickHouse that answers and of one that hangs."""

import asyncio
import socket
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from driftline.schemas.errors import ConfigError
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.migrate import Check
from driftline.sinks.clickhouse.writer import Writer
from driftline.streams import table_watch
from driftline.streams.health import Health
from tests.brokers import eventually


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket.socket, ClickHouseConfig]]:
    """It accepts, and never answers."""
    monkeypatch.setattr(table_watch, "LOOK_S", 0.01)
    with socket.create_server(("127.0.0.1", 0)) as server:
        dsn = f"http://127.0.0.1:{server.getsockname()[1]}"
        yield server, ClickHouseConfig(dsn=SecretStr(dsn), timeout_s=20)


@pytest.mark.parametrize("what", ["start", "look"])
def test_a_clickhouse_that_hangs_holds_up_no_end(hanging: tuple[socket.socket, ClickHouseConfig], what: str) -> None:
    server, config = hanging

    async def ask() -> None:
        await (Writer.open(config) if what == "start" else table_watch.watch_tables(config, Health("archive")))

    async def stopped() -> socket.socket:
        asking = asyncio.create_task(ask())
        connection, _ = await asyncio.to_thread(server.accept)
        asking.cancel()
        await asyncio.wait({asking})
        return connection

    with asyncio.run(stopped()) as connection:
        connection.setblocking(False)
        while True:  # what the driver asked; it would end with nothing, had anyone waited until the driver gave up
            try:
                assert connection.recv(65_536)
            except BlockingIOError:
                break


async def test_a_journal_that_somebody_edits_is_told_and_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    edited = True

    def check(config: ClickHouseConfig) -> Check:
        if edited:
            raise ConfigError("Migration x was applied with other contents")
        return Check([], [])

    monkeypatch.setattr(table_watch, "LOOK_S", 0.01)
    monkeypatch.setattr(table_watch, "check", check)
    health = Health("archive")
    watching = asyncio.create_task(table_watch.watch_tables(ClickHouseConfig(), health))

    async def told() -> bool:
        return any("Migration x was applied with other contents" in problem.what for problem in health.problems)

    async def right() -> bool:
        return not health.problems

    await eventually(told, "it is told")
    edited = False
    await eventually(right, "it is right again")
    watching.cancel()
