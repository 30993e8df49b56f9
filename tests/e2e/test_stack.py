"""What users do with a running stack: bad input, a canary of real answers, queries, Ctrl-C."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from driftline.producers import ProducerConfig, SignalListener, Tracer
from driftline.schemas.codec import decode
from driftline.schemas.events import MICROSECONDS, Event, Score
from driftline.schemas.results import Progress, RollbackSignal
from driftline.streams.roles import ROLES
from driftline.streams.running import find
from tests.brokers import Kafka, eventually
from tests.e2e.stack import RunningStack
from tests.real_answers import needs_answers, single_pass

START = 1_793_606_400 * MICROSECONDS


async def query(stack: RunningStack, sql: str) -> list[dict[str, Any]]:
    """Over ClickHouse's HTTP interface, as any client would."""
    url = stack.clickhouse.dsn.get_secret_value()
    params = {"query": f"{sql} FORMAT JSONEachRow", "database": "driftline"}
    async with aiohttp.ClientSession() as session, session.get(url, params=params) as response:
        text = await response.text()
        assert response.status == 200, text
    return [json.loads(line) for line in text.splitlines()]


def trace(number: int, **fields: Any) -> dict[str, Any]:
    return {"type": "trace", "app": "messy", "ts": START + number, "trace_id": f"messy-{number}", **fields}


async def test_every_role_tells_of_its_health(stack: RunningStack) -> None:
    said = " ".join(stack.log.read_text().split())  # it breaks lines
    addresses = dict(re.findall(r"(\w+) (http://[\d.:]+)", said.partition("metrics: ")[2]))
    assert addresses.keys() == ROLES.keys()
    for role, url in addresses.items():
        async with aiohttp.ClientSession(url) as session:
            async with session.get("/readyz") as answer:
                assert answer.status == 200
            async with session.get("/healthz") as answer:
                assert await answer.json() == {
                    "role": role,
                    "healthy": True,
                    "ready": True,
                    "problems": [],
                    "notes": [],
                }
                assert answer.status == 200
            async with session.get("/metrics") as answer:
                assert f'driftline_ready{{role="{role}"}} 1.0' in await answer.text()


def test_the_password_is_in_no_log_and_on_no_command_line(stack: RunningStack) -> None:
    folder = Path(stack.environment["DRIFTLINE_STACK__STATE_DIR"])
    secret = (folder / "clickhouse" / "password").read_text().strip()
    assert len(secret) > 30
    running = find(folder)
    assert running is not None
    said = [stack.log, *(folder / "logs").iterdir(), *(Path(f"/proc/{pid}/cmdline") for pid in running.pids.values())]
    assert len(said) > len(ROLES) * 2
    assert [path for path in said if secret.encode() in path.read_bytes()] == []
    kept = [folder, folder / "stack.json", folder / "logs", folder / "clickhouse", folder / "clickhouse" / "password"]
    assert [path for path in kept if path.stat().st_mode & 0o077] == []


async def test_bad_input_is_dead_lettered_with_its_reason_and_good_neighbours_are_kept(
    stack: RunningStack, events: Kafka
) -> None:
    missing = {"type": "trace", "ts": START, "trace_id": "no-app"}
    old = trace(1, ts=3)
    nan = {"type": "score", "app": "messy", "ts": START, "id": "s", "trace_id": "messy-0", "name": "q", "value": 0}
    records = [
        b"\x00\xff garbage",
        json.dumps([trace(10), {"type": "trace"}, trace(11)]).encode(),
        json.dumps(trace(12, from_the_future={"a": 1})).encode(),
        json.dumps(missing).encode(),
        json.dumps(trace(13, input_text="x" * 5_000_000)).encode(),
        json.dumps([trace(14), nan | {"value": float("nan")}]).encode(),
        json.dumps([old, trace(15)]).encode(),
        json.dumps(trace(16)).encode(),
    ]
    for record in records:
        await events.send(events.topics.events, record, key=b"messy", partition=1)

    async def stored() -> list[dict[str, Any]]:
        rows = await query(
            stack, "SELECT trace_id, length(input_text) AS n FROM traces WHERE app = 'messy' ORDER BY ts"
        )
        return rows if len(rows) == 7 else []

    rows = await eventually(stored, "seven good traces in ClickHouse")
    assert [row["trace_id"] for row in rows] == [f"messy-{n}" for n in range(10, 17)]
    assert int(rows[3]["n"]) == 5_000_000

    async def dead() -> list[dict[str, Any]]:
        rows = await query(stack, "SELECT reason, `offset`, `index` FROM dead_letters ORDER BY `offset`")
        return rows if len(rows) == 5 else []

    letters = await eventually(dead, "five dead letters in ClickHouse")
    reasons = [letter["reason"] for letter in letters]
    for reason, words in zip(reasons, ["not JSON", "missing", "`app`", "NaN", "1970"], strict=True):
        assert words in reason
    assert [int(letter["index"]) for letter in letters] == [-1, 1, -1, 1, 0]
    assert len(await events.read(events.topics.dlq)) == 5

    await events.tick(START + 70 * MICROSECONDS)

    async def counted() -> list[dict[str, Any]]:
        return await query(stack, "SELECT requests FROM windows WHERE app = 'messy'")

    assert [int(row["requests"]) for row in await eventually(counted, "the window of the good traces")] == [7]


