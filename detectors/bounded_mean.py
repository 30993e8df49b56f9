"""Scores in a range whose mean must not drop: judge scores, feedback.

This detector keeps a contract: "the mean has dropped by more than was allowed". The rank test on the same scores,
`quality_pit`, finds changes of bimodal scores much sooner: it is the alarm, this the statement about the mean.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from driftline.detectors.base import Floats, Insufficient, Slots
from driftline.detectors.columns import Columns
from driftline.detectors.config import BudgetConfig, QualityConfig
from driftline.detectors.engine import Run
from driftline.detectors.scalar import HORIZON, SampleReference, ScalarBaseline, ScalarDetector, relative
from driftline.detectors.seasons import NO_HOURS
from driftline.detectors.tempering import LOCATION
from driftline.schemas.ids import stable_id

CONFIDENCE = 0.999  # of the lower bound of the reference's mean
_MIN_INTERVAL = 30  # scores; fewer make no interval worth showing
_MAX_N = 1 << 40


class MeanBaseline(ScalarBaseline, frozen=True, kw_only=True):
    mean: float  # of the reference, in the unit of the scores
    limit: float  # m0: the least mean that is allowed, rescaled to [0, 1]
    detectable: float | None  # the least drop, relative, that is found within 1,000 units; None: not even the whole


class Quality(ScalarDetector[MeanBaseline]):
    """Alarms when the mean score is more than `allowed_drop` below the reference's. Units: session means
    (`SessionMeans`) in [low, high].

    With s rescaled to [0, 1], the null is E[s | past] >= m0 = (1 - allowed_drop) mu_L, where mu_L is the lower 99.9 %
    empirical-Bernstein bound of the reference's mean. The factors are 1 + l ((1-s)/(1-m0) - 1), the bets l as
    configured; their mean is at most 1 under the null, whatever the distribution.
    """

    def __init__(self, config: QualityConfig, budget: BudgetConfig) -> None:
        super().__init__("quality", MeanBaseline, len(config.bets), len(config.bets), budget, config.recovery)
        self._config = config
        self._low, self._high = config.low, config.high
        self._bets = np.array(config.bets)
        self._derived = Columns(limit=((), np.float64, 0), deff=((), np.float64, 1))

    def fit(self, reference: SampleReference) -> MeanBaseline | Insufficient:
        """Refuses a reference too small to keep a drop of `target_drop` outside the null."""
        config, n = self._config, reference.n
        if n < config.min_units:
            return Insufficient("too few scored sessions", n, config.min_units)
        if unsettled := reference.unsettled():
            return unsettled
        span = config.high - config.low
        mean, sd = self._moments(reference)
        if mean <= 0:
            return Insufficient("all scores are at the bottom of the range: nothing can drop", n, n + 1)
        need = scores_needed(mean, sd, (1 - config.target_drop) / (1 - config.allowed_drop) * mean)
        if n < need:
            return Insufficient(
                f"a drop of {config.target_drop:.0%} can't be told from the uncertainty of the reference's mean yet",
                n,
                need,
            )
        deff = float(reference.blocks.deff()[LOCATION])
        limit = (1 - config.allowed_drop) * mean_lower(mean, sd, n)
        return MeanBaseline(
            id=stable_id(self.name, config.model_dump_json(), reference.digest()),
            n=n,
            guarantee=reference.guarantee,
            deff=deff,
            mean=config.low + span * mean,
            limit=limit,
            detectable=self._detectable(mean, sd, limit, deff),
        )

    def _detectable(self, mean: float, sd: float, limit: float, deff: float) -> float | None:
        """Evidence against the limit grows by (limit - mean)^2 / 2 variances a unit."""
        found = limit - sd * math.sqrt(2 * (self._budget.threshold + 2) * deff / HORIZON)
        return 1 - found / mean if found > 0 else None

    def _moments(self, reference: SampleReference) -> tuple[float, float]:
        """Mean and standard deviation of the rescaled scores."""
        low, span, n = self._config.low, self._config.high - self._config.low, reference.n
        total, square = reference.sums.tolist()
        variance = max(0.0, (square - total * total / n) / (n - 1))
        return (total / n - low) / span, math.sqrt(variance) / span

    def _configure(self, slot: int, baseline: MeanBaseline) -> None:
        self._derived.claim(None if slot == len(self._derived) else slot)
        self._derived["limit"][slot] = baseline.limit
        self._derived["deff"][slot] = baseline.deff

    def _statistic(self, slot: Slots, value: Floats) -> Floats:
        return (value - self._low) / (self._high - self._low)

    def _logs(self, slots: Slots, index: Slots, x: Floats, units: NDArray[np.int64]) -> tuple[Floats, Floats]:
        m0 = self._derived["limit"][slots][index]
        worse = np.log1p(self._bets * ((1 - x) / (1 - m0) - 1)[:, None])
        better = np.log1p(self._bets * (x / m0 - 1)[:, None])
        deff = self._derived["deff"][slots][:, None]
        return _by_slot(index, worse, len(slots)) / deff, _by_slot(index, better, len(slots)) / deff

    def _shown(self, slot: int, mean: float, run: Run | None) -> dict[str, Any]:
        low, span = self._config.low, self._config.high - self._config.low
        reference = self._baselines[slot].mean
        value = low + span * mean
        shown: dict[str, Any] = {"value": value, "baseline": reference, "effect": relative(value, reference)}
        if run and run.units >= _MIN_INTERVAL:
            variance = max(0.0, run.sums[1] - run.units * mean * mean) / (run.units - 1)
            half = span * float(stdtrit(run.units - 1, 0.975)) * math.sqrt(variance / run.units)
            shown |= {
                "effect_low": relative(value - half, reference),
                "effect_high": relative(value + half, reference),
            }
        return shown

    def _note(self, baseline: MeanBaseline) -> str:
        config = self._config
        drop = "none" if baseline.detectable is None else f"{-baseline.detectable:.1%}"
        limit = config.low + (config.high - config.low) * baseline.limit
        return f"Limit: a mean of {limit:.4g}. Detectable within {HORIZON} sessions: {drop}. {NO_HOURS}"


def mean_lower(mean: float, sd: float, n: int) -> float:
    """The lower confidence bound of the mean of values in [0, 1] (Maurer and Pontil, 0907.3740, theorem 4)."""
    log = math.log(2 / (1 - CONFIDENCE))
    return mean - sd * math.sqrt(2 * log / n) - 7 * log / (3 * (n - 1))


def scores_needed(mean: float, sd: float, bound: float) -> int:
    """The least n for which `mean_lower` exceeds a bound below the mean."""
    low, high = 2, _MAX_N
    while low < high:
        middle = (low + high) // 2
        if mean_lower(mean, sd, middle) > bound:
            high = middle
        else:
            low = middle + 1
    return low


def _by_slot(index: Slots, terms: Floats, n: int) -> Floats:
    return np.stack([np.bincount(index, column, n) for column in terms.T], axis=1)
