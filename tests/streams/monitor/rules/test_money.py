"""Budgets, burns of money, spikes, and why spending changed."""

import math
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.detectors.config import DetectorsConfig
from driftline.detectors.state import pack, unpack
from driftline.schemas.events import MICROSECONDS, Event, Trace
from driftline.schemas.results import Alert, Evidence
from driftline.streams.monitor.config import MonitorConfig, WindowConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.monitor.rules.board import Board
from driftline.streams.monitor.rules.config import CostBudgetConfig, CostSpikeConfig
from driftline.streams.monitor.rules.money import month_of, month_start
from driftline.streams.monitor.rules.reference import HOUR
from driftline.streams.monitor.rules.spending import MAX_MODELS, Spendings
from driftline.streams.monitor.rules.spikes import History, Usual
from driftline.streams.monitor.windows import Closed
from driftline.streams.pricing import Pricer
from tests.streams.monitor.log import START as LOG_START
from tests.streams.monitor.log import TOPICS, Log, run_log, traffic
from tests.streams.monitor.rules.made import (
    MINUTE,
    START,
    assert_order_and_restarts_do_not_matter,
    board,
    end,
    window,
)

PER_HOUR = WindowConfig(size_s=3_600)  # windows of the slow tests


def hourly(board: Board, hours: range, usd: Callable[[int], float], **fields: Any) -> list[Evidence | Alert]:
    results: list[Evidence | Alert] = []
    for hour in hours:
        results += board.close([window(hour * 60, usd=usd(hour), **fields)], START + (hour + 1) * HOUR, hour)
    return results


def alerts(results: Sequence[object]) -> list[Alert]:
    return [r for r in results if isinstance(r, Alert)]


def test_months() -> None:
    at = datetime(2026, 12, 31, 23, 59, tzinfo=UTC)
    month = month_of(round(at.timestamp()) * MICROSECONDS)
    assert month_start(month) == datetime(2026, 12, 1, tzinfo=UTC).timestamp() * MICROSECONDS
    assert month_start(month + 1) == datetime(2027, 1, 1, tzinfo=UTC).timestamp() * MICROSECONDS


BUDGET = CostBudgetConfig(name="llm", monthly_usd=1_000, burn=False)
MONTH = month_of(START)
REST_H = (month_start(MONTH + 1) - START) // HOUR  # hours from the first window to the end of its month


def test_a_projection_that_passes_a_level_tells_and_takes_it_back() -> None:
    steady = 900 / REST_H  # dollars an hour: 90 % of the budget by the month's end
    watched = board(cost_budget=[BUDGET], windows=PER_HOUR)
    results = hourly(watched, range(48), lambda _: steady)
    [first] = alerts(results)
    assert (first.rule, first.component, first.state, first.severity) == ("cost_budget", "llm 80%", "firing", "warning")
    assert first.ts == START + 24 * HOUR  # a day is known
    assert first.value == pytest.approx(900)
    assert "will end at $900.00, 90% of the budget llm ($1,000.00)" in first.summary
    assert first.since == START
    cheaper = hourly(watched, range(48, 300), lambda _: steady / 2)
    [last] = alerts(cheaper)
    assert (last.state, last.component) == ("resolved", "llm 80%")
    assert last.value == first.value  # of the episode
    dearer = hourly(watched, range(300, REST_H - 1), lambda _: steady * 9)
    assert [a.component for a in alerts(dearer)] == ["llm 80%", "llm 100%"]
    assert "spent" in alerts(dearer)[1].description
    over = hourly(watched, range(REST_H, REST_H + 1), lambda _: 0.0)
    assert [(a.state, a.episode) for a in alerts(over)] == [
        ("resolved", 2),
        ("resolved", 1),
        ("firing", 3),
        ("firing", 2),
    ]
    assert alerts(over)[0].ts == month_start(MONTH + 1) + 1
    assert "a new month began" in alerts(over)[0].description


