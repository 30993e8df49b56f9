"""Rows into ClickHouse: one insert per table and batch, tried until it is acknowledged."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Self, TypeAlias
from uuid import uuid4

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
from driftline.sinks.clickhouse.tables import made, tell

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
LOOKED_S = 5.0  # so long one look at the tables holds while rows are halved: each takes a good part of a second
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
        self._sound_at: dict[str, float] = {}  # when a table was last seen as the migrations made it

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
                    known = classify(error)
                    raise (known if isinstance(known, RetryableError) else RetryableError(str(known))) from error
        raise AssertionError("retries never end")

    async def close(self) -> None:
        await self._client.close()

    async def insert(self, table: str, rows: Sequence[Row]) -> list[Refused]:
        """Returns when every row is in the table or refused; waits for as long as ClickHouse is not able to.

        What is refused is halved until single rows are left. Large pieces go first, so that rows which can be taken are
        found before many that can't. A row is refused when it was so twice, and the table as the migrations made it
        after that: while somebody has altered it, every row waits.

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
                    await self._count_refusal(table, rows[start:end], error)
                if len(rows) == 1 and not tried:
                    pieces.append((start, end))
                elif end - start == 1:
                    refused.append(Refused(start, str(error)))
                else:
                    middle = (start + end) // 2
                    pieces += [(start, middle), (middle, end)]
                tried = True
            if not pieces and refused and await self._was_altered(table):
                pieces += [(row.position, row.position + 1) for row in refused]
                refused.clear()
        return sorted(refused)

    async def _count_refusal(self, table: str, rows: Sequence[Row], error: PermanentError) -> None:
        self._refusals[table] += 1
        if self._refusals[table] != self._refusal_limit:
            return
        if await self._do_not_fit(table, rows):
            del self._refusals[table]
            return
        raise PermanentError(
            f"ClickHouse has refused {self._refusals[table]} inserts into {table} in a row and taken none: the "
            f"table, or the user's rights, are not what this Driftline expects. The last reason: {error} "
            "Correct that and start again; nothing is lost, rows wait in Kafka. To send what is refused to the "
            "dead letters all the same, set archive.poison_limit to 0"
        ) from error

    async def _do_not_fit(self, table: str, rows: Sequence[Row]) -> bool:
        """Whether columns as the migrations made them refuse these rows too, without anything that somebody has put
        onto the table."""
        columns = ", ".join(f"`{column.name}` {column.type}" for column in made()[table].columns)
        trial = f"trial_{uuid4().hex}"
        try:
            await self._client.command(f"CREATE TABLE {trial} ({columns}) ENGINE = Memory")
            try:
                await self._send(trial, rows)
            finally:
                await self._client.command(f"DROP TABLE {trial}")
        except ClickHouseError as error:
            return isinstance(classify(error), PermanentError)
        return False

    async def _insert(self, table: str, rows: Sequence[Row]) -> None:
        async for attempt in _retrying(self._config, f"insert {len(rows)} rows into {table}", self._on_failure):
            with attempt:
                try:
                    await self._send(table, rows)
                except ClickHouseError as error:
                    raise await self._known(table, error) from error

    async def _send(self, into: str, rows: Sequence[Row]) -> None:
        compression = None if self._config.compression == "none" else self._config.compression
        await self._client.raw_insert(
            into,
            insert_block=_body(rows, _COMPRESS[self._config.compression]),
            fmt="JSONEachRow",
            settings=_SETTINGS,
            compression=compression,
        )

    async def _known(self, table: str, error: ClickHouseError) -> DriftlineError:
        """A row is at fault only where its table is as the migrations made it."""
        known = classify(error)
        if isinstance(known, PermanentError):
            sound_at = self._sound_at.get(table)
            if sound_at is not None and asyncio.get_running_loop().time() - sound_at < LOOKED_S:
                return known
        elif not is_missing(error):
            return known
        return await self._fault(table, RetryableError(str(known))) or known

    async def _was_altered(self, table: str) -> bool:
        """Whether the table is otherwise than the migrations made it; returns when it is so again."""
        altered = False
        async for attempt in _retrying(self._config, f"insert rows into {table}", self._on_failure):
            with attempt:
                fault = await self._fault(table, RetryableError("ClickHouse does not say how its tables are"))
                if fault is not None:
                    altered = True
                    raise fault
        return altered

    async def _fault(self, table: str, otherwise: RetryableError) -> RetryableError | None:
        """What is wrong with the table; `otherwise`: what to say where nobody can tell now."""
        try:
            found = await abandonable(check, self._config)
        except ConfigError as journal:
            return TablesAltered(str(journal))
        except RetryableError:
            return otherwise
        altered = [difference for difference in found.differences if difference.table == table]
        if altered:
            return TablesAltered(tell(altered))
        self._sound_at[table] = asyncio.get_running_loop().time()
        return None


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
