"""What alarms mean: how many were false, how late the true ones came. Pure, and without anything of the project: the
peers' process imports it too."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv

MONTH_S = 30 * 86_400
EVENTS_PER_S = 16  # the stated traffic, where alarms per event become alarms per 30 days

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rate:
    """Alarms over a stretch of null, and the 95 % interval of their expected number (Garwood's, exact for counts;
    alarms come in runs, so it is at best this narrow)."""

    alarms: int
    exposure: float  # ticks, or events

    @property
    def each(self) -> float:
        return self.alarms / self.exposure

    @property
    def interval(self) -> tuple[float, float]:
        low = float(gammaincinv(self.alarms, 0.025)) if self.alarms else 0.0
        return low / self.exposure, float(gammaincinv(self.alarms + 1, 0.975)) / self.exposure


def calibration(rate: Rate, alpha: float) -> dict[str, float]:
    """Observed alarms over stated ones (per tick), with its interval."""
    low, high = rate.interval
    return {
        "calibration_ratio": rate.each / alpha,
        "calibration_low": low / alpha,
        "calibration_high": high / alpha,
    }


def before(alarms: Sequence[Sequence[int]], change: Sequence[int]) -> int:
    """Alarms at events before the change."""
    return sum(position < first for run, first in zip(alarms, change, strict=True) for position in run)


def delays(alarms: Sequence[Sequence[int]], change: Sequence[int], horizon: int) -> Floats:
    """[runs] events from the change to the first alarm that has seen a changed one; NaN: none within the horizon.
    Alarms are positions, in events, of the last event they had seen."""
    found = np.full(len(alarms), np.nan)
    for i, (run, first) in enumerate(zip(alarms, change, strict=True)):
        after = [position - first + 1 for position in run if position >= first]
        if after and min(after) <= horizon:
            found[i] = min(after)
    return found


def summary(found: Floats, horizon: int) -> dict[str, float | None]:
    """Mean and p95 are of the detected; `delay_restricted_events` counts the others as the horizon, so it compares
    tools that find different shares."""
    detected = found[~np.isnan(found)]
    return {
        "detected_share": len(detected) / len(found),
        "delay_mean_events": float(detected.mean()) if len(detected) else None,
        "delay_p95_events": float(np.quantile(detected, 0.95)) if len(detected) else None,
        "delay_restricted_events": float(np.where(np.isnan(found), horizon, found).mean()),
    }


def matched(alarm_rate: Callable[[float], float], low: float, high: float, target: float, steps: int = 14) -> float:
    """The parameter between low and high (both positive), by bisection of its logarithm, at which the alarm rate is
    closest to the target without exceeding it. The rate falls, or rises, with the parameter; where even the calmer end
    exceeds the target, that end is returned."""
    calm, wild = (high, low) if alarm_rate(high) <= alarm_rate(low) else (low, high)
    if alarm_rate(wild) <= target:
        return wild
    for _ in range(steps):
        middle = math.sqrt(calm * wild)
        if alarm_rate(middle) <= target:
            calm = middle
        else:
            wild = middle
    return calm


def threshold(statistics: Floats, share: float) -> float:
    """The value that this share of null windows' statistics exceeds, at most."""
    ordered = np.sort(statistics)[::-1]
    return float(ordered[min(len(ordered) - 1, int(share * len(ordered)))])
