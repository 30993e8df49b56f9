"""The promise of the runtime: whatever dies when, each window's result is what an undisturbed run gives."""

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from driftline.schemas.codec import decode, encode_event, encode_events
from driftline.schemas.events import Score, Tick
from driftline.schemas.results import Alert, DeadLetter, Progress
from driftline.streams.embedded_kafka import die_with_parent
from driftline.streams.operate.reset import forget, stored
from driftline.streams.runtime import state as states
from driftline.streams.runtime.admin import members
from driftline.streams.runtime.config import KafkaConfig
from tests.brokers import ApacheKafka, Broker, Kafka, eventually, on_each_broker
from tests.streams.runtime.sums_role import ROLE, SECOND, WINDOW_US, Sum

START_US = 170_000_000 * WINDOW_US
STEPS = ("absorbed", "published", "progressed", "saved", "acked")


class Worker:
    """The role `sums_role.py` in a process."""

    def __init__(self, config: KafkaConfig, log: Path, **options: Any) -> None:
        arguments = {**config.model_dump(mode="json", exclude_none=True), **options}
        self._log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("sums_role.py")), json.dumps(arguments)],
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent(),
            )

    @property
    def said(self) -> str:
        return self._log.read_text()

    async def exit_code(self, timeout_s: float = 30.0) -> int:
        async with asyncio.timeout(timeout_s):
            return await asyncio.to_thread(self.process.wait, timeout_s)

    async def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await self.exit_code()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Traffic:
    """Scores in random windows' order, with a tick after each window, and what their sums must be."""

    def __init__(self, kafka: Kafka, seed: int = 0) -> None:
        self._kafka = kafka
        self._random = random.Random(seed)
        self._window = 0
        self.truth: dict[str, tuple[int, float]] = {}
        self.last_offsets: dict[int, int] = {}

    async def send(self, windows: int) -> None:
        for _ in range(windows):
            start = START_US + self._window * WINDOW_US
            for partition in range(self._kafka.config.partitions):
                scores = [self._score(start) for _ in range(self._random.randint(1, 20))]
                id_ = f"{partition}/{start // WINDOW_US}"
                self.truth[id_] = (len(scores), sum(score.value for score in scores))
                cut = self._random.randint(0, len(scores))
                values = [encode_events(list(scores[:cut])), *map(encode_event, scores[cut:])]
                await self._kafka.send_many(self._kafka.topics.events, values, partition=partition)
                tick = encode_event(Tick(ts=start + WINDOW_US))
                sent = await self._kafka.send(self._kafka.topics.events, tick, partition=partition)
                self.last_offsets[partition] = sent.offset
            self._window += 1

    def _score(self, start: int) -> Score:
        value = self._random.randint(0, 100)
        ts = start + self._random.randrange(WINDOW_US)
        return Score(app="app", ts=ts, id=f"s{self._random.random()}", trace_id="t", name="n", value=value)

    async def absorbed(self) -> bool:
        done: dict[int, int] = {}
        for record in await self._kafka.read(self._kafka.topics.progress):
            progress = decode(record.value, Progress)
            assert progress.role == ROLE
            done[progress.partition] = max(progress.offset, done.get(progress.partition, -1))
        return all(done.get(partition, -1) >= offset for partition, offset in self.last_offsets.items())

    async def grown(self, windows: int) -> bool:
        return len(self.truth) >= windows

    async def check(self) -> None:
        """Every window is there and right, and all copies of an id are the same bytes."""
        copies: dict[str, set[bytes]] = {}
        for record in await self._kafka.read(self._kafka.topics.windows):
            result = msgspec.json.decode(record.value, type=Sum)
            assert result.id.startswith(f"{record.partition}/")
            copies.setdefault(result.id, set()).add(record.value)
        assert {id_: len(values) for id_, values in copies.items() if len(values) > 1} == {}
        found = {id_: msgspec.json.decode(min(values), type=Sum) for id_, values in copies.items()}
        assert {id_: (result.count, result.total) for id_, result in found.items()} == self.truth


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[Worker]]:
    started: list[Worker] = []
    yield started
    for worker in started:
        worker.end()


@pytest.fixture
async def quick(broker: Broker) -> AsyncIterator[Kafka]:
    """Checkpoints at nearly every run, and short sessions, so that restarts are quick."""
    config = broker.config(checkpoint_s=0.05, session_timeout_s=1.0, heartbeat_interval_s=0.2)
    async with Kafka(config) as kafka:
        yield kafka


