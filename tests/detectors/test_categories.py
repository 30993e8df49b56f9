import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta

from driftline.detectors.base import Floats, Insufficient, TickBatch
from driftline.detectors.bernoulli import clopper_pearson, log_ratios
from driftline.detectors.categories import (
    CONFIDENCE,
    ETAS,
    MAX_DISTINCT,
    NEW,
    OTHER,
    Categories,
    CategoriesBaseline,
    _tests,
)
from driftline.detectors.config import BudgetConfig, CategoriesConfig, RecoveryConfig
from driftline.detectors.engine import Engine
from driftline.detectors.state import pack, unpack

BUDGET = BudgetConfig()
SHARES = {"stop": 0.9, "length": 0.06, "tool_calls": 0.03, "content_filter": 0.01}


def detector(budget: BudgetConfig = BUDGET, **settings: int) -> Categories:
    return Categories("finish_reason", CategoriesConfig(**settings), budget)


def batch(value: Floats, slot: int | NDArray[np.intp] = 0) -> TickBatch:
    return TickBatch(np.broadcast_to(slot, len(value)).astype(np.intp), value, np.arange(len(value)))


def draw(d: Categories, rng: np.random.Generator, n: int, **changed: float) -> Floats:
    """Units with the shares above, some of them changed at the cost of "stop"."""
    shares = SHARES | changed
    shares["stop"] += 1 - sum(shares.values())
    return d.codes(rng.choice(list(shares), n, p=list(shares.values())).tolist())


def fitted(d: Categories, value: Floats) -> CategoriesBaseline:
    reference = d.reference()
    reference.add(value, np.arange(len(value)))
    baseline = d.fit(reference)
    assert isinstance(baseline, CategoriesBaseline)
    return baseline


def ready(n: int = 5000, **settings: int) -> Categories:
    d = detector(BUDGET, **settings)
    d.open(fitted(d, draw(d, np.random.default_rng(0), n)))
    return d


def test_codes_are_exact_numbers_and_names_come_back() -> None:
    d = detector()
    codes = d.codes(["stop", "length", "stop", ""])
    assert codes[0] == codes[2] != codes[1]
    assert codes[3] == 0
    assert ((codes >= 0) & (codes < 2**52) & (codes == np.floor(codes))).all()
    assert (detector().codes(["length"]) == codes[1]).all()
    many = [str(number) for number in range(5000)]
    again = d.codes(many)
    assert (d.codes(many) == again).all()
    assert len(pack(d.snapshot())) < 200_000


def test_bounds_are_clopper_pearson_and_hold_all_at_once() -> None:
    for k, n in [(1, 2000), (37, 2000), (1900, 2000), (0, 500), (500, 500)]:
        low, high = clopper_pearson(k, n, 1e-4)
        assert low == pytest.approx(beta.ppf(1e-4, k, n - k + 1) if k else 0, rel=1e-12)
        assert high == pytest.approx(beta.isf(1e-4, k + 1, n - k) if k < n else 1, rel=1e-12)
    d = detector()
    baseline = fitted(d, draw(d, np.random.default_rng(0), 5000))
    n, bounds = baseline.n, 2 * (len(baseline.counts) + 1)
    misses = 0
    rng = np.random.default_rng(1)
    for counts in rng.multinomial(n, list(SHARES.values()), 2000):
        for k, share in zip(counts, SHARES.values(), strict=True):
            low, high = clopper_pearson(k, n, (1 - CONFIDENCE) / bounds)
            misses += not low <= share <= high
    assert misses <= 8


def test_golden_evidence() -> None:
    """The e-SR recursion in logs, from its start at the share of one test of four."""
    d = detector()
    baseline = fitted(d, d.codes(["stop"] * 1980 + ["length"] * 20))
    d.open(baseline)
    bound = beta.isf((1 - CONFIDENCE) / 6, 21, 1980)
    p1 = bound * np.geomspace(1.25, 20, 8)
    m = np.full(8, -np.inf)
    for tick, k in enumerate([1, 0, 2, 5, 6, 4, 7]):
        d.update(batch(d.codes(["stop"] * (100 - k) + ["length"] * k)), tick)
        log_l = k * np.log(p1 / bound) + (100 - k) * np.log((1 - p1) / (1 - bound))
        m = log_l + np.logaddexp(m, -np.log(4))
    assert d.measure(0).part == "length"
    assert d.measure(0).log_e == pytest.approx(np.logaddexp.reduce(m) - np.log(8), rel=1e-12)


