"""Two runs over the same events: what is equal, what differs and in what. No I/O."""

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import msgspec

Row: TypeAlias = Mapping[str, Any]
Table: TypeAlias = Literal["windows", "left_out", "evidence", "alerts", "rollbacks", "breakers"]


@dataclass(frozen=True)
class Shape:
    """What names a row of a table, and when it is."""

    time: str
    key: tuple[str, ...] = ("id",)

    def key_of(self, row: Row) -> tuple[Any, ...]:
        return tuple(row[name] for name in self.key)


SHAPES: dict[Table, Shape] = {
    "windows": Shape("start"),
    "left_out": Shape("start"),
    "evidence": Shape("ts"),
    "alerts": Shape("ts", ("id", "state")),
    "rollbacks": Shape("decided_at"),
    "breakers": Shape("at"),
}


@dataclass(frozen=True)
class Expectation:
    """Of one table: whether both runs must agree, in which columns they need not, and why."""

    must_be_equal: bool
    ignored: Set[str] = frozenset()
    why: str = ""


class Differing(msgspec.Struct, frozen=True):
    """A row of both runs, with other contents."""

    app: str
    time: str
    key: tuple[str, ...]
    columns: dict[str, tuple[Any, Any]]  # first run, replay


class Comparison(msgspec.Struct, frozen=True):
    name: str
    table: Table
    must_be_equal: bool
    why: str
    first: int
    replay: int
    equal: int
    differing: list[Differing]
    only_first: list[dict[str, Any]]
    only_replay: list[dict[str, Any]]

    @property
    def is_equal(self) -> bool:
        return not (self.differing or self.only_first or self.only_replay)

    @property
    def failed(self) -> bool:
        return self.must_be_equal and not self.is_equal

    @property
    def columns(self) -> Counter[str]:
        """How often each column differs."""
        return Counter(name for row in self.differing for name in row.columns)


@dataclass
class Rows:
    """Rows of one table by their key; of several with one key the last is kept."""

    table: Table
    by_key: dict[tuple[Any, ...], Row] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        self.by_key[SHAPES[self.table].key_of(row)] = row

    def without(self, keys: Set[tuple[Any, ...]]) -> "Rows":
        return Rows(self.table, {key: row for key, row in self.by_key.items() if key not in keys})


def compare(name: str, first: Rows, replay: Rows, expectation: Expectation) -> Comparison:
    shape = SHAPES[first.table]
    differing = []
    for key in sorted(first.by_key.keys() & replay.by_key.keys()):
        was, now = first.by_key[key], replay.by_key[key]
        columns = {
            column: (was.get(column), now.get(column))
            for column in {**was, **now}
            if column not in expectation.ignored and was.get(column) != now.get(column)
        }
        if columns:
            differing.append(Differing(str(was["app"]), str(was[shape.time]), tuple(map(str, key)), columns))
    return Comparison(
        name=name,
        table=first.table,
        must_be_equal=expectation.must_be_equal,
        why=expectation.why,
        first=len(first.by_key),
        replay=len(replay.by_key),
        equal=len(first.by_key.keys() & replay.by_key.keys()) - len(differing),
        differing=differing,
        only_first=_only(first, replay),
        only_replay=_only(replay, first),
    )


def _only(one: Rows, other: Rows) -> list[dict[str, Any]]:
    return [dict(one.by_key[key]) for key in sorted(one.by_key.keys() - other.by_key.keys())]