async def test_a_worker_killed_at_any_step_loses_and_repeats_nothing(
    quick: Kafka, workers: list[Worker], tmp_path: Path
) -> None:
    traffic = Traffic(quick)
    for step in STEPS:
        worker = Worker(quick.config, tmp_path / f"{step}.log", kill_at=step, kill_after=3)
        workers.append(worker)
        async with feeding(traffic):
            assert await worker.exit_code() == -signal.SIGKILL, worker.said
    last = Worker(quick.config, tmp_path / "last.log")
    workers.append(last)
    await traffic.send(3)
    await eventually(traffic.absorbed, "everything absorbed")
    await traffic.check()
    assert await last.terminate() == 0, last.said


@asynccontextmanager
async def feeding(traffic: Traffic) -> AsyncIterator[None]:
    """Traffic until the end of the block; stops between windows."""
    enough = asyncio.Event()

    async def feed() -> None:
        while not enough.is_set():
            await traffic.send(1)
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as group:
        group.create_task(feed())
        try:
            yield
        finally:
            enough.set()


async def owns(worker: Worker, partitions: int) -> None:
    async def last_start() -> bool:
        starts = [line for line in worker.said.splitlines() if "starts at" in line]
        return bool(starts) and starts[-1].count("@") == partitions

    await eventually(last_start, f"a worker owns {partitions} partitions")


@pytest.mark.slow
async def test_partitions_move_between_workers_with_a_large_state(
    quick: Kafka, workers: list[Worker], tmp_path: Path
) -> None:
    def start(name: str) -> Worker:
        worker = Worker(
            quick.config, tmp_path / f"{name}.log", padding=1_500_000
        )  # more than Kafka's 1 MB for a record
        workers.append(worker)
        return worker

    traffic = Traffic(quick)
    first = start("first")
    await owns(first, 2)
    second = start("second")
    async with feeding(traffic):
        await owns(second, 1)
        await owns(first, 1)
        assert await first.terminate() == 0, first.said
        await owns(second, 2)
        second.process.kill()
        third = start("third")
        await owns(third, 2)
    await traffic.send(2)
    await eventually(traffic.absorbed, "what the dead left")
    await traffic.check()
    assert await third.terminate() == 0, third.said
    saved = [record for record in await quick.read(quick.topics.state(ROLE)) if not states.is_note(record)]
    assert {record.key for record in saved} == {b"p0", b"p1"}
    assert all(len(record.value) > 1_500_000 for record in saved)


@pytest.mark.slow
@on_each_broker
async def test_a_frozen_worker_that_comes_back_does_no_harm(
    quick: Kafka, workers: list[Worker], tmp_path: Path
) -> None:
    traffic = Traffic(quick)
    frozen = Worker(quick.config, tmp_path / "frozen.log")
    workers.append(frozen)
    async with feeding(traffic):
        await owns(frozen, 2)
        await eventually(partial(traffic.grown, 6), "some windows")
        for number in range(2):
            frozen.process.send_signal(signal.SIGSTOP)
            other = Worker(quick.config, tmp_path / f"other{number}.log")
            workers.append(other)
            await owns(other, 2)
            await eventually(partial(traffic.grown, len(traffic.truth) + 20), "windows of the other worker")
            frozen.process.send_signal(signal.SIGCONT)
            await owns(frozen, 1)
            other.process.kill()
            await owns(frozen, 2)
    await eventually(traffic.absorbed, "everything absorbed")
    await traffic.check()
    assert await frozen.terminate() == 0, frozen.said


