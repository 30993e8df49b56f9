import numpy as np
import pytest
from scipy.stats import chi2

from driftline.detectors.base import Floats
from driftline.detectors.saddlepoint import log_sf, quantile

GEOMETRIC: Floats = 2.0 ** -np.arange(10.0)


@pytest.mark.parametrize(
    ("q", "expected"),
    [(float(GEOMETRIC.sum()), -1.020543), (4, -2.288110), (10, -5.708329), (20, -11.029137), (30, -16.218025)],
)
def test_golden_values(q: float, expected: float) -> None:
    assert log_sf(q, GEOMETRIC) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("df", [5, 50, 384])
@pytest.mark.parametrize("p", [0.5, 1e-3, 1e-6, 1e-11])
def test_equal_weights_are_a_chi_square(df: int, p: float) -> None:
    assert log_sf(float(chi2.isf(p, df)), np.ones(df)) == pytest.approx(np.log(p), abs=0.02)


def test_no_rounding_noise_near_the_mean() -> None:
    mean = float(GEOMETRIC.sum())
    around = [log_sf(mean * (1 + e), GEOMETRIC) for e in (-2e-3, -1e-4, -1e-8, 0, 1e-8, 1e-4, 2e-3)]
    assert np.ptp(around) < 0.012  # the value at the mean is of first order in the skewness, r* beside it of third


@pytest.mark.parametrize("log_p", [-0.01, -1.0, -5.0, -23.6, -40.0])
@pytest.mark.parametrize("weights", [GEOMETRIC, np.ones(1), np.concatenate([np.ones(3), np.full(300, 1e-9)])])
def test_quantile_inverts(log_p: float, weights: Floats) -> None:
    assert log_sf(quantile(log_p, weights), weights) == pytest.approx(log_p, abs=1e-7)
