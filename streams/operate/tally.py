"""What a log holds: distinct events per app, kind and window, and what of it cannot be decoded. No I/O.

An event takes 20 bytes of memory: a 64-bit digest of its identity, its time and its app's number.
"""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from aiokafka import ConsumerRecord
from numpy.typing import NDArray

from driftline.schemas.codec import decode_logged
from driftline.schemas.events import CONTROLS, MICROSECONDS, BaselineSet, Event, Forwarded, Release, Score, Tick, Trace
from driftline.schemas.homes import home
from driftline.schemas.topics import Topics
from driftline.streams.fold import broker_time, sent_at
from driftline.streams.intake import timed

Kind: TypeAlias = Literal["trace", "score", "release"]

_CLOCK_RIGHT = 3600 * MICROSECONDS  # a tick so far before the last one: the broker's clock was ahead and is right again
_MINUTE = 60 * MICROSECONDS  # part of what names a trace or a score in ClickHouse
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: spreads small numbers over all bits


class Group(NamedTuple):
    """What is counted together."""

    kind: Kind
    app: str
    start: int  # of the window, microseconds


class Place(NamedTuple):
    """Of a dead letter: which element of which record of the events topic."""

    partition: int
    offset: int
    element: int  # of its array; -1: the whole record


@dataclass(frozen=True)
class Selection:
    """Which windows count: those that overlap [since, until), of one app or of all."""

    size_s: int
    app: str | None = None
    since: int | None = None
    until: int | None = None
    open_s: int = 0  # how long after its end a window still takes events

    def start_of(self, ts: int) -> int:
        return ts - ts % (self.size_s * MICROSECONDS)

    def takes(self, app: str, start: int) -> bool:
        return (
            (self.app is None or app == self.app)
            and (self.since is None or start + self.size_s * MICROSECONDS > self.since)
            and (self.until is None or start < self.until)
        )


class _Column:
    """The events of one kind, in the order of the log."""

    def __init__(self) -> None:
        self._digests, self._times, self._apps = array("Q"), array("q"), array("I")

    def add(self, digest: int, ts: int, app: int) -> None:
        self._digests.append(digest)
        self._times.append(ts)
        self._apps.append(app)

    @property
    def arrays(self) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
        return (
            np.frombuffer(self._digests, np.uint64),
            np.frombuffer(self._times, np.int64),
            np.frombuffer(self._apps, np.uint32).astype(np.int64),
        )


