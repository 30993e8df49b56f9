"""The values that streams are drawn from: real texts and their lengths, real or synthetic judge scores, and what an
application counts. Every scalar table ascends, so that neighbours are alike."""

import json
import os
from pathlib import Path

import cramjam
import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm

from benchmarks.detection.streams import HEALTHY, Table, rng_of
from benchmarks.detection.texts import Corpus

Floats = NDArray[np.float64]

ROWS = 10_000
CODES = np.array([0.93, 0.03, 0.02, 0.01, 0.005, 0.003, 0.002])  # what share of requests ends with each code
NEW_CODE = float(len(CODES))
DATA = Path(os.environ.get("DRIFTLINE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "alpaca_eval"
JUDGED = "gpt-3.5-turbo-1106"


def tables(corpus: Corpus) -> dict[str, Table]:
    """By signal. `real_score` only where the judged answers are ($DRIFTLINE_TEST_DATA)."""
    every = [_texts(corpus), _length(corpus), _latency(corpus), _cost(corpus), _errors(), _codes()]
    every.append(_scores("score", beta.ppf((np.arange(ROWS) + 0.5) / ROWS, 8, 2)))
    if (judged := DATA / f"{JUDGED}.jsonl.zst").exists():
        every.append(_scores("real_score", _judged(judged)))
    return {table.signal: table for table in every}


def _texts(corpus: Corpus) -> Table:
    blocks = {HEALTHY: corpus.vectors[corpus.known], "new": corpus.vectors[corpus.new]}
    vectors = np.concatenate(list(blocks.values()))
    starts = {HEALTHY: 0, "new": corpus.pool}
    sizes = {name: len(block) for name, block in blocks.items()}
    return Table("embedding", vectors, starts, sizes, corpus.topic[corpus.known])


def _words(corpus: Corpus) -> Floats:
    """Lengths of the known texts, as many as a table has rows."""
    words = np.sort(corpus.words[corpus.known]).astype(np.float64)
    return words[np.arange(ROWS) * len(words) // ROWS]


def _length(corpus: Corpus) -> Table:
    words = _words(corpus)
    middle = np.median(words)
    return Table.of(
        "length",
        {
            HEALTHY: words,
            "+5%": words * 1.05,
            "+10%": words * 1.10,
            "+25%": words * 1.25,
            "spread": middle * (words / middle) ** 1.3,  # the same median
        },
    )


def _noisy(corpus: Corpus, name: str, offset: float, spread: float) -> Floats:
    words = _words(corpus)
    return np.sort((offset + words) * rng_of("table", name).lognormal(0, spread, len(words)))


def _latency(corpus: Corpus) -> Table:
    """Seconds. A change of the 99th percentile by a factor comes from 2 % of requests, half of them above it."""
    healthy = _noisy(corpus, "latency", 100, 0.5) / 100
    limit = np.quantile(healthy, 0.99)
    tail = norm.ppf((np.arange(ROWS // 50) + 0.5) / (ROWS // 50))

    def slow(factor: float) -> Floats:
        return np.concatenate([healthy[: -len(tail)], np.sort(limit * factor * np.exp(0.1 * tail))])

    return Table.of("latency", {HEALTHY: healthy, **{f"x{f:g}": slow(f) for f in (1.5, 2, 4)}})


def _cost(corpus: Corpus) -> Table:
    """Dollars."""
    healthy = _noisy(corpus, "cost", 20, 0.8) * 1e-5
    return Table.of("cost", {HEALTHY: healthy, "x1.5": healthy * 1.5})


def _errors() -> Table:
    """A block of 0 and 1 for each rate."""
    place = (np.arange(ROWS) + 0.5) / ROWS
    return Table.of(
        "error", {HEALTHY: _bad(place, 0.005), **{f"{r:.0%}": _bad(place, r) for r in (0.01, 0.02, 0.05, 0.2)}}
    )


def _bad(place: Floats, rate: float) -> Floats:
    return (place >= 1 - rate).astype(np.float64)


def _codes() -> Table:
    """Numbers of result codes; the change is a new code in 1 % of requests, or the rarest ten times as often."""
    tenfold = CODES.copy()
    tenfold[-1] *= 10
    tenfold[0] -= 9 * CODES[-1]
    healthy = _repeated(CODES)
    new = healthy.copy()
    new[: ROWS // 100] = NEW_CODE
    return Table.of("code", {HEALTHY: healthy, "new": new, "x10": _repeated(tenfold)})


def _repeated(shares: Floats) -> Floats:
    return np.repeat(np.arange(len(shares), dtype=np.float64), np.round(shares * ROWS).astype(int))


def _scores(signal: str, healthy: Floats) -> Table:
    return Table.of(signal, {HEALTHY: healthy, **{f"-{drop}%": healthy * (1 - drop / 100) for drop in (5, 10, 30)}})


def _judged(path: Path) -> Floats:
    lines = bytes(cramjam.zstd.decompress(path.read_bytes())).splitlines()
    scores = [json.loads(line)["preference"] for line in lines]
    return np.sort(np.array([score for score in scores if score is not None]))
