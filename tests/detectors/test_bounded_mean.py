import numpy as np
import pytest

from driftline.detectors.base import Floats, Insufficient, TickBatch
from driftline.detectors.bounded_mean import MeanBaseline, Quality, mean_lower, scores_needed
from driftline.detectors.config import BudgetConfig, QualityConfig

BUDGET = BudgetConfig()


def quality(scores: Floats, config: QualityConfig | None = None) -> tuple[Quality, MeanBaseline | Insufficient]:
    detector = Quality(config or QualityConfig(), BUDGET)
    reference = detector.reference()
    reference.add(scores, np.arange(len(scores)))
    return detector, detector.fit(reference)


def delay(detector: Quality, rng: np.random.Generator, a: float, b: float, limit: int, scale: float = 1) -> int | None:
    """Scores of a Beta law until the alarm, five a tick."""
    for tick in range(limit // 5):
        scores = rng.beta(a, b, 5) * scale
        if detector.update(TickBatch(np.zeros(5, np.intp), scores, np.arange(5)), tick).fired:
            return 5 * (tick + 1)
    return None


def test_a_drop_of_thirty_percent_is_found_within_sixty_scores_and_none_without() -> None:
    delays = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        detector, baseline = quality(rng.beta(8, 2, 5000))
        assert isinstance(baseline, MeanBaseline)
        detector.open(baseline)
        assert delay(detector, rng, 8, 2, 5000) is None
        detector.reset(0)
        found = delay(detector, rng, 8, 2, 1000, 0.7)
        assert found is not None
        delays.append(found)
        measured = detector.measure(0)
        assert measured.value == pytest.approx(0.56, abs=0.06)
        assert measured.baseline == pytest.approx(0.8, abs=0.01)
        assert measured.effect == pytest.approx(-0.3, abs=0.08)
        assert measured.effect_low is not None
        assert measured.effect_high is not None
        assert measured.effect_low < -0.25 < measured.effect_high or measured.effect_high < -0.2
    assert np.median(delays) <= 60


def test_an_allowed_drop_does_not_alarm() -> None:
    rng = np.random.default_rng(1)
    detector, baseline = quality(rng.beta(8, 2, 20_000))
    assert isinstance(baseline, MeanBaseline)
    detector.open(baseline)
    assert delay(detector, rng, 8, 2, 20_000, 0.96) is None


def test_recovers() -> None:
    rng = np.random.default_rng(1)
    detector, baseline = quality(rng.beta(8, 2, 5000))
    assert isinstance(baseline, MeanBaseline)
    detector.open(baseline)
    assert delay(detector, rng, 8, 2, 1000, 0.5) is not None
    for tick in range(1000, 2000):
        batch = TickBatch(np.zeros(5, np.intp), rng.beta(8, 2, 5), np.arange(5))
        if detector.update(batch, tick).recovered:
            break
    assert tick < 1500
    assert detector.measure(0).since_tick is None


def test_bimodal_scores_need_a_large_reference_and_it_says_how_large() -> None:
    rng = np.random.default_rng(0)
    scores = np.where(rng.random(5000) < 0.08, rng.uniform(0.5, 1, 5000), rng.uniform(0, 0.05, 5000))
    _, refused = quality(scores)
    assert isinstance(refused, Insufficient)
    assert refused.have == 5000
    mean, sd = scores.mean(), scores.std(ddof=1)
    assert mean_lower(mean, sd, refused.need) * 0.95 > 0.9 * mean
    assert mean_lower(mean, sd, refused.need - 1) * 0.95 <= 0.9 * mean
    _, accepted = quality(np.resize(scores, refused.need + 2000))
    assert isinstance(accepted, MeanBaseline)


def test_scores_of_another_range() -> None:
    rng = np.random.default_rng(0)
    scores = 1 + 9 * rng.beta(8, 2, 5000)
    detector, baseline = quality(scores, QualityConfig(low=1, high=10))
    assert isinstance(baseline, MeanBaseline)
    assert baseline.mean == pytest.approx(scores.mean())
    detector.open(baseline)
    detector.update(TickBatch(np.zeros(3, np.intp), np.array([0.5, 11.0, 5.0]), np.arange(3)), 0)
    measured = detector.measure(0)
    assert measured.n_not_scored == 2
    assert measured.n_units == 1
    assert measured.value == pytest.approx(5.0)


def test_nothing_can_drop_from_the_bottom() -> None:
    _, refused = quality(np.zeros(1000))
    assert isinstance(refused, Insufficient)
    assert "nothing can drop" in refused.note


def test_the_bound_covers_the_mean() -> None:
    """The lower 99.9 % bound lies above the true mean in at most a tenth of a percent of references."""
    rng = np.random.default_rng(0)
    samples = rng.random((20_000, 300)) < 0.05
    bounds = [mean_lower(m, s, 300) for m, s in zip(samples.mean(1), samples.std(1, ddof=1), strict=True)]
    assert np.mean(np.array(bounds) > 0.05) <= 0.001


def test_scores_needed_is_the_least() -> None:
    need = scores_needed(0.8, 0.12, 0.75)
    assert mean_lower(0.8, 0.12, need) > 0.75 >= mean_lower(0.8, 0.12, need - 1)
