"""What an event costs the monitor: `python benchmarks/monitor.py [--events N] [shape …]`. Prints one JSON object.

CPU time (not wall time) in microseconds per event, by phase: `decode` is msgspec's share of `take`; `take` is from
bytes to columns; `tick` is what each tick does: windows, detectors, results; `snapshot` is one snapshot with its
compression, in milliseconds, and its size. Each figure is the lower quartile of its runs or ticks, so that what else
the machine does weighs little; `mean_us` is take and tick with all that. Records are arrays of 200 events of 0.9 kB, as
producers send them; a run is what one fetch brings. Ticks come once a second of event time.
"""

import argparse
import asyncio
import json
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cramjam

from driftline.detectors.config import DetectorsConfig
from driftline.schemas.codec import decode_events, encode_events
from driftline.schemas.events import MICROSECONDS, Score, Tick, Trace
from driftline.schemas.topics import Topics
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.pricing import Pricer

START = 1_793_606_400 * MICROSECONDS
ARRAY = 200  # events in a record
RUN = 4_000  # events in a fetch
TEXT = "How do I reset the password of my account when I no longer have the phone? " * 4
MODELS = (("openai", "gpt-4o-mini"), ("anthropic", "claude-3-5-haiku-latest"), ("google", "gemini-2.5-flash"))


@dataclass(frozen=True)
class Shape:
    rate: int  # events a second of event time
    apps: int = 1
    releases: int = 1
    models: int = 1
    scores: float = 0.0  # for each trace


SHAPES = {
    "one": Shape(50_000),
    "many": Shape(50_000, apps=20, releases=2, models=3),
    "scores": Shape(50_000, scores=0.2),
    "moderate": Shape(1_000, apps=5, releases=2, models=2, scores=0.1),
    "sparse": Shape(5, scores=1.0),
}


class Record(NamedTuple):
    offset: int
    value: bytes
    key: bytes | None = None
    timestamp: int = 0
    timestamp_type: int = 0


def events(shape: Shape, rng: random.Random, at: int, n: int) -> Iterator[Trace | Score]:
    """One second's events. Sessions have five traces on average."""
    for i in range(n):
        provider, model = MODELS[rng.randrange(shape.models)]
        app = rng.randrange(shape.apps)
        trace = Trace(
            app=f"app-{app}",
            ts=at + i * MICROSECONDS // n,
            trace_id=f"{rng.getrandbits(128):032x}",
            span_id=f"{rng.getrandbits(64):016x}",
            conversation_id=f"c{at // (10 * MICROSECONDS)}-{rng.randrange(max(1, 2 * n))}",
            user_id=f"user-{rng.randrange(5_000)}",
            environment="production",
            release=f"v{rng.randrange(shape.releases)}",
            provider=provider,
            request_model=model,
            response_model=model,
            input_tokens=rng.randrange(50, 2_000),
            output_tokens=rng.randrange(50, 500),
            cache_read_input_tokens=0,
            latency_ms=round(rng.lognormvariate(6.5, 0.5), 3),
            ttft_ms=round(rng.lognormvariate(5.5, 0.4), 3),
            stream=True,
            finish_reasons=["stop"],
            input_text=TEXT[: rng.randrange(100, 250)],
            output_text=TEXT[: rng.randrange(100, 250)],
            attributes={"tenant": f"t{app}"},
        )
        if rng.random() < 0.003:
            trace.status, trace.error_type = "error", "503"
        yield trace
        if rng.random() < shape.scores:
            yield Score(
                app=trace.app,
                ts=trace.ts,
                id=f"s{trace.trace_id}",
                trace_id=trace.trace_id,
                name="relevance",
                value=round(rng.betavariate(8, 2), 3),
                conversation_id=trace.conversation_id,
                release=trace.release,
                model=model,
            )


def runs(shape: Shape, total: int) -> Iterator[tuple[list[Record], int]]:
    """(records, events in them): fetches of data, then one tick, a second at a time."""
    rng = random.Random(1)
    offset, done, at = 0, 0, START
    while done < total:
        second = list(events(shape, rng, at, shape.rate))
        at += MICROSECONDS
        for start in range(0, len(second), RUN):
            part = second[start : start + RUN]
            records = [
                Record(offset + i, encode_events(list(part[first : first + ARRAY])))
                for i, first in enumerate(range(0, len(part), ARRAY))
            ]
            offset += len(records)
            yield records, len(part)
        yield [Record(offset, encode_events([Tick(ts=at)]))], 0
        offset += 1
        done += len(second)


async def measure(shape: Shape, total: int) -> dict[str, Any]:
    fold = MonitorFold(MonitorConfig(), DetectorsConfig(), Topics("bench"), Pricer(), None)
    spent: dict[str, list[float]] = {"decode": [], "take": [], "tick": []}
    counts: list[int] = []
    size = 0

    async def timed(phase: str, records: Sequence[Record]) -> None:
        start = time.process_time()
        if phase == "decode":
            for record in records:
                decode_events(record.value)
        else:
            await fold.absorb(records)
        spent[phase].append((time.process_time() - start) * 1e6)

    for records, count in runs(shape, total):
        if count:
            await timed("decode", records)
            await timed("take", records)
            counts.append(count)
            size += sum(len(record.value) for record in records)
        else:
            await timed("tick", records)
    start = time.process_time()
    packed = fold.snapshot()
    middle = time.process_time()
    compressed = len(bytes(cramjam.zstd.compress(packed, 3)))
    end = time.process_time()
    n = sum(counts)
    decode, take = (
        lower(time / count for time, count in zip(spent[phase], counts, strict=True)) for phase in ("decode", "take")
    )
    tick = lower(spent["tick"])
    return {
        "events": n,
        "bytes_per_event": round(size / n),
        "decode_us": round(decode, 2),
        "take_us": round(take, 2),
        "tick_us": round(tick * len(spent["tick"]) / n, 2),
        "all_us": round(take + tick * len(spent["tick"]) / n, 2),
        "mean_us": round((sum(spent["take"]) + sum(spent["tick"])) / n, 2),
        "ms_per_tick": round(tick / 1e3, 3),
        "snapshot_ms": round((middle - start) * 1e3, 1),
        "compress_ms": round((end - middle) * 1e3, 1),
        "snapshot_mib": round(len(packed) / 2**20, 2),
        "compressed_mib": round(compressed / 2**20, 2),
    }


def lower(values: Iterable[float]) -> float:
    """The lower quartile."""
    ordered = sorted(values)
    return ordered[len(ordered) // 4]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("shapes", nargs="*", choices=[*SHAPES, []], help="default: all")
    parser.add_argument("--events", type=int, default=500_000, help="of each shape but sparse, which gets 3,000")
    arguments = parser.parse_args()
    report = {
        name: asyncio.run(measure(SHAPES[name], 3_000 if name == "sparse" else arguments.events))
        for name in arguments.shapes or SHAPES
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
