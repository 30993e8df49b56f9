from collections.abc import Sequence
from typing import Any

import pytest

from driftline.schemas.events import MICROSECONDS, Event, Release, Tick
from driftline.streams.operate.tally import Group, Place, Selection, Tally
from tests.streams.operate.conftest import START, score, trace
from tests.streams.operate.records import record

MINUTE = 60 * MICROSECONDS


def tally(*values: Sequence[Event] | bytes, size_s: int = 60, **selection: Any) -> Tally:
    made = Tally(Selection(size_s, **selection))
    made.add(0, [record(offset, value) for offset, value in enumerate(values)])
    return made


def test_events_count_once_per_app_kind_and_window() -> None:
    found = tally(
        [trace(1, 0), trace(1, 0), trace(2, 59.9), trace(3, 60), trace(1, 5, app="other")],
        [score(1, 0), score(1, 0), trace(2, 59.9)],
    )
    expected = {
        Group("trace", "bot", START): 2,
        Group("trace", "bot", START + MINUTE): 1,
        Group("trace", "other", START): 1,
        Group("score", "bot", START): 1,
    }
    assert found.events == 8
    assert found.in_tables() == found.in_windows() == expected


def test_windows_of_another_size_count_what_is_in_them() -> None:
    for size_s, counts in ((30, [1, 1, 1]), (120, [3])):
        found = tally([trace(1, 0), trace(2, 30), trace(3, 60)], size_s=size_s)
        assert sorted(found.in_tables().values()) == sorted(found.in_windows().values()) == counts


def test_a_copy_with_another_time_is_one_row_per_minute_the_newest_and_one_event_per_window() -> None:
    found = tally([trace(1, 0), trace(1, 20)], size_s=10)
    assert found.in_tables() == {Group("trace", "bot", START + 20 * MICROSECONDS): 1}
    assert sum(found.in_windows().values()) == 2
    assert found.moved() == 0
    assert tally([trace(1, 0), trace(1, 70)]).moved() == 1


def test_of_a_release_the_newest_copy_counts() -> None:
    def release(second: int) -> Release:
        return Release(app="bot", ts=START + second * MICROSECONDS, id="r", kind="deploy", release="v1")

    assert tally([release(0)], [release(300)]).in_tables() == {Group("release", "bot", START + 5 * MINUTE): 1}


def test_what_cannot_be_decoded_is_known_by_its_place() -> None:
    found = tally([trace(1, 0)], b"{oops", b'[{"type":"trace"},{"type":"tick","ts":3}]')
    assert found.rejects == {Place(0, 1, -1), Place(0, 2, 0), Place(0, 2, 1)}
    assert found.events == 1
    assert not tally(b"{oops", app="other").rejects


def test_an_event_that_clickhouse_refused_is_in_windows_alone() -> None:
    found = tally([trace(1, 0), trace(2, 0), score(1, 0)])
    found.refuse(trace(1, 0))
    found.refuse(score(1, 0))
    assert found.in_tables() == {Group("trace", "bot", START): 1}
    assert sum(found.in_windows().values()) == 3


@pytest.mark.parametrize(
    ("selection", "starts"),
    [
        ({}, [0, 1, 2]),
        ({"since": START + 1}, [0, 1, 2]),
        ({"since": START + MINUTE}, [1, 2]),
        ({"until": START + MINUTE}, [0]),
        ({"until": START + MINUTE + 1}, [0, 1]),
        ({"app": "other"}, []),
    ],
)
def test_windows_that_overlap_the_span_are_selected_whole(selection: dict[str, Any], starts: list[int]) -> None:
    found = tally([trace(n, 60 * n + second) for n in range(3) for second in (0, 59)], **selection)
    assert sorted((group.start - START) // MINUTE for group in found.in_windows()) == starts


def test_it_knows_who_was_touched_last_and_which_ticks_moved_time_on() -> None:
    found = tally([trace(1, 0)], [Tick(ts=START + 5)], [Tick(ts=START + 5)], [Tick(ts=START + 9), trace(2, 1)])
    found.touch(1, [record(7, [trace(3, 2), trace(4, 60)])])
    assert found.ticks == {0: [(1, START + 5), (3, START + 9)]}
    assert found.touched[Group("trace", "bot", START)] == {0: 3, 1: 7}
    assert sum(found.in_windows().values()) == 2


def test_ticks_of_a_broker_clock_that_was_ahead_close_nothing_once_it_is_right() -> None:
    year = START + 365 * 86_400 * MICROSECONDS
    found = tally([Tick(ts=year)], [Tick(ts=START + 5)], [Tick(ts=START + 4)], [Tick(ts=START + 9)])
    assert found.ticks == {0: [(1, START + 5), (3, START + 9)]}


def test_only_repeats_that_came_too_late_may_have_been_left_out() -> None:
    late = [Tick(ts=START + 200 * MICROSECONDS)]
    repeat, new = [trace(1, 0)], [trace(2, 0)]
    group = Group("trace", "bot", START)
    assert tally(repeat, repeat, late, open_s=100).late_repeats() == {}
    assert tally(repeat, late, new, open_s=100).late_repeats() == {}
    assert tally(repeat, late, repeat, new, open_s=100).late_repeats() == {group: 1}
    assert tally(repeat, late, repeat, open_s=200).late_repeats() == {}


def test_millions_of_events_take_twenty_bytes_each() -> None:
    found = tally([trace(n, n % 60) for n in range(1_000)])
    column = found._columns["trace"]
    assert sum(a.itemsize for a in (column._digests, column._times, column._apps)) == 20
