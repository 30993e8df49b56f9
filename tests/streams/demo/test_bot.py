from collections import Counter
from collections.abc import Sequence
from typing import Literal

import pytest

from driftline.producers import BreakerState, CanaryRouter
from driftline.schemas.codec import decode_events, encode_events
from driftline.schemas.events import MICROSECONDS, Release, Trace
from driftline.schemas.results import BreakerSignal, RollbackSignal
from driftline.streams.demo.bot import SupportBot, stable_only
from driftline.streams.demo.corpus import Corpus, load_corpus
from driftline.streams.demo.plan import SPENDER
from driftline.streams.demo.scenario import DEPLOYMENT, FALLBACK, MINUTE, PRIMARY, Phase, Scenario
from driftline.streams.pricing import Pricer

Event = Trace | Release


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return Scenario()


class Day:
    """A bot and the controls that it obeys."""

    def __init__(self, scenario: Scenario, corpus: Corpus, seed: int = 7) -> None:
        self.scenario = scenario
        self.router, self.breakers = CanaryRouter(stable_only()), BreakerState()
        self.bot = SupportBot(scenario, corpus, seed, self.router, self.breakers)

    def play(self, began: int, ended: int, slice_s: int = 60) -> list[Event]:
        step = slice_s * MICROSECONDS
        return [event for at in range(began, ended, step) for event in self.bot.step(at, min(at + step, ended))]


@pytest.fixture(scope="module")
def day(scenario: Scenario, corpus: Corpus) -> list[Event]:
    """All of it, with no signal ever given."""
    return Day(scenario, corpus).play(scenario.start, scenario.end)


def traces(events: Sequence[Event]) -> list[Trace]:
    return [event for event in events if isinstance(event, Trace)]


def within(events: Sequence[Event], phase: Phase) -> list[Trace]:
    return [trace for trace in traces(events) if phase.began_at <= trace.ts < phase.ended_at]


def phases(scenario: Scenario, name: str) -> list[Phase]:
    return [phase for phase in scenario.phases if phase.name == name]


def rollback() -> RollbackSignal:
    return RollbackSignal(
        id="r", deployment_id=DEPLOYMENT, app="support-bot", release="v2", stable="v1", decided_at=1, revision=1,
        reason="", log_e={}, weights={}, log_e_total=5.0, threshold=4.0, alpha=0.01, counts={}, effects={}, share=0.1,
    )  # fmt: skip


def breaker(state: Literal["open", "half_open", "closed"], at: int) -> BreakerSignal:
    return BreakerSignal(
        id=f"b{at}", app="support-bot", provider=PRIMARY.provider, model=PRIMARY.request_model, state=state, at=at,
        revision=0, reason="", probe_share=0.05, requests=0, errors=0,
    )  # fmt: skip


def test_the_corpus_is_what_it_claims(corpus: Corpus) -> None:
    assert len(corpus.everyday) > 1_000
    assert len(corpus.coding) > 90
    assert 250 < len(corpus.languages) < 1_000
    for pool in (corpus.everyday, corpus.coding, corpus.languages):
        assert len(set(pool)) == len(pool)
        assert all(pair.question.strip() and pair.answer.strip() for pair in pool)
        assert all(pair.question_tokens > 0 and pair.answer_tokens > 0 for pair in pool)
    assert load_corpus() == corpus


def test_the_same_seed_gives_the_same_bytes_in_any_slices(scenario: Scenario, corpus: Corpus, day: list[Event]) -> None:
    until = scenario.start + 10 * MINUTE
    expected = encode_events([event for event in day if event.ts < until])
    assert encode_events(Day(scenario, corpus).play(scenario.start, until, slice_s=7)) == expected
    assert encode_events(Day(scenario, corpus, seed=8).play(scenario.start, until)) != expected


def test_every_event_is_one_that_the_pipeline_takes(day: list[Event]) -> None:
    sample = day[::50]
    decoded = decode_events(encode_events(sample))
    assert not decoded.rejects
    assert decoded.events == sample
    assert len({event.key for event in day}) == len(day)
    assert [event.ts for event in day] == sorted(event.ts for event in day)


def test_the_reference_is_large_enough(scenario: Scenario, day: list[Event]) -> None:
    (warm_up,) = phases(scenario, "warm_up")
    learned = within(day, warm_up)
    assert len(learned) > 20_000
    assert len({trace.conversation_id for trace in learned}) > 2_000
    assert len(day) == pytest.approx(scenario.rate * 330 * 60, rel=0.05)


def test_every_model_has_a_price(day: list[Event]) -> None:
    pricer = Pricer()
    for model in (PRIMARY, FALLBACK):
        trace = Trace(
            app="a", ts=day[0].ts, trace_id="t", provider=model.provider, request_model=model.request_model,
            response_model=model.response_model, input_tokens=1000, output_tokens=1000,
        )  # fmt: skip
        assert pricer.cost_usd(trace)


