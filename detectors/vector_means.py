"""The means of sessions' vectors: the units of `embedding_witness`."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats, State
from driftline.detectors.embeddings import unit_vectors
from driftline.detectors.units import NO_SESSION, Numbers

_WIDTH = 384  # dimensions at which as many sessions are open as the settings say


@dataclass(frozen=True)
class MeanUnits:
    """Sessions that closed, by their numbers."""

    stream: Numbers  # [n]
    value: Floats  # [n, d] the means of their events' unit vectors
    session: Numbers  # [n]
    learn: NDArray[np.bool_]  # [n] whether all of its events may enter a reference
    began: Numbers  # [n] the tick of its first event


class VectorMeans:
    """Sums up the events that `FirstSixteen` takes until their session is complete, at latest 60 s after its first. If
    more than `max_open` sessions are open, the oldest close before their time, with the events they have."""

    def __init__(self, max_open: int, state: State | None = None) -> None:
        self._max_open = max_open
        self._numbers: dict[int, int] = {}  # session -> row, sessions ascending
        self._rows = np.empty((0, 3), np.int64)  # stream, events, learn
        self._sums: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self._began: dict[int, int] = {}  # session -> tick of its first event
        self._closed_below = 0
        self.cut_short = 0
        if state is not None:
            self._restore(state)

    @property
    def _most(self) -> int:
        """Of longer vectors as many bytes."""
        width: int = max(_WIDTH, self._sums.shape[1])
        return max(1, self._max_open * _WIDTH // width)

    @property
    def nbytes(self) -> int:
        """Of the snapshot, about."""
        size: int = 4 * self._sums.shape[1] + 32
        return len(self._numbers) * size

    def held(self) -> set[int]:
        """The streams that have open sessions: these close with the next event of any stream, however late."""
        return set(self._rows[:, 0].tolist())

    def step(
        self,
        stream: Numbers,
        session: Numbers,
        value: Floats,
        learn: NDArray[np.bool_],
        open_from: int,
        tick: int,
    ) -> MeanUnits:
        """A tick's events, with `FirstSixteen`'s session numbers, and its `open_from` afterwards. Events without a
        session, with an invalid vector, or of a session that was closed before its time are left out."""
        known = (session != NO_SESSION) & (session >= self._closed_below)
        phi, valid = unit_vectors(value[known], self._sums.shape[1] or None)
        self._add(stream[known][valid], session[known][valid], phi, learn[known][valid], tick)
        excess = len(self._numbers) - self._most
        early = sorted(self._numbers)[:excess] if excess > 0 else []
        self.cut_short += sum(number >= open_from for number in early)
        self._closed_below = max(self._closed_below, open_from, early[-1] + 1 if early else 0)
        return self._close(tick)

    def _add(self, stream: Numbers, session: Numbers, phi: Floats, learn: NDArray[np.bool_], tick: int) -> None:
        if not len(session):
            return
        order = np.argsort(session, kind="stable")
        numbers, starts, counts = np.unique(session[order], return_index=True, return_counts=True)
        fresh = [number for number in numbers.tolist() if number not in self._numbers]
        if fresh:
            first = len(self._numbers)
            self._began |= dict.fromkeys(fresh, tick)
            self._numbers |= {number: first + i for i, number in enumerate(fresh)}
            self._rows = np.concatenate([self._rows, np.tile(np.array([0, 0, 1]), (len(fresh), 1))])
            empty = np.zeros((len(fresh), phi.shape[1]), np.float32)
            self._sums = np.concatenate([self._sums, empty]) if first else empty
        rows = [self._numbers[number] for number in numbers.tolist()]
        self._sums[rows] += np.add.reduceat(phi[order], starts, axis=0).astype(np.float32)
        self._rows[rows, 0] = stream[order][starts]
        self._rows[rows, 1] += counts
        self._rows[rows, 2] &= np.logical_and.reduceat(learn[order], starts)

    def _close(self, tick: int) -> MeanUnits:
        done = sorted(number for number in self._numbers if number < self._closed_below)
        rows = [self._numbers[number] for number in done]
        stream, events, learn = self._rows[rows].T
        means: Floats = self._sums[rows].astype(np.float64) / events[:, None]
        if done:
            left = sorted(self._numbers.keys() - set(done))
            rows = [self._numbers[number] for number in left]
            self._rows, self._sums = self._rows[rows], self._sums[rows]
            self._numbers = {number: i for i, number in enumerate(left)}
        began = np.array([self._began.pop(number, tick) for number in done], np.int64)
        return MeanUnits(stream, means, np.array(done, np.int64), learn.astype(np.bool_), began)

    def snapshot(self) -> State:
        return {
            "numbers": np.array(list(self._numbers), np.int64),
            "rows": self._rows.copy(),
            "sums": self._sums.copy(),
            "began": np.array([self._began.get(number, -1) for number in self._numbers], np.int64),
            "closed_below": self._closed_below,
            "cut_short": self.cut_short,
        }

    def _restore(self, state: State) -> None:
        self._numbers = {number: i for i, number in enumerate(state["numbers"].tolist())}
        self._rows, self._sums = state["rows"].copy(), state["sums"].copy()
        began = zip(self._numbers, state.get("began", ()), strict=False)  # earlier states have none
        self._began = {number: int(tick) for number, tick in began if tick >= 0}
        self._closed_below, self.cut_short = state["closed_below"], state["cut_short"]
