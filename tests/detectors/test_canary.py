from collections.abc import Callable

import numpy as np
import pytest

from driftline.detectors.base import Floats
from driftline.detectors.betting import RateProcess
from driftline.detectors.canary import ArmBatch, Canary, Measure
from driftline.detectors.config import CanaryConfig
from driftline.detectors.state import pack, unpack

S = 1_000_000
CONFIG = CanaryConfig()
NOBODY = ArmBatch([], np.empty(0, np.bool_), np.empty(0), {})


def batch(first: int, canary: Floats, rho: float, **values: Floats) -> ArmBatch:
    """One event of each of the units `first`, `first` + 1, …"""
    names: dict[str, Measure] = {"error": "error", "latency": "latency", "quality": "quality", "guardrail": "guardrail"}
    return ArmBatch(
        [f"u{i}" for i in range(first, first + len(canary))],
        canary.astype(np.bool_),
        np.full(len(canary), rho),
        {names[name]: value for name, value in values.items()},
    )


def errors(rates: tuple[float, float], rho: float, seconds: int, seed: int = 0, size: int = 20) -> tuple[Canary, int]:
    """Traffic with these error rates (stable, canary) until a verdict other than hold; its second."""
    rng = np.random.default_rng(seed)
    canary = Canary(CONFIG, 0)
    for second in range(seconds):
        arm = (rng.random(size) < rho).astype(float)
        bad = (rng.random(size) < np.where(arm, rates[1], rates[0])).astype(float)
        canary.update(batch(second * size, arm, rho, error=bad), second * S)
        if canary.verdict().action != "hold":
            return canary, second
    return canary, seconds


@pytest.mark.parametrize("rho", [0.1, 0.5])
def test_errors_roll_back(rho: float) -> None:
    canary, second = errors((0.005, 0.05), rho, 400)
    verdict = canary.verdict()
    assert verdict.action == "rollback"
    assert "errors" in verdict.reason
    assert verdict.log_e_total >= verdict.threshold == pytest.approx(np.log(20))
    assert second < 200
    assert verdict.effects["error"] > 0.02
    assert verdict.counts["canary_units"] + verdict.counts["stable_units"] == 20 * (second + 1)
    assert verdict.guarantee == "stated"


def test_equal_error_rates_do_not() -> None:
    """The chance is at most 5 %: 10 runs of 6,000 units at one rate, at most two rolled back (99 %)."""
    assert sum(errors((0.02, 0.02), 0.1, 300, seed)[0].verdict().action == "rollback" for seed in range(10)) <= 2


def test_a_canary_on_fire_goes_at_once() -> None:
    canary, second = errors((0.01, 0.6), 0.5, 20)
    verdict = canary.verdict()
    assert verdict.action == "rollback"
    assert "requests failed" in verdict.reason
    assert second < 4


def test_an_outage_of_both_arms_is_not_the_canarys_fault() -> None:
    canary, second = errors((0.6, 0.6), 0.5, 100, seed=4)
    assert canary.verdict().action == "hold"
    assert second == 100


def test_breaker_on_the_canary_only() -> None:
    canary = Canary(CONFIG, 0)
    canary.update(NOBODY, S)
    assert canary.verdict().action == "hold"
    assert canary.verdict(canary_breaker_open=True).action == "rollback"


def test_a_unit_counts_once() -> None:
    once = RateProcess()
    once.add(0.5, True)
    canary = Canary(CONFIG, 0)
    for second in range(100):
        unit = ArmBatch(["same"], np.array([True]), np.array([0.5]), {"error": np.array([1.0])})
        canary.update(unit, second * S)
    verdict = canary.verdict()
    assert verdict.log_e["errors"] == pytest.approx(once.log_harm())
    assert verdict.counts["canary_units"] == 1
    assert verdict.counts["canary_requests"] == 100


def test_a_unit_stays_in_the_arm_of_its_first_event() -> None:
    canary = Canary(CONFIG, 0)
    for arm in (True, False, False):
        canary.update(ArmBatch(["u"], np.array([arm]), np.array([0.5]), {"latency": np.array([1.0])}), 0)
    assert canary.verdict().counts["stable_units"] == 0


def test_slower_answers_roll_back_and_slightly_slower_ones_do_not() -> None:
    def run(slowdown: float) -> str:
        rng = np.random.default_rng(1)
        canary = Canary(CONFIG, 0, {"latency": rng.lognormal(6, 0.5, 5000)})
        for second in range(400):
            arm = (rng.random(20) < 0.5).astype(float)
            latency = rng.lognormal(6, 0.5, 20) * np.where(arm, slowdown, 1)
            canary.update(batch(second * 20, arm, 0.5, latency=latency), second * S)
            if canary.verdict().action != "hold":
                break
        return canary.verdict().action

    assert run(1.5) == "rollback"
    assert run(1.02) == "hold"


def test_traffic_split_otherwise_than_stated_is_invalid() -> None:
    rng = np.random.default_rng(1)
    canary = Canary(CONFIG, 0)
    for second in range(300):
        arm = (rng.random(20) < 0.15).astype(float)
        canary.update(batch(second * 20, arm, 0.1, error=np.zeros(20)), second * S)
    assert canary.verdict().action == "invalid"


def test_promotes_what_is_shown_to_be_fine() -> None:
    canary, second = errors((0.05, 0.05), 0.5, 2000)
    verdict = canary.verdict()
    assert verdict.action == "promote"
    assert second >= 600
    assert verdict.counts["canary_units"] >= 500
    assert canary.verdict(stable_incident=True).action == "hold"


