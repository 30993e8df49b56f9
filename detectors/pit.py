"""Has the distribution of a number changed? Latency, tokens, cost per request; and scores, which may only fall.

A unit x becomes its rank u = F(x) in the reference, and statistics h(u) with a mean of 0 there are bet on: the Legendre
polynomials of z = 2u - 1 (location, scale, skew), each with both signs, and the indicators of the highest 5 %, 1 % and
0.1 %. A unit multiplies the wealth of a bet l by 1 + l (h - eps); while the mean of h is at most eps, the mean of the
factor is at most 1, whatever the distribution. Ranks need no scale and bear heavy tails: infinity is the highest value.

The reference is a histogram: bins between its quantiles, and one for each value that is common in itself. A bin has the
mean of h over the ranks it covers, so that the mean over the reference is 0 exactly, for continuous and discrete values
alike. (With the rank of the middle of a bin it is not: all units equal would have z = 0, and (3z^2 - 1)/2 = -1/2.) A
tick's logs are then counts per bin times a table of the bins.

eps covers the uncertainty of the reference at four standard errors: 4 sd(h)/sqrt(n), and what n units may all have
missed; for the tails the exact binomial bound at the same confidence.

In alarm the test is mirrored for the statistic that led. Null: its mean is still as far off as half of what it was. A
Kelly bet l on an effect d grows by l d/2 a unit, so that half of the effect is growth/l.
"""

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count, pairwise
from typing import Any, Literal, TypeAlias
from weakref import WeakValueDictionary

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtr, stdtrit

from driftline.detectors.base import Floats, Insufficient, Measurement, Slots
from driftline.detectors.columns import Columns
from driftline.detectors.config import BudgetConfig, PitConfig
from driftline.detectors.engine import Run
from driftline.detectors.scalar import HORIZON, SEASONS, SampleReference, ScalarBaseline, ScalarDetector, relative
from driftline.detectors.tempering import TAILS
from driftline.schemas.ids import stable_id

Scale: TypeAlias = Literal["ratio", "difference"]

MAX_SAMPLE = 8192  # of a reference: 64 kB while it learns, and 4 % of a standard deviation as the uncertainty
_GRID = 120  # quantiles between bins
_TARGETS = np.array(sorted({*(i / _GRID for i in range(1, _GRID)), *TAILS, *(1 - q for q in TAILS)}))
_ERRORS = 4.0  # standard errors that eps covers
_MISS = float(ndtr(-_ERRORS))  # the probability that it does not
_NONE = np.empty(0, np.intp)
_SMALLEST = float(np.finfo(np.float64).tiny)
_LARGEST = 1e300  # as good as infinity
_RECOVERY = np.array([0.03, 0.1, 0.3, 0.9])
_MIN_INTERVAL = 30  # units; fewer make no interval worth showing
_SPAN = np.log(100.0)  # of what is shown: a unit weighs at most as one of 100 times the median


@dataclass(frozen=True)
class _Statistic:
    says: str  # what has happened when its mean is above 0
    degree: int  # of the Legendre polynomial; 0: an indicator
    sign: int
    above: float  # the indicator's quantile
    bets: tuple[float, ...]  # times 1 / the least value of h, or as they are for indicators

    @property
    def block(self) -> int:
        """Its place in `Blocks.deff`."""
        return self.degree - 1 if self.degree else 3 + TAILS.index(self.above)

    def least(self) -> float:
        """The least value of h, as a positive number."""
        if not self.degree:
            return 1 - self.above
        return 0.5 if (self.degree, self.sign) == (2, 1) else 1.0

    def means(self, low: Floats, high: Floats) -> Floats:
        """[K] of h over the ranks between `low` and `high`, which may be equal."""
        if not self.degree:
            width = high - low
            inside = np.clip((high - self.above) / np.where(width > 0, width, 1), 0, 1)
            return np.where(width > 0, inside, (low > self.above) * 1.0) - (1 - self.above)
        a, b = 2 * low - 1, 2 * high - 1
        n = self.degree
        width = b - a
        integral = _legendre(n + 1, b) - _legendre(n - 1, b) - _legendre(n + 1, a) + _legendre(n - 1, a)
        mean = integral / ((2 * n + 1) * np.where(width > 0, width, 1))
        return self.sign * np.where(width > 0, mean, _legendre(n, a))


