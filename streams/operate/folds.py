"""The monitor's folds run once more, offline: over the log itself, or over what ClickHouse keeps of it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import msgspec
from aiokafka import TopicPartition

from driftline.schemas.codec import decode, decode_events, encode_event, encode_events
from driftline.schemas.events import EARLIEST_TS, MICROSECONDS, BaselineSet, Event, Release, Score, Tick, Trace
from driftline.schemas.results import Result, result_types
from driftline.schemas.topics import Topics
from driftline.sinks.clickhouse.baselines import stored_baselines
from driftline.sinks.clickhouse.client import Client, session
from driftline.sinks.clickhouse.config import ClickHouseConfig
from driftline.sinks.clickhouse.rows import Row, result_row
from driftline.sinks.clickhouse.writer import Writer
from driftline.streams.fold import Fold, FoldFactory, Output, Record, sent_at
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.operate.log import Log
from driftline.streams.operate.times import show_time

FoldName: TypeAlias = Literal["monitor", "drift"]
Tell: TypeAlias = Callable[[int | None], None]
"""(event time reached, microseconds)"""

CHUNK = 600 * MICROSECONDS  # of event time, asked of ClickHouse at once


class Results:
    """What the folds publish, into a database, as the archive writes it."""

    def __init__(self, writer: Writer, topics: Topics, batch_rows: int, app: str | None) -> None:
        self._writer = writer
        self._types = result_types(topics)
        self._batch_rows = batch_rows
        self._app = app
        self._events = topics.events
        self._rows: dict[str, list[Row]] = {}
        self._size = 0

    async def take(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            if output.topic == self._events:  # what was forwarded is in the log already
                continue
            result: Result = decode(output.value, self._types[output.topic])
            if self._app is None or result.app == self._app:
                table, row = result_row(result, result.revision)
                self._rows.setdefault(table, []).append(row)
                self._size += 1
        if self._size >= self._batch_rows:
            await self.flush()

    async def flush(self) -> None:
        """:raises RuntimeError: ClickHouse refused a row, which it never does of the first run."""
        for table, rows in self._rows.items():
            if refused := await self._writer.insert(table, rows):
                raise RuntimeError(f"ClickHouse refused a row of {table}: {refused[0].reason}")
        self._rows, self._size = {}, 0


@dataclass
class Extent:
    """Which part of the log a fold was run over, per partition. Offsets are of the first record, and after the last."""

    starts: dict[int, int] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    born: dict[int, int] = field(default_factory=dict)  # when the first record was sent, microseconds
    begins: dict[int, int] = field(default_factory=dict)  # where that is no beginning: from when on windows are whole

    @property
    def whole(self) -> bool:
        return not any(self.starts.values())


async def run_over_log(
    log: Log,
    topic: str,
    make: FoldFactory,
    results: Results,
    *,
    limits: Mapping[int, int],
    aside: Mapping[int, Set[int]],
    sent_from: int | None,
    until: int | None,
    tell: Tell,
) -> Extent:
    """From the records sent at `sent_from` (None: from the beginning) up to the offsets `limits`, or until a tick says
    `until`; without those that the first run went on without (`aside`)."""
    partitions = await log.partitions(topic)
    starts = await log.starts(partitions, sent_from)
    extent = Extent({tp.partition: start for tp, start in starts.items()})
    extent.ends = {tp.partition: min(limits[tp.partition], start) for tp, start in starts.items()}
    folds: dict[TopicPartition, Fold] = {tp: make(tp.partition, None) for tp in partitions}
    reading = log.read({tp: start for tp, start in starts.items() if start < limits[tp.partition]})
    async for tp, records in reading:
        fold, number = folds[tp], tp.partition
        extent.born.setdefault(number, sent_at(records[0].timestamp) or 0)
        taken = [record for record in records if record.offset < limits[number]]
        done = len(taken) < len(records)
        for i in range(0, len(taken), _AT_ONCE):
            some = taken[i : i + _AT_ONCE]
            await results.take(await fold.absorb([record for record in some if record.offset not in aside[number]]))
            extent.ends[number] = some[-1].offset + 1
            if isinstance(fold, MonitorFold) and fold.begins is not None:
                extent.begins[number] = fold.begins
            if until is not None and (fold.watermark or 0) >= until:
                done = True
                break
        if done or extent.ends[number] >= limits[number]:
            reading.stop(tp)
        tell(min((f.watermark for f in folds.values() if f.watermark is not None), default=None))
    await results.flush()
    return extent


_AT_ONCE = 500  # records: a replay that is to end ends soon after its time


@dataclass(frozen=True)
class Made:
    """A record that nobody sent."""

    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int = 0
    timestamp_type: int = 0


class Piece(NamedTuple):
    """Of event time: what happened in [since, until), in order."""

    since: int
    until: int
    events: Sequence[Event]


async def run_over_events(
    pieces: AsyncIterator[Piece],
    make: FoldFactory,
    results: Results,
    *,
    home: Callable[[str], int],
    tick_us: int,
    tell: Tell,
) -> None:
    """Events with a tick every `tick_us` between them."""
    folds: dict[int, Fold] = {}
    offsets: dict[int, int] = {}
    async for piece in pieces:
        by_partition: dict[int, list[Event]] = {partition: [] for partition in folds}
        for event in piece.events:
            assert not isinstance(event, Tick)
            by_partition.setdefault(home(event.app), []).append(event)
        for partition, events in by_partition.items():
            fold = folds.setdefault(partition, make(partition, None))
            values = with_ticks(events, piece.since, piece.until, tick_us)
            first = offsets.get(partition, 0)
            records: list[Record] = [Made(first + i, None, value) for i, value in enumerate(values)]
            offsets[partition] = first + len(records)
            await results.take(await fold.absorb(records))
        tell(piece.until)
    await results.flush()


def with_ticks(events: Sequence[Event], since: int, until: int, tick_us: int) -> Iterator[bytes]:
    """Values of records: events in order, and after all up to it each tick of [since, until)."""
    at = 0
    for tick in range(-(-since // tick_us) * tick_us, until, tick_us):
        begin = at
        while at < len(events) and events[at].ts <= tick:
            at += 1
        if at > begin:
            yield encode_events(list(events[begin:at]))
        yield encode_event(Tick(ts=tick, source="replay"))
    if at < len(events):
        yield encode_events(list(events[at:]))


async def stored_events(
    config: ClickHouseConfig, app: str | None, since: int, until: int, ticks_until: int
) -> AsyncIterator[Piece]:
    """What ClickHouse has of [since, until), in order of (ts, key); then empty pieces to `ticks_until`."""
    next_at = since  # of an event, at the earliest
    for begin in range(since, ticks_until, CHUNK):
        end = min(begin + CHUNK, ticks_until)
        events: list[Event] = []
        if next_at < min(end, until):
            events = await asyncio.to_thread(_events, config, app, begin, min(end, until))
            if not events:
                next_at = await asyncio.to_thread(_next_at, config, app, min(end, until), until)
        yield Piece(begin, end, events)


TEXTS = frozenset({"input_text", "output_text", "explanation", "attributes"})
"""What stays in ClickHouse: most of the bytes, and no fold of events reads them."""

STORED: dict[str, type[Trace | Score | Release]] = {"traces": Trace, "scores": Score, "releases": Release}
_READ = {  # otherwise than they are stored
    "ts": "toUnixTimestamp64Micro(ts) AS ts",
    "cost_usd": "if(cost_status = 'reported', cost_usd, NULL) AS cost_usd",  # else it is settled anew
}


def _columns(stored: type[Trace | Score | Release]) -> str:
    fields = [field.encode_name for field in msgspec.structs.fields(stored)]
    tag = f"'{stored.__struct_config__.tag}' AS type"
    return ", ".join([tag, *(_READ.get(name, name) for name in fields if name not in TEXTS)])


_QUERIES = {view: _columns(stored) for view, stored in STORED.items()}


def _events(config: ClickHouseConfig, app: str | None, since: int, until: int) -> list[Event]:
    events: list[Event] = []
    with session(config) as client:
        for view in _QUERIES:
            events += _of_view(client, view, app, since, until)
        events += _baselines_set(client, app, since, until)
    return sorted(events, key=_order)


def _next_at(config: ClickHouseConfig, app: str | None, since: int, until: int) -> int:
    """When the first event of [since, until) happened; `until` where there is none."""
    times = {**dict.fromkeys(STORED, "ts"), "baselines": "at"}
    firsts = " UNION ALL ".join(
        f"SELECT toUnixTimestamp64Micro(min({ts})) AS first FROM {view}_raw WHERE {ts} >= fromUnixTimestamp64Micro("
        f"{since}) AND {ts} < fromUnixTimestamp64Micro({until}) AND ({{app:String}} = '' OR app = {{app:String}}) "
        "HAVING count() > 0"
        for view, ts in times.items()
    )
    with session(config) as client:
        found = client.query(f"SELECT min(first), count() FROM ({firsts})", parameters={"app": app or ""}).result_rows
    return int(found[0][0]) if found[0][1] else until


def stored_releases(config: ClickHouseConfig, app: str, until: int) -> list[Release]:
    """All before `until`, in order of (ts, key)."""
    with session(config) as client:
        events = _of_view(client, "releases", app, EARLIEST_TS, until)
    return sorted((event for event in events if isinstance(event, Release)), key=_order)


def _of_view(client: Client, view: str, app: str | None, since: int, until: int) -> list[Event]:
    lines = client.raw_query(
        f"SELECT {_QUERIES[view]} FROM {view} AS stored WHERE stored.ts >= fromUnixTimestamp64Micro({since}) "
        f"AND stored.ts < fromUnixTimestamp64Micro({until}) AND ({{app:String}} = '' OR app = {{app:String}})",
        parameters={"app": app or ""},
        fmt="JSONEachRow",
        settings={"output_format_json_quote_64bit_integers": 0},
    ).splitlines()
    decoded = decode_events(b"[" + b",".join(lines) + b"]")
    if decoded.rejects:
        raise RuntimeError(f"{view} around {show_time(since)}: {decoded.rejects[0].reason}")
    return decoded.events


def _baselines_set(client: Client, app: str | None, since: int, until: int) -> list[Event]:
    """Those fitted by hand came from outside, as events do."""
    return [
        BaselineSet(app=baseline.app, ts=baseline.at, id=f"{baseline.id}/{baseline.at}", baseline=baseline)
        for baseline in stored_baselines(client, app, since=since, until=until)
        if baseline.source == "fitted" and baseline.state == "active"
    ]


def _order(event: Event) -> tuple[int, tuple[str, ...]]:
    assert not isinstance(event, Tick)
    return event.ts, event.key
