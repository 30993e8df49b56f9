"""The bare loop that the pipeline is compared with: one process that reads with aiokafka, decodes with msgspec and
inserts the same events into the same tables. No dedup, no dead letters, no windows, no retries, no prices.

It is as fast as we could make it: the largest batches, ClickHouse's own JSON parser, events passed on as the bytes
they came as (only the time gets quotes), and the next batch read while one is inserted.

    DRIFTLINE_CLICKHOUSE__DSN=DSN python -m benchmarks.harness.bare KAFKA_JSON DATABASE
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator

import aiohttp
import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition

from driftline.schemas.events import Event, Score, Trace
from driftline.schemas.topics import Topics
from driftline.streams.ready import mark_ready
from driftline.streams.runtime.config import KafkaConfig

BATCH_ROWS = 200_000
BATCH_S = 1.0  # what does not fill a batch is inserted after this long
CHUNK = 256 * 1024
FETCH_BYTES = 8 * 2**20
SETTINGS = {
    "input_format_skip_unknown_fields": "1",
    "max_partitions_per_insert_block": "0",
    "max_insert_block_size": "1048576",
    "optimize_on_insert": "0",
    "async_insert": "0",
}

_many = msgspec.json.Decoder(list[Event])
_one = msgspec.json.Decoder(Event)
DIGITS = 16  # of every time


class _Ready(ConsumerRebalanceListener):  # type: ignore[misc]  # untyped
    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None: ...

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        await self._consumer.seek_to_beginning(*assigned)  # its group is new each time
        mark_ready()


class Loop:
    def __init__(self, session: aiohttp.ClientSession, dsn: str, database: str) -> None:
        self._session = session
        self._dsn = dsn
        self._database = database

    async def insert(self, table: str, rows: list[bytes]) -> None:
        parameters = {**SETTINGS, "database": self._database, "query": f"INSERT INTO {table} FORMAT JSONEachRow"}
        async with self._session.post(self._dsn, params=parameters, data=_chunks(rows)) as answer:
            if answer.status != 200:
                raise RuntimeError((await answer.text())[:500])

    async def write(self, consumer: AIOKafkaConsumer, tables: dict[str, list[bytes]]) -> None:
        await asyncio.gather(*(self.insert(table, rows) for table, rows in tables.items()))
        if tables:
            await consumer.commit()

    async def run(self, consumer: AIOKafkaConsumer) -> None:
        writing = asyncio.ensure_future(asyncio.sleep(0))
        now = asyncio.get_running_loop().time
        while True:
            tables: dict[str, list[bytes]] = {}
            count, closes = 0, now() + BATCH_S
            while count < BATCH_ROWS and (left := closes - now()) > 0:
                for records in (await consumer.getmany(timeout_ms=round(left * 1000))).values():
                    for record in records:
                        count += _take(record.value, tables)
            await writing
            writing = asyncio.ensure_future(self.write(consumer, tables))


def _take(value: bytes, tables: dict[str, list[bytes]]) -> int:
    """The benchmark's records hold events of one kind each."""
    events = _many.decode(value) if value[:1] == b"[" else [_one.decode(value)]
    first = events[0]
    if isinstance(first, Trace | Score):
        table = "traces_raw" if isinstance(first, Trace) else "scores_raw"
        tables.setdefault(table, []).append(_quote_times(value.strip(b"[]")))
        return len(events)
    return 0


def _quote_times(rows: bytes) -> bytes:
    """ClickHouse takes a string of digits for microseconds in every version. No regular expression is as fast."""
    first, *rest = rows.split(b',"ts":')
    return b',"ts":"'.join([first, *[part[:DIGITS] + b'"' + part[DIGITS:] for part in rest]])


async def _chunks(rows: list[bytes]) -> AsyncIterator[bytes]:
    chunk: list[bytes] = []
    size = 0
    for row in rows:
        chunk.append(row)
        size += len(row)
        if size >= CHUNK:
            yield b"\n".join(chunk) + b"\n"
            chunk, size = [], 0
    if chunk:
        yield b"\n".join(chunk) + b"\n"


async def main(kafka: KafkaConfig, dsn: str, database: str) -> None:
    consumer = AIOKafkaConsumer(
        group_id=f"{kafka.prefix}.bare",
        max_poll_interval_ms=600_000,
        max_partition_fetch_bytes=FETCH_BYTES,
        **kafka.reader_options(),
        **kafka.group_options(),
    )
    consumer.subscribe([Topics(kafka.prefix).events], listener=_Ready(consumer))
    await consumer.start()
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        await Loop(session, dsn, database).run(consumer)


if __name__ == "__main__":
    config, name = sys.argv[1:]
    asyncio.run(main(KafkaConfig.model_validate_json(config), os.environ["DRIFTLINE_CLICKHOUSE__DSN"], name))
