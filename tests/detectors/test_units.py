from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftline.detectors.base import Floats
from driftline.detectors.config import UnitsConfig
from driftline.detectors.digests import digests
from driftline.detectors.state import pack, unpack
from driftline.detectors.units import FirstEvents, FirstSixteen, SessionMeans, SessionUnits, Taken

S = 1_000_000
CONFIG = UnitsConfig()


def take(units: FirstEvents | FirstSixteen, stream: list[int], session: list[str], now: int) -> Taken:
    return units.take(np.array(stream, np.int64), digests(session), now)


def step_means(
    units: SessionMeans, stream: list[int], session: list[str], value: list[float] | Floats, now: int
) -> SessionUnits:
    return units.step(np.array(stream, np.int64), digests(session), np.array(value, np.float64), now)


def test_first_event_of_each_session_of_each_stream() -> None:
    units = FirstEvents(CONFIG)
    taken = take(units, [1, 1, 2, 1, 1], ["a", "a", "a", "b", ""], 0)
    assert taken.mask.tolist() == [True, False, True, True, True]
    assert taken.session.tolist() == [0, 0, 1, 2, -1]
    taken = take(units, [1, 1, 1], ["a", "c", ""], S)
    assert taken.mask.tolist() == [False, True, True]
    assert taken.session[taken.mask].tolist() == [3, -1]


def test_a_session_is_forgotten_an_hour_after_its_last_event() -> None:
    units = FirstEvents(CONFIG)
    taken = [take(units, [1], ["a"], second * S).mask[0] for second in (0, 3599, 3599 + 3599, 3599 + 3599 + 3600)]
    assert taken == [True, False, False, True]


def test_too_many_sessions_are_forgotten_oldest_first_and_counted() -> None:
    units = FirstEvents(UnitsConfig(max_sessions=10))
    for second in range(12):
        take(units, [1], [f"s{second}"], second * S)
    assert units.overflow == 6
    assert take(units, [1] * 2, ["s11", "s0"], 12 * S).mask.tolist() == [False, True]


def test_a_session_that_is_forgotten_while_open_goes_on() -> None:
    units = SessionMeans(UnitsConfig(max_sessions=2))
    step_means(units, [1] * 3, ["a", "b", "c"], [1.0, 1.0, 1.0], 0)
    assert units.overflow == 3
    step_means(units, [1], ["a"], [0.0], S)
    assert step_means(units, [], [], [], 60 * S).value.tolist() == [0.5, 1.0, 1.0]


def test_sixteen_events_within_a_minute() -> None:
    units = FirstSixteen(CONFIG)
    taken = take(units, [1] * 20 + [1], ["a"] * 20 + ["b"], 0)
    assert taken.mask.tolist() == [True] * 16 + [False] * 4 + [True]
    assert taken.session.tolist() == [0] * 20 + [1]
    assert take(units, [1, 1, 1], ["a", "b", "b"], 59 * S).mask.tolist() == [False, True, True]
    assert units.open_from == 1
    assert take(units, [1, 1, 1], ["a", "b", ""], 60 * S).mask.tolist() == [False, False, True]
    assert units.open_from == 2
    assert take(units, [1], ["b"], 59 * S + 3700 * S).session.tolist() == [2]


def test_session_means_close_after_a_minute_or_at_the_sixteenth() -> None:
    units = SessionMeans(CONFIG)
    closed = step_means(units, [1] * 3, ["a", "b", ""], np.array([0.0, 1.0, 0.5]), 0)
    assert closed.value.tolist() == [0.5]
    assert closed.session.tolist() == [-1]
    assert len(step_means(units, [1] * 2, ["a", "a"], np.array([1.0, 1.0]), 30 * S).value) == 0
    closed = step_means(units, [1] * 16, ["c"] * 15 + ["c"], np.arange(16.0), 59 * S)
    assert closed.value.tolist() == [7.5]
    assert closed.events.tolist() == [16]
    assert closed.opened.tolist() == [59 * S]
    closed = step_means(units, [1, 1], ["a", "c"], np.array([0.0, 0.0]), 60 * S)
    assert closed.opened.tolist()[0] == 0
    assert closed.value.tolist() == pytest.approx([2 / 3, 1.0])
    assert closed.session.tolist() == [0, 1]
    assert closed.events.tolist() == [3, 1]
    assert len(step_means(units, [], [], np.empty(0), 500 * S).value) == 0


