"""What a partition's state holds: `python -m benchmarks.state [--apps N …] [--dimensions D …] [--requests N]`.

A JSON line each: bytes of the monitor's and of the drift fold's snapshot, as they are and compressed (a record takes
16 MiB), their largest parts, and what the folds left out. Each app has one release, from which every detector learns.
"""

import argparse
import asyncio
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import cramjam
import numpy as np

from driftline.detectors.config import DetectorsConfig
from driftline.detectors.state import pack, unpack
from driftline.schemas import codec
from driftline.schemas.events import MICROSECONDS, Event, Score, Tick, Trace
from driftline.schemas.results import Embedding
from driftline.schemas.topics import Topics
from driftline.streams.fold import Fold
from driftline.streams.monitor.config import MonitorConfig
from driftline.streams.monitor.drift import DriftFold
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.pricing import Pricer

START = 1_793_606_400 * MICROSECONDS
TOPICS = Topics("bench")
BATCH = 500  # events a tick
LARGEST = 8  # parts shown


class Record(NamedTuple):
    offset: int
    value: bytes
    key: bytes | None = None
    timestamp: int = 0
    timestamp_type: int = 0


def requests(apps: int, of_each: int) -> Iterator[list[Event]]:
    rng = np.random.default_rng(1)
    batch: list[Event] = []
    for number in range(apps * of_each):
        at = START + number // BATCH * MICROSECONDS
        app, id_ = f"app-{number % apps}", f"{number:032x}"
        failed = rng.random() < 0.01
        batch.append(
            Trace(
                app=app,
                ts=at,
                trace_id=id_,
                conversation_id=id_,
                user_id=f"user-{number % 5_000}",
                release="v1",
                provider="openai",
                request_model="gpt-4o-mini",
                input_tokens=int(rng.integers(50, 2_000)),
                output_tokens=int(rng.integers(50, 500)),
                latency_ms=float(rng.lognormal(6.5, 0.5)),
                ttft_ms=float(rng.lognormal(5.5, 0.4)),
                finish_reasons=["stop"],
                status="error" if failed else "ok",
                error_type="503" if failed else "",
            )
        )
        if number % 5 == 0:
            batch.append(
                Score(app=app, ts=at, id=id_, trace_id=id_, name="relevance", value=float(rng.beta(8, 2)),
                      conversation_id=id_, release="v1", model="gpt-4o-mini")
            )  # fmt: skip
        if number % BATCH == BATCH - 1:
            yield batch
            batch = []
    yield batch


def texts(apps: int, of_each: int, d: int) -> Iterator[list[Embedding]]:
    rng = np.random.default_rng(1)
    centers = rng.standard_normal((20, d))
    batch = []
    for number in range(apps * of_each):
        x = centers[rng.integers(0, 20, 2)] + rng.standard_normal((2, d))
        x /= np.linalg.norm(x, axis=1)[:, None]
        prompt, response = x.astype("<f2")
        batch.append(
            Embedding(
                app=f"app-{number % apps}",
                ts=START + number // BATCH * MICROSECONDS,
                trace_id=str(number),
                span_id="",
                conversation_id=f"{number % apps} {number // apps // 4}",
                user_id="",
                environment="",
                release="v1",
                canary_share=None,
                model="gpt-4o-mini",
                embed_model=f"random-{d}",
                prompt=prompt.tobytes(),
                response=response.tobytes(),
                excerpt="How do I reset the password of my account?",
                prompt_language="en",
                response_language="en",
            )
        )
        if number % BATCH == BATCH - 1:
            yield batch
            batch = []
    yield batch


async def fed(fold: Fold, batches: Iterator[list[Any]]) -> dict[str, Any]:
    for i, batch in enumerate(batches):
        tick = Tick(ts=START + (i + 1) * MICROSECONDS)
        encode = codec.encode_events if isinstance(fold, MonitorFold) else codec.pack
        await fold.absorb([Record(2 * i, encode(batch)), Record(2 * i + 1, encode([tick]))])
    snapshot = fold.snapshot()
    largest = sorted(sizes(unpack(snapshot)), key=lambda part: -part[1])[:LARGEST]
    return {
        "bytes": len(snapshot),
        "compressed": len(bytes(cramjam.zstd.compress(snapshot, 3))),
        "largest": dict(largest),
        "left_out": {reason: n for reason, n in fold.counters.items() if n},
    }


def sizes(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    """Bytes of each part, two levels deep."""
    for name, part in state.items():
        if isinstance(part, dict) and name in ("analysis", "watches", "detector", *DETECTORS):
            yield from sizes(part, f"{prefix}{name}.")
        else:
            yield prefix + str(name), len(pack({"": part}))


DETECTORS = ("embedding_drift", "embedding_witness")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--apps", type=int, nargs="+", default=[50])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[384])
    parser.add_argument("--requests", type=int, default=40, help="of each app")
    parser.add_argument("--texts", type=int, default=40, help="of each app")
    options = parser.parse_args()
    for apps in options.apps:
        if options.requests:
            monitor = MonitorFold(MonitorConfig(), DetectorsConfig(), TOPICS, Pricer(), None)
            shown = asyncio.run(fed(monitor, requests(apps, options.requests)))
            print(json.dumps({"fold": "monitor", "apps": apps, **shown}), flush=True)
        for d in options.dimensions:
            drift = DriftFold(MonitorConfig(), DetectorsConfig(), TOPICS, None)
            shown = asyncio.run(fed(drift, texts(apps, options.texts, d)))
            print(json.dumps({"fold": "drift", "apps": apps, "dimensions": d, **shown}), flush=True)


if __name__ == "__main__":
    main()
