"""A ClickHouse to ask, whether or not the local stack is up."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from driftline.schemas.errors import ConfigError
from driftline.sinks.clickhouse.client import is_reachable
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.embedded import EmbeddedServer
from driftline.streams.redact import remember
from driftline.streams.running import find


@contextmanager
def reachable_clickhouse(config: ClickHouseConfig, folder: Path) -> Iterator[ClickHouseConfig]:
    """The configured server if it answers; else the local stack's data in `folder`."""
    if is_reachable(config):
        yield config
        return
    if not (folder / "clickhouse").is_dir():
        where = config.dsn.get_secret_value().rpartition("@")[2]
        raise ConfigError(
            f"no ClickHouse answers us at {where} (clickhouse.dsn), and there is no local data in {folder}"
        )
    with local_clickhouse(config, folder) as local:
        yield local


@contextmanager
def local_clickhouse(config: ClickHouseConfig, folder: Path) -> Iterator[ClickHouseConfig]:
    """A local stack's data, by the stack if it runs, else served for the moment. Raises ConfigError where there is
    none."""
    running = find(folder)
    if running is not None:
        yield _at(config, running.clickhouse)
        return
    if not (folder / "clickhouse").is_dir():
        raise ConfigError(f"there is no data in {folder}")
    with EmbeddedServer(folder / "clickhouse", port=0) as server:
        yield _at(config, server.dsn)


def _at(config: ClickHouseConfig, dsn: str) -> ClickHouseConfig:
    found = config.model_copy(update={"dsn": SecretStr(dsn)})
    remember(found)
    return found
