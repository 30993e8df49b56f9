"""Embedding drift with a proven false-alarm rate: a bet on the direction in which texts seem to move.

A fixed reference is split in two halves. The first gives the direction w from its mean to an exponentially weighted
mean of the latest units; the second says what to expect along w. A unit is the mean phi_u of one session's unit
vectors: y = <phi_u - mu_2, w> - eps, with w fixed before the unit is seen, has a mean of at most 0 while the mean of
texts is that of the reference, whatever their distribution. eps = 5 sd_w / sqrt(units of the second half) covers the
error of mu_2. The factors 1 + l y go through the e-detector of `engine.py` (Shekhar and Ramdas, 2112.09162: betting on
a learned witness; Shin, Ramdas and Rinaldo, 2203.03532).
"""

import math
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats, Insufficient, Measurement, State, TickBatch, Transitions
from driftline.detectors.columns import Columns
from driftline.detectors.config import BudgetConfig, EmbeddingWitnessConfig
from driftline.detectors.embeddings import unit_vectors
from driftline.detectors.engine import Engine
from driftline.detectors.seasons import DAY, Clock, Season, both, confidence, no_units, no_vectors
from driftline.detectors.units import NO_SESSION
from driftline.schemas.ids import stable_id
from driftline.schemas.results import Guarantee

_ERROR = 5.0  # standard errors of the reference's mean that eps covers, in a direction chosen after the fact
_DIRECTIONS = 64  # of the reference's spread that are kept; what is left counts as its largest
_CHUNK = 32  # units that are scored before the direction follows them
_LONGEST = 1 + 1e-6  # squared: a mean of unit vectors is no longer than one, and neither NaN nor infinity is
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # times a number: its highest bit is as good as chance
_RECENT = 512  # half-life, in units, of what is shown while nothing is wrong


class WitnessReference:
    """Units of healthy traffic, each in one of the halves by its session's number. Events without a session are not
    units: no correction for their dependence holds at small alphas."""

    def __init__(self, state: State | None = None) -> None:
        self.invalid = 0
        self.skipped = 0  # without a session
        self.counts = np.zeros(2, np.int64)  # units of each half
        self.sums: Floats = np.zeros((2, 0))
        self.origin: Floats = np.zeros(0)  # the first unit: moments around it lose no digits
        self.outer = np.zeros((0, 0), np.float32)  # of the second half, around the origin; the upper triangle counts
        self._digest = b""
        if state is not None:
            self._restore(state)

    @property
    def n(self) -> int:
        return int(self.counts.sum())

    @property
    def nbytes(self) -> int:
        d = len(self.origin)
        return 2 * d * (d + 1) + 24 * d + 200

    def add(self, value: Floats, session: NDArray[np.int64]) -> None:
        known = session != NO_SESSION
        valid = _squares(value) <= _LONGEST
        if len(self.origin) and value.shape[1:] != self.origin.shape:
            valid[:] = False
        self.skipped += int((valid & ~known).sum())
        self.invalid += len(value) - int(valid.sum())
        value, session = value[valid & known], session[valid & known]
        if not len(value):
            return
        if not len(self.origin):
            d = value.shape[1]
            self.origin, self.sums, self.outer = value[0].copy(), np.zeros((2, d)), np.zeros((d, d), np.float32)
        self._digest = blake2b(self._digest + value.tobytes() + session.tobytes(), digest_size=16).digest()
        second = (session.astype(np.uint64) * _SPREAD >> np.uint64(63)).astype(np.bool_)
        for half, mine in enumerate((value[~second], value[second])):
            self.sums[half] += (mine - self.origin).sum(0)
            self.counts[half] += len(mine)
        centred = (value[second] - self.origin).astype(np.float32)
        self.outer += centred.T @ centred

    def means(self) -> Floats:
        """[2, d] of the halves."""
        means: Floats = self.origin + self.sums / self.counts[:, None]
        return means

    def covariance(self) -> Floats:
        """Of the second half's units."""
        shift = self.sums[1] / self.counts[1]
        outer = np.triu(self.outer) + np.triu(self.outer, 1).T
        cov: Floats = outer.astype(np.float64) / self.counts[1] - np.outer(shift, shift)
        return cov

    def digest(self) -> str:
        return self._digest.hex()

    def snapshot(self) -> State:
        return {
            "invalid": self.invalid,
            "skipped": self.skipped,
            "counts": self.counts.copy(),
            "sums": self.sums.copy(),
            "origin": self.origin.copy(),
            "outer": self.outer[np.triu_indices(len(self.outer))],
            "digest": self._digest,
        }

    def _restore(self, state: State) -> None:
        self.invalid, self.skipped = state["invalid"], state["skipped"]
        self.counts, self.sums, self.origin = state["counts"].copy(), state["sums"].copy(), state["origin"].copy()
        d = len(self.origin)
        self.outer = np.zeros((d, d), np.float32)
        self.outer[np.triu_indices(d)] = state["outer"]
        self._digest = state["digest"]


