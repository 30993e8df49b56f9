"""Sessions as units of evidence.

Events of one session are not independent, so a session counts once: with its first event (rates), with its mean
(bounded statistics), or with at most its first 16 events whose joint covariance is known (embeddings). Counting every
event instead alarms many times too often, and no correction factor repairs that at small alphas.

Time is that of ticks: `now` is the tick that closes the events passed with it, in microseconds. Events come in
canonical order (event time, then key). A stream is any number the caller chooses, say that of a release; sessions of
different streams are different, and known by their digests. A number may be given to another stream once no open
session has it (`held`) and it has been silent for a day, by which all of its sessions are forgotten. An event without
a session (`NONE`) is a unit of its own, with session number -1: evidence made of such units has no guarantee.
"""

from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats, State
from driftline.detectors.config import UnitsConfig
from driftline.detectors.digests import NONE, Digests, DigestTable, firsts
from driftline.schemas.events import MICROSECONDS

NO_SESSION = -1
_LEAST_OPEN = 1_000  # sessions, however few are remembered
_SWEEP_US = 60 * MICROSECONDS  # forgotten sessions are swept at whole minutes; does not change what is returned
NEVER = np.iinfo(np.int64).max  # a time that does not come
_APART = 0x9E3779B97F4A7C15  # times a stream's number: makes equal sessions of different streams different keys

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Taken:
    """Which events of a chunk are evidence: `batch.value[taken.mask]` with `taken.session[taken.mask]`."""

    mask: NDArray[np.bool_]  # [n]
    session: Numbers  # [n] numbers for TickBatch.session; 0 where an event is not taken


@dataclass(frozen=True)
class SessionUnits:
    """The units that a tick closes: the timed-out sessions by age, then the tick's own in the order of their events."""

    stream: Numbers  # [n]
    value: Floats  # [n] mean of the unit's events; NaN: an event without a valid value
    session: Numbers  # [n] number, or -1
    events: Numbers  # [n] events in the unit
    opened: Numbers  # [n] `now` of the tick with the unit's first event


class _Seen:
    """The last tick at which each session of each stream had an event, for as long as it is remembered: up to an hour
    after, and until there are too many."""

    def __init__(self, config: UnitsConfig) -> None:
        self._forget_us = round(config.forget_after_s * MICROSECONDS)
        self._limit = config.max_sessions
        self._last = DigestTable()
        self._swept = 0  # minutes
        self.overflow = 0

    def begin(self, stream: Numbers, session: Digests, now: int) -> NDArray[np.bool_]:
        """Which events are the first of a session."""
        keys = session + stream.astype(np.uint64) * np.uint64(_APART)
        first: NDArray[np.bool_] = firsts(keys) & (session != NONE)
        keys = keys[first]
        first[first] = self._last.get(keys) <= now - self._forget_us
        self._last.put(keys, np.full(len(keys), now))
        return first

    def sweep(self, now: int) -> None:
        """Drop what was forgotten when the minute began, and the oldest sessions if there are too many."""
        minute = now // _SWEEP_US
        if minute != self._swept:
            self._swept = minute
            self._last.drop_below(minute * _SWEEP_US - self._forget_us + 1)
        self.overflow += self._last.trim(self._limit, now - self._forget_us + 1)

    @property
    def nbytes(self) -> int:
        """Of the snapshot, about."""
        return self._last.nbytes

    def forget_half(self) -> None:
        """The oldest, before their time."""
        if self._last:
            self.overflow += self._last.trim(len(self._last) - 1, 0)

    def snapshot(self) -> State:
        return {"swept": self._swept, "last": self._last.snapshot(), "overflow": self.overflow}

    def restore(self, state: State) -> None:
        self._swept, self.overflow = state["swept"], state["overflow"]
        self._last = DigestTable(state["last"])