def test_requests_and_scores_can_come_together_or_apart() -> None:
    rng = np.random.default_rng(1)
    together, apart = Canary(CONFIG, 0), Canary(CONFIG, 0)
    for second in range(100):
        arm = (rng.random(5) < 0.5).astype(float)
        errors, scores, none = (rng.random(5) < 0.2).astype(float), rng.random(5), np.full(5, np.nan)
        first = second * 5
        requests, judged = batch(first, arm, 0.5, error=errors), batch(first, arm, 0.5, quality=scores)
        apart.update(requests, second * S)
        apart.update(judged, second * S)
        units = [*requests.unit, *judged.unit]
        values: dict[Measure, Floats] = {
            "error": np.concatenate([errors, none]),
            "quality": np.concatenate([none, scores]),
        }
        arms = np.concatenate([arm, arm]).astype(np.bool_)
        together.update(ArmBatch(units, arms, np.full(10, 0.5), values), second * S)
    assert together.verdict() == apart.verdict()
    assert together.verdict().counts["canary_requests"] + together.verdict().counts["stable_requests"] == 500


def test_no_verdict_in_time_is_a_timeout() -> None:
    canary = Canary(CONFIG, 0)
    canary.update(batch(0, np.array([0.0, 1.0]), 0.5, error=np.zeros(2)), 21_600 * S)
    verdict = canary.verdict()
    assert verdict.action == "timeout"
    assert "errors" in verdict.reason


@pytest.mark.parametrize("share", [5e-324, 1e-300, 1e-7, 1 - 1e-16, 0.9999999])
def test_shares_next_to_nothing_are_compared_with_nothing(share: float) -> None:
    canary = Canary(CanaryConfig(), 0)
    errors: dict[Measure, Floats] = {"error": np.array([1.0, 0.0])}
    canary.update(ArmBatch(["a", "b"], np.array([True, False]), np.array([share, share]), errors), 0)
    assert canary.verdict().counts["excluded"] == 2
    assert abs(canary.verdict().log_e_total) < 1e-12


def test_events_outside_of_the_experiment_are_counted() -> None:
    canary = Canary(CONFIG, 0)
    share = np.array([0.0, 1.0, np.nan, 0.5])
    arms = np.array([False, True, False, True])
    canary.update(ArmBatch(["a", "b", "c", ""], arms, share, {"error": np.array([1.0, 1.0, 1.0, 7.0])}), 0)
    verdict = canary.verdict()
    assert verdict.counts["excluded"] == 3
    assert verdict.counts["invalid"] == 1
    assert verdict.counts["canary_requests"] == 1
    assert verdict.guarantee == "none"


def single_pass(stable: Floats, other: Floats, rho: float, seed: int, reference: Floats | None) -> Canary:
    """Each prompt once, in random order, one a second in ticks of ten, answered by one of the arms and judged."""
    rng = np.random.default_rng(seed)
    canary = Canary(CONFIG, 0, None if reference is None else {"quality": reference})
    order = rng.permutation(len(stable))
    arm = (rng.random(len(stable)) < rho).astype(float)
    scores = np.where(arm, other[order], stable[order])
    for first in range(0, len(stable) + 70, 10):
        part = slice(first, first + 10)
        canary.update(batch(first, arm[part], rho, error=np.zeros(len(arm[part]))), first * S)
        canary.update(batch(first, arm[part], rho, quality=scores[part]), first * S)
        if canary.verdict().action in ("rollback", "invalid"):
            break
    return canary


@pytest.mark.parametrize("rho", [0.5, 0.1])
def test_a_worse_model_is_rolled_back_within_one_pass(preferences: Callable[[str], Floats], rho: float) -> None:
    stable, worse = preferences("gpt-3.5-turbo-1106"), preferences("falcon-7b-instruct")
    runs = [single_pass(stable, worse, rho, seed, stable) for seed in range(20)]
    verdicts = [run.verdict() for run in runs]
    assert [verdict.action for verdict in verdicts].count("rollback") >= 19
    assert (
        np.median([sum(verdict.counts[f"{arm}_units"] for arm in ("stable", "canary")) for verdict in verdicts]) < 400
    )
    assert all("quality" in verdict.reason for verdict in verdicts if verdict.action == "rollback")


def test_the_same_model_hosted_elsewhere_is_not(preferences: Callable[[str], Floats]) -> None:
    stable, same = preferences("vicuna-13b-v1.5"), preferences("vicuna-13b-v1.5-togetherai")
    for reference, rho in ((stable, 0.5), (stable, 0.1), (None, 0.5)):
        actions = [single_pass(stable, same, rho, seed, reference).verdict().action for seed in range(10)]
        assert actions.count("rollback") <= 1  # 5 % of 10, rounded up


def test_goes_on_from_a_snapshot() -> None:
    rng = np.random.default_rng(0)
    for references in (None, {"latency": rng.lognormal(6, 0.5, 100), "quality": rng.random(100)}):
        canary = Canary(CONFIG, 0, references)  # type: ignore[arg-type]  # a literal of measures
        for second in range(150):
            restored = Canary.restored(CONFIG, unpack(pack(canary.snapshot())))
            arm = (rng.random(5) < 0.3).astype(float)
            traces = ArmBatch(
                [f"u{i}" if i else "" for i in rng.integers(0, 40, 5)],
                arm.astype(np.bool_),
                rng.choice([0.3, 0.5, 0.0], 5),
                {"error": rng.choice([0.0, 1.0, np.nan], 5), "latency": rng.lognormal(6, 0.5, 5)},
            )
            scores = ArmBatch(traces.unit, traces.canary, traces.share, {"quality": rng.random(5)})
            for each in (canary, restored):
                each.update(traces, second * S)
                each.update(scores, second * S)
            assert pack(canary.snapshot()) == pack(restored.snapshot())
            assert canary.verdict() == restored.verdict()
