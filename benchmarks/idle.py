"""What `driftline up` costs while nothing happens: CPU and memory of each part, and how long start and Ctrl-C take.

Memory is the proportional set size: what parts share is counted once."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from driftline.streams.running import FILE, RunningStack, find
from tests.brokers import find_free_port

SETTLE_S = 10.0  # consumers have joined, allocators have calmed down
MEASURE_S = 30.0
MIB = 1024 * 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder)), indent=2))


def measure(folder: Path) -> dict[str, object]:
    state = folder / "state"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DRIFTLINE_")} | {
        "DRIFTLINE_STACK__STATE_DIR": str(state),
        "DRIFTLINE_STACK__KAFKA_PORT": str(find_free_port()),
        "DRIFTLINE_STACK__CLICKHOUSE_PORT": str(find_free_port()),
        "DRIFTLINE_HEALTH__PORT": "0",
    }
    began = time.monotonic()
    up = subprocess.Popen([sys.executable, "-m", "driftline.streams.cli", "up"], env=environment, stdout=sys.stderr)
    while not (state / FILE).exists():
        if up.poll() is not None:
            raise SystemExit("driftline up has ended")
        time.sleep(0.05)
    started_s = time.monotonic() - began
    stack = find(state)
    assert stack is not None
    parts = idle_parts(stack)
    began = time.monotonic()
    up.send_signal(signal.SIGINT)
    code = up.wait()
    return {
        "start_s": round(started_s, 1),
        "stop_s": round(time.monotonic() - began, 1),
        "exit_code": code,
        "cpu_percent_of_a_core": round(sum(part["cpu_percent"] for part in parts.values()), 1),
        "memory_mib": round(sum(part["memory_mib"] for part in parts.values())),
        "parts": parts,
    }


def idle_parts(stack: RunningStack) -> dict[str, dict[str, float]]:
    processes = {name: psutil.Process(pid) for name, pid in stack.pids.items()}
    time.sleep(SETTLE_S)
    before = {name: cpu_s(process) for name, process in processes.items()}
    time.sleep(MEASURE_S)
    return {
        name: {
            "cpu_percent": round((cpu_s(process) - before[name]) / MEASURE_S * 100, 1),
            "memory_mib": round(process.memory_full_info().pss / MIB),
        }
        for name, process in processes.items()
    }


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


if __name__ == "__main__":
    main()
