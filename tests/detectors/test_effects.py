import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from scipy.stats import mannwhitneyu, wasserstein_distance

from driftline.detectors import effects
from driftline.detectors.base import Floats
from driftline.detectors.effects import LIMIT, Texts, auc, compare, frechet, sliced_w1

D = 12


def texts(seed: int, sessions: int = 120, shift: float = 0.0, spread: float = 1.0) -> Texts:
    """Sessions of four texts that stay near a place of their own."""
    rng = np.random.default_rng(seed)
    session: NDArray[np.uint64] = np.repeat(rng.integers(1, 2**60, sessions).astype(np.uint64), 4)
    places = np.repeat(rng.normal(size=(sessions, D)), 4, axis=0)
    return Texts(spread * (places + 0.3 * rng.normal(size=(4 * sessions, D))) + shift, session)


def test_equal_samples_are_equal_although_sessions_stay_on_topic() -> None:
    """As if all texts were independent, p would be tiny."""
    found = [compare(texts(seed, 40), texts(seed + 1, 40)) for seed in range(1000, 1040, 2)]
    assert sum(effect.p <= 0.05 for effect in found) <= 2
    assert sum(effect.mmd2_low <= 0 <= effect.mmd2_high for effect in found) >= 18
    assert np.mean([effect.auc for effect in found]) == pytest.approx(0.5, abs=0.05)
    assert abs(np.mean([effect.mmd2 for effect in found])) < 0.004


@pytest.mark.parametrize(("shift", "spread"), [(0.6, 1.0), (0.0, 1.8)])
def test_other_samples_are_other(shift: float, spread: float) -> None:
    moved = texts(1, shift=shift, spread=spread)
    same, other = compare(texts(1), texts(2)), compare(moved, texts(2))
    assert other.p == 0.001
    assert other.mmd2_low > 0
    assert other.sliced_w1 > 1.5 * same.sliced_w1
    assert other.frechet is not None
    assert same.frechet is not None
    assert other.frechet > 2 * same.frechet
    assert (other.auc > 0.7) == bool(shift)
    assert compare(moved, texts(2)) == other


def test_the_mmd_is_that_over_pairs_of_different_sessions() -> None:
    a, b = texts(1, 15), texts(2, 12, shift=0.5)
    x = np.concatenate([a.vectors, b.vectors])
    squared = ((x[:, None] - x) ** 2).sum(2)
    median = np.median(squared[np.triu_indices(len(x), 1)])
    kernel = sum(np.exp(-squared / (2 * f**2 * median)) for f in (0.5, 1, 2)) / 3
    n = len(a.vectors)

    def mean(block: Floats, one: Texts) -> float:
        return float(block[one.session[:, None] != one.session].mean())

    expected = mean(kernel[:n, :n], a) + mean(kernel[n:, n:], b) - 2 * kernel[:n, n:].mean()
    assert compare(a, b).mmd2 == pytest.approx(expected, rel=1e-10)


def test_against_scipy() -> None:
    a, b = texts(1).vectors, texts(2, 90, shift=0.2).vectors
    directions = np.random.Generator(np.random.Philox(effects._SEED)).normal(size=(D, 128))
    directions /= np.linalg.norm(directions, axis=0)
    distances = [wasserstein_distance(a @ w, b @ w) for w in directions.T]
    assert sliced_w1(a, b) == pytest.approx(np.mean(distances), rel=1e-10)
    one, two = np.cov(a[:360], rowvar=False), np.cov(b, rowvar=False)
    apart = a[:360].mean(0) - b.mean(0)
    expected = apart @ apart + np.trace(one + two - 2 * sqrtm(one @ two).real)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-6)
    scores = np.round(a[:, 0], 1), np.round(b[:, 0], 1)
    assert auc(*scores) == pytest.approx(mannwhitneyu(*scores).statistic / (len(a) * len(b)), rel=1e-12)


def test_too_little_is_said_and_too_much_thinned() -> None:
    with pytest.raises(ValueError, match="the current period has fewer than 10 sessions"):
        compare(texts(1, 9), texts(2))
    many = texts(1, 2000).thinned()
    assert LIMIT - 4 < len(many.vectors) <= LIMIT
    assert set(np.unique(many.session, return_counts=True)[1]) == {4}
    few = compare(texts(1, 10), texts(2, 10))
    assert few.frechet is not None
    assert compare(Texts(np.hstack([texts(1, 10).vectors] * 2), texts(1, 10).session),
                   Texts(np.hstack([texts(2, 10).vectors] * 2), texts(2, 10).session)).frechet is None  # fmt: skip


def test_identical_texts_are_no_drift() -> None:
    one = texts(1)
    found = compare(Texts(np.ones((480, D)), one.session), Texts(np.ones((480, D)), texts(2).session))
    assert found.mmd2 == pytest.approx(0, abs=1e-12)
    assert found.auc == 0.5
    assert found.p == 1
