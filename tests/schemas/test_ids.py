from hypothesis import given
from hypothesis import strategies as st

from driftline.schemas.ids import stable_id, unit_interval


def test_ids_are_the_same_for_ever() -> None:
    assert stable_id("window", "support-bot", "v1", 1_793_606_400_000_000) == "1092ca5a2fb80149e0a7fb83a15e51c5"
    assert stable_id("a", "b") != stable_id("ab", "")


@given(st.text(), st.text())
def test_a_sample_is_a_number_below_one(salt: str, key: str) -> None:
    assert 0 <= unit_interval(salt, key) < 1


def test_a_tenth_is_a_tenth() -> None:
    chosen = sum(unit_interval("canary", f"user-{i}") < 0.1 for i in range(10_000))
    assert 900 < chosen < 1_100
