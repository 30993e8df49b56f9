"""Streams as lists of indices into tables of values, from fixed seeds.

A table holds blocks of equally many rows: what healthy traffic looks like, then one block for each way in which it can
go wrong, row i of a block being what row i of the healthy one becomes. A scenario says from which block events come
after the change, and how events hang together: alone, in sessions, by the hour of day, in bursts. Healthy parts of
live streams and references are drawn with replacement from the same rows, so that a null is one.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[np.int64]
HEALTHY = "healthy"
DAY_TICKS = 1440  # of a minute each, in the diurnal null
COPIES = 0.5  # of a session's events have the value of the session rather than one of their own
BURST_TICKS, BURST_EVERY, BURST_FACTOR = 30, 150, 5  # a fifth of the time, five times the traffic


@dataclass(frozen=True)
class Table:
    """Blocks of rows, [block rows] or [block rows, d] each; `values[starts[block] + i]`."""

    signal: str
    values: NDArray[Any]
    starts: dict[str, int]
    sizes: dict[str, int]
    topic: Rows | None = None  # of healthy rows: a session stays on one. Without: rows ascend, and neighbours are alike

    @classmethod
    def of(cls, signal: str, blocks: Mapping[str, NDArray[Any]], topic: Rows | None = None) -> "Table":
        names = list(blocks)
        starts = np.cumsum([0, *(len(blocks[name]) for name in names)])
        return cls(
            signal,
            np.concatenate([blocks[name] for name in names]),
            dict(zip(names, starts.tolist(), strict=False)),
            {name: len(blocks[name]) for name in names},
            topic,
        )


@dataclass(frozen=True)
class Scenario:
    """How a stream is drawn. Without a `drift` block it is a null."""

    name: str
    signal: str
    drift: str = ""  # block of events after the change
    share: float = 1.0  # of sessions after the change that come from it
    ramp: int = 0  # events over which the share grows from nothing
    base: str = HEALTHY  # block of everything else, and of references
    limit: str = ""  # nulls only: block of live events instead, as bad as a detector's null allows
    session: int = 1  # events in a session, in one piece
    diurnal: bool = False
    bursts: bool = False
    per_tick: int = 16  # events
    after: int = 0  # events after the change: then a change counts as not found

    @property
    def tick_s(self) -> int:
        return 60 if self.diurnal else 1


@dataclass(frozen=True)
class Streams:
    """Several streams of one scenario, which share their ticks."""

    index: Rows  # [runs, n] rows of the table
    session: Rows  # [runs, n] numbers of sessions, ascending
    ends: Rows  # [ticks] events up to the end of each tick
    change: Rows  # [runs] first event that may have changed; n for nulls

    @property
    def runs(self) -> int:
        return len(self.index)

    @property
    def n(self) -> int:
        return int(self.index.shape[1])


def rng_of(*key: object) -> np.random.Generator:
    """A generator that depends on the key alone."""
    return np.random.default_rng([zlib.crc32(str(part).encode()) for part in key])


def reference(table: Table, scenario: Scenario, n: int, seed: int) -> Streams:
    """One healthy stream of n events with the sessions and hours of the scenario."""
    healthy = replace(scenario, drift="", limit="", bursts=False)
    key = (scenario.signal, scenario.base, scenario.session, scenario.diurnal)
    return _draw(table, healthy, 1, -(-n // scenario.per_tick), rng_of("reference", *key, seed))


def nulls(table: Table, scenario: Scenario, runs: int, ticks: int) -> Streams:
    return _draw(table, scenario, runs, ticks, rng_of("null", scenario.name, scenario.signal))


def drifts(table: Table, scenario: Scenario, runs: int, before: int) -> Streams:
    """The change comes at a random event after `before` healthy ones, at the latest a tenth later."""
    ticks = -(-(before + before // 10 + scenario.after) // scenario.per_tick)
    rng = rng_of("drift", scenario.name, scenario.signal)
    return _draw(table, scenario, runs, ticks, rng, rng.integers(before, before + before // 10, runs))


def _draw(
    table: Table, scenario: Scenario, runs: int, ticks: int, rng: np.random.Generator, change: Rows | None = None
) -> Streams:
    sizes = np.full(ticks, scenario.per_tick)
    if scenario.bursts:
        sizes[np.arange(ticks) % BURST_EVERY < BURST_TICKS] *= BURST_FACTOR
    ends = np.cumsum(sizes)
    n = int(ends[-1])
    session = np.broadcast_to(np.arange(n) // scenario.session, (runs, n))
    hour = np.repeat(np.arange(ticks) % DAY_TICKS / DAY_TICKS, sizes) if scenario.diurnal else None
    own = _topics(table, session, hour, rng) if table.topic is not None else _levels(table, session, hour, rng)
    index = own + table.starts[scenario.limit or scenario.base]
    if change is None:
        return Streams(index, session, ends, np.full(runs, n))
    position = np.arange(n)[None] - change[:, None]
    share = scenario.share * (np.clip(position / scenario.ramp, 0, 1) if scenario.ramp else 1.0)
    draw = np.take_along_axis(rng.random((runs, n)), session, axis=1)  # a session changes as a whole
    changed = (position >= 0) & (draw < share)
    if table.sizes[scenario.drift] == table.sizes[HEALTHY]:
        other = own + table.starts[scenario.drift]
    else:
        other = rng.integers(0, table.sizes[scenario.drift], (runs, n)) + table.starts[scenario.drift]
    return Streams(np.where(changed, other, index), session, ends, change)


def _levels(table: Table, session: Rows, hour: NDArray[np.float64] | None, rng: np.random.Generator) -> Rows:
    """Rows in ascending tables: every event has a rank, some share that of their session, and ranks lean up and down
    with the hour. Over a day, and over sessions, the ranks stay (nearly) uniform."""
    rank = rng.random(session.shape)
    copied = rng.random(session.shape) < COPIES
    rank = np.where(copied, np.take_along_axis(rng.random(session.shape), session, axis=1), rank)
    if hour is not None:
        rank = rank ** np.exp(0.25 * np.sin(2 * np.pi * hour))
    return (rank * table.sizes[HEALTHY]).astype(np.int64)


def _topics(table: Table, session: Rows, hour: NDArray[np.float64] | None, rng: np.random.Generator) -> Rows:
    """Rows of texts: a session stays on one topic; by day the first half of the topics is more frequent."""
    assert table.topic is not None
    order = np.argsort(table.topic, kind="stable")
    _, starts, counts = np.unique(table.topic[order], return_index=True, return_counts=True)
    first = rng.integers(0, len(order), session.shape)
    if hour is not None:
        half = int(starts[len(starts) // 2])
        day = rng.random(session.shape) < half / len(order) * (1 + 0.5 * np.sin(2 * np.pi * hour))
        first = np.where(day, rng.integers(0, half, session.shape), rng.integers(half, len(order), session.shape))
    lead = np.take_along_axis(first, session, axis=1)
    topic = np.searchsorted(starts, lead, side="right") - 1
    within = (rng.random(session.shape) * counts[topic]).astype(np.int64)
    rows: Rows = order[starts[topic] + within]
    return rows
