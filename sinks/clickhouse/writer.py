"""Rows into ClickHouse: one insert per table and batch, tried until it is acknowledged."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Self, TypeAlias

import cramjam
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from driftline.schemas.codec import encode_lines
from driftline.schemas.errors import PermanentError, RetryableError
from driftline.sinks.clickhouse.client import connect_async
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.errors import classify
from driftline.sinks.clickhouse.migrate import migrate
from driftline.sinks.clickhouse.rows import Row

logger = logging.getLogger(__name__)

_SETTINGS = {
    # A newer Driftline may know fields that this database has no column for yet.
    "input_format_skip_unknown_fields": 1,
    # One batch may hold events of many months, of a replay or of a producer with a wrong clock: it must not be refused.
    "max_partitions_per_insert_block": 0,
    # A batch is one block, and so one part per partition: all of it is there or nothing.
    "max_insert_block_size": 1_048_576,
    # Copies go when they are read (FINAL) and when parts merge: looking for them in every insert costs a quarter of it.
    "optimize_on_insert": 0,
    # Parsing on several threads costs half as much again, and the time is in sorting and compressing.
    "input_format_parallel_parsing": 0,
    "async_insert": 0,  # an acknowledged insert is on disk, whatever the user's profile says
}

_COMPRESS: dict[str, Callable[[bytes], bytes]] = {  # one frame per chunk
    "none": lambda data: data,
    "lz4": lambda data: bytes(cramjam.lz4.compress(data)),
    "zstd": lambda data: bytes(cramjam.zstd.compress(data, 1)),
}
_ROWS_PER_CHUNK = 256  # about as much as a socket takes at once


OnFailure: TypeAlias = Callable[[str, BaseException], None]
"""(what failed, why), before it is tried again"""


class Refused(NamedTuple):
    """A row that ClickHouse will never take."""

    position: int  # within the batch
    reason: str  # in ClickHouse's words


class Writer:
    """Inserts are idempotent: the tables keep one of several copies, so a batch whose answer was lost is sent again."""

    def __init__(self, config: ClickHouseConfig, client: AsyncClient, on_failure: OnFailure | None = None) -> None:
        self._config = config
        self._client = client
        self._on_failure = on_failure

    @classmethod
    async def open(cls, config: ClickHouseConfig, on_failure: OnFailure | None = None) -> Self:
        """Brings the tables up to date first. Waits until ClickHouse answers; raises ConfigError for a database whose
        migrations are not ours."""
        async for attempt in _retrying(config, f"connect to ClickHouse ({config.database})", on_failure):
            with attempt:
                try:
                    await asyncio.to_thread(migrate, config)
                    return cls(config, await connect_async(config), on_failure)
                except ClickHouseError as error:
                    raise RetryableError(str(classify(error))) from error
        raise AssertionError("retries never end")

    async def close(self) -> None:
        await self._client.close()

    async def insert(self, table: str, rows: Sequence[Row]) -> list[Refused]:
        """Returns when every row is in the table or refused; waits for as long as ClickHouse
        is not able to."""
        refused: list[Refused] = []
        halves = [(0, len(rows))]
        while halves:
            start, end = halves.pop()
            if start == end:
                continue
            try:
                await self._insert(table, rows[start:end])
            except PermanentError as error:
                if end - start == 1:
                    refused.append(Refused(start, str(error)))
                else:
                    middle = (start + end) // 2
                    halves += [(middle, end), (start, middle)]
        return refused

    async def _insert(self, table: str, rows: Sequence[Row]) -> None:
        compression = None if self._config.compression == "none" else self._config.compression
        compress = _COMPRESS[self._config.compression]
        async for attempt in _retrying(self._config, f"insert {len(rows)} rows into {table}", self._on_failure):
            with attempt:
                try:
                    await self._client.raw_insert(
                        table,
                        insert_block=_body(rows, compress),
                        fmt="JSONEachRow",
                        settings=_SETTINGS,
                        compression=compression,
                    )
                except ClickHouseError as error:
                    raise classify(error) from error


async def _body(rows: Sequence[Row], compress: Callable[[bytes], bytes]) -> AsyncIterator[bytes]:
    """Streamed: half the CPU time of one large body, and no copy of it."""
    for start in range(0, len(rows), _ROWS_PER_CHUNK):
        yield compress(encode_lines(rows[start : start + _ROWS_PER_CHUNK]))


def _retrying(config: ClickHouseConfig, what: str, on_failure: OnFailure | None) -> AsyncRetrying:
    def report(state: RetryCallState) -> None:
        assert state.outcome is not None
        assert state.next_action is not None
        error = state.outcome.exception()
        assert error is not None
        logger.warning("Could not %s, trying again in %.1f s: %s", what, state.next_action.sleep, error)
        if on_failure is not None:
            on_failure(what, error)

    return AsyncRetrying(
        retry=retry_if_exception_type(RetryableError),
        wait=wait_random_exponential(multiplier=0.4, max=config.retry_max_s),
        before_sleep=report,
        reraise=True,
    )
