import asyncio

import pytest

from driftline.streams.operate import log
from driftline.streams.operate.log import Log
from tests.brokers import Kafka


async def test_a_reader_who_takes_long_is_no_silence_of_kafkas(kafka: Kafka, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "SILENT_S", 3.0)
    await kafka.send_many(kafka.topics.events, [b"{}"] * 3, partition=0)
    read = 0
    async with Log(kafka.config) as opened:
        starts = await opened.beginnings(await opened.partitions(kafka.topics.events))
        async for _, records in opened.read(starts):
            read += len(records)
            await asyncio.sleep(3.5)
    assert read == 3
