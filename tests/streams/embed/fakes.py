"""What the tests of embed and judge share: records by hand, and an embedder without a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.schemas import codec
from driftline.schemas.events import Tick, Trace
from driftline.schemas.results import EmbeddingEvent
from driftline.streams.fold import Fold, Output

T0 = 1_790_000_000_000_000
SECOND = 1_000_000
DIMENSIONS = 4


@dataclass(frozen=True)
class FakeRecord:
    offset: int
    value: bytes | None
    key: bytes | None = None
    timestamp: int = 0
    timestamp_type: int = 0


class FakeEncoder:
    """Vectors that depend on the text alone; remembers what it was asked."""

    name = "fake/1"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str]) -> NDArray[np.float16]:
        self.asked.extend(texts)
        seeds = [int.from_bytes(blake2b(text.encode(), digest_size=4).digest()) for text in texts]
        rows = [np.random.default_rng(seed).normal(size=DIMENSIONS) for seed in seeds]
        return np.array([row / np.linalg.norm(row) for row in rows]).astype("<f2")


def trace(number: int, text: str = "how do I reset my router", **fields: Any) -> Trace:
    values: dict[str, Any] = {
        "app": "support",
        "ts": T0 + number * SECOND,
        "trace_id": f"t{number}",
        "input_text": text,
        "output_text": f"answer to {text}",
    }
    return Trace(**{**values, **fields})


def tick(seconds: int) -> Tick:
    return Tick(ts=T0 + seconds * SECOND)


def records(*values: bytes | None) -> list[FakeRecord]:
    return [FakeRecord(offset, value) for offset, value in enumerate(values)]


def event_records(*events: Any) -> list[FakeRecord]:
    return records(*(codec.encode_event(event) for event in events))


def items(outputs: Sequence[Output]) -> list[EmbeddingEvent]:
    return [item for output in outputs for item in codec.decode_embeddings(output.value)]


async def absorb_in_pieces(fold: Fold, source: Sequence[FakeRecord], cuts: Sequence[int]) -> list[Output]:
    edges = [0, *sorted(min(cut, len(source)) for cut in cuts), len(source)]
    return [output for start, end in pairwise(edges) for output in await fold.absorb(source[start:end])]
