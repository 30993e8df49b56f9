from driftline.streams.embed.config import SampleConfig
from driftline.streams.embed.sampler import HORIZON_S, MAX_COUNTS, MAX_KEYS, Sampler
from tests.streams.embed.fakes import SECOND, T0, trace


def test_takes_the_configured_share_of_traces_and_always_the_same() -> None:
    first, second = (Sampler(SampleConfig(rate=0.2, budget=10**6)) for _ in range(2))
    chosen = [n for n in range(5_000) if first.take(trace(n))]
    assert 850 < len(chosen) < 1_150
    assert chosen == [n for n in range(5_000) if second.take(trace(n))]


def test_takes_whole_conversations() -> None:
    sampler = Sampler(SampleConfig(rate=0.5, budget=10**6))
    taken: dict[str, list[bool]] = {}
    for n in range(400):
        conversation = f"c{n % 40}"
        taken.setdefault(conversation, []).append(sampler.take(trace(n, conversation_id=conversation)))
    assert {all(choices) for choices in taken.values()} == {True, False}
    assert all(len(set(choices)) == 1 for choices in taken.values())


def test_a_budget_holds_per_app_and_window_of_event_time() -> None:
    sampler = Sampler(SampleConfig(window_s=60, budget=3))
    start = T0 - T0 % (60 * SECOND)
    took = [sampler.take(trace(n, ts=start + n, app=app)) for n in range(10) for app in ("a", "b")]
    assert sum(took) == 6
    assert took[:6] == [True] * 6
    assert sampler.take(trace(99, ts=start + 60 * SECOND, app="a"))


def test_a_copy_is_taken_once_and_costs_no_budget() -> None:
    sampler = Sampler(SampleConfig(window_s=3600, budget=2))
    assert [sampler.take(trace(n)) for n in (1, 1, 1, 2, 3)] == [True, False, False, True, False]


def test_spans_and_apps_of_one_trace_id_are_not_copies() -> None:
    sampler = Sampler(SampleConfig())
    assert all(sampler.take(trace(1, app=app, span_id=span)) for app in "ab" for span in "xy")


def test_a_copy_is_recognised_throughout_the_horizon_and_forgotten_after_two() -> None:
    sampler = Sampler(SampleConfig(window_s=10**6))
    sampler.advance(T0)
    assert sampler.take(trace(1))
    sampler.advance(T0 + HORIZON_S * SECOND)
    assert not sampler.take(trace(1))
    assert len(sampler.state().previous) == 8
    sampler.advance(T0 + 2 * HORIZON_S * SECOND)
    state = sampler.state()
    assert state.previous == state.current == b""


def test_what_comes_later_than_the_horizon_is_not_taken_even_if_its_budget_was_forgotten() -> None:
    sampler = Sampler(SampleConfig(window_s=60, budget=1))
    assert sampler.take(trace(0))
    sampler.advance(T0 + (HORIZON_S + 120) * SECOND)
    assert sampler.state().counts == []
    assert not sampler.take(trace(0, trace_id="late"))


def test_an_older_tick_changes_nothing() -> None:
    sampler = Sampler(SampleConfig())
    sampler.advance(T0 + 10**4 * SECOND)
    before = sampler.state()
    sampler.advance(T0)
    assert sampler.state() == before


def test_state_is_bounded_without_ticks() -> None:
    sampler = Sampler(SampleConfig(window_s=1, budget=10))
    for n in range(MAX_KEYS + 10):
        assert sampler.take(trace(n))
    state = sampler.state()
    assert len(state.counts) == MAX_COUNTS
    assert len(state.current) == 8 * 10
    assert len(state.previous) == 8 * MAX_KEYS


def test_goes_on_from_its_state() -> None:
    config = SampleConfig(rate=0.7, window_s=30, budget=5)
    whole, part = Sampler(config), Sampler(config)
    for n in range(200):
        part = Sampler(config, part.state())
        same = trace(n // 2 * 2)
        assert whole.take(same) == part.take(same)
        if n % 20 == 0:
            whole.advance(T0 + n * 40 * SECOND)
            part.advance(T0 + n * 40 * SECOND)
    assert whole.state() == part.state()
