import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc

from driftline.detectors.betting import MeanProcess, Ranks, RateProcess, SplitProcess, log_beta_lower, log_beta_upper


def rates(rho: float, canary: int, stable: int) -> RateProcess:
    process = RateProcess()
    process.add(rho, True, canary)
    process.add(rho, False, stable)
    return process


@pytest.mark.parametrize(
    ("rho", "canary", "stable", "expected", "tolerance"),
    [
        (0.1, 12, 40, 2.906409, 1e-6),
        (0.1, 5, 45, -0.805041, 1e-6),
        (0.1, 0, 400, -3.816491, 1e-6),
        (0.1, 0, 3000, -5.812139, 1e-5),
        (0.5, 0, 3000, -7.106157, 1e-5),
    ],
)
def test_golden_harm_by_counts(rho: float, canary: int, stable: int, expected: float, tolerance: float) -> None:
    assert rates(rho, canary, stable).log_harm() == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(
    ("a", "b", "x", "expected"), [(1, 409, 0.1, -43.092451), (1, 3009, 0.1, -317.029792), (5, 3005, 0.5, -2056.821129)]
)
def test_golden_tails(a: float, b: float, x: float, expected: float) -> None:
    assert log_beta_upper(a, b, x) == pytest.approx(expected, abs=1e-5)


@given(a=st.floats(0.5, 200), b=st.floats(0.5, 200), x=st.floats(0.01, 0.99))
def test_tails_are_those_of_scipy_where_it_does_not_underflow(a: float, b: float, x: float) -> None:
    lower = float(betainc(a, b, x))
    if 1e-250 < lower < 1 - 1e-9:
        assert log_beta_lower(a, b, x) == pytest.approx(np.log(lower), rel=1e-9)
        assert np.exp(log_beta_lower(a, b, x)) + np.exp(log_beta_upper(a, b, x)) == pytest.approx(1)


def test_shares_multiply() -> None:
    both = rates(0.1, 12, 40)
    both.add(0.5, True, 9)
    both.add(0.5, False, 4)
    assert both.log_harm() == pytest.approx(rates(0.1, 12, 40).log_harm() + rates(0.5, 9, 4).log_harm())


def test_equal_rates_are_not_harm_and_become_fine() -> None:
    process = rates(0.5, 400, 400)
    assert process.log_harm() < 0
    assert process.log_fine(1.5) > np.log(20)
    assert rates(0.5, 600, 400).log_fine(1.5) < 0


def test_golden_split() -> None:
    process = SplitProcess()
    process.add(0.1, True, 1200)
    process.add(0.1, False, 8800)
    assert process.log_e == pytest.approx(10.408957, abs=1e-6)


def test_golden_means() -> None:
    process = MeanProcess(0, 0.03)
    process.add(np.array([0.9, 0.2, 0.8, 0.1, 0.7, 0.3]), np.array([0.0, 1, 0, 1, 0, 1]), np.full(6, 0.5))
    assert process.log_harm == pytest.approx(1.070946, abs=1e-6)
    assert process.log_fine == pytest.approx(-0.453862, abs=1e-6)
    assert process.units == [3, 3]


@pytest.mark.parametrize(("tolerance", "expected"), [(0.0, 13.336624), (0.05, 10.001097)])
def test_golden_means_of_a_small_share(tolerance: float, expected: float) -> None:
    canary = (np.arange(200) % 10 == 0).astype(float)
    process = MeanProcess(tolerance, 0.03)
    process.add(np.where(canary, 0.5, 0.8), canary, np.full(200, 0.1))
    assert process.log_harm == pytest.approx(expected, abs=1e-6)
    assert process.log_fine == pytest.approx(-0.645500, abs=1e-6)


@given(
    units=st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.sampled_from([0.01, 0.1, 0.5, 0.9])), max_size=60),
    cut=st.integers(0, 60),
)
def test_means_do_not_depend_on_batches_and_stay_finite(units: list[tuple[float, bool, float]], cut: int) -> None:
    s, canary, rho = (np.array([unit[i] for unit in units], np.float64) for i in range(3))
    whole, parts = MeanProcess(0, 0.03), MeanProcess(0, 0.03)
    whole.add(s, canary, rho)
    parts.add(s[:cut], canary[:cut], rho[:cut])
    parts.add(s[cut:], canary[cut:], rho[cut:])
    assert np.isfinite(whole.log_harm)
    assert np.isfinite(whole.log_fine)
    assert (whole.log_harm, whole.log_fine) == (parts.log_harm, parts.log_fine)


def test_evidence_for_harm_is_rare_without_harm() -> None:
    """P(E ever reaches 20) is at most 5 %: 400 runs of 500 units, under a share that changes and a trend in both."""
    rng = np.random.default_rng(0)
    crossed = 0
    for _ in range(400):
        process = MeanProcess(0, 0.03)
        rho = np.where(np.arange(500) < 200, 0.1, 0.5)
        s = np.clip(rng.beta(2, 2, 500) - np.linspace(0, 0.3, 500), 0, 1)
        canary = (rng.random(500) < rho).astype(float)
        for start in range(0, 500, 20):
            part = slice(start, start + 20)
            process.add(s[part], canary[part], rho[part])
            if process.log_harm >= np.log(20):
                crossed += 1
                break
    assert crossed <= 20 + 2.33 * np.sqrt(19)


def test_ranks() -> None:
    ranks = Ranks(np.array([1.0, 2, 2, 3]))
    assert ranks.of(np.array([0.0, 1, 2, 2.5, 3, np.inf])).tolist() == [0, 0.125, 0.5, 0.75, 0.875, 1]
    pooled = Ranks(None)
    assert pooled.of(np.array([5.0, 1.0])).tolist() == [0.5, 0.5]
    assert pooled.of(np.array([3.0])).tolist() == [0.5]
    assert pooled.of(np.array([0.0, 9.0])).tolist() == [0, 1]


def test_shares_beyond_fifty_are_not_told_apart() -> None:
    process = SplitProcess()
    for n in range(5_000):
        process.add((n + 1) / 10_000, canary=False)
    assert len(process.snapshot()["counts"]) == 50
    process.add(0.0001, canary=True)
    assert process.snapshot()["counts"][0] == [0.0001, 1, 1]
