"""A whole pipeline for tests of the commands: the archive as it is, the monitor's fold without its worker."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from pydantic import SecretStr

from driftline.schemas.codec import encode, encode_event, encode_events
from driftline.schemas.events import MICROSECONDS, Event, Score, Tick, Trace
from driftline.schemas.homes import home
from driftline.schemas.results import Progress
from driftline.sinks.clickhouse.client import connect
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.embedded import EmbeddedServer
from driftline.sinks.clickhouse.migrate import migrate
from driftline.streams.archive import run_archive
from driftline.streams.fold import Fold
from driftline.streams.monitor.fold import monitor_fold_factory
from driftline.streams.pricing import Pricer
from driftline.streams.settings import Settings
from tests.brokers import Broker, Kafka, eventually
from tests.tables import truncate

START = 1_793_606_400 * MICROSECONDS  # a whole minute


def trace(number: int, second: float, app: str = "bot", **fields: Any) -> Trace:
    ts = START + round(second * MICROSECONDS)
    return Trace(app=app, ts=ts, trace_id=f"{app}-{number}", latency_ms=float(100 + number % 7), release="v1", **fields)


def score(number: int, second: float, app: str = "bot", **fields: Any) -> Score:
    ts = START + round(second * MICROSECONDS)
    return Score(
        app=app, ts=ts, id=f"s{number}", trace_id=f"{app}-{number}", name="quality", value=0.5, release="v1", **fields
    )


class Pipeline:
    """A test's own topics and empty tables, with an archive that runs and a monitor that runs when told to."""

    def __init__(self, kafka: Kafka, settings: Settings) -> None:
        self.kafka = kafka
        self.settings = settings
        make = monitor_fold_factory(settings.monitor, settings.detectors, kafka.topics)
        self._folds: dict[int, Fold] = {p: make(p, None) for p in range(kafka.config.partitions)}
        self._absorbed = dict.fromkeys(self._folds, -1)
        self._published: dict[int, dict[str, int]] = {p: {} for p in self._folds}

    def home(self, app: str) -> int:
        return home(app, self.kafka.config.partitions)

    async def send(self, events: Sequence[Event], app: str = "bot") -> None:
        await self.send_raw(encode_events(list(events)), app)

    async def send_raw(self, value: bytes, app: str = "bot") -> None:
        await self._send(value, self.home(app), app.encode())

    async def tick(self, second: float) -> None:
        for partition in self._folds:
            tick = Tick(ts=START + round(second * MICROSECONDS))
            await self._send(encode_event(self.kafka.topics.controls.signed(tick, partition)), partition)

    async def _send(self, value: bytes, partition: int, key: bytes | None = None) -> None:
        """In order, and there after `flush`."""
        await self.kafka.producer.send(self.kafka.topics.events, value, key=key, partition=partition)

    async def flush(self) -> None:
        await self.kafka.producer.flush()

    async def monitor(self) -> None:
        """Take all that came since the last call, as the role would."""
        await self.flush()
        topics = self.kafka.topics
        for record in await self.kafka.read(topics.events):
            p = record.partition
            if record.offset <= self._absorbed[p]:
                continue
            self._absorbed[p] = record.offset
            for output in await self._folds[p].absorb([record]):
                to = p if output.partition is None else output.partition
                ack = await self.kafka.send(output.topic, output.value, key=output.key, partition=to)
                if to == p:
                    self._published[p][output.topic] = ack.offset
        for p, fold in self._folds.items():
            progress = Progress(
                role="monitor",
                topic=topics.events,
                partition=p,
                offset=self._absorbed[p],
                watermark=fold.watermark,
                published=self._published[p],
            )
            await self.kafka.send(topics.progress, encode(progress), partition=p)

    def command(self, sql: str) -> str:
        with connect(self.settings.clickhouse) as client:
            return str(client.command(sql))

    async def stored(self, table: str, rows: int) -> None:
        async def reached() -> bool:
            return int(await asyncio.to_thread(self.command, f"SELECT count() FROM {table}")) >= rows

        await eventually(reached, f"{rows} rows in {table}")


@pytest.fixture(scope="session")
def operate_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("clickhouse"), port=0) as server:
        yield server


@pytest.fixture(scope="session")
def operate_tables(operate_server: EmbeddedServer) -> ClickHouseConfig:
    """A database with all tables, which each test leaves empty."""
    dsn = SecretStr(operate_server.dsn)
    config = ClickHouseConfig(dsn=dsn, database="operate", batch_age_s=0.05, retry_max_s=0.2)
    migrate(config)
    return config


@pytest.fixture
async def pipeline(embedded_kafka: Broker, operate_tables: ClickHouseConfig) -> AsyncIterator[Pipeline]:
    async with pipeline_on(embedded_kafka, operate_tables) as found:
        yield found


@pytest.fixture
async def pipeline_on_each(broker: Broker, operate_tables: ClickHouseConfig) -> AsyncIterator[Pipeline]:
    """For tests marked `on_each_broker`."""
    async with pipeline_on(broker, operate_tables) as found:
        yield found


@contextlib.asynccontextmanager
async def pipeline_on(broker: Broker, clickhouse: ClickHouseConfig) -> AsyncIterator[Pipeline]:
    config = broker.config()
    settings = Settings(kafka=config, clickhouse=clickhouse)
    stop = asyncio.Event()
    async with Kafka(config) as kafka:
        archive = asyncio.create_task(run_archive(config, clickhouse, kafka.topics, Pricer(), stop=stop))
        try:
            yield Pipeline(kafka, settings)
        finally:
            stop.set()
            await asyncio.wait({archive}, timeout=20)
            with contextlib.suppress(asyncio.CancelledError):
                archive.result()
    truncate(clickhouse)
