from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from driftline.detectors.base import Floats, Insufficient, TickBatch
from driftline.detectors.config import BudgetConfig, EmbeddingDriftConfig
from driftline.detectors.embeddings import EmbeddingBaseline
from driftline.detectors.saddlepoint import log_sf, quantile
from driftline.detectors.state import pack, unpack
from driftline.detectors.tscan import EmbeddingDrift

D = 12
SMALL = EmbeddingDriftConfig(min_events=4000, chains=200)
TOPICS = np.random.default_rng(99).normal(size=(8, D))


def texts(
    rng: np.random.Generator, n: int, length: int = 1, topics: Floats = TOPICS
) -> tuple[Floats, NDArray[np.int64]]:
    """Vectors whose topic is constant within sessions of `length`, and their sessions."""
    session = np.arange(n) // length
    topic = rng.integers(0, len(topics), n // length + 1)[session]
    return topics[topic] * 0.5 + rng.normal(size=(n, D)), session


def unit(x: Floats) -> Floats:
    vectors: Floats = x / np.linalg.norm(x, axis=1, keepdims=True)
    return vectors


def fitted(
    length: int = 1, n: int = 8200, config: EmbeddingDriftConfig = SMALL, seed: int = 0, *, sessions: bool = True
) -> tuple[EmbeddingDrift, EmbeddingBaseline, Floats]:
    baseline, x = learned(length, n, config, seed, sessions)
    return EmbeddingDrift(config, BudgetConfig()), baseline, x


@cache
def learned(
    length: int, n: int, config: EmbeddingDriftConfig, seed: int, sessions: bool
) -> tuple[EmbeddingBaseline, Floats]:
    detector = EmbeddingDrift(config, BudgetConfig())
    reference = detector.reference()
    x, session = texts(np.random.default_rng(seed), n, length)
    for start in range(0, n, 100):
        part = slice(start, start + 100)
        reference.add(x[part], session[part] if sessions else np.full(len(x[part]), -1))
        reference.close(int(session[part][-1]))
    baseline = detector.fit(reference)
    assert isinstance(baseline, EmbeddingBaseline), baseline
    return baseline, x


def batch(x: Floats, slot: int = 0) -> TickBatch:
    return TickBatch(np.full(len(x), slot), x, np.arange(len(x)))


def test_the_covariance_is_that_of_whole_sessions() -> None:
    _, baseline, x = fitted(length=4)
    phi = unit(x)
    mu = phi.mean(0)
    sums = (phi - mu).reshape(-1, 4, D).sum(1)
    assert baseline.mu == pytest.approx(mu, abs=1e-12)
    assert baseline.spectrum == pytest.approx(np.linalg.eigvalsh(sums.T @ sums / len(phi))[::-1], rel=1e-5)
    assert baseline.events_per_unit == 4


@pytest.mark.parametrize(
    ("length", "scales"), [(1, [64, 128, 256, 512, 1024]), (4, [256, 512, 1024]), (5, [512, 1024])]
)
def test_scales_hold_enough_sessions_and_stay_below_an_eighth_of_the_reference(length: int, scales: list[int]) -> None:
    _, baseline, _ = fitted(length=length)
    assert baseline.scales.tolist() == scales
    alpha = BudgetConfig().alpha / len(scales)
    assert baseline.log_alpha == pytest.approx(np.log(alpha))
    assert not baseline.note


def test_thresholds_lie_above_those_of_the_law_by_the_correction_for_a_sample() -> None:
    """In the proportion of the longest window that was split, for longer ones."""
    _, baseline, _ = fitted(length=4)
    law = quantile(float(baseline.log_alpha[0]), baseline.spectrum)
    sampled = 1 + 3 / np.sqrt(8200 / 4)
    stretch = baseline.limit / law
    assert (stretch >= sampled - 1e-12).all()
    assert stretch[2] == stretch[1]  # 256 sessions and more take the correction of 128
    assert baseline.log_p(0, baseline.limit[0]) == pytest.approx(baseline.log_alpha[0])
    values = np.linspace(1, 3 * baseline.limit[0], 50)
    log_p = [baseline.log_p(0, value) for value in values.tolist()]
    assert (np.diff(log_p) <= 1e-12).all()
    assert log_p[-1] == 2 * baseline.log_alpha[0]


def test_without_sessions_thresholds_are_those_of_the_law_at_a_twentieth_of_alpha() -> None:
    _, baseline, _ = fitted(n=16_000, sessions=False)
    assert baseline.scales.tolist() == [128, 256, 512, 1024]
    alpha = BudgetConfig().alpha / 4
    assert baseline.log_alpha == pytest.approx(np.log([alpha / 20, alpha / 20, alpha, alpha]))
    for scale, (limit, level) in enumerate(zip(baseline.limit, baseline.log_alpha, strict=True)):
        assert log_sf(limit, baseline.spectrum) == pytest.approx(level, abs=1e-6)
        assert baseline.log_p(scale, limit) == pytest.approx(level)


@settings(max_examples=30)
@given(sizes=st.lists(st.integers(0, 700), min_size=1, max_size=15))
def test_the_statistic_is_that_of_the_last_events(sizes: list[int]) -> None:
    """Of at least as many as the scale says, and at most a quarter more."""
    detector, baseline, _ = BASIC
    slot = detector.open(baseline)
    rng = np.random.default_rng(sum(sizes))
    seen = np.empty((0, D))
    for tick, size in enumerate(sizes):
        x, _ = texts(rng, size)
        seen = np.concatenate([seen, unit(x)])
        detector.update(batch(x, slot), tick)
    measured = detector.measure(slot)
    if measured.log_p is None:
        assert len(seen) < 80
        return
    n = measured.n_events
    fitting = [i for i, scale in enumerate(baseline.scales.tolist()) if scale <= n < 1.25 * scale]
    assert len(fitting) == 1
    distance = np.linalg.norm(seen[-n:].mean(0) - baseline.mu)
    statistic = float(n * baseline.n / (n + baseline.n) * distance**2)
    assert measured.log_p == pytest.approx(baseline.log_p(fitting[0], statistic), rel=1e-5, abs=1e-6)
    assert measured.value == pytest.approx(distance, rel=1e-6)


def test_windows_of_all_scales_are_in_force_as_soon_as_they_can_be_and_few_blocks_hold_them() -> None:
    config = EmbeddingDriftConfig(min_events=4000, chains=200, max_window=1024)
    detector, baseline, _ = fitted(config=config)
    detector.open(baseline)
    rng = np.random.default_rng(1)
    sizes, seen = [], 0
    for tick in range(300):
        x, _ = texts(rng, int(rng.integers(1, 60)))
        seen += len(x)
        detector.update(batch(x), tick)
        (stream,) = unpack(pack(detector.snapshot()))["streams"]
        assert len(stream["statistic"]) == (baseline.scales <= seen).sum()
        sizes.append(len(stream["windows"]["counts"]))
    assert max(sizes) == 48
    assert min(sizes[100:]) <= 32


def test_drift_is_found_explained_and_over() -> None:
    detector, baseline, _ = fitted()
    detector.open(baseline)
    rng = np.random.default_rng(5)
    for tick in range(200):
        assert not detector.update(batch(texts(rng, 16)[0]), tick).fired
    new = TOPICS[:1] * -3
    tick, fired = 200, False
    while not fired:
        x, _ = texts(rng, 16)
        drifted = rng.random(16) < 0.5
        x[drifted] += new
        fired = detector.update(batch(x), tick).fired == [0]
        tick += 1
    assert tick < 215
    measured = detector.measure(0)
    assert measured.log_p is not None
    assert measured.log_p <= measured.threshold
    assert measured.effect is not None
    assert measured.effect > 0
    assert abs((measured.since_tick or 0) - 200) <= 2
    assert measured.guarantee == "stated"
    scores = detector.witness_scores(0, np.concatenate([new + 0.1, texts(rng, 20)[0], np.zeros((1, D))]))
    assert np.nanargmax(scores) == 0
    assert np.isnan(scores[-1])
    for later in range(tick, tick + 500):
        changes = detector.update(batch(texts(rng, 16)[0]), later)
        assert not changes.fired
        if changes.recovered:
            break
    assert changes.recovered == [0]
    assert later - tick >= 118
    assert detector.measure(0).since_tick is None


def test_drift_that_lasts_does_not_recover_until_the_longest_duration() -> None:
    config = EmbeddingDriftConfig(min_events=4000, chains=200, recovery={"max_open_s": 600})
    detector, baseline, _ = fitted(config=config)
    detector.open(baseline)
    rng = np.random.default_rng(5)
    changes = [detector.update(batch(texts(rng, 16)[0] + 1), tick) for tick in range(700)]
    fired = [tick for tick, change in enumerate(changes) if change.fired]
    recovered = [tick for tick, change in enumerate(changes) if change.recovered]
    assert recovered == [fired[0] + 600]
    assert fired[1] > recovered[0]


def test_no_alarm_in_sessions_that_stay_on_topic() -> None:
    """The same data alarm at once when sessions are not known to be sessions."""
    detector, baseline, _ = fitted(length=4, n=16_000)
    wrong, independent, _ = fitted(length=1, n=16_000)
    detector.open(baseline)
    wrong.open(independent)
    rng = np.random.default_rng(3)
    quiet, loud = 0, 0
    for tick in range(1000):
        x = np.repeat(TOPICS[rng.integers(0, 8, 4)] * 3, 4, axis=0) + rng.normal(size=(16, D)) * 0.1
        loud += len(wrong.update(batch(x), tick).fired)
        quiet += len(detector.update(batch(texts(rng, 16, 4)[0]), tick).fired)
    assert quiet == 0
    assert loud > 0


@pytest.mark.parametrize(("n", "spectrum_factor"), [(20_000, None), (140_000, 1 + 1 / np.sqrt(546))])
def test_without_sessions_blocks_stand_for_them(n: int, spectrum_factor: float | None) -> None:
    _, baseline, x = fitted(n=n, sessions=False)
    assert baseline.guarantee == "approximate"
    assert baseline.n == n
    phi = unit(x)
    mu = phi.mean(0)
    centred = phi - mu
    blocks = n // 256
    sums = centred[: blocks * 256].reshape(blocks, 256, D).sum(1)
    long_run = sums.T @ sums / (blocks * 256)
    values, vectors = np.linalg.eigh(centred.T @ centred / n)
    if spectrum_factor:
        expected = np.linalg.eigvalsh(long_run) * spectrum_factor
    else:
        expected = np.maximum(values, np.einsum("di,de,ei->i", vectors, long_run, vectors))
    assert baseline.spectrum == pytest.approx(np.sort(expected)[::-1], rel=1e-5)


def test_refusals_say_what_is_missing() -> None:
    detector = EmbeddingDrift(SMALL, BudgetConfig())
    x, session = texts(np.random.default_rng(0), 16_000, 16)
    for n, note, need in (
        (1000, "too few texts", 4000),
        (4800, "too few sessions", 500),
        (8000, "least window", 8192),
    ):
        reference = detector.reference()
        reference.add(x[:n], session[:n])
        refused = detector.fit(reference)
        assert isinstance(refused, Insufficient)
        assert note in refused.note
        assert refused.need == need
    reference = detector.reference()
    reference.add(x[:10_000], np.full(10_000, -1))
    assert detector.fit(reference) == Insufficient("too few texts (without session ids)", 9984, 12_800)
    same = detector.reference()
    same.add(np.ones((8000, D)), np.arange(8000))
    refused = detector.fit(same)
    assert isinstance(refused, Insufficient)
    assert "same embedding" in refused.note


def test_a_reference_goes_on_from_a_snapshot_and_does_not_depend_on_closing() -> None:
    x, session = texts(np.random.default_rng(0), 8000, 3)
    detector = EmbeddingDrift(SMALL, BudgetConfig())
    for number in (session, np.full(len(x), -1)):
        straight, resumed, lazy = detector.reference(), detector.reference(), detector.reference()
        for start in range(0, len(x), 77):
            part = slice(start, start + 77)
            for reference in (straight, resumed, lazy):
                reference.add(x[part], number[part])
            straight.close(int(session[part][-1]))
            resumed.close(int(session[part][-1]))
            if start % 5 == 0:
                resumed = detector.reference(unpack(pack(resumed.snapshot())))
        assert pack(straight.snapshot()) == pack(resumed.snapshot())
        a, b = detector.fit(straight), detector.fit(lazy)
        assert isinstance(a, EmbeddingBaseline | Insufficient)
        if isinstance(a, EmbeddingBaseline) and isinstance(b, EmbeddingBaseline):
            assert a.id == b.id
            assert a.limit == pytest.approx(b.limit, rel=1e-9)
    assert straight.n == 8000


def test_fitting_leaves_the_reference_as_it_was() -> None:
    detector = EmbeddingDrift(SMALL, BudgetConfig())
    reference = detector.reference()
    x, session = texts(np.random.default_rng(0), 8000, 3)
    reference.add(x, session)
    before = pack(reference.snapshot())
    detector.fit(reference)
    assert pack(reference.snapshot()) == before


def test_invalid_vectors_are_counted() -> None:
    detector, baseline, _ = fitted()
    detector.open(baseline)
    x, _ = texts(np.random.default_rng(0), 200)
    x[0], x[1], x[2, 3], x[3, 0] = 0, np.nan, np.inf, 1e200
    detector.update(batch(x), 0)
    assert detector.measure(0).n_not_scored == 4
    detector.update(batch(np.ones((5, D + 1))), 1)
    assert detector.measure(0).n_not_scored == 9
    detector.update(TickBatch(np.zeros(2, np.intp), x[10:12], np.array([-1, -1])), 2)  # sessions are known here
    assert detector.measure(0).n_not_scored == 11


BASIC = fitted()
