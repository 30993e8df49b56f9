"""A pipeline of real processes on Apache Kafka and the embedded ClickHouse, and ways to hurt each part of it."""

import asyncio
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic import SecretStr

from driftline.detectors.config import DetectorsConfig
from driftline.schemas.results import result_types
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.embedded import EmbeddedServer
from driftline.streams.embedded_kafka import die_with_parent
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.ready import READY_FILE, address_file
from driftline.streams.runtime import state as states
from driftline.streams.runtime.config import KafkaConfig
from driftline.streams.settings import Settings
from driftline.streams.supervisor import EXIT_CONFIG
from tests.brokers import ApacheKafka, Kafka, eventually
from tests.storms.traffic import Traffic
from tests.storms.truth import EVENT_VIEWS, Store, Truth, differences, newest, read_truth

logger = logging.getLogger(__name__)

RESTART_S = 0.5  # after this a supervisor starts again what has ended
STARTS_WITHIN_S = 90.0  # on a machine that does other things as well
SETTLES_WITHIN_S = 240.0
PARTITIONS = 3
SESSION_S = 4.0


def kafka_config(node: ApacheKafka, prefix: str, session_s: float) -> KafkaConfig:
    """Short sessions and frequent states: the storm is over before the defaults would have noticed it."""
    return KafkaConfig(
        brokers=node.brokers,
        prefix=prefix,
        partitions=PARTITIONS,
        session_timeout_s=session_s,
        heartbeat_interval_s=session_s / 6,
        checkpoint_s=0.5,
    )


