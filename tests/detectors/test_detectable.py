import math

import pytest

from driftline.detectors.config import BudgetConfig
from driftline.detectors.detectable import detectable_rate


def test_a_rate_is_found_when_its_evidence_reaches_the_threshold() -> None:
    budget = BudgetConfig()
    rate = detectable_rate(0.01, 1_000, budget)
    assert rate is not None
    divergence = rate * math.log(rate / 0.01) + (1 - rate) * math.log((1 - rate) / 0.99)
    assert 1_000 * divergence == pytest.approx(budget.threshold + 2, rel=1e-3)
    assert 0.01 < detectable_rate(0.01, 10_000, budget) < rate  # type: ignore[operator]


def test_a_few_units_find_nothing() -> None:
    assert detectable_rate(0.01, 3, BudgetConfig()) is None
    assert detectable_rate(0.01, 6, BudgetConfig()) is not None