def test_invalid_values_are_units_of_their_own() -> None:
    units = SessionMeans(CONFIG)
    closed = step_means(units, [1, 1, 1], ["a", "a", ""], np.array([np.nan, 0.5, np.inf]), 0)
    assert np.isnan(closed.value).all()
    assert len(closed.value) == 2
    assert step_means(units, [], [], np.empty(0), 60 * S).value.tolist() == [0.5]


EVENTS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(1, 2), st.sampled_from(["", "a", "b", "c"]), st.floats(0, 1)), max_size=25),
        st.integers(1, 2000),
    ),
    max_size=12,
)


def first(units: Any, stream: list[int], session: list[str], _: Any, now: int) -> Any:
    taken = take(units, stream, session, now)
    return taken.mask.tolist(), taken.session.tolist(), getattr(units, "open_from", 0)


def means(units: SessionMeans, stream: list[int], session: list[str], value: Any, now: int) -> Any:
    closed = step_means(units, stream, session, np.array(value), now)
    return [column.tolist() for column in (closed.stream, closed.value, closed.session, closed.events)]


@pytest.mark.parametrize(("kind", "step"), [(FirstEvents, first), (FirstSixteen, first), (SessionMeans, means)])
@given(ticks=EVENTS, cut=st.integers(0, 12))
def test_goes_on_from_a_snapshot(kind: Any, step: Callable[..., Any], ticks: Any, cut: int) -> None:
    units, now = kind(CONFIG), 0
    for i, (events, seconds) in enumerate(ticks):
        now += seconds * S
        columns = [list(column) for column in zip(*events, strict=True)] or [[], [], []]
        if i >= cut:
            restored = kind(CONFIG)
            restored.restore(unpack(pack(units.snapshot())))
            assert step(restored, *columns, now) == step(units, *columns, now)
            assert pack(restored.snapshot()) == pack(units.snapshot())
        else:
            step(units, *columns, now)


@given(ticks=EVENTS)
def test_every_scored_event_is_in_one_unit(ticks: Any) -> None:
    units, now, sessions, closed = SessionMeans(CONFIG), 0, 0, []
    scored = FirstSixteen(CONFIG)
    for events, seconds in ticks:
        now += seconds * S
        columns = [list(column) for column in zip(*events, strict=True)] or [[], [], []]
        sessions += int(take(scored, columns[0], columns[1], now).mask.sum())
        closed += step_means(units, columns[0], columns[1], np.array(columns[2]), now).events.tolist()
    closed += step_means(units, [], [], np.empty(0), now + 60 * S).events.tolist()
    assert sum(closed) == sessions


def test_streams_with_open_sessions_are_held() -> None:
    sixteen, means = FirstSixteen(CONFIG), SessionMeans(CONFIG)
    take(sixteen, [3, 3, 5, 8], ["a", "b", "a", ""], 0)
    step_means(means, [3, 3, 5, 8], ["a", "b", "a", ""], [1.0] * 4, 0)
    assert sixteen.held() == means.held() == {3, 5}
    take(sixteen, [], [], 60 * S)
    step_means(means, [], [], [], 60 * S)
    assert sixteen.held() == means.held() == set()


def test_sessions_are_forgotten_before_their_streams_number_is_anothers() -> None:
    with pytest.raises(ValueError, match="forget_after_s"):
        UnitsConfig(forget_after_s=86_401)
