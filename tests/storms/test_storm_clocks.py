"""Clocks that are wrong, that jump, and roles that were away: no number may be wrong for it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from driftline.schemas.codec import encode_events
from driftline.schemas.events import EARLIEST_TS, LATEST_TS, MICROSECONDS, Event, Trace
from driftline.sinks.clickhouse.embedded import EmbeddedServer
from tests.brokers import Kafka, eventually
from tests.storms.clocks import (
    DAY,
    HOUR,
    LIVE,
    WINDOWS,
    YEAR,
    LiveTraffic,
    WrongClock,
    finish_live,
    left_out,
    live_monitor,
)
from tests.storms.conftest import Pipeline
from tests.storms.harness import Node, Services, World, kafka_config
from tests.storms.traffic import APPS, START

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@asynccontextmanager
async def live(pipeline: Pipeline, seed: int) -> AsyncIterator[World]:
    async with pipeline(seed=seed, traces=10, traffic=LiveTraffic, monitor=live_monitor(), settings=LIVE) as world:
        yield world


@pytest.mark.parametrize("ahead_s", [HOUR, -HOUR])
async def test_the_clock_of_one_of_two_monitors_is_wrong(pipeline: Pipeline, tmp_path: Path, ahead_s: int) -> None:
    clock = WrongClock(tmp_path, ahead_s)
    async with live(pipeline, 71) as world:
        wrong = world.start("monitor", **clock.environment)
        await world.started("monitor", "archive")
        await world.at_work(wrong)
        async with world.traffic.flowing():
            await world.pause(15, 18)
            clock.set(0)
            await world.pause(12, 15)
        await finish_live(world, f"one of two monitors {ahead_s:+d} s")


async def test_the_clock_of_one_of_two_monitors_jumps(pipeline: Pipeline, tmp_path: Path) -> None:
    clock = WrongClock(tmp_path)
    async with live(pipeline, 72) as world:
        wrong = world.start("monitor", **clock.environment)
        await world.started("monitor", "archive")
        await world.at_work(wrong)
        async with world.traffic.flowing():
            for ahead_s in (HOUR, 0, -HOUR, 30, -30, 3 * YEAR, -20 * YEAR, 0):
                await world.pause(2, 4)
                clock.set(ahead_s)
            await world.pause(8, 10)
        await finish_live(world, "the clock of one of two monitors jumps")


async def test_producers_clocks_are_wrong_and_put_right(pipeline: Pipeline) -> None:
    wrong = {"coder": (HOUR + 60, -HOUR), "tutor": (2 * DAY, -2 * DAY), "writer": (10 * YEAR, -5 * YEAR)}
    async with live(pipeline, 73) as world:
        traffic = world.traffic
        assert isinstance(traffic, LiveTraffic)
        await world.started("monitor", "archive")
        async with traffic.flowing():
            await world.pause(6, 8)
            for direction in (0, 1):
                traffic.ahead_s = {app: both[direction] for app, both in wrong.items()}
                await world.pause(6, 8)
                traffic.ahead_s = {}
                await world.pause(8, 10)
        truth = await finish_live(world, "producers' clocks wrong", wrong=tuple(wrong))
        reasons = left_out(truth)
        assert all(reasons[app, reason] > 0 for app in wrong for reason in ("ahead_of_time", "too_late"))


async def test_events_of_1971_2020_and_2100(pipeline: Pipeline) -> None:
    """From the first record on."""
    times = {"1971": 31_536_000 * MICROSECONDS, "2020": EARLIEST_TS, "2100": LATEST_TS}
    async with live(pipeline, 74) as world:
        for name, ts in times.items():
            await send(world, f"{name}-first", ts)
        await world.started("monitor", "archive")
        async with world.traffic.flowing():
            await world.pause(10, 12)
            for name, ts in times.items():
                await send(world, f"{name}-later", ts)
            await world.pause(6, 8)
        truth = await finish_live(world, "events of 1971, 2020 and 2100", wrong=("coder", "writer"))
        assert sum("is 1971" in row["reason"] for row in truth.letters.values()) == 2 * 2
        found = left_out(truth)
        assert all(found[app, "ahead_of_time"] == 2 for app in ("coder", "writer"))
        assert all(found[app, "too_late"] == 1 for app in ("coder", "writer"))  # nothing is before the first tick


async def send(world: World, trace_id: str, ts: int) -> None:
    for app in ("coder", "writer"):
        events: list[Event] = [Trace(app=app, ts=ts, trace_id=trace_id)]
        await world.kafka.producer.send_and_wait(world.kafka.topics.events, encode_events(events), key=app.encode())


async def test_everything_sleeps(pipeline: Pipeline, node: Node, server: EmbeddedServer) -> None:
    """As on a laptop that is closed: for longer than sessions, and for longer than windows wait."""
    async with live(pipeline, 78) as world:
        await world.started("monitor", "archive", "monitor", "notify")
        for _ in range(2):
            async with world.traffic.flowing():
                await world.pause(5, 6)
            asleep = [process.pid for process in world.processes] + [node.pid, server.pid]
            for pid in filter(None, asleep):
                os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(25)
            for pid in filter(None, reversed(asleep)):
                os.kill(pid, signal.SIGCONT)
        async with world.traffic.flowing():
            await world.pause(5, 6)
        # A role may stop when it finds that it was expelled, and is then started again: what counts is the numbers.
        await finish_live(world, "everything sleeps", may_end=True)


async def test_a_weekend_passes_for_all(
    apache_kafka_home: Path, server: EmbeddedServer, services: Services, tmp_path: Path
) -> None:
    """By every wall clock, while nothing runs but the broker: no event of before or after is late."""
    clock = WrongClock(tmp_path)
    node = Node(apache_kafka_home, tmp_path, clock.environment)
    node.format()
    await services.do(node.start)
    try:
        async with Kafka(kafka_config(node, f"storm-weekend-{os.getpid()}", 4.0)) as kafka:
            of: dict[str, Any] = {"traffic": LiveTraffic, "monitor": live_monitor(), "settings": LIVE}
            world = World(kafka, server, services, tmp_path, seed=79, traces=10, **of)
            traffic = world.traffic
            assert isinstance(traffic, LiveTraffic)
            async with world.supervised():
                roles = [world.start(role, **clock.environment) for role in ("monitor", "archive")]
                for role in roles:
                    await world.at_work(role)
                async with traffic.flowing():
                    await world.pause(6, 7)
                for role in roles:
                    assert await role.stop() == 0
                clock.set(60 * HOUR)
                traffic.ahead_s = dict.fromkeys(APPS, 60 * HOUR)
                await asyncio.sleep(3.5)  # until the broker looks at the file again
                async with traffic.flowing():
                    await world.pause(2, 3)
                    for role in roles:
                        role.start()
                    for role in roles:
                        await world.at_work(role)
                    await world.pause(6, 7)
                await finish_live(world, "a weekend for all")
    finally:
        node.kill()


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
async def test_nothing_uses_local_time(
    node: Node, services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    """Across the hour that New York has twice, in a zone with it and in one half an hour beside all others."""
    monkeypatch.setenv("TZ", zone)
    server = EmbeddedServer(tmp_path / "clickhouse", port=0)
    await services.do(server.start)
    try:
        async with Kafka(kafka_config(node, f"storm-zone-{os.getpid()}-{zone[:4]}", 4.0)) as kafka:
            world = World(kafka, server, services, tmp_path, seed=75)
            world.traffic.start = 1_793_510_100 * MICROSECONDS  # 2026-11-01 05:15 UTC, 01:15 EDT; EST is at 06:00
            async with world.supervised():
                await world.started("monitor", "archive")
                async with world.traffic.flowing():
                    for _ in range(6):
                        await world.pause(2, 4)
                        world.traffic.jump(15 * 60)
                await world.finish(f"TZ={zone}")
                assert (await world.command("reconcile"))["equal"]
                assert (await world.command("replay"))["equal"]
    finally:
        await services.do(server.stop)


async def test_the_monitor_was_away(pipeline: Pipeline) -> None:
    """For a second, a weekend and a month, while events came at the beginning and at the end of that."""
    async with pipeline(seed=76) as world:
        monitor, _ = await world.started("monitor", "archive")
        traffic = world.traffic
        await traffic.steps(40)
        for away_s in (1, 2 * DAY + 12 * HOUR, 30 * DAY):
            assert await monitor.stop() == 0
            await traffic.steps(3)
            traffic.jump(away_s)
            await traffic.steps(3)
            monitor.start()
            await world.at_work(monitor)
            await traffic.steps(8)
        truth = await world.finish("the monitor was away")
        assert max(row["start"] for row in truth.results["windows"].values()) > START + 30 * DAY * MICROSECONDS
        assert (await world.command("reconcile"))["equal"]
        assert (await world.command("replay"))["equal"]


async def test_the_brokers_clock_was_a_year_ahead(
    apache_kafka_home: Path, server: EmbeddedServer, services: Services, tmp_path: Path
) -> None:
    """From the first tick on. Put right, nothing counts for a year, and health says so; the way out is a reset."""
    clock = WrongClock(tmp_path, YEAR)
    node = Node(apache_kafka_home, tmp_path, clock.environment)
    node.format()
    await services.do(node.start)
    try:
        async with Kafka(kafka_config(node, f"storm-broker-{os.getpid()}", 4.0)) as kafka:
            of: dict[str, Any] = {"traffic": LiveTraffic, "monitor": live_monitor(), "settings": LIVE}
            world = World(kafka, server, services, tmp_path, seed=77, traces=10, **of)
            async with world.supervised():
                monitor, _ = await world.started("monitor", "archive")

                async def told() -> bool:
                    return "ahead of the clock here" in await monitor.problems()

                async with world.traffic.flowing():
                    await world.pause(4, 5)
                    clock.set(0)
                    await eventually(told, "health says so", timeout_s=90)
                    assert await monitor.stop() == 0
                    await world.run("state", "reset", "--role", "monitor", "--at-end", "--yes")
                    begins = world.traffic.now
                    monitor.start()
                    await world.at_work(monitor)
                    await world.pause(15, 18)
                await world.traffic.end()
                assert await monitor.problems() == ""
                assert await monitor.stop() == 0
                await world.settle()
                await world.stop()
                counted = await requests_by_window(world, "windows", "start", "sum(requests)")
                stored = await requests_by_window(world, "traces", "ts", "count()")
                assert {start for start in stored if start > begins // MICROSECONDS} >= counted.keys()
                assert len(counted) >= 2
                assert all(stored[start] == requests for start, requests in counted.items())
    finally:
        node.kill()


async def requests_by_window(world: World, view: str, time: str, requests: str) -> dict[int, int]:
    """By the window's start, Unix time."""
    start = f"toUnixTimestamp(toStartOfInterval({time}, INTERVAL {WINDOWS.size_s} SECOND))"
    rows = await world.store.query(f"SELECT {start} AS s, {requests} AS n FROM {view} GROUP BY s")
    return {row["s"]: row["n"] for row in rows}
