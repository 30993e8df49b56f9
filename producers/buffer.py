"""Bounded memory between the application's threads and the one that sends. No I/O.

Order is kept per app. When the bounds are reached the newest event is refused: what was accepted stays accepted, and a
refusal costs the application two comparisons. Every event offered is accounted for at all times:
emitted = sent + dropped + pending.
"""

import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

DropReason = Literal[
    "full",  # the broker has been away for longer than the memory bound lasts
    "invalid",  # values that the pipeline would refuse; the log says which
    "too_large",  # for `max_event_bytes`, or for the broker's own limit
    "closed",  # emitted after close()
    "undelivered",  # not acknowledged when close() ran out of time
    "disabled",  # enabled=False
]

NEVER = 2**62
ROUND_BATCHES = 16  # batches on their way at once: enough to fill the link, few enough to give up quickly on close


@dataclass(frozen=True)
class Stats:
    emitted: int
    sent: int  # acknowledged by all in-sync replicas
    dropped: Mapping[str, int]  # by reason, see DropReason
    pending: int


class Batch(NamedTuple):
    """One record to be: a JSON array of one app's events."""

    app: str
    value: bytes
    events: int
    charge: int  # bytes it holds of the memory bound


class _Item(NamedTuple):
    app: str
    encoded: bytes


class Buffer:
    """Thread-safe. `put` from anywhere; `arm`, `take` and `settle` from the one sender."""

    def __init__(
        self, *, max_batch_events: int, max_batch_bytes: int, max_pending_events: int, max_pending_bytes: int
    ) -> None:
        self._max_batch_events = max_batch_events
        self._max_batch_bytes = max_batch_bytes
        self._max_pending_events = max_pending_events
        self._max_pending_bytes = max_pending_bytes
        self._changed = threading.Condition(threading.Lock())
        self._queue: deque[_Item] = deque()
        self._queued_bytes = 0
        self._pending = 0  # queued or on their way
        self._pending_bytes = 0
        self._emitted = 0
        self._sent = 0
        self._dropped: Counter[str] = Counter()
        self._wake_at = NEVER
        self._hurry = False
        self._closed = False

    def put(self, app: str, encoded: bytes) -> bool:
        """Take an event, or count it as dropped. True: the sender waits for exactly this and must be woken."""
        with self._changed:
            self._emitted += 1
            if self._closed:
                self._dropped["closed"] += 1
                return False
            if (
                self._pending >= self._max_pending_events
                or self._pending_bytes + len(encoded) > self._max_pending_bytes
            ):
                self._dropped["full"] += 1
                return False
            self._queue.append(_Item(app, encoded))
            self._queued_bytes += len(encoded)
            self._pending += 1
            self._pending_bytes += len(encoded)
            if len(self._queue) < self._wake_at and (
                self._wake_at == NEVER or self._queued_bytes < self._max_batch_bytes
            ):
                return False
            self._wake_at = NEVER
            return True

    def drop(self, reason: DropReason) -> None:
        """Count an event that never got as far as `put`."""
        with self._changed:
            self._emitted += 1
            self._dropped[reason] += 1

    def arm(self, *, full: bool) -> bool:
        """True: there is something to take (`full`: a whole batch, or someone is in a hurry), or nothing will ever come
        again. False: the next `put` that makes it so asks for a wake-up."""
        with self._changed:
            if not self._queue and not self._closed:
                self._hurry = False
            enough = self._max_batch_events if full else 1
            ready = self._closed or self._hurry or len(self._queue) >= enough
            ready = ready or (full and self._queued_bytes >= self._max_batch_bytes)
            self._wake_at = NEVER if ready else enough
            return ready

    def take(self) -> list[Batch]:
        """The next batches, oldest events first; empty when the queue is."""
        items: list[_Item] = []
        with self._changed:
            taken = 0
            while self._queue and len(items) < ROUND_BATCHES * self._max_batch_events:
                if items and taken + len(self._queue[0].encoded) > ROUND_BATCHES * self._max_batch_bytes:
                    break
                items.append(self._queue.popleft())
                taken += len(items[-1].encoded)
            self._queued_bytes -= taken
        return make_batches(items, self._max_batch_events, self._max_batch_bytes)

    def settle(self, batch: Batch, dropped: DropReason | None = None) -> None:
        """A taken batch was acknowledged, or given up."""
        with self._changed:
            self._pending -= batch.events
            self._pending_bytes -= batch.charge
            if dropped:
                self._dropped[dropped] += batch.events
            else:
                self._sent += batch.events
            self._changed.notify_all()

    def hurry(self) -> int:
        """Let the sender not wait for company; returns the number of events that are to be settled for a flush."""
        with self._changed:
            self._hurry = True
            return self._emitted

    def wait_settled(self, count: int, timeout: float) -> bool:
        """Until `count` events have been sent or dropped. Exact for those before `hurry`, since order is kept."""
        with self._changed:
            return self._changed.wait_for(lambda: self._emitted - self._pending >= count, timeout)

    def close(self) -> None:
        with self._changed:
            self._closed = True

    def abandon(self) -> int:
        """Give up everything that is pending; returns how many events that were."""
        with self._changed:
            lost = self._pending
            if lost:
                self._dropped["undelivered"] += lost
            self._queue.clear()
            self._queued_bytes = self._pending = self._pending_bytes = 0
            self._changed.notify_all()
            return lost

    @property
    def closed(self) -> bool:
        return self._closed

    def stats(self) -> Stats:
        with self._changed:
            return Stats(self._emitted, self._sent, dict(self._dropped), self._pending)


def make_batches(items: Iterable[_Item], max_events: int, max_bytes: int) -> list[Batch]:
    """Arrays of one app each, in order; an event larger than `max_bytes` travels alone."""
    batches: list[Batch] = []
    open_: dict[str, list[bytes]] = {}
    sizes: dict[str, int] = {}

    def seal(app: str) -> None:
        parts = open_.pop(app)
        batches.append(Batch(app, b"[" + b",".join(parts) + b"]", len(parts), sum(map(len, parts))))

    for app, encoded in items:
        parts = open_.get(app)
        if parts and (len(parts) >= max_events or sizes[app] + len(encoded) + 1 > max_bytes):
            seal(app)
            parts = None
        if parts is None:
            parts = open_[app] = []
            sizes[app] = 2
        parts.append(encoded)
        sizes[app] += len(encoded) + 1
    for app in list(open_):
        seal(app)
    return batches