@on_each_broker
async def test_records_that_raise_or_kill_are_put_aside_and_the_others_count_once(
    quick: Kafka, workers: list[Worker], tmp_path: Path, free_port: int
) -> None:
    traffic = Traffic(quick)
    bad: dict[tuple[int, int], bytes] = {}
    for value, partition in ((b"poison", 1), (b"poison", 0), (b"deadly", 1)):
        await traffic.send(2)
        sent = await quick.send(quick.topics.events, value, partition=partition)
        bad[partition, sent.offset] = value
    await traffic.send(2)
    deaths = 0
    while True:
        worker = Worker(quick.config, tmp_path / f"{deaths}.log", health_port=free_port)
        workers.append(worker)

        async def done_or_dead(worker: Worker = worker) -> bool:
            return worker.process.poll() is not None or await traffic.absorbed()

        await eventually(done_or_dead, "everything absorbed, or another death")
        if worker.process.poll() is None:
            break
        assert worker.process.returncode == -signal.SIGKILL, worker.said
        deaths += 1
    assert 1 <= deaths <= 4
    await traffic.check()
    letters = {
        (x.partition, x.offset): x for x in [decode(r.value, DeadLetter) for r in await quick.read(quick.topics.dlq)]
    }
    assert {place: letter.raw for place, letter in letters.items()} == bad
    assert {letter.role for letter in letters.values()} == {ROLE}
    alerts = {decode(record.value, Alert).episode for record in await quick.read(quick.topics.alerts)}
    assert alerts == {offset for _, offset in bad}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{free_port}") as session, session.get("/healthz") as answer:
        assert answer.status == 503
        assert "monitor goes on without 2 records" in await answer.text()
    assert await worker.terminate() == 0, worker.said


@pytest.mark.slow
async def test_a_storm_of_kills_puts_aside_what_is_bad_and_nothing_else(
    quick: Kafka, workers: list[Worker], tmp_path: Path
) -> None:
    """kill -9 at any moment, while records raise, kill, or take more memory than there is."""
    traffic, rng = Traffic(quick), random.Random(3)
    bad: set[tuple[int, int]] = set()
    for value in (b"poison", b"deadly", b"hungry", b"poison"):
        await traffic.send(5)
        partition = rng.randrange(2)
        bad.add((partition, (await quick.send(quick.topics.events, value, partition=partition)).offset))
        await traffic.send(5)
    for number in range(60):
        worker = Worker(quick.config, tmp_path / f"{number}.log", memory=4 * 2**30)
        workers.append(worker)
        with suppress(TimeoutError):
            await worker.exit_code(rng.uniform(1.5, 4.0) if number < 12 else 15.0)
        if worker.process.poll() is None and await traffic.absorbed():
            break
        worker.end()
    await traffic.check()
    letters = [decode(record.value, DeadLetter) for record in await quick.read(quick.topics.dlq)]
    assert {(letter.partition, letter.offset) for letter in letters} == bad
    assert await worker.terminate() == 0, worker.said


@pytest.mark.kafka
async def test_a_result_above_its_topics_limit_is_cut_and_the_role_goes_on(
    apache_kafka: Broker, workers: list[Worker], tmp_path: Path
) -> None:
    async with Kafka(apache_kafka.config(checkpoint_s=0.05)) as kafka:
        await kafka.alter(kafka.topics.alerts, {"max.message.bytes": "5000"})
        traffic = Traffic(kafka)
        worker = Worker(kafka.config, tmp_path / "worker.log")
        workers.append(worker)
        await traffic.send(1)
        await kafka.send(kafka.topics.events, b"talkative", partition=1)
        await traffic.send(1)
        await eventually(traffic.absorbed, "everything absorbed")
        await traffic.check()
        [alert] = await kafka.read(kafka.topics.alerts)
        assert b"2,097,152 characters" in alert.value
        assert "(max.message.bytes of " + kafka.topics.alerts in worker.said
        assert await worker.terminate() == 0, worker.said


async def test_one_role_runs_two_folds_and_the_ticker_writes_the_clock_for_the_first(
    embedded_kafka: Broker, workers: list[Worker], tmp_path: Path
) -> None:
    async with Kafka(embedded_kafka.config(session_timeout_s=1.0, heartbeat_interval_s=0.2)) as kafka:
        await kafka.send(kafka.topics.embeddings, encode_event(Tick(ts=START_US)), partition=1)
        worker = Worker(kafka.config, tmp_path / "worker.log", ticker=True, second_source=True)
        workers.append(worker)

        async def absorbed() -> bool:
            found = [decode(record.value, Progress) for record in await kafka.read(kafka.topics.progress)]
            ticks = [len({p.watermark for p in found if (p.role, p.partition) == (ROLE, n)}) for n in (0, 1)]
            second = [(p.topic, p.partition, p.watermark) for p in found if p.role == SECOND]
            return min(ticks) >= 3 and second == [(kafka.topics.embeddings, 1, START_US)]

        await eventually(absorbed, "three ticks on each partition, and the other topic's record")
        await eventually(lambda: committed(kafka), "committed offsets, from which lag is measured")
        assert await worker.terminate() == 0, worker.said


