"""Events as columns: one array for each field that windows and detectors read, so that what is done with events is
done with thousands at once. Texts are left behind here."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats, State
from driftline.detectors.digests import Digests, digests
from driftline.schemas.events import MICROSECONDS, Score, Trace
from driftline.streams.monitor.config import LimitsConfig
from driftline.streams.monitor.names import ErrorTypes, Names, ScoreSeries, TraceSeries
from driftline.streams.pricing import UNKNOWN, Tokens

Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]
Strings = NDArray[np.object_]


class Traces(NamedTuple):
    """Traces until the tick that gives them to the detectors."""

    ts: Integers
    tie: NDArray[np.uint32]  # from the digest of the key: orders traces of one microsecond
    series: Integers
    session: Digests
    user: Strings
    share: Floats
    failed: Bools
    error_type: Strings
    finish_reason: Strings  # the first choice's; "": not known
    input_tokens: NDArray[np.int32]  # `UNKNOWN` where there are none; larger numbers than fit are cut
    output_tokens: NDArray[np.int32]
    counted: Bools  # whether the numbers of input and output tokens are known
    latency: Floats
    ttft: Floats
    nanousd: Integers
    text_bytes: NDArray[np.int32]  # of user, error type and finish reason, about


class Scores(NamedTuple):
    ts: Integers
    tie: NDArray[np.uint32]
    series: Integers
    session: Digests
    user: Strings
    share: Floats
    value: Floats
    text_bytes: NDArray[np.int32]  # of the user, about


C = TypeVar("C", Traces, Scores)
S = TypeVar("S", TraceSeries, ScoreSeries)
Columns = TypeVar("Columns", bound=tuple[Any, ...])


def rows(columns: Columns, index: Any) -> Columns:
    """Some rows: by a slice, a mask or positions."""
    return type(columns)(*(column[index] for column in columns))


def join(parts: Sequence[Columns]) -> Columns:
    return parts[0] if len(parts) == 1 else type(parts[0])(*map(np.concatenate, zip(*parts, strict=True)))


def trace_columns(
    traces: Sequence[Trace],
    ts: Integers,
    key: Digests,
    names: Names[TraceSeries],
    error_types: ErrorTypes,
    price: Callable[..., Integers],
) -> tuple[Traces, Tokens]:
    """`price`: what `Pricer.costs_nanousd` is."""
    keys = list(map(_trace_series, traces))
    series = names.numbers(keys)
    known = error_types.known
    tokens = Tokens(
        integers([t.input_tokens for t in traces]),
        integers([t.output_tokens for t in traces]),
        integers([t.cache_read_input_tokens for t in traces]),
        integers([t.cache_write_input_tokens for t in traces]),
        integers([t.reasoning_output_tokens for t in traces]),
    )
    columns = Traces(
        ts=ts,
        tie=key.astype(np.uint32),
        series=series,
        session=digests([t.conversation_id for t in traces]),
        user=np.array([t.user_id for t in traces], np.object_),
        share=floats([t.canary_share for t in traces]),
        failed=np.array([t.status == "error" for t in traces], np.bool_),
        error_type=np.array(
            [known(t.app, t.error_type) if t.error_type and t.status == "error" else "" for t in traces], np.object_
        ),
        finish_reason=np.array([t.finish_reasons[0] if t.finish_reasons else "" for t in traces], np.object_),
        input_tokens=_cut(tokens.input),
        output_tokens=_cut(tokens.output),
        counted=(tokens.input != UNKNOWN) & (tokens.output != UNKNOWN),
        latency=floats([t.latency_ms for t in traces]),
        ttft=floats([t.ttft_ms for t in traces]),
        nanousd=price(traces, *names.apart(keys, series), tokens, floats([t.cost_usd for t in traces])),
        text_bytes=np.array(
            [
                _bytes(t.user_id) + _bytes(t.error_type) + (_bytes(t.finish_reasons[0]) if t.finish_reasons else 0)
                for t in traces
            ],
            np.int32,
        ),
    )
    return columns, tokens


def score_columns(scores: Sequence[Score], ts: Integers, key: Digests, names: Names[ScoreSeries]) -> Scores:
    return Scores(
        ts=ts,
        tie=key.astype(np.uint32),
        series=names.numbers(map(_score_series, scores)),
        session=digests([s.conversation_id for s in scores]),
        user=np.array([s.user_id for s in scores], np.object_),
        share=floats([s.canary_share for s in scores]),
        value=floats([s.value for s in scores]),
        text_bytes=np.array([_bytes(s.user_id) for s in scores], np.int32),
    )


def _bytes(text: str) -> int:
    """At most so many."""
    return len(text) if text.isascii() else 4 * len(text)


_trace_series: Callable[[Trace], tuple[str, ...]] = attrgetter(*TraceSeries._fields)
_score_series: Callable[[Score], tuple[str, ...]] = attrgetter(*ScoreSeries._fields)


def floats(values: Sequence[float | None]) -> Floats:
    """None becomes NaN."""
    if values.count(None) == len(values):
        return np.full(len(values), np.nan)
    return np.array(values, np.float64)


def integers(values: Sequence[int | None]) -> Integers:
    """None becomes `UNKNOWN`. Counts are below 2**53, so that the way through floats is exact."""
    missing = values.count(None)
    if missing == len(values):
        return np.full(len(values), UNKNOWN)
    if not missing:
        return np.array(values, np.int64)
    return np.nan_to_num(np.array(values, np.float64), nan=UNKNOWN).astype(np.int64)


def _cut(counts: Integers) -> NDArray[np.int32]:
    return np.minimum(counts, np.iinfo(np.int32).max).astype(np.int32)


class Groups:
    """The rows that share a number, together."""

    def __init__(self, numbers: Integers) -> None:
        """At least one row."""
        self.order = np.argsort(numbers, kind="stable")
        ordered = numbers[self.order]
        starts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
        self.starts = np.concatenate([[0], starts])
        self.numbers = ordered[self.starts]
        self.sizes = np.diff(self.starts, append=len(ordered))

    def index(self) -> NDArray[np.intp]:
        """Of each row in `order`, its group's."""
        return np.repeat(np.arange(len(self.starts)), self.sizes)

    def sums(self, values: NDArray[Any]) -> list[int]:
        """Of integers: exact."""
        ordered = values[self.order].astype(np.int64)
        if int(np.abs(ordered).max()) > 2**62 // len(ordered):
            ordered = ordered.astype(np.object_)
        sums: list[int] = np.add.reduceat(ordered, self.starts).tolist()
        return sums


