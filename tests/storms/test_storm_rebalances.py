"""Workers that come and go, and workers that were thought dead."""

import asyncio

import pytest

from tests.storms.conftest import Pipeline
from tests.storms.harness import SESSION_S

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@pytest.mark.parametrize("role", ["monitor", "archive"])
async def test_workers_come_and_go(pipeline: Pipeline, role: str) -> None:
    """One, three, two, one; of those that leave one is stopped and one dies."""
    async with pipeline(seed=31) as world:
        await world.started("monitor", "archive")
        async with world.traffic.flowing():
            await world.pause(3, 5)
            second, third = await world.started(role, role)
            await world.pause(4, 7)
            first = next(process for process in world.processes if process.role == role)
            assert await first.stop() == 0
            await world.pause(4, 7)
            third.end()
            await world.pause(SESSION_S + 3, SESSION_S + 5)
            assert second.pid is not None
        await world.finish(f"1, 3, 2, 1 workers of the {role}")


@pytest.mark.parametrize("role", ["monitor", "archive"])
async def test_a_frozen_worker_comes_back_beside_a_live_one(pipeline: Pipeline, role: str) -> None:
    async with pipeline(seed=32) as world:
        await world.started("monitor", "archive", role)
        zombie = next(process for process in world.processes if process.role == role)
        async with world.traffic.flowing():
            for _ in range(2):
                await world.pause(3, 6)
                zombie.freeze()
                await asyncio.sleep(SESSION_S + 15)
                zombie.thaw()
            await world.pause(5, 7)
        # It may stop when it finds that it was expelled, and is then started again: what it wrote is what counts.
        await world.finish(f"frozen {role} beside a live one, twice", may_end=True)