async def test_a_consumer_that_went_silent_is_unhealthy_and_then_ends_the_process(
    embedded_kafka: Broker, workers: list[Worker], tmp_path: Path, free_port: int
) -> None:
    async with Kafka(embedded_kafka.config(session_timeout_s=1.0, heartbeat_interval_s=0.2)) as kafka:
        await kafka.tick(START_US)
        worker = Worker(kafka.config, tmp_path / "worker.log", deaf=True, health_port=free_port)
        workers.append(worker)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{free_port}") as session:

            async def stalled() -> str:
                try:
                    async with session.get("/healthz") as answer:
                        report = await answer.json()
                        assert (answer.status == 200) == (report["problems"] == [])
                        return "".join(
                            problem["what"] for problem in report["problems"] if "got nothing" in problem["what"]
                        )
                except aiohttp.ClientError:
                    return ""  # it has not begun to listen

            what = await eventually(stalled, "/healthz says that it stands still")
            async with session.get("/metrics") as answer:
                lag = f'driftline_lag_records{{consumer="monitor",partition="0",topic="{kafka.topics.events}"}} 1.0'
                assert lag in await answer.text()
        assert f"monitor got nothing of {kafka.topics.events}[" in what
        assert await worker.exit_code() == 1
        assert f"got nothing of {kafka.topics.events}[" in worker.said
        assert " s: it stands at 0, the log goes on to 1" in worker.said


async def saved(kafka: Kafka) -> dict[int, int]:
    """The offset up to which the newest state of each partition stands."""
    records = await kafka.read(kafka.topics.state(ROLE))
    records = [record for record in records if not states.is_note(record)]
    return {record.partition: states.decode(record.value).offset for record in records}


async def test_a_clean_stop_saves_what_is_absorbed(broker: Broker, workers: list[Worker], tmp_path: Path) -> None:
    """Two workers in turn, both stopped long before a checkpoint is due: nothing is done twice."""
    config = broker.config(checkpoint_s=3600.0, session_timeout_s=1.0, heartbeat_interval_s=0.2)
    async with Kafka(config) as kafka:
        traffic = Traffic(kafka)
        for number in range(2):
            worker = Worker(kafka.config, tmp_path / f"{number}.log")
            workers.append(worker)
            await traffic.send(3)
            await eventually(traffic.absorbed, "everything absorbed")
            assert await worker.terminate() == 0, worker.said
            assert await saved(kafka) == traffic.last_offsets
        results = await kafka.read(kafka.topics.windows)
        assert len(results) == len(traffic.truth), "no result was repeated"
        await traffic.check()


async def test_a_setting_that_shaped_the_state_stops_the_role_until_it_is_back_or_the_state_is_reset(
    quick: Kafka, workers: list[Worker], tmp_path: Path
) -> None:
    def start(name: str, size: str) -> Worker:
        workers.append(Worker(quick.config, tmp_path / f"{name}.log", settings={"size_s": size}))
        return workers[-1]

    traffic = Traffic(quick)
    await traffic.send(3)
    first = start("first", "60")
    await eventually(traffic.absorbed, "everything absorbed")
    assert await first.terminate() == 0, first.said
    changed = start("changed", "10")
    assert await changed.exit_code() == 78, changed.said
    [line] = [line for line in changed.said.splitlines() if "size_s is 10 and was 60" in line]
    assert f"`driftline state reset --role {ROLE}`" in line
    await traffic.send(3)
    back = start("back", "60")
    await eventually(traffic.absorbed, "everything absorbed with the setting back")
    assert await back.terminate() == 0, back.said
    await eventually(partial(_is_stopped, quick), "the role is no member any more")
    await forget(quick.config, await stored(quick.config, quick.topics, ROLE))
    await traffic.send(3)
    anew = start("anew", "10")
    await eventually(traffic.absorbed, "everything absorbed from the beginning")
    assert await anew.terminate() == 0, anew.said
    await traffic.check()


