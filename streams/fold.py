"""What a role does with one partition of its source topic, apart from all I/O.

A role is a fold over the log: `absorb` takes the next records and returns what to publish, `snapshot` is everything
that the fold remembers. The runtime (`streams/runtime`) feeds it, publishes, writes the snapshot together with the
offset it stands for, and builds it anew from the newest snapshot after every rebalance. What a fold returns and
remembers depends on the records alone, never on how they were batched, on the wall clock or on another partition.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from driftline.schemas.events import EARLIEST_TS, LATEST_TS


class Record(Protocol):
    """The part of a consumed Kafka record that folds may read."""

    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def timestamp(self) -> int: ...  # milliseconds since the Unix epoch
    @property
    def timestamp_type(self) -> int: ...  # whose clock it is of: 0 the producer's, 1 the broker's


def broker_time(record: Record) -> int | None:
    """When the broker took the record, in microseconds; None where the topic keeps the producer's time instead
    (`message.timestamp.type`)."""
    return record.timestamp * 1_000 if record.timestamp_type == 1 else None


def sent_at(timestamp: int) -> int | None:
    """A record's Kafka timestamp in microseconds; None where it says nothing: where the topic keeps its producers'
    times, that is whatever they wrote, such as -1, 0, seconds or nanoseconds."""
    at = timestamp * 1_000
    return at if EARLIEST_TS <= at <= LATEST_TS else None


class Output(NamedTuple):
    """A record to publish."""

    topic: str
    key: bytes | None
    value: bytes
    partition: int | None = None  # of `topic`; None: the one with the source partition's number


class Fold(Protocol):
    @property
    def watermark(self) -> int | None:
        """The newest tick absorbed (microseconds since the Unix epoch); None before the first."""

    @property
    def counters(self) -> Mapping[str, int]:
        """What the fold left out since its state began, by reason: cumulative, a part of the state, and as
        deterministic as the rest of it. The runtime makes metrics of the increases."""

    async def absorb(self, records: Sequence[Record]) -> list[Output]:
        """Take the next records of the partition, in offset order. Raises only when the process must stop: bad input
        is skipped and counted (the archive dead-letters it), passing failures are retried inside."""

    def snapshot(self) -> bytes:
        """All state, so that a fold built from it goes on exactly as this one would."""


FoldFactory = Callable[[int, bytes | None], Fold]
"""(partition, snapshot or None for a fresh start) -> fold"""
