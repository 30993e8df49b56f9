"""Thresholds of windows of embeddings: at which value of T each length alarms, and how rare each value is."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats
from driftline.detectors.config import BudgetConfig, EmbeddingDriftConfig
from driftline.detectors.saddlepoint import quantile
from driftline.detectors.splitting import Sample, threshold

SADDLEPOINT = float(np.log(1e-4))  # ln p above which the window mean's law is that of the covariance alone


class Noise(NamedTuple):
    """What window means do without drift."""

    spectrum: Floats  # eigenvalues of the covariance, per event
    events_per_unit: float


class Limits(NamedTuple):
    scales: NDArray[np.int64]  # [s]
    log_alpha: Floats  # [s]
    limit: Floats  # [s]
    tail: Floats  # [m, 3] index of the scale, value and its ln p, upwards from p = 1e-4
    note: str


def powers_of_two(least: float, longest: int) -> NDArray[np.int64]:
    """The scales from `least` to `longest`."""
    powers = 1 << np.arange(int(np.log2(max(1, longest))) + 1)
    return powers[(powers >= least) & (powers <= longest)].astype(np.int64)


def split(
    config: EmbeddingDriftConfig,
    budget: BudgetConfig,
    noise: Noise,
    scales: NDArray[np.int64],
    sample: Sample,
    seed: int,
) -> Limits:
    """With sessions: by splitting over the reference's own, for the law of the covariance alone is exceeded 5 to 400
    times as often as it says at the level in use. Scales whose chains get stuck, or disagree, are left out. Longer
    windows, nearer to Gaussian, get the correction of the longest that is split."""
    log_p = float(np.log(budget.alpha / len(scales)))
    law = quantile(log_p, noise.spectrum)
    kept, limit, tails, dropped = [], [], [], []
    stretch = None
    for scale in scales.tolist():
        if scale / noise.events_per_unit < config.units_split:
            found = threshold(sample, sample.window(scale), noise.spectrum, log_p, (seed,), config.chains)
            if found is None:
                dropped.append(scale)
                continue
            stretch = found.value / law
            levels = found.levels[(found.levels[:, 1] > log_p) & (found.levels[:, 1] < SADDLEPOINT)]
        elif stretch is not None:
            levels = np.empty((0, 2))
        else:
            dropped.append(scale)
            continue
        kept.append(scale)
        limit.append(law * stretch)
        tails.append(_tail(noise.spectrum, log_p, law * stretch, levels))
    note = f"Without windows of {', '.join(map(str, dropped))} texts: no certain threshold." if dropped else ""
    return Limits(np.array(kept, np.int64), np.full(len(kept), log_p), np.array(limit), _joined(tails), note)


def unsplit(config: EmbeddingDriftConfig, budget: BudgetConfig, noise: Noise, scales: NDArray[np.int64]) -> Limits:
    """Without: straight from the saddlepoint, with alpha / 20 below 512 units, which makes up for the excess of windows
    of 128 units on real texts."""
    small = scales / noise.events_per_unit < config.units_safe
    log_alpha = np.log(budget.alpha / len(scales) / np.where(small, config.small_divisor, 1.0))
    limit = np.array([quantile(level, noise.spectrum) for level in log_alpha])
    none = np.empty((0, 2))
    tails = [_tail(noise.spectrum, level, q, none) for level, q in zip(log_alpha.tolist(), limit.tolist(), strict=True)]
    return Limits(scales, log_alpha, limit, _joined(tails), "")


def _tail(spectrum: Floats, log_p: float, limit: float, levels: Floats) -> Floats:
    """[m, 2] values and ln p from p = 1e-4 through the limit to p squared, there in the proportion of the law."""
    beyond = limit * quantile(2 * log_p, spectrum) / quantile(log_p, spectrum)
    tail = np.vstack([levels, (limit, log_p), (beyond, 2 * log_p)])
    start = quantile(SADDLEPOINT, spectrum)
    return np.vstack([(start, SADDLEPOINT), tail[tail[:, 0] > start]])


def _joined(tails: list[Floats]) -> Floats:
    numbered = [np.column_stack([np.full(len(tail), i), tail]) for i, tail in enumerate(tails)]
    return np.concatenate([np.empty((0, 3)), *numbered])
