import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.detectors.attribution import Spending, contributions, cost_change

amounts = st.one_of(st.just(0.0), st.floats(1e-6, 1e6))


@given(st.integers(1, 6).flatmap(lambda m: st.lists(st.lists(amounts, min_size=m, max_size=m), min_size=8, max_size=8)))
def test_contributions_sum_to_the_change(rows: list[list[float]]) -> None:
    before, after = np.array(rows[:4]), np.array(rows[4:])
    change = after.prod(axis=0).sum() - before.prod(axis=0).sum()
    scale = max(after.prod(axis=0).sum(), before.prod(axis=0).sum())
    assert math.isclose(contributions(before, after).sum(), change, rel_tol=1e-9, abs_tol=1e-9 * scale)


def test_one_factor_alone_takes_the_whole_change() -> None:
    before, after = np.array([[2.0, 2.0], [3.0, 5.0]]), np.array([[4.0, 4.0], [3.0, 5.0]])
    assert contributions(before, after) == pytest.approx([16, 0])


def test_two_factors_by_hand() -> None:
    # 10 x 1 -> 20 x 2: both doubled, so both carry half of the 30.
    assert contributions(np.array([[10.0], [1.0]]), np.array([[20.0], [2.0]])) == pytest.approx([15, 15])


@given(st.integers(2, 50), st.integers(1, 50))
def test_the_period_s_length_does_not_matter(longer: int, requests: int) -> None:
    hour = Spending(3_600, {"m": (requests, requests * 100, requests * 1_000)})
    longer_ = Spending(3_600 * longer, {"m": tuple(longer * n for n in hour.models["m"])})  # type: ignore[dict-item]
    change = cost_change(longer_, hour)
    assert change is not None
    assert list(change.values()) == pytest.approx([0, 0, 0, 0], abs=1e-12)


def test_what_moved_is_named() -> None:
    before = Spending(60, {"small": (100, 10_000, 1_000_000)})
    longer = cost_change(before, Spending(60, {"small": (100, 14_000, 1_400_000)}))
    dearer = cost_change(before, Spending(60, {"small": (100, 10_000, 1_500_000)}))
    swapped = cost_change(before, Spending(60, {"large": (100, 10_000, 3_000_000)}))
    assert longer == pytest.approx({"requests": 0, "tokens per request": 0.4, "model mix": 0, "price": 0})
    assert dearer == pytest.approx({"requests": 0, "tokens per request": 0, "model mix": 0, "price": 0.5})
    assert swapped == pytest.approx({"requests": 0, "tokens per request": 0, "model mix": 2, "price": 0})


def test_without_tokens_or_spending_there_is_no_explanation() -> None:
    some = Spending(60, {"m": (1, 10, 100)})
    for other in (Spending(60, {}), Spending(60, {"m": (1, 0, 100)}), Spending(60, {"m": (1, 10, 0)})):
        assert cost_change(some, other) is None
        assert cost_change(other, some) is None
