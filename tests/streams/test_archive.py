"""The archive on a broker and the embedded ClickHouse: everything once, whatever happens."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from aiokafka import TopicPartition
from prometheus_client import REGISTRY
from pydantic import SecretStr

from driftline.schemas.codec import Reject, decode, encode, encode_event, encode_events
from driftline.schemas.errors import DriftlineError
from driftline.schemas.events import BaselineSet, Release, Score, Tick, Trace
from driftline.schemas.ids import stable_id
from driftline.schemas.results import Alert, Baseline, DeadLetter
from driftline.schemas.topics import LARGE, Topics
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.embedded import EmbeddedServer
from driftline.sinks.clickhouse.migrate import migrate, repair
from driftline.sinks.clickhouse.query import read_rows
from driftline.streams.archive import Batch, Pricing, dead_letter, run_archive
from driftline.streams.health import Health
from driftline.streams.poison import ArchiveConfig, PoisonWatch
from tests.brokers import Kafka, eventually, on_each_broker
from tests.sinks.clickhouse.samples import FULL
from tests.streams.operate.records import record
from tests.tables import truncate

TS = 1_790_000_000_000_000


class FixedPrice:
    def cost_usd(self, trace: Trace) -> float | None:
        return 0.25 if trace.request_model == "known" else None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path_factory.mktemp("clickhouse"), port=0) as server:
        yield server


@pytest.fixture
def clickhouse(server: EmbeddedServer) -> Iterator[ClickHouseConfig]:
    config = ClickHouseConfig(
        dsn=SecretStr(server.dsn), database="archive", batch_age_s=0.1, retry_max_s=0.2, connect_timeout_s=2
    )
    migrate(config)
    yield config
    truncate(config)


@contextlib.asynccontextmanager
async def archiving(
    kafka: Kafka, clickhouse: ClickHouseConfig, pricing: Pricing | None = None, **options: Any
) -> AsyncIterator[asyncio.Task[None]]:
    stop = asyncio.Event()
    task = asyncio.create_task(
        run_archive(kafka.config, clickhouse, kafka.topics, pricing or FixedPrice(), stop=stop, **options)
    )
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait({task}, timeout=20)
        if not task.cancelled():
            task.result()


def trace(n: int, **fields: Any) -> Trace:
    return Trace(app="bot", ts=TS + n, trace_id=f"t{n}", **fields)


async def count(clickhouse: ClickHouseConfig, what: str) -> int:
    found = await asyncio.to_thread(read_rows, clickhouse, f"SELECT count() FROM {what}", 1)
    return int(found.rows[0][0])


async def holds_at_least(clickhouse: ClickHouseConfig, what: str, rows: int) -> None:
    async def reached() -> bool:
        with contextlib.suppress(DriftlineError):  # no table yet, or no server: what this waits for
            return await count(clickhouse, what) >= rows
        return False

    await eventually(reached, f"{rows} rows in {what}")


async def holds(clickhouse: ClickHouseConfig, what: str, rows: int) -> None:
    await holds_at_least(clickhouse, what, rows)
    assert await count(clickhouse, what) == rows


@on_each_broker
async def test_events_and_results_arrive_once(kafka: Kafka, clickhouse: ClickHouseConfig) -> None:
    topics = kafka.topics
    score = Score(app="bot", ts=TS, id="s1", trace_id="t1", name="helpful", value=0.5)
    release = Release(app="bot", ts=TS, id="d1", kind="deploy", release="v2")
    [baseline] = [result for result in FULL if isinstance(result, Baseline)]
    fitted = BaselineSet(app="bot", ts=TS, id="b", baseline=baseline)  # neither a row nor a dead letter
    async with archiving(kafka, clickhouse):
        for _ in range(2):  # a producer that retries
            await kafka.send(topics.events, encode_event(trace(0, request_model="known")))
            await kafka.send(topics.events, encode_events([trace(n) for n in range(1, 100)]), partition=1)
            await kafka.send_events([score, release, Tick(ts=TS), fitted])
            for topic, result in zip(
                (
                    *(topics.windows, topics.windows, topics.evidence, topics.alerts),
                    *(topics.rollbacks, topics.breakers, topics.baselines, topics.dlq),
                ),
                FULL,
                strict=True,
            ):
                await kafka.send(topic, encode(result), key=b"k")  # a compacted topic takes none without
        await holds(clickhouse, "traces", 100)
        results = ("windows", "left_out", "evidence", "alerts", "rollbacks", "breakers", "baselines", "dead_letters")
        for view in ("scores", "releases", *results):
            await holds(clickhouse, view, 1)
    assert await count(clickhouse, "traces WHERE cost_status = 'priced' AND cost_usd = 0.25") == 1
    assert await count(clickhouse, "traces WHERE cost_status = 'unpriced' AND cost_usd IS NULL") == 99


async def test_what_cannot_be_decoded_is_dead_lettered(kafka: Kafka, clickhouse: ClickHouseConfig) -> None:
    topics = kafka.topics
    bad = b'{"type":"trace","app":"bot","ts":5,"trace_id":"x"}'
    async with archiving(kafka, clickhouse):
        array = await kafka.send(
            topics.events, b"[" + b",".join([encode_event(trace(0)), bad, encode_event(trace(1))]) + b"]"
        )
        whole = await kafka.send(topics.events, b"\x00nonsense", key=b"k", partition=1)
        result = await kafka.send(topics.alerts, b"{}")
        await holds(clickhouse, "dead_letters", 3)
        await holds(clickhouse, "traces", 2)
    letters = {letter.id: letter for letter in (decode(r.value, DeadLetter) for r in await kafka.read(topics.dlq))}
    wanted = {
        (topics.events, 0, array.offset, 1): (bad, None),
        (topics.events, 1, whole.offset, -1): (b"\x00nonsense", b"k"),
        (topics.alerts, 0, result.offset, -1): (b"{}", None),
    }
    assert {(x.topic, x.partition, x.offset, x.index): (x.raw, x.key) for x in letters.values()} == wanted
    sent = ((array, 1), (whole, -1), (result, -1))
    assert set(letters) == {stable_id(r.topic, r.partition, r.offset, r.timestamp, index) for r, index in sent}
    assert all(letter.reason for letter in letters.values())


async def test_nothing_but_garbage_is_told_and_stops_nothing(kafka: Kafka, clickhouse: ClickHouseConfig) -> None:
    health = Health("archive")
    config = ArchiveConfig(poison_limit=20)
    async with archiving(kafka, clickhouse, health=health, config=config):
        for n in range(3):
            await kafka.send(kafka.topics.events, b"[%b]" % b",".join([b"7"] * 10), key=b"stranger", partition=1)
            await kafka.send_events([trace(n)], partition=0)
        await holds(clickhouse, "traces", 3)
        await holds(clickhouse, "dead_letters", 30)
        [problem] = health.problems
        assert f"{kafka.topics.events}[1] brings nothing but what cannot be taken" in problem.what
        assert "key 'stranger'" in problem.what
        place = {"consumer": "archive", "topic": kafka.topics.events, "partition": "1"}
        assert REGISTRY.get_sample_value("driftline_rejected_in_a_row", place) == 30
        await kafka.send_events([trace(3)], partition=1)
        await holds(clickhouse, "traces", 4)
        assert health.problems == []


async def test_rows_that_clickhouse_refuses_are_dead_lettered(kafka: Kafka, clickhouse: ClickHouseConfig) -> None:
    """A constraint stands for whatever ClickHouse may refuse that the codec takes."""
    async with archiving(kafka, clickhouse):
        await kafka.send_events([trace(0)])
        await holds(clickhouse, "traces", 1)
        await asyncio.to_thread(execute, clickhouse, "ALTER TABLE traces_raw ADD CONSTRAINT c CHECK user_id != 'bad'")
        broken = b'{"type":"tick"}'
        events = [encode_event(trace(n, user_id="bad" if n == 2 else "")) for n in range(1, 4)]
        sent = await kafka.send(kafka.topics.events, b"[" + b",".join([broken, *events]) + b"]")
        await holds(clickhouse, "dead_letters", 2)
        await holds(clickhouse, "traces", 3)
        await asyncio.to_thread(execute, clickhouse, "ALTER TABLE traces_raw DROP CONSTRAINT c")
    letters = [decode(record.value, DeadLetter) for record in await kafka.read(kafka.topics.dlq)]
    (letter,) = [letter for letter in letters if letter.index == 2]
    assert (letter.offset, letter.raw) == (sent.offset, events[1])
    assert "VIOLATED_CONSTRAINT" in letter.reason


async def test_a_column_that_somebody_drops_is_told_and_nothing_is_lost(
    kafka: Kafka, clickhouse: ClickHouseConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("driftline.streams.table_watch.LOOK_S", 0.1)
    health = Health("archive")

    async def unhealthy(told: str) -> bool:
        return any(told in problem.what for problem in health.problems)

    async with archiving(kafka, clickhouse, health=health):
        await kafka.send_events([trace(0, user_id="who")])
        await holds(clickhouse, "traces", 1)
        await asyncio.to_thread(execute, clickhouse, "ALTER TABLE traces_raw DROP COLUMN user_id")
        await eventually(
            lambda: unhealthy("not what the migrations made: traces_raw lacks the column user_id"), "a look"
        )
        await kafka.send_events([trace(n, user_id="who") for n in range(1, 50)])
        await eventually(lambda: unhealthy("could not insert 49 rows into traces_raw: traces_raw lacks"), "an insert")
        assert await count(clickhouse, "traces_raw") == 1
        await asyncio.to_thread(repair, clickhouse)
        await holds(clickhouse, "traces WHERE user_id = 'who'", 49)
        await eventually(lambda: healthy(health), "health")
    assert await kafka.read(kafka.topics.dlq) == []


async def test_a_view_of_the_users_that_throws_is_told_by_what_helps(
    kafka: Kafka, clickhouse: ClickHouseConfig
) -> None:
    health = Health("archive")

    async def told() -> bool:
        return any(
            "mend or drop the materialized view archive.per_hour" in problem.what
            and problem.do.startswith("set right in ClickHouse what it says")
            for problem in health.problems
        )

    throwing = "CREATE MATERIALIZED VIEW per_hour TO mine AS SELECT throwIf(1) AS x FROM traces_raw"
    for statement in ("CREATE TABLE mine (x UInt8) ENGINE = MergeTree ORDER BY x", throwing):
        await asyncio.to_thread(execute, clickhouse, statement)
    try:
        async with archiving(kafka, clickhouse, health=health):
            await kafka.send_events([trace(0)])
            await eventually(told, "the view")
            await asyncio.to_thread(execute, clickhouse, "DROP TABLE per_hour")
            await holds(clickhouse, "traces", 1)
    finally:
        for table in ("per_hour", "mine"):
            await asyncio.to_thread(execute, clickhouse, f"DROP TABLE IF EXISTS {table}")


async def healthy(health: Health) -> bool:
    return not health.problems


async def test_a_clickhouse_outage_loses_nothing_and_keeps_the_partitions(
    kafka: Kafka, clickhouse: ClickHouseConfig, server: EmbeddedServer
) -> None:
    async with archiving(kafka, clickhouse) as task:
        await kafka.send_events([trace(0)])
        await holds(clickhouse, "traces", 1)
        assert server.pid is not None
        os.kill(server.pid, 9)
        try:
            for n in range(1, 100):
                await kafka.send_events([trace(n)], partition=n % 2)
            assert not task.done()
        finally:
            await asyncio.to_thread(server.start)
        await holds(clickhouse, "traces", 100)


@on_each_broker
async def test_offsets_are_committed_after_the_rows(
    kafka: Kafka, clickhouse: ClickHouseConfig, server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A role that ends with a batch in its hands leaves nothing out; and what is committed is not read again."""
    async with archiving(kafka, clickhouse) as task:
        await kafka.send_events([trace(n) for n in range(100)])
        await holds(clickhouse, "traces", 100)
        assert server.pid is not None
        os.kill(server.pid, 9)
        try:
            await kafka.send_events([trace(n) for n in range(100, 200)])

            async def insert_failed() -> bool:
                return any("Could not insert" in record.getMessage() for record in caplog.records)

            await eventually(insert_failed, "an insert that fails")
            task.cancel()
            await asyncio.wait({task})
        finally:
            await asyncio.to_thread(server.start)
    async with archiving(kafka, clickhouse):
        await holds(clickhouse, "traces", 200)
    raw = await count(clickhouse, "traces_raw")
    async with archiving(kafka, clickhouse):
        await kafka.send_events([trace(200)])
        await holds(clickhouse, "traces", 201)
        assert await count(clickhouse, "traces_raw") == raw + 1


