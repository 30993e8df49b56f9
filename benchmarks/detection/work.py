"""The suite in parts, several at a time."""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from typing import Any

from benchmarks.detection.ours import present
from benchmarks.detection.suite import FULL, SMALL, Baselines, Row, Size, drift_rows, null_rows
from benchmarks.detection.tables import tables
from benchmarks.detection.tail import tail_ratio
from benchmarks.detection.texts import corpus

WORKERS = 4  # the peers run beside


def rows_and_tail(size: Size) -> tuple[list[Row], list[dict[str, Any]]]:
    """What all parts found, in the same order every time."""
    parts = [("drifts", "embedding"), *(("nulls", name) for name in reversed(present()))]
    parts += [("drifts", signal) for signal in tables(corpus(size.pool, size.new)) if signal != "embedding"]
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(_part, [size.name] * len(parts), *zip(*parts, strict=True)))
    rows = [row for part, _ in found for row in part]
    order = list(present())
    rows.sort(key=lambda row: (not row["null"], row["stream"] if not row["null"] else order.index(row["detector"])))
    return rows, [estimate for _, tail in found for estimate in tail]


def _part(size_name: str, kind: str, of: str) -> tuple[list[Row], list[dict[str, Any]]]:
    size, baselines = _prepared(size_name)
    rows = []
    for row in (null_rows if kind == "nulls" else drift_rows)(of, baselines, size):
        print("ours:", json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    return rows, list(_tail(baselines, size)) if (kind, of) == ("drifts", "embedding") else []


def _tail(baselines: Baselines, size: Size) -> Iterator[dict[str, Any]]:
    for session in (1,) if size.name == SMALL.name else (1, 4):
        yield tail_ratio(baselines, session)


@cache
def _prepared(size_name: str) -> tuple[Size, Baselines]:
    """Once for each process."""
    size = {each.name: each for each in (FULL, SMALL)}[size_name]
    return size, Baselines(tables(corpus(size.pool, size.new)))
