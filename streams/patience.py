"""How long to wait for a process that has much to do on a machine that has much to do."""

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

import psutil

AT_WORK = 0.1  # of a core: more than a role takes that only waits for the broker, less than one that loads a model
LONGEST_S = 1800.0  # however busy: nothing here takes half an hour on the slowest machine that can run it


class Work(NamedTuple):
    """Counters; what counts is by how much they grow."""

    cpu_s: float  # used by those who are waited for
    read_bytes: int  # from disks, by them
    spare_s: float  # of the CPUs they may use, used by nobody


class Patience:
    """Counts the seconds in which those who are waited for could have worked and did not: a process that computes or
    reads is not stuck, and one that gets no CPU cannot show whether it is. Pure: give it times and counters."""

    def __init__(self, limit_s: float, now: float, work: Work) -> None:
        self._limit_s = limit_s
        self._began = self._now = now
        self._work = work
        self._idle_s = 0.0

    def is_out(self, now: float, work: Work) -> bool:
        """To be asked every second or so."""
        passed, before = now - self._now, self._work
        self._now, self._work = now, work
        at_work = work.cpu_s - before.cpu_s > AT_WORK * passed or work.read_bytes > before.read_bytes
        starved = work.spare_s - before.spare_s < AT_WORK * passed
        if not at_work and not starved:
            self._idle_s += passed
        return self._idle_s >= self._limit_s or now - self._began >= LONGEST_S


def work_of(pids: Iterable[int]) -> Work:
    """Processes that have ended count nothing."""
    cpu_s, read_bytes = 0.0, 0
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            times = process.cpu_times()
            cpu_s += times.user + times.system
            if hasattr(process, "io_counters"):  # not on macOS
                read_bytes += process.io_counters().read_bytes
    return Work(cpu_s, read_bytes, _spare_s())


def nobody() -> Work:
    """Where it is not known who is waited for."""
    return work_of([])


Measure = Callable[[Iterable[int]], Work]


def _spare_s() -> float:
    cpus = psutil.cpu_times(percpu=True)
    if hasattr(os, "sched_getaffinity"):
        cpus = [cpus[i] for i in os.sched_getaffinity(0) if i < len(cpus)]
    return sum(cpu.idle for cpu in cpus)
