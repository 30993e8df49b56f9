"""The broker and ClickHouse of a benchmark, and questions to the latter."""

import asyncio
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from benchmarks.harness.processes import BenchmarkFailed, Worker
from driftline.schemas.topics import Topics
from driftline.sinks.clickhouse.client import connect
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.embedded import EmbeddedServer
from driftline.sinks.clickhouse.migrate import migrate
from driftline.streams.embedded_kafka import EmbeddedKafka
from driftline.streams.runtime.admin import apply_topics
from driftline.streams.runtime.config import KafkaConfig
from tests.brokers import ApacheKafka, find_free_port

BrokerName = Literal["embedded", "apache"]


@contextmanager
def broker(name: BrokerName, partitions: int) -> Iterator[tuple[KafkaConfig, int]]:
    """A broker of its own, and its process id."""
    if name == "embedded":
        with EmbeddedKafka(find_free_port()) as kafka:
            assert kafka.pid is not None
            yield KafkaConfig(brokers=kafka.brokers, partitions=partitions).for_embedded(), kafka.pid
        return
    home = os.environ.get("KAFKA_HOME")
    if not home:
        raise BenchmarkFailed("Apache Kafka is found through KAFKA_HOME, which is not set")
    with tempfile.TemporaryDirectory(prefix="driftline-bench-kafka-") as folder:
        node = ApacheKafka(Path(home).resolve(), Path(folder))
        node.format()
        node.start()
        try:
            assert node._process is not None
            yield KafkaConfig(brokers=node.brokers, partitions=partitions), node._process.pid
        finally:
            node.kill()


def role(
    name: str,
    kafka: KafkaConfig,
    folder: Path,
    called: str = "",
    *,
    clickhouse: ClickHouseConfig | None = None,
    ticks: bool = False,
) -> Worker:
    """As `driftline worker` runs it in production, with default settings. `ticks`: the monitor writes the wall clock
    into the log; otherwise the traffic carries its own."""
    values = kafka.model_dump(mode="json", exclude_none=True)
    env = {
        **{f"DRIFTLINE_KAFKA__{key.upper()}": str(value) for key, value in values.items()},
        "DRIFTLINE_TICKS__ENABLED": str(ticks).lower(),
        "DRIFTLINE_HEALTH__PORT": "0",  # any that is free
    }
    if clickhouse is not None:
        env["DRIFTLINE_CLICKHOUSE__DSN"] = clickhouse.dsn.get_secret_value()
        env["DRIFTLINE_CLICKHOUSE__DATABASE"] = clickhouse.database
    return Worker(called or name, ["-m", "driftline.streams.cli", "worker", "--role", name], env, folder)


@dataclass(frozen=True)
class Services:
    kafka: KafkaConfig
    clickhouse: ClickHouseConfig
    folder: Path
    pids: Mapping[str, int]

    def role(self, name: str, *, ticks: bool = False) -> Worker:
        return role(name, self.kafka, self.folder, clickhouse=self.clickhouse, ticks=ticks)

    def bare(self) -> Worker:
        kafka = self.kafka.model_dump_json(exclude={"sasl_password"})
        argv = ["-m", "benchmarks.harness.bare", kafka, self.clickhouse.database]
        return Worker("bare", argv, {"DRIFTLINE_CLICKHOUSE__DSN": self.clickhouse.dsn.get_secret_value()}, self.folder)

    def prefixed(self, prefix: str) -> "Services":
        """Topics and a database of its own on the same broker and ClickHouse."""
        kafka = self.kafka.model_copy(update={"prefix": prefix})
        asyncio.run(apply_topics(kafka, Topics(prefix)))
        return Services(kafka, self.clickhouse, self.folder, self.pids).with_database(prefix)

    def with_database(self, name: str) -> "Services":
        clickhouse = self.clickhouse.model_copy(update={"database": name})
        migrate(clickhouse)
        return Services(self.kafka, clickhouse, self.folder, self.pids)


@contextmanager
def services(name: BrokerName, partitions: int) -> Iterator[Services]:
    """A fresh broker and a fresh embedded ClickHouse, both gone afterwards."""
    logging.getLogger("driftline.sinks.clickhouse.migrate").setLevel(logging.WARNING)
    with (
        tempfile.TemporaryDirectory(prefix="driftline-bench-") as folder,
        broker(name, partitions) as (kafka, broker_pid),
        EmbeddedServer(Path(folder) / "clickhouse", 0) as server,
    ):
        assert server.pid is not None
        clickhouse = ClickHouseConfig(dsn=SecretStr(server.dsn))
        yield Services(kafka, clickhouse, Path(folder), {"broker": broker_pid, "clickhouse": server.pid}).prefixed(
            "bench"
        )


class Rows:
    """What is in the tables."""

    def __init__(self, config: ClickHouseConfig) -> None:
        self._client = connect(config)

    def number(self, sql: str) -> int:
        return int(self._client.query(sql).result_rows[0][0] or 0)

    def column(self, sql: str) -> list[str]:
        return [row[0] for row in self._client.query(sql).result_rows]

    def pairs(self, sql: str) -> list[tuple[str, int]]:
        return [(row[0], int(row[1])) for row in self._client.query(sql).result_rows]

    @property
    def written(self) -> int:
        """Copies included; cheap."""
        return self.number("SELECT (SELECT count() FROM traces_raw) + (SELECT count() FROM scores_raw)")

    @property
    def readable(self) -> int:
        """Rows of the views, each key once."""
        return self.number("SELECT (SELECT count() FROM traces) + (SELECT count() FROM scores)")

    @property
    def distinct(self) -> int:
        return self.number(
            "SELECT (SELECT uniqExact(app, trace_id, span_id) FROM traces) + (SELECT uniqExact(app, id) FROM scores)"
        )

    @property
    def in_windows(self) -> int:
        return self.number("SELECT sum(requests) FROM windows")

    def close(self) -> None:
        self._client.close()
