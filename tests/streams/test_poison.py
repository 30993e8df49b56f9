"""When nothing but garbage comes, and when garbage is only some."""

from typing import NamedTuple

from driftline.schemas.codec import Reject
from driftline.streams.poison import ArchiveConfig, PoisonWatch

HOUR_MS = 3_600_000


class Got(NamedTuple):
    offset: int
    partition: int = 3
    timestamp: int = 0
    key: bytes | None = b"support-bot"
    topic: str = "driftline.events"


def bad(reason: str = "not JSON", raw: bytes = b"x", times: int = 1) -> list[Reject]:
    return [Reject(-1 if times == 1 else index, reason, raw) for index in range(times)]


PLACE = ("driftline.events", 3)


def test_nothing_but_garbage_is_told_from_the_limit_on() -> None:
    watch = PoisonWatch(10)
    watch.rejected(Got(120), bad("no app", b'{"type":"trace"}', times=6))
    watch.rejected(Got(121), bad(times=3))
    assert watch.problem(*PLACE) == ""
    watch.rejected(Got(125), bad())
    said = watch.problem(*PLACE)
    assert "driftline.events[3]" in said
    assert "10 elements in a row, offsets 120 to 125" in said
    assert """(6): no app; for example offset 120, key 'support-bot': {"type":"trace"}""" in said


def test_a_good_event_begins_anew() -> None:
    watch = PoisonWatch(2)
    for offset in range(50):
        watch.rejected(Got(offset), bad())
        assert (watch.count(*PLACE), watch.problem(*PLACE)) == (1, "")
        watch.good(*PLACE)
    assert watch.count(*PLACE) == 0


def test_partitions_are_counted_apart() -> None:
    watch = PoisonWatch(2)
    for offset in range(2):
        watch.rejected(Got(offset, partition=0), bad())
        watch.rejected(Got(offset, partition=1), bad())
    watch.good("driftline.events", 1)
    assert "[0]" in watch.problem("driftline.events", 0)
    assert watch.problem("driftline.events", 1) == ""


def test_a_trickle_is_never_told() -> None:
    watch = PoisonWatch(2)
    for hour in range(50):
        watch.rejected(Got(hour, timestamp=hour * (HOUR_MS + 1)), bad())
        assert watch.problem(*PLACE) == ""


def test_a_large_array_of_garbage_counts_its_elements() -> None:
    watch = PoisonWatch(1_000)
    watch.rejected(Got(7), [Reject(0, "not JSON", b"x"), Reject(1, "not JSON", b"[]", count=999)])
    assert "1000 elements" in watch.problem(*PLACE)
    assert "Most often (1000)" in watch.problem(*PLACE)


def test_the_log_has_it_each_time_there_are_twice_as_many() -> None:
    watch = PoisonWatch(10)
    logged = []
    for offset in range(100):
        watch.rejected(Got(offset), bad())
        if watch.problem(*PLACE) and watch.is_news(*PLACE):
            logged.append(watch.count(*PLACE))
    assert logged == [10, 20, 40, 80]


def test_zero_says_nothing() -> None:
    watch = PoisonWatch(0)
    watch.rejected(Got(0), bad(times=100_000))
    assert (watch.count(*PLACE), watch.problem(*PLACE)) == (100_000, "")


def test_reasons_that_quote_the_value_do_not_fill_the_memory() -> None:
    watch = PoisonWatch(100_000)
    for offset in range(5_000):
        watch.rejected(Got(offset), bad(f"bad value {offset}"))
    row = watch._rows[PLACE]
    assert row.count == 5_000
    assert len(row.reasons) == len(row.examples) == 100


def test_what_it_shows_of_a_huge_record_is_short_and_printable() -> None:
    watch = PoisonWatch(1)
    watch.rejected(Got(7, key=None), bad(raw=b"\xff" * 1_000_000))
    assert "no key" in watch.problem(*PLACE)
    assert len(watch.problem(*PLACE)) < 1_000


def test_the_default_is_to_tell() -> None:
    assert ArchiveConfig().poison_limit == 1_000
