"""ClickHouse is away, freezes, fails, and refuses."""

import asyncio
import os
import signal
from typing import Any

import msgspec
import pytest

from driftline.schemas.codec import decode
from driftline.schemas.events import Trace
from driftline.schemas.results import DeadLetter
from driftline.sinks.clickhouse.embedded import EmbeddedServer
from tests.storms.conftest import Pipeline
from tests.storms.faults import FAULTS, Fault, FaultyProxy
from tests.storms.harness import World
from tests.storms.truth import Row, Rows, key_of

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

IMPATIENT = {"DRIFTLINE_CLICKHOUSE__TIMEOUT_S": "3", "DRIFTLINE_CLICKHOUSE__CONNECT_TIMEOUT_S": "2"}


async def test_clickhouse_is_down_for_a_while(pipeline: Pipeline) -> None:
    async with pipeline(seed=41) as world:
        await world.started("monitor", "archive")
        async with world.traffic.flowing():
            await world.pause(3, 5)
            await world.kill_server(down_s=30)
            await world.pause(4, 6)
        await world.finish("ClickHouse down for 30 s")


async def test_clickhouse_freezes(pipeline: Pipeline, server: EmbeddedServer) -> None:
    """It accepts connections, as the kernel does for it, and never answers."""
    async with pipeline(seed=42, settings=IMPATIENT) as world:
        await world.started("monitor", "archive")
        assert server.pid is not None
        async with world.traffic.flowing():
            await world.pause(3, 5)
            os.kill(server.pid, signal.SIGSTOP)
            await asyncio.sleep(20)
            os.kill(server.pid, signal.SIGCONT)
            await world.pause(4, 6)
        await world.finish("ClickHouse frozen for 20 s")


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_kind_of_fault(pipeline: Pipeline, server: EmbeddedServer, fault: Fault) -> None:
    """Most requests fail for a while, in one way; then in a new process that has to begin with it; then no more."""
    async with (
        FaultyProxy(server.dsn, seed=43) as proxy,
        pipeline(seed=43, dsn=proxy.dsn, settings=IMPATIENT) as world,
    ):
        _, archive = await world.started("monitor", "archive")
        async with world.traffic.flowing():
            await world.pause(2, 4)
            proxy.faults, proxy.share = (fault,), 0.7
            await world.pause(8, 10)
            archive.kill()
            await world.pause(8, 10)
            proxy.faults = ()
            await world.pause(2, 4)
        assert proxy.met[fault] >= 5, proxy.met
        await world.finish(f"ClickHouse: {fault}", met=dict(proxy.met))


async def test_all_kinds_of_faults_at_once(pipeline: Pipeline, server: EmbeddedServer) -> None:
    async with (
        FaultyProxy(server.dsn, seed=44) as proxy,
        pipeline(seed=44, dsn=proxy.dsn, settings=IMPATIENT) as world,
    ):
        await world.started("monitor", "archive", "archive")
        async with world.traffic.flowing():
            await world.pause(2, 4)
            proxy.faults, proxy.share = FAULTS, 0.5
            await world.pause(50, 60)
            proxy.faults = ()
            await world.pause(2, 4)
        assert all(proxy.met[fault] for fault in FAULTS), proxy.met
        await world.finish("ClickHouse: every fault", met=dict(proxy.met))


@pytest.mark.parametrize(
    ("change", "refused", "words"),
    [
        pytest.param(
            "ADD CONSTRAINT no_long_answers CHECK ifNull(output_tokens, 0) < 895",
            lambda row: (row["output_tokens"] or 0) >= 895,
            ("Constraint `no_long_answers`", "VIOLATED_CONSTRAINT"),
            id="constraint",
        ),
        pytest.param(
            "ADD CONSTRAINT known_errors CHECK error_type != 'timeout'",
            lambda row: row["error_type"] == "timeout",
            ("Constraint `known_errors`", "VIOLATED_CONSTRAINT"),
            id="kind",
        ),
    ],
)
async def test_rows_that_clickhouse_never_takes(
    pipeline: Pipeline, change: str, refused: Any, words: tuple[str, ...]
) -> None:
    """Exactly they become dead letters, in ClickHouse's own words, while the archive is killed now and then."""
    async with pipeline(seed=45, traces=20) as world:
        _, archive = await world.started("monitor", "archive")
        await world.store.query(f"ALTER TABLE traces_raw {change}")
        async with world.traffic.flowing():
            for _ in range(2):
                await world.pause(8, 10)
                archive.kill()
            await world.pause(8, 10)
        await world.settle()
        await world.stop()
        truth = await world.truth()
        letters = await refusals(world, truth.refuse(refused), words)
        truth.letters.update(letters)
        await world.check(truth)
        world.report(f"rows refused: {change}", truth, refused=len(letters))
        assert len(letters) >= 20


async def refusals(world: World, expected: dict[Any, Trace], words: tuple[str, ...]) -> Rows:
    """The letters of those rows, each checked, as the view must show them."""
    rows: Rows = {}
    for record in await world.kafka.read(world.kafka.topics.dlq):
        letter = decode(record.value, DeadLetter)
        event = expected.get((letter.topic, letter.partition, letter.offset, letter.index))
        if event is None:
            continue
        assert decode(letter.raw, Trace) == event
        assert all(word in letter.reason for word in ("DB::Exception", *words)), letter.reason
        rows.update(as_row(letter))
    assert len(rows) == len(expected)
    return rows


def as_row(letter: DeadLetter) -> Rows:
    row: Row = {
        name: value
        for name, value in msgspec.to_builtins(letter).items()
        if name not in ("id", "type", "role", "until")
    }
    return {key_of("dead_letters", row): row}
