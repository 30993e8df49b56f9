"""A small app's traffic as records of the events topic."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from driftline.schemas.codec import decode, encode_events
from driftline.schemas.events import MICROSECONDS, Event, Tick, Trace
from driftline.schemas.results import Result, result_types
from driftline.schemas.topics import Topics
from driftline.streams.fold import Fold, Output

START = 1_793_606_400 * MICROSECONDS
TOPICS = Topics("test")


@dataclass
class FakeRecord:
    offset: int
    value: bytes | None
    key: bytes | None = None
    timestamp: int = 0
    timestamp_type: int = 0


@dataclass
class Log:
    """A partition: events in arrays of up to ten, a tick at each second."""

    records: list[FakeRecord] = field(default_factory=list)

    def append(self, events: Sequence[Event]) -> None:
        self.records.append(FakeRecord(len(self.records), encode_events(list(events))))

    def extend(self, events: Sequence[Event], until: int) -> None:
        """Events sorted by time, interleaved with a tick a second up to `until`."""
        queue = sorted(events, key=lambda e: e.ts)
        now = (queue[0].ts if queue else until) // MICROSECONDS * MICROSECONDS
        i = 0
        while now < until:
            now += MICROSECONDS
            batch: list[Event] = []
            while i < len(queue) and queue[i].ts < now:
                batch.append(queue[i])
                i += 1
            for start in range(0, len(batch), 10):
                self.append(batch[start : start + 10])
            self.append([Tick(ts=now)])


_RESULTS = result_types(TOPICS)


def results_of(outputs: Sequence[Output]) -> list[Result]:
    return [decode(output.value, _RESULTS[output.topic]) for output in outputs]


async def run_log(fold: Fold, records: Sequence[FakeRecord], size: int = 50) -> list[Result]:
    outputs: list[Output] = []
    for start in range(0, len(records), size):
        outputs += await fold.absorb(records[start : start + size])
    return results_of(outputs)


def traffic(
    seed: int, start_s: float, stop_s: float, per_s: float, change: Callable[[Trace, random.Random], None] | None = None
) -> Iterator[Trace]:
    """Independent one-request conversations of release v1."""
    rng = random.Random(seed)
    at = start_s
    while (at := at + rng.expovariate(per_s)) < stop_s:
        trace = Trace(
            app="bot",
            ts=START + round(at * MICROSECONDS),
            trace_id=f"{rng.getrandbits(64):016x}",
            conversation_id=f"{rng.getrandbits(64):016x}",
            user_id=f"u{rng.randrange(5_000)}",
            release="v1",
            provider="openai",
            request_model="gpt-4o-mini",
            input_tokens=rng.randrange(50, 150),
            output_tokens=rng.randrange(50, 150),
            latency_ms=rng.lognormvariate(6, 0.3),
        )
        if rng.random() < 0.002:
            trace.status, trace.error_type = "error", "503"
        if change is not None:
            change(trace, rng)
        yield trace
