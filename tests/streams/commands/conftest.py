"""A ClickHouse for commands to ask, by the settings in their environment."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.embedded import EmbeddedServer
from driftline.sinks.clickhouse.migrate import migrate
from tests.streams.operate.conftest import operate_server, operate_tables

__all__ = ["operate_server", "operate_tables"]


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseConfig]:
    with EmbeddedServer(tmp_path_factory.mktemp("clickhouse"), port=0) as server:
        config = ClickHouseConfig(dsn=SecretStr(server.dsn))
        migrate(config)
        yield config


@pytest.fixture
def cli(clickhouse: ClickHouseConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRIFTLINE_CLICKHOUSE__DSN", clickhouse.dsn.get_secret_value())
    return CliRunner()
