"""Sessions as units of evidence.

Events of one session are not independent, so a session counts once: with its first event (rates), with its mean
(bounded statistics), or with at most its first 16 events whose joint covariance is known (embeddings). Counting every
event instead alarms many times too often, and no correction factor repairs that at small alphas.

Time is that of ticks: `now` is the tick that closes the events passed with it, in microseconds. Events come in
canonical order (event time, then key). A stream is any number the caller chooses, say that of a release; sessions of
different streams are different. An event without a session ("") is a unit of its own, with session number -1:
evidence made of such units has no guarantee.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats, State
from driftline.detectors.config import UnitsConfig
from driftline.schemas.events import MICROSECONDS

NO_SESSION = -1
_SWEEP_US = 60 * MICROSECONDS  # how often forgotten sessions are swept; does not change what is returned


@dataclass(frozen=True)
class Taken:
    """Which events of a chunk are evidence: `batch.value[taken.mask]` with `taken.session[taken.mask]`."""

    mask: NDArray[np.bool_]  # [n]
    session: NDArray[np.int64]  # [n] numbers for TickBatch.session; 0 where an event is not taken


@dataclass(frozen=True)
class SessionUnits:
    """The units that a tick closes: the timed-out sessions by age, then the tick's own in the order of their events."""

    stream: NDArray[np.int64]  # [n]
    value: Floats  # [n] mean of the unit's events; NaN: an event without a valid value
    session: NDArray[np.int64]  # [n] number, or -1
    events: NDArray[np.int64]  # [n] events in the unit


class _Seen:
    """The last tick at which each session of each stream had an event, for as long as it is remembered."""

    def __init__(self, forget_us: int) -> None:
        self.forget_us = forget_us
        self.streams: dict[int, dict[str, int]] = {}
        self.swept = 0

    def of(self, stream: int) -> dict[str, int]:
        seen = self.streams.get(stream)
        if seen is None:
            seen = self.streams[stream] = {}
        return seen

    def sweep(self, now: int) -> list[tuple[int, list[str]]]:
        """Drop what is forgotten by now; returns what was dropped."""
        if now - self.swept < _SWEEP_US:
            return []
        self.swept = now
        dropped = []
        for stream, seen in self.streams.items():
            old = [session for session, last in seen.items() if now - last >= self.forget_us]
            for session in old:
                del seen[session]
            dropped.append((stream, old))
        return dropped

    def snapshot(self) -> State:
        return {
            "swept": self.swept,
            "streams": [
                [stream, list(seen), np.fromiter(seen.values(), np.int64, len(seen))]
                for stream, seen in self.streams.items()
            ],
        }

    def restore(self, state: State) -> None:
        self.swept = state["swept"]
        self.streams = {
            stream: dict(zip(names, last.tolist(), strict=True)) for stream, names, last in state["streams"]
        }


class FirstEvents:
    """The first event of each session: the unit of rates. A session is forgotten an hour after its last event."""

    def __init__(self, config: UnitsConfig) -> None:
        self._seen = _Seen(round(config.forget_after_s * MICROSECONDS))
        self._next = 0

    def take(self, stream: Sequence[int], session: Sequence[str], now: int) -> Taken:
        mask = np.zeros(len(stream), np.bool_)
        number = np.zeros(len(stream), np.int64)
        forget, of = self._seen.forget_us, self._seen.of
        for i, (key, name) in enumerate(zip(stream, session, strict=True)):
            if not name:
                mask[i] = True
                number[i] = NO_SESSION
                continue
            seen = of(key)
            last = seen.get(name)
            if last is None or now - last >= forget:
                mask[i] = True
                number[i] = self._next
                self._next += 1
            seen[name] = now
        self._seen.sweep(now)
        return Taken(mask, number)

    def drop(self, stream: int) -> None:
        """Forget a stream whose release is gone."""
        self._seen.streams.pop(stream, None)

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
        self._seen = _Seen(round(config.forget_after_s * MICROSECONDS))
        self._open: dict[int, dict[str, list[int]]] = {}  # stream -> session -> [number, events, opened]
        self._next = 0

    def take(self, stream: Sequence[int], session: Sequence[str], now: int) -> Taken:
        mask = np.zeros(len(stream), np.bool_)
        number = np.zeros(len(stream), np.int64)
        forget, limit = self._seen.forget_us, self._config.max_events
        self._close(now)
        for i, (key, name) in enumerate(zip(stream, session, strict=True)):
            if not name:
                mask[i] = True
                number[i] = NO_SESSION
                continue
            seen = self._seen.of(key)
            last = seen.get(name)
            seen[name] = now
            sessions = self._open.setdefault(key, {})
            if last is None or now - last >= forget:
                entry = sessions[name] = [self._next, 0, now]
                self._next += 1
            else:
                known = sessions.get(name)
                if known is None:
                    continue
                entry = known
            entry[1] += 1
            mask[i] = True
            number[i] = entry[0]
            if entry[1] == limit:
                del sessions[name]
        self._seen.sweep(now)
        return Taken(mask, number)

    def _close(self, now: int) -> None:
        for sessions in self._open.values():
            # Insertion order is order of opening, so the closed ones come first.
            closed = []
            for name, (_, _, opened) in sessions.items():
                if now - opened < self._close_us:
                    break
                closed.append(name)
            for name in closed:
                del sessions[name]

    @property
    def open_from(self) -> int:
        """All sessions with smaller numbers are complete: pass it to `EmbeddingReference.close`."""
        first = (next(iter(sessions.values()))[0] for sessions in self._open.values() if sessions)
        return min(first, default=self._next)

    def drop(self, stream: int) -> None:
        """Forget a stream whose release is gone."""
        self._seen.streams.pop(stream, None)
        self._open.pop(stream, None)

    def snapshot(self) -> State:
        return {
            "seen": self._seen.snapshot(),
            "next": self._next,
            "open": [
                [stream, list(sessions), np.array(list(sessions.values()), np.int64).reshape(-1, 3)]
                for stream, sessions in self._open.items()
            ],
        }

    def restore(self, state: State) -> None:
        self._seen.restore(state["seen"])
        self._next = state["next"]
        self._open = {
            stream: dict(zip(names, entries.tolist(), strict=True)) for stream, names, entries in state["open"]
        }


