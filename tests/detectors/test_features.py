"""The feature map itself, and what embedding drift does with it."""

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from driftline.detectors.base import Floats, Insufficient, TickBatch
from driftline.detectors.config import BudgetConfig, DetectorsConfig, EmbeddingDriftConfig, RecoveryConfig
from driftline.detectors.embeddings import EmbeddingBaseline, EmbeddingReference
from driftline.detectors.features import Linear, make_features, median_distance
from driftline.detectors.fourier import TOLERANCE, Fourier
from driftline.detectors.registry import make
from driftline.detectors.state import pack, unpack
from driftline.detectors.tscan import EmbeddingDrift
from driftline.schemas.errors import ConfigError

D = 12
RFF = EmbeddingDriftConfig(kernel="rff", frequencies=32, min_events=4000, chains=200, device="cpu")
LINEAR = EmbeddingDriftConfig(min_events=4000, chains=200)
UNEVEN = np.repeat([2.0, 0.5], D // 2)  # scales of a healthy text's components: drift makes them all alike


def unit(rng: np.random.Generator, n: int, d: int = D) -> Floats:
    x = rng.normal(size=(n, d)) + rng.normal(size=d)
    vectors: Floats = x / np.linalg.norm(x, axis=1, keepdims=True)
    return vectors


def gaussian(x: Floats, sigma: float) -> Floats:
    squared = ((x[:, None] - x[None]) ** 2).sum(-1)
    kernel: Floats = np.exp(-squared / (2 * sigma**2))
    return kernel


@pytest.mark.parametrize("factors", [(1.0,), (0.5, 1.0, 2.0)])
def test_inner_products_are_those_of_the_kernel(factors: tuple[float, ...]) -> None:
    x = unit(np.random.default_rng(0), 60, 32)
    sigma = median_distance(x)
    exact = np.mean([gaussian(x, factor * sigma) for factor in factors], axis=0)
    for frequencies in (512, 8192):
        phi = Fourier(frequencies, factors, 1000, "cpu").of(x, sigma)
        assert phi.shape == (60, 2 * frequencies * len(factors))
        assert phi.dtype == np.float64
        assert np.linalg.norm(phi, axis=1) == pytest.approx(1, abs=1e-5)
        error = phi @ phi.T - exact
        m = frequencies * len(factors)
        assert np.sqrt((error**2).mean()) < np.sqrt(0.5 / m)
        assert np.abs(error).max() < 5 * np.sqrt(0.5 / m)


def test_mmd_is_that_of_the_exact_kernel() -> None:
    """Of 4,096 frequencies within 5 % + 0.002 (specification 2.1)."""
    rng = np.random.default_rng(1)
    x = unit(rng, 300)
    x[150:] += 0.3
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    sigma = median_distance(x)
    sign = np.repeat([1, -1], 150) / 150
    exact = float(sign @ gaussian(x, sigma) @ sign)
    phi = Fourier(4096, (1.0,), 1000, "cpu").of(x, sigma)
    assert abs(float(np.sum((sign @ phi) ** 2)) - exact) <= 0.05 * exact + 0.002


def test_the_frequencies_are_the_same_for_ever() -> None:
    """Baselines hang on them."""
    x = np.eye(3)
    phi = Fourier(2, (1.0, 2.0), 100, "cpu").of(x, 1.5)
    assert phi == pytest.approx(np.array(GOLDEN), abs=1e-6)


GOLDEN = [
    [0.497062, 0.4623978, 0.4571026, 0.4943567, 0.0541239, -0.1902321, 0.2026258, -0.0749099],
    [0.4197455, 0.2216831, 0.4801914, 0.4935782, 0.2716868, -0.4481703, -0.139342, -0.0798784],
    [0.2218418, 0.4794066, 0.4990289, 0.4993314, 0.4480918, -0.1420186, 0.0311474, -0.0258485],
]


def test_float32_is_within_the_tolerance_of_exact_arithmetic() -> None:
    x = unit(np.random.default_rng(0), 200, 384)
    for sigma in (1.4, 0.1):
        phi = Fourier(512, (1.0,), 1000, "cpu").of(x, sigma)
        normal = np.arctan2(*np.split(Fourier(512, (1.0,), 1000, "cpu").of(np.eye(384), 10.0), 2, axis=1)[::-1])
        angles = x @ (normal * 10.0) / sigma
        exact = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) / np.sqrt(512)
        assert np.linalg.norm(phi - exact, axis=1).max() < TOLERANCE


