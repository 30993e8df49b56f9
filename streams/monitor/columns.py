"""Events as columns: one array for each field that windows and detectors read, so that what is done with events is
done with thousands at once. Texts are left behind here."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats, State
from driftline.detectors.digests import Digests, digests
from driftline.schemas.events import Score, Trace
from driftline.streams.pricing import UNKNOWN, Tokens

Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]
Strings = NDArray[np.object_]


class TraceSeries(NamedTuple):
    """What many traces have in common."""

    app: str
    release: str
    provider: str
    request_model: str
    response_model: str

    @property
    def model(self) -> str:
        return self.response_model or self.request_model


class ScoreSeries(NamedTuple):
    app: str
    release: str
    name: str
    model: str


S = TypeVar("S", TraceSeries, ScoreSeries)


class Names(dict[tuple[str, ...], int], Generic[S]):
    """Numbers of series in order of appearance: meaningful in this process only, and never a part of a result."""

    def __init__(self, kind: type[S]) -> None:
        self._kind: type[S] = kind
        self.names: list[S] = []

    def __missing__(self, key: tuple[str, ...]) -> int:
        number = self[key] = len(self)
        self.names.append(self._kind(*key))
        return number


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


class Scores(NamedTuple):
    ts: Integers
    tie: NDArray[np.uint32]
    series: Integers
    session: Digests
    user: Strings
    share: Floats
    value: Floats


C = TypeVar("C", Traces, Scores)
Columns = TypeVar("Columns", bound=tuple[Any, ...])


def rows(columns: Columns, index: Any) -> Columns:
    """Some rows: by a slice, a mask or positions."""
    return type(columns)(*(column[index] for column in columns))


def join(parts: Sequence[Columns]) -> Columns:
    return parts[0] if len(parts) == 1 else type(parts[0])(*map(np.concatenate, zip(*parts, strict=True)))


def trace_columns(
    traces: Sequence[Trace], ts: Integers, key: Digests, names: Names[TraceSeries], price: Callable[..., Integers]
) -> tuple[Traces, Tokens]:
    """`price`: what `Pricer.costs_nanousd` is."""
    series = np.array(list(map(names.__getitem__, map(_trace_series, traces))), np.int64)
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
        error_type=np.array([t.error_type for t in traces], np.object_),
        finish_reason=np.array([t.finish_reasons[0] if t.finish_reasons else "" for t in traces], np.object_),
        input_tokens=_cut(tokens.input),
        output_tokens=_cut(tokens.output),
        counted=(tokens.input != UNKNOWN) & (tokens.output != UNKNOWN),
        latency=floats([t.latency_ms for t in traces]),
        ttft=floats([t.ttft_ms for t in traces]),
        nanousd=price(traces, series, names.names, tokens, floats([t.cost_usd for t in traces])),
    )
    return columns, tokens


def score_columns(scores: Sequence[Score], ts: Integers, key: Digests, names: Names[ScoreSeries]) -> Scores:
    return Scores(
        ts=ts,
        tie=key.astype(np.uint32),
        series=np.array(list(map(names.__getitem__, map(_score_series, scores))), np.int64),
        session=digests([s.conversation_id for s in scores]),
        user=np.array([s.user_id for s in scores], np.object_),
        share=floats([s.canary_share for s in scores]),
        value=floats([s.value for s in scores]),
    )


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

    def __init__(self, empty: C, kind: type[S], state: State | None = None) -> None:
        self._empty: C = empty
        self._kind: type[S] = kind
        self._chunks: list[C] = []
        self.names: Names[S] = Names(kind)
        if state is not None:
            self._load(state)

    def add(self, columns: C) -> None:
        self._chunks.append(columns)

    def take(self, until: int) -> C:
        """Those before `until`, in canonical order: by time, then by key."""
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
        if not taken:
            return self._empty
        columns = join(taken)
        return rows(columns, np.lexsort((columns.tie, columns.ts)))

    def forget_names(self) -> None:
        """Keep only the names in use, if there are many."""
        if len(self.names) > _MANY:
            state = self.snapshot()
            self._chunks, self.names = [], Names(self._kind)
            self._load(state)

    def snapshot(self) -> State:
        columns = join(self._chunks) if self._chunks else self._empty
        used, series = np.unique(columns.series, return_inverse=True)
        return {
            "names": [list(self.names.names[number]) for number in used.tolist()],
            "columns": {
                name: column.tolist() if column.dtype == np.object_ else column
                for name, column in columns._replace(series=series)._asdict().items()
            },
        }

    def _load(self, state: State) -> None:
        numbers = np.array([self.names[tuple(name)] for name in state["names"]], np.int64)
        columns = dict(state["columns"])
        columns["series"] = numbers[columns["series"]]
        for name, column in self._empty._asdict().items():
            columns[name] = np.array(columns[name], column.dtype)
        self.add(type(self._empty)(**columns))


_SMALL = 4096  # rows that are quicker in one chunk than in several
_MANY = 10_000  # series
_NOTHING = np.empty(0, np.int64)
NO_TRACES, _ = trace_columns([], _NOTHING, _NOTHING.astype(np.uint64), Names(TraceSeries), lambda *_: _NOTHING)
NO_SCORES = score_columns([], _NOTHING, _NOTHING.astype(np.uint64), Names(ScoreSeries))
