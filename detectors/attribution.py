"""Why an amount changed: its change as a sum over the factors it is a product of.

Logarithmic mean Divisia index, additive form (Ang, Energy Policy 32, 2004; zeros by their limits, Ang and Liu, Energy
Policy 35, 2007): with C = sum over models of prod f, the contribution of f is the sum of L(C1, C0) ln(f1 / f0),
L(a, b) = (a - b) / ln(a / b). The contributions sum to the change; nothing is left over, whatever the order.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats


def contributions(before: Floats, after: Floats) -> Floats:
    """[factors] the part of each factor in the change of the sum of products.

    before, after: [factors, terms], not negative. A term that is zero on one side only changes by what its zero factors
    changed, in equal parts.
    """
    c0, c1 = before.prod(axis=0), after.prod(axis=0)
    parts = np.zeros_like(before)
    both = (c0 > 0) & (c1 > 0)
    weight = _log_mean(c1[both], c0[both])
    parts[:, both] = weight * (np.log(after[:, both]) - np.log(before[:, both]))
    for side, change in ((before, (c0 == 0) & (c1 > 0)), (after, (c1 == 0) & (c0 > 0))):
        zero = side[:, change] == 0
        parts[:, change] = zero * ((c1 - c0)[change] / np.maximum(zero.sum(axis=0), 1))
    totals: Floats = parts.sum(axis=1)
    return totals


def _log_mean(a: Floats, b: Floats) -> Floats:
    mean = (a + b) / 2
    differs = np.abs(a - b) > 1e-9 * b
    mean[differs] = (a - b)[differs] / (np.log(a) - np.log(b))[differs]
    return mean


@dataclass(frozen=True)
class Spending:
    """What one period cost, by model."""

    seconds: float
    models: Mapping[str, tuple[int, int, int]]  # requests, tokens, nano-dollars: of priced requests

    @property
    def nanousd(self) -> int:
        return sum(row[2] for row in self.models.values())


FACTORS = ("requests", "tokens per request", "model mix", "price")
SHARE, PRICE = 2, 3


def cost_change(before: Spending, after: Spending) -> dict[str, float] | None:
    """Each factor's part in the change of spending per second, relative to `before`: 0.12 is +12 % of the whole. None
    where a period has no spending or no tokens to explain it by."""
    names = sorted(before.models.keys() | after.models.keys())
    factors0, factors1 = _factors(before, names), _factors(after, names)
    if factors0 is None or factors1 is None:
        return None
    for one, other in ((factors0, factors1), (factors1, factors0)):
        absent = one[SHARE] == 0
        one[PRICE, absent] = other[PRICE, absent]  # a model that comes or goes changes the mix, not the price
    whole = before.nanousd / before.seconds
    return dict(zip(FACTORS, (contributions(factors0, factors1) / whole).tolist(), strict=True))


def _factors(spending: Spending, names: list[str]) -> Floats | None:
    """[4, models] requests per second, tokens per request, share of tokens, nano-dollars per token."""
    table: NDArray[np.float64] = np.array([spending.models.get(name, (0, 0, 0)) for name in names], np.float64)
    if not len(names):
        return None
    requests, tokens, nanousd = table.T
    if not (requests.sum() and tokens.sum() and nanousd.sum()) or ((tokens == 0) & (nanousd > 0)).any():
        return None
    ones = np.ones(len(names))
    price = np.divide(nanousd, tokens, out=np.zeros(len(names)), where=tokens > 0)
    return np.array(
        [
            ones * (requests.sum() / spending.seconds),
            ones * (tokens.sum() / requests.sum()),
            tokens / tokens.sum(),
            price,
        ]
    )
