"""The comparison behind `driftline reconcile`: log against tables against windows. No I/O.

What is still on its way is no difference: a group of events is compared when the archive has committed past its last
record, and with the windows when a tick that the monitor has absorbed came after its last record and closed it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from driftline.schemas.events import MICROSECONDS
from driftline.sinks.clickhouse import tables
from driftline.streams.monitor.names import OTHER
from driftline.streams.operate.tally import Group, Kind, Place, Tally

VIEWS: dict[Kind, str] = {"trace": "traces", "score": "scores", "release": "releases"}


@dataclass(frozen=True)
class Reach:
    """How far one partition of the events topic was read, and what others made of it. Offsets are the next to read."""

    partition: int
    start: int  # of what was read; later than 0 where retention or --from has cut it
    end: int
    archived: int
    absorbed: int  # by the monitor
    letters_stored: bool  # all dead letters of what is archived
    results_stored: bool  # all windows of what is absorbed
    born: int = 0  # when its first record was sent, microseconds: what is older in ClickHouse is of an earlier log


class Rows(msgspec.Struct, frozen=True):
    """Of one group in one table."""

    count: int
    oldest: int = 0  # lowest revision: the offset of an event's record
    ingested: int = 0  # when the first of them came, microseconds


@dataclass(frozen=True)
class Stored:
    """What ClickHouse has."""

    tables: Mapping[Group, Rows]
    windows: Mapping[Group, Rows]  # counted in windows or left out of them
    letters: Set[Place]  # of what could not be stored
    lost: Sequence["Lost"] = ()
    incomplete: Mapping[Group, Rows] = field(default_factory=dict)  # left out of windows that began before the log
    kept_since: Mapping[str, int] = field(default_factory=dict)  # by view: what came before may be gone, microseconds


class Difference(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: Literal["trace", "score", "release", "dead letter"]
    app: str = ""
    start: int | None = None  # of the window
    place: Place | None = None  # of a dead letter
    topic: int | None = None
    table: int | None = None  # None: not compared
    windows: int | None = None


class InFlight(msgspec.Struct, frozen=True):
    """What was not compared of one partition, because it is on its way."""

    partition: int
    records_to_archive: int
    groups_to_store: int
    groups_to_close: int
    dead_letters: bool


class Lost(msgspec.Struct, frozen=True):
    """Records that retention deleted before a role had read them: offsets `first` to before `until`."""

    role: str
    topic: str
    partition: int
    first: int
    until: int


class Balance(msgspec.Struct, frozen=True):
    events: int = 0  # read, copies included
    distinct: int = 0  # of them in groups compared with the tables
    groups: int = 0  # compared with the tables
    in_windows: int = 0  # events in groups compared with the windows
    windows: int = 0  # groups compared with the windows
    dead_letters: int = 0  # compared
    moved: int = 0
    repeats_left_out: int = 0  # repeats so late that the monitor left them out as if they were new
    aside: int = 0  # events in no window, since the monitor put their record aside
    uncovered: int = 0  # groups that the topic no longer has in full
    differences: list[Difference] = []
    in_flight: list[InFlight] = []
    lost: list[Lost] = []
    incomplete: int = 0  # events in no window, since the monitor began anew in the middle of it
    expired: int = 0  # groups and dead letters that ClickHouse's own retention may have removed: not compared
    others: int = 0  # events in windows of `(other)`, for there are more apps than the monitor knows apart
    held: int = 0  # records behind a transaction that is open: acknowledged, perhaps, and not to be read yet
    altered: list[tables.Difference] = []  # of ClickHouse's tables: where there are any, nothing was compared

    @property
    def compared(self) -> bool:
        """Whether anything was, or nothing is there that could have been."""
        return bool(self.groups or self.windows or self.dead_letters) or not (
            self.events or self.uncovered or self.expired
        )

    @property
    def equal(self) -> bool:
        return self.compared and not (self.differences or self.lost or self.altered or self.held)


def compare(
    tally: Tally, stored: Stored, reaches: Mapping[int, Reach], grace_s: int, home: Callable[[str], int]
) -> Balance:
    """`home` is the partition of an app's key, for what the log does not have."""
    in_tables, in_windows, late_repeats = tally.in_tables(), tally.in_windows(), tally.late_repeats()
    judge = _Judge(tally, stored, reaches, grace_s, home)
    differences: list[Difference] = []
    compared: Counter[str] = Counter()
    to_store: Counter[int] = Counter()
    to_close: Counter[int] = Counter()
    others: Counter[tuple[str, int]] = Counter()  # in windows of `(other)`, less what is told to be there
    not_closed: set[tuple[str, int]] = set()
    for group, rows in stored.windows.items():
        if group.app == OTHER:
            others[group.kind, group.start] = max(0, rows.count - in_windows[group])
    groups = {*in_tables, *in_windows, *stored.tables, *stored.windows}
    for group in sorted(groups, key=lambda group: (group.app == OTHER, group)):
        if not judge.is_covered(group):
            compared["uncovered"] += 1
            not_closed.add((group.kind, group.start))
            continue
        topic, table, windows = in_tables[group], None, None
        compared["expired"] += judge.is_expired(group, VIEWS[group.kind]) or judge.is_expired(group, "windows")
        if not judge.is_archived(group):
            to_store.update(judge.partitions(group))
        elif not judge.is_expired(group, VIEWS[group.kind]):
            table = stored.tables[group].count if group in stored.tables else 0
            compared.update(groups=1, distinct=topic)
        if group.kind != "release":
            together = (group.kind, group.start)
            if not judge.is_closed(group):
                to_close.update(judge.partitions(group))
                not_closed.add(together)
            elif judge.is_expired(group, "windows") or (
                group.app == OTHER and (tally.selection.app or together in not_closed)
            ):
                not_closed.add(together)
            else:
                windows = stored.windows[group].count if group in stored.windows else 0
                repeats = max(0, min(windows - in_windows[group], late_repeats[group]))
                windows -= repeats
                aside = max(0, min(in_windows[group] - windows, tally.aside[group]))
                windows += aside
                said = stored.incomplete[group].count if group in stored.incomplete else 0
                incomplete = max(0, min(in_windows[group] - windows, said))
                windows += incomplete
                if group.app == OTHER:
                    windows += others[together] - max(0, windows - in_windows[group])
                else:
                    other = max(0, min(in_windows[group] - windows, others[together]))
                    others[together] -= other
                    windows += other
                    compared.update(others=other)
                compared.update(windows=1, in_windows=in_windows[group] - aside - incomplete)
                compared.update(repeats=repeats, aside=aside, incomplete=incomplete)
        if table not in (None, topic) or windows not in (None, in_windows[group]):
            differences.append(
                Difference(group.kind, group.app, group.start, None, max(topic, in_windows[group]), table, windows)
            )
    known = {place for place in tally.rejects | stored.letters if judge.knows_letter(place)}
    gone = {place for place in known if judge.is_expired(place, "dead_letters")}
    letters, have = (tally.rejects & known) - gone, (stored.letters & known) - gone
    differences += [
        Difference("dead letter", place=place, topic=int(place in letters), table=int(place in have))
        for place in sorted(letters ^ have)
    ]
    return Balance(
        events=tally.events,
        distinct=compared["distinct"],
        groups=compared["groups"],
        in_windows=compared["in_windows"],
        windows=compared["windows"],
        dead_letters=len(letters),
        moved=tally.moved(),
        repeats_left_out=compared["repeats"],
        aside=compared["aside"],
        uncovered=compared["uncovered"],
        differences=differences,
        in_flight=[
            InFlight(p, reach.end - reach.archived, to_store[p], to_close[p], not reach.letters_stored)
            for p, reach in sorted(reaches.items())
            if reach.archived < reach.end or to_store[p] or to_close[p] or not reach.letters_stored
        ],
        lost=list(stored.lost),
        incomplete=compared["incomplete"],
        expired=compared["expired"] + len(gone),
        others=compared["others"],
    )


