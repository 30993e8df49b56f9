"""Rates: errors above a limit, and values above a limit drawn from the reference's 99th percentile.

"p99 above tau" is the same as "more than 1 % of the units above tau", so both are tests of a Bernoulli rate against
p0. A tick with k bad units of n has the factors (p1/p0)^k ((1-p1)/(1-p0))^(n-k): likelihood ratios, whose mean is at
most 1 for every rate up to p0. Eight alternatives p1 from 1.25 to 20 times p0 find small and large changes alike,
within one or two ticks of the information bound.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, bdtrik, betaincinv

from driftline.detectors.base import Floats, Insufficient, Slots
from driftline.detectors.columns import Columns
from driftline.detectors.config import (
    BudgetConfig,
    ErrorRateConfig,
    ExceedanceConfig,
    InvalidRateConfig,
    RecoveryConfig,
)
from driftline.detectors.detectable import detectable_rate
from driftline.detectors.engine import Run
from driftline.detectors.scalar import HORIZON, SampleReference, ScalarBaseline, ScalarDetector, relative
from driftline.detectors.seasons import NO_HOURS
from driftline.detectors.tempering import LOCATION, P99
from driftline.schemas.ids import stable_id

QUANTILE = 0.99
_TIMES = np.geomspace(1.25, 20, 8)
ALWAYS = 1 - 1e-9  # as good as 1, but with alternatives above
_BETTER = np.array([1.0, 2.0, 6.0])  # recovery's alternatives, times the least that counts: a clean stream is quicker


class RateBaseline(ScalarBaseline, frozen=True, kw_only=True):
    cut: float  # units above it are bad
    p0: float  # the share of bad units that is allowed
    rate: float  # the share in the reference
    typical: float | None = None  # the reference's quantile, in the unit of the values


class _Rate(ScalarDetector[RateBaseline]):
    def __init__(self, name: str, budget: BudgetConfig, recovery: RecoveryConfig) -> None:
        super().__init__(name, RateBaseline, len(_TIMES), len(_BETTER), budget, recovery)
        self._better = recovery.ratio * _BETTER
        self._derived = Columns(
            cut=((), np.float64, 0),
            bad=((len(_TIMES),), np.float64, 0),
            good=((len(_TIMES),), np.float64, 0),
            bad_r=((len(_BETTER),), np.float64, 0),
            good_r=((len(_BETTER),), np.float64, 0),
        )

    def _configure(self, slot: int, baseline: RateBaseline) -> None:
        d = self._derived
        d.claim(None if slot == len(d) else slot)
        d["cut"][slot] = baseline.cut
        d["bad"][slot], d["good"][slot] = log_ratios(baseline.p0, worse(baseline.p0))
        d["bad_r"][slot], d["good_r"][slot] = self._recovery(baseline)
        for name in ("bad", "good", "bad_r", "good_r"):
            d[name][slot] /= baseline.deff

    def _recovery(self, baseline: RateBaseline) -> tuple[Floats, Floats]:
        return log_ratios(baseline.p0, baseline.p0 / self._better)

    def _statistic(self, slot: Slots, value: Floats) -> Floats:
        return (value > self._derived["cut"][slot]).astype(np.float64)

    def _logs(self, slots: Slots, index: Slots, x: Floats, units: NDArray[np.int64]) -> tuple[Floats, Floats]:
        k = np.bincount(index, x, len(slots))[:, None]
        rest = units[:, None] - k
        d = self._derived
        return (
            k * d["bad"][slots] + rest * d["good"][slots],
            k * d["bad_r"][slots] + rest * d["good_r"][slots],
        )

    def _detectable(self, baseline: RateBaseline) -> str:
        rate = detectable_rate(baseline.p0, max(1, round(HORIZON / baseline.deff)), self._budget)
        return f"Detectable within {HORIZON} sessions: {'no share' if rate is None else f'{rate:.2%}'}."

    def _shown(self, slot: int, mean: float, run: Run | None) -> dict[str, Any]:
        reference = self._baselines[slot].rate
        shown: dict[str, Any] = {"value": mean, "baseline": reference, "effect": relative(mean, reference)}
        if run:
            low, high = clopper_pearson(run.sums[0], run.units, 0.025)
            shown |= {"effect_low": relative(low, reference), "effect_high": relative(high, reference)}
        return shown


class ErrorRate(_Rate):
    """Alarms when more than `p0` of the sessions begin with an error. Units: 0 or 1, first events of sessions."""

    _high = 1.0

    def __init__(self, config: ErrorRateConfig, budget: BudgetConfig) -> None:
        super().__init__("error_rate", budget, config.recovery)
        self._config = config

    def fit(self, reference: SampleReference) -> RateBaseline | Insufficient:
        config = self._config
        if reference.n < config.min_units:
            return Insufficient("too few sessions for an error rate to compare with", reference.n, config.min_units)
        if unsettled := reference.unsettled():
            return unsettled
        return RateBaseline(
            id=stable_id(self.name, config.model_dump_json(), reference.digest()),
            n=reference.n,
            guarantee=reference.guarantee,
            cut=0.5,
            deff=float(reference.blocks.deff()[LOCATION]),
            p0=config.p0,
            rate=float(reference.sums[0]) / reference.n,
        )

    def _note(self, baseline: RateBaseline) -> str:
        return f"Limit: {baseline.p0:.3g}. {self._detectable(baseline)}"


class InvalidRate(_Rate):
    """Alarms when the share of units without a valid value is above the upper 99.9 % confidence bound of that in the
    reference, and above a floor. Units: 1 for the first event of a session that lacks a valid value, else 0."""

    _high = 1.0

    def __init__(self, config: InvalidRateConfig, budget: BudgetConfig) -> None:
        super().__init__("invalid_rate", budget, config.recovery)
        self._config = config

    def fit(self, reference: SampleReference) -> RateBaseline | Insufficient:
        config = self._config
        if reference.n < config.min_units:
            return Insufficient("too few sessions to say how often a value is missing", reference.n, config.min_units)
        if unsettled := reference.unsettled():
            return unsettled
        missing, deff = float(reference.sums[0]), float(reference.blocks.deff()[LOCATION])
        bound = clopper_pearson(missing / deff, reference.n / deff, 0.001)[1]
        return RateBaseline(
            id=stable_id(self.name, config.model_dump_json(), reference.digest()),
            n=reference.n,
            guarantee=reference.guarantee,
            cut=0.5,
            deff=deff,
            p0=min(max(bound, config.floor), ALWAYS),
            rate=missing / reference.n,
        )

    def _recovery(self, baseline: RateBaseline) -> tuple[Floats, Floats]:
        return recovered_from_above(baseline.p0, baseline.rate)

    def _note(self, baseline: RateBaseline) -> str:
        return f"Limit: {baseline.p0:.3g}. {self._detectable(baseline)}"


class Exceedance(_Rate):
    """Alarms when the 99th percentile is above `factor` times the reference's: when more than 1 % of the units exceed
    factor x q, q being the upper 99.9 % confidence bound of the reference's 99th percentile, so that the uncertainty
    of the reference never causes an alarm. Units: first events of sessions, not negative; infinity for a request that
    timed out or failed without an answer."""

    def __init__(self, name: str, config: ExceedanceConfig, budget: BudgetConfig) -> None:
        super().__init__(name, budget, config.recovery)
        self._config = config

    def fit(self, reference: SampleReference) -> RateBaseline | Insufficient:
        config = self._config
        if reference.n < config.min_units:
            return Insufficient("too few sessions to bound the 99th percentile", reference.n, config.min_units)
        if unsettled := reference.unsettled():
            return unsettled
        sample = reference.sorted()
        bound = quantile_upper(sample, QUANTILE, 0.999)
        if not np.isfinite(bound):
            return Insufficient(
                "about 1 % of the reference timed out, so its 99th percentile has no bound",
                reference.n,
                reference.n + 1,
            )
        cut = config.factor * bound
        typical = float(np.quantile(sample, QUANTILE, method="inverted_cdf"))
        return RateBaseline(
            id=stable_id(self.name, config.model_dump_json(), reference.digest()),
            n=reference.n,
            guarantee=reference.guarantee,
            cut=cut,
            deff=float(reference.blocks.deff()[P99]),
            p0=1 - QUANTILE,
            rate=float((sample > cut).mean()),
            typical=typical,
        )

    def _note(self, baseline: RateBaseline) -> str:
        return (
            f"Counts units above {baseline.cut:.4g}; 1 % may be. "
            f"The reference's 99th percentile is {baseline.typical:.4g}. {self._detectable(baseline)} {NO_HOURS}"
        )


def worse(p0: float) -> Floats:
    """The alternatives to a rate of p0."""
    return np.minimum(p0 * _TIMES, max(0.9, (1 + p0) / 2))


def recovered_from_above(bound: float, rate: float) -> tuple[Floats, Floats]:
    """Log factors for "the rate is back", where alarms are against a bound on the reference's rate. Null: it is still
    where an alarm could find it, at the nearest alternative or above. Against the bound itself, which is close when the
    reference is large or the rate high, recovery would take tens of thousands of units, or never come."""
    back = np.array([bound, max(rate, bound / 6), max(rate / 2, bound / 6)])
    return log_ratios(float(worse(bound)[0]), np.minimum(back, bound))


def log_ratios(p0: float, p1: Floats) -> tuple[Floats, Floats]:
    """Log likelihood ratios of p1 against p0 for a bad and for a good unit."""
    return np.log(p1 / p0), np.log1p(-p1) - np.log1p(-p0)


def quantile_upper(sample: Floats, q: float, confidence: float) -> float:
    """The upper confidence bound of a quantile: the order statistic whose rank a binomial gives. ValueError if the
    sorted sample is too small to have one."""
    k = math.ceil(bdtrik(confidence, len(sample), q))  # scipy.stats has it as binom.ppf, and takes a second to import
    rank = k + (bdtr(k - 1, len(sample), q) < confidence)
    if rank > len(sample):
        raise ValueError(f"{len(sample)} values do not bound their {q} quantile")
    return float(sample[rank - 1])


def clopper_pearson(k: float, n: float, tail: float) -> tuple[float, float]:
    """The exact interval of a rate, with `tail` on each side."""
    low = float(betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
    return low, high
