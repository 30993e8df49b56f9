"""How fast the detectors are and how soon they alarm: `python benchmarks/detectors.py`. Prints one JSON object.

Speed on one thread, the best of three rounds. Delays are medians over 20 seeded runs at the default budget (1 false
alarm in 30 days over 1,000 streams), with the figure that the design aims at beside them.
"""

import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from driftline.detectors.base import Floats, Insufficient, TickBatch
from driftline.detectors.canary import ArmBatch, Canary
from driftline.detectors.config import CanaryConfig, DetectorsConfig
from driftline.detectors.ddsketch import DDSketch
from driftline.detectors.digests import digests
from driftline.detectors.registry import AnyDetector, make
from driftline.detectors.state import pack
from driftline.detectors.units import FirstEvents

DIMENSIONS = 384
RUNS = 20
CONFIG = DetectorsConfig()


def best(work: Callable[[], Any]) -> float:
    """Seconds of the fastest of three rounds."""
    rounds = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        rounds.append(time.perf_counter() - start)
    return min(rounds)


def batch(value: Floats, slots: int = 1) -> TickBatch:
    n = len(value)
    return TickBatch(np.arange(n) % slots, value, np.arange(n))


def ready(name: str, reference: Floats, slots: int = 1) -> AnyDetector:
    detector = make(name, CONFIG)
    learned = detector.reference()
    learned.add(reference, np.arange(len(reference)))
    baseline = detector.fit(learned)
    if isinstance(baseline, Insufficient):
        raise SystemExit(f"{name}: {baseline.note}")
    for _ in range(slots):
        detector.open(baseline)
    return detector


def topics(rng: np.random.Generator, n: int, new: float = 0.0) -> Floats:
    """Texts on 20 topics, a share of them on a 21st."""
    topic = np.where(rng.random(n) < new, 20, rng.integers(0, 20, n))
    vectors: Floats = TOPICS[topic] * 0.7 + rng.normal(size=(n, DIMENSIONS))
    return vectors


TOPICS = np.random.default_rng(99).normal(size=(21, DIMENSIONS))


