"""When the judge changes, quality alarms are held back: fixed answers, scored again and again, say that it has."""

import random
from collections.abc import Iterator

import numpy as np

from driftline.detectors.config import DetectorsConfig, PitConfig, RecoveryConfig
from driftline.detectors.digests import digests
from driftline.schemas.events import MICROSECONDS, Score
from driftline.schemas.results import Alert, Evidence
from driftline.schemas.topics import Topics
from driftline.streams.monitor.columns import NO_SCORES, Scores
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.monitor.golden import MAX_ANSWERS, Golden
from driftline.streams.monitor.watch import Stream
from driftline.streams.pricing import Pricer
from tests.streams.monitor.log import START, Log, run_log

RECOVERY = RecoveryConfig(min_open_s=1)
CONFIG = DetectorsConfig(
    quality_pit=PitConfig(min_units=500, recovery=RECOVERY), judge_drift=PitConfig(min_units=500, recovery=RECOVERY)
)


NAMES = [Stream("bot", "golden", f"score {number}") for number in range(10)]


def scored(names: list[str], values: list[float]) -> Scores:
    return NO_SCORES._replace(session=digests(names), value=np.array(values))


def test_each_answer_is_compared_with_its_own_first_score() -> None:
    golden = Golden()
    streams = np.zeros(4, np.int64)
    first = golden.units(scored(["a", "b", "", "a"], [0.25, 0.9, 0.5, 0.5]), streams, NAMES)
    assert first.value.tolist() == [0.25]  # of the second score of a; an answer without a name is left out
    again = Golden(golden.snapshot()).units(scored(["b", "a", "c", "b"], [0.9, 0.125, 1.0, 0.9]), streams, NAMES)
    assert again.value.tolist() == [0.0, -0.125, 0.0]
    other = golden.units(scored(["a"], [0.75]), streams[:1] + 1, NAMES)
    assert len(other.value) == 0  # another score's


def test_more_answers_than_are_remembered_are_left_out() -> None:
    golden = Golden()
    names = [f"answer {i}" for i in range(MAX_ANSWERS + 1)]
    streams = np.zeros(len(names), np.int64)
    values = [0.5] * len(names)
    golden.units(scored(names[:-1], values[:-1]), streams[:-1], NAMES)
    golden.units(scored(names[-1:], values[-1:]), streams[-1:], NAMES)
    assert len(golden.units(scored(names, values), streams, NAMES).value) == MAX_ANSWERS


def score(at: float, value: float, conversation: str, release: str) -> Score:
    value = min(1.0, max(0.0, value))
    ts, key = START + round(at * MICROSECONDS), f"{at}/{conversation}"
    return Score(
        app="bot", ts=ts, id=key, trace_id=key, name="relevance", value=value, conversation_id=conversation,
        release=release,
    )  # fmt: skip


def judged() -> Iterator[Score]:
    """From 100 s to 200 s the judge gives 0.2 less to everything. From 200 s on, users' answers are worse."""
    rng = random.Random(1)
    fixed = [rng.betavariate(8, 2) for _ in range(100)]
    for second in range(360):
        off = -0.2 if 100 <= second < 200 else 0.0
        if second % 10 == 0:
            for i, value in enumerate(fixed):
                yield score(second + i / 200, value + off + rng.gauss(0, 0.02), f"golden {i}", "golden")
        if not 140 <= second < 200:
            for i in range(20):
                value = rng.betavariate(8, 2) * (1.0 if second < 200 else 0.75)
                yield score(second + i / 20, value + off, f"{second}/{i}", "v1")


async def test_quality_alarms_wait_while_the_judge_drifts(topics: Topics) -> None:
    log = Log()
    log.extend(list(judged()), START + 400 * MICROSECONDS)
    fold = MonitorFold(MonitorConfig(), CONFIG, topics, Pricer(), None)
    results = await run_log(fold, log.records, size=len(log.records))
    told = [(a.rule, a.state, (a.ts - START) // (10 * MICROSECONDS)) for a in results if isinstance(a, Alert)]
    assert told[0] == ("judge_drift", "firing", 10)
    assert told[1][:2] == ("judge_drift", "resolved")
    assert 20 <= told[1][2] <= 24
    after = [(rule, state) for rule, state, _ in told[2:]]
    assert ("quality_pit", "firing") in after
    assert all(at >= 26 for rule, _, at in told if rule != "judge_drift")
    held = [e for e in results if isinstance(e, Evidence) and e.note.startswith("Not told")]
    assert {e.detector for e in held} <= {"quality", "quality_pit"}
    assert "quality_pit" in {e.detector for e in held}
    assert all(e.state == "alarm" for e in held)
    alert = next(a for a in results if isinstance(a, Alert) and a.rule == "quality_pit")
    assert alert.release == "v1"
    assert alert.component == "relevance"
    assert alert.effect is not None
    assert -0.4 < alert.effect < -0.1
