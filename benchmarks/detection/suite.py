"""Our side of the benchmark: every detector of the registry on every null and every drift of its signals."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.detection.metrics import EVENTS_PER_S, MONTH_S, Rate, before, calibration, delays, summary
from benchmarks.detection.ours import KNOWN, Bank, Ours, Refused, fit, present, settings
from benchmarks.detection.scenarios import DRIFTS, NULLS, QUICK, null_of
from benchmarks.detection.streams import DAY_TICKS, Scenario, Streams, Table, drifts, nulls, reference

OPERATING = 1 / (86_400 * 30 * 1000)  # one false alarm in 30 days over 1,000 streams, ticks of a second
CALIBRATION = 1 / 500  # a level whose alarms can be counted
MATCHED = 1 / 10_000  # false alarms per event: where tools are compared
BEFORE = 5_000  # events before the change, at least
UNITS = {"embedding": 20_000, "score": 50_000, "real_score": 50_000}  # of a reference
UNITS_ELSE = 20_000

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much of everything. Embeddings cost more: they get half of the runs and of the references."""

    name: str
    pool: int  # texts of known topics
    new: int
    nulls: tuple[Scenario, ...]
    drifts: tuple[Scenario, ...]
    references: int  # drawn for each null; the runs share them
    null_runs: int
    null_ticks: int
    drift_runs: int
    peer_runs: int
    peer_events: int  # of a null
    tune_steps: int


FULL = Size(
    name="full",
    pool=4500,
    new=1500,
    nulls=NULLS,
    drifts=DRIFTS,
    references=4,
    null_runs=24,
    null_ticks=1200,
    drift_runs=24,
    peer_runs=16,
    peer_events=50_000,
    tune_steps=10,
)
SMALL = Size(
    name="quick",
    pool=1200,
    new=400,
    nulls=(NULLS[0], NULLS[1]),
    drifts=tuple(scenario for scenario in DRIFTS if scenario.name in QUICK),
    references=1,
    null_runs=16,
    null_ticks=600,
    drift_runs=8,
    peer_runs=6,
    peer_events=20_000,
    tune_steps=8,
)


def events_of_reference(signal: str, detector: Ours, scenario: Scenario) -> int:
    """Sessions are units for all but the detectors that take every event. By day, two weeks."""
    if scenario.diurnal:
        return 14 * DAY_TICKS * scenario.per_tick
    units = UNITS.get(signal, UNITS_ELSE)
    return units if detector.units == "every" else units * scenario.session


class Baselines:
    """Fitted once for each reference and level: some take long."""

    def __init__(self, tables: Mapping[str, Table]) -> None:
        self.tables = tables
        self._known: dict[tuple[Any, ...], Any] = {}

    def bank(self, name: str, scenario: Scenario, row: Row, references: int) -> Bank | None:
        """None, and a note in the row, where there is no baseline. At the stated level a detector has its part of the
        budget, as it has in production; elsewhere the row's level is its own."""
        alpha = row["alpha"] if row["setting"] == "stated" else row["alpha"] / KNOWN[name].part
        row["reference_events"] = events_of_reference(scenario.signal, KNOWN[name], scenario)
        began = time.process_time()
        try:
            learned = [self.of(name, scenario, alpha, seed) for seed in range(references)]
        except Refused as refused:
            row["note"] = f"no baseline: {refused}"
            return None
        row["fit_s"] = time.process_time() - began
        return Bank(name, settings(alpha, scenario), self.tables[scenario.signal], learned, row["runs"])

    def of(self, name: str, scenario: Scenario, alpha: float, seed: int = 0) -> Any:
        key = (name, scenario.signal, scenario.base, scenario.session, scenario.diurnal, alpha, seed)
        if key not in self._known:
            table = self.tables[scenario.signal]
            learned = reference(table, scenario, events_of_reference(scenario.signal, KNOWN[name], scenario), seed)
            self._known[key] = fit(name, settings(alpha, scenario), table, learned)
        return self._known[key]


def null_rows(name: str, baselines: Baselines, size: Size) -> Iterator[Row]:
    """Of one detector."""
    detector = KNOWN[name]
    for signal in (signal for signal in detector.signals if signal in baselines.tables):
        for null in size.nulls:
            scenario = null_of(null, signal, detector.limit)
            heavy = signal == "embedding"
            runs = size.null_runs // 2 if heavy else size.null_runs
            row = _row(name, scenario, "calibration", CALIBRATION, runs)
            bank = baselines.bank(name, scenario, row, min(2, size.references) if heavy else size.references)
            if bank is not None:
                outcome = bank.run(nulls(baselines.tables[signal], scenario, runs, size.null_ticks))
                rate = Rate(sum(map(len, outcome.alarms)), outcome.ticks)
                row |= calibration(rate, CALIBRATION)
                row |= {
                    "alarms": rate.alarms,
                    "ticks": outcome.ticks,
                    "at_limit": bool(scenario.limit),
                    "false_alarms_per_30d": rate.each * MONTH_S / scenario.tick_s,
                    "seconds_per_window": outcome.spent_s / outcome.events * 200,
                }
            yield row


def drift_rows(signal: str, baselines: Baselines, size: Size) -> Iterator[Row]:
    """Of all detectors of one signal."""
    for scenario in (each for each in size.drifts if each.signal == signal):
        runs = size.drift_runs // 2 if signal == "embedding" else size.drift_runs
        streams = drifts(baselines.tables[signal], scenario, runs, BEFORE)
        for name, detector in present().items():
            if signal not in detector.signals:
                continue
            for setting, alpha in (("stated", OPERATING), ("matched", MATCHED * scenario.per_tick)):
                row = _row(name, scenario, setting, alpha, runs)
                bank = baselines.bank(name, scenario, row, 1)
                if bank is not None:
                    outcome = bank.run(streams)
                    row |= delay_fields(outcome.alarms, streams, scenario)
                    row["seconds_per_window"] = outcome.spent_s / outcome.events * 200
                yield row


def delay_fields(alarms: list[list[int]], streams: Streams, scenario: Scenario) -> Row:
    change = streams.change[: len(alarms)].tolist()
    false = before(alarms, change) / sum(change)
    found = delays(alarms, change, scenario.after)
    return {
        **summary(found, scenario.after),
        "horizon_events": scenario.after,
        "false_alarms_per_30d": false * EVENTS_PER_S * MONTH_S,
    }


def _row(name: str, scenario: Scenario, setting: str, alpha: float, runs: int) -> Row:
    return {
        "stream": scenario.name,
        "signal": scenario.signal,
        "tool": "driftline",
        "detector": name,
        "setting": setting,
        "alpha": alpha,
        "null": not scenario.drift,
        "runs": runs,
    }
