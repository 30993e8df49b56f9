from typing import Any

from driftline.streams.operate.comparison import Comparison, Expectation, Rows, Table, compare


def rows(*some: dict[str, Any], table: Table = "windows") -> Rows:
    made = Rows(table)
    for row in some:
        made.add({"app": "bot", "start": "2026", "ts": "2026", **row})
    return made


def compared(first: Rows, replay: Rows, *ignored: str, must: bool = True) -> Comparison:
    return compare("windows", first, replay, Expectation(must, frozenset(ignored)))


def test_equal_rows_are_equal_to_the_last_digit() -> None:
    assert compared(rows({"id": "a", "p99": 0.1}), rows({"id": "a", "p99": 0.1})).is_equal
    found = compared(rows({"id": "a", "p99": 0.1}), rows({"id": "a", "p99": 0.1 + 1e-17 + 2e-17}))
    assert found.failed
    assert (found.equal, list(found.columns)) == (0, ["p99"])
    assert found.differing[0].columns == {"p99": (0.1, 0.1 + 2e-17 + 1e-17)}


def test_rows_of_one_run_alone_are_told_apart() -> None:
    found = compared(rows({"id": "a"}, {"id": "b"}), rows({"id": "b"}, {"id": "c"}))
    assert [row["id"] for row in found.only_first] == ["a"]
    assert [row["id"] for row in found.only_replay] == ["c"]
    assert (found.first, found.replay, found.equal) == (2, 2, 1)


def test_ignored_columns_do_not_differ() -> None:
    first, replay = rows({"id": "a", "revision": 1, "late": 2}), rows({"id": "a", "revision": 9, "late": 0})
    assert compared(first, replay, "revision", "late").is_equal
    assert not compared(first, replay, "revision").is_equal


def test_what_need_not_be_equal_does_not_fail() -> None:
    found = compared(rows({"id": "a"}), rows(), must=False)
    assert not found.is_equal
    assert not found.failed


def test_an_alert_is_named_by_its_state_as_well() -> None:
    firing, resolved = {"id": "a", "state": "firing"}, {"id": "a", "state": "resolved"}
    found = compared(rows(firing, resolved, table="alerts"), rows(firing, table="alerts"))
    assert found.only_first == [{"app": "bot", "start": "2026", "ts": "2026", **resolved}]


def test_rows_can_be_taken_out_by_key() -> None:
    assert rows({"id": "a"}, {"id": "b"}).without({("a",)}).by_key.keys() == {("b",)}
