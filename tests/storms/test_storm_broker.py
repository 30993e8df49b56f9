"""The broker goes away, freezes, and is killed."""

import asyncio
import os
import signal

import pytest

from tests.storms.conftest import Pipeline
from tests.storms.harness import Node, Services

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

AWAY_S = 20.0
STOPS_WITHIN_S = 15.0  # the time that a container gets is twice that, and a busy machine is slow


async def test_a_broker_that_is_stopped_for_a_while(pipeline: Pipeline, node: Node, services: Services) -> None:
    async with pipeline(seed=21) as world:
        await world.started("monitor", "archive")
        async with world.traffic.flowing():
            await world.pause(4, 6)
            await services.do(node.terminate)
            await asyncio.sleep(AWAY_S)
            await services.do(node.start)
            await world.pause(10, 12)
        await world.finish("broker stopped for 20 s", may_end=True)


async def test_a_broker_that_freezes(pipeline: Pipeline, node: Node) -> None:
    async with pipeline(seed=22) as world:
        await world.started("monitor", "archive")
        async with world.traffic.flowing():
            for _ in range(2):
                await world.pause(4, 6)
                os.kill(node.pid, signal.SIGSTOP)
                await asyncio.sleep(AWAY_S)
                os.kill(node.pid, signal.SIGCONT)
            await world.pause(10, 12)
        await world.finish("broker frozen for 20 s, twice", may_end=True)


async def test_a_broker_killed_again_and_again(pipeline: Pipeline, node: Node, services: Services) -> None:
    async with pipeline(seed=23) as world:
        await world.started("monitor", "archive")
        async with world.traffic.flowing():
            for _ in range(4):
                await world.pause(4, 9)
                await services.do(node.kill)
                await services.do(node.start)
            await world.pause(6, 8)
        await world.finish("broker kill -9 four times", may_end=True)


async def test_roles_stop_though_the_broker_is_frozen(pipeline: Pipeline, node: Node) -> None:
    """Nobody answers their goodbyes: they end all the same, and what they held is read again."""
    async with pipeline(seed=24) as world:
        processes = await world.started("monitor", "archive", "notify")
        async with world.traffic.flowing():
            await world.pause(4, 6)
            os.kill(node.pid, signal.SIGSTOP)
            await world.pause(0, 2)
            try:
                codes = [await process.stop(STOPS_WITHIN_S) for process in processes]
            finally:
                os.kill(node.pid, signal.SIGCONT)
            assert codes == [0, 0, 0]
            for process in processes:
                process.start()
            await world.pause(8, 10)
        await world.finish("SIGTERM while the broker is frozen")
