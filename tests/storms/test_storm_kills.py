"""Processes that die or are stopped at any moment."""

import pytest

from tests.storms.conftest import Pipeline

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

KILLS = 5


@pytest.mark.parametrize("role", ["monitor", "archive"])
async def test_a_role_killed_again_and_again(pipeline: Pipeline, role: str) -> None:
    async with pipeline(seed=11) as world:
        processes = await world.started("monitor", "archive")
        victim = next(process for process in processes if process.role == role)
        async with world.traffic.flowing():
            for _ in range(KILLS):
                await world.pause(4, 10)
                victim.kill()
            await world.pause(4, 6)
        await world.finish(f"kill -9 of the {role}")
        assert victim.killed == KILLS


async def test_clickhouse_killed_again_and_again(pipeline: Pipeline) -> None:
    async with pipeline(seed=12) as world:
        await world.started("monitor", "archive")
        async with world.traffic.flowing():
            for _ in range(KILLS):
                await world.pause(2, 7)
                await world.kill_server(down_s=world.random.uniform(0, 2))
            await world.pause(2, 4)
        await world.finish("kill -9 of ClickHouse")


async def test_everything_killed_at_random(pipeline: Pipeline) -> None:
    async with pipeline(seed=13) as world:
        await world.started("monitor", "archive", "monitor", "archive")
        kills = 0
        async with world.traffic.flowing():
            for _ in range(15):
                await world.pause(1, 5)
                if world.random.random() < 0.25:
                    await world.kill_server()
                    kills += 1
                else:
                    world.random.choice(world.processes).kill()
            await world.pause(2, 4)
        await world.finish("kill -9 of anything", clickhouse_killed=kills)


async def test_stopped_in_the_middle_of_batches(pipeline: Pipeline) -> None:
    async with pipeline(seed=14) as world:
        processes = await world.started("monitor", "archive")
        codes = []
        async with world.traffic.flowing():
            for _ in range(KILLS):
                for process in processes:
                    await world.pause(1, 3)
                    codes.append(await process.stop())
                    process.start()
                    await world.at_work(process)
        assert codes == [0] * len(codes)
        await world.finish("SIGTERM of both roles", stops=len(codes))
