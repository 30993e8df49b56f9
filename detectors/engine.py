"""The e-detector that every rate and every bounded mean goes through (Shin, Ramdas and Rinaldo, 2203.03532).

A tick multiplies component j (one bet) by its likelihood-like factor L_j, whose mean is at most 1 while nothing is
wrong: M_j = L_j (M_j + 1), from M = 0. A stream alarms when the mean of its M_j reaches 1/alpha. Then
E[alarms in H ticks] <= alpha H, whatever the distribution and whatever the dependence between streams, with restarts:
M_t + alarms/alpha - t is a supermartingale.

M is kept in the linear domain with ln L clipped at 600: M stays below 1/alpha before, so it can't overflow, and a
smaller factor is still valid. Ticks without units have L = 1, so k of them add k; this is done when the next unit
arrives, which makes the state independent of how many empty updates were called. A stream alarms only in ticks with
units: later than it could, so still valid, and silence never alarms.

While a stream is in alarm, the mirrored test runs (null: still bad) as an e-CUSUM, R_j = L_j max(R_j, 1). It is at most
the e-detector of the same factors, so its guarantee holds too; unlike that, it does not grow by silence.

When did the change begin? At the last tick where the leading component's own CUSUM, C_j = ln L_j + max(C_j, 0), started
from zero: the maximum-likelihood change point. (The last tick with M_j <= 1 would be the beginning of time for quiet
streams, whose M_j hovers above 1.)
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats, Slots, State, Transitions
from driftline.detectors.columns import Columns
from driftline.detectors.config import BudgetConfig, RecoveryConfig

NEVER = np.iinfo(np.int64).min
_MAX_LOG = 600.0


@dataclass(frozen=True)
class Run:
    """The units since a change began."""

    units: int
    sums: tuple[float, float]  # of the statistic and of its square
    since_tick: int

    @property
    def mean(self) -> float:
        return self.sums[0] / self.units


class Engine:
    """e-detectors of all slots, stepped together. `bets` components for alarms, `recovery_bets` for recovery."""

    def __init__(self, bets: int, recovery_bets: int, budget: BudgetConfig, recovery: RecoveryConfig) -> None:
        self.threshold = budget.threshold
        self._limit = 1 / budget.alpha
        self._e_close = recovery.e_close
        self._min_open = budget.ticks(recovery.min_open_s)
        self._max_open = budget.ticks(recovery.max_open_s)
        self._columns = Columns(
            m=((bets,), np.float64, 0),
            at=((), np.int64, NEVER),  # the tick that m stands for
            cusum=((bets,), np.float64, 0),
            start=((bets,), np.int64, NEVER),  # first tick of the cusum's run, and the units since
            run_units=((bets,), np.int64, 0),
            run_sums=((bets, 2), np.float64, 0),
            fired=((), np.int64, NEVER),  # tick of the alarm, while in alarm
            fired_log_e=((), np.float64, 0),
            since=((), np.int64, NEVER),
            lead=((), np.int64, 0),  # the component that led to the alarm, and the growth of its log per unit
            growth=((), np.float64, 0),
            bad_units=((), np.int64, 0),  # since the change began, while in alarm
            bad_sums=((2,), np.float64, 0),
            r=((recovery_bets,), np.float64, 1),
        )

    def open(self, slot: int | None) -> int:
        return self._columns.claim(slot)

    @property
    def row_bytes(self) -> int:
        """Of a slot in the snapshot."""
        return self._columns.row_bytes

    def reset(self, slot: int) -> None:
        self._columns.clear(slot)

    def in_alarm(self) -> NDArray[np.bool_]:
        """[S]"""
        fired: NDArray[np.int64] = self._columns["fired"]
        return np.not_equal(fired, NEVER)

    def step(
        self,
        slots: Slots,
        log_l: Floats,
        log_r: Floats,
        units: NDArray[np.int64],
        sums: Floats,
        tick: int,
        weight: Floats | None = None,
        began: NDArray[np.int64] | None = None,
    ) -> Transitions:
        """One tick. slots: [k] those with units, ascending. log_l: [k, bets], log_r: [k, recovery bets], the logs of
        the factors for alarm and for recovery. units: [k] how many. sums: [k, 2] of their statistic and its square.
        weight: [k] shares of alpha, always the same for one slot; 1 where nothing is said. began: [k] the tick of the
        first event of their units; this one where nothing is said."""
        fired = self._columns["fired"]
        incidents = np.flatnonzero(fired != NEVER)
        if not len(incidents):
            return Transitions(self._watch(slots, log_l, units, sums, tick, weight, began), [])
        bad = fired[slots] != NEVER
        rest = ~bad
        share = None if weight is None else weight[rest]
        since = None if began is None else began[rest]
        alarms = self._watch(slots[rest], log_l[rest], units[rest], sums[rest], tick, share, since)
        self._mend(slots[bad], log_r[bad], units[bad], sums[bad])
        return Transitions(alarms, self._recovered(incidents, tick))

    def idle(self, tick: int) -> Transitions:
        """A tick without units."""
        incidents = np.flatnonzero(self._columns["fired"] != NEVER)
        return Transitions([], self._recovered(incidents, tick) if len(incidents) else [])

    def _recovered(self, incidents: Slots, tick: int) -> list[int]:
        """Those that end."""
        age = tick - self._columns["fired"][incidents]
        well = (self._columns["r"][incidents].mean(1) >= self._e_close) & (age >= self._min_open)
        over = incidents[well | (age >= self._max_open)]
        self._columns.clear(over)
        self._columns["at"][over] = tick
        ended: list[int] = over.tolist()
        return ended

    def _watch(
        self,
        slots: Slots,
        log_l: Floats,
        units: NDArray[np.int64],
        sums: Floats,
        tick: int,
        weight: Floats | None,
        began: NDArray[np.int64] | None,
    ) -> list[int]:
        """The slots that begin to alarm. M of a slot with a weight is that much smaller than it would be without."""
        c = self._columns
        if not len(slots):
            return []
        at = c["at"][slots]
        elapsed = np.where(at == NEVER, 1, tick - at).astype(np.float64)
        if weight is not None:
            elapsed *= weight
        m = np.exp(np.minimum(log_l, _MAX_LOG)) * (c["m"][slots] + elapsed[:, None])
        c["m"][slots] = m
        c["at"][slots] = tick

        cusum, start = c["cusum"][slots], c["start"][slots]
        lasts = cusum > 0
        c["cusum"][slots] = log_l + np.maximum(cusum, 0)
        start = np.where(lasts, start, tick if began is None else began[:, None])
        run_units = c["run_units"][slots] * lasts + units[:, None]
        run_sums = c["run_sums"][slots]
        run_sums *= lasts[..., None]
        run_sums += sums[:, None]
        c["start"][slots], c["run_units"][slots], c["run_sums"][slots] = start, run_units, run_sums

        e = m.mean(1)
        hit = np.flatnonzero(e >= self._limit)
        if not len(hit):
            return []
        lead = m[hit].argmax(1)
        alarms = slots[hit]
        c["fired"][alarms] = tick
        c["fired_log_e"][alarms] = np.log(e[hit])
        c["since"][alarms] = start[hit, lead]
        c["lead"][alarms] = lead
        c["growth"][alarms] = np.maximum(c["cusum"][alarms, lead], 0) / run_units[hit, lead]
        c["bad_units"][alarms] = run_units[hit, lead]
        c["bad_sums"][alarms] = run_sums[hit, lead]
        c["r"][alarms] = 1
        alarmed: list[int] = alarms.tolist()
        return alarmed

    def _mend(self, slots: Slots, log_r: Floats, units: NDArray[np.int64], sums: Floats) -> None:
        c = self._columns
        # The cap keeps a long recovery from overflowing; it is far above any e_close.
        grown = np.maximum(c["r"][slots], 1) * np.exp(np.clip(log_r, -_MAX_LOG, _MAX_LOG))
        c["r"][slots] = np.minimum(grown, 1e100)
        c["bad_units"][slots] += units
        c["bad_sums"][slots] += sums

    def log_e(self, slot: int) -> float | None:
        """The evidence; in alarm, what it was when it alarmed. None before the first unit."""
        c = self._columns
        if c["fired"][slot] != NEVER:
            return float(c["fired_log_e"][slot])
        e = float(c["m"][slot].mean())
        return math.log(e) if e > 0 else None

    def run(self, slot: int) -> Run | None:
        """The units since the change began, in alarm; else None."""
        c = self._columns
        if c["fired"][slot] == NEVER:
            return None
        return Run(int(c["bad_units"][slot]), tuple(c["bad_sums"][slot].tolist()), int(c["since"][slot]))

    def lead(self, slot: int) -> tuple[int, float]:
        """Which component led to the alarm, and by how much its log grew per unit since the change began."""
        return int(self._columns["lead"][slot]), float(self._columns["growth"][slot])

    def snapshot(self) -> State:
        return self._columns.snapshot()

    def restore(self, state: State) -> None:
        self._columns.restore(state)
