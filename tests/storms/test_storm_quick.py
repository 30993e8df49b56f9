"""One short storm of each family. The long ones are beside this file."""

import pytest

from driftline.sinks.clickhouse.embedded import EmbeddedServer
from tests.storms.conftest import Pipeline
from tests.storms.faults import FaultyProxy
from tests.storms.harness import Node, Services, World

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

SMALL = {"traces": 15, "session_s": 2.0}


async def ends_well(world: World, storm: str) -> None:
    await world.settle()
    await world.stop()
    world.report(storm, await world.check())


async def test_roles_killed(pipeline: Pipeline) -> None:
    async with pipeline(seed=1, **SMALL) as world:
        monitor, archive = await world.started("monitor", "archive")
        async with world.traffic.flowing():
            await world.pause(1, 2)
            monitor.kill()
            archive.kill()
            await world.pause(2, 3)
        await ends_well(world, "quick: roles killed")


async def test_clickhouse_killed_and_failing(pipeline: Pipeline, server: EmbeddedServer) -> None:
    async with FaultyProxy(server.dsn, seed=2) as proxy, pipeline(seed=2, dsn=proxy.dsn, **SMALL) as world:
        await world.started("monitor", "archive")
        async with world.traffic.flowing():
            proxy.faults = ("lost answer", "reset", "refuse", "torn answer")
            await world.pause(2, 3)
            await world.kill_server()
            proxy.faults = ()
            await world.pause(1, 2)
        assert proxy.met
        await ends_well(world, "quick: ClickHouse killed and failing")


async def test_broker_killed(pipeline: Pipeline, node: Node, services: Services) -> None:
    async with pipeline(seed=3, **SMALL) as world:
        await world.started("monitor", "archive")
        async with world.traffic.flowing():
            await world.pause(1, 2)
            await services.do(node.kill)
            await services.do(node.start)
            await world.pause(1, 2)
        await ends_well(world, "quick: broker killed")


async def test_workers_come_and_go(pipeline: Pipeline) -> None:
    async with pipeline(seed=4, **SMALL) as world:
        first, _ = await world.started("monitor", "archive")
        async with world.traffic.flowing():
            await world.started("monitor")
            await world.pause(0, 1)
            assert await first.stop() == 0
            await world.pause(1, 2)
        await ends_well(world, "quick: workers come and go")