def test_sums_are_those_of_rows() -> None:
    rng = np.random.default_rng(0)
    x = unit(rng, 20_000)
    starts = np.unique(np.concatenate([[0], rng.integers(0, len(x), 3000)]))
    for features in (Linear(), Fourier(32, (1.0,), 1000, "cpu")):
        expected = np.add.reduceat(features.of(x, 1.2), starts, axis=0)
        assert features.sums(x, starts, 1.2) == pytest.approx(expected, abs=1e-5)
        assert features.sums(x[:1], starts[:1], 1.2) == pytest.approx(features.of(x[:1], 1.2))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cpu_and_cuda_agree() -> None:
    rng = np.random.default_rng(0)
    x = unit(rng, 20_000, 384)
    starts = np.arange(0, len(x), 16)
    cpu, cuda = (Fourier(512, (1.0,), 1000, device) for device in ("cpu", "cuda"))
    assert np.linalg.norm(cpu.of(x, 1.3) - cuda.of(x, 1.3), axis=1).max() < TOLERANCE
    assert np.linalg.norm(cpu.sums(x, starts, 1.3) - cuda.sums(x, starts, 1.3), axis=1).max() < 16 * TOLERANCE
    assert (cuda.sums(x, starts, 1.3) == cuda.sums(x, starts, 1.3)).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_an_error_at_the_start() -> None:
    with pytest.raises(ConfigError, match="no CUDA device"):
        EmbeddingDrift(RFF.model_copy(update={"device": "cuda"}), BudgetConfig())
    EmbeddingDrift(LINEAR.model_copy(update={"device": "cuda"}), BudgetConfig())  # it needs none


def test_settings_that_would_not_fit_into_the_state_are_refused() -> None:
    with pytest.raises(ValueError, match="would not fit"):
        EmbeddingDriftConfig(kernel="rff", bandwidths=(0.5, 1, 2))
    with pytest.raises(ValueError, match="one or more numbers"):
        EmbeddingDriftConfig(kernel="rff", bandwidths=())
    assert EmbeddingDriftConfig(kernel="rff", frequencies=170, bandwidths=(0.5, 1, 2))


def test_where_it_is_computed_is_no_part_of_a_baseline() -> None:
    assert RFF.model_copy(update={"device": "cuda"}).model_dump_json() == RFF.model_dump_json()
    assert isinstance(make_features(RFF), Fourier)
    assert isinstance(make_features(LINEAR), Linear)


