"""The commands as scripts see them: exit codes, JSON, and one line where something is down."""

import asyncio
import json

import pytest
from click.testing import CliRunner, Result

from driftline.schemas.codec import encode
from driftline.schemas.ids import stable_id
from driftline.schemas.results import DeadLetter
from driftline.streams.cli import main
from driftline.streams.settings import Settings
from tests.streams.operate.conftest import Pipeline, trace

GOOD = b'{"type":"trace","app":"bot","ts":1793606400000000,"trace_id":"repaired"}'


def environment(settings: Settings) -> dict[str, str]:
    kafka, clickhouse = settings.kafka, settings.clickhouse
    return {
        "DRIFTLINE_KAFKA__BROKERS": kafka.brokers,
        "DRIFTLINE_KAFKA__PREFIX": kafka.prefix,
        "DRIFTLINE_KAFKA__PARTITIONS": str(kafka.partitions),
        "DRIFTLINE_CLICKHOUSE__DSN": clickhouse.dsn.get_secret_value(),
        "DRIFTLINE_CLICKHOUSE__DATABASE": clickhouse.database,
    }


async def run(pipeline: Pipeline, *arguments: str, more: dict[str, str] | None = None) -> Result:
    await pipeline.flush()
    env = environment(pipeline.settings) | (more or {})
    return await asyncio.to_thread(CliRunner().invoke, main, list(arguments), env=env)


async def test_reconcile_tells_scripts_whether_all_is_there(pipeline: Pipeline) -> None:
    await pipeline.tick(0)
    await pipeline.send([trace(1, 1)])
    await pipeline.tick(90)
    await pipeline.monitor()
    result = await run(pipeline, "reconcile", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["equal"] is True
    await asyncio.to_thread(pipeline.command, "TRUNCATE TABLE traces_raw")
    result = await run(pipeline, "reconcile")
    assert result.exit_code == 1
    assert "1 difference\n" in result.stdout


async def test_dead_letters_are_listed_shown_and_sent_again_once(pipeline: Pipeline) -> None:
    topics = pipeline.kafka.topics
    for number, raw in ((1, GOOD), (2, b"{oops")):
        letter = DeadLetter(
            id=stable_id(number), topic=topics.events, partition=pipeline.home("bot"), offset=number, index=-1,
            reason="not JSON", raw=raw, key=b"bot",
        )  # fmt: skip
        await pipeline.kafka.send(topics.dlq, encode(letter), key=b"bot")
    listed = json.loads((await run(pipeline, "dlq", "ls", "--json")).stdout)
    assert {item["id"] for item in listed} == {stable_id(1), stable_id(2)}
    assert "nothing is wrong with it any more" in (await run(pipeline, "dlq", "show", stable_id(1))).stdout
    assert (await run(pipeline, "dlq", "show", stable_id(1)[:10], "--raw")).stdout_bytes == GOOD
    for outcome in ("sent", "sent before"):
        result = await run(pipeline, "dlq", "requeue", "--all", "--json")
        assert result.exit_code == 1
        outcomes = {item["id"]: item["outcome"] for item in json.loads(result.stdout)}
        assert outcomes == {stable_id(1): outcome, stable_id(2): "still wrong"}
    await pipeline.stored("traces", 1)
    assert len(await pipeline.kafka.read(topics.events)) == 1


async def test_replay_tells_scripts_whether_both_runs_are_equal(pipeline: Pipeline) -> None:
    await pipeline.tick(0)
    await pipeline.send([trace(1, 1)])
    await pipeline.tick(90)
    await pipeline.monitor()
    result = await run(pipeline, "replay", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["comparisons"][0]["equal"] == 1
    await asyncio.to_thread(pipeline.command, "TRUNCATE TABLE windows_raw")
    assert (await run(pipeline, "replay")).exit_code == 1


@pytest.mark.parametrize(
    "arguments",
    [["state", "reset", "--role", "judge"], ["dlq", "ls"], ["dlq", "show", "x"], ["dlq", "requeue", "--all"]],
    ids=" ".join,
)
def test_a_kafka_that_is_down_is_one_line(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments, env={"DRIFTLINE_KAFKA__BROKERS": "127.0.0.1:1"})
    assert result.exit_code == 1
    assert "driftline: Kafka at 127.0.0.1:1 does not answer" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("source", ["kafka", "clickhouse"])
def test_a_clickhouse_that_is_down_is_one_line(source: str) -> None:
    result = CliRunner().invoke(
        main, ["replay", "--source", source], env={"DRIFTLINE_CLICKHOUSE__DSN": "http://127.0.0.1:1"}
    )
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("driftline: ")
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["reconcile", "--from", "yesterday"],
        ["reconcile", "--from", "now", "--to", "-1h"],
        ["dlq", "requeue"],
        ["dlq", "requeue", "abc", "--all"],
        ["dlq", "requeue", "--all", "--edit", "-"],
        ["replay", "--source", "memory"],
    ],
    ids=" ".join,
)
def test_misuse_is_told_apart_from_a_difference(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, arguments).exit_code == 2
