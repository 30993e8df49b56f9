"""The embeddings half: its bookkeeping. What it finds is tested with the detector."""

import threading
from collections.abc import Iterable
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from driftline.detectors.config import DetectorsConfig
from driftline.detectors.state import unpack
from driftline.schemas.codec import decode, pack
from driftline.schemas.events import MICROSECONDS, Release, Tick
from driftline.schemas.results import Alert, Embedding, EmbeddingEvent, Evidence, Result
from driftline.schemas.topics import Topics
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.drift import DriftFold
from driftline.streams.monitor.watch import Stream
from tests.streams.monitor.log import START, FakeRecord

VECTOR = np.eye(1, 8, dtype="<f2").tobytes()


def embedding(number: int, at: float) -> Embedding:
    return Embedding(
        app="bot",
        ts=START + round(at * MICROSECONDS),
        trace_id=str(number),
        span_id="",
        conversation_id=f"c{number // 3}",
        user_id="u",
        environment="",
        release="v1",
        canary_share=None,
        model="gpt-4o",
        embed_model="e",
        prompt=VECTOR,
        response=None,
        excerpt="hello",
    )


def tick(at: float) -> Tick:
    return Tick(ts=START + round(at * MICROSECONDS))


def records(*batches: Iterable[EmbeddingEvent]) -> list[FakeRecord]:
    return [FakeRecord(i, pack(list(batch))) for i, batch in enumerate(batches)]


def new_fold(topics: Topics, snapshot: bytes | None = None) -> DriftFold:
    return DriftFold(MonitorConfig(), DetectorsConfig(), topics, snapshot)


async def test_repeats_are_left_out_and_counted(topics: Topics) -> None:
    fold = new_fold(topics)
    await fold.absorb(records([tick(0)], [embedding(1, 1), embedding(1, 1), embedding(2, 7200)]))
    fold = new_fold(topics, fold.snapshot())
    await fold.absorb(records([embedding(1, 1), embedding(2, 7200)], [tick(10)]))
    assert fold.counters == {
        "undecodable": 0,
        "malformed": 0,
        "ahead_of_time": 0,
        "repeated": 3,
        "dedup_overflow": 0,
        "baselines_refused": 0,
        "streams_over_limit": 0,
        "state_full": 0,
        "pending_overflow": 0,
        "sessions_forgotten": 0,
        "sessions_cut_short": 0,
    }


async def test_batches_and_restarts_change_nothing(topics: Topics) -> None:
    log = records(*((embedding(n, n / 2), embedding(n, n / 2), tick(n / 2)) for n in range(200)))
    whole = new_fold(topics)
    outputs = await whole.absorb(log)
    fold, pieces = new_fold(topics), []
    for start in range(0, len(log), 7):
        pieces += await fold.absorb(log[start : start + 7])
        fold = new_fold(topics, fold.snapshot())
    assert outputs
    assert pieces == outputs
    assert fold.snapshot() == whole.snapshot()


