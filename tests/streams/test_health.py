"""What a role says of itself, and to whom."""

import asyncio
import json
import socket
import subprocess
import sys
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from driftline.schemas.clock import ManualClock
from driftline.schemas.errors import ConfigError
from driftline.streams import metrics
from driftline.streams.health import Health, HealthConfig, serve
from tests.hostile import TEXTS, obeyed

ANY = HealthConfig(port=0)
TEN_AM = 1_700_000_000_000_000


async def ask(url: str, path: str) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(url + path) as answer:
        return answer.status, await answer.json()


async def test_a_role_without_problems_is_healthy_and_not_ready_until_it_says_so() -> None:
    health = Health("archive")
    async with serve(health, ANY) as url:
        fine = {"role": "archive", "healthy": True, "ready": False, "problems": [], "notes": []}
        assert await ask(url, "/healthz") == (200, fine)
        assert await ask(url, "/readyz") == (503, fine)
        health.ready = True
        assert await ask(url, "/readyz") == (200, {**fine, "ready": True})


async def test_what_is_wrong_is_told_with_its_beginning_and_what_to_do_until_it_is_right() -> None:
    clock = ManualClock(TEN_AM)
    health = Health("archive", clock)
    health.ready = True
    async with serve(health, ANY) as url:
        health.wrong("clickhouse", "ClickHouse has not answered", "start it")
        clock.advance(60)
        health.wrong("clickhouse", "ClickHouse refuses", "free its disk")
        status, report = await ask(url, "/healthz")
        assert status == 503
        assert report["problems"] == [
            {"what": "ClickHouse refuses", "since": "2023-11-14T22:13:20+00:00", "do": "free its disk"}
        ]
        assert (await ask(url, "/readyz"))[0] == 200, "a role that waits for a neighbour stays ready"
        health.right("clickhouse")
        assert (await ask(url, "/healthz"))[0] == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_names_that_merely_point_here_are_refused_on_this_machine_and_taken_in_a_container(path: str) -> None:
    async def status(url: str, host: str) -> int:
        async with aiohttp.ClientSession() as session, session.get(url + path, headers={"Host": host}) as answer:
            return answer.status

    health = Health("archive")
    health.ready = True
    async with serve(health, ANY) as url:
        assert await status(url, "rebound.example:9464") == 403
        assert await status(url, "localhost:9464") == 200
    async with serve(health, ANY.model_copy(update={"host": "0.0.0.0"})) as url:
        assert await status(url, "archive.driftline.svc:9464") == 200


async def test_what_strangers_wrote_is_text_in_health_and_a_label_in_metrics() -> None:
    health = Health("archive")
    for name, text in TEXTS.items():
        health.wrong(name, text[:5_000], text[:5_000])
        if name != "surrogates":
            metrics.DROPPED.labels("test", text[:5_000]).inc()
    async with serve(health, ANY) as url, aiohttp.ClientSession() as session:
        async with session.get(f"{url}/healthz") as answer:
            assert obeyed((await answer.read()).decode("ascii")) == ""
        async with session.get(f"{url}/metrics") as answer:
            page = await answer.text()
    metrics.DROPPED.clear()
    found = {
        sample.labels["reason"]
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.labels.get("consumer") == "test"
    }
    assert found == {text[:5_000] for name, text in TEXTS.items() if name != "surrogates"}


def test_what_passes_soon_is_not_told() -> None:
    clock = ManualClock(TEN_AM)
    health = Health("archive", clock)
    for _ in range(9):
        health.wrong("clickhouse", "away", "wait", after_s=10)
        clock.advance(1)
    assert health.problems == []
    clock.advance(1)
    assert [problem.since for problem in health.problems] == [TEN_AM]


def test_what_nothing_sets_right_shows_for_an_hour_from_the_last_time() -> None:
    clock = ManualClock(TEN_AM)
    health = Health("archive", clock)
    health.told("garbage", "10 elements", "correct it")
    clock.advance(1_800)
    health.told("garbage", "20 elements", "correct it")
    clock.advance(3_599)
    assert [(problem.what, problem.since) for problem in health.problems] == [("20 elements", TEN_AM)]
    clock.advance(1)
    assert health.problems == []
    health.told("garbage", "10 elements", "correct it")
    assert [problem.since for problem in health.problems] == [TEN_AM + 5_400_000_000]


def test_a_block_is_wrong_while_it_lasts_and_when_it_fails() -> None:
    clock = ManualClock(TEN_AM)
    health = Health("archive", clock)
    with health.until_done("start", "slow", "wait", after_s=1):
        assert health.problems == []
        clock.advance(1)
        assert len(health.problems) == 1
    assert health.problems == []
    with pytest.raises(ValueError, match="no"), health.until_done("start", "slow", "wait", after_s=0):
        raise ValueError("no")
    assert len(health.problems) == 1


def test_the_oldest_problem_comes_first() -> None:
    clock = ManualClock(TEN_AM)
    health = Health("archive", clock)
    for key in ("b", "a"):
        health.wrong(key, key, "wait")
        clock.advance(1)
    assert [problem.what for problem in health.problems] == ["b", "a"]


async def test_metrics_tell_of_health_too() -> None:
    health = Health("judge")
    async with serve(health, ANY) as url, aiohttp.ClientSession() as session:

        async def metrics() -> list[str]:
            async with session.get(url + "/metrics") as answer:
                assert answer.headers["Content-Type"].startswith("text/plain; version=")
                return (await answer.text()).splitlines()

        found = await metrics()
        assert {'driftline_healthy{role="judge"} 1.0', 'driftline_ready{role="judge"} 0.0'} <= set(found)
        assert any(line.startswith("process_cpu_seconds_total") for line in found)
        health.wrong("x", "x", "x")
        assert 'driftline_healthy{role="judge"} 0.0' in await metrics()


async def test_a_port_in_use_is_named_with_its_key() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"health\.port: 127\.0\.0\.1:{port} cannot be listened on"):
            async with serve(Health("judge"), HealthConfig(port=port)):
                pass


FREEZES = """
import asyncio, logging, threading, time
from driftline.streams.health import watchdog
logging.basicConfig()
def stand_still():
    threading.Event().wait()
async def main():
    with watchdog(asyncio.get_running_loop(), "judge", limit_s=0.6):
        await asyncio.sleep(1.2)
        print("turned", flush=True)
        {then}
asyncio.run(main())
"""


def run_frozen(then: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", FREEZES.format(then=then)], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_loop_that_stands_still_ends_the_process_and_says_where() -> None:
    done = run_frozen("stand_still()")
    assert done.stdout == "turned\n", "while the loop turned nothing happened"
    assert done.returncode == 1
    assert "Role judge stands still for 0.6 s" in done.stderr
    assert "in stand_still" in done.stderr


def test_the_watchdog_ends_with_its_block() -> None:
    done = run_frozen("pass")
    assert (done.returncode, done.stderr) == (0, "")


async def test_it_answers_while_the_role_works() -> None:
    health = Health("judge")
    async with serve(health, ANY) as url:
        answers = await asyncio.gather(*(ask(url, "/healthz") for _ in range(20)))
    assert {json.dumps(answer) for answer in answers} == {json.dumps((200, health.report()))}
