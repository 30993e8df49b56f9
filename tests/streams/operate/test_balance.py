import io
from collections.abc import Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from driftline.schemas.events import MICROSECONDS, Event, Tick
from driftline.streams.monitor.names import OTHER
from driftline.streams.operate import views
from driftline.streams.operate.balance import Balance, Reach, Rows, Stored, compare
from driftline.streams.operate.tally import Group, Place, Selection, Tally
from tests.streams.operate.conftest import START, trace
from tests.streams.operate.records import record

GROUP = Group("trace", "bot", START)
SETTLED = Reach(0, 0, end=4, archived=4, absorbed=4, letters_stored=True, results_stored=True, born=10)
STORED = Stored({GROUP: Rows(2, 0, 20)}, {GROUP: Rows(2, 0, 20)}, {Place(0, 2, -1)})


def balance(reach: Reach = SETTLED, stored: Stored = STORED, *later: Sequence[Event]) -> Balance:
    """A log of two events, garbage, and the tick that closes their window."""
    tally = Tally(Selection(60, open_s=100))
    tick = Tick(ts=START + 65 * MICROSECONDS)
    values: list[Sequence[Event] | bytes] = [[trace(1, 0)], [trace(2, 1), trace(1, 0)], b"{oops", [tick]]
    tally.add(0, [record(offset, value) for offset, value in enumerate(values)])
    tally.touch(0, [record(4 + i, value) for i, value in enumerate(later)])
    return compare(tally, stored, {0: reach}, grace_s=5, home=lambda app: 0)


def test_all_equal() -> None:
    found = balance()
    assert found.equal
    assert not found.in_flight
    assert (found.events, found.distinct, found.in_windows, found.windows, found.dead_letters) == (3, 2, 2, 1, 1)


@pytest.mark.parametrize(
    ("stored", "kind", "numbers"),
    [
        (replace(STORED, tables={}), "trace", (2, 0, 2)),
        (replace(STORED, tables={GROUP: Rows(3, 0, 20)}), "trace", (2, 3, 2)),
        (replace(STORED, windows={GROUP: Rows(1, 0, 20)}), "trace", (2, 2, 1)),
        (replace(STORED, windows={}), "trace", (2, 2, 0)),
        (replace(STORED, windows={GROUP: Rows(3, 0, 20)}), "trace", (2, 2, 3)),
        (replace(STORED, letters=set()), "dead letter", (1, 0, None)),
        (replace(STORED, letters={*STORED.letters, Place(0, 3, -1)}), "dead letter", (0, 1, None)),
    ],
)
def test_what_is_missing_or_too_much_is_a_difference(
    stored: Stored, kind: str, numbers: tuple[int | None, ...]
) -> None:
    [found] = balance(stored=stored).differences
    assert found.kind == kind
    assert (found.topic, found.table, found.windows) == numbers


def test_rows_that_the_log_never_had_are_a_difference() -> None:
    stored = replace(STORED, tables={**STORED.tables, Group("trace", "ghost", START): Rows(1, 0, 20)})
    [found] = balance(stored=stored).differences
    assert (found.app, found.topic, found.table) == ("ghost", 0, 1)


def test_what_the_archive_has_not_committed_is_in_flight() -> None:
    found = balance(replace(SETTLED, archived=1, letters_stored=False), Stored({}, STORED.windows, set()))
    assert found.equal
    [flight] = found.in_flight
    assert (flight.records_to_archive, flight.groups_to_store, flight.dead_letters) == (3, 1, True)


@pytest.mark.parametrize("reach", [replace(SETTLED, absorbed=3), replace(SETTLED, results_stored=False)])
def test_a_window_is_compared_once_its_tick_is_absorbed_and_stored(reach: Reach) -> None:
    found = balance(reach, replace(STORED, windows={}))
    assert found.equal
    assert found.windows == 0
    assert found.in_flight[0].groups_to_close == 1


def test_groups_that_later_records_change_are_in_flight() -> None:
    stored = Stored({GROUP: Rows(3, 0, 20)}, {GROUP: Rows(2, 0, 20)}, STORED.letters)
    found = balance(SETTLED, stored, [trace(3, 2)])
    assert found.equal
    assert (found.groups, found.windows) == (0, 0)
    assert not balance(SETTLED, stored, [trace(3, 200)]).equal


@pytest.mark.parametrize("rows", [Rows(9, oldest=5, ingested=20), Rows(9, oldest=7, ingested=9)])
def test_groups_with_events_from_before_the_log_are_not_compared(rows: Rows) -> None:
    found = balance(replace(SETTLED, start=6), replace(STORED, tables={GROUP: rows}))
    assert (found.differences, found.uncovered, found.equal) == ([], 1, False)  # for nothing else was there


def test_late_repeats_that_the_monitor_left_out_are_no_difference() -> None:
    tally = Tally(Selection(60, open_s=100))
    tick = [Tick(ts=START + 300 * MICROSECONDS)]
    values: list[Sequence[Event]] = [[trace(1, 0)], tick, [trace(1, 0)], [Tick(ts=START + 301 * MICROSECONDS)]]
    tally.add(0, [record(offset, value) for offset, value in enumerate(values)])
    for counted, equal in ((1, True), (2, True), (3, False)):
        stored = Stored({GROUP: Rows(1, 0, 20)}, {GROUP: Rows(counted, 0, 20)}, set())
        found = compare(tally, stored, {0: SETTLED}, grace_s=5, home=lambda app: 0)
        assert found.equal is equal
        assert found.repeats_left_out == min(counted - 1, 1)