def embedding_speed(name: str, size: int) -> float:
    """Updates per second in ticks of `size`."""
    rng = np.random.default_rng(0)
    detector = make(name, CONFIG)
    detector.open(embedding_baseline(name))
    ticks = [batch(unit(topics(rng, size))) for _ in range(max(1, 20_000 // size))]
    clock = iter(range(10**9))
    return len(ticks) * size / best(lambda: [detector.update(each, next(clock)) for each in ticks])


def rate_speed(slots: int) -> float:
    """Units per second of one rate detector with 10 units a stream and tick."""
    rng = np.random.default_rng(0)
    detector = ready("latency_p99", rng.lognormal(6, 0.5, 20_000), slots)
    ticks = [batch(rng.lognormal(6, 0.5, 10 * slots), slots) for _ in range(100)]
    clock = iter(range(10**9))
    return 1000 * slots / best(lambda: [detector.update(each, next(clock)) for each in ticks])


def unit_speed() -> float:
    names = [f"session-{i // 4}" for i in range(100_000)]

    def work() -> None:
        units = FirstEvents(CONFIG.units)
        for start in range(0, len(names), 1000):
            part = names[start : start + 1000]
            units.take(np.ones(len(part), np.int64), digests(part), start)

    return len(names) / best(work)


def sketch_speed() -> float:
    values = np.random.default_rng(0).lognormal(6, 1, 100_000).reshape(100, -1)
    sketch = DDSketch()

    def work() -> None:
        for row in values:
            sketch.add(row)

    return values.size / best(work)


def canary_speed() -> float:
    """Ticks of 100 requests, each with a verdict, per second."""
    rng = np.random.default_rng(0)
    canary = Canary(CanaryConfig(), 0, {"latency": rng.lognormal(6, 0.5, 20_000)})
    batches = [
        ArmBatch(
            [f"u{100 * tick + i}" for i in range(100)],
            rng.random(100) < 0.1,
            np.full(100, 0.1),
            {"error": (rng.random(100) < 0.01).astype(float), "latency": rng.lognormal(6, 0.5, 100)},
        )
        for tick in range(300)
    ]
    clock = iter(range(0, 10**15, 1_000_000))

    def work() -> None:
        for each in batches:
            canary.update(each, next(clock))
            canary.verdict()

    return len(batches) / best(work)


def delay(detector: AnyDetector, units: Callable[[int], Floats], size: int, limit: int = 5000) -> int | None:
    """Units from the change to the alarm."""
    for tick in range(limit):
        if detector.update(batch(units(size)), 10_000 + tick).fired:
            return (tick + 1) * size
    return None


def median_delay(make_run: Callable[[np.random.Generator], tuple[AnyDetector, Callable[[int], Floats], int]]) -> Any:
    found = [delay(*make_run(np.random.default_rng(seed))) for seed in range(RUNS)]
    delays = [d for d in found if d is not None]
    return {"median": float(np.median(delays)) if delays else None, "found": f"{len(delays)}/{RUNS}"}


def errors(rng: np.random.Generator) -> tuple[AnyDetector, Callable[[int], Floats], int]:
    detector = ready("error_rate", (rng.random(5000) < 0.005).astype(float))
    return detector, lambda n: (rng.random(n) < 0.05).astype(float), 100


def slow(rng: np.random.Generator) -> tuple[AnyDetector, Callable[[int], Floats], int]:
    detector = ready("latency_p99", rng.lognormal(6, 0.5, 20_000))
    return detector, lambda n: rng.lognormal(6, 0.5, n) * np.where(rng.random(n) < 0.05, 20, 1), 100


def scores(drop: float) -> Callable[[np.random.Generator], tuple[AnyDetector, Callable[[int], Floats], int]]:
    def run(rng: np.random.Generator) -> tuple[AnyDetector, Callable[[int], Floats], int]:
        return ready("quality", rng.beta(8, 2, 5000)), lambda n: rng.beta(8, 2, n) * (1 - drop), 5

    return run


@cache
def embedding_baseline(name: str) -> Any:
    """One for all runs: thresholds take seconds."""
    return ready(name, unit(topics(np.random.default_rng(1), 20_000))).baseline(0)


def unit(vectors: Floats) -> Floats:
    rows: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return rows


def drift(name: str, share: float) -> Callable[[np.random.Generator], tuple[AnyDetector, Callable[[int], Floats], int]]:
    def run(rng: np.random.Generator) -> tuple[AnyDetector, Callable[[int], Floats], int]:
        detector = make(name, CONFIG)
        detector.open(embedding_baseline(name))
        for tick in range(200):
            detector.update(batch(unit(topics(rng, 16))), tick)
        return detector, lambda n: unit(topics(rng, n, share)), 16

    return run


def main() -> None:
    rng = np.random.default_rng(0)
    embedding = make("embedding_drift", CONFIG)
    embedding.open(embedding_baseline("embedding_drift"))
    for tick in range(200):
        embedding.update(batch(topics(rng, 16)), tick)
    learning = make("embedding_drift", CONFIG).reference()
    vectors = topics(rng, 1000)

    def learn() -> None:
        learning.add(vectors, np.arange(1000))
        learning.close(1000)

    report = {
        "speed_per_s": {
            "embedding updates, ticks of 16": round(embedding_speed("embedding_drift", 16)),
            "embedding updates, ticks of 1000": round(embedding_speed("embedding_drift", 1000)),
            "witness updates, ticks of 16": round(embedding_speed("embedding_witness", 16)),
            "witness updates, ticks of 1000": round(embedding_speed("embedding_witness", 1000)),
            "embedding reference": round(1000 / best(learn)),
            "rate units, 1 stream": round(rate_speed(1)),
            "rate units, 1000 streams": round(rate_speed(1000)),
            "sessions to units": round(unit_speed()),
            "sketch values": round(sketch_speed()),
            "canary ticks of 100 with verdict": round(canary_speed()),
        },
        "state_bytes": {
            "embedding_drift, one stream": len(pack(embedding.snapshot())),
            "embedding reference": len(pack(learning.snapshot())),
            "error_rate, 1000 streams": len(pack(ready("error_rate", np.zeros(5000), 1000).snapshot())),
        },
        "delay_in_units": {
            "errors 0.5 % to 5 %, 100 a tick (aim 700)": median_delay(errors),
            "5 % of answers twenty times slower, 100 a tick": median_delay(slow),
            "scores -10 %, reference 5,000 (aim 368)": median_delay(scores(0.1)),
            "scores -30 %, reference 5,000 (aim 45)": median_delay(scores(0.3)),
            **{
                f"new topic, {words} of the texts, {name} (aim {aim})": median_delay(drift(name, share))
                for name, aims in (("embedding_drift", (48, 96, 432)), ("embedding_witness", (112, 214, 592)))
                for aim, (words, share) in zip(aims, (("all", 1.0), ("half", 0.5), ("a fifth", 0.2)), strict=True)
            },
        },
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
