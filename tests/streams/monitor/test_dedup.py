from driftline.schemas.events import MICROSECONDS
from driftline.streams.monitor.config import DedupConfig
from driftline.streams.monitor.dedup import RecentKeys


def test_a_key_counts_once_for_at_least_the_horizon() -> None:
    keys = RecentKeys(DedupConfig(horizon_s=10))
    keys.tick(0)
    assert keys.is_new("a")
    for second in range(1, 10):
        keys.tick(second * MICROSECONDS)
        assert not keys.is_new("a")
    keys.tick(10 * MICROSECONDS)
    assert not keys.is_new("a")
    keys.tick(20 * MICROSECONDS)
    assert keys.is_new("a")
    assert keys.repeats == 10


def test_memory_is_bounded_by_keys() -> None:
    keys = RecentKeys(DedupConfig(max_keys=3))
    for number in range(100):
        keys.is_new(str(number))
        keys.tick(number)
    state = keys.snapshot()
    assert len(state["current"]) + len(state["previous"]) <= 6


def test_a_restored_memory_knows_the_same() -> None:
    keys = RecentKeys(DedupConfig())
    keys.is_new("a")
    restored = RecentKeys(DedupConfig(), keys.snapshot())
    assert not restored.is_new("a")
    assert restored.is_new("b")
