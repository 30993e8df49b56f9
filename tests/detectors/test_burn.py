import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from driftline.detectors.burn import DAY, PAIRS, Buckets, Burn, calm, exceeds, p_by_chance
from driftline.detectors.state import pack, unpack

MONTH = 30 * DAY


@pytest.mark.parametrize(("name", "share"), [("1h/5m", 0.02), ("6h/30m", 0.05), ("1d/2h", 0.1), ("3d/6h", 0.1)])
def test_each_pair_is_a_share_of_a_month(name: str, share: float) -> None:
    [pair] = [pair for pair in PAIRS if pair.name == name]
    assert pair.factor * pair.long_s / MONTH == pytest.approx(share)
    assert pair.short_s == pytest.approx(pair.long_s / 12)


def test_a_burn_by_hand() -> None:
    burn = Burn(spent=72, allowed=0.001 * 4_000, total=4_000)  # 1.8 % where 0.1 % is allowed
    assert burn.rate == pytest.approx(18)
    assert exceeds(burn, 14.4)
    assert not exceeds(burn, 18)
    assert not exceeds(Burn(0, 0.0, 0), 0)


def test_chance_alone() -> None:
    # 3 of 100 at .1 % are a burn of 30, and 1.5e-4 by chance: no page. 4 are 3.6e-6.
    assert p_by_chance(3, 100, 0.001) == pytest.approx(1.5e-4, rel=0.02)
    assert p_by_chance(4, 100, 0.001) == pytest.approx(sum(binom.pmf(k, 100, 0.001) for k in range(4, 101)), rel=1e-9)
    assert p_by_chance(0, 100, 0.001) == 1
    for bad, total, budget in [(1, 1, 0.01), (60, 10_000, 0.001), (2_000, 1_000_000, 0.001), (30, 30, 0.05)]:
        assert p_by_chance(bad, total, budget) == pytest.approx(float(binom.sf(bad - 1, total, budget)), rel=1e-8)


@pytest.mark.parametrize(
    ("long", "short", "ends"),
    [
        (20.0, 20.0, False),
        (20.0, 14.4, True),  # the short window is below: it is over
        (20.0, None, False),  # silence is no evidence
        (14.0, None, True),
        (None, None, True),
    ],
)
def test_the_short_window_ends_an_alert(long: float | None, short: float | None, ends: bool) -> None:
    def burn(rate: float | None) -> Burn:
        return Burn(0, 0.0, 0) if rate is None else Burn(round(rate * 10), 10.0, 10_000)

    assert calm(burn(long), burn(short), 14.4) is ends


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 300), st.integers(0, 70_000)), max_size=30), st.integers(0, 9)
)
def test_buckets_are_the_plain_sums(steps: list[tuple[int, int, int]], silent: int) -> None:
    buckets, rows, bucket = Buckets(10, 2), [(0, 0)] * 400, 100
    for ahead, *counts in steps:
        bucket += ahead
        bad, total = counts
        buckets.add(bucket, (bad, total))
        rows[bucket] = (rows[bucket][0] + bad, rows[bucket][1] + total)
        buckets = Buckets(10, 2, unpack(pack(buckets.snapshot())))
    newest = bucket + silent
    lengths = [1, 2, 5, 10]
    expected = [np.sum(rows[newest - length + 1 : newest + 1], axis=0).tolist() for length in lengths]
    if steps:
        assert buckets.sums(newest, lengths) == expected
        assert buckets.last(newest, 12).T.tolist()[2:] == [list(row) for row in rows[newest - 9 : newest + 1]]


def test_a_snapshot_is_small_where_counts_are() -> None:
    buckets = Buckets(4_320, 2)
    for minute in range(4_320):
        buckets.add(minute, (1, 200))
    assert len(pack(buckets.snapshot())) < 9_000
