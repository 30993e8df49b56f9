"""How fast an error budget is spent: burn rates over pairs of a long and a short window.

A burn of 1 spends the budget exactly in its period; 14.4 spends 2 % of a 30-day budget in an hour. Both windows must be
above a pair's factor: the long one says that it matters, the short one that it goes on (Google SRE workbook, chapter 5;
the pairs are those of sloth's google-30d). Few requests make large burns by chance, so the long window's bad requests
must also be more than a binomial law at the budget's own rate would give in one of 10,000 windows.
"""

from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc

from driftline.detectors.base import State

P_MAX = 1e-4  # of chance alone
MINUTE, HOUR, DAY = 60, 3_600, 86_400


class Pair(NamedTuple):
    name: str
    long_s: int
    short_s: int
    factor: float
    page: bool  # somebody must look now; else a ticket


PAIRS = (
    Pair("1h/5m", HOUR, 5 * MINUTE, 14.4, True),  # 2 % of a month's budget
    Pair("6h/30m", 6 * HOUR, 30 * MINUTE, 6, True),  # 5 %
    Pair("1d/2h", DAY, 2 * HOUR, 3, False),  # 10 %
    Pair("3d/6h", 3 * DAY, 6 * HOUR, 1, False),  # 10 %
)
LONGEST_S = max(pair.long_s for pair in PAIRS)
SHORTEST_S = min(pair.short_s for pair in PAIRS)


class Burn(NamedTuple):
    """One window's spending against what was allowed in it."""

    spent: int  # bad requests, or money
    allowed: float  # (1 - objective) x requests, or the budget's share of the window
    total: int  # requests, or 0 for money

    @property
    def rate(self) -> float | None:
        """None: nothing happened."""
        return self.spent / self.allowed if self.allowed else None


def exceeds(burn: Burn, factor: float) -> bool:
    return burn.rate is not None and burn.rate > factor


def p_by_chance(bad: int, total: int, budget: float) -> float:
    """P(at least `bad` of `total` requests fail) when each fails with probability `budget`."""
    return float(bdtrc(bad - 1, total, budget))


def began(spent: Sequence[int], allowed: Sequence[float], factor: float) -> int:
    """The bucket from which on, up to the last one, most was spent above half of `factor` times what was allowed: the
    CUSUM's change point. At least one bucket."""
    excess = np.array(spent, np.float64) - factor / 2 * np.array(allowed)
    return len(excess) - 1 - int(np.argmax(np.cumsum(excess[::-1])))


def calm(long: Burn, short: Burn, factor: float) -> bool:
    """Whether an alert of this pair ends. The short window decides; silence in it is no evidence, then the long one."""
    return not exceeds(short if short.rate is not None else long, factor)


class Buckets:
    """Counters of the last buckets of time, of one app: exact up to `most` in a bucket, which stands for all beyond."""

    def __init__(self, length: int, columns: int, state: State | None = None) -> None:
        """length: how many buckets are kept. columns: counters in each."""
        self._length = length
        self.most = 2**62 // length  # so that sums fit in 64 bits; of 3 days in minutes a million dollars
        # Rings of running totals: those up to bucket b stand at b % (length + 1), so that a sum is one difference. They
        # wrap around, and differences are right all the same.
        self._totals = [array("q", bytes(8 * (length + 1))) for _ in range(columns)]
        self.newest = -1
        if state is not None:
            counts = state["counts"].astype(np.int64)
            self.newest = state["newest"] - counts.shape[1]
            for bucket, column in enumerate(counts.T.tolist(), self.newest + 1):
                self.add(bucket, column)
            self._advance(state["newest"])

    def add(self, bucket: int, counts: Sequence[int]) -> None:
        """`bucket`: its number, not below `newest`; those between are empty."""
        self._advance(bucket)
        at, before = bucket % (self._length + 1), (bucket - 1) % (self._length + 1)
        for totals, count in zip(self._totals, counts, strict=True):
            left = self.most - _wrapped(totals[at] - totals[before])
            totals[at] = _wrapped(totals[at] + min(count, left))

    def _advance(self, bucket: int) -> None:
        size = self._length + 1
        for totals in self._totals:
            now = totals[self.newest % size]
            for number in range(max(self.newest + 1, bucket - self._length), bucket + 1):
                totals[number % size] = now
        self.newest = bucket

    def _at(self, bucket: int) -> int:
        """Where the totals up to a bucket stand."""
        return min(max(bucket, self.newest - self._length), self.newest) % (self._length + 1)

    def last(self, newest: int, length: int) -> NDArray[np.int64]:
        """[columns, length] of the buckets up to number `newest`, which is not below the own one; oldest first."""
        buckets = np.arange(newest - length, newest + 1).clip(self.newest - self._length, self.newest)
        at = buckets % (self._length + 1)
        return np.diff([np.frombuffer(totals, np.int64)[at] for totals in self._totals], axis=1)

    def sums(self, newest: int, lengths: Sequence[int]) -> list[list[int]]:
        """For each length, the columns' totals of so many buckets up to number `newest`, not below the own one."""
        end, starts = self._at(newest), [self._at(newest - length) for length in lengths]
        return [[_wrapped(totals[end] - totals[start]) for totals in self._totals] for start in starts]

    def snapshot(self) -> State:
        """In the smallest integers that hold them, without the empty buckets at the old end."""
        counts = self.last(self.newest, self._length)
        used = np.flatnonzero(counts.any(axis=0))
        counts = counts[:, used[0] if len(used) else self._length :]
        return {"newest": self.newest, "counts": counts.astype(np.min_scalar_type(int(counts.max(initial=0))))}


def _wrapped(number: int) -> int:
    """As 64 bits hold it."""
    return (number + 2**63) % 2**64 - 2**63
