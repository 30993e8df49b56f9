"""Real answers of real models with a judge's scores: the canary's verdict is known."""

import json
import os
from pathlib import Path
from typing import Any

import cramjam
import pytest

from driftline.detectors.config import DetectorsConfig
from driftline.schemas.events import MICROSECONDS, Event, Release, Score, Trace
from driftline.schemas.ids import unit_interval
from driftline.schemas.results import RollbackSignal
from driftline.schemas.topics import Topics
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.pricing import Pricer
from tests.streams.monitor.log import START, Log, run_log

DATA = Path(os.environ.get("DRIFTLINE_TEST_DATA", Path(__file__).parents[4] / "shared" / "data")) / "alpaca_eval"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no judged answers at {DATA} (DRIFTLINE_TEST_DATA)")


def answers(model: str) -> dict[str, dict[str, Any]]:
    lines = bytes(cramjam.zstd.decompress((DATA / f"{model}.jsonl.zst").read_bytes())).splitlines()
    return {row["instruction"]: row for row in map(json.loads, lines)}


def single_pass(stable: str, canary: str, share: float, salt: str) -> list[Event]:
    """Each prompt once, two a second, to the arm that its hash says."""
    arms = {"v1": answers(stable), "v2": answers(canary)}
    prompts = sorted(arms["v1"].keys() & arms["v2"].keys(), key=lambda prompt: unit_interval(salt, prompt))
    events: list[Event] = [
        Release(
            app="bot",
            ts=START,
            id="start",
            kind="canary_start",
            release="v2",
            stable="v1",
            deployment_id="d",
            share=share,
        )
    ]
    for i, prompt in enumerate(prompts):
        release = "v2" if unit_interval(f"{salt}/arm", prompt) < share else "v1"
        row = arms[release][prompt]
        common: dict[str, Any] = {
            "app": "bot",
            "ts": START + (i + 1) * MICROSECONDS // 2,
            "trace_id": f"t{i}",
            "conversation_id": f"c{i}",
            "release": release,
            "canary_share": share,
        }
        events.append(Trace(**common, input_text=prompt, output_text=row["output"]))
        if row["preference"] is not None:
            events.append(Score(**common, id=f"s{i}", name="preference", value=row["preference"]))
    return events


async def rollbacks(events: list[Event], topics: Topics) -> list[RollbackSignal]:
    log = Log()
    log.extend(events, until=events[-1].ts + 120 * MICROSECONDS)
    fold = MonitorFold(MonitorConfig(), DetectorsConfig(), topics, Pricer(), None)
    return [result for result in await run_log(fold, log.records) if isinstance(result, RollbackSignal)]


@pytest.mark.parametrize("share", [0.5, 0.1])
async def test_a_worse_model_is_rolled_back(share: float, topics: Topics) -> None:
    [signal] = await rollbacks(single_pass("gpt-3.5-turbo-1106", "falcon-7b-instruct", share, "falcon"), topics)
    assert (signal.release, signal.stable, signal.deployment_id) == ("v2", "v1", "d")
    assert signal.log_e_total >= signal.threshold
    assert signal.effects["quality"] < 0


@pytest.mark.parametrize("salt", ["a", "b", "c"])
@pytest.mark.parametrize("share", [0.5, 0.1])
async def test_the_same_model_is_not(salt: str, share: float, topics: Topics) -> None:
    assert await rollbacks(single_pass("vicuna-13b-v1.5", "vicuna-13b-v1.5-togetherai", share, salt), topics) == []
