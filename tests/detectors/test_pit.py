import math

import numpy as np
import pytest
from scipy.stats import kstest, norm

from driftline.detectors.base import Floats, Insufficient, TickBatch
from driftline.detectors.config import BudgetConfig, DetectorsConfig, PitConfig, RecoveryConfig
from driftline.detectors.pit import BOTH, Pit, PitBaseline, histogram, law_of, tail_excess
from driftline.detectors.registry import make
from driftline.detectors.state import pack, unpack

BUDGET = BudgetConfig()


def pit(reference: Floats, recovery: RecoveryConfig | None = None) -> tuple[Pit, PitBaseline]:
    config = PitConfig(min_units=500, recovery=recovery or RecoveryConfig())
    return opened(Pit("scalar_drift", config, BUDGET, scale="ratio"), reference)


def scores(reference: Floats) -> tuple[Pit, PitBaseline]:
    config = PitConfig(min_units=500)
    return opened(Pit("quality_pit", config, BUDGET, scale="difference", high=1.0, falls=True), reference)


def opened(detector: Pit, values: Floats) -> tuple[Pit, PitBaseline]:
    reference = detector.reference()
    reference.add(values, np.arange(len(values)))
    baseline = detector.fit(reference)
    assert isinstance(baseline, PitBaseline)
    detector.open(baseline)
    return detector, baseline


def batch(value: Floats, session: int | None = None) -> TickBatch:
    sessions = np.arange(len(value)) if session is None else np.full(len(value), session)
    return TickBatch(np.zeros(len(value), np.intp), value, sessions)


def lognormal(rng: np.random.Generator, n: int, times: float = 1.0, sigma: float = 1.0) -> Floats:
    return times * rng.lognormal(6, sigma, n)


