"""Quantiles of windows within 1 % relative error (DDSketch: Masson, Rim and Lee, VLDB 2019, 1908.10693).

Counts are integers and the sum is exact, so a sketch depends on the values alone, not on their order or batching, and
merging is exact. Meant for latencies, token counts and costs: finite and not negative.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from driftline.detectors.base import Floats, State

RELATIVE_ERROR = 0.01
ZERO = 1e-12  # smaller values count as zero
_GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA = float(np.log(_GAMMA))
_UNIT = 1100  # the sum is an integer multiple of 2**-_UNIT, which every float64 is
_SPAN = 1 << 17  # more than there are buckets of float64
_LIMBS = (3, -25, -53, -81)  # the weights, as powers of two, of the limbs of 28 bits that most values are sums of


class DDSketch:
    """A sketch of one window's values."""

    def __init__(self, state: State | None = None) -> None:
        self._low = 0  # the first bucket of `_counts`
        self._counts = np.zeros(0, np.int64)
        self._zeros = 0
        self._sum = 0
        self._count = 0
        if state is not None:
            self._zeros, self._sum, self._count = state["zeros"], int(state["sum"], 16), state["zeros"]
            self._add(state["buckets"], state["counts"], int(state["counts"].sum()), 0, 0)

    @property
    def count(self) -> int:
        return self._count

    @property
    def sum(self) -> float:
        """The exact sum, rounded once."""
        return self._sum / (1 << _UNIT)

    def add(self, values: ArrayLike) -> None:
        """ValueError for NaN, infinity and negative values."""
        x: Floats = np.atleast_1d(np.asarray(values, np.float64)).ravel()
        add_each([self], np.zeros(len(x), np.intp), x)

    def merge(self, other: "DDSketch") -> None:
        used = np.flatnonzero(other._counts)
        self._add(used + other._low, other._counts[used], other._count, other._zeros, other._sum)

    def _add(self, buckets: NDArray[np.int64], counts: NDArray[np.int64], count: int, zeros: int, total: int) -> None:
        """`buckets` ascend."""
        self._count += count
        self._zeros += zeros
        self._sum += total
        if not len(buckets):
            return
        low, end = int(buckets[0]), int(buckets[-1]) + 1
        if not len(self._counts):
            self._low = low
        if low < self._low or end > self._low + len(self._counts):
            start = min(low, self._low)
            wider = np.zeros(max(end, self._low + len(self._counts)) - start, np.int64)
            wider[self._low - start :][: len(self._counts)] = self._counts
            self._low, self._counts = start, wider
        self._counts[buckets - self._low] += counts

    def quantile(self, q: float) -> float:
        """Within 1 % of the value whose rank is floor(q (count - 1)). ValueError if empty."""
        if not self._count:
            raise ValueError("an empty sketch has no quantiles")
        rank = int(q * (self._count - 1))
        if rank < self._zeros:
            return 0.0
        bucket = self._low + int(np.searchsorted(np.cumsum(self._counts), rank - self._zeros, side="right"))
        return float(2 * np.exp(bucket * _LOG_GAMMA) / (_GAMMA + 1))

    def above(self, value: float) -> int:
        """How many lie above `value` (> 0). Those within 2 % of it may count on either side, the same for every order
        of adding and merging."""
        bucket = int(np.ceil(np.log(value) / _LOG_GAMMA))
        return int(self._counts[max(0, bucket + 1 - self._low) :].sum())

    def snapshot(self) -> State:
        used = np.flatnonzero(self._counts)
        return {
            "buckets": used + self._low,
            "counts": self._counts[used],
            "zeros": self._zeros,
            "sum": f"{self._sum:x}",
        }


def add_each(sketches: Sequence[DDSketch], index: NDArray[np.intp], values: Floats) -> None:
    """Add value i to sketches[index[i]]. ValueError for NaN, infinity and negative values."""
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError("a sketch takes finite values that are not negative")
    if not len(values):
        return
    n = len(sketches)
    zero = values < ZERO
    counts, zeros = np.bincount(index, minlength=n).tolist(), np.bincount(index[zero], minlength=n).tolist()
    sums = _exact_sums(index, n, values)
    buckets = np.ceil(np.log(values[~zero]) / _LOG_GAMMA).astype(np.int64)
    codes, of_bucket = np.unique(index[~zero] * _SPAN + (buckets + _SPAN // 2), return_counts=True)
    bounds = np.searchsorted(codes, np.arange(n + 1) * _SPAN).tolist()
    buckets = codes % _SPAN - _SPAN // 2
    for i, sketch in enumerate(sketches):
        mine = slice(bounds[i], bounds[i + 1])
        sketch._add(buckets[mine], of_bucket[mine], counts[i], zeros[i], sums[i])


def _exact_sums(index: NDArray[np.intp], n: int, values: Floats) -> list[int]:
    """The sums of each index as multiples of 2**-_UNIT. Values are taken apart into limbs of 28 bits, whose float64
    sums are exact up to 2**25 values; this covers all from 2**-29 to 2**31 to their last bit."""
    totals = [0] * n
    usual = values < 2.0**31
    rest = np.where(usual, values, 0.0)
    for power in _LIMBS:
        limb = np.floor(np.ldexp(rest, -power))
        rest = rest - np.ldexp(limb, power)
        for i, total in enumerate(np.bincount(index, limb, n).tolist()):
            totals[i] += int(total) << (power + _UNIT)
    rest[~usual] = values[~usual]
    for i in np.flatnonzero(rest).tolist():
        numerator, denominator = float(rest[i]).as_integer_ratio()
        totals[index[i]] += (numerator << _UNIT) // denominator
    return totals
