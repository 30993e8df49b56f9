"""How large a change must be to be found soon."""

import math

from driftline.detectors.config import BudgetConfig


def detectable_rate(p0: float, units: int, budget: BudgetConfig) -> float | None:
    """The least rate that an e-detector of rates above p0 finds within about so many units; None: not even certainty.

    Its evidence grows by KL(rate, p0) a unit, and what it needs beyond the threshold is about 2 (measured)."""
    need = budget.threshold + 2
    if units * _divergence(1.0, p0) < need:
        return None
    low, high = p0, 1.0
    while high - low > 1e-6 * p0:
        middle = (low + high) / 2
        if units * _divergence(middle, p0) < need:
            low = middle
        else:
            high = middle
    return high


def _divergence(p: float, q: float) -> float:
    """Of Kullback and Leibler, between two coins."""
    rest = 0.0 if p == 1 else (1 - p) * math.log((1 - p) / (1 - q))
    return p * math.log(p / q) + rest
