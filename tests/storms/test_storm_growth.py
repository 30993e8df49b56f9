"""Partitions are added to a running installation, by `driftline topics apply` and by somebody's kafka-topics."""

import asyncio
import signal
import sys
from typing import Any

import pytest

from driftline.schemas.homes import home
from driftline.streams.operate.reconcile import reconcile
from driftline.streams.operate.tally import Selection
from driftline.streams.supervisor import EXIT_CONFIG
from tests.brokers import eventually
from tests.storms.conftest import Pipeline
from tests.storms.foreign import Strangers, come_home, counted
from tests.storms.harness import PARTITIONS, World
from tests.storms.traffic import APPS

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

GROWN = 8


async def driftline(world: World, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "driftline.streams.cli", *arguments),
        env=world.environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, " ".join(said.decode().split())


async def heard_of(world: World) -> None:
    """The traffic's producer knows of the new partitions."""
    await world.pause(4, 5)
    world.traffic.config = world.kafka.config


def grow(world: World, **changes: Any) -> None:
    world.reconfigure(world.kafka.config.model_copy(update={"partitions": GROWN, "homes": PARTITIONS, **changes}))


async def finish(world: World, strangers: Strangers, storm: str) -> None:
    await come_home(world)
    await world.settle()
    await world.stop()
    world.report(storm, await world.check(), in_no_window=await counted(world, strangers))
    new = [record for record in await world.kafka.read(world.kafka.topics.events) if record.partition >= PARTITIONS]
    assert len(new) > 50, "nobody has used the new partitions"
    assert any(home(app, GROWN) != home(app, PARTITIONS) for app in APPS)


async def test_partitions_are_added_as_documented(pipeline: Pipeline) -> None:
    async with pipeline(seed=51, traces=20) as world:
        strangers = Strangers(world, seed=51)
        running = await world.started("monitor", "monitor", "archive")
        async with world.traffic.flowing(), strangers.flowing():
            await world.pause(4, 5)
            grow(world, homes=None)
            code, said = await driftline(world, "topics", "apply")
            assert (code, f"set kafka.homes = {PARTITIONS}" in said) == (EXIT_CONFIG, True), said
            grow(world)
            code, said = await driftline(world, "topics", "apply")
            assert (code, "start all roles again" in said) == (0, True), said
            for process in running:  # one after the other
                # Those that noticed stopped by themselves, and their supervisor tries again.
                assert await process.stop() in (0, EXIT_CONFIG, -signal.SIGTERM), process.tail
                await world.started(process.role)
            await heard_of(world)
            await world.pause(6, 8)
        await finish(world, strangers, "partitions are added")
        settings = world.settings
        balance = await reconcile(settings, Selection(60), wait_s=30, tell=lambda *_: None)
        assert balance.differences == []


async def test_partitions_added_by_kafka_topics_are_said_and_nothing_is_lost(pipeline: Pipeline) -> None:
    async with pipeline(seed=52, traces=20) as world:
        strangers = Strangers(world, seed=52)
        monitor, second, archive = await world.started("monitor", "monitor", "archive")
        async with world.traffic.flowing(), strangers.flowing():
            await world.pause(4, 5)
            monitor.wanted = second.wanted = False
            await world.kafka.add_partitions(world.kafka.topics.events, GROWN)

            async def both_ended() -> bool:
                return monitor.pid is None and second.pid is None

            await eventually(both_ended, "the monitors end")
            for process in (monitor, second):
                assert process.returncode == EXIT_CONFIG, process.tail
                said = [line for line in process.log.read_text().splitlines() if "cannot take its partitions" in line]
                assert len(said) == 1, process.tail
                assert f"Set kafka.partitions = {GROWN} and kafka.homes = {PARTITIONS}" in said[0]
                assert "Traceback" not in process.log.read_text()
            await world.pause(2, 3)
            assert archive.pid is not None, "it stores what comes"
            assert archive.ended == []
            grow(world)
            code, said_ = await driftline(world, "topics", "apply")
            assert code == 0, said_
            await world.started("monitor", "monitor")
            assert await archive.stop() == 0
            await world.started("archive")
            await heard_of(world)
            await world.pause(3, 4)
        await finish(world, strangers, "kafka-topics --alter")
