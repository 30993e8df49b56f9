"""When nothing but garbage comes, and when garbage is only some."""

from typing import NamedTuple

import pytest

from driftline.schemas.codec import Reject
from driftline.schemas.errors import PermanentError
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


def test_nothing_but_garbage_stops_at_the_limit_and_says_what_to_do() -> None:
    watch = PoisonWatch(10)
    watch.rejected(Got(120), bad("no app", b'{"type":"trace"}', times=6))
    watch.rejected(Got(121), bad(times=3))
    with pytest.raises(PermanentError) as raised:
        watch.rejected(Got(125), bad())
    said = str(raised.value)
    assert "driftline.events[3]" in said
    assert "10 elements in a row, offsets 120 to 125" in said
    assert """(6): no app; for example offset 120, key 'support-bot': {"type":"trace"}""" in said
    assert "archive.poison_limit (10; 0 switches this off)" in said


def test_a_good_event_begins_anew() -> None:
    watch = PoisonWatch(2)
    for offset in range(50):
        watch.rejected(Got(offset), bad())
        watch.good("driftline.events", 3)


def test_partitions_are_counted_apart() -> None:
    watch = PoisonWatch(2)
    watch.rejected(Got(0, partition=0), bad())
    watch.rejected(Got(0, partition=1), bad())
    watch.good("driftline.events", 1)
    with pytest.raises(PermanentError, match=r"\[0\]"):
        watch.rejected(Got(1, partition=0), bad())


def test_a_trickle_never_stops_it() -> None:
    watch = PoisonWatch(2)
    for hour in range(50):
        watch.rejected(Got(hour, timestamp=hour * (HOUR_MS + 1)), bad())


def test_a_large_array_of_garbage_counts_its_elements() -> None:
    with pytest.raises(PermanentError):
        PoisonWatch(1_000).rejected(Got(7), bad(times=1_000))


def test_zero_lets_everything_through() -> None:
    watch = PoisonWatch(0)
    watch.rejected(Got(0), bad(times=100_000))


def test_reasons_that_quote_the_value_do_not_fill_the_memory() -> None:
    watch = PoisonWatch(100_000)
    for offset in range(5_000):
        watch.rejected(Got(offset), bad(f"bad value {offset}"))
    row = watch._rows["driftline.events", 3]
    assert row.count == 5_000
    assert len(row.reasons) == len(row.examples) == 100


def test_what_it_shows_of_a_huge_record_is_short_and_printable() -> None:
    with pytest.raises(PermanentError) as raised:
        PoisonWatch(1).rejected(Got(7, key=None), bad(raw=b"\xff" * 1_000_000))
    assert "no key" in str(raised.value)
    assert len(str(raised.value)) < 1_000


def test_the_default_is_to_stop() -> None:
    assert ArchiveConfig().poison_limit == 1_000
