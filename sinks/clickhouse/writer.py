"""Rows into ClickHouse: one insert per table and batch, tried until it is acknowledged."""

import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Self, TypeAlias

import cramjam
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from driftline.schemas.errors import ConfigError, DriftlineError, PermanentError, RetryableError
from driftline.schemas.text import for_log
from driftline.schemas.threads import abandonable
from driftline.sinks.clickhouse.client import connect_async
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.errors import classify, is_missing
from driftline.sinks.clickhouse.migrate import check, migrate
from driftline.sinks.clickhouse.rows import Row, encode_rows
from driftline.sinks.clickhouse.tables import tell

logger = logging.getLogger(__name__)

_SETTINGS = {
    "input_format_skip_unknown_fields": 0,  # a row whose field has no column is not stored
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
TOLD = 2_000  # characters of an error in a log line: ClickHouse quotes the row in it
_ROWS_PER_CHUNK = 256  # about as much as a socket takes at once


OnFailure: TypeAlias = Callable[[str, BaseException], None]
"""(what failed, why), before it is tried again"""


class TablesAltered(RetryableError):
    """A table is not what the migrations made it; the message says in what, and the way back."""


class Refused(NamedTuple):
    """A row that ClickHouse will never take."""

    position: int  # within the batch
    reason: str  # in ClickHouse's words


class Writer:
    """Inserts are idempotent: the tables keep one of several copies, so a batch whose answer was lost is sent again."""

    def __init__(
        self,
        config: ClickHouseConfig,
        client: AsyncClient,
        on_failure: OnFailure | None = None,
        refusal_limit: int = 0,
    ) -> None:
        """refusal_limit: so many refused inserts of a table, before one is taken, and not the rows but the table is at
        fault; 0: never."""
        self._config = config
        self._client = client
        self._on_failure = on_failure
        self._refusal_limit = refusal_limit
        self._refusals: Counter[str] = Counter()  # in a row, by table

    @classmethod
    async def open(cls, config: ClickHouseConfig, on_failure: OnFailure | None = None, refusal_limit: int = 0) -> Self:
        """Brings the tables up to date first. Waits until ClickHouse answers; raises ConfigError for a database whose
        migrations are not ours."""
        async for attempt in _retrying(config, f"connect to ClickHouse ({config.database})", on_failure):
            with attempt:
                try:
                    await abandonable(migrate, config)
                    return cls(config, await connect_async(config), on_failure, refusal_limit)
                except ClickHouseError as error:
                    raise RetryableError(str(classify(error))) from error
        raise AssertionError("retries never end")

    async def close(self) -> None:
        await self._client.close()

    async def insert(self, table: str, rows: Sequence[Row]) -> list[Refused]:
        """Returns when every row is in the table or refused; waits for as long as ClickHouse is not able to.

        What is refused is halved until single rows are left. Large pieces go first, so that rows which can be taken are
        found before many that can't. A row is refused when it was so twice, and the table as the migrations made it in
        between: while somebody has altered that, every row waits.

        :raises PermanentError: the table takes nothing at all.
        """
        refused: list[Refused] = []
        taken, tried = False, False
        pieces = deque([(0, len(rows))] if rows else [])
        while pieces:
            start, end = pieces.popleft()
            try:
                await self._insert(table, rows[start:end])
                taken = True
                del self._refusals[table]
            except PermanentError as error:
                if not taken:
                    self._count_refusal(table, error)
                if len(rows) == 1 and not tried:
                    pieces.append((start, end))
                elif end - start == 1:
                    refused.append(Refused(start, str(error)))
                else:
                    middle = (start + end) // 2
                    pieces += [(start, middle), (middle, end)]
                tried = True
        return sorted(refused)

    def _count_refusal(self, table: str, error: PermanentError) -> None:
        self._refusals[table] += 1
        if self._refusals[table] == self._refusal_limit:
            raise PermanentError(
                f"ClickHouse has refused {self._refusals[table]} inserts into {table} in a row and taken none: the "
                f"table, or the user's rights, are not what this Driftline expects. The last reason: {error} "
                "Correct that and start again; nothing is lost, rows wait in Kafka. To send what is refused to the "
                "dead letters all the same, set archive.poison_limit to 0"
            ) from error

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
                    raise await self._known(table, error) from error

    async def _known(self, table: str, error: ClickHouseError) -> DriftlineError:
        """A row is at fault only where its table is as the migrations made it."""
        known = classify(error)
        if not isinstance(known, PermanentError) and not is_missing(error):
            return known
        try:
            found = await abandonable(check, self._config)
        except ConfigError as journal:
            return TablesAltered(str(journal))
        except RetryableError:  # nobody can tell now
            return RetryableError(str(known))
        altered = [difference for difference in found.differences if difference.table == table]
        return TablesAltered(tell(altered)) if altered else known


async def _body(rows: Sequence[Row], compress: Callable[[bytes], bytes]) -> AsyncIterator[bytes]:
    """Streamed: half the CPU time of one large body, and no copy of it."""
    for start in range(0, len(rows), _ROWS_PER_CHUNK):
        yield compress(encode_rows(rows[start : start + _ROWS_PER_CHUNK]))


def _retrying(config: ClickHouseConfig, what: str, on_failure: OnFailure | None) -> AsyncRetrying:
    def report(state: RetryCallState) -> None:
        assert state.outcome is not None
        assert state.next_action is not None
        error = state.outcome.exception()
        assert error is not None
        logger.warning("Could not %s, trying again in %.1f s: %s", what, state.next_action.sleep, for_log(error, TOLD))
        if on_failure is not None:
            on_failure(what, error)

    return AsyncRetrying(
        retry=retry_if_exception_type(RetryableError),
        wait=wait_random_exponential(multiplier=0.4, max=config.retry_max_s),
        before_sleep=report,
        reraise=True,
    )
