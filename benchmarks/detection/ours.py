"""Driftline's detectors on streams: what the monitor's folds do with events, without the events.

Sessions become units as `driftline.detectors.units` makes them, but a session's mean enters with its last event here
and not up to a minute later.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.streams import Rows, Scenario, Streams, Table
from driftline.detectors.base import Insufficient, TickBatch
from driftline.detectors.config import BudgetConfig, DetectorsConfig
from driftline.detectors.embeddings import EmbeddingReference
from driftline.detectors.registry import FACTORIES, AnyDetector, make
from driftline.detectors.seasons import REFITS

UnitKind = Literal["first", "mean", "every"]


@dataclass(frozen=True)
class Ours:
    """What a detector of the registry is tried on."""

    signals: tuple[str, ...]
    units: UnitKind  # a session's first event, its mean, or every event with the session's number
    limit: str = ""  # block of the table that is as bad as the detector's null allows, where it is not the healthy one
    part: float = 1.0  # of a stream's budget that the registry gives it


_WITNESS = DetectorsConfig().embedding_drift.witness_share
KNOWN = {
    "error_rate": Ours(("error",), "first", "1%"),
    "latency_p99": Ours(("latency",), "first", "x2"),
    "quality": Ours(("score", "real_score"), "mean", "-5%"),
    "quality_pit": Ours(("score", "real_score"), "mean"),
    "scalar_drift": Ours(("length", "latency", "cost"), "first"),
    "error_type": Ours(("code",), "first"),
    "embedding_drift": Ours(("embedding",), "every", part=1 - _WITNESS),
    "embedding_witness": Ours(("embedding",), "mean", part=_WITNESS),
}
SAME = {  # the same code on other values
    "ttft_p99": "latency_p99",
    "cost_p99": "latency_p99",
    "finish_reason": "error_type",
    "query_type": "error_type",
    "language": "error_type",
    "judge_drift": "quality_pit",
}


def present() -> dict[str, Ours]:
    """The detectors of the registry that this benchmark can try."""
    return {name: KNOWN[name] for name in FACTORIES if name in KNOWN}


def untried() -> list[str]:
    return [name for name in FACTORIES if name not in KNOWN and name not in SAME]


def settings(alpha: float, scenario: Scenario) -> DetectorsConfig:
    """One stream that has the whole budget: alpha false alarms a tick."""
    tick_s = scenario.tick_s
    budget = BudgetConfig(false_alarms=alpha * 86_400 * 30 / tick_s, per_days=30, tick_s=tick_s, streams=1)
    return DetectorsConfig(budget=budget)


def fit(name: str, config: DetectorsConfig, table: Table, stream: Streams) -> Any:
    """The baseline of a reference. Raises Refused."""
    detector, units = make(name, config), KNOWN[name].units
    learned = detector.reference()
    for start in range(0, stream.n, 4096):
        columns = slice(start, start + 4096)
        _, value, session = _read(units, table, stream, columns, np.zeros(1, np.intp))
        learned.add(value, session)
        if isinstance(learned, EmbeddingReference):
            learned.close(int(session[-1]))
    baseline = detector.fit(learned)
    if isinstance(baseline, Insufficient):
        raise Refused(f"{baseline.note} ({baseline.have} of {baseline.need})")
    season = detector.season(baseline)
    if season is None:
        return baseline
    for tick, (start, end) in enumerate(pairwise([0, *stream.ends.tolist()])):
        _, value, session = _read(units, table, stream, slice(start, end), np.zeros(1, np.intp))
        season.add(value, session, tick)
    return detector.seasoned(baseline, season) if season.days >= REFITS[0] else baseline


class Refused(Exception):
    """The detector made no baseline of the reference."""


@dataclass(frozen=True)
class Outcome:
    alarms: list[list[int]]  # [runs] position of the last event that each alarm had seen
    ticks: int  # stepped, over all runs
    events: int
    spent_s: float  # CPU time in updates


class Bank:
    """One detector with a slot for each run; the baselines take turns."""

    def __init__(self, name: str, config: DetectorsConfig, table: Table, baselines: Sequence[Any], runs: int) -> None:
        self._table = table
        self._units = KNOWN[name].units
        self.detector: AnyDetector = make(name, config)
        for run in range(runs):
            self.detector.open(baselines[run % len(baselines)])

    def run(self, streams: Streams) -> Outcome:
        """Every stream to its end, or to its first alarm after the change. After a false alarm a stream begins anew."""
        alarms: list[list[int]] = [[] for _ in range(streams.runs)]
        active = np.arange(streams.runs)
        ticks = events = 0
        spent = 0.0
        start = 0
        for tick, end in enumerate(streams.ends.tolist()):
            columns = slice(start, end)
            row, value, session = _read(self._units, self._table, streams, columns, active)
            batch = TickBatch(active[row], value, session)
            began = time.process_time()
            fired = self.detector.update(batch, tick).fired
            spent += time.process_time() - began
            ticks += len(active)
            events += len(active) * (end - start)
            done = []
            for slot in fired:
                alarms[slot].append(end - 1)
                self.detector.reset(slot)
                if end - 1 >= streams.change[slot]:
                    done.append(slot)
            if done:
                active = np.setdiff1d(active, done)
                if not len(active):
                    break
            start = end
        return Outcome(alarms, ticks, events, spent)


def _taken(kind: UnitKind, session: Rows) -> NDArray[np.bool_]:
    """[runs, n] where units end (means) or stand (first events); sessions are in one piece, and ticks cut none."""
    if kind == "every":
        return np.ones(session.shape, np.bool_)
    change = np.diff(session, axis=1) != 0
    edge = np.ones((len(session), 1), np.bool_)
    return np.concatenate([edge, change] if kind == "first" else [change, edge], axis=1)


def _read(
    kind: UnitKind, table: Table, streams: Streams, columns: slice, active: Rows
) -> tuple[Rows, NDArray[np.float64], Rows]:
    """Row of each unit among the active streams, its value, its session."""
    index, session = streams.index[active, columns], streams.session[active, columns]
    row, column = np.nonzero(_taken(kind, session))
    if kind != "mean":
        return row, table.values[index[row, column]].astype(np.float64), session[row, column]
    ends = row * index.shape[1] + column + 1
    starts = np.concatenate([[0], ends[:-1]])
    sums = np.add.reduceat(table.values[index.ravel()].astype(np.float64), starts, axis=0)
    lengths = (ends - starts).reshape(-1, *[1] * (sums.ndim - 1))
    return row, sums / lengths, session[row, column]