def test_golden_evidence_of_a_share_of_the_budget() -> None:
    """The Bernoulli e-detector's golden sequence, with half of a stream's share."""
    counts = [1, 0, 2, 5, 6, 4, 7, 5]
    engine = Engine(8, 3, BUDGET, RecoveryConfig())
    engine.open(None)
    hit, miss = log_ratios(0.01, 0.01 * np.geomspace(1.25, 20, 8))
    nothing, units, half = np.zeros((1, 3)), np.array([100]), np.array([0.5])
    for tick, k in enumerate(counts):
        log_l = (k * hit + (100 - k) * miss)[None]
        engine.step(np.array([0]), log_l, nothing, units, np.zeros((1, 2)), tick, half)
    assert engine.log_e(0) == pytest.approx(22.473974 + np.log(0.5), abs=1e-6)
    assert engine.in_alarm()[0]


def test_says_which_category_moved_from_what_to_what() -> None:
    d, rng = ready(), np.random.default_rng(2)
    fired: list[int] = []
    for tick in range(60):
        fired += d.update(batch(draw(d, rng, 50, length=0.2 if tick >= 20 else 0.06)), tick).fired
    assert fired == [0]
    m = d.measure(0)
    assert m.part == "length"
    assert m.value == pytest.approx(0.2, abs=0.03)
    assert m.baseline == pytest.approx(0.06, abs=0.01)
    assert (m.effect_low or 0) < (m.effect or 0) < (m.effect_high or 0)
    assert m.since_tick == pytest.approx(20, abs=3)
    assert m.log_e is not None
    assert m.log_e >= m.threshold
    assert "“length” up to" in m.note


def test_rarer_categories_are_found() -> None:
    d, rng = ready(), np.random.default_rng(2)
    fired: list[int] = []
    for tick in range(40):
        fired += d.update(batch(draw(d, rng, 50, tool_calls=0.0)), tick).fired
    assert fired == [0]
    assert d.measure(0).part == "tool_calls"
    assert "down to 0.00%" in d.measure(0).note


def test_new_categories_are_found_and_named() -> None:
    d, rng = ready(20_000), np.random.default_rng(2)
    d.update(batch(draw(d, rng, 200)), 0)
    value = d.codes(["stop"] * 98 + ["recitation"] * 2)
    assert [d.update(batch(value), tick).fired for tick in range(1, 4)] == [[], [], [0]]
    m = d.measure(0)
    assert m.part == "recitation"
    assert m.baseline == 0
    assert m.effect is None
    assert "New: recitation" in m.note


def test_categories_beyond_the_most_common_are_one() -> None:
    d, rng = ready(top=2), np.random.default_rng(2)
    fired: list[int] = []
    for tick in range(60):
        fired += d.update(batch(draw(d, rng, 50, content_filter=0.2)), tick).fired
    assert fired == [0]
    assert d.measure(0).part == OTHER
    assert d.baseline(0).has(int(d.codes(["content_filter"])[0]))
    assert not d.baseline(0).has(int(d.codes(["recitation"])[0]))


@pytest.mark.parametrize("changed", [{"length": 0.3}, {"tool_calls": 0.0}, {"new": 0.05}, {"length": 0.3, "new": 0.05}])
def test_an_incident_ends_when_its_last_category_is_back(changed: dict[str, float]) -> None:
    d, rng = ready(), np.random.default_rng(2)
    recovered: list[int] = []
    for tick in range(500):
        changes = d.update(batch(draw(d, rng, 50, **changed if 10 <= tick < 200 else {})), tick)
        recovered += [tick] * len(changes.recovered)
    assert len(recovered) == 1
    assert 205 < recovered[0] < 300
    assert d.measure(0).since_tick is None
    assert "Nearest to an alarm" in d.measure(0).note


def test_too_many_categories_are_no_categories() -> None:
    """Ids in place of codes: everything is new, always, and nothing alarms for it."""
    d = detector()
    reference = d.reference()
    reference.add(d.codes([f"id-{number}" for number in range(3000)]), np.arange(3000))
    assert len(reference.counts) == MAX_DISTINCT
    assert reference.n == 3000
    baseline = d.fit(reference)
    assert isinstance(baseline, CategoriesBaseline)
    assert baseline.singletons is None
    d.open(baseline)
    for tick in range(100):
        assert d.update(batch(d.codes([f"no-{tick}-{number}" for number in range(50)])), tick).fired == []


