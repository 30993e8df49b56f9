"""The peers' side of the benchmark: `python -m benchmarks.detection.peers.run FOLDER NAME`, in the peers' environment.

FOLDER holds NAME.json, the job, and `arrays.npz`; NAME-alarms.json is written there. A job lists tasks: a method, the
streams it sees, the null stream its threshold is matched on. An alarm is the position of the last event it had seen.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.detection.metrics import matched, threshold
from benchmarks.detection.peers.sequential import SEQUENTIAL_METHODS, SequentialMethod, alarms
from benchmarks.detection.peers.windows import WINDOW_METHODS, Compare, report

Arrays = dict[str, NDArray[Any]]
Found = dict[str, Any]


def main(folder: Path, name: str) -> None:
    job = json.loads((folder / f"{name}.json").read_text())
    with np.load(folder / "arrays.npz") as saved:
        arrays = dict(saved)
    found: list[Found] = []
    for number, task in enumerate(job["tasks"]):
        started = time.perf_counter()
        if task["method"] in WINDOW_METHODS:
            found += _windows(task, arrays)
        else:
            found += _sequential(task, arrays, job["tune_steps"])
        spent = time.perf_counter() - started
        print(f"peers: {number + 1}/{len(job['tasks'])} {_name(task)}, {spent:.0f} s", file=sys.stderr)
    speed = _report_seconds(arrays) if job["report"] else None
    (folder / f"{name}-alarms.json").write_text(json.dumps({"found": found, "report_s": speed}))


def _name(task: dict[str, Any]) -> str:
    return f"{task['method']} {task.get('window', '')} on {task['signal']}"


def _values(task: dict[str, Any], arrays: Arrays, stream: str, run: int) -> NDArray[Any]:
    values: NDArray[Any] = arrays[f"table/{task['signal']}"][arrays[f"{stream}/index"][run]]
    return values


def _change(arrays: Arrays, stream: str, run: int) -> int | None:
    """Position of the first event that may have changed; None in a null."""
    change = int(arrays[f"{stream}/change"][run])
    return change if change < arrays[f"{stream}/index"].shape[1] else None


def _windows(task: dict[str, Any], arrays: Arrays) -> list[Found]:
    method, size = WINDOW_METHODS[task["method"]], task["window"]
    tuned: dict[tuple[str, int], float] = {}
    found = []
    for case in task["cases"]:
        stream, base = case["stream"], case["reference"]
        compare = method.prepare(_values(task, arrays, base, 0)[: method.reference])
        if (base, size) not in tuned:
            null = _statistics(task, arrays, case["null"], 0, size, compare, np.inf, None)[0]
            tuned[base, size] = threshold(null, size * task["rate"])
        limits = {"default": method.default, "matched": tuned[base, size]}
        alarmed: dict[str, list[list[int]]] = {setting: [] for setting in limits}
        spent = 0.0
        count = 0
        for run in range(min(task["runs"], len(arrays[f"{stream}/index"]))):
            statistics, first, cpu = _statistics(
                task, arrays, stream, run, size, compare, max(limits.values()), _change(arrays, stream, run)
            )
            spent, count = spent + cpu, count + len(statistics)
            for setting, limit in limits.items():
                alarmed[setting].append(((np.flatnonzero(statistics > limit) + first + 1) * size - 1).tolist())
        for setting, limit in limits.items():
            found.append(
                {
                    "tool": method.tool,
                    "detector": f"{task['method']}, windows of {size}",
                    "stream": stream,
                    "setting": setting,
                    "parameter": limit,
                    "alarms": alarmed[setting],
                    "seen": count * size,
                    "seconds_per_window": spent / max(count, 1),
                }
            )
    return found


def _statistics(
    task: dict[str, Any],
    arrays: Arrays,
    stream: str,
    run: int,
    size: int,
    compare: Compare,
    enough: float,
    change: int | None,
) -> tuple[NDArray[np.float64], int, float]:
    """Of the tumbling windows that hold an event since the change (all, in a null), up to the first that no threshold
    would miss; the number of the first window; CPU seconds."""
    values = _values(task, arrays, stream, run)
    first = 0 if change is None else change // size
    statistics = []
    began = time.process_time()
    for k in range(first, len(values) // size):
        statistics.append(compare(values[k * size : (k + 1) * size]))
        if statistics[-1] > enough and change is not None:
            break
    return np.array(statistics), first, time.process_time() - began


def _sequential(task: dict[str, Any], arrays: Arrays, steps: int) -> list[Found]:
    method = SEQUENTIAL_METHODS[task["method"]]
    tuned: dict[str, float] = {}
    found = []
    for case in task["cases"]:
        stream, base = case["stream"], case["null"]
        if task["match"] and base not in tuned:
            null = _numbers(task, arrays, case, base, 0)[: method.events]
            tuned[base] = matched(_rate_of(method, null), method.low, method.high, task["rate"], steps)
        settings = {"default": method.default, **({"matched": tuned[base]} if task["match"] else {})}
        for setting, parameter in settings.items():
            began = time.process_time()
            alarmed, seen = [], 0
            for run in range(min(task["runs"], len(arrays[f"{stream}/index"]))):
                values = _numbers(task, arrays, case, stream, run)
                until = _change(arrays, stream, run)
                if until is None:
                    values, until = values[: method.events], method.events
                alarmed.append(alarms(method, parameter, values, until))
                seen += alarmed[-1][-1] + 1 if alarmed[-1] and alarmed[-1][-1] >= until else len(values)
            found.append(
                {
                    "tool": "river",
                    "detector": f"{task['method']}{task['of']}",
                    "stream": stream,
                    "setting": setting,
                    "parameter": parameter,
                    "alarms": alarmed,
                    "seen": seen,
                    "seconds_per_window": (time.process_time() - began) / seen * 200,
                }
            )
    return found


def _rate_of(method: SequentialMethod, null: list[float]) -> Callable[[float], float]:
    return lambda parameter: len(alarms(method, parameter, null, len(null))) / len(null)


def _numbers(task: dict[str, Any], arrays: Arrays, case: dict[str, Any], stream: str, run: int) -> list[float]:
    """The stream's values; of vectors, their distance from the reference's mean direction."""
    values = _values(task, arrays, stream, run)
    if values.ndim == 2:
        centre = _values(task, arrays, case["reference"], 0)[:5_000].mean(0)
        values = 1 - values @ (centre / np.linalg.norm(centre))
    numbers: list[float] = values.tolist()
    return numbers


def _report_seconds(arrays: Arrays) -> float:
    """CPU seconds of Evidently's Report on 200 texts against 1,000; it has been imported."""
    vectors = arrays["table/embedding"]
    began = time.process_time()
    report(vectors[:1000], vectors[1000:1200])
    return time.process_time() - began


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
