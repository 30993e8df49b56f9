"""Embeddings from the log, and a replay that knows what was fitted by hand."""

from collections.abc import Sequence

import numpy as np
import pytest

from driftline.detectors.base import Insufficient
from driftline.detectors.baselines import dump
from driftline.detectors.config import DetectorsConfig, EmbeddingWitnessConfig
from driftline.schemas.codec import decode, pack
from driftline.schemas.events import MICROSECONDS, Event, Tick
from driftline.schemas.results import Baseline, Embedding, EmbeddingEvent, Evidence
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.streams.baselines.collect import Range, _fits, from_log, from_tables, settled
from driftline.streams.baselines.fit import fit, publish
from driftline.streams.embed.config import EmbedConfig
from driftline.streams.embed.embedder import CachedEmbedder
from driftline.streams.embed.fold import EmbedFold
from driftline.streams.fold import Output, Record
from driftline.streams.monitor.drift import DriftFold
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.monitor.watch import Collector, Fit
from driftline.streams.operate import folds
from driftline.streams.operate.folds import with_ticks
from driftline.streams.pricing import Pricer
from driftline.streams.settings import Settings
from tests.streams.embed.fakes import FakeEncoder
from tests.streams.monitor.log import FakeRecord
from tests.streams.operate.conftest import START, Pipeline, trace

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
    role = EmbedFold(EmbedConfig(), topics.embeddings, CachedEmbedder(FakeEncoder(), EmbedConfig()), ahead_s=3600)
    forwarded = await role.absorb([record])
    drift = DriftFold(settings.monitor, settings.detectors, topics, None)
    records = [*(pack(batch) for batch in embeddings(range(124, 126), 5)), *(output.value for output in forwarded)]
    records += [pack(batch) for batch in embeddings(range(126, 260), 5)]
    outputs = await drift.absorb([FakeRecord(i, value) for i, value in enumerate(records)])
    [said] = [decode(o.value, Baseline) for o in outputs if o.topic == topics.baselines]
    assert (said.id, said.state, said.source) == (fitted.id, "active", "fitted")
    held_against = {e.baseline_id for e in _evidence(outputs, topics.evidence) if e.detector == WITNESS}
    assert held_against == {fitted.id}


async def test_quiet_time_is_jumped_over_and_changes_nothing(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day without events is a few ticks, and what is learned is what each tick of it would have made."""
    day = 24 * 3_600
    busy = [(begin, begin + 20) for begin in (0, 3 * 3_600, day)]
    events = [
        trace(second * 100 + i, second + i / 20, conversation_id=f"c{second}-{i}")
        for begin, end in busy
        for second in range(begin, end)
        for i in range(10)
    ]
    await pipeline.send(events)
    await pipeline.flush()
    await pipeline.stored("traces", len(events))
    traffic = Range("bot", START, START + (day + 60) * MICROSECONDS)
    wanted = ["error_rate", "latency_p99", "finish_reason"]
    ticks: list[int] = []
    step = MonitorFold._tick

    def counted(self: MonitorFold, ts: int, offset: int) -> list[Output]:
        ticks.append(ts)
        return step(self, ts, offset)

    monkeypatch.setattr(MonitorFold, "_tick", counted)
    queries: list[int] = []
    asked = folds._events

    def ask(config: ClickHouseConfig, app: str | None, since: int, until: int) -> list[Event]:
        queries.append(since)
        return asked(config, app, since, until)

    monkeypatch.setattr(folds, "_events", ask)
    found = await from_tables(pipeline.settings, traffic, wanted, lambda what, at: None)
    assert len(ticks) < 3 * 700 + day / 600
    assert len(queries) <= 2 * len(busy)

    walked = MonitorFold(
        *(pipeline.settings.monitor, pipeline.settings.detectors, pipeline.settings.topics, Pricer()), None, Collector
    )
    values = with_ticks(events, traffic.since, settled(pipeline.settings, traffic.until), 10 * MICROSECONDS)
    await walked.absorb([FakeRecord(i, value) for i, value in enumerate(values)])
    assert [_shown(*each) for each in found.fits] == [_shown(*each) for each in _fits(walked, wanted)]


async def test_quiet_time_of_embeddings_is_jumped_over(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = _few(pipeline.settings)
    busy = [range(20), range(200, 220), range(400, 401)]  # the last closes the sessions before it
    quiet = [second for second in range(20, 400) if second not in busy[1]]
    records: list[list[EmbeddingEvent]] = [[Tick(ts=START + second * MICROSECONDS)] for second in quiet]
    for seconds in busy:
        records += embeddings(seconds, 30)
    await send(pipeline, sorted(records, key=lambda record: record[-1].ts))
    absorbed: list[int] = []
    absorb = DriftFold.absorb

    async def counted(self: DriftFold, records: Sequence[Record]) -> list[Output]:
        absorbed.append(len(records))
        return await absorb(self, records)

    monkeypatch.setattr(DriftFold, "absorb", counted)
    traffic = Range("bot", START, START + 405 * MICROSECONDS)
    found = await from_log(settings, traffic, {WITNESS}, lambda what, at: None)
    assert [fit.baseline.n for _, fit in found.fits] == [(20 + 20) * 30]
    assert len(absorbed) < 70


def _shown(name: str, fit: Fit) -> tuple[object, ...]:
    made = fit.baseline if isinstance(fit.baseline, Insufficient) else dump(fit.baseline)
    return name, fit.app, fit.component, fit.releases, fit.first_tick, fit.last_tick, made


def _few(settings: Settings) -> Settings:
    detectors = DetectorsConfig(embedding_witness=EmbeddingWitnessConfig(min_units=1000))
    return settings.model_copy(update={"detectors": detectors})


def _evidence(outputs: Sequence[Output], topic: str) -> list[Evidence]:
    return [decode(output.value, Evidence) for output in outputs if output.topic == topic]
