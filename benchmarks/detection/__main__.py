"""Do the detectors keep their stated false-alarm rate, and how soon do they find what is wrong: ours and other tools
on the same streams. `python -m benchmarks.detection [--quick] [--no-peers] --json FILE`. See its README.md."""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before numpy: costs are CPU time of one core

from benchmarks.detection import peer_side, speed  # noqa: E402
from benchmarks.detection.ours import SAME, present, untried  # noqa: E402
from benchmarks.detection.show import show  # noqa: E402
from benchmarks.detection.streams import Table  # noqa: E402
from benchmarks.detection.suite import FULL, SMALL, Size  # noqa: E402
from benchmarks.detection.tables import DATA, tables  # noqa: E402
from benchmarks.detection.texts import corpus  # noqa: E402
from benchmarks.detection.verdicts import rivals, stated_goals  # noqa: E402
from benchmarks.detection.work import rows_and_tail  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few streams; peers only if their environment is there")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--json", type=Path, help="where the report goes; else to stdout")
    options = parser.parse_args()
    size = SMALL if options.quick else FULL
    report = run(size, peers=not options.no_peers)
    text = json.dumps(report, indent=1)
    if options.json:
        options.json.write_text(text)
    else:
        print(text)
    show(report)


def run(size: Size, *, peers: bool) -> dict[str, Any]:
    started = time.perf_counter()
    texts = corpus(size.pool, size.new)
    prepared_s = time.perf_counter() - started
    every = tables(texts)
    started = time.perf_counter()
    with ExitStack() as stack:
        rival = _peers(stack, every, size) if peers else None
        rows, tail = rows_and_tail(size)
        measured = _speed(every)
        their_speed: dict[str, float | None] = {}
        if rival is not None:
            their_rows, their_speed = rival.collect()
            rows += their_rows
    report_s = their_speed.get("evidently_report_s")
    measured |= their_speed
    measured["window_check_ratio"] = report_s / measured["window_check_s"] if report_s else None
    return {
        "size": size.name,
        "runs": {"nulls": size.null_runs, "drifts": size.drift_runs, "peers": size.peer_runs, "embedding": "half"},
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "load": os.getloadavg(),
            "python": platform.python_version(),
        },
        "texts": {"encoder": texts.encoder, "documents": len(texts.topic), "embed_s": texts.embed_s},
        "real_scores": "real_score" in every or f"not there: no {DATA}",
        "detectors": {"tried": list(present()), "same_code": SAME, "not_tried": untried()},
        "peers": "ran" if rival else "not run",
        "prepared_s": prepared_s,
        "wall_s": time.perf_counter() - started,
        "rows": rows,
        "against_best_peer": rivals(rows),
        "stated_goals": stated_goals(rows),
        "speed": measured,
        "tail": tail,
    }


def _peers(stack: ExitStack, every: dict[str, Table], size: Size) -> peer_side.Peers | None:
    interpreter = peer_side.python(make=size.name == "full")
    if interpreter is None:
        print("No peers: a full run makes their environment.", file=sys.stderr)
        return None
    work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="detection-")))
    rival = peer_side.Peers(interpreter, work, every, size)
    stack.callback(rival.stop)
    return rival


def _speed(every: dict[str, Table]) -> dict[str, Any]:
    numbers = {name: detector.signals[0] for name, detector in present().items() if "embedding" not in detector.signals}
    return {
        "embedding_updates_per_s": {
            str(size): round(speed.embedding_updates_per_s(every["embedding"], size)) for size in (16, 100)
        },
        "embedding_updates_per_s_rff": {
            str(size): round(speed.embedding_updates_per_s(every["embedding"], size, "rff")) for size in (16, 100)
        },
        "cuda": speed.cuda(every["embedding"]),
        "tick_ms_1000_streams": {name: round(speed.tick_ms(name, every[s]), 3) for name, s in numbers.items()},
        "window_check_s": speed.window_check_s(every["embedding"]),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


if __name__ == "__main__":
    main()
