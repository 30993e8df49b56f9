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
missed; for the tails the exact binomial bound at the same confidence. Once it is known how the means of h differ
between the hours of the day and week (`seasons.py`), every tick is held against the means of its hour.

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

from driftline.detectors.base import Floats, Insufficient, Measurement, Slots, State, TickBatch, Transitions
from driftline.detectors.columns import Columns
from driftline.detectors.config import BudgetConfig, PitConfig
from driftline.detectors.engine import Run
from driftline.detectors.scalar import HORIZON, SampleReference, ScalarBaseline, ScalarDetector, relative
from driftline.detectors.seasons import WEEK, Clock, Season, both, confidence, no_table
from driftline.detectors.tempering import BLOCK_S, TAILS
from driftline.schemas.ids import stable_id

Scale: TypeAlias = Literal["ratio", "difference"]

MAX_SAMPLE = 8192  # of a reference: 64 kB while it learns
_GRID = 120  # quantiles between bins
_TARGETS = np.array(sorted({*(i / _GRID for i in range(1, _GRID)), *TAILS, *(1 - q for q in TAILS)}))
_ERRORS = 4.0  # standard errors that eps covers
_MISS = float(ndtr(-_ERRORS))  # the probability that it does not
_NONE = np.empty(0, np.intp)
_BATCH = 512  # units whose ranks a season looks up at once
_SMALLEST = float(np.finfo(np.float64).tiny)
_LARGEST = 1e300  # as good as infinity
_RECOVERY = np.array([0.03, 0.1, 0.3, 0.9])
_MIN_INTERVAL = 30  # units; fewer make no interval worth showing
SPAN = np.log(100.0)  # of what is shown: a unit weighs at most as one of 100 times the median


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
    counts: list[int]  # of units in each bin
    deffs: list[float]  # of each statistic
    center: float  # the sample's median
    typical: float  # the mean of what is shown
    detectable: float | None  # the least change that is found within 1,000 units; None: no change is
    hour_means: Floats = msgspec.field(default_factory=no_table)  # [24 or 168, S] of h; empty: they are not known
    hour_units: Floats = msgspec.field(default_factory=no_table)  # [24 or 168, S] independent units that know them


@dataclass(frozen=True, eq=False)
class Law:
    """What follows from a baseline: of K bins, S statistics and J bets."""

    edges: Floats  # [K-1]
    h: Floats  # [K, S] less its mean in the hour
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
    statistics: tuple[_Statistic, ...],
    edges: Floats,
    counts: Floats,
    deffs: Floats,
    units: int,
    number: int = 0,
    hour: tuple[Floats, Floats] | None = None,
) -> Law:
    """counts: of `units`. deffs: [S] how many of them are worth one that is independent. hour: [S] means of h, and the
    independent units that know them; else h has a mean of 0, as the units know it."""
    shares = counts / counts.sum()
    upto = np.cumsum(shares)
    low = np.concatenate([[0.0], upto[:-1]])
    h = np.stack([statistic.means(low, upto) for statistic in statistics], axis=1)
    mean, n = hour or (np.zeros(len(statistics)), units / deffs)
    eps = _ERRORS * np.sqrt(shares @ h**2 / n) - math.log(_MISS) / n
    for i, statistic in enumerate(statistics):
        if not statistic.degree:
            eps[i] = tail_excess(n[i], 1 - statistic.above + mean[i])
    h -= mean
    bets: list[float] = []
    of_bet: list[int] = []
    for i, statistic in enumerate(statistics):
        least = statistic.least()
        for bet in statistic.bets:
            bets.append(min(bet / least if statistic.degree else bet, 0.9 / (least + mean[i] + eps[i])))
            of_bet.append(i)
    table = np.log1p(np.array(bets) * (h - eps)[:, of_bet]) / deffs[of_bet]
    return Law(edges, h, eps, table, np.array(bets), np.array(of_bet, np.intp), number)


def tail_excess(n: float, share: float) -> float:
    """By how much the probability of what is above the highest `share` of n units may exceed `share`."""
    k = n * share
    return float(betaincinv(k + 1, n - k, 1 - _MISS)) - share


class RankReference(SampleReference):
    """A reference whose ranks come from all units: once the sample must be thinned, its bins count the units."""

    def __init__(self, sign: float, low: float, high: float, state: State | None, block_ticks: int) -> None:
        super().__init__(low, high, state, MAX_SAMPLE, block_ticks)
        self._sign = sign
        self._bins: tuple[Floats, NDArray[np.int64]] | None = None
        if state is not None and state["edges"] is not None:
            self._bins = state["edges"].copy(), state["counts"].copy()

    def add(self, value: Floats, session: NDArray[np.int64]) -> None:
        if self._bins is not None:
            edges, counts = self._bins
            valid = value[(value >= self._low) & (value <= self._high)]
            bins = edges.searchsorted(self._sign * np.minimum(valid, _LARGEST), side="right")
            counts += np.bincount(bins, minlength=len(counts))
        super().add(value, session)

    def _thin(self) -> None:
        self._bins = self.histogram()
        super()._thin()

    def histogram(self) -> tuple[Floats, NDArray[np.int64]]:
        """Edges of bins and the units in each, of values times the sign."""
        return self._bins or histogram(np.sort(self._sign * np.minimum(self.sorted(), _LARGEST)))

    def snapshot(self) -> State:
        edges, counts = self._bins or (None, None)
        return {
            **super().snapshot(),
            "edges": None if edges is None else edges.copy(),
            "counts": None if counts is None else counts.copy(),
        }


