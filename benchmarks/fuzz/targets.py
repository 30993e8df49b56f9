"""What is fuzzed: each takes any bytes, and whatever it raises is a fault."""

import asyncio
import contextlib
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
from aiokafka import ConsumerRecord, TopicPartition

from benchmarks.fuzz import data
from benchmarks.fuzz.data import Choices
from driftline.detectors.config import DetectorsConfig
from driftline.schemas import codec
from driftline.schemas.codec import DecodeError, decode, decode_events, embeddings_in, encode_events, pack, unpack
from driftline.schemas.events import MICROSECONDS, Tick
from driftline.schemas.results import Embedding, Progress, result_types
from driftline.schemas.topics import Topics
from driftline.sinks.clickhouse.rows import decode_rows, encode_rows
from driftline.streams.archive import Batch
from driftline.streams.embed.config import EmbedConfig
from driftline.streams.embed.embedder import Embedded
from driftline.streams.embed.fold import EmbedFold
from driftline.streams.fold import Fold
from driftline.streams.judge import JudgeConfig, JudgeFold, RelevanceJudge
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.drift import DriftFold
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.operate.letters import pretty, what_is_wrong
from driftline.streams.poison import PoisonWatch
from driftline.streams.pricing import Pricer

TOPICS = Topics("fuzz")
_TYPES = result_types(TOPICS)


class Made(NamedTuple):
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int = 0
    timestamp_type: int = 0


@cache
def pricer() -> Pricer:
    return Pricer()


def events(raw: bytes) -> None:
    """The codec: bytes as they are, and events damaged in places."""
    for record in (raw, *data.log(Choices(raw), 6)):
        found, rejects = decode_events(record)
        rows = decode_rows(record)
        assert len(found) == len(rows.events), "rows and events are not refused alike"
        assert rejects == rows.rejects, "rows and events are not refused alike"
        assert len(rejects) <= codec.MAX_REJECTS + 1
        assert len(decode_events.indexes(record)) == len(found)
        assert all(len(reject.reason) <= codec.MAX_REASON for reject in rejects)
        assert decode_events(encode_events(found)) == (found, []), "events do not survive"
        for _ in pretty(record, rejects[0].reason if rejects else ""):
            pass


def results(raw: bytes) -> None:
    """The codecs of results."""
    for type_ in (*_TYPES.values(), Progress):
        for decoder in (decode, unpack):
            with contextlib.suppress(DecodeError):
                decoder(raw, type_)
    embeddings_in(raw)
    for topic in _TYPES:
        what_is_wrong(raw, topic, TOPICS)


def _absorbed(make: Callable[[bytes | None], Fold], records: list[bytes]) -> None:
    """All results can be read, and a restart in the middle changes nothing."""

    async def run() -> None:
        made = [Made(offset, None, value) for offset, value in enumerate(records)]
        half = len(made) // 2
        first = make(None)
        outputs = await first.absorb(made[:half])
        again = make(first.snapshot())
        rest = await first.absorb(made[half:])
        assert await again.absorb(made[half:]) == rest, "a restart changes results"
        assert again.snapshot() == first.snapshot(), "a restart changes the state"
        for output in (*outputs, *rest):
            if output.topic in _TYPES:
                decode(output.value, _TYPES[output.topic])

    with warnings.catch_warnings(), np.errstate(all="warn", under="ignore"):
        warnings.simplefilter("error")
        asyncio.run(run())


def monitor(raw: bytes) -> None:
    """MonitorFold over events at the edges of their types."""
    choices = Choices(raw)
    _absorbed(lambda state: MonitorFold(MonitorConfig(), DetectorsConfig(), TOPICS, pricer(), state), data.log(choices))


class Embedder:
    name = "fuzz/1"

    async def embed(self, texts: Any) -> list[Embedded | None]:
        return [Embedded(np.ones(8, "<f2").tobytes(), "en") if text.strip() else None for text in texts]


def embed(raw: bytes) -> None:
    """EmbedFold without a model."""
    _absorbed(
        lambda state: EmbedFold(EmbedConfig(), TOPICS.embeddings, Embedder(), state, ahead_s=3600),
        data.log(Choices(raw), 60),
    )


_EMBEDDING: Any = msgspec.inspect.type_info(Embedding)


def embedding_log(choices: Choices) -> list[bytes]:
    now = data.START
    records: list[bytes] = []
    while choices and len(records) < 60:
        given = data.fields(_EMBEDDING, choices)
        if choices.number(8):
            given |= {"ts": now, "app": "a", "release": "v1", "embed_model": "m"}
        vectors = [choices.bytes(32) if choices.number(4) == 0 else _vector(choices) for _ in range(2)]
        given |= {"prompt": vectors[0], "response": vectors[1]}
        try:
            items: list[Any] = [
                Embedding(**{**given, "trace_id": f"{len(records)}.{i}"}) for i in range(choices.of([1, 2, 40]))
            ]
        except ValueError:
            items = []
        now += choices.of([0, 1, 60]) * MICROSECONDS
        records.append(pack([*items, Tick(ts=now)]))
        if choices.number(10) == 9:
            records.append(data.damaged(records.pop(), choices))
    return records


def _vector(choices: Choices) -> bytes | None:
    kind = choices.number(6)
    if kind == 0:
        return None
    vector = np.random.default_rng(choices.number(50)).normal(size=8)
    return (vector / np.linalg.norm(vector) * [0.0, 1.0, 1.0, 1.0, 1e6][kind - 1]).astype("<f2").tobytes()


def drift(raw: bytes) -> None:
    """DriftFold over embeddings of any shape."""
    with np.errstate(over="ignore"):
        records = embedding_log(Choices(raw))
    _absorbed(lambda state: DriftFold(MonitorConfig(), DetectorsConfig(), TOPICS, state), [raw[:100], *records])


def judge(raw: bytes) -> None:
    with np.errstate(over="ignore"):
        records = embedding_log(Choices(raw))
    _absorbed(lambda state: JudgeFold(JudgeConfig(), TOPICS.events, RelevanceJudge(), state), [raw[:100], *records])


def archive(raw: bytes) -> None:
    """Batch: rows and letters of any records of any of its topics, ready to be sent."""
    batch = Batch(TOPICS, pricer(), PoisonWatch(0))
    choices = Choices(raw)
    records = [(TOPICS.events, value) for value in data.log(choices, 10)]
    records += [(topic, raw) for topic in (TOPICS.events, *_TYPES)]
    for topic, type_ in _TYPES.items():
        records.append((topic, codec.encode(data.value(msgspec.inspect.type_info(type_), choices))))
    for offset, (topic, value) in enumerate(records):
        record = ConsumerRecord(topic, 0, offset, 0, 0, None, value, None, 0, len(value), ())
        batch.add(TopicPartition(topic, 0), [record])
    for table, rows in batch.rows.items():
        encode_rows(rows)
        for position in range(len(rows)):
            batch.refused(table, position, "no")
    for letter in batch.letters:
        codec.encode(letter)
