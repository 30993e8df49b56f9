"""The e-processes of a comparison between two arms that are served side by side. Every process is valid at any time,
for every share of traffic known before assignment, and under whatever varies in time for both arms alike.

rho is the share: the probability with which a unit was sent to the canary. All results are natural logs.
"""

import math

import numpy as np
from scipy.special import betainc, betaincc, betaln, gammaln

from driftline.detectors.base import Floats, State

BETS = np.geomspace(0.005, 0.9, 10)
_PRIOR = 10.0  # pseudo-counts: bad events, and scores at the reference's mean
_SRM_PRIOR = 10_000.0  # a split is stated precisely, so the prior around it is narrow
_UNDERFLOW = 1e-280
LEAST_SHARE = 1e-6  # of a canary, or of what it leaves: with less nothing is compared, and logs of it leave the floats
_MOST_SHARES = 50  # told apart: a canary takes a few steps, and each tick sums over them


class _Counts:
    """Counts per share: all that the evidence of counts depends on, whatever their order."""

    def __init__(self) -> None:
        self._counts: dict[float, list[int]] = {}  # share -> [stable, canary]

    def add(self, rho: float, canary: bool, n: int = 1) -> None:
        # A share known beforehand may decide who is counted.
        if rho in self._counts or len(self._counts) < _MOST_SHARES:
            self._counts.setdefault(rho, [0, 0])[canary] += n

    @property
    def nbytes(self) -> int:
        """Of the snapshot, about."""
        return 15 * len(self._counts)

    def snapshot(self) -> State:
        return {"counts": [[rho, *counts] for rho, counts in self._counts.items()]}

    def restore(self, state: State) -> None:
        self._counts = {rho: [stable, canary] for rho, stable, canary in state["counts"]}


class RateProcess(_Counts):
    """Do bad events come more often from the canary than `ratio` times stable's rate allows? Given that an event is
    bad, it comes from the canary with a probability of at most rho r / (rho r + 1 - rho); the base rate and its
    changes cancel (Lindon and Malek, 2011.03567). A Beta prior, cut to the alternative, bets on that probability."""

    def log_harm(self, ratio: float = 1.0) -> float:
        """Null: the canary's rate is at most `ratio` times stable's."""
        return self._log_e(ratio, upper=True)

    def log_fine(self, ratio: float) -> float:
        """Null: the canary's rate is at least `ratio` times stable's."""
        return self._log_e(ratio, upper=False)

    def _log_e(self, ratio: float, *, upper: bool) -> float:
        total = 0.0
        for rho, (stable, canary) in sorted(self._counts.items()):
            theta = rho * ratio / (rho * ratio + 1 - rho)
            a, b = _PRIOR * rho, _PRIOR * (1 - rho)
            part = log_beta_upper if upper else log_beta_lower
            total += part(a + canary, b + stable, theta) - part(a, b, theta)
            total += float(betaln(a + canary, b + stable) - betaln(a, b))
            total -= canary * math.log(theta) + stable * math.log1p(-theta)
        return total


class MeanProcess:
    """Is the canary's mean of a score in [0, 1] lower than stable's? Higher is better.

    Z = (s - m)(A/rho - (1-A)/(1-rho)), with A = 1 for the canary and m the running mean of both arms before, has the
    difference of the means as its expectation. Each of ten bets l multiplies its wealth by 1 + l W/B, where W is -Z
    less `tolerance` for harm and Z plus `margin` for non-inferiority, and -B the least that W can be; the evidence is
    the mean wealth.
    """

    def __init__(self, tolerance: float, margin: float, start: float = 0.5) -> None:
        """tolerance: the canary may be this much lower. margin: it is fine if it is less than this much lower. start:
        the mean expected of stable, fixed beforehand."""
        self._tolerance, self._margin = tolerance, margin
        self._harm = np.zeros(len(BETS))
        self._fine = np.zeros(len(BETS))
        self._n = _PRIOR
        self._total = _PRIOR * start
        self.units = [0, 0]  # stable, canary

    def add(self, s: Floats, canary: Floats, rho: Floats) -> None:
        """Units in order. canary: 1 or 0."""
        totals = np.cumsum(np.concatenate([[self._total], s]))
        m = totals[:-1] / (self._n + np.arange(len(s)))
        z = (s - m) * (canary / rho - (1 - canary) / (1 - rho))
        worst = np.maximum((1 - m) / rho, m / (1 - rho)) + self._tolerance
        self._harm = self._grown(self._harm, (-z - self._tolerance) / worst)
        worst = np.maximum(m / rho, (1 - m) / (1 - rho)) - self._margin
        self._fine = self._grown(self._fine, (z + self._margin) / worst)
        self._total = float(totals[-1])
        self._n += len(s)
        arrived = int(canary.sum())
        self.units = [self.units[0] + len(s) - arrived, self.units[1] + arrived]

    def _grown(self, wealth: Floats, gain: Floats) -> Floats:
        # One after the other, so that the sums do not depend on how units were batched.
        grown: Floats = np.cumsum(np.vstack([wealth, np.log1p(BETS * gain[:, None])]), axis=0)[-1]
        return grown

    @property
    def log_harm(self) -> float:
        """Null: the canary's mean is at most `tolerance` lower."""
        return float(np.logaddexp.reduce(self._harm)) - math.log(len(BETS))

    @property
    def log_fine(self) -> float:
        """Null: the canary's mean is at least `margin` lower."""
        return float(np.logaddexp.reduce(self._fine)) - math.log(len(BETS))

    def snapshot(self) -> State:
        return {
            "tolerance": self._tolerance,
            "margin": self._margin,
            "harm": self._harm.copy(),
            "fine": self._fine.copy(),
            "n": self._n,
            "total": self._total,
            "units": list(self.units),
        }

    def restore(self, state: State) -> None:
        self._tolerance, self._margin = state["tolerance"], state["margin"]
        self._harm, self._fine = state["harm"].copy(), state["fine"].copy()
        self._n, self._total, self.units = state["n"], state["total"], list(state["units"])