class Pit(ScalarDetector[PitBaseline]):
    """Alarms when the distribution has left that of the reference. Units: numbers, infinity included, first events of
    sessions or session means, in the reference as live.

    falls: alarm only when values have become lower. scale: whether changes are shown as ratios of values that are not
    negative, by their geometric mean, or as differences of bounded values, by their mean.
    """

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
        self.ratio = scale == "ratio"
        self._laws: WeakValueDictionary[tuple[str, int], Law] = WeakValueDictionary()
        self._clock = Clock(budget)
        self._law: list[Law] = []  # of each slot; equal baselines share it
        self._derived = Columns(center=((), np.float64, 1), law=((), np.int64, 0))
        self._numbers = count()

    def reference(self, state: State | None = None) -> RankReference:
        return RankReference(self._sign, self._low, self._high, state, self._budget.ticks(BLOCK_S))

    def fit(self, reference: SampleReference) -> PitBaseline | Insufficient:
        config = self._config
        if reference.n < config.min_units:
            return Insufficient("too few sessions to compare distributions", reference.n, config.min_units)
        if unsettled := reference.unsettled():
            return unsettled
        values = np.minimum(reference.sorted(), _LARGEST)
        assert isinstance(reference, RankReference)
        edges, counts = reference.histogram()
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
        if self.ratio:
            values = values[(values > 0) & (values < _LARGEST)]
        return float(values[len(values) // 2]) if len(values) else 1.0

    def _display(self, center: Floats | float, values: Floats) -> Floats:
        if not self.ratio:
            return values
        shown: Floats = np.clip(np.log(np.maximum(values, _SMALLEST) / center), -SPAN, SPAN) + np.log(center)
        return shown

    def _detectable(self, values: Floats, law: Law, deff: float) -> float | None:
        """How much higher (or lower) all values must be for that to be found, as a share of themselves or of their
        range: the mean of z has moved by d with (d - eps)^2 n / 2 variances = ln(1/alpha) + 2."""
        variance = float((law.h[:, 0] ** 2).mean())
        need = law.eps[0] + np.sqrt(2 * (self._budget.threshold + 2) * deff * variance / HORIZON)

        def found(share: float) -> bool:
            by = self._sign * share
            moved = values * (1 + by) if self.ratio else values + by * (self._high - self._low)
            return bool(law.h[self._bins(law, moved), 0].mean() >= need)

        shares: list[float] = np.geomspace(0.005, 10.0 if self.ratio else 1.0, 64).tolist()
        first = bisect_left(shares, True, key=found)
        return self._sign * shares[first] if first < len(shares) else None

    def season(self, baseline: PitBaseline, state: State | None = None) -> Season:
        law = self._law_of(baseline, None)

        def statistics(value: Floats, session: NDArray[np.int64]) -> Floats:
            valid = (value >= self._low) & (value <= self._high)
            means: Floats = law.h[self._bins(law, value[valid])]
            return means

        return Season(statistics, len(self._statistics), self._budget, batch=_BATCH, state=state)

    def seasoned(self, baseline: PitBaseline, season: Season) -> PitBaseline:
        law = self._law_of(baseline, None)
        shares = np.array(baseline.counts) / sum(baseline.counts)
        hours = season.fit(shares @ law.h**2 * np.array(baseline.deffs))
        return msgspec.structs.replace(
            baseline,
            id=stable_id(baseline.id, hours.digest()),
            hour_means=hours.mean,
            hour_units=hours.units,
        )

    def carried(self, baseline: PitBaseline, before: PitBaseline) -> PitBaseline:
        if not len(before.hour_means):
            return baseline
        least = np.array([-statistic.least() for statistic in self._statistics])
        return msgspec.structs.replace(
            baseline,
            id=stable_id(baseline.id, before.id),
            hour_means=np.maximum(before.hour_means - before.hour_means.mean(0), least),
            hour_units=both(before.hour_units, baseline.n / np.array(baseline.deffs)),
        )

    def _law_of(self, baseline: PitBaseline, hour: int | None) -> Law:
        """Against the means of an hour, or of all time."""
        key = (baseline.id, -1 if hour is None else hour)
        law = self._laws.get(key)
        if law is None:
            counts, deffs = np.array(baseline.counts, np.float64), np.array(baseline.deffs)
            known = None if hour is None else (baseline.hour_means[hour], baseline.hour_units[hour])
            edges = np.array(baseline.edges)
            law = law_of(self._statistics, edges, counts, deffs, baseline.n, next(self._numbers), known)
            self._laws[key] = law
        return law

    def update(self, batch: TickBatch, tick: int) -> Transitions:
        if self._clock.strike(tick):
            for slot, baseline in enumerate(self._baselines):
                self._hold(slot, baseline)
        return super().update(batch, tick)

    def snapshot(self) -> State:
        return {**super().snapshot(), "hour": self._clock.hour}

    def restore(self, state: State) -> None:
        self._clock.hour = state["hour"]
        super().restore(state)

    def _hold(self, slot: int, baseline: PitBaseline) -> None:
        """A slot against the law of the hour."""
        hours = len(baseline.hour_means)
        law = self._law_of(baseline, self._clock.hour % hours if hours else None)
        self._law[slot : slot + 1] = [law]
        self._derived["law"][slot] = law.number

    def _configure(self, slot: int, baseline: PitBaseline) -> None:
        self._derived.claim(None if slot == len(self._derived) else slot)
        self._derived["center"][slot] = baseline.center
        self._hold(slot, baseline)

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
        if self.ratio:
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
        of_what = "" if self.ratio else " of the range"
        found = "no change" if baseline.detectable is None else f"{baseline.detectable:+.1%}{of_what}"
        return f"Detectable within {HORIZON} sessions: {found}. {confidence(len(baseline.hour_means), WEEK)}"