@pytest.mark.parametrize(
    ("counted", "said", "equal", "incomplete"),
    [(2, 0, True, 0), (1, 1, True, 1), (2, 2, True, 0), (0, 1, False, 1), (1, 0, False, 0)],
)
def test_what_was_left_out_of_an_incomplete_window_explains_what_it_lacks(
    counted: int, said: int, equal: bool, incomplete: int
) -> None:
    found = balance(
        stored=replace(STORED, windows={GROUP: Rows(counted, 0, 20)}, incomplete={GROUP: Rows(said, 0, 20)})
    )
    assert found.equal is equal
    assert found.incomplete == incomplete


NINTH = START + 9 * 86_400 * MICROSECONDS  # a day


def at(sent: int, stored: Stored, start: int = 0) -> Balance:
    """The log of `balance`, all of it sent at that time."""
    tally = Tally(Selection(60, open_s=100))
    values: list[Sequence[Event] | bytes] = [[trace(1, 0), trace(2, 1)], b"{oops", [Tick(ts=START + 65 * MICROSECONDS)]]
    tally.add(0, [record(start + offset, value, at=sent) for offset, value in enumerate(values)])
    reaches = {0: replace(SETTLED, born=sent, end=100, archived=100, absorbed=100, start=start)}
    return compare(tally, stored, reaches, grace_s=5, home=lambda app: 0)


@pytest.mark.parametrize("view", ["traces", "windows", "dead_letters"])
def test_what_retention_may_have_removed_is_neither_equal_nor_different(view: str) -> None:
    gone: dict[str, Stored] = {
        "traces": Stored({}, {GROUP: Rows(2, 0, NINTH)}, {Place(0, 1, -1)}),
        "windows": Stored({GROUP: Rows(2, 0, NINTH)}, {}, {Place(0, 1, -1)}),
        "dead_letters": Stored({GROUP: Rows(2, 0, NINTH)}, {GROUP: Rows(2, 0, NINTH)}, set()),
    }
    stored = gone[view]
    assert not at(NINTH, replace(stored, kept_since={view: NINTH})).equal  # it came after
    found = at(NINTH, replace(stored, kept_since={view: NINTH + 1}))
    assert (found.equal, found.expired) == (True, 1)
    shown = Console(width=200, file=io.StringIO(), record=True)
    shown.print(views.balance(found))
    assert "Not compared: 1 windows or dead letters so old that" in shown.export_text()


def test_of_a_window_that_both_retentions_have_cut_nothing_is_said() -> None:
    """Its first rows are gone from the tables, its first records from the log; the window was whole."""
    stored = Stored({GROUP: Rows(2, 50, NINTH)}, {GROUP: Rows(7, 0, NINTH)}, {Place(0, 51, -1)})
    assert at(NINTH, stored, start=50).differences
    kept = replace(stored, kept_since={"traces": NINTH + 1, "windows": 1})
    found = at(NINTH, replace(kept, kept_since={"windows": NINTH + 1}), start=50)
    assert (found.differences, found.expired) == ([], 1)


def test_apps_beyond_the_limit_are_in_windows_of_others() -> None:
    other = Group("trace", OTHER, START)
    stored = replace(STORED, windows={other: Rows(2, 0, 20)})
    found = balance(stored=stored)
    assert (found.equal, found.others, found.in_windows) == (True, 2, 2)
    [difference] = balance(stored=replace(STORED, windows={other: Rows(3, 0, 20)})).differences
    assert (difference.app, difference.topic, difference.windows) == (OTHER, 0, 1)
    [difference] = balance(stored=replace(STORED, windows={other: Rows(1, 0, 20)})).differences
    assert (difference.app, difference.topic, difference.windows) == ("bot", 2, 1)


def test_where_nothing_was_compared_nothing_is_called_equal() -> None:
    found = balance(replace(SETTLED, archived=0, absorbed=0, letters_stored=False, results_stored=False))
    shown = Console(width=200, file=io.StringIO(), record=True)
    shown.print(views.balance(found))
    assert "Equal" not in shown.export_text()
    assert not found.equal


def test_where_there_is_nothing_to_compare_all_is_equal() -> None:
    assert compare(Tally(Selection(60)), Stored({}, {}, set()), {0: SETTLED}, grace_s=5, home=lambda app: 0).equal


def test_a_record_that_does_not_say_when_it_was_sent_expires_nothing() -> None:
    """Topics that keep their producers' times hold whatever these wrote."""
    tally = Tally(Selection(60))
    tally.add(0, [record(0, [trace(1, 0)], at=-1_000), record(1, [trace(2, 1)], at=NINTH), record(2, b"{", at=-1_000)])
    reaches = {0: replace(SETTLED, born=0)}
    kept = dict.fromkeys(("traces", "windows", "dead_letters"), NINTH)
    found = compare(tally, Stored({}, {}, set(), kept_since=kept), reaches, grace_s=5, home=lambda app: 0)
    assert (found.expired, len(found.differences)) == (0, 2)
