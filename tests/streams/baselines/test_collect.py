"""Embeddings from the log, and a replay that knows what was fitted by hand."""

from collections.abc import Sequence

import numpy as np

from driftline.detectors.config import DetectorsConfig, EmbeddingWitnessConfig
from driftline.schemas.codec import decode, pack
from driftline.schemas.events import MICROSECONDS, Tick
from driftline.schemas.results import Baseline, Embedding, EmbeddingEvent, Evidence
from driftline.streams.baselines.collect import Range, from_log
from driftline.streams.baselines.fit import fit, publish
from driftline.streams.embed.config import EmbedConfig
from driftline.streams.embed.embedder import CachedEmbedder
from driftline.streams.embed.fold import EmbedFold
from driftline.streams.fold import Output
from driftline.streams.monitor.drift import DriftFold
from driftline.streams.settings import Settings
from tests.streams.embed.fakes import FakeEncoder
from tests.streams.monitor.log import FakeRecord
from tests.streams.operate.conftest import START, Pipeline

WITNESS = "embedding_witness"


def embeddings(seconds: range, per_second: int, app: str = "bot") -> list[list[EmbeddingEvent]]:
    rng = np.random.default_rng(1)
    records: list[list[EmbeddingEvent]] = []
    for second in seconds:
        batch: list[EmbeddingEvent] = []
        for i in range(per_second):
            vector = rng.normal(size=8) + 1
            batch.append(
                Embedding(
                    app=app,
                    ts=START + second * MICROSECONDS + i,
                    trace_id=f"{second}-{i}",
                    span_id="",
                    conversation_id=f"c{second}-{i}",
                    user_id="",
                    environment="",
                    release="v1",
                    canary_share=None,
                    model="gpt-4o",
                    embed_model="e",
                    prompt=(vector / np.linalg.norm(vector)).astype("<f2").tobytes(),
                    response=None,
                    excerpt="hello",
                )
            )
        records.append([*batch, Tick(ts=START + (second + 1) * MICROSECONDS)])
    return records


async def send(pipeline: Pipeline, records: Sequence[list[EmbeddingEvent]]) -> None:
    values = [pack(record) for record in records]
    await pipeline.kafka.send_many(pipeline.kafka.topics.embeddings, values, partition=pipeline.home("bot"))


async def test_embeddings_are_read_from_the_log_as_far_as_it_reaches(pipeline: Pipeline) -> None:
    """And the baseline of them goes through the embed role to the fold that watches embeddings."""
    settings = _few(pipeline.settings)
    await send(pipeline, embeddings(range(10, 130), 30))
    traffic = Range("bot", START + 20 * MICROSECONDS, START + 125 * MICROSECONDS)
    found = await from_log(settings, traffic, {WITNESS}, lambda what, at: None)
    assert (found.embed_model, found.note) == ("e", "")
    [(name, made)] = found.fits
    assert (name, made.component, made.releases) == (WITNESS, "prompt", ["v1"])
    assert made.baseline.n >= 1000

    earlier = Range("bot", START, START + 125 * MICROSECONDS)
    note = (await from_log(settings, earlier, {WITNESS}, lambda what, at: None)).note
    assert "earlier embeddings are gone" in note

    attempts = await fit(settings, traffic, {WITNESS}, START, lambda what, at: None)
    [fitted] = attempts.baselines
    assert fitted.embed_model == "e"
    await publish(settings, [fitted], traffic.until)
    [record] = await pipeline.kafka.read(pipeline.kafka.topics.events)
    topics = pipeline.kafka.topics
    role = EmbedFold(EmbedConfig(), topics.embeddings, CachedEmbedder(FakeEncoder(), EmbedConfig()), None)
    forwarded = await role.absorb([record])
    drift = DriftFold(settings.monitor, settings.detectors, topics, None)
    records = [*(pack(batch) for batch in embeddings(range(124, 126), 5)), *(output.value for output in forwarded)]
    records += [pack(batch) for batch in embeddings(range(126, 260), 5)]
    outputs = await drift.absorb([FakeRecord(i, value) for i, value in enumerate(records)])
    [said] = [decode(o.value, Baseline) for o in outputs if o.topic == topics.baselines]
    assert (said.id, said.state, said.source) == (fitted.id, "active", "fitted")
    held_against = {e.baseline_id for e in _evidence(outputs, topics.evidence) if e.detector == WITNESS}
    assert held_against == {fitted.id}


def _few(settings: Settings) -> Settings:
    detectors = DetectorsConfig(embedding_witness=EmbeddingWitnessConfig(min_units=1000))
    return settings.model_copy(update={"detectors": detectors})


def _evidence(outputs: Sequence[Output], topic: str) -> list[Evidence]:
    return [decode(output.value, Evidence) for output in outputs if output.topic == topic]
