"""The embeddings half of the monitor: whether prompts and responses still come from where the reference came from.

A fold of its own over the embeddings topic, since two topics have no common order.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import compress
from typing import Any

import msgspec
import numpy as np

from driftline.detectors.config import DetectorsConfig
from driftline.detectors.digests import digests
from driftline.detectors.registry import make
from driftline.detectors.state import pack
from driftline.detectors.tscan import EmbeddingDrift
from driftline.detectors.units import FirstSixteen
from driftline.schemas.codec import decode_embeddings
from driftline.schemas.events import MICROSECONDS, Tick
from driftline.schemas.results import Embedding, Result
from driftline.schemas.topics import Topics
from driftline.streams.fold import Fold, FoldFactory, Output, Record
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.dedup import RecentKeys
from driftline.streams.monitor.fold import Publisher, load_state
from driftline.streams.monitor.incidents import Incidents
from driftline.streams.monitor.watch import Streams, Transition, Units, Watch

VERSION = 2  # of the snapshot's layout
RULE = "embedding_drift"
COMPONENTS = ("prompt", "response")
RECENT = 512  # events among which an alert looks for the texts that carry the drift


class DriftFold:
    def __init__(
        self, config: MonitorConfig, detectors: DetectorsConfig, topics: Topics, snapshot: bytes | None
    ) -> None:
        state = load_state(snapshot, "drift fold", VERSION)
        self._config = config
        self._detectors = detectors
        self._publish = Publisher(topics)
        self._grace = config.windows.grace_s * MICROSECONDS
        self._tick_us = round(detectors.budget.tick_s * MICROSECONDS)
        self._watermark: int | None = state.get("watermark")
        self._next_tick: int | None = state.get("next_tick")
        self._reported: int = state.get("reported", 0)
        self._ahead = config.windows.ahead_s * MICROSECONDS
        self._ahead_of_time: int = state.get("ahead_of_time", 0)
        self._seen = RecentKeys(config.dedup, config.windows, state.get("seen"))
        self._pending: list[Embedding] = _embeddings(state.get("pending"))
        self._recent: deque[Embedding] = deque(_embeddings(state.get("recent")), maxlen=RECENT)
        self._streams = Streams(state.get("streams"))
        self._watch = self._new_watch(state.get("watch"))
        self._sessions = FirstSixteen(detectors.units)
        if "sessions" in state:
            self._sessions.restore(state["sessions"])
        self._incidents = Incidents(detectors.budget, state.get("incidents"))
        self._embed_model: str = state.get("embed_model", "")

    @property
    def watermark(self) -> int | None:
        return self._watermark

    @property
    def counters(self) -> Mapping[str, int]:
        """What was not counted, or not as long as it should have been."""
        return {
            "repeated": self._seen.repeated,
            "ahead_of_time": self._ahead_of_time,
            "dedup_overflow": self._seen.overflow,
            "streams_over_limit": self._watch.over_limit,
            "sessions_forgotten": self._sessions.overflow,
        }

    def snapshot(self) -> bytes:
        return pack(
            {
                "version": VERSION,
                "watermark": self._watermark,
                "next_tick": self._next_tick,
                "reported": self._reported,
                "ahead_of_time": self._ahead_of_time,
                "seen": self._seen.snapshot(),
                "pending": msgspec.msgpack.encode(self._pending),
                "recent": msgspec.msgpack.encode(list(self._recent)),
                "streams": self._streams.snapshot(),
                "watch": self._watch.snapshot(),
                "sessions": self._sessions.snapshot(),
                "incidents": self._incidents.snapshot(),
                "embed_model": self._embed_model,
            }
        )

    async def absorb(self, records: Sequence[Record]) -> list[Output]:
        outputs: list[Output] = []
        batch: list[Embedding] = []
        for record in records:
            for item in decode_embeddings(record.value or b""):
                if not isinstance(item, Tick):
                    batch.append(item)
                elif self._watermark is None or item.ts > self._watermark:
                    self._take(batch)
                    batch = []
                    self._watermark = item.ts
                    self._seen.tick(item.ts)
                    outputs += [self._publish(result) for result in self._tick(item.ts, record.offset)]
        self._take(batch)
        return outputs

    def _take(self, embeddings: Sequence[Embedding]) -> None:
        if not embeddings:
            return
        key = digests(f"{e.app}\x1f{e.key}" for e in embeddings)
        ts = np.array([e.ts for e in embeddings], np.int64)
        new = self._seen.new(key, ts)
        timely = new if self._watermark is None else new & (ts <= self._watermark + self._ahead)
        self._ahead_of_time += int((new & ~timely).sum())
        self._pending += compress(embeddings, timely.tolist())

    def _tick(self, ts: int, revision: int) -> list[Result]:
        until = (ts - self._grace) // self._tick_us * self._tick_us
        ready = sorted((e for e in self._pending if e.ts < until), key=lambda e: (e.ts, e.key))
        self._pending = [e for e in self._pending if e.ts >= until]
        end = until // self._tick_us
        if self._next_tick is None:
            self._next_tick = ready[0].ts // self._tick_us if ready else end
        results: list[Result] = []
        start = 0
        for i, embedding in enumerate(ready):
            tick = self._tick_of(embedding)
            if i + 1 == len(ready) or self._tick_of(ready[i + 1]) != tick:
                results += self._step(ready[start : i + 1], tick, revision)
                start = i + 1
        if end > self._next_tick:
            results += self._report(self._watch.advance(end - 1), revision)
            self._next_tick = end
        if until - self._reported >= self._config.evidence_s * MICROSECONDS:
            self._reported = until
            results += self._incidents.readings(RULE, self._watch.readings(), until, revision)
        return results

    def _tick_of(self, embedding: Embedding) -> int:
        """Its own, or the first open one for an embedding that came too late."""
        assert self._next_tick is not None
        return max(embedding.ts // self._tick_us, self._next_tick)

    def _step(self, embeddings: list[Embedding], tick: int, revision: int) -> list[Result]:
        results: list[Result] = []
        if embeddings[-1].embed_model != self._embed_model:
            results += self._change_model(embeddings[-1].embed_model, tick, revision)
        embeddings = [e for e in embeddings if e.embed_model == self._embed_model]
        self._recent.extend(embeddings)
        releases = np.array([self._streams.number(e.app, e.release) for e in embeddings], np.int64)
        sessions = digests(e.conversation_id for e in embeddings)
        taken = self._sessions.take(releases, sessions, (tick + 1) * self._tick_us)
        for component in COMPONENTS:
            chosen = [i for i, e in enumerate(embeddings) if taken.mask[i] and getattr(e, component) is not None]
            if not chosen:
                continue
            mine = [embeddings[i] for i in chosen]
            units = Units(
                np.array([self._streams.number(e.app, e.release, component) for e in mine], dtype=np.int64),
                _vectors(mine, component),
                taken.session[chosen],
                np.array([e.canary_share is None for e in mine], dtype=np.bool_),  # no canary is running
            )
            results += self._report(self._watch.step(units, tick), revision)
        for reference in self._watch.references():
            reference.close(self._sessions.open_from)
        return results

    def _change_model(self, embed_model: str, tick: int, revision: int) -> list[Result]:
        """Vectors of different models have nothing in common: everything is learned anew."""
        results: list[Result] = []
        if self._embed_model:
            reason = f"the embedding model changed from {self._embed_model} to {embed_model}"
            alarmed = [reading.stream for reading in self._watch.readings() if reading.alarm]
            results += self._incidents.abandon(RULE, alarmed, tick * self._tick_us, revision, reason)
            self._watch = self._new_watch(None)
            self._recent.clear()
        self._embed_model = embed_model
        return results

    def _new_watch(self, state: Any) -> Watch:
        return Watch(make(RULE, self._detectors), self._streams, self._detectors.budget.streams, state)

    def _report(self, transitions: Sequence[Transition], revision: int) -> list[Result]:
        results: list[Result] = []
        for transition in transitions:
            top = self._contributors(transition) if transition.kind == "fired" else []
            results += self._incidents.apply(RULE, transition, revision, top)
        return results

    def _contributors(self, transition: Transition) -> list[str]:
        """The recent texts that pull most into the direction of the drift."""
        stream, detector = transition.stream, self._watch.detector
        assert isinstance(detector, EmbeddingDrift)
        recent = [
            e
            for e in self._recent
            if (e.app, e.release) == stream[:2] and getattr(e, stream.component) is not None and e.excerpt
        ]
        if not recent:
            return []
        pull = detector.witness_scores(self._watch.slot(stream), _vectors(recent, stream.component))
        texts = dict.fromkeys(recent[i].excerpt for i in np.argsort(-pull, kind="stable"))
        return [f"“{text}”" for text in list(texts)[: self._config.top_contributors]]


def _vectors(embeddings: Sequence[Embedding], component: str) -> Any:
    raw = b"".join(getattr(e, component) for e in embeddings)
    return np.frombuffer(raw, dtype="<f2").reshape(len(embeddings), -1).astype(np.float64)


def _embeddings(packed: bytes | None) -> list[Embedding]:
    return msgspec.msgpack.decode(packed, type=list[Embedding]) if packed else []


def drift_fold_factory(config: MonitorConfig, detectors: DetectorsConfig, topics: Topics) -> FoldFactory:
    def make_fold(partition: int, snapshot: bytes | None) -> Fold:
        return DriftFold(config, detectors, topics, snapshot)

    return make_fold
