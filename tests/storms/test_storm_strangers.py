"""Clients that key, batch, compress and take back as they like, while monitors die, come and go."""

import pytest

from tests.storms.conftest import Pipeline
from tests.storms.foreign import Strangers, come_home, counted

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


async def test_any_client_is_counted_once_through_kills_and_rebalances(pipeline: Pipeline) -> None:
    async with pipeline(seed=61, traces=10) as world:
        first, second, archive = await world.started("monitor", "monitor", "archive")
        async with world.traffic.flowing():
            await world.pause(1, 2)  # no partition begins with what was taken back: that would look cut
            strangers = Strangers(world, seed=61)
            async with strangers.flowing():
                await world.pause(3, 5)
                first.kill()
                await world.pause(3, 5)
                [third] = await world.started("monitor")
                second.kill()
                archive.kill()
                await world.pause(3, 5)
                assert await third.stop() == 0
                await world.pause(3, 5)
        await come_home(world)
        await world.settle()
        await world.stop()
        truth = await world.check()
        assert strangers.taken_back > 50
        assert min(strangers.sent.values()) > 50
        in_no_window = await counted(world, strangers)
        world.report("strangers", truth, strangers=strangers.sent.total(), in_no_window=in_no_window)