def test_needs_a_reference() -> None:
    d = detector(min_units=300)
    reference = d.reference()
    reference.add(d.codes(["stop"] * 100), np.arange(100))
    reason = d.fit(reference)
    assert isinstance(reason, Insufficient)
    assert (reason.have, reason.need) == (100, 300)


def test_the_e_value_of_something_new_is_one_on_average() -> None:
    """Over references and next units drawn alike, with many categories that are rare."""
    rng, n = np.random.default_rng(4), 300
    shares = 1 / np.arange(1, 400) ** 1.5
    shares /= shares.sum()
    e = []
    for _ in range(4000):
        units = rng.choice(len(shares), n + 1, p=shares)
        counts = np.bincount(units[:-1], minlength=len(shares))
        e.append((counts[units[-1]] == 0) * (n + 1) / (np.sum(counts == 1) + 1))
    assert np.mean(e) <= 1 + 2.33 * np.std(e) / np.sqrt(len(e))
    assert np.mean(e) > 0.5
    d = detector(min_units=200)
    rare = [f"rare {number}" for number in range(9)]
    baseline = fitted(d, d.codes(["stop"] * (n - 9) + rare))
    assert baseline.singletons == 9
    [new] = [test for test in _tests(baseline) if test.direction == NEW]
    assert np.exp(new.factors[0]) == pytest.approx(1 - ETAS + ETAS * (n + 1) / 10)
    assert np.exp(new.factors[1]) == pytest.approx(1 - ETAS)


@pytest.mark.parametrize("exponent", [0.0, 2.0])
def test_false_alarms_are_at_most_those_promised_over_references(exponent: float) -> None:
    """Each stream with a reference of its own, drawn like its traffic: the mean over references counts. With an
    exponent of 2 a unit in a hundred is of a category that the reference hardly ever has."""
    target, slots, ticks, size, n = 500, 40, 300, 10, 2000
    d = detector(BudgetConfig(false_alarms=86_400 * 30 / target, streams=1))
    rng = np.random.default_rng(5)
    shares = 1 / np.arange(1, 100 if exponent else 6) ** exponent
    shares /= shares.sum()
    for _ in range(slots):
        d.open(fitted(d, rng.choice(len(shares), n, p=shares).astype(np.float64)))
    alarms = np.zeros(slots)
    for tick in range(ticks):
        value = rng.choice(len(shares), size * slots, p=shares).astype(np.float64)
        alarms[d.update(batch(value, np.repeat(np.arange(slots), size)), tick).fired] += 1
    rate, error = alarms.mean() / ticks, alarms.std(ddof=1) / np.sqrt(slots) / ticks
    assert rate - 2.33 * error <= 1 / target


def test_slots_with_other_baselines_share_a_bank_and_its_memory() -> None:
    d = ready()
    small = fitted(d, d.codes(["a"] * 1900 + ["b"] * 300))
    assert d.open(small) == 1
    size = len(pack(d.snapshot()))
    for _ in range(5):
        assert d.open(small, 0) == 0
        assert d.open(d.baseline(0), 1) == 1
    assert len(pack(d.snapshot())) <= size
    fresh = detector()
    fresh.restore(unpack(pack(d.snapshot())))
    value = d.codes(["a"] * 30 + ["new"] * 20)
    assert (fresh.codes(["new"]) == value[-1]).all()
    assert d.update(batch(value, np.repeat([0, 1], 25)), 0) == fresh.update(batch(value, np.repeat([0, 1], 25)), 0)
    assert fresh.measure(1) == d.measure(1)


def test_events_without_sessions_weigh_less_and_promise_nothing() -> None:
    """Requests of one kind come in runs of 40."""
    d, rng = detector(BUDGET, min_units=2000), np.random.default_rng(6)
    value = np.repeat(draw(d, rng, 600), 40)
    alone = np.full(100, -1)
    reference = d.reference()
    for start in range(0, len(value), 10):
        reference.add(value[start : start + 10], alone[:10])
    baseline = d.fit(reference)
    assert isinstance(baseline, CategoriesBaseline)
    assert baseline.guarantee == "none"
    assert 20 < baseline.deff < 80
    d.open(baseline)
    fired: list[int] = []
    for tick in range(100):
        part = np.repeat(draw(d, rng, 3), 40)[:100]
        fired += d.update(TickBatch(np.zeros(100, np.intp), part, alone), tick).fired
    assert fired == []
    assert d.measure(0).guarantee == "none"
    assert "deff" in d.measure(0).note
