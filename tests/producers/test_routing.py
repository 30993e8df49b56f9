from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from driftline.producers import BreakerState, CanaryConfig, CanaryRouter, Route
from driftline.schemas.results import BreakerSignal, RollbackSignal

USERS = [f"user-{i}" for i in range(5_000)]


def canary(share: float, deployment_id: str = "d1") -> CanaryConfig:
    return CanaryConfig(stable="v1", canary="v2", share=share, deployment_id=deployment_id)


def rollback(deployment_id: str) -> RollbackSignal:
    return RollbackSignal(
        id="r", deployment_id=deployment_id, app="a", release="v2", stable="v1", decided_at=1, revision=1, reason="",
        log_e={}, weights={}, log_e_total=5.0, threshold=4.0, alpha=0.01, counts={}, effects={}, share=0.1,
    )  # fmt: skip


def breaker(state: Literal["open", "half_open", "closed"], at: int, revision: int = 0) -> BreakerSignal:
    return BreakerSignal(
        id=f"b{at}", app="a", provider="openai", model="m", state=state, at=at, revision=revision, reason="",
        probe_share=0.05, requests=0, errors=0,
    )  # fmt: skip


def test_a_share_of_users_and_always_the_same() -> None:
    router = CanaryRouter(canary(0.1))
    chosen = {user for user in USERS if router.route(user).is_canary}
    assert 400 < len(chosen) < 600
    assert router.route(next(iter(chosen))) == Route("v2", 0.1, True)
    assert chosen == {user for user in USERS if CanaryRouter(canary(0.1)).route(user).is_canary}
    assert chosen != {user for user in USERS if CanaryRouter(canary(0.1, "d2")).route(user).is_canary}


@given(st.floats(0, 1), st.floats(0, 1), st.text(max_size=20))
def test_a_growing_share_keeps_its_users(low: float, high: float, user: str) -> None:
    low, high = sorted((low, high))
    router = CanaryRouter(canary(low))
    was_canary = router.route(user).is_canary
    router.update(canary(high))
    assert router.route(user).is_canary >= was_canary


def test_no_canary() -> None:
    assert CanaryRouter(CanaryConfig(stable="v1")).route("u") == Route("v1", None, False)


def test_a_rollback_is_obeyed_once_and_for_good() -> None:
    router = CanaryRouter(canary(1.0))
    assert not router.obey(rollback("another"))
    assert router.route("u").is_canary
    assert router.obey(rollback("d1"))
    assert not router.obey(rollback("d1"))
    assert router.route("u") == Route("v1", None, False)
    router.update(canary(0.5))
    assert not router.route("u").is_canary
    router.update(canary(1.0, "d2"))
    assert router.route("u").is_canary


def allowed(state: BreakerState) -> int:
    return sum(state.allows("openai", "m", user) for user in USERS)


def test_breaker_states() -> None:
    state = BreakerState()
    assert allowed(state) == len(USERS)
    assert state.obey(breaker("open", 1))
    assert allowed(state) == 0
    assert state.allows("anthropic", "m", "u")
    assert state.obey(breaker("half_open", 2))
    assert 150 < allowed(state) < 350
    assert state.obey(breaker("closed", 3))
    assert allowed(state) == len(USERS)


def test_old_and_repeated_signals_change_nothing() -> None:
    state = BreakerState()
    assert state.obey(breaker("open", 5))
    assert not state.obey(breaker("open", 5))
    assert not state.obey(breaker("closed", 4))
    assert state.state("openai", "m") == "open"


def test_signals_commute() -> None:
    signals = [breaker("open", 1), breaker("half_open", 2), breaker("closed", 3)]
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        state = BreakerState()
        for i in order:
            state.obey(signals[i])
        assert state.state("openai", "m") == "closed"