class SplitProcess(_Counts):
    """Is the traffic split other than stated (sample-ratio mismatch)? Dirichlet-multinomial against the stated shares
    (Lindon and Malek, 2011.03567)."""

    @property
    def log_e(self) -> float:
        total = 0.0
        for rho, (stable, canary) in sorted(self._counts.items()):
            a, b = _SRM_PRIOR * rho, _SRM_PRIOR * (1 - rho)
            total += float(betaln(a + canary, b + stable) - betaln(a, b))
            total -= canary * math.log(rho) + stable * math.log1p(-rho)
        return total


class Ranks:
    """Mid-ranks in [0, 1] among a sample that is fixed beforehand; without one, among the values of earlier ticks of
    both arms, up to 2,000 of them: enough for the order of values, and 16 kB of state."""

    _LIMIT = 2_000

    def __init__(self, sample: Floats | None) -> None:
        self._fixed = sample is not None
        self._sorted = np.sort(sample) if sample is not None else np.empty(0)

    @property
    def nbytes(self) -> int:
        return self._sorted.nbytes

    def of(self, values: Floats) -> Floats:
        """Ranks of a tick's values; 0.5 while there is nothing to compare with."""
        n = len(self._sorted)
        if n:
            below, up_to = (self._sorted.searchsorted(values, side=side) for side in ("left", "right"))
            ranks: Floats = (below + up_to) / (2 * n)
        else:
            ranks = np.full(len(values), 0.5)
        if not self._fixed and n < self._LIMIT:
            self._sorted = np.sort(np.concatenate([self._sorted, values[: self._LIMIT - n]]))
        return ranks

    def snapshot(self) -> State:
        return {"fixed": self._fixed, "sorted": self._sorted.copy()}

    def restore(self, state: State) -> None:
        self._fixed, self._sorted = state["fixed"], state["sorted"].copy()


def log_beta_lower(a: float, b: float, x: float) -> float:
    """ln I_x(a, b), the regularised incomplete beta function, also where it underflows."""
    value = float(betainc(a, b, x))
    return math.log(value) if value > _UNDERFLOW else _log_beta_tail(a, b, x)


def log_beta_upper(a: float, b: float, x: float) -> float:
    """ln(1 - I_x(a, b)), also where it underflows."""
    value = float(betaincc(a, b, x))
    return math.log(value) if value > _UNDERFLOW else _log_beta_tail(b, a, 1 - x)


def _log_beta_tail(a: float, b: float, x: float) -> float:
    """ln I_x(a, b) far in the lower tail, by the continued fraction DLMF 8.17.22 (modified Lentz)."""
    front = a * math.log(x) + b * math.log1p(-x) - math.log(a) - float(gammaln(a) + gammaln(b) - gammaln(a + b))
    tiny = 1e-300
    c, d = 1.0, 1 / max(1 - (a + b) * x / (a + 1), tiny)
    fraction = d
    for m in range(1, 10_000):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / ((1 + step * d) or tiny)
            c = (1 + step / c) or tiny
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            return front + math.log(fraction)
    raise ArithmeticError(f"ln I_x(a, b) did not converge at a={a}, b={b}, x={x}")
