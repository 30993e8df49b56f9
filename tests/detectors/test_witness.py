import msgspec
import numpy as np
import pytest

from driftline.detectors.base import Floats, Insufficient, TickBatch
from driftline.detectors.config import (
    BudgetConfig,
    DetectorsConfig,
    EmbeddingDriftConfig,
    EmbeddingWitnessConfig,
    RecoveryConfig,
)
from driftline.detectors.embeddings import EmbeddingBaseline
from driftline.detectors.registry import make
from driftline.detectors.units import NO_SESSION
from driftline.detectors.witness import EmbeddingWitness, WitnessBaseline

D = 100
CONFIG = EmbeddingWitnessConfig(recovery=RecoveryConfig(min_open_s=10))
SCAN = EmbeddingDriftConfig(min_events=4000, chains=200, witness_share=0.25)
NEW = np.eye(1, D)[0] * 4


def means(rng: np.random.Generator, n: int, share: float = 0.0) -> Floats:
    """Means of sessions of three texts, a share of them about something new."""
    scale = np.arange(1, D + 1) ** -0.5
    topic = rng.normal(size=(n, 1, D)) * scale + np.where(rng.random((n, 1, 1)) < share, NEW, 0)
    x = 0.5 + topic + rng.normal(size=(n, 3, D)) * scale
    phi: Floats = x / np.linalg.norm(x, axis=2, keepdims=True)
    unit: Floats = phi.mean(1)
    return unit


def learned(n: int = 6000) -> WitnessBaseline:
    detector = EmbeddingWitness(CONFIG, BudgetConfig())
    reference = detector.reference()
    x = means(np.random.default_rng(0), n)
    for start in range(0, n, 250):
        reference.add(x[start : start + 250], np.arange(start, start + 250))
    baseline = detector.fit(reference)
    assert isinstance(baseline, WitnessBaseline), baseline
    return baseline


BASELINE = learned()


def watching() -> EmbeddingWitness:
    detector = EmbeddingWitness(CONFIG, BudgetConfig())
    detector.open(BASELINE)
    return detector


def batch(value: Floats) -> TickBatch:
    return TickBatch(np.zeros(len(value), np.intp), value, np.arange(len(value)))


def test_the_halves_are_those_of_the_sessions_and_the_spread_is_never_understated() -> None:
    x = means(np.random.default_rng(0), 6000)
    assert 2850 < BASELINE.units < 3150
    assert BASELINE.n == 6000
    halves = BASELINE.mu_1 * (6000 - BASELINE.units) + BASELINE.mu_2 * BASELINE.units
    assert halves / 6000 == pytest.approx(x.mean(0), abs=1e-9)
    rng = np.random.default_rng(1)
    fresh = means(rng, 20_000)
    for w in [*np.eye(D)[:3], *np.eye(D)[-3:], *rng.normal(size=(5, D))]:
        direction = w / np.linalg.norm(w)
        assert BASELINE.sd(direction) >= 0.95 * (fresh @ direction).std()
    assert BASELINE.sd(np.eye(D)[0]) == pytest.approx(fresh[:, 0].std(), rel=0.05)


def test_drift_is_found_explained_and_over() -> None:
    detector, rng = watching(), np.random.default_rng(2)
    for tick in range(200):
        assert not detector.update(batch(means(rng, 4)), tick).fired
    tick, fired = 200, False
    while not fired:
        fired = detector.update(batch(means(rng, 4, 0.5)), tick).fired == [0]
        tick += 1
    assert tick < 240
    measured = detector.measure(0)
    assert measured.log_e is not None
    assert measured.log_e >= measured.threshold
    assert measured.value is not None
    assert measured.baseline is not None
    assert measured.value > measured.baseline
    assert abs((measured.since_tick or 0) - 200) <= 6
    texts = np.vstack([NEW + 0.5, means(rng, 20), np.zeros((1, D))])
    scores = detector.witness_scores(0, texts)
    assert np.nanargmax(scores) == 0
    assert np.isnan(scores[-1])
    for _ in range(500):  # as long as it lasts
        assert not detector.update(batch(means(rng, 4, 0.5)), tick).recovered
        tick += 1
    over = tick
    while not detector.update(batch(means(rng, 4)), tick).recovered:
        tick += 1
    assert tick - over < 100
    assert detector.measure(0).since_tick is None
    for later in range(tick + 1, tick + 200):
        assert not detector.update(batch(means(rng, 4)), later).fired