@pytest.mark.parametrize("started", [True, False])
async def test_it_stops_while_clickhouse_is_away(
    kafka: Kafka, clickhouse: ClickHouseConfig, server: EmbeddedServer, started: bool
) -> None:
    stop = asyncio.Event()
    away = clickhouse if started else clickhouse.model_copy(update={"dsn": SecretStr("http://127.0.0.1:9")})
    role = asyncio.create_task(run_archive(kafka.config, away, kafka.topics, FixedPrice(), stop=stop))
    if started:
        await kafka.send_events([trace(0)])
        await holds(clickhouse, "traces", 1)
        assert server.pid is not None
        os.kill(server.pid, 9)
    try:
        for n in range(1, 6):
            await kafka.send_events([trace(n)])
            await asyncio.wait({role}, timeout=0.2)
        stop.set()
        await asyncio.wait_for(role, 10)
    finally:
        await asyncio.to_thread(server.start)


@on_each_broker
async def test_two_members_share_the_work(kafka: Kafka, clickhouse: ClickHouseConfig) -> None:
    async with archiving(kafka, clickhouse):
        for n in range(20):
            await kafka.send_events([trace(n)], partition=n % 2)
        async with archiving(kafka, clickhouse):  # rebalances while rows are on their way
            for n in range(20, 60):
                await kafka.send_events([trace(n)], partition=n % 2)
            await holds(clickhouse, "traces", 60)
        for n in range(60, 80):  # and when one leaves
            await kafka.send_events([trace(n)], partition=n % 2)
        await holds(clickhouse, "traces", 80)


