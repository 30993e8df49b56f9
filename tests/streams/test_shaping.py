"""What may change under a state, and what may not."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from driftline.schemas.errors import ConfigError
from driftline.schemas.events import MICROSECONDS, Event, Score
from driftline.schemas.topics import SOURCES
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.pricing import Pricer
from driftline.streams.runtime.state import check_settings
from driftline.streams.settings import Settings
from driftline.streams.shaping import SHAPING, shaping
from tests.streams.monitor.log import START, TOPICS, FakeRecord, Log, run_log, traffic

SECONDS = 130
REST = 60  # records after the state
ALL_SHAPING = {key for keys in SHAPING.values() for key in keys}


def leaves(model: BaseModel, prefix: str) -> Iterator[tuple[str, object]]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def changed(key: str, value: object) -> Settings | None:
    """With another value that the settings take; None: there is none to try."""
    for other in others(value):
        try:
            return with_value(key, other)
        except ValidationError:
            continue
    return None


def others(value: object) -> list[object]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value * 2, value // 2, value - 1]
    if isinstance(value, float):
        return [value * 1.5, value / 2, value + 0.01, value - 0.1]
    return [f"{value}x"] if isinstance(value, str) else []


def with_value(key: str, value: object) -> Settings:
    values: Any = value
    for name in reversed(key.split(".")):
        values = {name: values}
    return Settings(**values)


FREE = [
    (key, other)
    for section in ("monitor", "detectors")
    for key, value in leaves(getattr(Settings(), section), f"{section}.")
    if key not in ALL_SHAPING and (other := changed(key, value)) is not None
]


def fold(settings: Settings, snapshot: bytes | None = None) -> MonitorFold:
    return MonitorFold(settings.monitor, settings.detectors, TOPICS, Pricer(), snapshot)


@pytest.fixture(scope="module")
def log() -> Log:
    events: list[Event] = []
    for trace in traffic(3, 0, SECONDS, 30):
        events.append(trace)
        of, key = trace.conversation_id, trace.trace_id
        value = trace.ts % 7 / 7
        events.append(
            Score(app="bot", ts=trace.ts, id=key, trace_id=key, name="n", value=value, release="v1", conversation_id=of)
        )
    log = Log()
    log.extend(events, START + SECONDS * MICROSECONDS)
    return log


@pytest.fixture(scope="module")
def rest(log: Log) -> list[FakeRecord]:
    return log.records[-REST:]


@pytest.fixture(scope="module")
def snapshot(log: Log) -> bytes:
    first = fold(Settings())
    asyncio.run(run_log(first, log.records[:-REST]))
    assert first.watches["error_rate"].baseline("bot") is not None
    assert first.watches["latency_p99"].baseline("bot") is not None
    return first.snapshot()


def test_each_stateful_fold_says_which_settings_shape_it() -> None:
    assert SHAPING.keys() == set(SOURCES)
    for name in SHAPING:
        assert shaping(name, Settings()).keys() == set(SHAPING[name])


def test_free_settings_are_the_larger_part() -> None:
    assert len(FREE) > 100
    assert {"monitor.windows.grace_s", "monitor.limits.apps", "detectors.error_rate.p0"} <= {key for key, _ in FREE}


@pytest.mark.parametrize(("key", "settings"), FREE, ids=[key for key, _ in FREE])
async def test_a_state_goes_on_under_another(
    key: str, settings: Settings, snapshot: bytes, rest: list[FakeRecord]
) -> None:
    for name in SHAPING:
        check_settings("r", name, shaping(name, Settings()), shaping(name, settings))
    await run_log(fold(settings, snapshot), rest)


CHANGES = [
    ("monitor", "monitor.windows.size_s", 10),
    ("monitor", "kafka.homes", 2),
    ("drift", "kafka.homes", 2),
    ("embed", "kafka.homes", 2),
    ("monitor", "detectors.budget.tick_s", 2),
    ("drift", "detectors.budget.tick_s", 2),
    ("monitor", "detectors.quality.low", -1),
    ("monitor", "detectors.quality.high", 5),
    ("monitor", "detectors.quality.bets", (0.5,)),
    ("monitor", "detectors.breaker.bucket_s", 10),
    ("monitor", "detectors.canary.score_low", -1),
    ("monitor", "detectors.canary.score_high", 5),
    ("monitor", "detectors.canary.weights", {"errors": 1}),
    ("drift", "detectors.embedding_drift.kernel", "rff"),
    ("drift", "detectors.embedding_drift.frequencies", 256),
    ("drift", "detectors.embedding_drift.bandwidths", (0.5,)),
    ("drift", "detectors.embedding_drift.block_events", 512),
    ("drift", "detectors.embedding_witness.bets", (0.5,)),
    ("embed", "embed.sample.window_s", 600),
]


def test_every_shaping_setting_is_tried() -> None:
    assert {(name, key) for name, key, _ in CHANGES} == {(name, key) for name in SHAPING for key in SHAPING[name]}


@pytest.mark.parametrize(("name", "key", "value"), CHANGES)
def test_what_shapes_a_state_must_not_change(name: str, key: str, value: object) -> None:
    then, now = shaping(name, Settings()), shaping(name, with_value(key, value))
    with pytest.raises(ConfigError) as error:
        check_settings("monitor", name, then, now)
    said = str(error.value)
    assert f"{key} is {now[key]} and was {then[key]} when the state of {name} was made" in said
    assert "put it back" in said
    assert "`driftline state reset --role monitor`" in said
    assert "\n" not in said


def test_only_which_metrics_a_canary_has_shapes_its_state() -> None:
    equal = dict.fromkeys(Settings().detectors.canary.weights, 1 / 6)
    assert shaping("monitor", with_value("detectors.canary.weights", equal)) == shaping("monitor", Settings())


def test_homes_were_the_number_of_partitions() -> None:
    check_settings("monitor", "monitor", {"kafka.partitions": "4"}, {"kafka.homes": "4"})
    with pytest.raises(ConfigError, match=r"kafka\.homes is 8 and was 4"):
        check_settings("monitor", "monitor", {"kafka.partitions": "4"}, {"kafka.homes": "8"})


def test_settings_that_one_version_alone_knows_are_no_change() -> None:
    check_settings("monitor", "monitor", {}, {"new": "1"})
    check_settings("monitor", "monitor", {"old": "1"}, {"new": "1"})