class FirstEvents:
    """The first event of each session: the unit of rates. A session is forgotten an hour after its last event."""

    def __init__(self, config: UnitsConfig) -> None:
        self._seen = _Seen(config)
        self._next = 0

    @property
    def overflow(self) -> int:
        """Sessions forgotten before their time, for there were too many."""
        return self._seen.overflow

    @property
    def nbytes(self) -> int:
        """Of the snapshot, about."""
        return self._seen.nbytes

    def forget_half(self) -> None:
        """The sessions that had no event for longest, before their time."""
        self._seen.forget_half()

    def take(self, stream: Numbers, session: Digests, now: int) -> Taken:
        first = self._seen.begin(stream, session, now)
        self._seen.sweep(now)
        number = np.where(first, self._next + np.cumsum(first) - 1, 0)
        self._next += int(first.sum())
        alone = session == NONE
        return Taken(first | alone, np.where(alone, NO_SESSION, number))

    def snapshot(self) -> State:
        return {"seen": self._seen.snapshot(), "next": self._next}

    def restore(self, state: State) -> None:
        self._seen.restore(state["seen"])
        self._next = state["next"]


class FirstSixteen:
    """The first 16 events of each session within 60 s of its first, with numbers that are equal within a session and
    grow from one session to the next: what `embedding_drift` and its reference take."""

    def __init__(self, config: UnitsConfig) -> None:
        self._config = config
        self._close_us = round(config.close_after_s * MICROSECONDS)
        self._seen = _Seen(config)
        self._open: dict[tuple[int, int], list[int]] = {}  # -> [number, events, opened], in order of opening
        self._next = 0

    @property
    def overflow(self) -> int:
        """Sessions forgotten before their time, for there were too many."""
        return self._seen.overflow

    @property
    def nbytes(self) -> int:
        """Of the snapshot, about."""
        return self._seen.nbytes + 40 * len(self._open)

    def forget_half(self) -> None:
        """The sessions that had no event for longest, before their time."""
        self._seen.forget_half()

    def held(self) -> set[int]:
        """The streams that have open sessions: these close with the next event of any stream, however late."""
        return {stream for stream, _ in self._open}

    def take(self, stream: Numbers, session: Digests, now: int) -> Taken:
        self._close(now)
        first = self._seen.begin(stream, session, now)
        self._seen.sweep(now)
        mask = session == NONE
        number = np.where(mask, NO_SESSION, 0)
        keys = zip(stream.tolist(), session.tolist(), strict=True)
        for i, (key, begins) in enumerate(zip(keys, first.tolist(), strict=True)):
            if begins and key not in self._open:
                self._open[key] = [self._next, 0, now]
                self._next += 1
            entry = self._open.get(key)
            if entry is None:
                continue
            entry[1] += 1
            mask[i] = True
            number[i] = entry[0]
            if entry[1] == self._config.max_events:
                del self._open[key]
        while len(self._open) > max(_LEAST_OPEN, self._config.max_sessions):  # the oldest take no more
            del self._open[next(iter(self._open))]
            self._seen.overflow += 1
        return Taken(mask, number)

    def _close(self, now: int) -> None:
        closed = []
        for key, (_, _, opened) in self._open.items():
            if now - opened < self._close_us:
                break
            closed.append(key)
        for key in closed:
            del self._open[key]

    @property
    def open_from(self) -> int:
        """All sessions with smaller numbers are complete: pass it to `EmbeddingReference.close`."""
        return next(iter(self._open.values()))[0] if self._open else self._next

    def snapshot(self) -> State:
        return {
            "seen": self._seen.snapshot(),
            "next": self._next,
            "open": _columns(self._open),
        }

    def restore(self, state: State) -> None:
        self._seen.restore(state["seen"])
        self._next = state["next"]
        self._open = _rows(state["open"])