def execute(clickhouse: ClickHouseConfig, sql: str) -> None:
    from driftline.sinks.clickhouse.client import connect

    with connect(clickhouse) as client:
        client.command(sql)


@pytest.mark.parametrize("since", [0, -1, 10**9, 10**16, 2**63])
def test_thousands_of_results_that_no_column_holds_are_letters_and_no_rows(since: int) -> None:
    topics = Topics()
    batch = Batch(topics, FixedPrice(), PoisonWatch(1_000))
    alert = next(result for result in FULL if isinstance(result, Alert))
    records = [
        replace(record(offset, value=encode(msgspec.structs.replace(alert, since=since))), topic=topics.alerts)
        for offset in range(3_000)
    ]
    batch.add(TopicPartition(topics.alerts, 0), records)
    assert (len(batch.letters), batch.rows) == (3_000, {})
    assert "$.since" in batch.letters[0].reason


def test_a_record_of_a_million_bad_elements_is_a_hundred_letters_and_one_that_counts_the_rest() -> None:
    topics = Topics()
    batch = Batch(topics, FixedPrice(), PoisonWatch(1_000))
    value = b"[%b%b]" % (encode_event(trace(1)), b",1" * 1_000_000)
    batch.add(TopicPartition(topics.events, 0), [replace(record(7, value), topic=topics.events)])
    assert len(batch.rows["traces_raw"]) == 1
    assert len(batch.letters) == 101
    assert sum(letter.count for letter in batch.letters) == 1_000_000
    assert batch.events[topics.events] == 1_000_001
    assert len({letter.id for letter in batch.letters}) == 101
    rest = batch.letters[-1]
    assert (rest.index, rest.count, rest.raw) == (101, 999_900, b"[1%b]" % (b",1" * 999_899))
    refused = batch.refused("traces_raw", 0, "too long")
    assert refused is not None
    assert (refused.index, decode(refused.raw, Trace)) == (0, trace(1))


@pytest.mark.parametrize(("key", "size"), [(b"bot", LARGE), (b"bot", 3 * LARGE), (b"k" * LARGE, LARGE)])
def test_a_letter_fits_its_topic_and_says_where_all_of_it_is(key: bytes, size: int) -> None:
    letter = dead_letter(record(7, b"", key=key), Reject(-1, "r" * 10_000, b"x" * size))
    assert len(encode(letter)) + len(letter.key or b"") < 2 * LARGE - 1024
    assert len(letter.reason) < 1_000
    assert letter.reason.endswith("are here") == (len(key) > 1_000)
    if size > LARGE:
        assert f"the first 65536 of {size} bytes" in letter.reason
        assert sha256(b"x" * size).hexdigest() in letter.reason
        assert "events[0]@7" in letter.reason
    else:
        assert len(letter.raw) == size
