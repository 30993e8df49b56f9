from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from driftline.streams.monitor.rules.config import CostBudgetConfig, RuleConfig
from driftline.streams.monitor.rules.evaluate import Row, Step, Verdict, judge, windows


def rule(**fields: Any) -> RuleConfig:
    return RuleConfig(**{"name": "r", "metric": "error_rate", **fields})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "give one of above, below, times_baseline, drop"),
        ({"above": 1, "below": 0}, "not both above and below"),
        ({"above": 0.01, "clear": 0.02}, "clear is not milder than above"),
        ({"below": 0.8, "clear": 0.7}, "clear is not milder than below"),
        ({"times_baseline": 2, "clear": 0.5}, "clear is not milder than times_baseline"),
        ({"drop": 0.05, "clear": 0.06}, "clear is not milder than drop"),
        ({"times_baseline": 0.5}, "times_baseline"),
        ({"drop": 5}, "drop"),
        ({"metric": "quality", "drop": 0.05}, "score"),
        ({"above": 1, "score": "relevance"}, "score"),
        ({"metric": "requests", "below": 1, "min_requests": 5}, "min_requests does not go with requests"),
        ({"above": 1, "metric": "error"}, "metric"),
        ({"above": 1, "foR_s": 1}, "foR_s"),
        ({"above": 1, "name": "a b"}, "name"),
    ],
)
def test_a_wrong_rule_is_refused_by_its_key(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        rule(**fields)
    assert words in str(raised.value)


def test_levels_of_a_budget_ascend() -> None:
    with pytest.raises(ValidationError, match="levels"):
        CostBudgetConfig(name="b", monthly_usd=1, levels=(1.0, 0.8))


@pytest.mark.parametrize(
    ("fields", "value", "baseline", "verdict"),
    [
        ({"above": 0.01}, 0.011, None, Verdict.BAD),
        ({"above": 0.01}, 0.01, None, Verdict.CLEAR),
        ({"above": 0.01, "clear": 0.005}, 0.01, None, Verdict.BETWEEN),
        ({"above": 0.01, "clear": 0.005}, 0.005, None, Verdict.CLEAR),
        ({"below": 5}, 4.9, None, Verdict.BAD),
        ({"below": 5, "clear": 8}, 5, None, Verdict.BETWEEN),
        ({"times_baseline": 2}, 201, 100.0, Verdict.BAD),
        ({"times_baseline": 2, "clear": 1.5}, 151, 100.0, Verdict.BETWEEN),
        ({"times_baseline": 2, "clear": 1.5}, 150, 100.0, Verdict.CLEAR),
        ({"times_baseline": 2}, 201, None, Verdict.QUIET),
        ({"times_baseline": 2}, 0.5, 0.0, Verdict.QUIET),  # twice nothing is no limit
        ({"drop": 0.05}, -2.0, -1.0, Verdict.QUIET),
        ({"drop": 0.05}, 0.75, 0.8, Verdict.BAD),
        ({"drop": 0.05, "clear": 0.02}, 0.77, 0.8, Verdict.BETWEEN),
        ({"drop": 0.05, "clear": 0.02}, 0.79, 0.8, Verdict.CLEAR),
        ({"above": 0.01}, None, None, Verdict.QUIET),
    ],
)
def test_a_window_s_verdict(fields: dict[str, Any], value: float, baseline: float | None, verdict: Verdict) -> None:
    assert judge(rule(**fields), value, 100, baseline) is verdict


def test_a_tiny_window_says_nothing() -> None:
    assert judge(rule(above=0.01), 1.0, 19, None) is Verdict.QUIET
    assert judge(rule(above=0.01), 1.0, 20, None) is Verdict.BAD
    assert judge(rule(above=0.01, min_requests=1), 1.0, 1, None) is Verdict.BAD
    assert judge(rule(metric="requests", below=5), 0.0, 0, None) is Verdict.BAD


def test_durations_are_whole_windows() -> None:
    assert [windows(s, 60) for s in (0, 1, 60, 61, 120)] == [1, 1, 1, 2, 2]


def steps(verdicts: str, bad: int = 2, clear: int = 2, quiet: int = 3) -> str:
    """B(ad), M(between), C(lear), Q(uiet) -> F(ired), C(leared), S(ilent), or a dot."""
    of = {"B": Verdict.BAD, "M": Verdict.BETWEEN, "C": Verdict.CLEAR, "Q": Verdict.QUIET}
    row = Row()
    told = [row.step(of[v], i, empty=False, bad=bad, clear=clear, quiet=quiet) for i, v in enumerate(verdicts)]
    return "".join({"nothing": ".", "fired": "F", "cleared": "C", "silent": "S"}[step.value] for step in told)


@pytest.mark.parametrize(
    ("verdicts", "told"),
    [
        ("BCBB", "...F"),
        ("BQBB", "...F"),  # silence breaks the row
        ("BMBB", "...F"),
        ("BBCC", ".F.C"),
        ("BBCMCC", ".F...C"),  # between the limits: neither
        ("BBCQC", ".F..C"),  # silence is no evidence while it fires
        ("BBQQQ", ".F..S"),
        ("BBQQCQQ", ".F....."),
        ("BBCCBB", ".F.C.F"),
    ],
)
def test_when_it_fires_and_when_it_is_over(verdicts: str, told: str) -> None:
    assert steps(verdicts) == told


def test_since_is_the_first_bad_window_of_the_row() -> None:
    row = Row()
    for start, verdict in enumerate([Verdict.BAD, Verdict.CLEAR, Verdict.BAD, Verdict.BAD]):
        row.step(verdict, start, empty=False, bad=2, clear=1, quiet=9)
    assert row.firing
    assert row.since == 2


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.text("BMCQ", max_size=60), st.integers(1, 5), st.integers(1, 5))
def test_episodes_alternate_and_need_their_windows(verdicts: str, bad: int, clear: int) -> None:
    told = steps(verdicts, bad, clear, quiet=100)
    kinds = told.replace(".", "")
    assert kinds == "FC" * (len(kinds) // 2) + "F" * (len(kinds) % 2)
    for i, step in enumerate(told):
        if step == "F":
            assert verdicts[i - bad + 1 : i + 1] == "B" * bad


def test_silence_is_told_from_a_total_of_zero() -> None:
    row = Row()
    told = [row.step(Verdict.BAD, i, empty=True, bad=1, clear=1, quiet=3) for i in range(3)]
    assert told == [Step.FIRED, Step.NOTHING, Step.SILENT]
