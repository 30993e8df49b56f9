"""How much evidence there is in events that depend on each other, where no session says which do.

The means of blocks of a statistic vary more than those of independent events would, by the design effect
deff = b Var(block mean) / Var(event), with b events a block. Logs of factors are divided by it. That keeps false alarms
near what is stated only where the dependence is weak, so evidence that is tempered carries no guarantee.

What detectors bet on is known after the reference only, and its blocks can't all be kept. So the dependence is that of
ranks among the reference's first thousand values.
"""

import math

import numpy as np

from driftline.detectors.base import Floats, State

TAILS = (0.95, 0.99, 0.999)
LOCATION, P99 = 0, 4  # of `Blocks.deff`: (z, its second and third Legendre polynomials, the three tails)
BLOCK_S = 60.0  # bursts and retries live longer than a few events
BLOCK_EVENTS = 64
MIN_BLOCKS = 30  # the variance between them is known to a quarter
_FIRST = 1000
_MOST = 256  # blocks; then every two become one


class Blocks:
    """Blocks of a reference, each of at least 64 events and `span` ticks with events."""

    def __init__(self, span: int, state: State | None = None) -> None:
        self._span = span
        self._first: Floats = state["first"].copy() if state else np.empty(0)  # sorted when it is whole
        self._blocks: list[list[float]] = state["blocks"].tolist() if state else []  # events, then sums of statistics
        self._open: Floats = state["open"].copy() if state else np.zeros(7)
        self._squares: Floats = state["squares"].copy() if state else np.zeros(6)
        self._ticks: int = state["ticks"] if state else 0
        self._merged: int = state["merged"] if state else 1  # of the blocks above, in one

    def __len__(self) -> int:
        """The number of whole blocks; what was merged counts as before."""
        return len(self._blocks) * self._merged

    @property
    def nbytes(self) -> int:
        """Of the snapshot, about."""
        return 8 * len(self._first) + 56 * len(self._blocks) + 150

    def add(self, values: Floats) -> None:
        """A tick's events."""
        if not len(values):
            return
        if len(self._first) < _FIRST:
            self._first = np.concatenate([self._first, values])[:_FIRST]
            if len(self._first) == _FIRST:
                self._first.sort()
            return
        below, upto = (self._first.searchsorted(values, side) for side in ("left", "right"))
        u = (below + upto) / (2 * _FIRST)
        z = 2 * u - 1
        h = np.stack([z, (3 * z**2 - 1) / 2, (5 * z**3 - 3 * z) / 2, *((u > q) * 1.0 for q in TAILS)])
        self._open += (len(values), *h.sum(1))
        self._squares += (h**2).sum(1)
        self._ticks += 1
        if self._open[0] >= BLOCK_EVENTS * self._merged and self._ticks >= self._span * self._merged:
            self._blocks.append(self._open.tolist())
            self._open, self._ticks = np.zeros(7), 0
            if len(self._blocks) == _MOST:
                self._blocks = (np.array(self._blocks[::2]) + np.array(self._blocks[1::2])).tolist()
                self._merged *= 2

    def deff(self) -> Floats:
        """[6], at least 1."""
        if len(self._blocks) < 2:
            return np.ones(6)
        blocks = np.array(self._blocks)
        sizes, means = blocks[:, :1], blocks[:, 1:] / blocks[:, :1]
        events = float(sizes.sum())
        mean = blocks[:, 1:].sum(0) / events
        variance = self._squares / (events + self._open[0]) - mean**2
        between = (sizes * (means - mean) ** 2).sum(0) / (len(sizes) - 1)
        deff: Floats = np.maximum(1.0, between / np.where(variance > 1e-12, variance, np.inf))
        return deff

    def snapshot(self) -> State:
        return {
            "first": self._first.copy(),
            "blocks": np.array(self._blocks).reshape(-1, 7),
            "open": self._open.copy(),
            "squares": self._squares.copy(),
            "ticks": self._ticks,
            "merged": self._merged,
        }


def note(deff: float) -> str:
    """For evidence."""
    if deff <= 1:
        return ""
    return f"Requests without a session: evidence divided by up to {math.ceil(deff * 10) / 10:g} (deff)."
