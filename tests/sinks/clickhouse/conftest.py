"""ClickHouse for tests: the embedded one, and with DRIFTLINE_TEST_CLICKHOUSE_DSN that server as well."""

import itertools
import os
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from driftline.sinks.clickhouse.client import connect
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.embedded import EmbeddedServer
from driftline.sinks.clickhouse.migrate import migrate
from tests.tables import truncate

numbers = itertools.count()


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("clickhouse"), port=0) as server:
        yield server


EXTERNAL = os.environ.get("DRIFTLINE_TEST_CLICKHOUSE_DSN")


@pytest.fixture(params=["embedded", "external"] if EXTERNAL else ["embedded"])
def dsn(request: pytest.FixtureRequest) -> str:
    if request.param == "embedded":
        server: EmbeddedServer = request.getfixturevalue("embedded")
        return server.dsn
    assert EXTERNAL
    return EXTERNAL


@pytest.fixture
def empty(dsn: str) -> Iterator[ClickHouseConfig]:
    """A database of the test's own, which does not exist yet."""
    config = ClickHouseConfig(dsn=SecretStr(dsn), database=f"test_{os.getpid()}_{next(numbers)}", retry_max_s=0.2)
    yield config
    with connect(config, database="default") as client:
        client.command(f"DROP DATABASE IF EXISTS {config.database}")


@pytest.fixture(scope="session")
def migrated(embedded: EmbeddedServer) -> Iterator[dict[str, ClickHouseConfig]]:
    configs: dict[str, ClickHouseConfig] = {}
    yield configs
    for config in configs.values():
        with connect(config, database="default") as client:
            client.command(f"DROP DATABASE IF EXISTS {config.database}")


@pytest.fixture
def tables(dsn: str, migrated: dict[str, ClickHouseConfig]) -> Iterator[ClickHouseConfig]:
    """A database with all tables, empty, that tests share."""
    if dsn not in migrated:
        migrated[dsn] = ClickHouseConfig(dsn=SecretStr(dsn), database=f"test_{os.getpid()}_shared", retry_max_s=0.2)
        migrate(migrated[dsn])
    yield migrated[dsn]
    truncate(migrated[dsn])


@pytest.fixture
def clickhouse(empty: ClickHouseConfig) -> ClickHouseConfig:
    """A database with all tables, of the test's own: for one that changes them."""
    migrate(empty)
    return empty