class SessionMeans:
    """The mean of a bounded statistic over a session's events: the unit of scores. It closes 60 s after the session's
    first event or at its 16th; later events of the session are not scored."""

    def __init__(self, config: UnitsConfig) -> None:
        self._config = config
        self._close_us = round(config.close_after_s * MICROSECONDS)
        self._seen = _Seen(round(config.forget_after_s * MICROSECONDS))
        self._open: dict[tuple[int, str], list[Any]] = {}  # -> [number, events, sum, opened], in order of opening
        self._next = 0

    def step(self, stream: Sequence[int], session: Sequence[str], value: Floats, now: int) -> SessionUnits:
        """Absorb a tick's events and return the units that close by it. An event with NaN or infinity is a unit of
        its own, for detectors to count as invalid, and not part of its session's mean."""
        done: list[tuple[int, float, int, int]] = []
        self._close(now, done)
        forget, limit = self._seen.forget_us, self._config.max_events
        finite = np.isfinite(value).tolist()
        for key, name, x, valid in zip(stream, session, value.tolist(), finite, strict=True):
            if not valid:
                done.append((key, np.nan, NO_SESSION if not name else self._next, 1))
                continue
            if not name:
                done.append((key, x, NO_SESSION, 1))
                continue
            seen = self._seen.of(key)
            last = seen.get(name)
            seen[name] = now
            if last is None or now - last >= forget:
                entry = self._open[key, name] = [self._next, 0, 0.0, now]
                self._next += 1
            else:
                known = self._open.get((key, name))
                if known is None:
                    continue
                entry = known
            entry[1] += 1
            entry[2] += x
            if entry[1] == limit:
                del self._open[key, name]
                done.append((key, entry[2] / limit, entry[0], limit))
        self._seen.sweep(now)
        return SessionUnits(
            np.array([unit[0] for unit in done], np.int64),
            np.array([unit[1] for unit in done], np.float64),
            np.array([unit[2] for unit in done], np.int64),
            np.array([unit[3] for unit in done], np.int64),
        )

    def _close(self, now: int, done: list[tuple[int, float, int, int]]) -> None:
        closed = []
        for key, (number, events, total, opened) in self._open.items():
            if now - opened < self._close_us:
                break
            closed.append(key)
            done.append((key[0], total / events, number, events))
        for key in closed:
            del self._open[key]

    def drop(self, stream: int) -> None:
        """Forget a stream whose release is gone, with its open sessions."""
        self._seen.streams.pop(stream, None)
        self._open = {key: entry for key, entry in self._open.items() if key[0] != stream}

    def snapshot(self) -> State:
        return {
            "seen": self._seen.snapshot(),
            "next": self._next,
            "open": [[*key, *entry] for key, entry in self._open.items()],
        }

    def restore(self, state: State) -> None:
        self._seen.restore(state["seen"])
        self._next = state["next"]
        self._open = {(key, name): entry for key, name, *entry in state["open"]}
