"""A fold that is built from its snapshot, at any point of any log, goes on as if there had been none: to the bit."""

import random
from collections.abc import Callable, Iterator
from itertools import islice

import pytest

from benchmarks.fuzz import data
from benchmarks.fuzz.data import Choices
from benchmarks.fuzz.targets import Embedder, embedding_log
from benchmarks.harness.hostile import Hostile
from driftline.detectors.config import DetectorsConfig
from driftline.schemas.codec import encode_events
from driftline.schemas.events import MICROSECONDS, Release, Tick
from driftline.streams.embed.config import EmbedConfig
from driftline.streams.embed.fold import EmbedFold
from driftline.streams.fold import Fold
from driftline.streams.monitor.config import LimitsConfig, MonitorConfig, WindowConfig
from driftline.streams.monitor.drift import DriftFold
from driftline.streams.monitor.fold import MonitorFold
from driftline.streams.pricing import Pricer
from tests.streams.monitor.log import START, TOPICS, FakeRecord, traffic

# Small, so that limits are met: of names, canaries, and of the whole state.
LIMITS = LimitsConfig(
    apps=6, releases=3, models=3, scores=3, error_types=3, series=20, canaries=3, canaries_of_app=2, state_bytes=2**18
)
CONFIG = MonitorConfig(limits=LIMITS, windows=WindowConfig(grace_s=0))
PRICER = Pricer()


def events(seed: int) -> Iterator[bytes | None]:
    """A good app with a canary, strangers, damaged events, and ticks that jump."""
    rng, now = random.Random(seed), START
    hostile = Hostile(seed, lambda: now).records()
    good = list(traffic(seed, 0, 60, 20))
    yield encode_events(
        [Release(app="bot", ts=START, id="r", kind="canary_start", release="v2", stable="v1", share=0.5)]
    )
    for trace in good:
        if rng.random() < 0.5:
            trace.release, trace.canary_share = "v2", rng.choice([0.5, 0.25, rng.random()])
    for second in range(60):
        now = START + second * MICROSECONDS
        yield encode_events([t for t in good if now <= t.ts < now + MICROSECONDS])
        yield from (value for _, value in islice(hostile, 12))
        yield from islice(data.log(Choices(rng.randbytes(400))), 2)
        jump = rng.choice([0, 0, 0, 90, 86_400 * 2]) if second > 40 else 0
        yield encode_events([TOPICS.controls.signed(Tick(ts=now + (1 + jump) * MICROSECONDS), 0)])


def embeddings(seed: int) -> Iterator[bytes | None]:
    rng = random.Random(seed)
    for _ in range(4):
        yield from embedding_log(Choices(rng.randbytes(4_000)))


Make = Callable[[bytes | None], Fold]
FOLDS: dict[str, tuple[Make, Callable[[int], Iterator[bytes | None]]]] = {
    "monitor": (lambda state: MonitorFold(CONFIG, DetectorsConfig(), TOPICS, PRICER, state, partition=0), events),
    "drift": (lambda state: DriftFold(CONFIG, DetectorsConfig(), TOPICS, state), embeddings),
    "embed": (lambda state: EmbedFold(EmbedConfig(), TOPICS.embeddings, Embedder(), state, ahead_s=3600), events),
}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", FOLDS)
@pytest.mark.filterwarnings("ignore:overflow")
async def test_snapshots_change_nothing(name: str, seed: int) -> None:
    make, log = FOLDS[name]
    rng = random.Random(seed)
    records = [FakeRecord(offset, value) for offset, value in enumerate(log(seed))]
    whole, cut = make(None), make(None)
    at = 0
    while at < len(records):
        until = at + rng.choice([1, 2, 7, 40])
        part = records[at:until]
        assert await cut.absorb(part) == await whole.absorb(part)
        snapshot = whole.snapshot()
        assert cut.snapshot() == snapshot
        assert cut.counters == whole.counters
        cut = make(snapshot)
        assert cut.snapshot() == snapshot
        at = until
