import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.detectors.samples import Thinned
from driftline.detectors.state import pack, unpack

D = 5
ROWS = np.random.default_rng(0).normal(size=(2000, D)) * np.random.default_rng(1).lognormal(0, 2, (2000, 1))


def added(n: int, step: int, limit: int) -> Thinned:
    sample = Thinned(D)
    for start in range(0, n, step):
        part = slice(start, min(n, start + step))
        sample.add(ROWS[part], np.arange(2000)[part])
        sample.thin(limit)
        restored = Thinned(D)
        restored.restore(unpack(pack(sample.snapshot())))
        sample = restored
    return sample


@settings(max_examples=30)
@given(n=st.integers(0, 2000), step=st.integers(20, 2000), limit=st.integers(1, 300))
def test_is_even_bounded_and_does_not_depend_on_batches(n: int, step: int, limit: int) -> None:
    rows, numbers = added(n, step, limit).rows()
    stride = 1
    while -(-n // stride) > limit:
        stride *= 2
    assert numbers.tolist() == list(range(0, n, stride))
    kept = ROWS[numbers]
    assert (np.abs(rows - kept) <= np.abs(kept).max(1, initial=0)[:, None] / 250).all()


def test_zeros_stay_zeros_and_a_copy_stands_alone() -> None:
    sample = Thinned(D)
    sample.add(np.zeros((3, D)), np.arange(3))
    copy = sample.copy()
    copy.add(np.ones((1, D)), np.arange(1))
    assert len(sample) == 3
    assert sample.rows()[0] == pytest.approx(0)
    assert copy.rows()[0][3] == pytest.approx(1)
