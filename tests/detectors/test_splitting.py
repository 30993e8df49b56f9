"""Multilevel splitting against the law of Gaussian units, and against plain resampling."""

import math

import numpy as np
import pytest

from driftline.detectors.base import Floats
from driftline.detectors.saddlepoint import quantile
from driftline.detectors.splitting import Sample, Stuck, log_sf, tail, threshold

D = 6


def gaussian(units: int = 20_000) -> Sample:
    """Units whose windows are Gaussian by construction, not by the central limit theorem."""
    rng = np.random.default_rng(3)
    scale = np.array([1, 0.7, 0.5, 0.4, 0.3, 0.2])
    return Sample((rng.normal(size=(units, D)) * scale).astype(np.float32), np.ones(units))


def lumpy(units: int = 2000, seed: int = 4) -> Sample:
    """Sessions of 1 to 8 events on one of thirty topics, some of them rare and far off."""
    rng = np.random.default_rng(seed)
    world = np.random.default_rng(0)
    topics = world.normal(size=(30, D)) * world.lognormal(0, 0.8, (30, 1))
    weights = 1 / np.arange(1, 31)
    topic = rng.choice(30, units, p=weights / weights.sum())
    lengths = rng.integers(1, 9, units).astype(np.float64)
    sums = (topics[topic] + rng.normal(size=(units, D)) * 0.3) * lengths[:, None]
    mu = sums.sum(0) / lengths.sum()
    return Sample((sums - lengths[:, None] * mu).astype(np.float32), lengths)


GAUSSIAN, LUMPY = gaussian(), lumpy()


@pytest.mark.parametrize("log_p", [math.log(1e-3), math.log(1e-6), math.log(5.6e-11)])
def test_gaussian_windows_follow_the_law(log_p: float) -> None:
    q = quantile(log_p, GAUSSIAN.spectrum())
    found = np.mean([log_sf(GAUSSIAN, 32, q, (seed,), 1000) for seed in range(4)])
    assert abs(found - log_p) < math.log(1.5)


def test_agrees_with_plain_resampling() -> None:
    rng = np.random.default_rng(0)
    plain: list[Floats] = []
    for _ in range(20):
        index = rng.integers(0, len(LUMPY.lengths), (10_000, 32))
        sums = LUMPY.sums[index].sum(1)
        plain.append(np.einsum("nd,nd->n", sums, sums) / LUMPY.lengths[index].sum(1))
    found = tail(LUMPY, 32, math.log(1e-3), (1,), 1000)
    assert found.value == pytest.approx(np.quantile(np.concatenate(plain), 1 - 1e-3), rel=0.05)
    assert found.levels[:, 1] == pytest.approx(np.log([0.1, 0.01]), rel=0.1)


def test_threshold_and_probability_are_inverse() -> None:
    log_p = math.log(1e-8)
    q = float(np.mean([tail(LUMPY, 64, log_p, (seed,), 1000).value for seed in range(3)]))
    assert np.mean([log_sf(LUMPY, 64, q, (seed,), 1000) for seed in range(3, 6)]) == pytest.approx(log_p, abs=0.7)
    assert log_sf(LUMPY, 64, 1e-9, (2,), 1000) == pytest.approx(0, abs=1e-6)


def test_lumpy_windows_need_more_than_the_law_and_a_sample_more_than_its_own() -> None:
    log_p = math.log(5.6e-11)
    law = quantile(log_p, LUMPY.spectrum())
    found = threshold(LUMPY, 32, LUMPY.spectrum(), log_p, (7,), 1000)
    assert found is not None
    assert found.value > 1.1 * law
    assert log_sf(lumpy(20_000, seed=5), 32, found.value, (3,), 1000) < log_p
    assert log_sf(lumpy(20_000, seed=5), 32, law, (3,), 1000) > log_p + math.log(3)
    assert (np.diff(found.levels, axis=0) * (1, -1) > 0).all()


def test_a_wider_reference_widens_the_threshold() -> None:
    log_p = math.log(1e-6)
    spectrum = GAUSSIAN.spectrum()
    plain = threshold(GAUSSIAN, 32, spectrum, log_p, (7,), 500)
    wide = threshold(GAUSSIAN, 32, 2 * spectrum, log_p, (7,), 500)
    assert plain is not None
    assert wide is not None
    assert wide.value == pytest.approx(2 * plain.value)


def test_the_same_seed_gives_the_same_bits() -> None:
    assert tail(LUMPY, 16, -15, (1, 2), 200).value == tail(LUMPY, 16, -15, (1, 2), 200).value
    assert tail(LUMPY, 16, -15, (1, 2), 200).value != tail(LUMPY, 16, -15, (1, 3), 200).value


def test_too_few_different_units_are_refused() -> None:
    """Windows of one unit reach one of three values: none has a probability below 1/3."""
    rows = np.eye(3, D, dtype=np.float32) * np.arange(1, 4, dtype=np.float32)[:, None]
    sample = Sample(np.repeat(rows, 200, axis=0), np.ones(600))
    with pytest.raises(Stuck, match="600 units"):
        tail(sample, 1, -15, (0,), 200)
    assert threshold(sample, 1, sample.spectrum(), -15, (0,), 200) is None
    assert log_sf(sample, 1, 100, (0,), 200) == pytest.approx(math.log(1 / 3), abs=0.3)
