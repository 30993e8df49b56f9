"""When everything that a partition brings is garbage, stop, instead of copying it all to the dead letters. No I/O.

What is best at 3 a.m.? One bad producer among good ones must wake nobody up: its events go to the dead letters, the
others' go on. But a partition that brings *nothing but* what cannot be taken means that the producers, or this
Driftline, speak another version of the format, or that somebody writes to the wrong topic. Its remedy is a deployment,
and until then stopping loses nothing: offsets stay where they are, Kafka keeps the log, and after the remedy the stream
goes on by itself. Going on would turn each event into a dead letter twice its size that somebody has to replay.

Three choices follow. A good event ends the row, so that one producer cannot stop its partition's others. A tick is no
good event: it is Driftline's own, and says nothing of the producers. Only garbage that comes at a rate counts (`limit`
elements within WITHIN_S of Kafka's time): a trickle is what dead letters are for, and must not stop it after days.

A process that starts again begins to count at zero, so each start lets at most about `limit` elements, and what else
was read with them, through to the dead letters: the supervisor's waits between restarts bound that.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import Field

from driftline.schemas.codec import Reject
from driftline.schemas.config import Config
from driftline.schemas.errors import PermanentError

WITHIN_S = 3600.0  # 1,000 an hour is slower than any app worth watching, so a broken one is found within the hour
REASONS = 100  # distinct ones kept: a reason may quote the value, and differ each time
EXAMPLE_BYTES = 200


class ArchiveConfig(Config):
    # In a row, on one partition, without one good event. A bad deployment of a busy app shows in a minute; a handful of
    # test messages on an otherwise silent partition stops nothing. 0: never stop, everything goes to the dead letters.
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

    def add(self, record: Consumed, rejects: Sequence[Reject]) -> None:
        self.count += len(rejects)
        for reject in rejects:
            if reject.reason in self.reasons or len(self.reasons) < REASONS:
                self.reasons[reject.reason] += 1
                self.examples.setdefault(reject.reason, _example(record, reject))


class PoisonWatch:
    """For one consumer. `limit` 0: never stops."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._rows: dict[tuple[str, int], _Row] = {}

    def good(self, topic: str, partition: int) -> None:
        """A record held at least one event (not a tick) that could be taken."""
        self._rows.pop((topic, partition), None)

    def rejected(self, record: Consumed, rejects: Sequence[Reject]) -> None:
        """Of a record that held no good event, what could not be taken.

        :raises PermanentError: that was one too many.
        """
        if not self._limit or not rejects:
            return
        place = (record.topic, record.partition)
        row = self._rows.get(place)
        if row is None or record.timestamp - row.began > WITHIN_S * 1_000:
            row = self._rows[place] = _Row(record.offset, record.timestamp)
        row.add(record, rejects)
        if row.count >= self._limit:
            raise PermanentError(self._message(record, row))

    def _message(self, record: Consumed, row: _Row) -> str:
        reason, count = row.reasons.most_common(1)[0]
        return (
            f"{record.topic}[{record.partition}] brings nothing but what cannot be taken: {row.count} elements in a "
            f"row, offsets {row.first} to {record.offset}, without one good event. Most often ({count}): {reason}; "
            f"for example {row.examples[reason]}. Find the producer by its key and correct it, or install the "
            f"Driftline that reads it; nothing is lost meanwhile. To let it through to the dead letters, raise "
            f"archive.poison_limit ({self._limit}; 0 switches this off)"
        )


def _example(record: Consumed, reject: Reject) -> str:
    key = "no key" if record.key is None else f"key {record.key[:EXAMPLE_BYTES].decode(errors='replace')!r}"
    raw = reject.raw[:EXAMPLE_BYTES].decode(errors="replace")
    more = "…" if len(reject.raw) > EXAMPLE_BYTES else ""
    return f"offset {record.offset}, {key}: {raw}{more}"