def test_the_direction_is_fixed_before_a_unit_is_seen() -> None:
    """The first unit has nothing to be scored against, however far off; a chunk is scored before it is followed."""
    detector = watching()
    detector.update(batch(np.eye(1, D)), 0)
    assert detector.measure(0).log_e == pytest.approx(0)
    one, two = watching(), watching()
    x = means(np.random.default_rng(3), 32, 0.5)
    one.update(batch(x), 0)
    for tick, part in enumerate(np.split(x, 4)):
        two.update(batch(part), tick)
    assert one.measure(0).log_e == pytest.approx(0)
    assert two.measure(0).log_e != pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("errors", "alarms"), [(4, False), (16, True)])
def test_the_error_of_the_reference_is_no_drift(errors: float, alarms: bool) -> None:
    """A reference whose mean is off by a few standard errors of it, in the direction that texts then seem to take."""
    off = errors * BASELINE.sd(np.eye(D)[0]) / np.sqrt(BASELINE.units) * np.eye(D)[0]
    detector = EmbeddingWitness(CONFIG, BudgetConfig())
    detector.open(msgspec.structs.replace(BASELINE, mu_1=BASELINE.mu_1 - 10 * off, mu_2=BASELINE.mu_2 - off))
    rng = np.random.default_rng(4)
    fired = [bool(detector.update(batch(means(rng, 32)), tick).fired) for tick in range(600)]
    assert any(fired) == alarms


def test_bets_never_lose_everything() -> None:
    """Not even where the reference has next to no spread, so that any unit is far off."""
    detector = EmbeddingWitness(CONFIG, BudgetConfig())
    detector.open(msgspec.structs.replace(BASELINE, variances=1e-9 * BASELINE.variances, rest=1e-12))
    detector.update(batch(np.eye(1, D)), 0)
    detector.update(batch(-np.eye(1, D)), 1)
    evidence = detector.measure(0).log_e
    assert evidence is not None
    assert np.isfinite(evidence)


def test_units_that_belong_to_no_session_are_not_scored() -> None:
    detector = watching()
    x = means(np.random.default_rng(3), 10)
    detector.update(TickBatch(np.zeros(10, np.intp), x, np.full(10, NO_SESSION)), 0)
    detector.update(batch(3 * x), 1)
    assert detector.measure(0).n_not_scored == 20
    assert detector.measure(0).n_units == 0


def test_the_two_detectors_of_embeddings_share_one_streams_budget() -> None:
    settings = DetectorsConfig.model_validate({"embedding_drift": {"witness_share": 0.25}})
    detector = make("embedding_witness", settings)
    detector.open(BASELINE)
    assert detector.measure(0).threshold == pytest.approx(-np.log(settings.budget.alpha / 4))
    drift = make("embedding_drift", settings.model_copy(update={"embedding_drift": SCAN}))
    reference = drift.reference()
    rng = np.random.default_rng(0)
    reference.add(rng.normal(size=(4100, 4)), np.arange(4100))
    baseline = drift.fit(reference)
    assert isinstance(baseline, EmbeddingBaseline)
    assert baseline.log_alpha[0] == pytest.approx(np.log(0.75 * settings.budget.alpha / len(baseline.scales)))


def test_refusals_say_what_is_missing() -> None:
    detector = EmbeddingWitness(CONFIG, BudgetConfig())
    reference = detector.reference()
    reference.add(means(np.random.default_rng(3), 5000), np.full(5000, NO_SESSION))
    assert detector.fit(reference) == Insufficient("too few sessions", 0, 4000)
    assert reference.skipped == 5000