def test_without_signals_the_canary_runs_into_its_time_limit(scenario: Scenario, day: list[Event]) -> None:
    releases = [event for event in day if isinstance(event, Release)]
    assert [(release.kind, release.outcome) for release in releases] == [
        ("deploy", ""),
        ("canary_start", ""),
        ("canary_stop", "aborted"),
    ]
    assert releases[2].ts == scenario.bad_canary.ended_at
    (canary,) = phases(scenario, "bad_canary")
    released = Counter(trace.release for trace in within(day, canary))
    assert 0.08 < released["v2"] / released.total() < 0.12
    assert {trace.canary_share for trace in within(day, canary)} == {0.1}
    assert all(trace.release == "v1" for trace in traces(day) if scenario.phase(trace.ts).name != "bad_canary")
    by_user = {(trace.user_id, trace.release) for trace in within(day, canary)}
    assert len(by_user) == len({user for user, _ in by_user})


def test_a_rollback_is_obeyed_at_the_next_slice(scenario: Scenario, corpus: Corpus) -> None:
    day = Day(scenario, corpus)
    began = scenario.bad_canary.began_at
    before = day.play(began, began + 2 * MINUTE)
    day.router.obey(rollback())
    after = day.play(began + 2 * MINUTE, began + 4 * MINUTE)
    assert {trace.release for trace in traces(before)} == {"v1", "v2"}
    assert {trace.release for trace in traces(after)} == {"v1"}
    assert {trace.canary_share for trace in traces(after)} == {None}
    (stop,) = [event for event in after if isinstance(event, Release)]
    assert (stop.ts, stop.kind, stop.outcome) == (began + 2 * MINUTE, "canary_stop", "rolled_back")
    assert day.bot.canary_ended_at == stop.ts


def test_the_canary_answers_other_questions(scenario: Scenario, corpus: Corpus, day: list[Event]) -> None:
    answers = {(pair.question, pair.answer) for pair in corpus.everyday}
    (canary,) = phases(scenario, "bad_canary")
    fits = Counter[tuple[str, bool]]()
    for trace in within(day, canary):
        if trace.status == "ok":
            fits[trace.release, (trace.input_text, trace.output_text) in answers] += 1
    assert fits["v1", False] == 0
    assert fits["v2", True] < 0.05 * fits["v2", False]


def test_the_outage_and_what_the_breaker_makes_of_it(scenario: Scenario, corpus: Corpus, day: list[Event]) -> None:
    (outage,) = phases(scenario, "provider_outage")
    suffered = within(day, outage)
    assert 0.3 < sum(trace.status == "error" for trace in suffered) / len(suffered) < 0.6
    assert {trace.error_type for trace in suffered} == {"", "503", "timeout"}
    guarded = Day(scenario, corpus)
    guarded.breakers.obey(breaker("open", 1))
    until = outage.began_at + 5 * MINUTE
    spared = traces(guarded.play(outage.began_at, until))
    assert {trace.provider for trace in spared} == {FALLBACK.provider}
    assert sum(trace.status == "error" for trace in spared) / len(spared) < 0.01
    guarded.breakers.obey(breaker("half_open", 2))
    probing = Counter(trace.provider for trace in traces(guarded.play(outage.began_at, until)))
    assert 0.03 < probing[PRIMARY.provider] / probing.total() < 0.07


def test_the_cost_spike_is_one_customers(scenario: Scenario, day: list[Event]) -> None:
    (spike,) = phases(scenario, "cost_spike")
    spent = [trace for trace in within(day, spike) if trace.user_id == SPENDER and trace.input_tokens]
    others = [trace for trace in within(day, spike) if trace.user_id != SPENDER and trace.input_tokens]
    assert 0.04 < len(spent) / (len(spent) + len(others)) < 0.08

    def mean(found: list[Trace]) -> float:
        return sum(trace.input_tokens or 0 for trace in found) / len(found)

    assert 25 < mean(spent) / mean(others) < 35
    elsewhere = [t for t in traces(day) if t.user_id == SPENDER and t.ts < spike.began_at]
    assert not elsewhere


def test_users_drift_and_come_back(scenario: Scenario, corpus: Corpus, day: list[Event]) -> None:
    coding = {pair.question for pair in corpus.coding} - {pair.question for pair in corpus.everyday}
    foreign = {pair.question for pair in corpus.languages} - {pair.question for pair in corpus.everyday}
    (drift,) = phases(scenario, "topic_drift")

    def share(found: set[str], began: int, ended: int) -> float:
        window = [trace for trace in traces(day) if began <= trace.ts < ended]
        return sum(trace.input_text in found for trace in window) / len(window)

    began = drift.began_at
    assert 0.6 < share(coding, began + 14 * MINUTE, began + 20 * MINUTE) < 0.8
    assert 0.6 < share(foreign, began + 30 * MINUTE, began + 36 * MINUTE) < 0.8
    assert share(coding | foreign, scenario.start, began) == 0
    assert share(coding | foreign, drift.ended_at + 10 * MINUTE, scenario.end) == 0
