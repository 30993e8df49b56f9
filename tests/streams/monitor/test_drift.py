"""The embeddings half: its bookkeeping. What it finds is tested with the detector."""

from collections.abc import Iterable

import numpy as np

from driftline.detectors.config import DetectorsConfig
from driftline.schemas.codec import pack
from driftline.schemas.events import MICROSECONDS, Tick
from driftline.schemas.results import Embedding, EmbeddingEvent
from driftline.schemas.topics import Topics
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.drift import DriftFold
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


async def test_repeats_and_clocks_far_ahead_are_left_out_and_counted(topics: Topics) -> None:
    fold = new_fold(topics)
    await fold.absorb(records([tick(0)], [embedding(1, 1), embedding(1, 1), embedding(2, 7200)]))
    fold = new_fold(topics, fold.snapshot())
    await fold.absorb(records([embedding(1, 1), embedding(2, 7200)], [tick(10)]))
    assert fold.counters == {
        "repeated": 3,
        "ahead_of_time": 1,
        "dedup_overflow": 0,
        "streams_over_limit": 0,
        "sessions_forgotten": 0,
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