CONTINUOUS = np.sort(lognormal(np.random.default_rng(0), 3000))
SAMPLES = {
    "continuous": CONTINUOUS,
    "counts": np.sort(np.random.default_rng(0).poisson(3, 3000).astype(np.float64)),
    "two values": np.repeat([1.0, 2.0], [2900, 100]),
    "constant": np.full(3000, 7.0),
    "a heavy end": np.sort(np.where(np.arange(3000) < 100, 1e300, CONTINUOUS)),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_every_statistic_has_a_mean_of_zero_over_the_reference(name: str) -> None:
    """Of mass points too: by the middle of its rank, a constant would have (3z^2 - 1)/2 = -1/2."""
    edges, counts = histogram(SAMPLES[name])
    assert counts.sum() == len(SAMPLES[name])
    law = law_of(BOTH, edges, counts.astype(np.float64), np.ones(len(BOTH)), len(SAMPLES[name]))
    np.testing.assert_allclose(counts @ law.h / counts.sum(), 0, atol=1e-12)
    bins = np.searchsorted(edges, SAMPLES[name], side="right")
    assert (np.bincount(bins, minlength=len(counts)) == counts).all()
    assert (np.exp(law.table) > 0.05).all()
    assert (counts / counts.sum() @ np.exp(law.table) <= 1).all()


def test_bins_are_those_of_the_ranks() -> None:
    """Between continuous values the table is that of h at the rank, and eps is four standard errors and what n units
    may all have missed."""
    edges, counts = histogram(CONTINUOUS)
    n = len(CONTINUOUS)
    law = law_of(BOTH, edges, counts.astype(np.float64), np.ones(len(BOTH)), n)
    z = 2 * (np.cumsum(counts) - counts / 2) / n - 1
    exact = [z, -z, (3 * z**2 - 1) / 2, -(3 * z**2 - 1) / 2, (5 * z**3 - 3 * z) / 2, -(5 * z**3 - 3 * z) / 2]
    np.testing.assert_allclose(law.h[:, :6], np.stack(exact, axis=1), atol=2e-4)
    rank = (z + 1) / 2
    for column, share in zip((6, 7, 8), (0.95, 0.99, 0.999), strict=True):
        np.testing.assert_allclose(law.h[:, column], (rank > share) - (1 - share), atol=1e-12)
    sd = np.sqrt(1 / np.array([3, 3, 5, 5, 7, 7]))
    np.testing.assert_allclose(law.eps[:6], 4 * sd / math.sqrt(n) + 10.36 / n, rtol=1e-3)
    least = np.array([1, 1, 0.5, 1, 1, 1])
    for i, bet in ((0, 0.03), (3, 0.8), (11, 0.8)):
        expected = np.log1p(bet / least[i // 4] * (law.h[:, i // 4] - law.eps[i // 4]))
        np.testing.assert_allclose(law.table[:, i], expected, atol=1e-12)


def test_the_bound_of_the_tails_covers_their_probability() -> None:
    """Above the second largest of 2,000 lies more than the bound in three of 100,000 references. Four standard errors
    (.0038) would miss it in four of 1,000."""
    above = np.random.default_rng(0).beta(2, 1999, 100_000)
    assert (above > 0.001 + tail_excess(2000, 0.001)).mean() <= 1e-4
    assert (above > 0.001 + 4 * math.sqrt(0.001 / 2000)).mean() > 3e-3


@pytest.mark.parametrize(
    ("times", "sigma", "aim", "moved"),
    [(1.25, 1.0, 12, "higher"), (0.8, 1.0, 12, "lower"), (1.0, 1.3, 6, "ore "), (1.1, 1.0, 65, "higher")],
)
def test_finds_changes_as_soon_as_designed(times: float, sigma: float, aim: int, moved: str) -> None:
    """Ticks of 100 units at the default budget, against a reference as large as makes no difference."""
    delays = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        detector = Pit("scalar_drift", PitConfig(), BUDGET, scale="ratio")
        edges, counts = histogram(np.exp(6 + np.sort(rng.normal(size=200_000))))
        detector.open(
            PitBaseline(
                id="r",
                n=200_000,
                guarantee="stated",
                edges=edges.tolist(),
                counts=counts.tolist(),
                deffs=[1.0] * len(BOTH),
                center=math.exp(6),
                typical=6.0,
                detectable=None,
            )
        )
        for tick in range(20):
            detector.update(batch(lognormal(rng, 100)), tick)
        after = (t for t in range(400) if detector.update(batch(lognormal(rng, 100, times, sigma)), 20 + t).fired)
        delays.append(next(after) + 1)
        measured = detector.measure(0)
        assert measured.since_tick is not None
        assert measured.since_tick >= 5
        assert moved in measured.note
    assert np.median(delays) <= 1.35 * aim


def test_says_how_much_moved() -> None:
    rng = np.random.default_rng(0)
    detector, _ = pit(lognormal(rng, 5000))
    for tick in range(100):
        if detector.update(batch(lognormal(rng, 100, 1.5)), tick).fired:
            break
    measured = detector.measure(0)
    assert measured.baseline == pytest.approx(math.exp(6), rel=0.05)
    assert measured.value == pytest.approx(1.5 * math.exp(6), rel=0.12)
    assert measured.effect is not None
    assert measured.effect_low is not None
    assert measured.effect_high is not None
    assert measured.effect_low < 0.5 < measured.effect_high
    assert measured.effect == pytest.approx(0.5, abs=0.2)


def test_time_outs_are_the_highest_values() -> None:
    rng = np.random.default_rng(0)
    detector, _ = pit(lognormal(rng, 5000))

    def answers(n: int, lost: float) -> Floats:
        return np.where(rng.random(n) < lost, np.inf, lognormal(rng, n))

    assert not any(detector.update(batch(answers(100, 0)), tick).fired for tick in range(50))
    assert any(detector.update(batch(answers(100, 0.03)), 50 + tick).fired for tick in range(20))
    measured = detector.measure(0)
    assert "among the highest" in measured.note
    assert measured.value is not None
    assert math.isfinite(measured.value)
    timed_out, _ = pit(np.where(np.arange(5000) % 50 == 0, np.inf, lognormal(rng, 5000)))
    assert not any(timed_out.update(batch(answers(100, 0.02)), tick).fired for tick in range(100))


def test_scores_alarm_only_when_they_fall() -> None:
    rng = np.random.default_rng(0)
    detector, baseline = scores(rng.beta(8, 2, 5000))
    assert baseline.detectable is not None
    assert -0.1 < baseline.detectable < 0
    better = (detector.update(batch(np.sqrt(rng.beta(8, 2, 10))), tick).fired for tick in range(500))
    assert not any(better)
    delay = next(t for t in range(100) if detector.update(batch(rng.beta(8, 2, 10) * 0.8), 500 + t).fired)
    assert delay <= 15
    measured = detector.measure(0)
    assert "lower" in measured.note
    assert measured.effect == pytest.approx(-0.2, abs=0.06)
    assert measured.effect_high is not None
    assert measured.effect_high < -0.1


def test_bimodal_scores_whose_mean_test_is_blind() -> None:
    """84 % near 0, 8 % near 1, as real judges give; the model that gives half as many good answers is found."""
    rng = np.random.default_rng(0)

    def judged(n: int, good: float) -> Floats:
        return np.where(rng.random(n) < good, rng.uniform(0.5, 1, n), rng.uniform(0, 0.05, n) * (0.5 + 5 * good))

    detector, _ = scores(judged(5000, 0.08))
    assert not any(detector.update(batch(judged(10, 0.08)), tick).fired for tick in range(300))
    delay = next(t for t in range(300) if detector.update(batch(judged(10, 0.02)), 300 + t).fired)
    assert delay <= 40


def test_recovers_when_it_is_over_and_not_before() -> None:
    rng = np.random.default_rng(0)
    detector, _ = pit(lognormal(rng, 5000), RecoveryConfig(min_open_s=1))
    start = next(t for t in range(100) if detector.update(batch(lognormal(rng, 100, 1.5)), t).fired)
    assert not any(detector.update(batch(lognormal(rng, 100, 1.5)), start + 1 + t).recovered for t in range(300))
    over = next(t for t in range(300) if detector.update(batch(lognormal(rng, 100)), start + 400 + t).recovered)
    assert over <= 20
    assert detector.measure(0).since_tick is None


def test_restores_in_the_middle_of_an_incident() -> None:
    rng = np.random.default_rng(0)
    detector, _ = pit(lognormal(rng, 5000), RecoveryConfig(min_open_s=1))
    start = next(t for t in range(100) if detector.update(batch(lognormal(rng, 100, 1.5)), t).fired)
    other = make("scalar_drift", DetectorsConfig(scalar_drift=PitConfig(recovery=RecoveryConfig(min_open_s=1))))
    other.restore(unpack(pack(detector.snapshot())))
    for tick in range(start + 1, start + 60):
        units = batch(lognormal(rng, 30))
        assert other.update(units, tick) == detector.update(units, tick)
    assert other.measure(0) == detector.measure(0)
    assert pack(other.snapshot()) == pack(detector.snapshot())


def test_a_common_value_has_a_bin_of_its_own() -> None:
    rng = np.random.default_rng(0)
    detector, baseline = pit(np.where(rng.random(5000) < 0.3, 128.0, rng.integers(1, 1000, 5000)))
    assert 128.0 in baseline.edges
    assert np.nextafter(128.0, 200) in baseline.edges
    fired = (detector.update(batch(np.where(rng.random(100) < 0.5, 128.0, rng.integers(1, 1000, 100))), t).fired
             for t in range(100))  # fmt: skip
    assert any(fired)


def test_too_small_references_are_refused() -> None:
    detector = Pit("scalar_drift", PitConfig(), BUDGET, scale="ratio")
    reference = detector.reference()
    reference.add(np.ones(100), np.arange(100))
    refused = detector.fit(reference)
    assert isinstance(refused, Insufficient)
    assert (refused.have, refused.need) == (100, PitConfig().min_units)


def test_a_baseline_is_small_and_large_references_stay_so() -> None:
    """And all of their units count, also those that are not in the sample."""
    rng = np.random.default_rng(0)
    detector, baseline = pit(lognormal(rng, 100_000))
    assert sum(baseline.counts) == 100_000
    assert len(pack({"baseline": [baseline.edges, baseline.counts]})) < 4096
    straight = resumed = detector.reference()
    for i in range(30):
        values = lognormal(rng, 10_000) * (2 if i else 1)  # it became slower after the sample was full
        if i in (0, 1, 20):
            resumed = detector.reference(unpack(pack(straight.snapshot())))
        straight.add(values, np.arange(10_000))
        resumed.add(values, np.arange(10_000))
    assert pack(straight.snapshot()) == pack(resumed.snapshot())
    assert len(pack(straight.snapshot())) < 70_000
    learned = detector.fit(straight)
    assert not isinstance(learned, Insufficient)
    assert sum(learned.counts) == 300_000
    shares = np.cumsum(learned.counts) / 300_000
    edges = np.array(learned.edges)
    expected = (norm.cdf(np.log(edges) - 6) + 29 * norm.cdf(np.log(edges / 2) - 6)) / 30
    assert np.abs(shares[:-1] - expected).max() < 0.005


def test_the_sample_is_of_the_whole_reference() -> None:
    rng = np.random.default_rng(0)
    reference = pit(lognormal(rng, 5000))[0].reference()
    for _ in range(30):
        reference.add(lognormal(rng, 10_000), np.arange(10_000))
    assert kstest(np.log(reference.sorted()) - 6, "norm").pvalue > 1e-3


def test_without_sessions_dependence_weakens_the_evidence() -> None:
    """Sixteen equal values in a row are one. Evidence is divided by about that, and nothing is promised."""
    rng = np.random.default_rng(0)
    detector = Pit("scalar_drift", PitConfig(), BUDGET, scale="ratio")
    reference = detector.reference()

    def runs(n: int) -> Floats:
        return np.repeat(lognormal(rng, n // 16), 16)

    seen = 0
    while isinstance(baseline := detector.fit(reference), Insufficient):
        values = runs(160)
        reference.add(values, np.full(len(values), -1))
        seen += 1
    assert seen >= 30 * 60
    assert baseline.guarantee == "none"
    assert 11 < baseline.deff < 24
    detector.open(baseline)
    assert not any(detector.update(batch(runs(160), -1), tick).fired for tick in range(300))
    assert "deff" in detector.measure(0).note
    fired = next(t for t in range(300) if detector.update(batch(1.5 * runs(160), -1), 300 + t).fired)
    assert fired > 20
    assert detector.measure(0).guarantee == "none"
