import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from driftline.detectors.base import Floats, Insufficient, TickBatch
from driftline.detectors.bernoulli import (
    ErrorRate,
    Exceedance,
    RateBaseline,
    clopper_pearson,
    quantile_upper,
)
from driftline.detectors.config import BudgetConfig, ErrorRateConfig, ExceedanceConfig

BUDGET = BudgetConfig()


def sessions(n: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.arange(n)


def batch(value: Floats, slot: int = 0) -> TickBatch:
    return TickBatch(np.full(len(value), slot), value, sessions(len(value)))


def error_rate(rate: float = 0.005) -> tuple[ErrorRate, RateBaseline]:
    detector = ErrorRate(ErrorRateConfig(), BUDGET)
    reference = detector.reference()
    errors = np.zeros(2000)
    errors[: round(2000 * rate)] = 1
    reference.add(errors, sessions(2000))
    baseline = detector.fit(reference)
    assert isinstance(baseline, RateBaseline)
    return detector, baseline


def latency() -> tuple[Exceedance, RateBaseline, np.random.Generator]:
    rng = np.random.default_rng(3)
    detector = Exceedance("latency_p99", ExceedanceConfig(), BUDGET)
    reference = detector.reference()
    reference.add(rng.lognormal(6, 0.5, 5000), sessions(5000))
    baseline = detector.fit(reference)
    assert isinstance(baseline, RateBaseline)
    return detector, baseline, rng


def test_golden_evidence_of_the_error_rate() -> None:
    detector, baseline = error_rate()
    detector.open(baseline)
    for tick, bad in enumerate([1, 0, 2, 5, 6, 4, 7, 5]):
        changes = detector.update(batch(np.repeat([1.0, 0.0], [bad, 100 - bad])), tick)
    assert changes.fired == [0]
    measured = detector.measure(0)
    assert measured.log_e == pytest.approx(22.473974, abs=1e-6)
    assert measured.threshold == pytest.approx(21.6757, abs=1e-3)
    assert measured.since_tick == 3
    assert measured.value == pytest.approx(27 / 500)
    assert measured.baseline == pytest.approx(0.005)
    assert measured.effect == pytest.approx(27 / 500 / 0.005 - 1)
    assert (measured.effect_low or 0) < (measured.effect or 0) < (measured.effect_high or 0)
    assert measured.guarantee == "stated"


def test_five_percent_errors_are_found_in_seconds() -> None:
    delays = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        detector, baseline = error_rate()
        detector.open(baseline)
        for tick in range(200):
            assert not detector.update(batch((rng.random(100) < 0.005).astype(float)), tick).fired
        tick = 200
        while not detector.update(batch((rng.random(100) < 0.05).astype(float)), tick).fired:
            tick += 1
        delays.append(tick - 199)
        assert abs((detector.measure(0).since_tick or 0) - 200) <= 5
    assert np.mean(delays) < 7


def test_recovers_once_the_rate_is_back() -> None:
    rng = np.random.default_rng(0)
    detector, baseline = error_rate()
    detector.open(baseline)
    fired = [tick for tick in range(300) if detector.update(batch((rng.random(100) < 0.2).astype(float)), tick).fired]
    assert len(fired) == 1
    well = (batch((rng.random(100) < 0.002).astype(float)) for _ in range(60))
    recovered = [tick for tick, b in enumerate(well, 300) if detector.update(b, tick).recovered]
    assert len(recovered) == 1
    assert detector.measure(0).since_tick is None


def test_twice_the_latency_is_allowed_and_three_times_is_not() -> None:
    detector, baseline, rng = latency()
    assert baseline.typical == pytest.approx(np.exp(6 + 0.5 * 2.326), rel=0.1)
    sample = np.sort(np.random.default_rng(3).lognormal(6, 0.5, 5000))
    assert baseline.cut == 2 * quantile_upper(sample, 0.99, 0.999) > 2 * (baseline.typical or 0)
    detector.open(baseline)
    for tick in range(300):
        assert not detector.update(batch(rng.lognormal(6, 0.5, 50) * 2), tick).fired
    while not detector.update(batch(rng.lognormal(6, 0.5, 50) * 3), tick + 1).fired:
        tick += 1
    assert tick < 400
    assert "99th percentile" in detector.measure(0).note


def test_timeouts_count_as_slow() -> None:
    detector, baseline, _ = latency()
    detector.open(baseline)
    assert detector.update(batch(np.full(20, np.inf)), 0).fired == [0]


def test_too_small_references_say_what_they_need() -> None:
    detector = Exceedance("latency_p99", ExceedanceConfig(), BUDGET)
    reference = detector.reference()
    reference.add(np.ones(100), sessions(100))
    assert detector.fit(reference) == Insufficient("too few sessions to bound the 99th percentile", 100, 2000)
    reference.add(np.full(2000, np.inf), sessions(2000))
    refused = detector.fit(reference)
    assert isinstance(refused, Insufficient)
    assert "timed out" in refused.note


def test_a_reference_without_sessions_or_a_stream_without_them_has_no_guarantee() -> None:
    detector, baseline = error_rate()
    detector.open(baseline)
    detector.update(TickBatch(np.array([0]), np.array([0.0]), np.array([-1])), 0)
    assert detector.measure(0).guarantee == "none"
    detector.reset(0)
    assert detector.measure(0).guarantee == "stated"
    reference = detector.reference()
    reference.add(np.zeros(2000), np.full(2000, -1))
    refused = detector.fit(reference)
    assert isinstance(refused, Insufficient)
    assert "depend on each other" in refused.note
    for _ in range(60 * 30):
        reference.add(np.zeros(2), np.full(2, -1))
    fitted = detector.fit(reference)
    assert isinstance(fitted, RateBaseline)
    assert fitted.guarantee == "none"


def test_long_references_are_thinned_evenly() -> None:
    detector = Exceedance("cost_p99", ExceedanceConfig(), BUDGET)
    whole, parts = detector.reference(), detector.reference()
    values = np.arange(170_001, dtype=np.float64)
    whole.add(values, sessions(len(values)))
    for part in np.array_split(values, 777):
        parts.add(part, sessions(len(part)))
    assert whole.n == parts.n == 170_001
    assert whole.sorted().tolist() == parts.sorted().tolist() == values[::4].tolist()
    assert whole.digest() == parts.digest()


@given(n=st.integers(688, 20_000))
def test_the_bound_of_a_quantile_covers_it(n: int) -> None:
    rank = int(quantile_upper(np.arange(1.0, n + 1), 0.99, 0.999))
    assert binom.sf(rank - 1, n, 0.99) <= 0.001  # the quantile lies above the rank-th value


def test_too_few_values_have_no_bound() -> None:
    with pytest.raises(ValueError, match="687"):
        quantile_upper(np.arange(687.0), 0.99, 0.999)


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (1, 100_000)])
def test_clopper_pearson(k: int, n: int) -> None:
    low, high = clopper_pearson(k, n, 0.025)
    if k:
        assert binom.sf(k - 1, n, low) == pytest.approx(0.025, rel=1e-9)
    else:
        assert low == 0
    if k < n:
        assert binom.cdf(k, n, high) == pytest.approx(0.025, rel=1e-9)
    else:
        assert high == 1
