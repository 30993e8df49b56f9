import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.detectors.ddsketch import DDSketch
from driftline.detectors.state import pack, unpack

VALUES = st.lists(st.one_of(st.just(0.0), st.floats(1e-9, 1e9)), min_size=1, max_size=200)


@given(VALUES, st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]))
def test_quantiles_are_within_one_percent(values: list[float], q: float) -> None:
    sketch = DDSketch()
    sketch.add(values)
    exact = np.quantile(values, q, method="lower")
    assert sketch.quantile(q) == pytest.approx(exact, rel=0.01 + 1e-9)


@given(VALUES, st.integers(0, 200), st.randoms(use_true_random=False))
def test_depends_on_the_values_alone(values: list[float], at: int, random: object) -> None:
    whole = DDSketch()
    whole.add(values)
    first, second = DDSketch(), DDSketch()
    backwards = values[::-1]
    for value in backwards[:at]:
        first.add(value)
    second.add(backwards[at:])
    first.merge(second)
    assert pack(first.snapshot()) == pack(whole.snapshot())
    assert first.sum == whole.sum == math.fsum(values)
    assert first.count == len(values)


@given(VALUES, VALUES)
def test_goes_on_from_a_snapshot(before: list[float], after: list[float]) -> None:
    sketch = DDSketch()
    sketch.add(before)
    restored = DDSketch(unpack(pack(sketch.snapshot())))
    for s in (sketch, restored):
        s.add(after)
    assert pack(sketch.snapshot()) == pack(restored.snapshot())
    assert sketch.quantile(0.99) == restored.quantile(0.99)


def test_lognormal_against_numpy() -> None:
    values = np.random.default_rng(0).lognormal(6, 1, 100_000)
    sketch = DDSketch()
    sketch.add(values)
    for q in (0.5, 0.9, 0.95, 0.99, 0.999):
        assert sketch.quantile(q) == pytest.approx(np.quantile(values, q), rel=0.0101)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_refuses_what_is_not_finite_and_positive(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        DDSketch().add([1.0, value])


def test_empty() -> None:
    sketch = DDSketch()
    sketch.add([])
    assert sketch.count == 0
    assert sketch.sum == 0
    with pytest.raises(ValueError, match="empty"):
        sketch.quantile(0.5)


def test_extremes() -> None:
    sketch = DDSketch()
    sketch.add([5e-324, 1e300, 1e300])
    assert sketch.quantile(0) == 0
    assert sketch.quantile(1) == pytest.approx(1e300, rel=0.01)
    assert DDSketch(sketch.snapshot()).sum == 2e300


def test_how_many_lie_above() -> None:
    sketch = DDSketch()
    assert sketch.above(1.0) == 0
    sketch.add([0.0, 0.5, 90.0, 97.0, 103.0, 110.0, 1e6])
    assert sketch.above(100.0) == 3
    assert sketch.above(1e-9) == 6
    assert sketch.above(2e6) == 0
    other = DDSketch()
    other.add([200.0] * 5)
    sketch.merge(other)
    assert sketch.above(100.0) == 8
