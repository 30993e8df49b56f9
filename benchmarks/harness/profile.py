"""Where the time of the processes goes while the pipeline is under load, as text.

Python roles are sampled by py-spy, which must be on the PATH (`pip install py-spy`); ClickHouse tells itself: CPU by
kind of thread, and what changed in `system.events`.
"""

import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness.processes import TICKS_PER_S, BenchmarkFailed
from benchmarks.harness.services import Rows, Services

RATE = 200  # samples per second
TOP = 30
EVENTS = (
    "Merge",
    "MergedRows",
    "MergeTotalMilliseconds",
    "MergeExecuteMilliseconds",
    "MergeTreeDataWriterRows",
    "MergeTreeDataWriterBlocks",
    "MergeTreeDataWriterSortingBlocksMicroseconds",
    "MergeTreeDataWriterMergingBlocksMicroseconds",
    "MergeTreeDataWriterSkipIndicesCalculationMicroseconds",
    "MergeTreeDataWriterUncompressedBytes",
    "MergeTreeDataWriterCompressedBytes",
    "InsertQuery",
    "InsertQueryTimeMicroseconds",
    "SelectQuery",
    "SelectQueryTimeMicroseconds",
    "UserTimeMicroseconds",
    "SystemTimeMicroseconds",
)


class Profile:
    """From construction to `report`."""

    def __init__(self, ground: Services, pids: Mapping[str, int]) -> None:
        program = shutil.which("py-spy")
        if program is None:
            raise BenchmarkFailed("py-spy is not on the PATH: pip install py-spy")
        self._rows = Rows(ground.clickhouse)
        self._clickhouse = ground.pids["clickhouse"]
        self._folder = tempfile.TemporaryDirectory(prefix="driftline-profile-")
        self._threads, self._events = threads(self._clickhouse), self._read_events()
        self._spies = {
            name: subprocess.Popen(
                [
                    *(program, "record", "--format", "raw", "--rate", str(RATE), "--gil"),
                    *("--pid", str(pid), "--output", str(self._file(name)), "--duration", "3600"),
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for name, pid in pids.items()
        }

    def _file(self, name: str) -> Path:
        return Path(self._folder.name) / name

    def _read_events(self) -> Counter[str]:
        names = ", ".join(f"'{name}'" for name in EVENTS)
        return Counter(dict(self._rows.pairs(f"SELECT event, value FROM system.events WHERE event IN ({names})")))

    def report(self) -> str:
        """Ends the sampling."""
        used = threads(self._clickhouse)
        used.subtract(self._threads)
        events = self._read_events()
        events.subtract(self._events)
        self._rows.close()
        parts = [table("clickhouse: CPU seconds by thread", {name: s for name, s in used.items() if s > 0})]
        parts.append(
            "clickhouse: system.events\n" + "\n".join(f"  {n:>16,}  {name}" for name, n in sorted(events.items()))
        )
        for name, spy in self._spies.items():
            spy.send_signal(2)
            _, said = spy.communicate()
            if not self._file(name).exists():
                raise BenchmarkFailed(f"py-spy of {name}: {said.decode(errors='replace')[-500:]}")
            parts.append(stacks(name, self._file(name).read_text()))
        self._folder.cleanup()
        return "\n\n".join(parts) + "\n"


def threads(pid: int) -> Counter[str]:
    """CPU seconds by thread name."""
    found: Counter[str] = Counter()
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            text = (task / "stat").read_text()
        except FileNotFoundError:
            continue  # it has just ended
        name, fields = text.partition("(")[2].rpartition(")")[0], text.rpartition(")")[2].split()
        found[name] += (int(fields[11]) + int(fields[12])) / TICKS_PER_S  # type: ignore[assignment]
    return found


def stacks(name: str, folded: str) -> str:
    """The functions that were on top of the stack most often, and those that were anywhere on it."""
    own: Counter[str] = Counter()
    within: Counter[str] = Counter()
    total = 0
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [frame.rpartition(":")[0] or frame for frame in stack.split(";")]
        total += int(count)
        own[frames[-1]] += int(count)
        within.update({frame: int(count) for frame in set(frames)})
    shares = [
        table(
            f"{name}: {title}, % of {total} samples that held the GIL",
            {f: n / max(total, 1) * 100 for f, n in of.items()},
        )
        for title, of in (("self", own), ("self and callees", within))
    ]
    return "\n\n".join(shares)


def table(title: str, values: Mapping[str, float]) -> str:
    lines = [f"  {value:8.2f}  {name}" for name, value in Counter(values).most_common(TOP)]
    return "\n".join([title, *lines])