def _legendre(n: int, z: Floats) -> Floats:
    values: Floats = np.polynomial.legendre.legval(z, np.array([0.0] * n + [1.0]))
    return values


_LEGENDRE = (0.03, 0.1, 0.3, 0.8)
_UP = _Statistic("Values are higher.", 1, 1, 0, _LEGENDRE)
_TAIL = tuple(
    _Statistic(f"More values are among the highest {100 - 100 * q:.2g} %.", 0, 1, q, bets)
    for q, bets in zip(TAILS, ((1, 3, 10, 18), (2, 8, 30, 90), (10, 60, 300, 900)), strict=True)
)
BOTH = (
    *(_UP, _Statistic("Values are lower.", 1, -1, 0, _LEGENDRE)),
    *(
        _Statistic("Values are more spread out.", 2, 1, 0, _LEGENDRE),
        _Statistic("Values are less spread out.", 2, -1, 0, _LEGENDRE),
    ),
    *(
        _Statistic("Values are skewed upwards.", 3, 1, 0, _LEGENDRE),
        _Statistic("Values are skewed downwards.", 3, -1, 0, _LEGENDRE),
    ),
    *_TAIL,
)
FALL = (_UP, *_TAIL)  # of values with their sign changed


class PitBaseline(ScalarBaseline, frozen=True, kw_only=True):
    edges: list[float]  # bin i holds edges[i-1] <= x < edges[i]
    counts: list[int]  # of the sample in each bin
    deffs: list[float]  # of each statistic
    center: float  # the sample's median
    typical: float  # the mean of what is shown
    detectable: float | None  # the least change that is found within 1,000 units; None: no change is


@dataclass(frozen=True, eq=False)
class Law:
    """What follows from a baseline: of K bins, S statistics and J bets."""

    edges: Floats  # [K-1]
    h: Floats  # [K, S]
    eps: Floats  # [S]
    table: Floats  # [K, J] the logs of the factors
    bets: Floats  # [J]
    of_bet: NDArray[np.intp]  # [J] the statistic
    number: int  # of this process


