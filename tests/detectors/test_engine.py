import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp

from driftline.detectors.base import Floats
from driftline.detectors.bernoulli import log_ratios, worse
from driftline.detectors.config import BudgetConfig, RecoveryConfig
from driftline.detectors.engine import Engine

BUDGET = BudgetConfig()
GOLDEN_BAD = [1, 0, 2, 5, 6, 4, 7, 5]  # of 100 in each tick, p0 = 0.01
GOLDEN_LOG_E = [-1.189185, -1.132253, 0.037254, 3.655961, 8.915922, 11.243354, 18.469954, 22.473974]
BAD, GOOD = log_ratios(0.01, worse(0.01))


def budget(target: float) -> BudgetConfig:
    """Of one stream, whose 1/alpha is `target` ticks."""
    return BudgetConfig(false_alarms=86_400 * 30 / target, streams=1)


def engine(target: float = 1 / BUDGET.alpha, recovery: RecoveryConfig | None = None) -> Engine:
    return Engine(8, 1, budget(target), recovery or RecoveryConfig())


def step(e: Engine, log_l: Floats, tick: int, log_r: float = 0.0, units: int = 1, total: float = 0.0) -> bool:
    """One tick of slot 0; whether it fired."""
    changes = e.step(
        np.array([0]), log_l[None], np.array([[log_r]]), np.array([units]), np.array([[total, total]]), tick
    )
    return changes.fired == [0]


def counts(bad: int, n: int = 100) -> Floats:
    log_l: Floats = bad * BAD + (n - bad) * GOOD
    return log_l


def test_golden_values() -> None:
    e = engine()
    e.open(None)
    for tick, (bad, expected) in enumerate(zip(GOLDEN_BAD, GOLDEN_LOG_E, strict=True)):
        fired = step(e, counts(bad), tick)
        assert e.log_e(0) == pytest.approx(expected, abs=1e-6)
        assert fired == (tick == 7)


def test_agrees_with_the_log_form_over_200_ticks() -> None:
    rng = np.random.default_rng(1)
    e = engine(1e300)
    e.open(None)
    log_m = np.full(8, -np.inf)
    for tick in range(200):
        log_l = counts(int(rng.binomial(100, 0.012)))
        step(e, log_l, tick)
        log_m = log_l + np.logaddexp(log_m, 0)
        assert e.log_e(0) == pytest.approx(logsumexp(log_m) - math.log(8), rel=1e-12, abs=1e-12)


@given(gaps=st.lists(st.integers(1, 50), min_size=1, max_size=20))
def test_empty_ticks_in_closed_form(gaps: list[int]) -> None:
    lazy, eager = engine(), engine()
    lazy.open(None)
    eager.open(None)
    tick = 0
    m = np.zeros(8)
    empty = np.empty(0, np.intp)
    for i, gap in enumerate(gaps):
        for between in range(tick + 1, tick + gap):
            eager.step(empty, np.empty((0, 8)), np.empty((0, 1)), np.empty(0, np.int64), np.empty((0, 2)), between)
            m += 1.0 if i else 0.0  # time begins with the first unit
        tick += gap
        step(lazy, counts(1), tick)
        step(eager, counts(1), tick)
        m = np.exp(counts(1)) * (m + 1)
        assert lazy.log_e(0) == eager.log_e(0)
        assert lazy.log_e(0) == pytest.approx(math.log(m.mean()), rel=1e-9, abs=1e-9)


def test_since_is_when_the_change_began() -> None:
    e = engine()
    e.open(None)
    for tick in range(1000):
        assert not step(e, counts(0, 10), tick, units=10, total=0)
    tick = 1000
    while not step(e, counts(2, 10), tick, units=10, total=2):
        tick += 1
    run = e.run(0)
    assert run is not None
    assert run.since_tick == 1000
    assert run.units == 10 * (tick - 999)
    assert run.mean == pytest.approx(0.2)


def test_recovery_waits_for_evidence_and_for_the_shortest_duration() -> None:
    recovery = RecoveryConfig(e_close=100, min_open_s=10, max_open_s=1000)
    e = engine(recovery=recovery)
    e.open(None)
    assert step(e, np.full(8, 30.0), 5)
    assert e.in_alarm().tolist() == [True]
    none = np.empty(0, np.intp)

    def silence(tick: int) -> list[int]:
        nothing = np.empty((0, 8)), np.empty((0, 1)), np.empty(0, np.int64), np.empty((0, 2))
        return e.step(none, *nothing, tick).recovered

    assert silence(500) == []  # no evidence in silence
    step(e, np.zeros(8), 501, log_r=math.log(50))
    assert silence(502) == []
    changes = e.step(
        np.array([0]), np.zeros((1, 8)), np.array([[math.log(3)]]), np.array([1]), np.array([[0.0, 0.0]]), 503
    )
    assert changes.recovered == [0]
    assert e.log_e(0) is None  # re-armed with nothing
    assert step(e, np.full(8, 30.0), 504)
    e.step(np.array([0]), np.zeros((1, 8)), np.array([[20.0]]), np.array([1]), np.array([[0.0, 0.0]]), 505)
    assert silence(513) == []
    assert silence(514) == [0]


def test_bad_times_do_not_delay_recovery() -> None:
    e = engine(recovery=RecoveryConfig(min_open_s=0))
    e.open(None)
    step(e, np.full(8, 30.0), 0)
    step(e, np.zeros(8), 1, log_r=-500.0)
    changes = e.step(np.array([0]), np.zeros((1, 8)), np.array([[5.0]]), np.array([1]), np.array([[0.0, 0.0]]), 2)
    assert changes.recovered == [0]


def test_longest_duration_ends_an_incident() -> None:
    e = engine(recovery=RecoveryConfig(min_open_s=1, max_open_s=100))
    e.open(None)
    step(e, np.full(8, 30.0), 0)
    nothing = np.empty((0, 8)), np.empty((0, 1)), np.empty(0, np.int64), np.empty((0, 2))
    assert e.step(np.empty(0, np.intp), *nothing, 99).recovered == []
    assert e.step(np.empty(0, np.intp), *nothing, 100).recovered == [0]


def test_extreme_factors_neither_overflow_nor_underflow_for_ever() -> None:
    e = engine()
    e.open(None)
    step(e, np.full(8, -1e6), 0)
    assert e.log_e(0) is None
    assert step(e, np.full(8, 1e6), 1)
    assert e.log_e(0) == 600.0


def test_alarm_rate_is_at_most_the_target() -> None:
    """The mean time to alarm at the boundary of the null, over 300 streams: at least 500 ticks (one-sided 99 %)."""
    rng = np.random.default_rng(0)
    streams, ticks = 300, 3000
    e = engine(500, RecoveryConfig(min_open_s=0, max_open_s=1))
    for _ in range(streams):
        e.open(None)
    slots, alarms = np.arange(streams), np.zeros(streams)
    for tick in range(ticks):
        bad = rng.binomial(20, 0.01, streams)[:, None]
        log_l = bad * BAD + (20 - bad) * GOOD
        changes = e.step(slots, log_l, np.zeros((streams, 1)), np.full(streams, 20), np.zeros((streams, 2)), tick)
        alarms[changes.fired] += 1
    rate = alarms.mean() / ticks
    error = alarms.std(ddof=1) / math.sqrt(streams) / ticks
    assert rate > 0
    assert rate - 2.33 * error <= 1 / 500