class Process:
    """One process of a role, and how it is to end: what ends otherwise is started again."""

    def __init__(self, role: str, environment: Mapping[str, str], folder: Path, number: int) -> None:
        self.role = role
        self.log = folder / f"{role}-{number}.log"
        self._ready = folder / f"{role}-{number}.ready"
        self._environment = {**environment, READY_FILE: str(self._ready)}
        self._process: subprocess.Popen[bytes] | None = None
        self.wanted = False
        self.killed = 0
        self.ended: list[int] = []  # exit codes of what ended by itself

    def __str__(self) -> str:
        return self.log.stem

    @property
    def pid(self) -> int | None:
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    @property
    def returncode(self) -> int | None:
        return None if self._process is None else self._process.poll()

    @property
    def ready(self) -> bool:
        return self._ready.exists()

    def start(self) -> None:
        self.wanted = True
        self._ready.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "driftline.streams.cli", "worker", "--role", self.role],
                env=self._environment, stdout=log, stderr=subprocess.STDOUT, preexec_fn=die_with_parent(),
            )  # fmt: skip

    def kill(self) -> None:
        """Whatever it is doing. It is started again as after a crash."""
        if self._process is not None and self.pid is not None:
            self._process.kill()
            self._process.wait()
            self.killed += 1

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    async def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM; the exit code."""
        self.wanted = False
        if self._process is None:
            return 0
        self._signal(signal.SIGTERM)
        process = self._process
        try:
            return await asyncio.to_thread(process.wait, timeout_s)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"{self} did not stop within {timeout_s:g} s:\n{self.tail}") from None

    def end(self) -> None:
        self.wanted = False
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def look(self) -> bool:
        """Whether it has ended and must be started again."""
        if not self.wanted or self._process is None or self._process.poll() is None:
            return False
        if self._process.returncode != -signal.SIGKILL:
            self.ended.append(self._process.returncode)
            logger.warning("%s ended by itself with %d:\n%s", self, self._process.returncode, self.tail)
        return True

    async def problems(self) -> str:
        """What its /healthz says is wrong; empty: nothing."""
        url = address_file(self._ready).read_text().strip()
        async with aiohttp.ClientSession() as session, session.get(f"{url}/healthz") as response:
            return "\n".join(problem["what"] for problem in (await response.json())["problems"])

    @property
    def tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def _signal(self, number: signal.Signals) -> None:
        if self.pid is not None:
            os.kill(self.pid, number)


class Node(ApacheKafka):
    """A broker of the storm's own: it may be stopped and killed."""

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def terminate(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()
        self._process = None


class Services:
    """Starts and stops brokers and servers on one thread: Linux ends a child with the thread that started it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="services")

    def call(self, work: Callable[[], None]) -> None:
        self._thread.submit(work).result()

    async def do(self, work: Callable[[], None]) -> None:
        await asyncio.wrap_future(self._thread.submit(work))

    def close(self) -> None:
        self._thread.shutdown()


class World:
    """The pipeline under a storm."""

    def __init__(
        self,
        kafka: Kafka,
        server: EmbeddedServer,
        services: Services,
        folder: Path,
        *,
        seed: int,
        dsn: str | None = None,
        settings: Mapping[str, str] | None = None,
        traces: int = 50,
        traffic: Callable[..., Traffic] = Traffic,
        monitor: MonitorConfig | None = None,
    ) -> None:
        self.kafka = kafka
        self.server = server
        self.services = services
        self.database = kafka.config.prefix.replace("-", "_")
        self.store = Store(server.dsn, self.database)
        self.traffic = traffic(kafka.config, kafka.topics, traces=traces, seed=seed)
        self.random = random.Random(seed)
        self.monitor, self.detectors = monitor or MonitorConfig(), DetectorsConfig()
        self.processes: list[Process] = []
        self._folder = folder
        self._dsn, self._settings = dsn or server.dsn, dict(settings or {})
        self._numbers: Counter[str] = Counter()
        self._beginning = time.monotonic()

    @property
    def environment(self) -> dict[str, str]:
        return _environment(self.kafka.config, self._dsn, self.database) | self._settings

    @property
    def settings(self) -> Settings:
        clickhouse = ClickHouseConfig(dsn=SecretStr(self.server.dsn), database=self.database)
        return Settings(kafka=self.kafka.config, clickhouse=clickhouse)

    def reconfigure(self, config: KafkaConfig) -> None:
        """What starts from now on has these settings."""
        self.kafka.config, self.kafka.topics = config, config.topics

    def start(self, role: str, **environment: str) -> Process:
        self._numbers[role] += 1
        process = Process(role, self.environment | environment, self._folder, self._numbers[role])
        self.processes.append(process)
        process.start()
        return process

    async def started(self, *roles: str) -> list[Process]:
        """All at once, and at work."""
        processes = [self.start(role) for role in roles]
        for process in processes:
            await self.at_work(process)
        return processes

    async def command(self, *arguments: str) -> dict[str, Any]:
        """A command of the operator's: what it writes as JSON. It must exit with 0."""
        found: dict[str, Any] = json.loads(await asyncio.to_thread(self._run, *arguments, "--json"))
        return found

    async def run(self, *arguments: str) -> None:
        """A command of the operator's that must exit with 0."""
        await asyncio.to_thread(self._run, *arguments)

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "driftline.streams.cli", *arguments],
            env=self.environment, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    async def at_work(self, process: Process) -> None:
        async def ready() -> bool:
            assert EXIT_CONFIG not in process.ended, process.tail
            return process.ready

        await eventually(ready, f"{process} at work", timeout_s=STARTS_WITHIN_S)

    async def pause(self, least: float, most: float) -> None:
        """Of a random length, seeded: the storm's moments."""
        await asyncio.sleep(self.random.uniform(least, most))

    async def kill_server(self, down_s: float = 0.0) -> None:
        """ClickHouse, as a power cut would, and up again on its old port."""
        assert self.server.pid is not None
        os.kill(self.server.pid, signal.SIGKILL)

        async def gone() -> bool:
            return not self.server.running

        await eventually(gone, "ClickHouse is gone")
        await asyncio.sleep(down_s)
        await self.services.do(self.server.start)

    @asynccontextmanager
    async def supervised(self) -> AsyncIterator[None]:
        """What ends is started again, as long as the block lasts; nothing of it stays."""
        task = asyncio.create_task(self._supervise())
        try:
            yield
        finally:
            task.cancel()
            for process in self.processes:
                process.end()
            await self.traffic.close()

    async def _supervise(self) -> None:
        while True:
            await asyncio.sleep(RESTART_S)
            for process in self.processes:
                if process.look():
                    process.start()

    # The end of the storm.

    async def settle(self) -> None:
        """The log ends; every role that runs comes to its end."""
        await self.traffic.end()
        running = {process.role for process in self.processes if process.wanted}
        events, embeddings = self.kafka.topics.events, self.kafka.topics.embeddings
        folds = [("monitor", "monitor", events), ("embed", "embed", events), ("embed", "drift", embeddings)]
        for role, fold, topic in folds:
            if role in running:
                await eventually(self.saved(fold, topic), f"{fold} at the end of its topic", **PATIENCE)
        if "archive" in running:
            await eventually(self._archived, "the archive at the end of all topics", **PATIENCE)

    def saved(self, fold: str, topic: str) -> Callable[[], Awaitable[bool]]:
        """Whether the states of a fold cover everything that is in its topic now."""
        goal: dict[int, int] = {}

        async def covered() -> bool:
            async with self.reader() as reader:
                if not goal:
                    goal.update(_numbered(await reader.end_offsets(self._all(topic))))
                found = await states.read_newest(reader, self._all(self.kafka.topics.state(fold)))
            done = {tp.partition: states.decode(record.value).offset for tp, record in found.items()}
            if all(done.get(partition, -1) >= end - 1 for partition, end in goal.items()):
                return True
            await self.traffic.nudge()
            return False

        return covered

    async def _archived(self) -> bool:
        topics = self.kafka.topics
        partitions = [tp for name in (topics.events, *result_types(topics)) for tp in self._all(name)]
        async with self.reader(group=f"{topics.prefix}.archive") as reader:
            ends = await reader.end_offsets(partitions)
            done = {tp: await reader.committed(tp) or 0 for tp in partitions}
        return all(done[tp] >= end for tp, end in ends.items())

    def _all(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, number) for number in range(self.kafka.config.partitions)]

    @asynccontextmanager
    async def reader(self, group: str | None = None) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=20,
            **self.kafka.config.client_options(),
        )
        await consumer.start()
        try:
            yield consumer
        finally:
            await consumer.stop()

    async def stop(self) -> None:
        """Every role at SIGTERM, with exit code 0."""
        codes = {}
        for process in self.processes:
            if process.wanted:
                codes[str(process)] = await process.stop()
        assert set(codes.values()) <= {0}, codes

    async def truth(self) -> Truth:
        truth = await read_truth(self.kafka, self.monitor, self.detectors)
        logged = {key.removeprefix("t") for place, event in truth.places.items() for key in _trace_number(event)}
        lost = self.traffic.acknowledged - logged
        assert not lost, f"{len(lost)} acknowledged traces are not in the log, such as {min(lost)}"
        return truth

    async def check(self, truth: Truth | None = None, *, also: Mapping[str, set[bytes]] | None = None) -> Truth:
        """Everything, once, to the last digit. `also`: what else must be on the result topics."""
        truth = truth or await self.truth()
        problems = []
        outputs = {topic: values | (also or {}).get(topic, set()) for topic, values in truth.outputs.items()}
        published: dict[str, set[bytes]] = {}
        topics = self.kafka.topics
        for topic in result_types(topics).keys() - {topics.dlq}:
            published[topic] = {record.value for record in await self.kafka.read(topic)}
            missing, extra = outputs.get(topic, set()) - published[topic], published[topic] - outputs.get(topic, set())
            if missing or extra:
                problems.append(
                    f"{topic}: {len(missing)} results missing, {len(extra)} others: {_some(missing, extra)}"
                )
        if any(process.role == "archive" for process in self.processes):
            views = await self.store.views()
            for view in EVENT_VIEWS.values():
                problems += differences(view, truth.events[view], await self.store.rows(view))
            for view, rows in newest(value for values in outputs.values() for value in values).items():
                if view in views:
                    problems += differences(view, rows, await self.store.rows(view))
                elif rows:
                    problems.append(f"{view}: no such view, {len(rows)} rows for it")
            problems += differences("dead_letters", truth.letters, await self.store.letters())
        assert not problems, "\n".join(problems)
        return truth

    def report(self, storm: str, truth: Truth, **what: Any) -> None:
        """One line, to be read with --log-cli-level=INFO."""
        counts = {view: len(rows) for view, rows in {**truth.events, **truth.results}.items()}
        logger.info(
            "Storm %s: %.0f s, %d records, %d events (%d copies), %s, %d dead letters, killed %s, "
            "ended by themselves %s, traffic sent %d steps again%s",
            *(storm, time.monotonic() - self._beginning, truth.records, truth.distinct, truth.copies),
            ", ".join(f"{n} {view}" for view, n in counts.items()),
            *(len(truth.letters), {str(p): p.killed for p in self.processes if p.killed}),
            *({str(p): p.ended for p in self.processes if p.ended}, self.traffic.resent),
            "".join(f", {name} {value}" for name, value in what.items()),
        )

    async def finish(self, storm: str, *, may_end: bool = False, **what: object) -> Truth:
        """The end of a storm of the monitor and the archive. `may_end`: processes may have given up and been started
        again, as they do when a broker is away for too long."""
        await self.settle()
        await self.stop()
        truth = await self.check()
        self.report(storm, truth, **what)
        quiet = [view for view in ("windows", "evidence", "alerts", "rollbacks", "breakers") if not truth.results[view]]
        assert not quiet, f"a storm without {', '.join(quiet)} proves nothing of them"
        ended = {str(process): process.ended for process in self.processes if process.ended}
        assert may_end or not ended, f"ended by themselves: {ended}"
        return truth


