"""Real answers of real models with a judge's scores, as the traffic of a canary."""

import json
import os
from pathlib import Path
from typing import Any

import cramjam
import pytest

from driftline.schemas.events import MICROSECONDS, Release, Score, Trace
from driftline.schemas.ids import unit_interval

DATA = Path(os.environ.get("DRIFTLINE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / "alpaca_eval"

needs_answers = pytest.mark.skipif(not DATA.is_dir(), reason=f"no judged answers at {DATA} (DRIFTLINE_TEST_DATA)")


def answers(model: str) -> dict[str, dict[str, Any]]:
    lines = bytes(cramjam.zstd.decompress((DATA / f"{model}.jsonl.zst").read_bytes())).splitlines()
    return {row["instruction"]: row for row in map(json.loads, lines)}


def single_pass(
    app: str, start: int, stable: str, canary: str, share: float, salt: str
) -> list[Trace | Score | Release]:
    """Each prompt once, two a second, to the arm that its hash says."""
    arms = {"v1": answers(stable), "v2": answers(canary)}
    prompts = sorted(arms["v1"].keys() & arms["v2"].keys(), key=lambda prompt: unit_interval(salt, prompt))
    events: list[Trace | Score | Release] = [
        Release(
            app=app,
            ts=start,
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
            "app": app,
            "ts": start + (i + 1) * MICROSECONDS // 2,
            "trace_id": f"t{i}",
            "conversation_id": f"c{i}",
            "release": release,
            "canary_share": share,
        }
        events.append(Trace(**common, input_text=prompt, output_text=row["output"]))
        if row["preference"] is not None:
            events.append(Score(**common, id=f"s{i}", name="preference", value=row["preference"]))
    return events
