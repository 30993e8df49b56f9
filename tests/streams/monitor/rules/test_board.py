"""Rules over closed windows, and the same through the whole fold."""

import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.detectors.burn import PAIRS
from driftline.detectors.config import DetectorsConfig
from driftline.detectors.state import pack, unpack
from driftline.schemas.events import MICROSECONDS, Event, Release, Trace
from driftline.schemas.results import Alert, Evidence
from driftline.streams.monitor.config import MonitorConfig, WindowConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.monitor.rules.board import Board
from driftline.streams.monitor.rules.config import RuleConfig, SloConfig
from driftline.streams.monitor.rules.reference import HOUR
from driftline.streams.monitor.windows import Closed
from driftline.streams.pricing import Pricer
from tests.streams.monitor.log import START as LOG_START
from tests.streams.monitor.log import TOPICS, Log, results_of, run_log, traffic
from tests.streams.monitor.rules.made import (
    MINUTE,
    START,
    assert_order_and_restarts_do_not_matter,
    board,
    end,
    window,
)

ERRORS = RuleConfig(name="errors", metric="error_rate", above=0.01, clear=0.005, for_s=120, clear_for_s=120)


def run(board: Board, windows: Sequence[Closed], until: int) -> list[Evidence | Alert]:
    """One tick at the end of each minute, from the first window's on."""
    results: list[Evidence | Alert] = []
    by_minute: dict[int, list[Closed]] = {}
    for closed in windows:
        by_minute.setdefault((closed.start - START) // MINUTE, []).append(closed)
    for minute in range(min(by_minute, default=0), until):
        results += board.close(by_minute.get(minute, []), end(minute), minute)
    return results


def alerts(results: Sequence[object]) -> list[tuple[str, str, int]]:
    """State, release and minute of its window."""
    return [(r.state, r.release, (r.ts - START) // MINUTE - 1) for r in results if isinstance(r, Alert)]


def test_it_fires_after_its_duration_and_resolves_with_hysteresis() -> None:
    errors = [0, 0, 5, 5, 5, 0, 1, 0, 0, 0]  # of 100; one of them is between the limits
    results = run(board(rules=[ERRORS]), [window(i, errors=n) for i, n in enumerate(errors)], len(errors))
    assert alerts(results) == [("firing", "v1", 3), ("resolved", "v1", 8)]
    firing, resolved = (r for r in results if isinstance(r, Alert))
    assert firing.since == START + 2 * MINUTE
    assert (firing.rule, firing.component) == ("threshold", "errors")
    assert firing.dedup_key == resolved.dedup_key
    assert firing.summary.startswith("bot v1: error rate 5.0% (above 1.0% for 2 min), since ")
    assert "no false-alarm rate is stated" in firing.false_alarms
    assert "errors by type" in firing.action
    assert "clear for 2 min" in resolved.description
    states = [r.state for r in results if isinstance(r, Evidence) and r.ts == end(3)]
    assert states == ["alarm", "alarm"]  # the change, and the regular report


def test_a_second_episode_is_another_alert() -> None:
    errors = [5, 5, 0, 0, 5, 5]
    results = run(board(rules=[ERRORS]), [window(i, errors=n) for i, n in enumerate(errors)], 6)
    firing = [r for r in results if isinstance(r, Alert) and r.state == "firing"]
    assert [a.episode for a in firing] == [1, 2]
    assert firing[0].id != firing[1].id


def test_models_of_a_release_are_judged_together_and_releases_apart() -> None:
    windows = [
        window(minute, 50, errors, release=release, model=model)
        for minute in range(3)
        for release, model, errors in (("v1", "a", 0), ("v1", "b", 1), ("v2", "a", 0), ("v2", "b", 0))
    ]
    assert alerts(run(board(rules=[ERRORS.model_copy(update={"above": 0.009})]), windows, 3)) == [("firing", "v1", 1)]
    whole = ERRORS.model_copy(update={"per": "app"})
    assert alerts(run(board(rules=[whole]), windows, 3)) == []
    lower = whole.model_copy(update={"above": 0.004, "clear": 0.004})
    assert alerts(run(board(rules=[lower]), windows, 3)) == [("firing", "", 1)]


def test_only_what_the_patterns_match() -> None:
    windows = [window(i, errors=9, app=app, release=r) for i in range(3) for app in ("bot", "shop") for r in ("1", "2")]
    rule = ERRORS.model_copy(update={"app": "b*", "release": "2"})
    assert alerts(run(board(rules=[rule]), windows, 3)) == [("firing", "2", 1)]


def test_silence_ends_an_alert_after_an_hour_and_nothing_is_kept() -> None:
    watched = board(rules=[ERRORS])
    results = run(watched, [window(0, errors=5), window(1, errors=5)], 130)
    assert alerts(results) == [("firing", "v1", 1), ("resolved", "v1", 61)]
    assert "nothing to judge it by for 60 min" in [r for r in results if isinstance(r, Alert)][-1].description
    assert watched.snapshot()["parts"]["threshold"]["streams"] == []


def test_no_traffic_can_be_a_rule() -> None:
    rule = RuleConfig(name="alive", metric="requests", below=1, for_s=180, per="app", severity="critical")
    results = run(board(rules=[rule]), [window(0), window(1), window(9), window(10)], 12)
    assert alerts(results) == [("firing", "", 4), ("resolved", "", 10)]


def test_an_unknown_price_is_not_a_cost_of_nothing() -> None:
    rule = RuleConfig(name="cheap", metric="cost_usd", below=1)
    assert alerts(run(board(rules=[rule]), [window(0, usd=None), window(1, usd=2.0)], 2)) == []
    assert alerts(run(board(rules=[rule]), [window(0, usd=0.5)], 1)) == [("firing", "v1", 0)]


def quality(minute: int, level: float, release: str = "v1") -> Closed:
    return window(minute, release=release, scores={"relevance": [level] * 30})


DROP = RuleConfig(name="quality", metric="quality", score="relevance", drop=0.05, clear=0.02, for_s=60)


def test_without_a_baseline_nothing_fires_and_it_is_said() -> None:
    results = run(board(rules=[DROP]), [quality(i, 0.8 if i < 30 else 0.4) for i in range(50)], 50)
    assert alerts(results) == []
    states = {r.state for r in results if isinstance(r, Evidence)}
    assert states == {"insufficient_reference"}
    assert "60 healthy windows" in next(r.note for r in results if isinstance(r, Evidence))


def test_a_drop_against_the_baseline_which_is_held_while_it_lasts() -> None:
    levels = [0.8] * 90 + [0.74] * 200 + [0.8] * 5
    results = run(board(rules=[DROP]), [quality(i, level) for i, level in enumerate(levels)], len(levels))
    assert alerts(results) == [("firing", "v1", 90), ("resolved", "v1", 291)]
    evidence = [r for r in results if isinstance(r, Evidence) and r.ts == end(280)]
    assert evidence[0].baseline == pytest.approx(0.8)
    assert evidence[0].effect == pytest.approx(-0.075)
    assert evidence[0].threshold == pytest.approx(0.76)


def test_nothing_is_a_multiple_of_zero() -> None:
    rule = RuleConfig(name="errors", metric="error_rate", times_baseline=2)
    results = run(board(rules=[rule]), [window(i, errors=int(i > 80)) for i in range(90)], 90)
    assert alerts(results) == []
    assert [r.note for r in results if isinstance(r, Evidence)][
        -1
    ] == "the usual is not above zero, and has no multiples"


def test_another_size_of_windows_goes_on() -> None:
    watched = board(rules=[ERRORS])
    run(watched, [window(i) for i in range(10)], 10)
    state = unpack(pack(watched.snapshot()))
    larger = board(state, rules=[ERRORS], windows=WindowConfig(size_s=300))
    results = [r for m in (10, 15, 20) for r in larger.close([window(m, errors=5)], START + (m + 5) * MINUTE, m)]
    assert [(r.state, r.ts) for r in results if isinstance(r, Alert)] == [("firing", START + 15 * MINUTE)]


def test_a_canary_is_held_against_the_stable_release_and_teaches_nothing() -> None:
    windows = [quality(i, 0.8) for i in range(80)] + [quality(i, 0.7, "canary") for i in range(40, 80)]
    assert alerts(run(board(rules=[DROP]), windows, 80)) == [("firing", "canary", 60)]
    alone = [quality(i, 0.8, "canary") for i in range(80)] + [quality(80, 0.4, "canary")]
    assert alerts(run(board(rules=[DROP]), alone, 81)) == []


def test_the_judge_s_own_test_is_no_traffic() -> None:
    windows = [quality(i, 0.8) for i in range(80)] + [quality(i, 0.3, "golden") for i in range(80)]
    assert alerts(run(board(rules=[DROP]), windows, 80)) == []


def test_what_lasts_a_week_is_the_new_normal() -> None:
    week = 7 * 24 * 60
    windows = [quality(i, 0.8) for i in range(0, 600, 10)] + [quality(i, 0.7) for i in range(600, week + 900, 10)]
    results = run(board(rules=[DROP], evidence_s=86_400), windows, week + 900)
    assert alerts(results)[0] == ("firing", "v1", 600)
    [(state, _, minute)] = alerts(results)[1:]
    assert state == "resolved"
    assert week < minute < week + 700


def test_corrections_of_closed_windows_do_not_fire() -> None:
    watched = board(rules=[ERRORS])
    for minute in range(4):
        assert not alerts(watched.close([window(minute)], end(minute), minute))
    assert not alerts(watched.close([window(m, errors=90, corrected=True) for m in range(4)], end(4), 4))


def test_a_release_that_left_takes_its_alerts_with_it() -> None:
    watched = board(rules=[ERRORS])
    run(watched, [window(0, errors=9, release="v2"), window(1, errors=9, release="v2")], 2)
    [gone] = watched.forget("bot", "v2", end(1) + 30 * MICROSECONDS, 2, "v2 was taken out of traffic")
    assert (gone.state, gone.release) == ("resolved", "v2")
    # the minute in which it left is no news, a later one is
    assert alerts(watched.close([window(2, errors=9, release="v2")], end(2), 3)) == []
    assert alerts(watched.close([window(3, errors=9, release="v2")], end(3), 4)) == []
    assert alerts(watched.close([window(4, errors=9, release="v2")], end(4), 5)) == [("firing", "v2", 4)]


def test_a_changed_rule_ends_its_alerts_and_a_changed_text_does_not() -> None:
    watched = board(rules=[ERRORS])
    run(watched, [window(0, errors=5), window(1, errors=5)], 2)
    state = unpack(pack(watched.snapshot()))
    reworded = board(state, rules=[ERRORS.model_copy(update={"action": "Call.", "severity": "critical"})])
    assert alerts(reworded.close([window(2, errors=5)], end(2), 3)) == []
    for rules in ([ERRORS.model_copy(update={"above": 0.02})], []):
        results = board(state, rules=rules).close([window(2, errors=5)], end(2), 3)
        assert alerts(results) == [("resolved", "v1", 2)]
        assert "changed or taken out" in next(r for r in results if isinstance(r, Alert)).description


SLO = SloConfig(name="availability", objective=0.999)


def test_a_burning_budget_pages_and_stops_when_the_short_window_is_below() -> None:
    # 2 % of 200 requests a minute from minute 120 to 180: 20 times what is allowed.
    results = run(board(slo=[SLO]), [window(i, 200, 4 if 120 <= i < 180 else 0) for i in range(300)], 300)
    mine = {r.state: r for r in results if isinstance(r, Alert) and r.component == "availability 1h/5m"}
    # the hour's burn passes 14.4 with the 44th bad minute: 4 x 44 / (200 x 60 x .001) = 14.67
    assert (mine["firing"].ts - START) // MINUTE - 1 == 120 + 43
    assert mine["firing"].since == START + 120 * MINUTE
    assert mine["firing"].severity == "critical"
    assert mine["firing"].value == pytest.approx(4 * 44 / 12_000)
    # 5 minutes: 14.4 x .001 x 1,000 = 14.4 bad ones; the second good minute leaves 12
    assert (mine["resolved"].ts - START) // MINUTE - 1 == 181
    assert "1.5% of requests failed in 1 h" in mine["firing"].summary
    assert "176 of 12,000" in mine["firing"].description


def test_few_requests_do_not_page_by_chance() -> None:
    # One failure among 4 requests an hour burns at 250, and is nothing.
    windows = [window(i, 1, errors=int(i == 45)) for i in range(0, 60, 15)]
    assert alerts(run(board(slo=[SLO]), windows, 60)) == []
    windows = [window(i, 1, errors=1) for i in range(0, 60, 15)]
    assert ("firing", "", 15) in alerts(run(board(slo=[SLO]), windows, 60))  # two of two: 1e-6


def test_slow_answers_burn_a_budget_of_their_own() -> None:
    slow = SloConfig(name="fast", objective=0.95, latency_ms=1_000)
    windows = [window(i, 100, latency=[500] * 10 + [2_000] * 90) for i in range(60)]
    results = run(board(slo=[slow]), windows, 60)
    [first, *_] = [r for r in results if isinstance(r, Alert)]
    assert first.component == "fast 1h/5m"
    assert "90.0% of requests took over 1,000 ms" in first.summary


def test_burns_report_each_pair() -> None:
    results = run(board(slo=[SLO]), [window(0, 200, 1)], 1)
    evidence = [r for r in results if isinstance(r, Evidence)]
    assert [r.component for r in evidence] == [f"availability {pair.name}" for pair in PAIRS]
    assert all(r.log_p is not None and r.guarantee == "none" for r in evidence)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"rules": [ERRORS, ERRORS]}, "rules: the name 'errors' is taken"),
        ({"slo": [SLO, SLO]}, "slo: the name 'availability' is taken"),
        ({"slo": [SLO], "windows": WindowConfig(size_s=600)}, "windows.size_s must divide 300: slo"),
    ],
)
def test_a_wrong_configuration_names_its_key(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MonitorConfig(**config)


EVERYTHING: dict[str, Any] = {"rules": [ERRORS, DROP.model_copy(update={"min_requests": 1})], "slo": [SLO]}

minutes = st.lists(
    st.tuples(
        st.integers(0, 40), st.sampled_from(["v1", "v2"]), st.sampled_from("ab"), st.integers(0, 9), st.integers(0, 3)
    ),
    max_size=40,
    unique_by=lambda t: t[:3],
)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(minutes, st.randoms(use_true_random=False), st.sets(st.integers(1, 39)))
def test_order_and_restarts_do_not_matter(
    rows: list[tuple[int, str, str, int, int]], rng: random.Random, cuts: set[int]
) -> None:
    def windows(minute: int) -> list[Closed]:
        return [
            window(minute, 50, e, release=r, model=m, scores={"relevance": [0.8 - s / 10]})
            for i, r, m, e, s in rows
            if i == minute
        ]

    assert_order_and_restarts_do_not_matter(EVERYTHING, windows, 41, rng, cuts)


def test_one_tick_for_many_windows_is_the_same_as_many_ticks() -> None:
    windows = [window(i, errors=5 if i in (3, 4, 5) else 0) for i in range(20)]
    apart = run(board(rules=[ERRORS]), windows, 20)
    at_once = board(rules=[ERRORS]).close(windows, end(19), 0)
    assert alerts(at_once) == alerts(apart)


# The whole fold.


def failing(start: int, stop: int) -> Callable[[Trace, random.Random], None]:
    def change(trace: Trace, rng: random.Random) -> None:
        trace.status, trace.error_type = "ok", ""
        if LOG_START + start * MICROSECONDS <= trace.ts < LOG_START + stop * MICROSECONDS and rng.random() < 0.3:
            trace.status, trace.error_type = "error", "503"

    return change


def new_fold(snapshot: bytes | None = None) -> MonitorFold:
    rule = ERRORS.model_copy(update={"min_requests": 5})
    return MonitorFold(MonitorConfig(rules=(rule,), slo=(SLO,)), DetectorsConfig(), TOPICS, Pricer(), snapshot)


@pytest.fixture(scope="module")
def log() -> Log:
    log = Log()
    events: list[Event] = list(traffic(3, 0, 430, 0.5, failing(120, 300)))
    log.extend(events, LOG_START + 430 * MICROSECONDS)
    return log


async def test_a_rule_fires_and_resolves_through_the_fold(log: Log) -> None:
    results = await run_log(new_fold(), log.records)
    mine = [r for r in results if isinstance(r, Alert) and r.rule == "threshold"]
    assert [(r.state, (r.ts - LOG_START) // MINUTE) for r in mine] == [("firing", 4), ("resolved", 7)]
    assert mine[0].since == LOG_START + 2 * MINUTE
    assert mine[0].contributors == ["openai gpt-4o-mini: 503 (100%)"]
    assert any(r.rule == "slo_burn" for r in results if isinstance(r, Alert))


async def test_batches_and_restarts_change_no_rule(log: Log) -> None:
    whole = await run_log(new_fold(), log.records, size=len(log.records))
    results = []
    fold = new_fold()
    cuts = random.Random(2).sample(range(len(log.records)), 4)
    for start, stop in pairwise([0, *sorted(cuts), len(log.records)]):
        results += results_of(await fold.absorb(log.records[start:stop]))
        fold = new_fold(fold.snapshot())
    assert results == whole


async def test_a_canary_called_back_resolves_its_rules() -> None:
    log = Log()
    events: list[Event] = list(traffic(4, 0, 220, 1, failing(0, 0)))
    for event in events:
        if isinstance(event, Trace) and event.ts >= LOG_START + 60 * MICROSECONDS and event.trace_id < "8":
            event.release, event.canary_share, event.status, event.error_type = "v2", 0.5, "error", "500"
    common = {"app": "bot", "release": "v2", "stable": "v1", "deployment_id": "d", "share": 0.5}
    events.append(Release(ts=LOG_START + MINUTE, id="1", kind="canary_start", **common))  # type: ignore[arg-type]
    stop = LOG_START + 200 * MICROSECONDS
    events.append(Release(ts=stop, id="2", kind="canary_stop", outcome="rolled_back", **common))  # type: ignore[arg-type]
    log.extend(events, LOG_START + 220 * MICROSECONDS)
    results = await run_log(new_fold(), log.records)
    mine = [r for r in results if isinstance(r, Alert) and r.rule == "threshold"]
    assert [(r.release, r.state) for r in mine] == [("v2", "firing"), ("v2", "resolved")]
    assert mine[1].ts == stop


def test_state_is_bounded() -> None:
    watched = board(**EVERYTHING)
    for hour in range(0, 24 * 8, 12):
        watched.close([window(hour * 60, 200, 3, scores={"relevance": [0.8] * 30})], START + hour * HOUR + MINUTE, hour)
    assert len(pack(watched.snapshot())) < 20_000