PATIENCE: dict[str, float] = {"timeout_s": SETTLES_WITHIN_S, "every_s": 0.5}


def _environment(kafka: KafkaConfig, dsn: str, database: str) -> dict[str, str]:
    values = kafka.model_dump(mode="json", exclude_none=True)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("DRIFTLINE_")},
        **{f"DRIFTLINE_KAFKA__{key.upper()}": str(value) for key, value in values.items()},
        "DRIFTLINE_CLICKHOUSE__DSN": dsn,
        "DRIFTLINE_CLICKHOUSE__DATABASE": database,
        "DRIFTLINE_CLICKHOUSE__BATCH_AGE_S": "0.3",
        "DRIFTLINE_CLICKHOUSE__RETRY_MAX_S": "1",
        "DRIFTLINE_TICKS__ENABLED": "false",
        "DRIFTLINE_HEALTH__PORT": "0",
    }


def _numbered(offsets: Mapping[TopicPartition, int]) -> dict[int, int]:
    return {tp.partition: offset for tp, offset in offsets.items()}


def _trace_number(event: Any) -> Iterator[str]:
    yield event.trace_id if hasattr(event, "trace_id") else ""


def _some(*sets: Sequence[bytes] | set[bytes]) -> str:
    return " / ".join(min(values, default=b"").decode()[:300] for values in sets)