def test_without_a_day_only_what_is_spent_counts() -> None:
    watched = board(cost_budget=[BUDGET], windows=PER_HOUR)
    results = hourly(watched, range(5), lambda _: 200.0)
    assert [(a.component, (a.ts - START) // HOUR) for a in alerts(results)] == [("llm 80%", 4), ("llm 100%", 5)]
    assert "$800.00 spent this month, 80% of the budget" in alerts(results)[0].summary


def test_a_weekly_pattern_is_projected_exactly() -> None:
    def usd(hour: int) -> float:
        return 0.2 if (hour // 24) % 7 < 5 else 0.05

    watched = board(cost_budget=[BUDGET], windows=PER_HOUR)
    results = hourly(watched, range(10 * 24), usd)
    [evidence] = [r for r in results if isinstance(r, Evidence) and r.ts == START + 240 * HOUR][:1]
    weeks = (REST_H - 240) / 168
    expected = sum(map(usd, range(240))) + weeks * sum(map(usd, range(168)))
    assert evidence.value == pytest.approx(expected, rel=1e-9)
    assert evidence.note == "projected for the month's end"


def test_late_spending_counts_and_is_exact() -> None:
    watched = board(cost_budget=[BUDGET])
    watched.close([window(0, usd=0.1)], end(0), 0)
    late = window(0, usd=0.3, corrected=True)._replace(new_nanousd=200_000_001)
    watched.close([late], end(1), 1)
    [[_, _, account]] = watched.snapshot()["parts"]["cost_budget"]["accounts"]
    assert account["spent"] == 300_000_001
    assert account["requests"] == 100


def test_unpriced_requests_are_counted_and_not_free() -> None:
    watched = board(cost_budget=[BUDGET])
    results = watched.close([window(0, usd=900.0), window(0, usd=None, model="x")], end(0), 0)
    assert "100 requests without a known price" in alerts(results)[0].description
    evidence = next(r for r in results if isinstance(r, Evidence))
    assert (evidence.n_events, evidence.n_not_scored) == (100, 100)


def test_money_burns() -> None:
    budget = CostBudgetConfig(name="llm", monthly_usd=43_200, levels=(9.0,))  # a dollar a minute
    windows = [window(i, usd=20.0 if 90 <= i < 150 else 0.5, tokens=1_000) for i in range(180)]
    watched = board(cost_budget=[budget])
    results = [r for w in windows for r in watched.close([w], w.start + MINUTE, 0)]
    mine = [a for a in alerts(results) if a.component == "llm 1h/5m"]
    assert [(a.state, (a.ts - START) // MINUTE - 1) for a in mine] == [("firing", 90 + 42), ("resolved", 151)]
    assert mine[0].rule == "cost_burn"
    assert mine[0].since == START + 90 * MINUTE
    assert "times what the budget llm of $43,200.00 a month allows" in mine[0].summary
    assert "(requests 0%, tokens per request 0%, model mix 0%, price +3900%)" in mine[0].description


def spending(hour: int, rng: random.Random) -> float:
    return (2 + math.sin(hour / 24 * 2 * math.pi)) * rng.lognormvariate(0, 0.15)


def test_a_spike_is_told_after_a_week_and_explained() -> None:
    rng = random.Random(1)
    config = CostSpikeConfig(span_s=3_600, clear_for_s=3_600)
    watched = board(cost_spike=config, windows=PER_HOUR)
    quiet = hourly(watched, range(9 * 24), lambda hour: spending(hour, rng), tokens=1_000)
    assert alerts(quiet) == []
    states = [r.state for r in quiet if isinstance(r, Evidence)]
    assert states == ["insufficient_reference"] * 167 + ["ok"] * 49
    spike = hourly(watched, range(216, 220), lambda hour: 8 * spending(hour, rng), tokens=5_000)
    [firing] = alerts(spike)
    assert (firing.rule, firing.ts, firing.since) == ("cost_spike", START + 217 * HOUR, START + 216 * HOUR)
    assert firing.effect == pytest.approx(7, abs=3)
    assert "usually $" in firing.summary
    assert "tokens per request" in firing.description
    after = hourly(watched, range(220, 222), lambda hour: spending(hour, rng), tokens=1_000)
    assert [a.state for a in alerts(after)] == ["resolved"]
    [[_, state]] = watched.snapshot()["parts"]["cost_spike"]["apps"]
    learned = set(state["history"]["numbers"].tolist())
    first = START // HOUR
    assert learned & set(range(first + 214, first + 223)) == {first + 214, first + 215, first + 220}


SPAN = 15 * MINUTE


def test_what_is_usual_is_the_median_of_this_time_on_other_days() -> None:
    history = History(0, SPAN)
    for minute in range(60 * 24 * 7):
        history.advance(minute * MINUTE)
        day, busy = minute // 1_440, 600 <= minute % 1_440 < 660
        history.add(minute * MINUTE, (1_000_000 * (1 + day % 3) * 10 if busy else 1_000_000))
    at = (7 * 1_440 + 630) * MINUTE
    history.advance(at)
    busy_usual, quiet_usual = history.usual(at, 7), history.usual(at + 4 * HOUR, 7)
    assert isinstance(busy_usual, Usual)
    assert busy_usual.dollars(0) == pytest.approx(15 * 0.001 * 20)  # of 10, 20, 30, 10, …
    assert isinstance(quiet_usual, Usual)
    assert quiet_usual.level == pytest.approx(math.log(15_001))
    assert quiet_usual.scale == 0.05


def test_spans_without_windows_are_without_spending_and_unhealthy_ones_are_not_learned() -> None:
    history = History(0, SPAN)
    for day in range(2):
        for minute in range(600, 660):
            start = (day * 1_440 + minute) * MINUTE
            history.advance(start)
            history.add(start, None if day == 0 and minute == 601 else 1_000_000)
            if day == 1 and minute == 650:
                history.hold()
    history.advance(3 * 24 * HOUR)
    spans = dict(zip(*(history.snapshot()[name].tolist() for name in ("numbers", "values")), strict=True))
    assert [round(spans.get(n, -1), 3) for n in range(39, 45)] == [0.0, -1, 9.616, 9.616, 9.616, 0.0]
    assert [round(spans.get(n, -1), 3) for n in range(135, 141)] == [0.0, 9.616, 9.616, 9.616, -1, 0.0]
    assert history.usual(3 * 24 * HOUR + 60 * MINUTE, 1) == "on most days nothing is spent at this time"
    assert history.usual(12 * HOUR, 1) == "needs 1 days of spending to know what is usual"


def test_why_spending_changed() -> None:
    spendings = Spendings(60)
    for minute in range(25 * 60):
        late = minute >= 24 * 60 + 30
        rows = [window(minute, 100, usd=1.0, tokens=10_000)]
        if late:
            rows = [window(minute, 100, usd=1.5, tokens=15_000), window(minute, 50, usd=2.0, tokens=5_000, model="big")]
        spendings.add(START + minute * MINUTE, rows)
    why = spendings.why("bot", START + (24 * 60 + 30) * MINUTE)
    assert why.startswith("Spending of bot against the same hour a day before: +250% (requests ")
    parts = [float(part.rsplit(" ", 1)[1].rstrip("%).")) for part in why.split("(")[1].split(", ")]
    assert sum(parts) == pytest.approx(250, abs=2)
    assert parts[-1] == 0  # prices did not change: a dear model came
    assert spendings.why("shop", START) == ""


def test_the_memory_of_spending_is_bounded() -> None:
    spendings = Spendings(60)
    for minute in range(0, 30 * 60, 7):
        rows = [window(minute, usd=1.0, tokens=9, model=f"m{i}") for i in range(MAX_MODELS + 9)]
        spendings.add(START + minute * MINUTE, rows)
    assert len(pack(spendings.snapshot())) < 15_000
    spendings.add(START + 80 * HOUR, [])
    assert spendings.snapshot()["hours"] == []


EVERYTHING: dict[str, Any] = {
    "cost_budget": [CostBudgetConfig(name="llm", monthly_usd=50)],
    "cost_spike": CostSpikeConfig(span_s=300, history_days=0.01, clear_for_s=60),
}

minutes = st.lists(
    st.tuples(st.integers(0, 80), st.sampled_from("ab"), st.sampled_from("mn"), st.integers(0, 4)),
    max_size=50,
    unique_by=lambda t: t[:3],
)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(minutes, st.randoms(use_true_random=False), st.sets(st.integers(1, 79)))
def test_order_and_restarts_do_not_matter(
    rows: list[tuple[int, str, str, int]], rng: random.Random, cuts: set[int]
) -> None:
    def windows(minute: int) -> list[Closed]:
        return [window(minute, app=a, model=m, usd=n or None, tokens=n) for i, a, m, n in rows if i == minute]

    assert_order_and_restarts_do_not_matter(EVERYTHING, windows, 81, rng, cuts)


async def test_a_budget_through_the_fold_counts_every_nanodollar() -> None:
    log = Log()
    events: list[Event] = list(traffic(6, 0, 150, 1))
    for event in events:
        assert isinstance(event, Trace)
        event.cost_usd = 0.000_000_123
    log.extend(events, LOG_START + 200 * MICROSECONDS)
    config = MonitorConfig(cost_budget=(CostBudgetConfig(name="tiny", monthly_usd=1e-5),))
    fold = MonitorFold(config, DetectorsConfig(), TOPICS, Pricer(), None)
    results = await run_log(fold, log.records)
    [[_, _, account]] = unpack(fold.snapshot())["analysis"]["board"]["parts"]["cost_budget"]["accounts"]
    closed = [e for e in events if e.ts < LOG_START + 180 * MICROSECONDS]
    assert account["spent"] == 123 * len(closed)
    assert {a.component for a in alerts(results) if a.rule == "cost_budget"} == {"tiny 80%", "tiny 100%"}


def dearer(trace: Trace, rng: random.Random) -> None:
    trace.cost_usd = (trace.input_tokens or 0) * 1e-6 + (trace.output_tokens or 0) * 1e-6
    if trace.ts >= LOG_START + 3_690 * MICROSECONDS:
        trace.input_tokens = 10 * (trace.input_tokens or 0)
        trace.cost_usd *= 10


async def test_an_alert_on_the_cost_of_requests_says_why() -> None:
    log = Log()
    log.extend(list(traffic(8, 3_500, 3_720, 15, dearer)), LOG_START + 3_720 * MICROSECONDS)
    fold = MonitorFold(MonitorConfig(), DetectorsConfig(), TOPICS, Pricer(), None)
    [alert, *_] = [a for a in alerts(await run_log(fold, log.records)) if a.rule == "cost_p99"]
    why = alert.contributors[-1]
    assert why.startswith("Cost per request against the hours before: +")
    assert "model mix 0%" in why
    assert "tokens per request +" in why
    assert why in alert.description
