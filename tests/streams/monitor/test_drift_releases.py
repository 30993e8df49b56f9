"""Promotions and rollbacks reach embedding drift: what is learned anew, and which alerts end."""

import msgspec
import pytest_asyncio

from driftline.detectors.config import DetectorsConfig
from driftline.schemas.codec import pack
from driftline.schemas.events import MICROSECONDS, Release
from driftline.schemas.results import Alert, Baseline, Embedding, Evidence, Result
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.drift import DriftFold
from tests.streams.monitor.log import START, TOPICS, FakeRecord
from tests.streams.monitor.test_query_types import LEARNED, log, run

CONFIG = DetectorsConfig.model_validate(
    {
        "units": {"close_after_s": 2},
        "embedding_drift": {"min_events": 4000, "chains": 200},
        "query_type": {"min_units": 500},
        "language": {"min_units": 1000},
    }
)
CANARY = LEARNED + 20
STOP = CANARY + 20


def new_fold(snapshot: bytes | None = None) -> DriftFold:
    return DriftFold(MonitorConfig(relearn_after_s=10, evidence_s=5), CONFIG, TOPICS, snapshot)


def release(at: float, kind: str, outcome: str = "") -> FakeRecord:
    event = msgspec.convert(
        {
            "type": "release",
            "app": "bot",
            "ts": START + round(at * MICROSECONDS),
            "id": f"{kind}{at}",
            "kind": kind,
            "release": "v2",
            "stable": "v1",
            "deployment_id": "d",
            "outcome": outcome,
        },
        Release,
    )
    return FakeRecord(0, pack([event, event]))


def stable(e: Embedding) -> Embedding:
    return msgspec.structs.replace(e, prompt_language="en")


def canary(e: Embedding) -> Embedding:
    """Half of the users are on it, and none of the traces says so."""
    if int(e.trace_id) % 2:
        return stable(e)
    return msgspec.structs.replace(e, release="v2", prompt_language="de")


def promoted(e: Embedding) -> Embedding:
    return msgspec.structs.replace(e, release="v2", prompt_language="en")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def learned() -> bytes:
    """v1 is known, and v2 has begun as a canary."""
    fold = new_fold()
    await run(fold, [*log(range(CANARY), lambda second: list(range(10)), stable), release(CANARY, "canary_start")])
    return fold.snapshot()


def with_canary() -> list[FakeRecord]:
    return log(range(CANARY, STOP), lambda second: list(range(10)), canary)


async def in_pieces(snapshot: bytes, records: list[FakeRecord]) -> list[Result]:
    """A restart after every record."""
    results: list[Result] = []
    for record in records:
        fold = new_fold(snapshot)
        results += await run(fold, [record])
        snapshot = fold.snapshot()
    return results


async def test_a_rollback_ends_the_alerts_of_its_release(learned: bytes) -> None:
    stop = release(STOP, "canary_stop", "rolled_back")
    records = [*with_canary(), stop, *log(range(STOP, STOP + 10), lambda second: list(range(10)), canary)]
    results = await run(new_fold(learned), records)
    alerts = [r for r in results if isinstance(r, Alert)]
    assert [(alert.rule, alert.release, alert.state) for alert in alerts] == [
        ("language", "v2", "firing"),
        ("language", "v2", "resolved"),
    ]
    assert "v2 was taken out of traffic (rolled_back)" in alerts[1].description
    assert alerts[1].ts == START + STOP * MICROSECONDS
    # Remainders of v2 are not held against it, and no reference is made of them.
    assert not [r for r in results if isinstance(r, Baseline)]
    assert await in_pieces(learned, records) == results


async def test_a_promoted_release_gives_the_baselines_after_a_while(learned: bytes) -> None:
    stop = release(CANARY + 2, "canary_stop", "promoted")
    records = [stop, *log(range(CANARY, CANARY + LEARNED + 45), lambda second: list(range(10)), promoted)]
    results = await run(new_fold(learned), records)
    baselines = [r for r in results if isinstance(r, Baseline)]
    assert sorted((b.detector, b.component, *b.releases) for b in baselines) == [
        ("embedding_drift", "prompt", "v2"),
        ("embedding_witness", "prompt", "v2"),
        ("language", "prompt", "v2"),
        ("query_type", "prompt", "v2"),
    ]
    due = START + (CANARY + 12) * MICROSECONDS
    made = {b.detector: b for b in baselines}
    assert due - MICROSECONDS <= made["language"].from_ts < due + 7 * MICROSECONDS
    assert made["query_type"].from_ts >= made["embedding_drift"].at - MICROSECONDS
    held_against = {r.detector: r.baseline_id for r in results if isinstance(r, Evidence)}
    assert held_against["language"] == made["language"].id
    assert held_against["query_type"] == made["query_type"].id
    assert not [r for r in results if isinstance(r, Alert)]
    assert await in_pieces(learned, records) == results


async def test_a_canary_is_no_reference_even_if_its_traces_do_not_say_so() -> None:
    records = [release(0, "canary_start"), *log(range(55), lambda second: [1], canary)]
    fold = new_fold()
    results = await run(fold, records[:20])
    results += await run(new_fold(fold.snapshot()), records[20:])
    [baseline] = [r for r in results if isinstance(r, Baseline)]
    assert (baseline.detector, baseline.releases) == ("language", ["v1"])