def first_seen(numbers: Integers) -> list[int]:
    """The different small numbers, in order of appearance."""
    at = np.full(int(numbers.max(initial=-1)) + 1, -1)
    at[numbers[::-1]] = np.arange(len(numbers))[::-1]
    seen = np.flatnonzero(at >= 0)
    found: list[int] = seen[np.argsort(at[seen])].tolist()
    return found


class Pending(Generic[C, S]):
    """Events that wait for their tick, in chunks, with the names of their series."""

    def __init__(self, empty: C, kind: type[S], limits: LimitsConfig, state: State | None = None) -> None:
        state = state or {}
        self._empty: C = empty
        self.names: Names[S] = Names(kind, limits, state.get("names"))
        self._chunks: list[C] = []
        self._bytes: list[int] = state.get("bytes", [0, 0])  # of what waits; near its tick, and far ahead
        self._full: list[bool] = state.get("full", [False, False])  # until the next tick
        self.overflow: int = state.get("overflow", 0)  # events that detectors miss, for too many wait
        if state:
            columns = {name: np.array(state["columns"][name], c.dtype) for name, c in empty._asdict().items()}
            self._chunks = [type(empty)(**columns)]

    @property
    def nbytes(self) -> int:
        """Of the snapshot, about."""
        return sum(self._bytes)

    def add(self, columns: C, present: int | None) -> None:
        """Those of them that detectors look at, as far as there is room: as many as come in a few seconds, and few of
        those that are far ahead of the `present`, so that a wrong clock takes no other's room. What is refused once
        stays so until the next tick: then it does not matter how events were batched."""
        watched = self.names.watched(columns.series)
        if watched is not None:
            columns = rows(columns, watched)
        size, far = _row_bytes(columns), _is_far(columns, present)
        kept = np.ones(len(size), np.bool_)
        for i, (mine, most) in enumerate(((~far, _MOST_NEAR), (far, _MOST_FAR))):
            fits = mine & (self._bytes[i] + np.cumsum(size * mine) <= most) & (not self._full[i])
            self._bytes[i] += int(size[fits].sum())
            self._full[i] |= bool((mine & ~fits).any())
            kept &= ~mine | fits
        if not kept.all():
            self.overflow += int((~kept).sum())
            columns = rows(columns, kept)
        self._chunks.append(columns)

    def take_out(self, cut: int) -> None:
        """Those at `cut` or later. To be followed by `take`, which tells how much room there is."""
        self._chunks = [rows(chunk, chunk.ts < cut) for chunk in self._chunks]

    def take(self, until: int, now: int) -> C:
        """Those before `until`, in canonical order: by time, then by key. now: the tick."""
        taken: list[C] = []
        kept: list[C] = []
        for chunk in self._chunks:
            ready = chunk.ts < until
            if ready.all():
                taken.append(chunk)
            elif ready.any():
                taken.append(rows(chunk, ready))
                kept.append(rows(chunk, ~ready))
            else:
                kept.append(chunk)
        self._chunks = [join(kept)] if kept and sum(len(chunk.ts) for chunk in kept) < _SMALL else kept
        waiting = [(_row_bytes(chunk), _is_far(chunk, now)) for chunk in kept]
        self._bytes = [sum(int(size[far == side].sum()) for size, far in waiting) for side in (False, True)]
        self._full = [False, False]
        columns = join(taken) if taken else self._empty
        self.names.tick(now, columns.series)
        return rows(columns, np.lexsort((columns.tie, columns.ts)))

    def forget_idle(self) -> None:
        """Names without events for long. To be called at ticks."""
        numbers = self.names.sweep([chunk.series for chunk in self._chunks])
        if numbers is not None:
            self._chunks = [chunk._replace(series=numbers[chunk.series]) for chunk in self._chunks]

    def snapshot(self) -> State:
        columns = join(self._chunks) if self._chunks else self._empty
        return {
            "names": self.names.snapshot(),
            "bytes": self._bytes,
            "full": self._full,
            "overflow": self.overflow,
            "columns": {
                name: column.tolist() if column.dtype == np.object_ else column
                for name, column in columns._asdict().items()
            },
        }


def _row_bytes(columns: Traces | Scores) -> Integers:
    """[n] of each row in a snapshot, about."""
    fixed = sum(2 if column.dtype == np.object_ else column.itemsize for column in columns)
    return columns.text_bytes.astype(np.int64) + fixed


def _is_far(columns: Traces | Scores, present: int | None) -> Bools:
    """Whose clocks are wrong; nothing is before the first tick."""
    far: Bools = columns.ts > (_NEVER if present is None else present + _FAR_US)
    return far


_NEVER = np.iinfo(np.int64).max
_FAR_US = 60 * MICROSECONDS
_MOST_NEAR = 6 * 2**20  # bytes: 60,000 traces, 10,000 a second
_MOST_FAR = 2**20
_SMALL = 4096  # rows that are quicker in one chunk than in several
_NOTHING = np.empty(0, np.int64)
_NO_KEYS = _NOTHING.astype(np.uint64)
NO_TRACES, _ = trace_columns(
    [], _NOTHING, _NO_KEYS, Names(TraceSeries), ErrorTypes(LimitsConfig()), lambda *_: _NOTHING
)
NO_SCORES = score_columns([], _NOTHING, _NO_KEYS, Names(ScoreSeries))
