"""Texts lately seen, by which alerts of the embeddings half explain themselves."""

from collections import deque
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from driftline.detectors.base import Floats, State
from driftline.schemas.events import MICROSECONDS
from driftline.schemas.results import Embedding

RECENT = 512  # events among which an alert looks for texts
_RECENT_BYTES = 2 * 2**20  # of these: 512 at 768 dimensions
_FAR_US = 60 * MICROSECONDS  # ahead of the tick: a clock is wrong, or ticks stand still
_MOST_NEAR = 4 * 2**20  # bytes: 2,000 embeddings at 384 dimensions
_MOST_FAR = 2**20
_MOST_OTHERS = 1_000  # releases, and baselines


class RecentTexts:
    def __init__(self, packed: bytes | None = None) -> None:
        self._embeddings: deque[Embedding] = deque(unpacked(packed))
        self.nbytes = sum(map(_size, self._embeddings))  # of the snapshot, about

    def extend(self, embeddings: Iterable[Embedding]) -> None:
        for embedding in embeddings:
            self._embeddings.append(embedding)
            self.nbytes += _size(embedding)
            while len(self._embeddings) > RECENT or self.nbytes > _RECENT_BYTES:
                self.nbytes -= _size(self._embeddings.popleft())

    def clear(self) -> None:
        self._embeddings.clear()
        self.nbytes = 0

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


class Waiting:
    """Embeddings until their tick, as far as there is room: as many as come in some seconds, and few of those that are
    far ahead of the tick, so that a wrong clock takes no other's room."""

    def __init__(self, state: State | None = None) -> None:
        state = state or {}
        self._embeddings: list[Embedding] = unpacked(state.get("embeddings"))
        self._bytes: list[int] = state.get("bytes", [0, 0])  # near their tick, and far ahead
        self.overflow: int = state.get("overflow", 0)  # embeddings that detectors miss

    @property
    def nbytes(self) -> int:
        """Of the snapshot, about."""
        return sum(self._bytes)

    def add(self, embedding: Embedding, now: int | None) -> None:
        size, far = _size(embedding), _is_far(embedding, now)
        if self._bytes[far] + size > (_MOST_NEAR, _MOST_FAR)[far]:
            self.overflow += 1
            return
        self._bytes[far] += size
        self._embeddings.append(embedding)

    def takes(self, waiting: int) -> bool:
        """Whether a release or baseline may wait beside so many others."""
        self.overflow += waiting >= _MOST_OTHERS
        return waiting < _MOST_OTHERS

    def take_out(self, latest: int) -> int:
        """Those after `latest`; returns how many. To be followed by `take`, which tells how much room there is."""
        before, self._embeddings = self._embeddings, [e for e in self._embeddings if e.ts <= latest]
        return len(before) - len(self._embeddings)

    def take(self, until: int, now: int) -> list[Embedding]:
        """Those before `until`, in canonical order. now: the tick."""
        ready = sorted((e for e in self._embeddings if e.ts < until), key=lambda e: (e.ts, e.key))
        self._embeddings = [e for e in self._embeddings if e.ts >= until]
        self._bytes = [0, 0]
        for embedding in self._embeddings:
            self._bytes[_is_far(embedding, now)] += _size(embedding)
        return ready

    def snapshot(self) -> State:
        return {"embeddings": packed(self._embeddings), "bytes": self._bytes, "overflow": self.overflow}


def _is_far(embedding: Embedding, now: int | None) -> bool:
    return now is not None and embedding.ts > now + _FAR_US


def _size(embedding: Embedding) -> int:
    """Bytes of it in a snapshot, about: field names, vectors, texts."""
    e = embedding
    texts = (e.app, e.trace_id, e.span_id, e.conversation_id, e.user_id, e.environment, e.release, e.model, e.excerpt)
    vectors_ = len(e.prompt or b"") + len(e.response or b"")
    return 250 + vectors_ + sum(len(text.encode()) for text in texts)


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
