"""When everything that a partition brings is garbage: what is said of it. No I/O.

Nothing stops for it. Anybody who may write to the topic can bring a thousand bad records in a row, and an archive that
stopped for them would stand still for all apps, again after each start. So what cannot be taken is a dead letter, and
the stream goes on. But a partition that brings *nothing but* that means that the producers speak another version of the
format than this Driftline, or that somebody writes to the wrong topic: `/healthz`, a metric and the log say so, with
the reason and the key.

A good event ends the row, so that one bad producer among good ones wakes nobody up. A tick is no good event: it is
Driftline's own, and says nothing of the producers. Only garbage that comes at a rate counts (`limit` elements within
WITHIN_S of Kafka's time): a trickle is what dead letters are for.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import Field

from driftline.schemas.codec import Reject
from driftline.schemas.config import Config

WITHIN_S = 3600.0  # 1,000 an hour is slower than any app worth watching, so a broken one is found within the hour
REASONS = 100  # distinct ones kept: a reason may quote the value, and differ each time
EXAMPLE_BYTES = 200


class ArchiveConfig(Config):
    # In a row. On one partition, without one good event: so much garbage is told. A bad deployment of a busy app shows
    # in a minute, a handful of test messages on an otherwise silent partition does not. Of inserts that a table refuses
    # while it takes none: so many stop the archive, since not the rows are at fault. 0: neither.
    poison_limit: int = Field(default=1_000, ge=0)


class Consumed(Protocol):
    """The part of a consumed Kafka record that is looked at."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...  # milliseconds since the Unix epoch
    @property
    def key(self) -> bytes | None: ...


@dataclass
class _Row:
    """Rejected elements in a row."""

    first: int  # offset
    began: int  # Kafka timestamp of the first, milliseconds
    count: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    last: int = 0  # offset
    logged: int = 0  # how many there were when the log said so last

    def add(self, record: Consumed, rejects: Sequence[Reject]) -> None:
        self.count += sum(reject.count for reject in rejects)
        self.last = record.offset
        for reject in rejects:
            if reject.reason in self.reasons or len(self.reasons) < REASONS:
                self.reasons[reject.reason] += reject.count
                self.examples.setdefault(reject.reason, _example(record, reject))


class PoisonWatch:
    """For one consumer. `limit` 0: says nothing."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: dict[tuple[str, int], _Row] = {}

    def good(self, topic: str, partition: int) -> None:
        """A record held at least one event (not a tick) that could be taken."""
        self._rows.pop((topic, partition), None)

    def rejected(self, record: Consumed, rejects: Sequence[Reject]) -> None:
        """Of a record that held no good event, what could not be taken."""
        if not rejects:
            return
        place = (record.topic, record.partition)
        row = self._rows.get(place)
        if row is None or record.timestamp - row.began > WITHIN_S * 1_000:
            row = self._rows[place] = _Row(record.offset, record.timestamp)
        row.add(record, rejects)

    def count(self, topic: str, partition: int) -> int:
        """Elements in a row, up to now."""
        row = self._rows.get((topic, partition))
        return 0 if row is None else row.count

    def problem(self, topic: str, partition: int) -> str:
        """What is wrong with the partition; empty: nothing."""
        row = self._rows.get((topic, partition))
        if row is None or not self._limit or row.count < self._limit:
            return ""
        reason, count = row.reasons.most_common(1)[0]
        return (
            f"{topic}[{partition}] brings nothing but what cannot be taken: {row.count} elements in a row, offsets "
            f"{row.first} to {row.last}, without one good event. Most often ({count}): {reason}; for example "
            f"{row.examples[reason]}"
        )

    def is_news(self, topic: str, partition: int) -> bool:
        """Whether the log should have it: at first, and whenever there are twice as many."""
        row = self._rows[topic, partition]
        if row.count < 2 * row.logged:
            return False
        row.logged = row.count
        return True


def _example(record: Consumed, reject: Reject) -> str:
    key = "no key" if record.key is None else f"key {record.key[:EXAMPLE_BYTES].decode(errors='replace')!r}"
    raw = reject.raw[:EXAMPLE_BYTES].decode(errors="replace")
    more = "…" if len(reject.raw) > EXAMPLE_BYTES else ""
    return f"offset {record.offset}, {key}: {raw}{more}"