async def test_works_beside_the_event_loop(topics: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    fold, threads = new_fold(topics), []

    def tick_(ts: int, revision: int) -> list[Result]:
        threads.append(threading.get_ident())
        return []

    monkeypatch.setattr(fold, "_tick", tick_)
    await fold.absorb(records([tick(0)]))
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


DRIFTING = DetectorsConfig.model_validate(
    {
        "units": {"close_after_s": 5},
        "embedding_drift": {"min_events": 4000, "chains": 200, "recovery": {"min_open_s": 10}},
        "embedding_witness": {"min_units": 1000, "recovery": {"min_open_s": 10}},
    }
)


def traffic(seconds: int, drift: range) -> list[FakeRecord]:
    """Four sessions of four prompts each second; while it drifts, half of them are on a new topic."""
    rng = np.random.default_rng(0)
    batches: list[list[EmbeddingEvent]] = []
    for second in range(seconds):
        shift = np.where((second in drift) & (rng.random((4, 1, 1)) < 0.5), 2.0, 0.0) * np.eye(1, 8)
        x = rng.normal(size=(4, 1, 8)) * 0.5 + rng.normal(size=(4, 4, 8)) + 0.5 + shift
        x /= np.linalg.norm(x, axis=2, keepdims=True)
        events: list[EmbeddingEvent] = [
            msgspec.structs.replace(
                embedding(16 * second + 4 * i + j, second + (4 * i + j) / 16),
                conversation_id=f"c{second}-{i}",
                prompt=x[i, j].astype("<f2").tobytes(),
                excerpt="new" if shift[i].any() else "old",
            )
            for i in range(4)
            for j in range(4)
        ]
        batches.append([*events, tick(second + 6)])
    return records(*batches)


async def test_two_detectors_make_one_alert(topics: Topics) -> None:
    """It begins with the first of them and ends with the last; both publish their evidence, and their baselines."""
    log = traffic(800, range(400, 500))
    fold, outputs = DriftFold(MonitorConfig(), DRIFTING, topics, None), []
    for start in range(0, len(log), 50):
        outputs += await fold.absorb(log[start : start + 50])
        if start == 450:
            fold = DriftFold(MonitorConfig(), DRIFTING, topics, fold.snapshot())
    alerts = [decode(o.value, Alert) for o in outputs if o.topic == topics.alerts]
    assert [(alert.rule, alert.state) for alert in alerts] == [
        ("embedding_drift", "firing"),
        ("embedding_drift", "resolved"),
    ]
    assert "Share of topics: " in alerts[0].description
    assert alerts[0].contributors == ["“new”", "“old”"]
    evidence = [decode(o.value, Evidence) for o in outputs if o.topic == topics.evidence]
    fired, recovered = {}, {}
    for name in ("embedding_drift", "embedding_witness"):
        mine = [e for e in evidence if e.detector == name]
        fired[name] = min(e.ts for e in mine if e.state == "alarm")
        recovered[name] = min(e.ts for e in mine if e.state == "ok" and e.ts > fired[name])
        assert fired[name] < START + 450 * MICROSECONDS
    assert alerts[0].ts == min(fired.values())
    assert alerts[1].ts == max(recovered.values())
    assert not any(watch.in_alarm(Stream("bot", "v1", "prompt")) for watch in fold.watches.values())


async def test_what_is_no_vector_like_the_others_is_left_out_and_counted(topics: Topics) -> None:
    fold = new_fold(topics)
    others = [np.ones(4, "<f2"), np.array([np.nan] * 8, "<f2"), np.ones(0)]
    wrong = [msgspec.structs.replace(embedding(n, n), prompt=v.tobytes()) for n, v in enumerate(others, 2)]
    foreign = [FakeRecord(1, b"\xc1"), FakeRecord(2, pack([{"type": "x"}]))]
    await fold.absorb([*records([embedding(1, 1), *wrong, tick(60)]), *foreign])
    fold = new_fold(topics, fold.snapshot())
    assert (fold.counters["malformed"], fold.counters["undecodable"]) == (3, 2)


@pytest.mark.parametrize("by_broker", [False, True])
async def test_what_the_first_tick_finds_ahead_of_it_is_taken_out(topics: Topics, by_broker: bool) -> None:
    """But not what is ahead of the tick alone: where the broker says what time it is, embed has looked already."""
    hour, year = 3_600, 365 * 86_400
    release = Release(app="bot", ts=START + year * MICROSECONDS, id="r", kind="deploy", release="v2")
    log = records([embedding(1, 0), embedding(2, hour), embedding(3, hour + 1), embedding(4, year), release], [tick(0)])
    sent = (START + hour * MICROSECONDS) // 1_000
    log = [replace(record, timestamp=sent, timestamp_type=int(by_broker)) for record in log]
    told = []
    for size in (1, 2):
        fold = new_fold(topics)
        for first in range(0, len(log), size):
            await fold.absorb(log[first : first + size])
            fold = new_fold(topics, fold.snapshot())
        assert fold.counters["ahead_of_time"] == (2 if by_broker else 3)
        state = unpack(fold.snapshot())
        waiting = [e.trace_id for e in msgspec.msgpack.decode(state["pending"]["embeddings"], type=list[Embedding])]
        assert waiting == (["1", "2", "3"] if by_broker else ["1", "2"])
        assert state["coming"] == []
        told.append(fold.snapshot())
    assert told[0] == told[1]
