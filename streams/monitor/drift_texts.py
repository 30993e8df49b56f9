"""Texts lately seen, by which alerts of the embeddings half explain themselves."""

from collections import deque
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from driftline.detectors.base import Floats
from driftline.schemas.results import Embedding

RECENT = 512  # events among which an alert looks for texts


class RecentTexts:
    def __init__(self, packed: bytes | None = None) -> None:
        self._embeddings: deque[Embedding] = deque(unpacked(packed), maxlen=RECENT)

    def extend(self, embeddings: Iterable[Embedding]) -> None:
        self._embeddings.extend(embeddings)

    def clear(self) -> None:
        self._embeddings.clear()

    def of(self, app: str, component: str, release: str | None = None, since: int = 0) -> list[Embedding]:
        """Those with something to quote, the oldest first."""
        return [
            e
            for e in self._embeddings
            if e.app == app and getattr(e, component) is not None and e.excerpt
            if release is None or e.release == release
            if e.ts >= since
        ]

    def snapshot(self) -> bytes:
        return packed(self._embeddings)


def packed(embeddings: Iterable[Embedding]) -> bytes:
    return msgspec.msgpack.encode(list(embeddings))


def unpacked(value: bytes | None) -> list[Embedding]:
    return msgspec.msgpack.decode(value, type=list[Embedding]) if value else []


def vectors(embeddings: Sequence[Embedding], component: str) -> Floats:
    """[n, d] of a component that all of them have."""
    if not embeddings:
        return np.empty((0, 0))
    raw = b"".join(getattr(e, component) for e in embeddings)
    return np.frombuffer(raw, dtype="<f2").reshape(len(embeddings), -1).astype(np.float64)


def quoted(texts: Iterable[str], most: int) -> list[str]:
    return [f"“{text}”" for text in list(dict.fromkeys(texts))[:most]]
