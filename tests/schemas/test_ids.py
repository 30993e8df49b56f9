from itertools import product

from hypothesis import given
from hypothesis import strategies as st

from driftline.schemas.ids import all_joined, as_path, joined, stable_id, unit_interval

NAME = st.text("\x1e\x1f/%:12a", max_size=4)
NAMES = st.lists(NAME, min_size=1, max_size=4)


def test_ids_are_the_same_for_ever() -> None:
    assert stable_id("window", "support-bot", "v1", 1_793_606_400_000_000) == "1092ca5a2fb80149e0a7fb83a15e51c5"
    assert stable_id("a", "b") != stable_id("ab", "")


def test_every_short_name_of_what_stands_between_names_has_a_key_of_its_own() -> None:
    letters = ["", *(a + b for a, b in product(("", "\x1e", "\x1f", "/", "%", "2F", "1:"), repeat=2))]
    parts = [row for n in (1, 2) for row in product(sorted(set(letters)), repeat=n)]
    for join in (joined, as_path, stable_id):
        assert len({join(*row) for row in parts}) == len(parts)


@given(NAMES, NAMES)
def test_different_names_have_different_keys(some: list[str], others: list[str]) -> None:
    for join in (joined, as_path, stable_id):
        assert (join(*some) == join(*others)) == (some == others)


@given(st.lists(st.tuples(NAME, NAME, NAME), max_size=5))
def test_columns_are_joined_like_their_rows(rows: list[tuple[str, str, str]]) -> None:
    columns = [[row[i] for row in rows] for i in range(3)]
    assert all_joined(*columns) == [joined(*row) for row in rows]


@given(st.text(), st.text())
def test_a_sample_is_a_number_below_one(salt: str, key: str) -> None:
    assert 0 <= unit_interval(salt, key) < 1


def test_a_tenth_is_a_tenth() -> None:
    chosen = sum(unit_interval("canary", f"user-{i}") < 0.1 for i in range(10_000))
    assert 900 < chosen < 1_100
