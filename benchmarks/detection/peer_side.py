"""Our side of the peers: their environment, the streams they see, what their alarms mean.

They run in an environment of their own (`peers/requirements.txt`, in the cache folder), beside ours: a process for each
signal, and for each method on embeddings.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.detection.cache import folder
from benchmarks.detection.metrics import EVENTS_PER_S, MONTH_S, Rate, calibration
from benchmarks.detection.scenarios import null_of
from benchmarks.detection.streams import HEALTHY, Scenario, Streams, Table, drifts, nulls, reference
from benchmarks.detection.suite import BEFORE, MATCHED, UNITS_ELSE, Row, Size, delay_fields

ROOT = Path(__file__).parents[2]
REQUIREMENTS = Path(__file__).parent / "peers" / "requirements.txt"
SEQUENTIAL = ("ADWIN", "Page-Hinkley")
COLUMN_METHODS = {
    "length": ("KS test", "Wasserstein"),
    "score": ("KS test", "Wasserstein"),
    "latency": ("KS test",),
    "cost": ("KS test",),
    "real_score": ("KS test",),
    "error": ("chi-square test", "Jensen-Shannon"),
    "code": ("chi-square test", "Jensen-Shannon"),
}
SLOW_ON = ("length", "score")  # KSWIN, at its defaults only: 150 µs an event
SLOW_RUNS = 5


def python(make: bool) -> Path | None:
    """Python of the peers' environment; None if there is none and it is not to be made."""
    digest = blake2b(REQUIREMENTS.read_bytes(), digest_size=4).hexdigest()
    home = folder() / f"peers-{digest}"
    found, ready = home / "bin" / "python", home / "ready"
    if ready.exists():
        return found
    if not make:
        return None
    print("Making the peers' environment: a few minutes, once.", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", home], check=True)
    subprocess.run([found, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS], check=True)
    ready.touch()
    return found


class Peers:
    """The peers at work in the background: start, then collect."""

    def __init__(self, interpreter: Path, work: Path, tables: Mapping[str, Table], size: Size) -> None:
        self._work = work
        self._size = size
        self._streams: dict[str, tuple[Scenario, Streams]] = {}
        arrays: dict[str, Any] = {}
        jobs: dict[str, list[dict[str, Any]]] = {}
        drifting = {scenario.signal for scenario in size.drifts}
        for signal, table in ((signal, table) for signal, table in tables.items() if signal in drifting):
            cases = list(self._cases(signal, table, arrays))
            for task in _tasks(signal, size):
                name = f"{signal}-{task['method']}" if signal == "embedding" else signal
                jobs.setdefault(name, []).append({**task, "cases": cases})
            arrays[f"table/{signal}"] = table.values
        np.savez(work / "arrays.npz", **arrays)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        environment["PYTHONWARNINGS"] = "ignore"
        self._started = time.perf_counter()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name, tasks in jobs.items():
            job = {"tasks": tasks, "tune_steps": size.tune_steps, "report": "distance" in name}
            (work / f"{name}.json").write_text(json.dumps(job))
            command = [str(interpreter), "-m", "benchmarks.detection.peers.run", str(work), name]
            self._processes[name] = subprocess.Popen(command, cwd=ROOT, env=environment)

    def _cases(self, signal: str, table: Table, arrays: dict[str, Any]) -> Iterator[dict[str, str]]:
        size = self._size
        scenarios = [scenario for scenario in size.drifts if scenario.signal == signal]
        calm = [scenario for scenario in size.nulls if not scenario.bursts]  # they know events, not ticks
        matching = {HEALTHY, *(scenario.base for scenario in scenarios)}
        for base in sorted(matching):
            independent = Scenario(f"N1 independent, {base}", signal, base=base)
            arrays |= _arrays(f"null/{signal}/{base}", nulls(table, independent, 1, self._events(signal) // 16))
        for null in calm:
            scenario = null_of(null, signal, "")
            events = self._events(signal) // (4 if signal == "embedding" else 1)
            yield self._case(scenario, table, nulls(table, scenario, 1, events // scenario.per_tick), arrays)
        for scenario in scenarios:
            runs = size.drift_runs // 2 if signal == "embedding" else size.drift_runs
            yield self._case(scenario, table, drifts(table, scenario, runs, BEFORE), arrays)

    def _events(self, signal: str) -> int:
        """Of the null that thresholds are matched on."""
        return self._size.peer_events // (2 if signal == "embedding" else 1)

    def _case(self, scenario: Scenario, table: Table, streams: Streams, arrays: dict[str, Any]) -> dict[str, str]:
        key = f"{scenario.signal}/{scenario.name}"
        self._streams[key] = scenario, streams
        learned = f"reference/{scenario.signal}/{scenario.base}/{scenario.session}/{scenario.diurnal}"
        arrays |= _arrays(key, streams)
        arrays |= _arrays(learned, reference(table, scenario, UNITS_ELSE, 0))
        return {"stream": key, "reference": learned, "null": f"null/{scenario.signal}/{scenario.base}"}

    def stop(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()

    def collect(self) -> tuple[list[Row], dict[str, float | None]]:
        """Rows, and what is known of their speed. CalledProcessError if the peers failed."""
        rows: list[Row] = []
        speed: dict[str, float | None] = {}
        for name, process in self._processes.items():
            if code := process.wait():
                raise subprocess.CalledProcessError(code, "benchmarks.detection.peers.run")
            result = json.loads((self._work / f"{name}-alarms.json").read_text())
            rows += [self._row(found) for found in result["found"]]
            if result["report_s"]:
                speed["evidently_report_s"] = result["report_s"]
        return rows, speed | {"peers_wall_s": time.perf_counter() - self._started}

    def _row(self, found: dict[str, Any]) -> Row:
        scenario, streams = self._streams[found["stream"]]
        row: Row = {
            "stream": scenario.name,
            "signal": scenario.signal,
            "tool": found["tool"],
            "detector": found["detector"],
            "setting": found["setting"],
            "alpha": MATCHED if found["setting"] == "matched" else None,
            "parameter": found["parameter"],
            "null": not scenario.drift,
            "runs": len(found["alarms"]),
            "seconds_per_window": found["seconds_per_window"],
        }
        if scenario.drift:
            row |= delay_fields(found["alarms"], streams, scenario)
            if "windows" in found["detector"]:
                row["false_alarms_per_30d"] = None  # only windows since the change were looked at
            return row
        rate = Rate(sum(map(len, found["alarms"])), found["seen"])
        row |= {"alarms": rate.alarms, "events": found["seen"]}
        row["false_alarms_per_30d"] = rate.each * EVENTS_PER_S * MONTH_S
        if found["setting"] == "matched":
            row |= calibration(rate, MATCHED)
        return row


def _arrays(key: str, streams: Streams) -> dict[str, Any]:
    return {f"{key}/index": streams.index.astype(np.int32), f"{key}/change": streams.change}


def _tasks(signal: str, size: Size) -> Iterator[dict[str, Any]]:
    common = {"signal": signal, "rate": MATCHED, "runs": size.peer_runs, "match": True, "of": ""}
    if signal == "embedding":
        for method, part in (("embeddings: distance", 1), ("embeddings: model", 4), ("embeddings: mmd", 4)):
            yield {**common, "method": method, "window": 200, "runs": max(3, size.peer_runs // part)}
        for method in SEQUENTIAL:
            yield {**common, "method": method, "of": " of the distance to the centre"}
        return
    for method in COLUMN_METHODS[signal]:
        for window in (200, 1000):
            yield {**common, "method": method, "window": window}
    if signal != "code":
        for method in SEQUENTIAL:
            yield {**common, "method": method}
    if signal in SLOW_ON and size.name == "full":
        yield {**common, "method": "KSWIN", "match": False, "runs": SLOW_RUNS}