def histogram(ordered: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Edges between quantiles of a sorted sample, with a bin of its own for each value that fills one; and counts."""
    n = len(ordered)
    edges = np.unique(ordered[np.minimum(np.ceil(_TARGETS * n).astype(np.intp), n - 1)])
    here, after = (np.searchsorted(ordered, edges, side) for side in ("left", "right"))
    common = edges[after - here > n / _GRID]
    beyond = np.nextafter(common, np.inf)
    edges = np.unique(np.concatenate([edges, beyond[np.isfinite(beyond)]]))
    return edges, np.diff(np.searchsorted(ordered, edges), prepend=0, append=n).astype(np.int64)


def law_of(
    statistics: tuple[_Statistic, ...], edges: Floats, counts: Floats, deffs: Floats, units: int, number: int = 0
) -> Law:
    """counts: of a sample of `units`. deffs: [S] how many of them are worth one that is independent."""
    shares = counts / counts.sum()
    upto = np.cumsum(shares)
    low = np.concatenate([[0.0], upto[:-1]])
    h = np.stack([statistic.means(low, upto) for statistic in statistics], axis=1)
    n = np.minimum(counts.sum(), units / deffs)
    eps = _ERRORS * np.sqrt(shares @ h**2 / n) - math.log(_MISS) / n
    for i, statistic in enumerate(statistics):
        if not statistic.degree:
            eps[i] = tail_excess(n[i], 1 - statistic.above)
    bets: list[float] = []
    of_bet: list[int] = []
    for i, statistic in enumerate(statistics):
        least = statistic.least()
        for bet in statistic.bets:
            bets.append(min(bet / least if statistic.degree else bet, 0.9 / (least + eps[i])))
            of_bet.append(i)
    table = np.log1p(np.array(bets) * (h - eps)[:, of_bet]) / deffs[of_bet]
    return Law(edges, h, eps, table, np.array(bets), np.array(of_bet, np.intp), number)


def tail_excess(n: float, share: float) -> float:
    """By how much the probability of what is above the highest `share` of n units may exceed `share`."""
    k = n * share
    return float(betaincinv(k + 1, n - k, 1 - _MISS)) - share


class Pit(ScalarDetector[PitBaseline]):
    """Alarms when the distribution has left that of the reference. Units: numbers, infinity included, first events of
    sessions or session means, in the reference as live.

    falls: alarm only when values have become lower. scale: whether changes are shown as ratios of values that are not
    negative, by their geometric mean, or as differences of bounded values, by their mean.
    """

    _limit = MAX_SAMPLE

    def __init__(
        self,
        name: str,
        config: PitConfig,
        budget: BudgetConfig,
        *,
        scale: Scale,
        low: float = 0.0,
        high: float = np.inf,
        falls: bool = False,
    ) -> None:
        self._statistics = FALL if falls else BOTH
        bets = sum(len(statistic.bets) for statistic in self._statistics)
        super().__init__(name, PitBaseline, bets, len(_RECOVERY), budget, config.recovery)
        self._config = config
        self._low, self._high = low, high
        self._sign = -1.0 if falls else 1.0
        self._ratio = scale == "ratio"
        self._laws: WeakValueDictionary[str, Law] = WeakValueDictionary()
        self._law: list[Law] = []  # of each slot; equal baselines share it
        self._derived = Columns(center=((), np.float64, 1), law=((), np.int64, 0))
        self._numbers = count()

    def fit(self, reference: SampleReference) -> PitBaseline | Insufficient:
        config = self._config
        if reference.n < config.min_units:
            return Insufficient("too few sessions to compare distributions", reference.n, config.min_units)
        if unsettled := reference.unsettled():
            return unsettled
        values = np.minimum(reference.sorted(), _LARGEST)
        edges, counts = histogram(np.sort(self._sign * values))
        deffs = reference.blocks.deff()[[statistic.block for statistic in self._statistics]]
        law = law_of(self._statistics, edges, counts.astype(np.float64), deffs, reference.n)
        center = self._center(values)
        return PitBaseline(
            id=stable_id(self.name, config.model_dump_json(), reference.digest()),
            n=reference.n,
            guarantee=reference.guarantee,
            deff=float(deffs.max()),
            edges=edges.tolist(),
            counts=counts.tolist(),
            deffs=deffs.tolist(),
            center=center,
            typical=float(self._display(center, values).mean()),
            detectable=self._detectable(values, law, float(deffs[0])),
        )

    def _bins(self, law: Law, values: Floats) -> NDArray[np.intp]:
        return np.searchsorted(law.edges, self._statistic(_NONE, values), side="right")

    def _center(self, values: Floats) -> float:
        """The median; of ratios, that of the values that have one."""
        if self._ratio:
            values = values[(values > 0) & (values < _LARGEST)]
        return float(values[len(values) // 2]) if len(values) else 1.0

    def _display(self, center: Floats | float, values: Floats) -> Floats:
        if not self._ratio:
            return values
        shown: Floats = np.clip(np.log(np.maximum(values, _SMALLEST) / center), -_SPAN, _SPAN) + np.log(center)
        return shown

    def _detectable(self, values: Floats, law: Law, deff: float) -> float | None:
        """How much higher (or lower) all values must be for that to be found, as a share of themselves or of their
        range: the mean of z has moved by d with (d - eps)^2 n / 2 variances = ln(1/alpha) + 2."""
        variance = float((law.h[:, 0] ** 2).mean())
        need = law.eps[0] + np.sqrt(2 * (self._budget.threshold + 2) * deff * variance / HORIZON)

        def found(share: float) -> bool:
            by = self._sign * share
            moved = values * (1 + by) if self._ratio else values + by * (self._high - self._low)
            return bool(law.h[self._bins(law, moved), 0].mean() >= need)

        shares: list[float] = np.geomspace(0.005, 10.0 if self._ratio else 1.0, 64).tolist()
        first = bisect_left(shares, True, key=found)
        return self._sign * shares[first] if first < len(shares) else None

    def _configure(self, slot: int, baseline: PitBaseline) -> None:
        law = self._laws.get(baseline.id)
        if law is None:
            counts, deffs = np.array(baseline.counts, np.float64), np.array(baseline.deffs)
            law = law_of(self._statistics, np.array(baseline.edges), counts, deffs, baseline.n, next(self._numbers))
            self._laws[baseline.id] = law
        self._law[slot : slot + 1] = [law]
        self._derived.claim(None if slot == len(self._derived) else slot)
        self._derived["center"][slot] = baseline.center
        self._derived["law"][slot] = law.number

    def _statistic(self, slot: Slots, value: Floats) -> Floats:
        return self._sign * np.minimum(value, _LARGEST)

    def _seen(self, slot: Slots, x: Floats) -> Floats:
        return self._display(self._derived["center"][slot], self._sign * x)

    def _logs(self, slots: Slots, index: Slots, x: Floats, units: NDArray[np.int64]) -> tuple[Floats, Floats]:
        log_l = np.empty((len(slots), sum(len(statistic.bets) for statistic in self._statistics)))
        log_r = np.zeros((len(slots), len(_RECOVERY)))
        alarm = self._engine.in_alarm()[slots]
        numbers = self._derived["law"][slots]
        ranked = np.argsort(numbers, kind="stable")  # slots of one law are next to each other, and so are their units
        rank = np.empty_like(ranked)
        rank[ranked] = np.arange(len(ranked))
        place = rank[index]
        order = np.argsort(place.astype(np.uint16) if len(slots) < 1 << 16 else place, kind="stable")  # bytes are quick
        x, place = x[order], place[order]
        ends = np.cumsum(units[ranked]).tolist()
        changes = np.flatnonzero(np.diff(numbers[ranked])) + 1
        start = 0
        for first, last in pairwise([0, *changes.tolist(), len(slots)] if len(slots) else [0]):
            law = self._law[slots[ranked[first]]]
            end = ends[last - 1]
            k, bins = len(law.h), law.edges.searchsorted(x[start:end], side="right")
            if last > first + 1:
                bins += (place[start:end] - first) * k
            counts = np.bincount(bins, minlength=(last - first) * k).reshape(last - first, k).astype(np.float64)
            log_l[ranked[first:last]] = counts @ law.table
            for i in range(first, last):
                if alarm[ranked[i]]:
                    log_r[ranked[i]] = counts[i - first] @ self._recovery(int(slots[ranked[i]]), law)
            start = end
        return log_l, log_r

    def _recovery(self, slot: int, law: Law) -> Floats:
        """[K, recovery bets] the logs of the factors against: the mean of the statistic that led is still as far off
        as half of what it was."""
        lead, growth = self._engine.lead(slot)
        which = law.of_bet[lead]
        deff = self._baselines[slot].deffs[which]
        h, eps = law.h[:, which], law.eps[which]
        half = min(eps + deff * growth / law.bets[lead], (eps + h.max()) / 2)
        logs: Floats = np.log1p(_RECOVERY * ((half - h) / (h.max() - half))[:, None]) / deff
        return logs

    def measure(self, slot: int) -> Measurement:
        measured = super().measure(slot)
        if measured.since_tick is None:
            return measured
        statistic = self._statistics[self._law[slot].of_bet[self._engine.lead(slot)[0]]]
        moved = "Values are lower." if self._sign < 0 else statistic.says
        return msgspec.structs.replace(measured, note=f"{moved} {measured.note}")

    def _shown(self, slot: int, mean: float, run: Run | None) -> dict[str, Any]:
        reference = self._baselines[slot].typical
        change: Callable[[float], float | None]
        if self._ratio:
            value, baseline = math.exp(mean), math.exp(reference)

            def change(to: float) -> float | None:
                return math.expm1(to - reference)
        else:
            value, baseline = mean, reference

            def change(to: float) -> float | None:
                return relative(to, reference)

        shown: dict[str, Any] = {"value": value, "baseline": baseline, "effect": change(mean)}
        if run and run.units >= _MIN_INTERVAL:
            variance = max(0.0, run.sums[1] - run.units * mean * mean) / (run.units - 1)
            half = float(stdtrit(run.units - 1, 0.975)) * math.sqrt(variance / run.units)
            shown |= {"effect_low": change(mean - half), "effect_high": change(mean + half)}
        return shown

    def _note(self, baseline: PitBaseline) -> str:
        of_what = "" if self._ratio else " of the range"
        found = "no change" if baseline.detectable is None else f"{baseline.detectable:+.1%}{of_what}"
        return f"Detectable within {HORIZON} sessions: {found}. {SEASONS}"
