import numpy as np

from driftline.detectors.digests import digests
from driftline.detectors.state import pack, unpack
from driftline.schemas.events import MICROSECONDS
from driftline.streams.monitor.config import DedupConfig, WindowConfig
from driftline.streams.monitor.dedup import RecentKeys

START = 1_793_606_400
WINDOWS = WindowConfig(size_s=60, grace_s=5, lateness_s=100, ahead_s=1000)


def recent(horizon_s: int = 10, max_keys: int = 1000) -> RecentKeys:
    return RecentKeys(DedupConfig(horizon_s=horizon_s, max_keys=max_keys), WINDOWS)


def new(keys: RecentKeys, *names: str, at: float = 0) -> list[bool]:
    mask: list[bool] = keys.new(digests(names), np.full(len(names), round((START + at) * MICROSECONDS))).tolist()
    return mask


def tick(keys: RecentKeys, at: float) -> None:
    keys.tick(round((START + at) * MICROSECONDS))


def test_a_key_counts_once_in_one_batch_and_across_batches() -> None:
    keys = recent()
    assert new(keys, "a", "b", "a") == [True, True, False]
    assert new(keys, "b", "c") == [False, True]
    assert keys.repeated == 2


def test_one_key_in_two_windows_is_two_events() -> None:
    keys = recent()
    assert new(keys, "a", at=59) == [True]
    assert new(keys, "a", at=0) == [False]
    assert new(keys, "a", at=60) == [True]


def test_a_key_is_remembered_while_its_window_takes_events() -> None:
    keys = recent()
    new(keys, "a", at=59)
    for second in (1, 60, 164.999999):
        tick(keys, second)
        assert new(keys, "a", at=59) == [False]
    tick(keys, 59 + 60 + 5 + 100)
    assert new(keys, "a", at=59) == [True]


def test_wild_times_before_the_first_tick_push_nobody_out() -> None:
    keys = recent(max_keys=8)
    assert all(new(keys, *(str(number) for number in range(6)), at=50 * 365 * 86_400))
    tick(keys, 0)
    assert new(keys, "a") == [True]
    tick(keys, 1_300)
    assert all(new(keys, "b", "c", "d", "e", at=1_300))
    tick(keys, 1_301)
    assert new(keys, "b", "c", "d", "e", at=1_300) == [False] * 4
    assert keys.overflow == 0


def test_a_key_far_ahead_of_the_last_tick_is_remembered_while_its_window_takes_events() -> None:
    """Ticks stand still while the monitor is away."""
    week = 7 * 86_400
    keys = recent(horizon_s=10)
    tick(keys, 0)
    assert new(keys, "a", at=week) == [True]
    for at in (week + 1, week + 100, week + 164):
        tick(keys, at)
        assert new(keys, "a", at=week) == [False]


def test_the_key_of_a_late_event_is_remembered_for_the_horizon() -> None:
    keys = recent(horizon_s=10)
    tick(keys, 500)
    assert new(keys, "a") == [True]
    tick(keys, 501)
    tick(keys, 510.999999)
    assert new(keys, "a") == [False]
    tick(keys, 511)
    assert new(keys, "a") == [True]


def test_the_horizon_begins_with_the_tick_that_follows() -> None:
    keys = recent(horizon_s=10)
    new(keys, "before the first tick")
    tick(keys, 500)
    assert new(keys, "before the first tick", "late") == [False, True]
    restored = RecentKeys(DedupConfig(horizon_s=10, max_keys=1000), WINDOWS, keys.snapshot())
    for each in (keys, restored):
        tick(each, 9_000)
        assert new(each, "late") == [False]
        tick(each, 9_009)
        assert new(each, "late") == [False]
        tick(each, 9_010)
        assert new(each, "late") == [True]


def test_an_event_far_ahead_is_not_remembered_until_its_time() -> None:
    keys = recent()
    tick(keys, 0)
    assert new(keys, "a", at=1_000_000) == [True]
    tick(keys, 1)
    tick(keys, 1000 + 164)
    assert new(keys, "a", at=1_000_000) == [False]
    tick(keys, 1000 + 166)
    assert new(keys, "a", at=1_000_000) == [True]


def test_memory_is_bounded_the_oldest_go_and_are_counted() -> None:
    keys = recent(max_keys=10)
    for second in range(12):
        new(keys, str(second), at=second)
        tick(keys, second)
    assert keys.overflow == 6
    assert new(keys, "11", at=11) == [False]
    assert new(keys, "0", at=0) == [True]


def test_a_restored_memory_knows_the_same() -> None:
    keys = recent()
    new(keys, "a", "a", "b")
    tick(keys, 3)
    restored = RecentKeys(DedupConfig(horizon_s=10, max_keys=1000), WINDOWS, unpack(pack(keys.snapshot())))
    assert pack(restored.snapshot()) == pack(keys.snapshot())
    assert new(restored, "a", "c") == [False, True]
    assert restored.repeated == 2
