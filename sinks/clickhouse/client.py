"""Connections to ClickHouse."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError

from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.errors import classify

__all__ = ["Client", "connect", "connect_async", "is_reachable", "session"]


AUTHENTICATION_FAILED = 516


def _options(config: ClickHouseConfig, database: str) -> dict[str, Any]:
    dsn = config.dsn.get_secret_value()
    return {
        "dsn": dsn,
        "interface": urlsplit(dsn).scheme,  # without it the driver goes by the port, and https would be plain
        "database": database,
        "connect_timeout": config.connect_timeout_s,
        "send_receive_timeout": config.timeout_s,
        "autogenerate_session_id": False,  # a session would run one query at a time
        "client_name": "driftline",
    }


def connect(config: ClickHouseConfig, database: str | None = None) -> Client:
    """`database` is the configured one unless told otherwise; it must exist. Raises the driver's errors."""
    return clickhouse_connect.get_client(**_options(config, database or config.database))


@contextmanager
def session(config: ClickHouseConfig, database: str | None = None) -> Iterator[Client]:
    """A connection as `connect` makes it; ClickHouse's errors become ours.

    :raises RetryableError: it does not answer, or cannot now; in its own words.
    """
    try:
        with connect(config, database) as client:
            yield client
    except ClickHouseError as error:
        raise classify(error) from error


async def connect_async(config: ClickHouseConfig) -> AsyncClient:
    return await clickhouse_connect.get_async_client(**_options(config, config.database))


def is_reachable(config: ClickHouseConfig) -> bool:
    """Whether a server answers at all. A refused password is an answer of one that was named, and its own error will
    say so; what listens on a default address and refuses is somebody else's."""
    try:
        connect(config, "default").close()
    except OperationalError:
        return False
    except ClickHouseError as error:
        return "dsn" in config.model_fields_set or getattr(error, "code", None) != AUTHENTICATION_FAILED
    return True