def test_torch_is_imported_for_the_kernel_that_needs_it_only() -> None:
    code = """
import sys
from driftline.detectors.config import DetectorsConfig
from driftline.detectors.registry import make
make("embedding_drift", DetectorsConfig())
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_median_distance_leaves_out_identical_pairs() -> None:
    x = unit(np.random.default_rng(0), 101)
    left, right = np.triu_indices(101, 1)
    expected = np.median(np.linalg.norm(x[left] - x[right], axis=1))
    assert median_distance(x) == pytest.approx(expected, rel=1e-9)
    twice = np.repeat(np.eye(3), 50, axis=0)
    assert median_distance(twice) == pytest.approx(np.sqrt(2))
    assert median_distance(np.repeat(unit(np.random.default_rng(0), 1), 9, axis=0)) == pytest.approx(np.sqrt(2))


def texts(rng: np.random.Generator, n: int, scale: Floats | float = UNEVEN) -> Floats:
    """Of mean zero, whatever the scale."""
    vectors: Floats = rng.normal(size=(n, D)) * scale
    return vectors


def batch(x: Floats, slot: int | NDArray[np.intp] = 0) -> TickBatch:
    return TickBatch(np.broadcast_to(slot, len(x)).astype(np.intp), x, np.arange(len(x)))


def ready(config: EmbeddingDriftConfig, budget: BudgetConfig | None = None, slots: int = 1) -> EmbeddingDrift:
    detector = EmbeddingDrift(config, budget or BudgetConfig())
    for _ in range(slots):
        detector.open(learned(config, budget or BudgetConfig()))
    return detector


@cache
def learned(config: EmbeddingDriftConfig, budget: BudgetConfig) -> EmbeddingBaseline:
    reference = reference_of(config, texts(np.random.default_rng(7), 8200))
    baseline = EmbeddingDrift(config, budget).fit(reference)
    assert isinstance(baseline, EmbeddingBaseline), baseline
    return baseline


def reference_of(config: EmbeddingDriftConfig, x: Floats, step: int = 90) -> EmbeddingReference:
    reference = EmbeddingDrift(config, BudgetConfig()).reference()
    for start in range(0, len(x), step):
        reference.add(x[start : start + step], np.arange(start, min(start + step, len(x))))
        reference.close(start)
    return reference


def test_a_change_of_spread_around_the_same_mean_is_found_by_rff_and_not_by_the_linear_kernel() -> None:
    fired = {}
    for config in (LINEAR, RFF):
        detector = ready(config)
        rng = np.random.default_rng(3)
        for tick in range(100):
            assert not detector.update(batch(texts(rng, 16)), tick).fired
        fired[config.kernel] = [t for t in range(100, 400) if detector.update(batch(texts(rng, 16, 1.0)), t).fired]
    assert not fired["linear"]
    assert fired["rff"][0] < 200
    measured = detector.measure(0)
    assert abs((measured.since_tick or 0) - 100) < 10
    scores = detector.witness_scores(0, np.concatenate([texts(rng, 500, 1.0), texts(rng, 500), np.zeros((1, D))]))
    assert np.mean(scores[:500]) > np.mean(scores[500:1000])
    assert np.isnan(scores[-1])


def test_a_new_topic_is_found_as_well() -> None:
    detector = ready(RFF)
    rng = np.random.default_rng(4)
    fired = []
    for tick in range(200):
        x = texts(rng, 16)
        if tick >= 100:
            x[rng.random(16) < 0.5] += 2
        fired += [tick] * len(detector.update(batch(x), tick).fired)
    assert len(fired) == 1
    assert 100 < fired[0] < 115


def test_false_alarms_are_at_most_those_promised() -> None:
    """With 1/alpha = 500 ticks: the rate over 20 streams is not above 1/500 (one-sided 99 %)."""
    target, slots, ticks, size = 500, 20, 400, 10
    budget = BudgetConfig(false_alarms=86_400 * 30 / target, streams=1)
    soon = RecoveryConfig(min_open_s=1, max_open_s=2)
    detector = ready(RFF.model_copy(update={"recovery": soon}), budget, slots)
    rng = np.random.default_rng(2)
    alarms: Floats = np.zeros(slots)
    for tick in range(ticks):
        alarms[detector.update(batch(texts(rng, size * slots), np.repeat(np.arange(slots), size)), tick).fired] += 1
    rate, error = alarms.mean() / ticks, alarms.std(ddof=1) / np.sqrt(slots) / ticks
    assert rate - 2.33 * error <= 1 / target


@pytest.mark.parametrize("sessions", [True, False])
def test_learning_goes_on_from_a_snapshot_to_the_bit(sessions: bool) -> None:
    """Before the bandwidth is known, in the tick in which it is, and after."""
    detector = EmbeddingDrift(RFF, BudgetConfig())
    straight, resumed = detector.reference(), detector.reference()
    x = texts(np.random.default_rng(5), 2000)
    x[5] = np.nan
    session = np.arange(len(x)) // 3 if sessions else np.full(len(x), -1)
    known = []
    for start in range(0, len(x), 75):
        part = slice(start, start + 75)
        for reference in (straight, resumed):
            reference.add(x[part], session[part])
            reference.close(int(session[part][-1]))
        resumed = detector.reference(unpack(pack(resumed.snapshot())))
        assert pack(resumed.snapshot()) == pack(straight.snapshot())
        assert straight.n == min(start + 75, len(x)) - 1
        known.append(straight.bandwidth is not None)
    assert known.index(True) == 1001 // 75  # the tick with the 1,000th valid text
    assert straight.bandwidth == median_distance(unit_rows(x[:1001]).astype(np.float32).astype(np.float64))


def unit_rows(x: Floats) -> Floats:
    kept = x[np.isfinite(x).all(1)]
    rows: Floats = kept / np.linalg.norm(kept, axis=1, keepdims=True)
    return rows


def test_the_first_texts_count_like_all_others() -> None:
    """The mean is that of all texts, at the bandwidth of the first."""
    x = texts(np.random.default_rng(7), 8200)
    baseline = learned(RFF, BudgetConfig())
    assert baseline.d == D
    assert baseline.n == 8200
    assert baseline.bandwidth == pytest.approx(median_distance(unit_rows(x[:1000])), rel=1e-6)
    phi = make_features(RFF).of(unit_rows(x), baseline.bandwidth)
    assert baseline.mu == pytest.approx(phi.mean(0), abs=1e-7)
    centred = phi - phi.mean(0)
    expected = np.linalg.eigvalsh(centred.T @ centred / len(x))[::-1]
    assert baseline.spectrum == pytest.approx(expected[: len(baseline.spectrum)], abs=1e-6)
    assert len(baseline.centers) == 0


def test_too_few_texts_for_a_bandwidth_are_too_few_for_a_baseline() -> None:
    reference = reference_of(RFF, texts(np.random.default_rng(0), 900))
    assert EmbeddingDrift(RFF, BudgetConfig()).fit(reference) == Insufficient("too few texts", 900, 4000)


def test_the_sample_takes_no_more_bytes_than_with_the_linear_kernel() -> None:
    config = RFF.model_copy(update={"frequencies": 512, "sample": 1000, "bandwidth_texts": 100})
    reference = reference_of(config, texts(np.random.default_rng(0), 1300))
    _, sample = reference.complete()
    assert 150 < len(sample) <= 1000 * 384 // 1024
    reference.share(2)
    assert 80 < len(reference.sample) <= 500 * 384 // 1024


def test_the_kernel_is_a_setting() -> None:
    settings = DetectorsConfig.model_validate({"embedding_drift": {"kernel": "rff", "device": "cpu"}})
    reference = make("embedding_drift", settings).reference()
    reference.add(texts(np.random.default_rng(0), 1000), np.arange(1000))
    assert reference.snapshot()["groups"]["total"].shape == (1024,)