class SessionMeans:
    """The mean of a bounded statistic over a session's events: the unit of scores. It closes 60 s after the session's
    first event or at its 16th; later events of the session are not scored."""

    def __init__(self, config: UnitsConfig) -> None:
        self._config = config
        self._close_us = round(config.close_after_s * MICROSECONDS)
        self._seen = _Seen(config)
        self._open: dict[tuple[int, int], list[Any]] = {}  # -> [number, events, opened, sum], in order of opening
        self._next = 0

    @property
    def overflow(self) -> int:
        """Sessions forgotten before their time, for there were too many."""
        return self._seen.overflow

    @property
    def nbytes(self) -> int:
        """Of the snapshot, about."""
        return self._seen.nbytes + 48 * len(self._open)

    def forget_half(self) -> None:
        """The sessions that had no event for longest, before their time."""
        self._seen.forget_half()

    def held(self) -> set[int]:
        """The streams that have open sessions."""
        return {stream for stream, _ in self._open}

    @property
    def due(self) -> int:
        """When the first open session closes, without further events."""
        return next(iter(self._open.values()))[2] + self._close_us if self._open else NEVER

    def step(self, stream: Numbers, session: Digests, value: Floats, now: int) -> SessionUnits:
        """Absorb a tick's events and return the units that close by it. An event with NaN or infinity is a unit of
        its own, for detectors to count as invalid, and not part of its session's mean."""
        done: list[tuple[int, float, int, int, int]] = []
        self._close(now, done)
        if len(stream):
            self._absorb(stream, session, value, now, done)
        while len(self._open) > max(_LEAST_OPEN, self._config.max_sessions):  # the oldest close before their time
            self._done(next(iter(self._open)), done)
            self._seen.overflow += 1
        self._seen.sweep(now)
        return SessionUnits(
            np.array([unit[0] for unit in done], np.int64),
            np.array([unit[1] for unit in done], np.float64),
            np.array([unit[2] for unit in done], np.int64),
            np.array([unit[3] for unit in done], np.int64),
            np.array([unit[4] for unit in done], np.int64),
        )

    def _absorb(
        self, stream: Numbers, session: Digests, value: Floats, now: int, done: list[tuple[int, float, int, int, int]]
    ) -> None:
        valid = np.isfinite(value)
        first = np.zeros(len(value), np.bool_)
        first[valid] = self._seen.begin(stream[valid], session[valid], now)
        limit = self._config.max_events
        keys = zip(stream.tolist(), session.tolist(), strict=True)
        for key, x, begins, scored in zip(keys, value.tolist(), first.tolist(), valid.tolist(), strict=True):
            if not scored:
                done.append((key[0], np.nan, NO_SESSION if key[1] == NONE else self._next, 1, now))
                continue
            if key[1] == NONE:
                done.append((key[0], x, NO_SESSION, 1, now))
                continue
            if begins and key not in self._open:
                self._open[key] = [self._next, 0, now, 0.0]
                self._next += 1
            entry = self._open.get(key)
            if entry is None:
                continue
            entry[1] += 1
            entry[3] += x
            if entry[1] == limit:
                del self._open[key]
                done.append((key[0], entry[3] / limit, entry[0], limit, entry[2]))

    def _close(self, now: int, done: list[tuple[int, float, int, int, int]]) -> None:
        for key in [*takewhile(lambda key: now - self._open[key][2] >= self._close_us, self._open)]:
            self._done(key, done)

    def _done(self, key: tuple[int, int], done: list[tuple[int, float, int, int, int]]) -> None:
        number, events, opened, total = self._open.pop(key)
        done.append((key[0], total / events, number, events, opened))

    def snapshot(self) -> State:
        sums = np.array([entry[3] for entry in self._open.values()], np.float64)
        return {"seen": self._seen.snapshot(), "next": self._next, "open": _columns(self._open), "sums": sums}

    def restore(self, state: State) -> None:
        self._seen.restore(state["seen"])
        self._next = state["next"]
        self._open = _rows(state["open"])
        for entry, total in zip(self._open.values(), state["sums"].tolist(), strict=True):
            entry.append(total)


def _columns(open_: dict[tuple[int, int], list[Any]]) -> State:
    """Open sessions as arrays: stream, number, events, opened; session."""
    return {
        "session": np.array([session for _, session in open_], np.uint64),
        "numbers": np.array([[stream, *entry[:3]] for (stream, _), entry in open_.items()], np.int64).reshape(-1, 4),
    }


def _rows(state: State) -> dict[tuple[int, int], list[Any]]:
    rows = zip(state["session"].tolist(), state["numbers"].tolist(), strict=True)
    return {(stream, session): entry for session, (stream, *entry) in rows}
