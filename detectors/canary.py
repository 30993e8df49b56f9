"""Is the canary worse than the stable release that serves beside it?

Each metric has an e-process for harm, and their weighted mean is one too, under any dependence between metrics:
rolling back when it reaches 1/alpha takes out a canary that is not worse with probability alpha at most, however often
one looks. (That covers every metric alone: w E >= 1/alpha implies it.) A second process per metric shows
non-inferiority, for promotion.

The unit of analysis is the unit of randomisation, a session or user: it counts once, with its first bad event or with
the mean of its events. Which arm and share it belongs to is settled by its first event.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats, State
from driftline.detectors.bernoulli import clopper_pearson
from driftline.detectors.betting import LEAST_SHARE, MeanProcess, Ranks, RateProcess, SplitProcess
from driftline.detectors.config import CanaryConfig
from driftline.detectors.digests import NONE, Digests, digests
from driftline.detectors.units import NEVER, FirstEvents, Numbers, SessionMeans
from driftline.schemas.events import MICROSECONDS
from driftline.schemas.results import Guarantee

Measure: TypeAlias = Literal["error", "latency", "cost", "guardrail", "quality"]
"""What a request can carry. error, guardrail: 0 or 1. latency: ms, infinity for a timeout. cost: any unit.
quality: a score in the configured range; feeds quality_mean and quality_pit."""

Pair: TypeAlias = tuple[float, bool]  # share, whether canary


def numbers_of(share: Floats, canary: NDArray[np.bool_]) -> Numbers:
    """A number for each pair of share and arm: the bits of the share, negative for the canary. So however many shares
    events state, nothing is kept of them."""
    bits = np.ascontiguousarray(share, np.float64).view(np.int64)
    return np.where(canary, -bits, bits)


def pair_of(number: int) -> Pair:
    return float(np.int64(abs(number)).view(np.float64)), number < 0


_RATES: dict[str, Measure] = {"errors": "error", "guardrails": "guardrail"}
_RANKS: dict[str, Measure] = {"latency": "latency", "cost": "cost"}  # lower is better
_SCORES = ("quality_mean", "quality_pit")
_GUARD_TAIL = 0.001  # one-sided; smaller than usual because one looks at every tick


@dataclass(frozen=True)
class ArmBatch:
    """The events of one tick that belong to one deployment, both arms, in canonical order. A request carries
    error, latency, cost or guardrail; an event with quality alone is a score that came later. Events outside the
    experiment (share 0, 1 or unknown = NaN) are counted and not used."""

    unit: Sequence[str]  # the randomisation unit (session or user); "": unknown, the event is its own
    canary: NDArray[np.bool_]  # [n] the arm
    share: Floats  # [n] the probability with which the unit was sent to the canary
    values: Mapping[Measure, Floats]  # [n] each; NaN: not measured


@dataclass(frozen=True)
class CanaryVerdict:
    action: Literal["hold", "rollback", "promote", "invalid", "timeout"]
    reason: str
    log_e: dict[str, float]  # for harm, per metric
    log_e_fine: dict[str, float]  # for non-inferiority, per metric
    weights: dict[str, float]
    log_e_total: float
    threshold: float  # of log_e_total
    alpha: float
    log_e_srm: float  # that traffic is not split as stated
    counts: dict[str, int]
    effects: dict[str, float]  # canary minus stable, per measure, in its unit
    guarantee: Guarantee


class Canary:
    """The evidence on one deployment, from its start to its stop.

    references: samples of the stable release's values from before the start, per measure (latency, cost, quality):
        they make ranks out of values. Without one, ranks are among the earlier values of both arms.
    start: the deployment's start, microseconds.
    """

    def __init__(self, config: CanaryConfig, start: int, references: Mapping[Measure, Floats] | None = None) -> None:
        references = references or {}
        self._config = config
        self._start = self._now = start
        self._arms: dict[int, list[int]] = {}  # digest of a unit -> [its pair's number, last tick], the stalest first
        self._arms_forgotten = 0
        self._swept = -1  # in units of the time after which units are forgotten
        self._split = SplitProcess()
        self._rates = {metric: RateProcess() for metric in _RATES if metric in config.weights}
        self._first_bad = FirstEvents(config.units)
        self._means: dict[str, MeanProcess] = {}
        self._ranks: dict[str, Ranks] = {}
        for metric, measure in _RANKS.items():
            if metric in config.weights:
                self._means[metric] = MeanProcess(config.rank_tolerance, config.rank_margin)
                self._ranks[metric] = Ranks(references.get(measure))
        quality = references.get("quality")
        if "quality_mean" in config.weights:
            mean = 0.5 if quality is None else float(self._rescaled(quality).mean())
            margin = config.quality_margin if quality is None else min(config.quality_margin, 0.1 * mean)
            self._means["quality_mean"] = MeanProcess(0, margin, mean)
        if "quality_pit" in config.weights:
            self._means["quality_pit"] = MeanProcess(0, config.quality_margin)
            self._ranks["quality_pit"] = Ranks(quality)
        self._units = {metric: SessionMeans(config.units) for metric in self._means}
        self._requests = [0, 0]  # stable, canary
        self._bad: dict[str, list[int]] = {measure: [0, 0, 0, 0] for measure in _RATES.values()}  # bad, then measured
        self._sums: dict[str, list[float]] = {}  # measure -> [stable sum, canary sum, stable n, canary n]
        self._seen_units = [0, 0]
        self._unknown = 0
        self._excluded = 0
        self._invalid = 0

    def _rescaled(self, score: Floats) -> Floats:
        low, high = self._config.score_low, self._config.score_high
        return (score - low) / (high - low)

    def update(self, batch: ArmBatch, now: int) -> None:
        """Events of the tick at `now` (microseconds); call it, if only with an empty batch, at least
        at the first tick from `due` on and before those with events."""
        self._now = now
        use = (batch.share >= LEAST_SHARE) & (batch.share <= 1 - LEAST_SHARE)
        rows = np.flatnonzero(use).tolist()
        self._excluded += len(use) - len(rows)
        values = {measure: value[use] for measure, value in batch.values.items()}
        request = np.zeros(len(rows), np.bool_)
        for measure, value in values.items():
            request |= ~np.isnan(value) & (measure != "quality")
        session = digests(batch.unit[row] for row in rows)
        pair = self._assign(session, numbers_of(batch.share[use], batch.canary[use]), request.tolist())
        canary = pair < 0
        for arm in (0, 1):
            self._requests[arm] += int((request & (canary == arm)).sum())
        for measure, value in values.items():
            self._summarise(measure, value, canary)
        for metric in self._rates:
            if _RATES[metric] in values:
                self._count(metric, session, pair, values[_RATES[metric]])
        for metric in self._means:
            self._average(metric, session, pair, values)
        self._sweep()

    @property
    def due(self) -> int:
        """When time alone changes the evidence: the first open unit closes."""
        return min((units.due for units in self._units.values()), default=NEVER)

    def _assign(self, unit: Digests, stated: Numbers, request: list[bool]) -> Numbers:
        """The pair of each event: that of its unit's first event."""
        assigned = stated.copy()
        forget = self._config.units.forget_after_s * MICROSECONDS
        for row, (name, pair, is_request) in enumerate(zip(unit.tolist(), stated.tolist(), request, strict=True)):
            known = self._arms.pop(name, None) if name != NONE else None
            if known is not None and self._now - known[1] < forget:
                self._arms[name] = [known[0], self._now]
                assigned[row] = known[0]
                continue
            if name != NONE:
                self._arms[name] = [pair, self._now]
            else:
                self._unknown += 1
            if is_request or name != NONE:
                self._split.add(*pair_of(pair))
                self._seen_units[pair < 0] += 1
        self._forget_arms(self._config.units.max_sessions)
        return assigned

    def _forget_arms(self, most: int) -> None:
        """The stalest before their time, if there are more."""
        if len(self._arms) > most:
            kept = list(self._arms.items())[-(most // 2) :] if most > 1 else []
            self._arms_forgotten += len(self._arms) - len(kept)
            self._arms = dict(kept)

    def _sweep(self) -> None:
        forget = round(self._config.units.forget_after_s * MICROSECONDS)
        number = self._now // forget
        if number != self._swept:
            self._swept = number
            self._arms = {unit: arm for unit, arm in self._arms.items() if number * forget - arm[1] < forget}

    def _summarise(self, measure: str, value: Floats, canary: NDArray[np.bool_]) -> None:
        sums = self._sums.setdefault(measure, [0.0, 0.0, 0, 0])
        for arm in (0, 1):
            mine = value[(canary == arm) & np.isfinite(value)]
            sums[arm] += float(mine.sum())
            sums[2 + arm] += len(mine)

    def _count(self, metric: str, session: Digests, pair: Numbers, value: Floats) -> None:
        valid = (value == 0) | (value == 1)
        self._invalid += int((~valid & ~np.isnan(value)).sum())
        bad = np.flatnonzero(value == 1)
        stream = list(self._rates).index(metric)
        taken = self._first_bad.take(np.full(len(bad), stream), session[bad], self._now)
        for number in pair[bad[taken.mask]].tolist():
            self._rates[metric].add(*pair_of(number))
        arms = (pair < 0).astype(np.int64)
        tally = self._bad[_RATES[metric]]
        for i, chosen in enumerate((value == 1, valid)):
            counts = np.bincount(arms[chosen], minlength=2).tolist()
            tally[2 * i] += counts[0]
            tally[2 * i + 1] += counts[1]

    def _average(self, metric: str, session: Digests, pair: Numbers, values: Mapping[Measure, Floats]) -> None:
        value = values.get("quality" if metric in _SCORES else _RANKS[metric])
        if value is None:
            value, rows = np.empty(0), np.empty(0, np.intp)
        else:
            valid = (value >= 0) if metric in _RANKS else (self._rescaled(value) >= 0) & (self._rescaled(value) <= 1)
            self._invalid += int((~valid & ~np.isnan(value)).sum())
            rows = np.flatnonzero(valid)
            value = value[rows]
        if metric in _RANKS:
            s = 1 - self._ranks[metric].of(value)
        elif metric == "quality_pit":
            s = self._ranks[metric].of(value)
        else:
            s = self._rescaled(value)
        units = self._units[metric].step(pair[rows], session[rows], s, self._now)
        if len(units.value):
            canary = units.stream < 0
            self._means[metric].add(units.value, canary.astype(np.float64), np.abs(units.stream).view(np.float64))

    @property
    def sessions_forgotten(self) -> int:
        """Sessions forgotten before their time, for there were too many."""
        return self._arms_forgotten + self._first_bad.overflow + sum(units.overflow for units in self._units.values())

    @property
    def nbytes(self) -> int:
        """Of the snapshot, about."""
        counts: tuple[SplitProcess | RateProcess, ...] = (self._split, *self._rates.values())
        units = self._first_bad.nbytes + sum(each.nbytes for each in self._units.values())
        ranks = sum(each.nbytes for each in self._ranks.values())
        return 24 * len(self._arms) + units + ranks + sum(each.nbytes for each in counts) + 3_000

    def forget_half(self) -> None:
        """Of the units, those without an event for longest, before their time: they count anew if they come back."""
        self._forget_arms(max(1, len(self._arms) - 1))
        self._first_bad.forget_half()
        for units in self._units.values():
            units.forget_half()

    def verdict(self, *, canary_breaker_open: bool = False, stable_incident: bool = False) -> CanaryVerdict:
        """What to do as of the last tick. Ask at every tick; the first rollback stands."""
        config = self._config
        harm = {metric: self._log_harm(metric) for metric in config.weights}
        fine = {metric: self._log_fine(metric) for metric in config.weights}
        total = float(np.logaddexp.reduce([math.log(config.weights[metric]) + log_e for metric, log_e in harm.items()]))
        action, reason = self._decide(harm, fine, total, canary_breaker_open, stable_incident)
        return CanaryVerdict(
            action=action,
            reason=reason,
            log_e=harm,
            log_e_fine=fine,
            weights=dict(config.weights),
            log_e_total=total,
            threshold=-math.log(config.alpha_rollback),
            alpha=config.alpha_rollback,
            log_e_srm=self._split.log_e,
            counts=self._counts(),
            effects=self._effects(),
            guarantee="none" if self._unknown else "stated",
        )

    def _log_harm(self, metric: str) -> float:
        return self._rates[metric].log_harm() if metric in self._rates else self._means[metric].log_harm

    def _log_fine(self, metric: str) -> float:
        if metric in self._rates:
            return self._rates[metric].log_fine(self._config.ratio_margin)
        return self._means[metric].log_fine

    def _decide(
        self, harm: dict[str, float], fine: dict[str, float], total: float, breaker: bool, incident: bool
    ) -> tuple[Literal["hold", "rollback", "promote", "invalid", "timeout"], str]:
        config = self._config
        if breaker:
            return "rollback", "the circuit breaker is open for the canary only"
        if guard := self._guard():
            return "rollback", guard
        if self._split.log_e >= -math.log(config.srm_alpha):
            return "invalid", "traffic is not split as stated: find out why before trusting this comparison"
        if total >= -math.log(config.alpha_rollback):
            lead = max(harm, key=lambda metric: math.log(config.weights[metric]) + harm[metric])
            return "rollback", f"{lead.replace('_', ' ')}: worse than stable (ln e = {harm[lead]:.1f})"
        elapsed = (self._now - self._start) / MICROSECONDS
        open_metrics = [
            metric
            for metric in config.weights
            if self._measured(metric) and fine[metric] < -math.log(config.alpha_promote)
        ]
        if (
            not open_metrics
            and any(self._measured(metric) for metric in config.weights)
            and self._seen_units[1] >= config.min_units
            and elapsed >= config.min_s
            and not incident
        ):
            return "promote", "not worse than stable by the margin, in every metric measured"
        if elapsed >= config.max_s:
            return "timeout", f"undecided after {config.max_s:g} s: {', '.join(open_metrics) or 'too few units'}"
        return "hold", f"undecided: {', '.join(open_metrics) or 'too few units'}"

    def _measured(self, metric: str) -> bool:
        if metric in self._rates:
            return sum(self._bad[_RATES[metric]][2:]) > 0
        return sum(self._means[metric].units) > 0

    def _guard(self) -> str:
        """Why the canary must go at once: its error rate is certainly high, and certainly above stable's."""
        config = self._config
        stable_bad, bad, stable_n, n = self._bad["error"]
        if n < config.guard_requests:
            return ""
        low, _ = clopper_pearson(bad, n, _GUARD_TAIL)
        high = clopper_pearson(stable_bad, stable_n, _GUARD_TAIL)[1] if stable_n else 0.0
        if low <= max(config.guard_rate, high):
            return ""
        return f"{bad} of {n} canary requests failed, {stable_bad} of {stable_n} stable ones"

    def _counts(self) -> dict[str, int]:
        return {
            "stable_units": self._seen_units[0],
            "canary_units": self._seen_units[1],
            "stable_requests": self._requests[0],
            "canary_requests": self._requests[1],
            "stable_errors": self._bad["error"][0],
            "canary_errors": self._bad["error"][1],
            "excluded": self._excluded,
            "unknown_units": self._unknown,
            "invalid": self._invalid,
        }

    def _effects(self) -> dict[str, float]:
        return {
            measure: canary / n_canary - stable / n_stable
            for measure, (stable, canary, n_stable, n_canary) in sorted(self._sums.items())
            if n_stable and n_canary
        }

    def snapshot(self) -> State:
        return {
            "start": self._start,
            "now": self._now,
            "arms": [
                np.array(list(self._arms), np.uint64),
                np.array(list(self._arms.values()), np.int64).reshape(-1, 2),
            ],
            "arms_forgotten": self._arms_forgotten,
            "swept": self._swept,
            "split": self._split.snapshot(),
            "rates": {metric: process.snapshot() for metric, process in self._rates.items()},
            "first_bad": self._first_bad.snapshot(),
            "means": {metric: process.snapshot() for metric, process in self._means.items()},
            "ranks": {metric: ranks.snapshot() for metric, ranks in self._ranks.items()},
            "units": {metric: units.snapshot() for metric, units in self._units.items()},
            "requests": list(self._requests),
            "bad": {measure: list(tally) for measure, tally in self._bad.items()},
            "sums": {measure: list(sums) for measure, sums in self._sums.items()},
            "seen_units": list(self._seen_units),
            "unknown": self._unknown,
            "excluded": self._excluded,
            "invalid": self._invalid,
        }

    @classmethod
    def restored(cls, config: CanaryConfig, state: State) -> "Canary":
        canary = cls(config, state["start"])
        canary._now, canary._swept = state["now"], state["swept"]
        names, arms = state["arms"]
        canary._arms = dict(zip(names.tolist(), arms.tolist(), strict=True))
        canary._arms_forgotten = state["arms_forgotten"]
        canary._split.restore(state["split"])
        canary._first_bad.restore(state["first_bad"])
        parts: tuple[tuple[str, dict[str, Any]], ...] = (
            ("rates", dict(canary._rates)),
            ("means", dict(canary._means)),
            ("ranks", dict(canary._ranks)),
            ("units", dict(canary._units)),
        )
        for name, processes in parts:
            for metric, process in processes.items():
                process.restore(state[name][metric])
        canary._requests, canary._seen_units = list(state["requests"]), list(state["seen_units"])
        canary._bad = {measure: list(tally) for measure, tally in state["bad"].items()}
        canary._sums = {measure: list(sums) for measure, sums in state["sums"].items()}
        canary._unknown, canary._excluded, canary._invalid = state["unknown"], state["excluded"], state["invalid"]
        return canary