class Tally:
    def __init__(self, selection: Selection, topics: Topics | None = None) -> None:
        self.selection = selection
        topics = topics or Topics()
        self._controls, self._homes = topics.controls, topics.homes
        self.events = 0  # copies included
        self.rejects: set[Place] = set()
        # When a reject, or the first event of a group, came (the last, by producers' times), where records say;
        # microseconds.
        self.sent: dict[Group | Place, int] = {}
        self.forwarded = 0  # events at home in another partition than the one they came in, copies included
        self.adopted: dict[tuple[int, int], int] = {}  # (home, partition) -> offset of the last record forwarded
        self.ticks: dict[int, list[tuple[int, int]]] = {}  # partition -> (offset, ts) of those that moved time on
        self.touched: dict[Group, dict[int, int]] = {}  # -> partition -> offset of the last record with such an event
        self._late: Counter[Group] = Counter()  # copies that came when their window took nothing any more
        self._apps: dict[str, int] = {}
        self._columns: dict[Kind, _Column] = {"trace": _Column(), "score": _Column()}
        self._releases: dict[tuple[str, str], int] = {}  # the newest copy's time: the one that ClickHouse keeps
        self._refused: dict[Kind, set[int]] = {"trace": set(), "score": set()}
        self._refused_releases: set[tuple[str, str]] = set()
        self.aside: Counter[Group] = Counter()  # events of records that the monitor put aside

    def add(self, partition: int, records: Sequence[ConsumerRecord]) -> None:
        """The next records of a partition."""
        for record in records:
            # A producer's time may lie: one record must not make its whole group look old.
            at, end = sent_at(record.timestamp), max if broker_time(record) is None else min
            decoded = self._controls.decode(decode_logged, record.value, partition)
            for event in decoded.events:
                if isinstance(event, Tick):
                    self._tick(partition, record.offset, timed(event, record).ts)
                elif isinstance(event, BaselineSet):
                    continue
                elif isinstance(event, Forwarded):
                    for adopted in self._adopt(partition, record.offset, event):
                        self._late[adopted] += self._is_late(partition, adopted.start)
                elif (group := self._touch(partition, record.offset, event)) is not None:
                    self._count(event, group.app)
                    if at is not None:
                        self.sent[group] = end(at, self.sent.get(group, at))
                    if self.home(group.app, partition) == partition:
                        self._late[group] += self._is_late(partition, group.start)
                    else:
                        self.forwarded += 1
            if decoded.rejects and self._of_app(record.key):
                places = [Place(partition, record.offset, reject.index) for reject in decoded.rejects]
                self.rejects.update(places)
                if at is not None:
                    self.sent.update(dict.fromkeys(places, at))

    def touch(self, partition: int, records: Sequence[ConsumerRecord]) -> None:
        """Records that came later: which groups they change is noted, and nothing is counted."""
        for record in records:
            decoded = self._controls.decode(decode_logged, record.value, partition)
            for event in decoded.events:
                if isinstance(event, Forwarded):
                    self._adopt(partition, record.offset, event)
                elif not isinstance(event, CONTROLS):
                    self._touch(partition, record.offset, event)

    def home(self, app: str, partition: int) -> int:
        """Of an app met in that partition."""
        return partition if self._homes is None else home(app, self._homes)

    def refuse(self, event: Event) -> None:
        """An event that ClickHouse refused: windows count it, tables do not have it."""
        if isinstance(event, Release):
            self._refused_releases.add((event.app, event.id))
        elif not isinstance(event, CONTROLS):
            self._refused[_kind(event)].add(_digest(event))

    def put_aside(self, partition: int, raw: bytes) -> None:
        """A record that the monitor goes on without: tables have its events, and no window need."""
        for event in self._controls.decode(decode_logged, raw, partition).events:
            for inner in event.events if isinstance(event, Forwarded) else (event,):
                if isinstance(inner, Trace | Score):
                    self.aside[Group(_kind(inner), inner.app, self.selection.start_of(inner.ts))] += 1

    def _of_app(self, key: bytes | None) -> bool:
        return self.selection.app is None or key == self.selection.app.encode()

    def _tick(self, partition: int, offset: int, ts: int) -> None:
        ticks = self.ticks.setdefault(partition, [])
        if ticks and ts < ticks[-1][1] - _CLOCK_RIGHT:
            ticks.clear()
        if not ticks or ts > ticks[-1][1]:
            ticks.append((offset, ts))

    def _is_late(self, partition: int, start: int) -> bool:
        ticks = self.ticks.get(partition)
        gone = start + (self.selection.size_s + self.selection.open_s) * MICROSECONDS
        return ticks is not None and gone <= ticks[-1][1]

    def _adopt(self, partition: int, offset: int, forwarded: Forwarded) -> list[Group]:
        """Events that are counted here, and were met where they came."""
        source = (partition, forwarded.partition)
        self.adopted[source] = max(forwarded.offset, self.adopted.get(source, -1))
        found = (self._touch(partition, offset, event) for event in forwarded.events)
        return [group for group in found if group is not None]

    def _touch(self, partition: int, offset: int, event: Trace | Score | Release) -> Group | None:
        start = self.selection.start_of(event.ts)
        if not self.selection.takes(event.app, start):
            return None
        group = Group(_kind(event), event.app, start)
        self.touched.setdefault(group, {})[partition] = offset
        return group

    def _count(self, event: Trace | Score | Release, app: str) -> None:
        self.events += 1
        if isinstance(event, Release):
            self._releases[app, event.id] = event.ts
        else:
            number = self._apps.setdefault(app, len(self._apps))
            self._columns[_kind(event)].add(_digest(event), event.ts, number)

    def in_tables(self) -> Counter[Group]:
        """Rows that the tables must have. A trace or score is one row per minute; of copies the newest counts."""
        groups: Counter[Group] = Counter(
            Group("release", app, self.selection.start_of(ts))
            for (app, id_), ts in self._releases.items()
            if (app, id_) not in self._refused_releases
        )
        for kind, column in self._columns.items():
            digests, times, apps = column.arrays
            if refused := self._refused[kind]:
                keep = ~np.isin(digests, np.fromiter(refused, np.uint64, len(refused)))
                digests, times, apps = digests[keep], times[keep], apps[keep]
            _, last = np.unique(_within(digests, times, _MINUTE)[::-1], return_index=True)
            last = len(digests) - 1 - last
            groups += self._grouped(kind, apps[last], times[last])
        return groups

    def in_windows(self) -> Counter[Group]:
        """Events that the windows must have counted or left out: of one window each once."""
        return self._per_window(distinct=True)

    def late_repeats(self) -> Counter[Group]:
        """The most repeats that the monitor may have left out as if they were new, because it had forgotten the first
        copy: it remembers for as long as a window takes events."""
        late = +self._late
        if not late:
            return late
        return late & (self._per_window(distinct=False) - self._per_window(distinct=True))

    def _per_window(self, *, distinct: bool) -> Counter[Group]:
        groups: Counter[Group] = Counter()
        for kind, column in self._columns.items():
            digests, times, apps = column.arrays
            if distinct:
                named = _within(digests, times, self.selection.size_s * MICROSECONDS)
                _, first = np.unique(named, return_index=True)
                times, apps = times[first], apps[first]
            groups += self._grouped(kind, apps, times)
        return groups

    def moved(self) -> int:
        """Events that came again with a time in another minute: each is a row and counts once per minute."""
        arrays = [column.arrays for column in self._columns.values()]
        return sum(len(np.unique(_within(d, t, _MINUTE))) - len(np.unique(d)) for d, t, _ in arrays)

    def _grouped(self, kind: Kind, apps: NDArray[np.int64], times: NDArray[np.int64]) -> Counter[Group]:
        size = self.selection.size_s * MICROSECONDS
        names = list(self._apps)
        numbers = times // size * len(names) + apps if names else times
        found, counts = np.unique(numbers, return_counts=True)
        return Counter(
            {
                Group(kind, names[number % len(names)], number // len(names) * size): count
                for number, count in zip(found.tolist(), counts.tolist(), strict=True)
            }
        )


_KINDS: dict[type, Kind] = {Trace: "trace", Score: "score", Release: "release"}


def _kind(event: Trace | Score | Release) -> Kind:
    return _KINDS[type(event)]


def _digest(event: Trace | Score) -> int:
    identity = (event.app, event.trace_id, event.span_id) if isinstance(event, Trace) else (event.app, event.id)
    return hash(identity) & 0xFFFF_FFFF_FFFF_FFFF  # SipHash of the texts: 64 good bits, the same within this process


def _within(digests: NDArray[np.uint64], times: NDArray[np.int64], span: int) -> NDArray[np.uint64]:
    """Digests of the events as events of one span of time."""
    return digests ^ ((times // span).astype(np.uint64) * _ODD)
