"""What the detection benchmark makes of alarms."""

import math

import numpy as np
import pytest

from benchmarks.detection.metrics import Rate, before, calibration, delays, matched, summary, threshold
from benchmarks.detection.verdicts import Row, calibrated, rivals, stated_goals


def test_calibration_is_alarms_over_stated_ones() -> None:
    found = calibration(Rate(50, 50_000), 1 / 500)
    assert found["calibration_ratio"] == pytest.approx(0.5)
    # scipy.stats.poisson: P(X >= 50) and P(X <= 50) are 2.5 % at 37.11 and 65.92
    assert found["calibration_low"] == pytest.approx(37.11 / 100, abs=1e-4)
    assert found["calibration_high"] == pytest.approx(65.92 / 100, abs=1e-4)


def test_no_alarm_still_bounds_the_rate() -> None:
    assert Rate(0, 1000).interval == pytest.approx((0, -math.log(0.025) / 1000))


def test_delays_count_from_the_change_to_the_first_alarm_that_saw_it() -> None:
    alarms = [[99], [100], [50, 199, 205], [], [1200]]
    found = delays(alarms, [100] * 5, 1000)
    assert np.isnan(found[[0, 3, 4]]).all()
    assert found[[1, 2]].tolist() == [1, 100]
    assert before(alarms, [100] * 5) == 2


def test_summary_tells_what_was_not_found() -> None:
    shown = summary(np.array([10.0, 30.0, np.nan, np.nan]), 100)
    assert shown["detected_share"] == 0.5
    assert shown["delay_mean_events"] == 20
    assert shown["delay_p95_events"] == 29
    assert shown["delay_restricted_events"] == 60
    assert summary(np.array([np.nan]), 7) == {
        "detected_share": 0,
        "delay_mean_events": None,
        "delay_p95_events": None,
        "delay_restricted_events": 7,
    }


@pytest.mark.parametrize("sign", [1, -1])
def test_matched_comes_close_to_the_target_from_below(sign: int) -> None:
    def rate(parameter: float) -> float:
        return float(parameter**sign / 1000)

    found = matched(rate, 1e-6, 1e6, 0.02, steps=40)
    assert rate(found) == pytest.approx(0.02, rel=1e-6)
    assert rate(found) <= 0.02


def test_matched_gives_the_end_where_the_target_is_out_of_reach() -> None:
    assert matched(lambda parameter: parameter, 0.5, 1.0, 0.1) == 0.5
    assert matched(lambda parameter: parameter, 0.01, 0.05, 0.1) == 0.05


def test_threshold_is_exceeded_by_the_share() -> None:
    statistics = np.random.default_rng(0).permutation(1000).astype(float)
    limit = threshold(statistics, 0.02)
    assert (statistics > limit).sum() == 20
    assert threshold(statistics, 0.0) == 999


def test_verdicts_on_calibration() -> None:
    def verdict(ratio: float, low: float) -> str:
        return calibrated({"calibration_ratio": ratio, "calibration_low": low})

    assert [verdict(0.5, 0.3), verdict(0.1, 0.05), verdict(1.2, 0.9), verdict(2.0, 1.5)] == [
        "met",
        "conservative",
        "met",
        "missed",
    ]


def _row(tool: str, detector: str, delay: float, setting: str = "matched") -> Row:
    return {
        "stream": "D9 errors 1 % to 5 %",
        "signal": "error",
        "tool": tool,
        "detector": detector,
        "setting": setting,
        "null": False,
        "detected_share": 1.0,
        "delay_mean_events": delay,
        "delay_restricted_events": delay,
    }


def test_the_best_of_each_side_is_compared() -> None:
    rows = [
        _row("driftline", "a", 60),
        _row("driftline", "b", 90),
        _row("river", "c", 100),
        _row("scipy", "d", 80),
        _row("river", "e", 1, setting="default"),
    ]
    (rivalry,) = rivals(rows)
    assert (rivalry["ours"], rivalry["peer"], rivalry["ratio"]) == ("a", "scipy d", 0.75)
    assert not rivalry["met"]
    assert not rivalry["we_lose"]
    assert "peer" not in rivals(rows[:2])[0]


def test_a_peer_that_alarms_too_often_is_no_rival() -> None:
    calm, wild = _row("scipy", "calm", 500), _row("scipy", "wild", 1)
    null = wild | {"stream": "N1 independent", "null": True, "calibration_low": 3.0}
    (rivalry,) = rivals([_row("driftline", "a", 60), calm, wild, null])
    assert rivalry["peer"] == "scipy calm"
    sessions = [row | {"stream": "D1, sessions of 4"} for row in (_row("driftline", "a", 60), wild)]
    assert "peer" in rivals([*sessions, null])[0]
    assert "peer" not in rivals([*sessions, null | {"stream": "N2 sessions of 4"}])[0]


def test_stated_goals_look_at_the_stated_level() -> None:
    rows = [_row("driftline", "error_rate", 650, "stated"), _row("driftline", "error_rate", 100)]
    (goal,) = stated_goals(rows)
    assert (goal["goal_events"], goal["delay_mean_events"], goal["met"]) == (700, 650, True)