class _Judge:
    """What can be compared at all."""

    def __init__(
        self, tally: Tally, stored: Stored, reaches: Mapping[int, Reach], grace_s: int, home: Callable[[str], int]
    ) -> None:
        self._tally = tally
        self._touched = tally.touched
        self._stored = stored
        self._reaches = reaches
        self._home = home
        self._length = (tally.selection.size_s + grace_s) * MICROSECONDS
        self._ticks = {
            p: next(((o, ts) for o, ts in reversed(tally.ticks.get(p, [])) if o < reach.absorbed), None)
            for p, reach in reaches.items()
        }

    def partitions(self, group: Group) -> list[int]:
        return list(self._touched.get(group, ())) or [self._home(group.app)]

    def is_covered(self, group: Group) -> bool:
        """Whether all its events came with what was read. Not so where ClickHouse has events of the group from before,
        or from an earlier log: the embedded Kafka forgets everything when it stops."""
        reaches = [self._reaches[p] for p in self.partitions(group)]
        start, born = min(reach.start for reach in reaches), min(reach.born for reach in reaches)
        rows, counted = self._stored.tables.get(group), self._stored.windows.get(group)
        return (rows is None or (rows.oldest >= start and rows.ingested >= born)) and (
            counted is None or counted.ingested >= born
        )

    def is_expired(self, what: Group | Place, view: str) -> bool:
        """Whether ClickHouse's retention may have removed rows of it, or of its window's part before the log's cut."""
        since, sent = self._stored.kept_since.get(view, 0), self._tally.sent.get(what)
        if sent is None or not since:
            return False
        cut = isinstance(what, Group) and any(
            reach.start > 0 and what.start < reach.born < since
            for reach in (self._reaches[p] for p in self.partitions(what))
        )
        return sent < since or cut

    def is_archived(self, group: Group) -> bool:
        return all(offset < self._reaches[p].archived for p, offset in self._touched.get(group, {}).items())

    def is_closed(self, group: Group) -> bool:
        """Whether a tick absorbed after its last event has closed its window, and that tick's results are stored."""
        touched = self._touched.get(group, {})
        homes = {self._tally.home(group.app, p) for p in self.partitions(group)}
        return all(self._is_forwarded(p, offset, homes) for p, offset in touched.items() if p not in homes) and all(
            self._reaches[p].results_stored
            and (tick := self._ticks[p]) is not None
            and tick[0] > touched.get(p, -1)
            and tick[1] >= group.start + self._length
            for p in homes
        )

    def _is_forwarded(self, partition: int, offset: int, homes: Set[int]) -> bool:
        """Whether what came there has also come home. (In order: with the last record, all before it.)"""
        return all(self._tally.adopted.get((home, partition), -1) >= offset for home in homes)

    def knows_letter(self, place: Place) -> bool:
        reach = self._reaches.get(place.partition)
        return reach is not None and reach.letters_stored and reach.start <= place.offset < reach.archived