class WitnessBaseline(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    n: int  # units in the reference
    guarantee: Guarantee
    units: int  # in the second half
    mu_1: Floats  # [d]
    mu_2: Floats  # [d]
    directions: NDArray[np.float32]  # [r, d] the largest of the units' spread
    variances: Floats  # [r] along them
    rest: float  # an upper bound of the variance along any other direction
    spread: float  # the variance of units about their mean, over all directions
    hours: NDArray[np.float32] = msgspec.field(default_factory=no_vectors)  # [24, d] means less mu_2; empty: not known
    hour_units: Floats = msgspec.field(default_factory=no_units)  # [24] independent units that would know them
    hour_apart: Floats = msgspec.field(default_factory=no_units)  # [24] variance by what days are of their own accord

    def sd(self, w: Floats) -> float:
        """An upper bound of the standard deviation of units along the unit vector w."""
        along = (self.directions @ w.astype(np.float32)).astype(np.float64) ** 2
        return math.sqrt(along @ self.variances + self.rest * max(0.0, 1 - float(along.sum())))


@dataclass(frozen=True)
class _Aim:
    """A direction, and what the reference says along it."""

    w: Floats  # [d]
    expected: float  # <mu_2, w>
    eps: float
    bets: Floats

    def statistic(self, units: Floats) -> Floats:
        z: Floats = units @ self.w - self.expected
        return z


class EmbeddingWitness:
    """Alarms when the mean of sessions' embeddings has left the reference's, in any one direction. Units: means of
    the unit vectors of a session's events (`VectorMeans`).

    From the alarm on, its direction stands still, and the mirrored test asks whether units have come back: the incident
    is over when at least a part 1 - 1/ratio of the shift that alarmed is gone.
    """

    name = "embedding_witness"
    baseline_type = WitnessBaseline

    def __init__(self, config: EmbeddingWitnessConfig, budget: BudgetConfig) -> None:
        self._config = config
        self._budget = budget
        self._bets = np.array(config.bets)
        self._decay = 2.0 ** (-1 / config.half_life)
        self._weights = (1 - self._decay) * self._decay ** np.arange(_CHUNK - 1, -1, -1)
        self._engine = Engine(len(config.bets), len(config.bets), budget, config.recovery)
        self._clock = Clock(budget)
        self._baselines: list[WitnessBaseline] = []
        self._counts = Columns(
            units=((), np.int64, 0),
            not_scored=((), np.int64, 0),  # invalid, or without a session
            recent=((2,), np.float64, 0),  # decayed: units, sum of the statistic
            shift=((), np.float64, 0),  # the least that is still bad along the direction of the alarm, while in alarm
        )
        self._drift: list[Floats] = []  # [d] the weighted mean of the latest units less mu_1; in alarm the direction

    def reference(self, state: State | None = None) -> WitnessReference:
        return WitnessReference(state)

    def fit(self, reference: WitnessReference) -> WitnessBaseline | Insufficient:
        if reference.n < self._config.min_units:
            return Insufficient("too few sessions", reference.n, self._config.min_units)
        covariance = reference.covariance()
        values, vectors = np.linalg.eigh(covariance)
        if values[-1] <= 1e-12:
            return Insufficient("all texts have the same embedding", reference.n, reference.n + 1)
        top = slice(max(0, len(values) - _DIRECTIONS), None)
        mu_1, mu_2 = reference.means()
        return WitnessBaseline(
            id=stable_id(self.name, self._config.model_dump_json(), reference.digest()),
            n=reference.n,
            guarantee="stated",
            units=int(reference.counts[1]),
            mu_1=mu_1,
            mu_2=mu_2,
            directions=vectors[:, top].T.astype(np.float32, order="C"),
            variances=np.maximum(values[top], 0.0),
            rest=max(0.0, float(values[-_DIRECTIONS])) if len(values) > _DIRECTIONS else 0.0,
            spread=float(np.trace(covariance)),
        )

    def slot_bytes(self, baseline: WitnessBaseline) -> int:
        return self._engine.row_bytes + self._counts.row_bytes + 8 * len(baseline.mu_1) + 50

    def season(self, baseline: WitnessBaseline, state: State | None = None) -> Season:
        def units(value: Floats, session: NDArray[np.int64]) -> Floats:
            if value.ndim != 2 or value.shape[1] != len(baseline.mu_2):
                return np.empty((0, len(baseline.mu_2)))
            valid: Floats = value[(_squares(value) <= _LONGEST) & (session != NO_SESSION)]
            return valid - baseline.mu_2

        return Season(units, len(baseline.mu_2), self._budget, hours=DAY, together=True, state=state)

    def seasoned(self, baseline: WitnessBaseline, season: Season) -> WitnessBaseline:
        hours = season.fit(np.array([baseline.spread]))
        return msgspec.structs.replace(
            baseline,
            id=stable_id(baseline.id, hours.digest()),
            hours=hours.mean.astype(np.float32),
            hour_units=hours.noise_units[:, 0],
            hour_apart=hours.apart[:, 0],
        )

    def carried(self, baseline: WitnessBaseline, before: WitnessBaseline) -> WitnessBaseline:
        if not len(before.hours):
            return baseline
        return msgspec.structs.replace(
            baseline,
            id=stable_id(baseline.id, before.id),
            hours=before.hours - before.hours.mean(0),
            hour_units=both(before.hour_units, baseline.units),
            hour_apart=before.hour_apart,
        )

    def open(self, baseline: WitnessBaseline, slot: int | None = None) -> int:
        slot = self._engine.open(slot)
        self._counts.claim(None if slot == len(self._counts) else slot)
        self._baselines[slot : slot + 1] = [baseline]
        self._drift[slot : slot + 1] = [np.zeros(len(baseline.mu_1))]
        return slot

    def update(self, batch: TickBatch, tick: int) -> Transitions:
        self._clock.strike(tick)
        squared = _squares(batch.value)
        alone = batch.session == NO_SESSION
        order = np.argsort(batch.slot, kind="stable")
        slots, starts = np.unique(batch.slot[order], return_index=True)
        bounds = [*starts.tolist(), len(order)]
        in_alarm = self._engine.in_alarm()
        scored = []
        for i, slot in enumerate(slots.tolist()):
            rows = order[bounds[i] : bounds[i + 1]]
            if batch.value.ndim != 2 or batch.value.shape[1] != len(self._drift[slot]):
                self._counts["not_scored"][slot] += len(rows)
                continue
            rows = rows[(squared[rows] <= _LONGEST) & ~alone[rows]]
            self._counts["not_scored"][slot] += bounds[i + 1] - bounds[i] - len(rows)
            if len(rows):
                logs, sums = self._score(slot, batch.value[rows], bad=bool(in_alarm[slot]))
                scored.append((slot, logs, sums, len(rows)))
        logs = np.array([logs for _, logs, *_ in scored]).reshape(-1, len(self._bets))
        slots = np.array([slot for slot, *_ in scored], np.intp)
        changes = self._engine.step(
            slots,
            logs,
            logs,  # a slot's factors are for the one or for the other
            np.array([n for *_, n in scored], np.int64),
            np.array([sums for *_, sums, _ in scored]).reshape(-1, 2),
            tick,
            began=batch.first(slots, tick) if scored else None,
        )
        for slot in changes.fired:
            self._hold(slot)
        for slot in changes.recovered:
            self._drift[slot][:] = 0
            self._counts["recent"][slot] = 0
        return changes

    def _score(self, slot: int, units: Floats, *, bad: bool) -> tuple[Floats, tuple[float, float]]:
        """The logs of the factors, in alarm those for recovery, and the sums of the statistic and of its square."""
        drift, mu_1 = self._drift[slot], self._baselines[slot].mu_1
        hours = self._baselines[slot].hours
        if len(hours):
            units = units - hours[self._clock.hour % DAY]
        logs, total, squares = np.zeros(len(self._bets)), 0.0, 0.0
        shift = float(self._counts["shift"][slot])
        for start in range(0, len(units), _CHUNK):
            chunk = units[start : start + _CHUNK]
            aim = self._aim(slot)
            if aim is not None:
                z = aim.statistic(chunk)
                total += float(z.sum())
                squares += float(z @ z)
                logs += np.log1p(np.outer(shift - z if bad else z - aim.eps, aim.bets)).sum(0)
            if not bad:
                weights = self._weights[-len(chunk) :]
                drift *= self._decay ** len(chunk)
                drift += weights @ chunk - weights.sum() * mu_1
        counts, recent = self._counts["units"], self._counts["recent"]
        counts[slot] += len(units)
        recent[slot] *= 2.0 ** (-len(units) / _RECENT)
        recent[slot] += (len(units), total)
        return logs, (total, squares)

    def _aim(self, slot: int) -> _Aim | None:
        """None while there is no direction."""
        drift, baseline = self._drift[slot], self._baselines[slot]
        length = math.sqrt(drift @ drift)
        if not length:
            return None
        w = drift / length
        expected = float(baseline.mu_2 @ w)
        sd = baseline.sd(w)
        variance, longest = sd * sd / baseline.units, 1.0
        if len(baseline.hours):
            hour = self._clock.hour % DAY
            variance = sd * sd / baseline.hour_units[hour] + baseline.hour_apart[hour]
            longest += float(np.linalg.norm(baseline.hours[hour]))
        eps = _ERROR * math.sqrt(variance)
        cap = 0.9 / (longest + abs(expected) + eps)  # keeps every factor positive
        return _Aim(w, expected, eps, np.minimum(self._bets / (2 * max(sd, 1e-12)), cap))

    def _hold(self, slot: int) -> None:
        run, aim = self._engine.run(slot), self._aim(slot)
        assert run is not None
        assert aim is not None
        self._counts["shift"][slot] = max(aim.eps, run.mean / self._config.recovery.ratio)

    def reset(self, slot: int) -> None:
        self._engine.reset(slot)
        self._counts.clear(slot)
        self._drift[slot][:] = 0

    def measure(self, slot: int) -> Measurement:
        """value: how far the mean of sessions lies from the reference's along the direction of the drift; baseline:
        what is within the reference's own error."""
        run, aim, baseline = self._engine.run(slot), self._aim(slot), self._baselines[slot]
        units, total = self._counts["recent"][slot].tolist()
        shown: dict[str, Any] = {}
        if aim is not None:
            shown["value"] = run.mean if run else total / units
            shown["baseline"] = aim.eps
        count = run.units if run else int(self._counts["units"][slot])
        return Measurement(
            log_e=self._engine.log_e(slot),
            threshold=self._engine.threshold,
            n_events=count,
            n_units=count,
            n_not_scored=int(self._counts["not_scored"][slot]),
            guarantee=baseline.guarantee,
            since_tick=run.since_tick if run else None,
            note=confidence(len(baseline.hours), DAY),
            **shown,
        )

    def witness_scores(self, slot: int, vectors: Floats) -> Floats:
        """How far each vector, at length one, lies in the direction of the drift: the highest carry it. NaN for
        invalid vectors, and for all while there is no direction."""
        aim, scores = self._aim(slot), np.full(len(vectors), np.nan)
        if aim is not None:
            phi, valid = unit_vectors(vectors, len(aim.w))
            scores[valid] = aim.statistic(phi)
        return scores

    def baseline(self, slot: int) -> WitnessBaseline:
        return self._baselines[slot]

    def snapshot(self) -> State:
        return {
            "engine": self._engine.snapshot(),
            "hour": self._clock.hour,
            "counts": self._counts.snapshot(),
            "known": {baseline.id: msgspec.structs.asdict(baseline) for baseline in self._baselines},
            "slots": [baseline.id for baseline in self._baselines],
            "drift": [drift.copy() for drift in self._drift],
        }

    def restore(self, state: State) -> None:
        self._engine.restore(state["engine"])
        self._clock.hour = state["hour"]
        self._counts.restore(state["counts"])
        known = {key: WitnessBaseline(**fields) for key, fields in state["known"].items()}
        self._baselines = [known[key] for key in state["slots"]]
        self._drift = [drift.copy() for drift in state["drift"]]


def _squares(value: Floats) -> Floats:
    """The squared lengths of means of unit vectors; infinity for what is not a vector."""
    if value.ndim != 2:
        return np.full(len(value), np.inf)
    with np.errstate(over="ignore", invalid="ignore"):
        squared: Floats = np.einsum("ij,ij->i", value, value)
    return squared