async def test_a_state_that_nobody_of_ours_wrote_is_one_line_and_a_reset_is_the_way_out(
    embedded_kafka: Broker, workers: list[Worker], tmp_path: Path
) -> None:
    async with Kafka(embedded_kafka.config(session_timeout_s=1.0, heartbeat_interval_s=0.2)) as kafka:
        traffic, topic = Traffic(kafka), kafka.topics.state(ROLE)
        await traffic.send(2)
        foreign = (
            b"\xdd\xff\xff\xff\xff",
            await states.encode(states.State(3, {}, b"\x80", fold="judge")),
            await states.encode(states.State(3, {}, b"no snapshot", fold=ROLE)),
        )
        for number, value in enumerate(foreign):
            await kafka.send(topic, value, key=states.key(0), partition=0)
            await kafka.send(topic, b"no note", key=states.note_key(0), partition=0)
            refused = Worker(kafka.config, tmp_path / f"{number}.log")
            workers.append(refused)
            assert await refused.exit_code() == 78, refused.said
            [line] = [line for line in refused.said.splitlines() if "cannot be used" in line]
            assert f"`driftline state reset --role {ROLE}`" in line
            assert "Traceback" not in refused.said
        await eventually(partial(_is_stopped, kafka), "the role is no member any more")
        await forget(kafka.config, await stored(kafka.config, kafka.topics, ROLE))
        worker = Worker(kafka.config, tmp_path / "anew.log")
        workers.append(worker)
        await eventually(traffic.absorbed, "everything absorbed from the beginning")
        await traffic.check()
        assert await worker.terminate() == 0, worker.said


async def _is_stopped(kafka: Kafka) -> bool:
    return not await members(kafka.config, f"{kafka.topics.prefix}.{ROLE}")


async def test_a_partition_that_goes_idle_is_saved_and_acknowledged(
    embedded_kafka: Broker, workers: list[Worker], tmp_path: Path
) -> None:
    async with Kafka(embedded_kafka.config(checkpoint_s=1.0, session_timeout_s=1.0, heartbeat_interval_s=0.2)) as kafka:
        worker = Worker(kafka.config, tmp_path / "worker.log")
        workers.append(worker)
        await owns(worker, 2)
        traffic = Traffic(kafka)
        await traffic.send(1)

        async def all_saved() -> bool:
            return await saved(kafka) == traffic.last_offsets

        await eventually(all_saved, "states of everything, without another record")
        await eventually(lambda: committed(kafka), "what is saved is acknowledged")


async def committed(kafka: Kafka) -> bool:
    consumer = AIOKafkaConsumer(
        group_id=f"{kafka.config.prefix}.{ROLE}", enable_auto_commit=False, **kafka.config.client_options()
    )
    await consumer.start()
    try:
        offsets = [await consumer.committed(TopicPartition(kafka.topics.events, number)) for number in (0, 1)]
        return all((offset or 0) > 0 for offset in offsets)
    finally:
        await consumer.stop()


async def test_a_missing_topic_is_one_clear_line(embedded_kafka: Broker, workers: list[Worker], tmp_path: Path) -> None:
    config = embedded_kafka.config()
    worker = Worker(config, tmp_path / "worker.log")
    workers.append(worker)
    assert await worker.exit_code() == 78
    assert worker.said.count("\n") == 1
    assert f"Topic {config.prefix}.progress is missing: run `driftline topics apply`" in worker.said


async def test_no_broker_does_not_keep_it_from_stopping(free_port: int, workers: list[Worker], tmp_path: Path) -> None:
    worker = Worker(KafkaConfig(brokers=f"127.0.0.1:{free_port}"), tmp_path / "worker.log")
    workers.append(worker)

    async def waits() -> bool:
        return "does not answer yet" in worker.said

    await eventually(waits, "it waits for a broker")
    assert await worker.terminate() == 0, worker.said


@pytest.mark.slow
@pytest.mark.kafka
async def test_a_broker_killed_under_load_costs_nothing_and_no_restart(
    apache_kafka_home: Path, workers: list[Worker], tmp_path: Path
) -> None:
    node = ApacheKafka(apache_kafka_home, tmp_path)
    node.format()
    node.start()
    try:
        config = KafkaConfig(brokers=node.brokers, prefix="t", partitions=2, checkpoint_s=0.05)
        async with Kafka(config) as kafka:
            worker = Worker(config, tmp_path / "worker.log")
            workers.append(worker)
            traffic = Traffic(kafka)
            await traffic.send(2)
            await eventually(traffic.absorbed, "everything before")
            async with feeding(traffic):
                for _ in range(2):
                    node.kill()
                    node.start()  # here, not in a thread: it dies with the thread that starts it
                    enough = len(traffic.truth) + 10
                    await eventually(partial(traffic.grown, enough), "traffic flows again", timeout_s=60)
            await eventually(traffic.absorbed, "everything after")
            await traffic.check()
            assert await worker.terminate() == 0, worker.said
    finally:
        node.kill()
