"""What changes with the hour of the day and of the week, and is no drift.

The null of a tick is that of its hour. A statistic's mean in an hour is shrunk towards that of the same hour on any
day, and this towards that of all time, with as many units of the parent as the variance between hours is worth
(empirical Bayes: noise / variance between hours). What days do of their own accord cannot be foreseen: the variance
between equal hours of different days is part of the uncertainty of every hour. All variances are the moment estimators
of a nested analysis of variance (Searle, Casella and McCulloch, Variance Components, 3.6).

Hours are UTC, and hour 0 is that of the epoch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats, State
from driftline.detectors.config import BudgetConfig

DAY, WEEK = 24, 168  # hours
REFITS = (2, 7, 14)  # days after which hours are known better: of the day at first, of the week from two weeks on
NO_HOURS = "seasonal_confidence: low."  # the reference is of one time of the day and week
_HOUR_S = 3600.0
# Columns: units, the squares of those of single hours, single hours; the sums from here on.
_N, _SQUARES, _GROUPS, _TOTAL = range(4)
_TINY = np.finfo(np.float64).tiny

Statistic: TypeAlias = Callable[[Floats, NDArray[np.int64]], Floats]
"""Units and their sessions to the statistics [m, d] of those that are valid."""


def no_table() -> Floats:
    """Of numbers by hour, where hours are not known; likewise below."""
    return np.empty((0, 0))


def no_vectors() -> NDArray[np.float32]:
    return np.empty((0, 0), np.float32)


def no_units() -> Floats:
    return np.empty(0)


@dataclass(frozen=True)
class Hours:
    """What is known of a statistic in each hour.

    mean: [hours, d].
    noise_units, units: [hours, e] as many independent units would know the mean as well; the first by the noise of
        units alone, as if neither days nor hours differed. e is 1 if the components of the statistic share their
        variances, else d.
    apart: [hours, e] the variance by what days and hours are of their own accord.
    """

    mean: Floats
    noise_units: Floats
    units: Floats
    apart: Floats

    def digest(self) -> str:
        return blake2b(self.mean.tobytes() + self.units.tobytes(), digest_size=16).hexdigest()


class Season:
    """Streams over healthy units of one stream, in canonical order, and sums up their statistics by hour.

    d: components of the statistic. hours: `DAY` or `WEEK`. together: whether all components, as those of a vector,
    share their variances. batch: units that are gathered before their statistics are computed.
    """

    def __init__(
        self,
        statistic: Statistic,
        d: int,
        budget: BudgetConfig,
        *,
        hours: int = WEEK,
        together: bool = False,
        batch: int = 1,
        state: State | None = None,
    ) -> None:
        self._statistic, self._together, self._batch = statistic, together, batch
        self._ticks = budget.ticks(_HOUR_S)
        self._values: list[Floats] = []
        self._sessions: list[NDArray[np.int64]] = []
        self._hour = -1
        self._open_n = 0
        self._open_sum = np.zeros(d)
        self.first, self.last = -1, -1  # hours with units
        self._cells = np.zeros((hours, _TOTAL + d))
        self._squared = np.zeros(1 if together else d)  # over single hours, the sum's square by their units
        if state is not None:
            self._restore(state)

    @property
    def days(self) -> float:
        """From the first hour with units to the last."""
        return (self.last + 1 - self.first) / DAY if self.first >= 0 else 0.0

    @property
    def nbytes(self) -> int:
        """Of the snapshot, about."""
        waiting = sum(
            value.nbytes + session.nbytes for value, session in zip(self._values, self._sessions, strict=True)
        )
        return self._cells.nbytes + self._squared.nbytes + self._open_sum.nbytes + waiting + 150

    def add(self, value: Floats, session: NDArray[np.int64], tick: int) -> None:
        """A tick's units; ticks ascend."""
        hour = tick // self._ticks
        if hour != self._hour:
            self._close()
            self._hour = hour
        self._values.append(value)
        self._sessions.append(session)
        if self._batch == 1 or sum(map(len, self._sessions)) >= self._batch:
            self._flush()

    def _flush(self) -> None:
        if self._values:
            rows = self._statistic(np.concatenate(self._values), np.concatenate(self._sessions))
            self._open_n += len(rows)
            self._open_sum += rows.sum(0)
            self._values, self._sessions = [], []

    def _close(self) -> None:
        self._flush()
        if n := self._open_n:
            cell = self._cells[self._hour % len(self._cells)]
            cell[:_TOTAL] += (n, n * n, 1)
            cell[_TOTAL:] += self._open_sum
            self._squared += self._reduced(self._open_sum[None] ** 2 / n)
            self.first = self._hour if self.first < 0 else self.first
            self.last = self._hour
        self._open_n, self._open_sum = 0, np.zeros_like(self._open_sum)

    def _reduced(self, squares: Floats) -> Floats:
        """[e] summed over cells, and over components that belong together."""
        total: Floats = squares.sum(0)
        return total.sum(keepdims=True) if self._together else total

    def fit(self, noise: Floats) -> Hours:
        """noise: [e] the variance of a mean of n units about that of its own hour, times n. Hours of the week once two
        weeks are known. The hour that is not over yet counts for nothing."""
        by_day = self._cells.reshape(-1, DAY, self._cells.shape[1]).sum(0)
        by_week = len(self._cells) == WEEK and self.days >= REFITS[-1]
        days = self._between_days(noise, self._cells if by_week else by_day)
        whole = by_day.sum(0, keepdims=True)
        n, squares = whole[:, _N, None], whole[:, _SQUARES, None]
        known = _Known(whole[:, _TOTAL:] / n, noise / n, days * squares / n**2)
        known = self._shrunk(by_day, whole, known, noise, days)
        if by_week:
            known = self._shrunk(self._cells, by_day, known, noise, days)
        apart = known.apart + days
        return Hours(known.mean, _units(noise, known.noise, n), _units(noise, known.noise + apart, n), apart)

    def _between_days(self, noise: Floats, cells: Floats) -> Floats:
        """[e] the variance of what an hour is on different days."""
        cells = cells[cells[:, _N] > 0]
        n = cells[:, _N]
        scatter = self._squared - self._reduced(cells[:, _TOTAL:] ** 2 / n[:, None])
        free = cells[:, _GROUPS].sum() - len(cells)
        weight = (n - cells[:, _SQUARES] / n).sum()
        return np.maximum(0.0, scatter - free * noise) / weight if weight > 0 else np.zeros_like(noise)

    def _shrunk(self, cells: Floats, parents: Floats, of_parents: "_Known", noise: Floats, days: Floats) -> "_Known":
        """Cell i is of parent i % p."""
        parent = np.arange(len(cells)) % len(parents)
        known = _Known(of_parents.mean[parent], of_parents.noise[parent], of_parents.apart[parent])
        used = cells[:, _N] > 0
        n, squares = cells[used, _N, None], cells[used, _SQUARES, None]
        own = cells[used, _TOTAL:] / n
        above = parents[parent[used]]
        of_n = above[:, _N, None]
        scatter = self._reduced(n * (own - above[:, _TOTAL:] / of_n) ** 2)
        free = used.sum() - (parents[:, _N] > 0).sum()
        excess = np.maximum(0.0, scatter - free * noise - (squares / n - squares / of_n).sum() * days)
        weight = (n - n**2 / of_n).sum()
        between = excess / weight if weight > 0 else np.zeros_like(noise)
        share = n * between / np.maximum(n * between + noise, _TINY)
        known.mean[used] += share * (own - known.mean[used])
        known.noise[used] = share**2 * noise / n + (1 - share) ** 2 * known.noise[used]
        known.apart[used] = share**2 * days * squares / n**2 + (1 - share) ** 2 * (between + known.apart[used])
        known.apart[~used] += between
        return known

    def snapshot(self) -> State:
        return {
            "values": np.concatenate(self._values) if self._values else None,
            "sessions": np.concatenate(self._sessions) if self._sessions else None,
            "hour": self._hour,
            "open": [self._open_n, self._open_sum.copy()],
            "range": [self.first, self.last],
            "cells": self._cells.copy(),
            "squared": self._squared.copy(),
        }

    def _restore(self, state: State) -> None:
        if state["values"] is not None:
            self._values, self._sessions = [state["values"].copy()], [state["sessions"].copy()]
        self._hour = state["hour"]
        self._open_n, self._open_sum = state["open"][0], state["open"][1].copy()
        self.first, self.last = state["range"]
        self._cells, self._squared = state["cells"].copy(), state["squared"].copy()


@dataclass(frozen=True)
class _Known:
    """Means [c, d] of hours, and their variances [c, e] about the truth: by the noise of units, and by other things."""

    mean: Floats
    noise: Floats
    apart: Floats


def _units(noise: Floats, variance: Floats, everything: Floats) -> Floats:
    return np.where(variance > 0, noise / np.maximum(variance, _TINY), everything)


def both(units: Floats, others: Floats | float) -> Floats:
    """As many units know the sum of what these and those know."""
    return 1 / (1 / units + 1 / others)


class Clock:
    """Which hour it is in a detector whose streams are held against the hours of their baselines."""

    def __init__(self, budget: BudgetConfig) -> None:
        self._ticks = budget.ticks(_HOUR_S)
        self.hour = 0  # since the epoch

    def strike(self, tick: int) -> bool:
        """Whether it is another hour than before."""
        before, self.hour = self.hour, tick // self._ticks
        return before != self.hour


def confidence(hours: int, finest: int) -> str:
    """For evidence. hours: as many as are known apart; finest: of a detector that could know so many."""
    if hours == finest:
        return ""
    return "Hours of the week are known after two weeks, those of the day are by now." if hours else NO_HOURS