@needs_answers
async def test_a_worse_model_is_called_back_and_the_same_model_is_not(stack: RunningStack, events: Kafka) -> None:
    start = START + 3_600 * MICROSECONDS
    bad = single_pass("worse", start, "gpt-3.5-turbo-1106", "falcon-7b-instruct", 0.5, "e2e")
    same = single_pass("equal", start, "vicuna-13b-v1.5", "vicuna-13b-v1.5-togetherai", 0.5, "e2e")
    signals: list[RollbackSignal] = []
    listener = SignalListener(ProducerConfig(app="worse", brokers=stack.kafka.brokers), on_rollback=signals.append)
    listener.start()
    try:
        for app, traffic in (("worse", bad), ("equal", same)):
            tracer = Tracer(app=app, brokers=stack.kafka.brokers)
            tracer.emit_many(traffic)
            assert await tracer.aflush(30)
            assert tracer.stats().sent == len(traffic)
            await tracer.aclose()
        end = bad[-1].ts + 120 * MICROSECONDS
        await events.tick(end)
        await eventually(lambda: reached(events, end), "the monitor at the end of the traffic", timeout_s=60)
        found = [decode(record.value, RollbackSignal) for record in await events.read(events.topics.rollbacks)]
        assert [(signal.app, signal.release) for signal in found] == [("worse", "v2")]

        async def heard() -> list[RollbackSignal]:
            return signals

        assert await eventually(heard, "the listener's signal") == found
    finally:
        listener.stop()
    await eventually(lambda: all_stored(stack, [*bad, *same]), "all scores in ClickHouse")


async def reached(kafka: Kafka, ts: int) -> bool:
    records = await kafka.read(kafka.topics.progress)
    progress = [decode(record.value, Progress) for record in records]
    arrived = {p.partition for p in progress if p.role == "monitor" and (p.watermark or 0) >= ts}
    return len(arrived) == kafka.config.partitions


async def all_stored(stack: RunningStack, events: Sequence[Event]) -> bool:
    [row] = await query(stack, "SELECT count() AS n FROM scores WHERE name = 'preference'")
    return int(row["n"]) == sum(isinstance(event, Score) for event in events)


async def test_the_command_queries_a_running_stack(stack: RunningStack) -> None:
    environment = stack.environment | {"DRIFTLINE_CLICKHOUSE__DSN": stack.clickhouse.dsn.get_secret_value()}
    command = [sys.executable, "-m", "driftline.streams.cli", "query", "--format", "json"]
    process = await asyncio.create_subprocess_exec(
        *command, "SELECT 1 AS one, 'a,b' AS two", env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err
    assert json.loads(out) == {"one": 1, "two": "a,b"}


async def test_a_second_stack_on_the_same_port_says_so_in_one_line(stack: RunningStack, tmp_path: Path) -> None:
    environment = stack.environment | {"DRIFTLINE_STACK__STATE_DIR": str(tmp_path)}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "driftline.streams.cli", "up"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    message = [line for line in done.stderr.splitlines() if line.startswith("driftline:")]
    assert len(message) == 1
    assert environment["DRIFTLINE_STACK__KAFKA_PORT"] in message[0]
    assert "Traceback" not in done.stderr


def _descendants(pid: int) -> list[int]:
    out = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in out.splitlines()]
    found = [pid]
    for parent in found:
        found += [child for child, its in parents if its == parent]
    return found[1:]


def test_ctrl_c_leaves_nothing_behind(stack: RunningStack) -> None:
    """The last: the stack is gone."""
    children = _descendants(stack.process.pid)
    assert len(children) >= 7
    os.kill(stack.process.pid, signal.SIGINT)
    assert stack.process.wait(timeout=30) == 0
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
