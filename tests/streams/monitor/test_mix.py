"""Finish reasons, error codes and missing values, from events to alerts."""

import asyncio
import random

import pytest

from driftline.detectors.config import CategoriesConfig, DetectorsConfig, InvalidRateConfig
from driftline.schemas.events import MICROSECONDS, Trace
from driftline.schemas.results import Alert
from driftline.schemas.topics import Topics
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.pricing import Pricer
from tests.streams.monitor.log import START, TOPICS, Log, run_log, traffic

CHANGE = (100, 200)
STOP = 420
SOON = DetectorsConfig(
    finish_reason=CategoriesConfig(min_units=500),
    error_type=CategoriesConfig(min_units=500),
    invalid_rate=InvalidRateConfig(min_units=500),
)


def seconds(micros: int) -> float:
    return (micros - START) / MICROSECONDS


def changing(trace: Trace, rng: random.Random) -> None:
    """From 100 s to 200 s a third of the answers is cut off, some requests meet an error that was never seen, and token
    counts are missing."""
    changed = CHANGE[0] <= seconds(trace.ts) < CHANGE[1]
    draw = rng.random()
    trace.finish_reasons = ["length"] if draw < (0.3 if changed else 0.05) else ["stop"]
    if changed and rng.random() < 0.06:
        trace.status, trace.error_type, trace.finish_reasons = "error", "quota", []
    if changed and rng.random() < 0.2:
        trace.input_tokens = None


def new_fold(topics: Topics, snapshot: bytes | None = None) -> MonitorFold:
    return MonitorFold(MonitorConfig(), SOON, topics, Pricer(), snapshot)


@pytest.fixture(scope="module")
def log() -> Log:
    log = Log()
    log.extend(list(traffic(3, 0, STOP, 8, changing)), START + STOP * MICROSECONDS)
    return log


@pytest.fixture(scope="module")
def alerts(log: Log) -> list[Alert]:
    results = asyncio.run(run_log(new_fold(TOPICS), log.records))
    return [r for r in results if isinstance(r, Alert)]


def test_a_new_mix_of_finish_reasons_is_named_and_resolves_by_itself(alerts: list[Alert]) -> None:
    mine = [a for a in alerts if a.rule == "finish_reason"]
    assert [a.state for a in mine] == ["firing", "resolved"]
    fired, resolved = mine
    assert CHANGE[0] < seconds(fired.fired_at) < CHANGE[0] + 60
    assert "share of answers that finish with “length”" in fired.summary
    assert "“length” up to" in fired.description
    assert "1 false alarm in 30 days" in fired.false_alarms
    assert resolved.resolved_at is not None
    assert CHANGE[1] < seconds(resolved.resolved_at) < STOP


def test_a_new_error_code_is_said_at_once_and_its_rate_when_it_is_certain(alerts: list[Alert]) -> None:
    [new] = [a for a in alerts if a.rule == "new_code"]
    assert (new.state, new.severity, new.component) == ("firing", "info", "quota")
    assert "new error code “quota”" in new.summary
    assert "outside the false-alarm budget" in new.false_alarms
    rate = [a for a in alerts if a.rule == "error_type"]
    assert [a.state for a in rate] == ["firing", "resolved"]
    assert "quota" in rate[0].summary
    assert CHANGE[0] < seconds(new.fired_at) < seconds(rate[0].fired_at)


def test_missing_token_counts_are_an_alert(alerts: list[Alert]) -> None:
    mine = [a for a in alerts if a.rule == "invalid_rate"]
    assert [(a.component, a.state) for a in mine] == [("token counts", "firing"), ("token counts", "resolved")]
    assert "share of requests without valid token counts" in mine[0].summary


async def test_restarts_change_nothing(log: Log, topics: Topics) -> None:
    records = log.records[: len(log.records) // 3]
    whole = new_fold(topics)
    outputs = await whole.absorb(records)
    fold, pieces = new_fold(topics), []
    for start in range(0, len(records), 150):
        pieces += await fold.absorb(records[start : start + 150])
        fold = new_fold(topics, fold.snapshot())
    assert pieces == outputs
    assert fold.snapshot() == whole.snapshot()
