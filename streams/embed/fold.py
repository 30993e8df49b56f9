"""The fold of the embed role: events in, embeddings and the ticks between them out."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import msgspec

from driftline.schemas import codec
from driftline.schemas.events import BaselineSet, Release, Tick, Trace
from driftline.schemas.results import Embedding, EmbeddingEvent
from driftline.schemas.topics import Topics
from driftline.streams.embed.config import EmbedConfig
from driftline.streams.embed.embedder import Embedded, Embedder, load_embedder
from driftline.streams.embed.sampler import Sampler, SamplerState
from driftline.streams.fold import Fold, FoldFactory, Output, Record
from driftline.streams.intake import Intake
from driftline.streams.log_time import LogTime

ITEMS_PER_RECORD = 128  # a quarter of a megabyte of 384 dimensions; far below the topic's limit at 4,096 and long names

LEFT_OUT = ("without_text", "not_sampled", "undecodable", "elsewhere", "ahead_of_time")  # the reasons that are counted

_Taken: TypeAlias = Trace | Release | Tick | BaselineSet


class _State(msgspec.Struct):
    watermark: int | None
    sampler: SamplerState
    counters: dict[str, int] = {}
    heard: int = 0


class EmbedFold:
    """Embeds prompt and response of the sampled traces. Releases, ticks and baselines go on in their place,
    after all that came before them. What is ahead of its time goes no further: here the log still says so."""

    def __init__(
        self,
        config: EmbedConfig,
        topic: str,
        embedder: Embedder,
        snapshot: bytes | None = None,
        intake: Intake | None = None,
        *,
        ahead_s: int,
    ) -> None:
        """`intake`: of the partition; None: over records that Driftline makes itself. `ahead_s`: the monitor's."""
        state = codec.unpack(snapshot, _State) if snapshot else _State(None, SamplerState())
        self._topic = topic
        self._embedder = embedder
        self._intake = intake or Intake()
        self._excerpt_chars = config.excerpt_chars
        self._sampler = Sampler(config.sample, state.sampler)
        self._time = LogTime(ahead_s, state.watermark, state.heard)
        self._counters = Counter(dict.fromkeys(LEFT_OUT, 0) | state.counters)

    @property
    def watermark(self) -> int | None:
        return self._time.tick

    @property
    def counters(self) -> Mapping[str, int]:
        return self._counters

    async def absorb(self, records: Sequence[Record]) -> list[Output]:
        taken = [item for record in records for item in self._take(record)]
        texts = [text for item in taken if isinstance(item, Trace) for text in (item.input_text, item.output_text)]
        embedded = iter(await self._embedder.embed(texts))
        items: list[EmbeddingEvent] = [
            self._embedding(item, next(embedded), next(embedded)) if isinstance(item, Trace) else item for item in taken
        ]
        return [
            Output(self._topic, None, codec.pack(items[i : i + ITEMS_PER_RECORD]))
            for i in range(0, len(items), ITEMS_PER_RECORD)
        ]

    def snapshot(self) -> bytes:
        return codec.pack(_State(self._time.tick, self._sampler.state(), dict(self._counters), self._time.heard))

    def _take(self, record: Record) -> list[_Taken]:
        """What of a record goes on. What cannot be decoded is the archive's to report; what is at home elsewhere comes
        there, forwarded by the monitor."""
        taken: list[_Taken] = []
        if self._time.hears(record):
            self._time.hear(record)
        found = self._intake(record)
        self._counters["undecodable"] += found.rejects
        self._counters["elsewhere"] += len(found.away)
        for event in found.events:
            if not isinstance(event, Tick) and self._time.is_ahead(event.ts):
                self._counters["ahead_of_time"] += 1
            elif isinstance(event, Trace):
                if not _has_text(event.input_text) and not _has_text(event.output_text):
                    self._counters["without_text"] += 1
                elif self._sampler.take(event):
                    taken.append(event)
                else:
                    self._counters["not_sampled"] += 1
            elif isinstance(event, Tick) and (self._time.tick is None or event.ts > self._time.tick):
                self._time.tick = event.ts
                self._sampler.advance(event.ts)
                taken.append(event)
            elif isinstance(event, Release | BaselineSet):
                taken.append(event)
        return taken

    def _embedding(self, trace: Trace, prompt: Embedded | None, response: Embedded | None) -> Embedding:
        return Embedding(
            app=trace.app,
            ts=trace.ts,
            trace_id=trace.trace_id,
            span_id=trace.span_id,
            conversation_id=trace.conversation_id,
            user_id=trace.user_id,
            environment=trace.environment,
            release=trace.release,
            canary_share=trace.canary_share,
            model=trace.model,
            embed_model=self._embedder.name,
            prompt=prompt and prompt.vector,
            response=response and response.vector,
            excerpt=trace.input_text[: self._excerpt_chars],
            prompt_language=prompt and prompt.language,
            response_language=response and response.language,
        )


def embed_fold_factory(config: EmbedConfig, topics: Topics, ahead_s: int) -> FoldFactory:
    """Loads the model, which takes seconds. Raises ConfigError if there is no such model or device.
    `ahead_s`: the monitor's."""
    embedder = load_embedder(config)

    def create(partition: int, snapshot: bytes | None) -> Fold:
        return EmbedFold(config, topics.embeddings, embedder, snapshot, Intake(topics, partition), ahead_s=ahead_s)

    return create


def _has_text(text: str) -> bool:
    return bool(text) and not text.isspace()
