"""From stored traffic to a baseline in force, through the commands."""

import asyncio
import json
from datetime import timedelta
from typing import Any

from driftline.schemas.clock import utc
from driftline.schemas.codec import decode
from driftline.schemas.events import MICROSECONDS
from driftline.schemas.results import Baseline
from tests.streams.operate.conftest import START, Pipeline, score, trace
from tests.streams.operate.test_commands import run

SECONDS = 40
PER_SECOND = 12


def moment(second: float) -> str:
    return (utc(START) + timedelta(seconds=second)).isoformat()


async def traffic(pipeline: Pipeline, begin: int, seconds: int, *, status: str = "ok") -> None:
    for second in range(begin, begin + seconds):
        events = [
            trace(
                second * 100 + i,
                second + i / 20,
                conversation_id=f"c{second}-{i}",
                response_model="gpt-4o",
                prompt_version="3",
                status=status,
                error_type="503" if status == "error" else "",
            )
            for i in range(PER_SECOND)
        ]
        scores = [score(second, second, judge_model="judge", rubric_version="2", conversation_id=f"c{second}-0")]
        await pipeline.send([*events, *scores])
        await pipeline.tick(second + 1)
    await pipeline.monitor()


async def fit(pipeline: Pipeline, *arguments: str) -> dict[str, Any]:
    result = await run(pipeline, "baseline", "fit", "--app", "bot", "--wait", "0", "--json", *arguments)
    assert result.exit_code in (0, 1), result.output
    return {"exit": result.exit_code, **json.loads(result.stdout)}


async def published(pipeline: Pipeline) -> list[Baseline]:
    records = await pipeline.kafka.read(pipeline.kafka.topics.baselines)
    return [decode(record.value, Baseline) for record in records]


async def test_a_fitted_baseline_comes_into_force_and_is_what_alarms_are_held_against(pipeline: Pipeline) -> None:
    await traffic(pipeline, 0, SECONDS)
    await pipeline.stored("traces", SECONDS * PER_SECOND)
    await pipeline.stored("scores", SECONDS)
    [learned] = [b for b in await published(pipeline) if b.detector == "error_rate"]

    first_units = ("--from", str(utc(learned.from_ts).isoformat()), "--to", str(utc(learned.to_ts).isoformat()))
    same = await fit(pipeline, *first_units, "--detector", "error_rate", "--dry-run")
    assert (same["exit"], same["published"]) == (0, False)
    assert same["attempts"][0]["baseline"]["id"] == learned.id  # there is one way from traffic to baselines

    whole = await fit(pipeline, "--from", moment(0), "--to", moment(SECONDS))
    outcomes = {a["detector"]: a for a in whole["attempts"]}
    assert whole["published"]
    fitted = outcomes["error_rate"]["baseline"]
    assert (fitted["n"], fitted["models"], fitted["prompt_versions"]) == (SECONDS * PER_SECOND, ["gpt-4o"], ["3"])
    assert fitted["judges"] == ["judge 2"]
    lacking = outcomes["latency_p99"]
    assert (lacking["outcome"], lacking["have"], lacking["need"]) == ("insufficient_reference", 480, 2000)
    assert "embeddings holds nothing" in whole["notes"][0]

    await traffic(pipeline, SECONDS, 20, status="error")
    await pipeline.stored("alerts", 1)
    shown = json.loads((await run(pipeline, "baseline", "list", "--json")).stdout)
    [mine] = [b for b in shown if b["detector"] == "error_rate"]
    assert (mine["id"], mine["source"], mine["state"]) == (fitted["id"], "fitted", "active")
    every = json.loads((await run(pipeline, "baseline", "list", "--all", "--json")).stdout)
    assert {learned.id, fitted["id"]} <= {b["id"] for b in every}
    held_against = await asyncio.to_thread(
        pipeline.command,
        "SELECT any(e.baseline_id) FROM alerts AS a JOIN evidence AS e ON e.id = a.evidence_id "
        "WHERE a.rule = 'error_rate'",
    )
    assert held_against == fitted["id"]

    await pipeline.tick(70)
    await pipeline.monitor()
    await pipeline.stored("windows", 1)
    for source in ("kafka", "clickhouse"):  # what was fitted by hand is part of what is replayed
        replayed = await run(pipeline, "replay", "--source", source)
        assert replayed.exit_code == 0, replayed.output
    assert (await run(pipeline, "reconcile")).exit_code == 0

    for id_, source in ((fitted["id"], "fitted"), (learned.id, "learned")):
        one = await run(pipeline, "baseline", "show", id_[:8])
        assert one.exit_code == 0, one.output
        assert source in one.stdout
        assert "gpt-4o" in one.stdout
    assert (await run(pipeline, "baseline", "show", "zzz")).exit_code == 1

    healthy = await fit(pipeline, "--last-healthy", "30s", "--detector", "error_rate", "--dry-run")
    assert healthy["exit"] == 0
    assert START + (SECONDS - 2) * MICROSECONDS < healthy["to"] <= START + SECONDS * MICROSECONDS


async def test_a_cold_start_says_what_is_missing(pipeline: Pipeline) -> None:
    await traffic(pipeline, 0, 3)
    await pipeline.stored("traces", 3 * PER_SECOND)
    found = await fit(pipeline, "--from", moment(0), "--to", moment(3), "--detector", "error_rate")
    [attempt] = found["attempts"]
    assert (found["exit"], attempt["outcome"]) == (1, "insufficient_reference")
    assert (attempt["have"], attempt["need"]) == (3 * PER_SECOND, 200)
    result = await run(pipeline, "baseline", "fit", "--app", "bot", "--from", moment(0), "--to", moment(3))
    assert result.exit_code == 1
    assert "insufficient_reference" in result.stdout
    assert not await published(pipeline)


async def test_a_refused_baseline_is_listed_with_the_reason(pipeline: Pipeline) -> None:
    await traffic(pipeline, 0, SECONDS)
    await pipeline.stored("traces", SECONDS * PER_SECOND)
    arguments = ("--app", "bot", "--from", moment(0), "--to", moment(SECONDS), "--detector", "error_rate")
    other = {"DRIFTLINE_DETECTORS__ERROR_RATE__P0": "0.02"}
    result = await run(pipeline, "baseline", "fit", *arguments, "--wait", "0", more=other)
    assert result.exit_code == 0, result.output
    await pipeline.tick(SECONDS + 20)
    await pipeline.monitor()
    await pipeline.stored("baselines WHERE state = 'refused'", 1)
    listed = await run(pipeline, "baseline", "list")
    assert "refused" in listed.stdout
    shown = json.loads((await run(pipeline, "baseline", "list", "--json")).stdout)
    assert any("other settings" in b["note"] for b in shown)


async def test_misuse_is_told(pipeline: Pipeline) -> None:
    for arguments, code in (
        (["fit", "--app", "bot"], 2),
        (["fit", "--app", "bot", "--from", "-1h", "--last-healthy", "1h"], 2),
        (["fit", "--app", "bot", "--last-healthy", "soon"], 2),
        (["fit", "--app", "bot", "--last-healthy", "1h"], 1),
        (["fit", "--app", "bot", "--from", "-1h", "--detector", "astrology"], 2),
    ):
        assert (await run(pipeline, "baseline", *arguments)).exit_code == code
