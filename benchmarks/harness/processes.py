"""What processes cost (from /proc, so on Linux), and the roles as `driftline worker` starts them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from driftline.schemas.errors import DriftlineError
from driftline.streams.embedded_kafka import die_with_parent
from driftline.streams.ready import READY_FILE

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
READY_S = 120.0
STOP_S = 10.0
TAIL = 3_000


class BenchmarkFailed(DriftlineError):
    """No figures: something did not do its work."""


def clean_up_at_sigterm() -> None:
    """A benchmark that is told to end takes its processes and folders with it."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))


def cpu_s(pid: int) -> float:
    """User and system time of a process and its threads since its start."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def rss_mb(pid: int) -> float:
    return _status_mb(pid, "VmRSS")


def peak_rss_mb(pid: int) -> float:
    return _status_mb(pid, "VmHWM")


def _status_mb(pid: int, name: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise BenchmarkFailed(f"process {pid} has ended")


def machine_cpu_s() -> float:
    """All work of all processes on this machine since its start: tells how quiet it was."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _, _, irq, softirq, *_ = map(int, fields)
    return (user + nice + system + irq + softirq) / TICKS_PER_S


class Meter:
    """CPU seconds of several processes, and of the whole machine, from `start` on."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self.pids = dict(pids)
        self.start()

    def start(self) -> None:
        self._cpu = {name: cpu_s(pid) for name, pid in self.pids.items()}
        self._machine = machine_cpu_s()

    def used(self) -> dict[str, float]:
        return {name: round(cpu_s(pid) - self._cpu[name], 2) for name, pid in self.pids.items()}

    def machine(self) -> float:
        return machine_cpu_s() - self._machine

    def peaks(self) -> dict[str, float]:
        return {name: round(peak_rss_mb(pid), 1) for name, pid in self.pids.items()}


class Worker:
    """A process that writes its ready file when it is at work."""

    def __init__(self, name: str, argv: list[str], env: Mapping[str, str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._ready = folder / f"{name}.ready"
        self._ready.unlink(missing_ok=True)
        with self.log.open("wb") as log:
            self.process: subprocess.Popen[Any] = subprocess.Popen(
                [sys.executable, *argv],
                env={**os.environ, **env, READY_FILE: str(self._ready)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    @property
    def ready(self) -> bool:
        self.check()
        return self._ready.exists()

    def wait_ready(self) -> None:
        until(lambda: self.ready, f"{self.name} ready", READY_S, every_s=0.02)

    def check(self) -> None:
        if self.process.poll() is not None:
            said = self.log.read_bytes()[-TAIL:].decode(errors="replace")
            raise BenchmarkFailed(f"{self.name} ended with {self.process.returncode}:\n{said}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def until(condition: Callable[[], bool], what: str, timeout_s: float, *, every_s: float) -> float:
    """When it became true, in seconds since the epoch."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkFailed(f"not within {timeout_s:g} s: {what}")
        time.sleep(every_s)
    return time.time()
