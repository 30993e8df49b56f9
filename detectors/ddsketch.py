"""Quantiles of windows within 1 % relative error (DDSketch: Masson, Rim and Lee, VLDB 2019, 1908.10693).

Counts are integers and the sum is exact, so a sketch depends on the values alone, not on their order or batching, and
merging is exact. Meant for latencies, token counts and costs: finite and not negative.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from driftline.detectors.base import Floats, State

RELATIVE_ERROR = 0.01
ZERO = 1e-12  # smaller values count as zero
_GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_LOG_GAMMA = float(np.log(_GAMMA))
_UNIT = 1100  # the sum is an integer multiple of 2**-_UNIT, which every float64 is


class DDSketch:
    """A sketch of one window's values."""

    def __init__(self, state: State | None = None) -> None:
        self._counts: dict[int, int] = {}
        self._zeros = 0
        self._sum = 0
        self._count = 0
        if state is not None:
            self._counts = dict(zip(state["buckets"].tolist(), state["counts"].tolist(), strict=True))
            self._zeros = state["zeros"]
            self._sum = int(state["sum"], 16)
            self._count = self._zeros + sum(self._counts.values())

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
        if not (np.isfinite(x).all() and (x >= 0).all()):
            raise ValueError("a sketch takes finite values that are not negative")
        self._count += len(x)
        self._sum += _exact_sum(x)
        positive = x[x >= ZERO]
        self._zeros += len(x) - len(positive)
        buckets, counts = np.unique(np.ceil(np.log(positive) / _LOG_GAMMA).astype(np.int64), return_counts=True)
        for bucket, count in zip(buckets.tolist(), counts.tolist(), strict=True):
            self._counts[bucket] = self._counts.get(bucket, 0) + count

    def merge(self, other: "DDSketch") -> None:
        self._count += other._count
        self._zeros += other._zeros
        self._sum += other._sum
        for bucket, count in other._counts.items():
            self._counts[bucket] = self._counts.get(bucket, 0) + count

    def quantile(self, q: float) -> float:
        """Within 1 % of the value whose rank is floor(q (count - 1)). ValueError if empty."""
        if not self._count:
            raise ValueError("an empty sketch has no quantiles")
        rank = int(q * (self._count - 1))
        seen = self._zeros
        if rank < seen:
            return 0.0
        bucket = 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if rank < seen:
                break
        return float(2 * np.exp(bucket * _LOG_GAMMA) / (_GAMMA + 1))

    def snapshot(self) -> State:
        buckets = sorted(self._counts)
        return {
            "buckets": np.array(buckets, np.int64),
            "counts": np.array([self._counts[bucket] for bucket in buckets], np.int64),
            "zeros": self._zeros,
            "sum": f"{self._sum:x}",
        }


def _exact_sum(x: Floats) -> int:
    """The sum of finite values as a multiple of 2**-_UNIT."""
    mantissa, exponent = np.frexp(x)
    integers: NDArray[np.int64] = np.ldexp(mantissa, 53).astype(np.int64)
    total = 0
    exponents: NDArray[Any] = np.unique(exponent)
    for e in exponents.tolist():
        chosen = integers[exponent == e]
        # In halves, so that no partial sum leaves 64 bits.
        high, low = int((chosen >> 26).sum()), int((chosen & 0x3FFFFFF).sum())
        total += ((high << 26) + low) << (e - 53 + _UNIT + 64)
    return total >> 64
