"""Latency, tokens and cost are watched together, and told as rules of their own."""

import random

import numpy as np
import pytest

from driftline.detectors.base import Measurement
from driftline.detectors.config import BudgetConfig, DetectorsConfig, PitConfig
from driftline.schemas.events import MICROSECONDS, Trace
from driftline.schemas.results import Alert, Baseline, Evidence
from driftline.schemas.topics import Topics
from driftline.streams.monitor.alerts import wording
from driftline.streams.monitor.columns import NO_TRACES
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.monitor.scalars import COMPONENTS, published, units
from driftline.streams.monitor.watch import Stream, Streams
from driftline.streams.pricing import Pricer
from tests.streams.monitor.log import START, Log, run_log, traffic

CONFIG = DetectorsConfig(scalar_drift=PitConfig(min_units=4000))


def longer(trace: Trace, rng: random.Random) -> None:
    """From 30 s on prompts are longer by half; latency is in proportion to what was asked from the beginning."""
    if trace.ts >= START + 30 * MICROSECONDS and trace.input_tokens is not None:
        trace.input_tokens = round(1.5 * trace.input_tokens)


async def test_longer_prompts_are_told_with_what_they_cost(topics: Topics) -> None:
    log = Log()
    log.extend(list(traffic(1, 0, 50, 200, longer)), START + 60 * MICROSECONDS)
    fold = MonitorFold(MonitorConfig(evidence_s=10), CONFIG, topics, Pricer(), None)
    results = await run_log(fold, log.records, size=len(log.records))
    firing = {a.rule: a for a in results if isinstance(a, Alert) and a.state == "firing"}
    assert firing.keys() == {"input_tokens_drift", "cost_drift"}
    alert = firing["input_tokens_drift"]
    assert alert.severity == "info"
    assert alert.component == ""
    assert "typical number of input tokens" in alert.summary
    assert "alues are" in alert.description
    assert alert.labels["rule"] == "input_tokens_drift"
    assert alert.effect is not None
    assert 0.3 < alert.effect < 0.7
    evidence = [e for e in results if isinstance(e, Evidence) and e.detector.endswith("_drift")]
    assert {e.detector for e in evidence} == {
        *("latency_drift", "input_tokens_drift", "output_tokens_drift", "cost_drift")
    }
    assert len({e.id for e in evidence}) == len(evidence)
    assert "seasonal_confidence: low" in evidence[-1].note
    learned = [b.component for b in results if isinstance(b, Baseline) and b.detector == "scalar_drift"]
    assert sorted(learned) == ["cost", "input_tokens", "latency", "output_tokens"]


def test_units_of_all_numbers_and_those_that_are_missing() -> None:
    streams = Streams()
    numbers = np.array([streams.number("bot", "v1"), streams.number("bot", "v2"), 0])
    columns = NO_TRACES._replace(
        latency=np.array([1.0, np.nan, 3.0]),
        ttft=np.full(3, np.nan),
        input_tokens=np.array([10, 20, -1], np.int32),
        output_tokens=np.array([5, 6, 7], np.int32),
        nanousd=np.array([-1, 2_000_000_000, -1]),
    )
    taken = units(streams, columns, numbers, np.array([7, 8, 9]), np.array([True, False, True]))
    told = [streams.names[number] for number in taken.stream.tolist()]
    assert [(s.release, s.component) for s in told] == [
        ("v1", "latency"), ("v1", "latency"), ("v1", "input_tokens"), ("v2", "input_tokens"), ("v1", "output_tokens"),
        ("v2", "output_tokens"), ("v1", "output_tokens"), ("v2", "cost"),
    ]  # fmt: skip
    assert taken.value.tolist() == [1, 3, 10, 20, 5, 6, 7, 2]
    assert taken.session.tolist() == [7, 9, 7, 8, 7, 8, 9, 8]
    assert taken.learn.tolist() == [True, True, True, False, True, False, True, False]


@pytest.mark.parametrize(
    ("low", "effect", "high", "severity"),
    [(0.12, 0.2, 0.3, "warning"), (-0.3, -0.2, -0.12, "warning"), (0.05, 0.2, 0.3, "info"), (-0.2, 0.0, 0.3, "info"),
     (None, 0.2, None, "warning"), (None, 0.02, None, "info"), (None, None, None, "info")],
)  # fmt: skip
def test_small_changes_are_no_warnings(
    low: float | None, effect: float | None, high: float | None, severity: str
) -> None:
    m = Measurement(threshold=21.7, guarantee="stated", effect=effect, effect_low=low, effect_high=high)
    told = [
        wording(rule, stream, m, START, BudgetConfig(), []).severity
        for rule, stream in (
            ("scalar_drift", Stream("bot", "v1", "latency")),
            ("scalar_drift", Stream("bot", "v1", "input_tokens")),
            ("quality_pit", Stream("bot", "v1", "relevance")),
        )
    ]
    assert told == [severity, "info", "error"]


def test_what_is_told_has_rules_of_its_own() -> None:
    assert {published("scalar_drift", Stream("bot", "v1", c))[0] for c in COMPONENTS} == {
        *("latency_drift", "ttft_drift", "input_tokens_drift", "output_tokens_drift", "cost_drift")
    }
    assert published("quality", Stream("bot", "v1", "x")) == ("quality", Stream("bot", "v1", "x"))
