"""Wrong clocks: of processes, by libfaketime, and of producers; and traffic in real time, under which they matter."""

import asyncio
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from driftline.schemas.events import MICROSECONDS, Event
from driftline.streams.monitor.config import MonitorConfig, WindowConfig
from tests.storms.harness import World
from tests.storms.traffic import APPS, Record, Traffic
from tests.storms.truth import Truth

LIBRARIES = ("faketime/libfaketimeMT.so.1", "*/faketime/libfaketimeMT.so.1")  # of Debian's package `libfaketime`
WINDOWS = WindowConfig(size_s=5, grace_s=3, lateness_s=120)  # a machine under load is late by seconds
LIVE = {
    "DRIFTLINE_TICKS__ENABLED": "true",
    **{f"DRIFTLINE_MONITOR__WINDOWS__{name.upper()}": str(value) for name, value in WINDOWS},
}
HOUR = 3_600
DAY, YEAR = 24 * HOUR, 365 * 24 * HOUR


class WrongClock:
    """The wall clock of the processes that are started with its `environment`; monotonic time goes on as ever."""

    _numbers = itertools.count()

    def __init__(self, folder: Path, ahead_s: int = 0) -> None:
        library = next((path for name in LIBRARIES for path in Path("/usr/lib").glob(name)), None)
        if library is None:
            pytest.skip("needs libfaketime: apt-get install libfaketime")
        self._file = folder / f"clock-{next(self._numbers)}"
        self.set(ahead_s)
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",  # with its repair for old glibc, Java's waits end at once
        }

    def set(self, ahead_s: int) -> None:
        """Within three seconds; below 0 it is behind."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead_s:+d}\n")
        new.rename(self._file)


@dataclass
class LiveTraffic(Traffic):
    """In real time; the monitor writes the ticks. Every trace is sent once, right after it happened by its app's
    clock."""

    ahead_s: dict[str, int] = field(default_factory=dict)  # how far an app's clock is ahead
    sent: Counter[str] = field(default_factory=Counter)  # traces by app

    @property
    def now(self) -> int:
        return time.time_ns() // 1_000

    def _of(self, app: str) -> list[Record]:
        ts = self.now + self.ahead_s.get(app, 0) * MICROSECONDS
        traces = [msgspec.structs.replace(self._trace(app), ts=ts + n) for n in range(self.traces)]
        events: list[Event] = [*traces, *(self._score(trace) for trace in traces[::3])]
        self.events += len(events)
        self.sent[app] += len(traces)
        return [Record(app.encode(), value) for value in self._values(events)]

    def _repeats(self) -> list[Record]:
        return []

    def _ticks(self, ts: int) -> list[Record]:
        return []

    async def end(self) -> None:
        """When ticks have closed all windows."""
        await asyncio.sleep(WINDOWS.size_s + WINDOWS.grace_s + 3)


def live_monitor() -> MonitorConfig:
    return MonitorConfig(windows=WINDOWS)


async def finish_live(world: World, storm: str, *, wrong: tuple[str, ...] = (), may_end: bool = False) -> Truth:
    """The end of a storm in real time: `check`, `reconcile` and `replay` find all as it must be, and of apps whose
    clock was right at all times (all but `wrong`) every trace is in a window."""
    await world.traffic.end()
    monitors = [process for process in world.processes if process.role == "monitor"]
    for process in monitors:
        if process.wanted:
            assert await process.stop() == 0, process.tail
    await world.at_work(world.start("monitor", DRIFTLINE_TICKS__ENABLED="false"))  # absorbs the last ticks
    await world.settle()
    await world.stop()
    truth = await world.check()
    world.report(storm, truth, left_out=dict(left_out(truth)))
    traffic = world.traffic
    assert isinstance(traffic, LiveTraffic)
    counted = counted_in_windows(truth)
    for app in APPS:
        if app not in wrong:
            assert counted[app] == traffic.sent[app], f"{app}: {counted[app]} of {traffic.sent[app]} traces in windows"
    assert {app for app, _ in left_out(truth)} <= set(wrong)
    assert (await world.command("reconcile", "--wait", "30"))["equal"]
    replayed = await world.command("replay")
    assert replayed["equal"], replayed
    assert all(part["first"] == part["replay"] == part["equal"] for part in replayed["comparisons"]), replayed
    ended = {str(process): process.ended for process in world.processes if process.ended}
    assert may_end or not ended, f"ended by themselves: {ended}"
    return truth


def counted_in_windows(truth: Truth) -> Counter[str]:
    """Traces by app."""
    counted: Counter[str] = Counter()
    for row in truth.results["windows"].values():
        counted[row["app"]] += row["requests"]
    return counted


def left_out(truth: Truth) -> Counter[tuple[str, str]]:
    """Traces by app and reason."""
    found: Counter[tuple[str, str]] = Counter()
    for row in truth.results["left_out"].values():
        if row["kind"] == "trace":
            found[row["app"], row["reason"]] += row["events"]
    return found
