from statistics import median

from hypothesis import given, settings
from hypothesis import strategies as st

from driftline.detectors.state import pack, unpack
from driftline.streams.monitor.rules.reference import HOUR, Reference

MINUTE = HOUR // 60


def test_the_median_of_hourly_medians() -> None:
    reference = Reference()
    for hour, level in enumerate([1.0, 2.0, 9.0]):
        for minute in range(60):
            reference.add(hour * HOUR + minute * MINUTE, level)
    assert reference.value(3 * HOUR, 60) == 1.5  # of the hours that are over
    assert reference.value(3 * HOUR, 181) is None


def test_the_first_hour_counts_while_it_is_the_only_one() -> None:
    reference = Reference()
    for minute in range(30):
        reference.add(minute * MINUTE, float(minute))
    assert reference.value(30 * MINUTE, 30) == 14.5
    assert reference.value(30 * MINUTE, 31) is None


def test_it_outlives_seven_days_and_no_more() -> None:
    reference = Reference()
    reference.add(0, 5.0)
    reference.add(HOUR, 7.0)
    assert reference.value(7 * 24 * HOUR, 1) == 5.0
    assert reference.value(8 * 24 * HOUR, 1) is None
    assert reference.empty(8 * 24 * HOUR)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 90), st.floats(0, 1e9)), max_size=200))
def test_snapshots_are_exact(steps: list[tuple[int, float]]) -> None:
    kept, restored, at = Reference(), Reference(), 0
    for ahead, value in steps:
        at += ahead * MINUTE
        kept.add(at, value)
        restored = Reference(unpack(pack(restored.snapshot())))
        restored.add(at, value)
    assert kept.value(at, 0 if not steps else 1) == restored.value(at, 1) if steps else True
    assert pack(kept.snapshot()) == pack(restored.snapshot())


def test_a_short_incident_that_slipped_in_moves_nothing() -> None:
    reference = Reference()
    for minute in range(24 * 60):
        reference.add(minute * MINUTE, 100.0 if 600 <= minute < 640 else 1.0)
    assert reference.value(24 * HOUR, 60) == median([1.0])
