"""Disks that are full: ClickHouse's, and that of the local stack's folder."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import aiohttp
import pytest

from driftline.schemas.codec import encode_events
from driftline.schemas.events import MICROSECONDS, Tick, Trace
from driftline.sinks.clickhouse.embedded import EmbeddedServer
from driftline.streams.running import find
from driftline.streams.runtime.config import KafkaConfig
from tests.brokers import Kafka, eventually
from tests.e2e.stack import stack_environment, start_stack
from tests.storms.conftest import Pipeline
from tests.storms.harness import Services
from tests.storms.traffic import START

pytestmark = pytest.mark.slow

MIB = 2**20
Disk: TypeAlias = Callable[[int], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """`disk(MiB)`: a file system of that size."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root may mount a small file system to fill")
    mounted: list[Path] = []

    def make(mebibytes: int) -> Path:
        path = tmp_path / f"disk{len(mounted)}"
        path.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", path], capture_output=True, text=True
        )
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
        mounted.append(path)
        return path

    yield make
    for path in mounted:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture
def server(disk: Disk, services: Services) -> Iterator[EmbeddedServer]:
    """On a small disk of its own."""
    server = EmbeddedServer(disk(600) / "clickhouse", port=0)
    services.call(server.start)
    yield server
    services.call(server.stop)


def fill(disk: Path) -> Path:
    """A file that takes all the room there is."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return path


@pytest.mark.kafka
async def test_clickhouse_on_a_full_disk(pipeline: Pipeline, server: EmbeddedServer) -> None:
    async with pipeline(seed=61) as world:
        await world.started("monitor", "archive")
        _, archive = world.processes
        async with world.traffic.flowing():
            for _ in range(2):
                await world.pause(3, 5)
                filler = await asyncio.to_thread(fill, server.path.parent)
                await eventually(lambda: said(archive.log, b"Could not insert"), "an insert that fails")
                await world.pause(6, 8)
                filler.unlink()
                archive.log.write_bytes(b"")
            await world.pause(3, 5)
        await world.finish("ClickHouse's disk full, twice")


async def said(log: Path, words: bytes) -> bool:
    return words in await asyncio.to_thread(log.read_bytes)


async def test_the_local_stack_on_a_full_disk(disk: Disk, tmp_path: Path) -> None:
    """Its roles live on, though they cannot write their logs; what waited arrives when there is room again."""
    folder = disk(600)
    environment = stack_environment(folder / "state")
    process = start_stack(environment, tmp_path / "up.log")
    try:
        kafka_config = KafkaConfig(partitions=2).for_embedded()
        brokers = f"127.0.0.1:{environment['DRIFTLINE_STACK__KAFKA_PORT']}"
        running = find(folder / "state")
        assert running is not None
        dsn = running.clickhouse
        async with Kafka(kafka_config.model_copy(update={"brokers": brokers})) as kafka:
            await send(kafka, 0)
            await eventually(lambda: stored(dsn, 1_000), "the first thousand", timeout_s=60)
            filler = await asyncio.to_thread(fill, folder)
            for number in range(1, 8):
                await send(kafka, number)
                await asyncio.sleep(1)
            assert process.poll() is None
            assert not await stored(dsn, 8_000), "the disk was not full"
            filler.unlink()
            await eventually(lambda: stored(dsn, 8_000), "everything", timeout_s=90)
            await eventually(lambda: counted(dsn, 7_000), "the windows of the first seven minutes", timeout_s=90)
        assert process.poll() is None
        process.terminate()
        assert await asyncio.to_thread(process.wait, 30) == 0, (tmp_path / "up.log").read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


async def send(kafka: Kafka, minute: int) -> None:
    """A thousand traces of a minute, and its tick."""
    now = START + minute * 60 * MICROSECONDS
    for partition in range(2):
        for part in range(5):
            numbers = range(100)
            names = [f"{minute}-{partition}-{part}-{number}" for number in numbers]
            traces: list[Any] = [Trace(app=f"app{partition}", ts=now, trace_id=name, latency_ms=1.0) for name in names]
            await kafka.send(kafka.topics.events, encode_events(traces), partition=partition)
        await kafka.send_events([Tick(ts=now + 60 * MICROSECONDS)], partition=partition)


async def stored(dsn: str, rows: int) -> bool:
    return await number(dsn, "SELECT count() AS n FROM traces") == rows


async def counted(dsn: str, requests: int) -> bool:
    return await number(dsn, "SELECT sum(requests) AS n FROM windows") >= requests


async def number(dsn: str, sql: str) -> int:
    """-1 where ClickHouse does not answer, as on a full disk."""
    parameters = {"query": f"{sql} FORMAT JSONEachRow", "database": "driftline"}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
            session.get(dsn, params=parameters) as response,
        ):
            return int(json.loads(await response.read())["n"]) if response.status == 200 else -1
    except (aiohttp.ClientError, TimeoutError):
        return -1
