"""The judge role: embedded traces in, judge scores out, back onto the events topic.

Scores come when they come, after the windows of their traces may have closed: the monitor takes them as late events.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from driftline.schemas import codec
from driftline.schemas.config import Config
from driftline.schemas.events import BaselineSet, Release, Score, Tick
from driftline.schemas.ids import stable_id, unit_interval
from driftline.schemas.results import Embedding
from driftline.schemas.topics import Topics
from driftline.streams.fold import Fold, FoldFactory, Output, Record

SCORES_PER_RECORD = 500  # a quarter of a megabyte of JSON
LEFT_OUT = ("not_sampled", "not_scored", "undecodable")  # the reasons that are counted


class JudgeConfig(Config):
    enabled: bool = True
    rate: float = Field(
        default=1.0, ge=0, le=1
    )  # of the conversations that were embedded: all, a score costs microseconds


class Judge(Protocol):
    """Scores traces from 0 to 1. One that calls out over HTTP retries by itself, and gives no score for what failed."""

    async def score(self, batch: Sequence[Embedding]) -> list[Score]:
        """At most one score each, with an id that depends on judge and trace alone."""


class RelevanceJudge:
    """How close the response is to the prompt: (1 + cos) / 2 of their embeddings. A rough measure of answering what
    was asked, not of truth; it costs nothing and falls when answers stop being about the question."""

    async def score(self, batch: Sequence[Embedding]) -> list[Score]:
        return [
            _score(embedding, value)
            for embedding, value in zip(batch, relevances(batch), strict=True)
            if value is not None
        ]


def relevances(batch: Sequence[Embedding]) -> list[float | None]:
    """Rounded to six decimals; None where prompt or response has no vector.

    Products of float16 numbers are multiples of 2^-48 and their partial sums stay below 2 for vectors of unit length,
    so every sum is exact in float64: the value depends neither on the order of summation nor on the batch."""
    values: list[float | None] = [None] * len(batch)
    both: dict[int, list[tuple[int, bytes, bytes]]] = {}
    for i, embedding in enumerate(batch):
        if embedding.prompt and embedding.response and len(embedding.prompt) == len(embedding.response):
            both.setdefault(len(embedding.prompt), []).append((i, embedding.prompt, embedding.response))
    for group in both.values():
        prompts = _matrix([prompt for _, prompt, _ in group])
        responses = _matrix([response for _, _, response in group])
        with np.errstate(divide="ignore", invalid="ignore"):
            cosines = _dots(prompts, responses) / np.sqrt(_dots(prompts, prompts) * _dots(responses, responses))
        for (i, _, _), cosine in zip(group, cosines.tolist(), strict=True):
            if cosine == cosine:  # a vector that is not finite, or zero, has no direction
                values[i] = round(min(1.0, max(0.0, (1 + cosine) / 2)), 6)
    return values


def _matrix(vectors: list[bytes]) -> NDArray[np.float64]:
    return np.frombuffer(b"".join(vectors), dtype="<f2").reshape(len(vectors), -1).astype(np.float64)


def _dots(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    dots: NDArray[np.float64] = np.einsum("ij,ij->i", a, b)
    return dots


def _score(embedding: Embedding, value: float) -> Score:
    judge_model = f"cosine/{embedding.embed_model}"
    return Score(
        app=embedding.app,
        ts=embedding.ts,
        id=stable_id("relevance", judge_model, embedding.app, *embedding.key),
        trace_id=embedding.trace_id,
        span_id=embedding.span_id,
        name="relevance",
        value=value,
        source="judge",
        judge_model=judge_model,
        conversation_id=embedding.conversation_id,
        user_id=embedding.user_id,
        environment=embedding.environment,
        release=embedding.release,
        canary_share=embedding.canary_share,
        model=embedding.model,
    )


class _State(msgspec.Struct):
    watermark: int | None
    counters: dict[str, int] = {}


class JudgeFold:
    """Remembers the time and how much it left out, no traces: one that comes again gets the same score and id."""

    def __init__(self, config: JudgeConfig, topic: str, judge: Judge, snapshot: bytes | None = None) -> None:
        self._rate = config.rate if config.enabled else 0.0
        self._topic = topic
        self._judge = judge
        state = codec.unpack(snapshot, _State) if snapshot else _State(None)
        self._watermark = state.watermark
        self._counters = Counter(dict.fromkeys(LEFT_OUT, 0) | state.counters)

    @property
    def watermark(self) -> int | None:
        return self._watermark

    @property
    def counters(self) -> Mapping[str, int]:
        return self._counters

    async def absorb(self, records: Sequence[Record]) -> list[Output]:
        batch: list[Embedding] = []
        for record in records:
            items, rejects = codec.embeddings_in(record.value)
            self._counters["undecodable"] += len(rejects)
            for item in items:
                if isinstance(item, Tick):
                    self._watermark = max(item.ts, self._watermark or item.ts)
                elif isinstance(item, Release | BaselineSet):
                    continue
                elif self._takes(item):
                    batch.append(item)
                else:
                    self._counters["not_sampled"] += 1
        scores = await self._judge.score(batch)
        self._counters["not_scored"] += len(batch) - len(scores)
        by_app: dict[str, list[Score]] = {}
        for score in scores:
            by_app.setdefault(score.app, []).append(score)
        return [
            Output(self._topic, app.encode(), codec.encode_events(of_app[i : i + SCORES_PER_RECORD]))
            for app, of_app in by_app.items()
            for i in range(0, len(of_app), SCORES_PER_RECORD)
        ]

    def snapshot(self) -> bytes:
        return codec.pack(_State(self._watermark, dict(self._counters)))

    def _takes(self, embedding: Embedding) -> bool:
        unit = embedding.conversation_id or embedding.trace_id
        return self._rate >= 1 or unit_interval("judge", unit) < self._rate


def judge_fold_factory(config: JudgeConfig, topics: Topics) -> FoldFactory:
    def create(partition: int, snapshot: bytes | None) -> Fold:
        return JudgeFold(config, topics.events, RelevanceJudge(), snapshot)

    return create
