"""The whole pipeline against a bare loop, on one machine, in one run.

    python -m benchmarks.throughput --json FILE [--events N] [--runs 3] [--broker embedded|apache] [--quick]
    python -m benchmarks.throughput --soak 10000000

`benchmarks/README.md` says what is measured and what the fields mean. Prints JSON.
"""

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.harness.feed import Feeder, Pace
from benchmarks.harness.processes import READY_S, BenchmarkFailed, Meter, Worker, clean_up_at_sigterm, rss_mb, until
from benchmarks.harness.profile import Profile, table
from benchmarks.harness.services import BrokerName, Rows, Services, services
from benchmarks.harness.traffic import Shape

logger = logging.getLogger("benchmarks.throughput")

PARTITIONS = 4
ROLES = ("monitor", "archive")
POLL_S = 0.05
PROBE_POLL_S = 0.05  # adds up to as much to a delay; each look costs ClickHouse CPU
STALLED_S = 120.0  # without a new row: it will not come any more
SAMPLE_S = 2.0  # of memory, in a soak
MIN_POINTS = 10  # of a line
DELAY_S = 15.0  # of half load
SETTLE_S = 1.0  # after everyone is ready: first fetches and heartbeats

Side = Literal["pipeline", "bare"]


@dataclass(frozen=True)
class Case:
    name: str
    traces: int
    per_record: int
    prefilled: bool = False
    embedding: bool = False

    @property
    def shape(self) -> Shape:
        return Shape(self.traces, self.per_record, PARTITIONS)

    def roles(self, side: Side) -> tuple[str, ...]:
        if side == "bare":
            return ("bare",)
        return (*ROLES, "embed") if self.embedding else ROLES


@dataclass
class Outcome:
    """One side of one run."""

    events: int
    bytes: int
    seconds: float
    rows_s: float  # until the last row was readable; `seconds` waits for the windows as well
    cpu_s: dict[str, float]
    peak_rss_mb: dict[str, float]
    other_cpu_s: float  # of whatever else ran on this machine meanwhile
    lost: int
    duplicated: int
    window_surplus: int  # requests that windows counted beyond those sent; below zero: that they missed
    delays_ms: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        return self.events / self.seconds


def start(ground: Services, names: Sequence[str], stack: ExitStack) -> list[Worker]:
    """All at once."""
    return [stack.enter_context(ground.bare() if name == "bare" else ground.role(name)) for name in names]


def meter_of(ground: Services, workers: Sequence[Worker]) -> Meter:
    return Meter({**ground.pids, **{worker.name: worker.pid for worker in workers}})


@contextmanager
def all_ready(
    case: Case, side: Side, broker: BrokerName, pace: Pace | None = None
) -> Iterator[tuple[Services, Sequence[Worker], Feeder]]:
    """The roles of a side and the producer, which waits for `go`."""
    with ExitStack() as stack:
        ground = stack.enter_context(services(broker, PARTITIONS))
        feeder = Feeder(ground.kafka, case.shape, pace)
        stack.callback(feeder.kill)
        workers = start(ground, case.roles(side), stack)
        for worker in workers:
            worker.wait_ready()
        feeder.wait_ready()
        yield ground, workers, feeder


def run_live(case: Case, side: Side, broker: BrokerName, pace: Pace | None = None) -> Outcome:
    """A producer at full speed (or at `pace`), everyone waiting for it: from the first send to the last row."""
    with all_ready(case, side, broker, pace) as (ground, workers, feeder):
        time.sleep(SETTLE_S)
        meter = meter_of(ground, workers)
        feeder.go()
        return watch(side, ground, workers, meter, feeder)


def run_prefilled(case: Case, first: Side, broker: BrokerName) -> dict[Side, Outcome]:
    """Both sides read the same log, one after the other, each into a database of its own: from the moment that the
    first process has its partitions (another may still be starting) to the last row."""
    outcomes: dict[Side, Outcome] = {}
    with ExitStack() as stack:
        ground = stack.enter_context(services(broker, PARTITIONS))
        feeder = Feeder(ground.kafka, case.shape)
        stack.callback(feeder.kill)
        feeder.wait_ready()
        feeder.go()
        feeder.result()
        sides: tuple[Side, ...] = ("pipeline", "bare") if first == "pipeline" else ("bare", "pipeline")
        for side in sides:
            here = ground.with_database(side)
            with ExitStack() as inner:
                workers = start(here, case.roles(side), inner)
                until(partial(any_ready, workers), "a role ready", READY_S, every_s=0.01)
                outcomes[side] = watch(side, here, workers, meter_of(here, workers), feeder, began=time.time())
    return outcomes


def any_ready(workers: Sequence[Worker]) -> bool:
    return any(worker.ready for worker in workers)


def watch(
    side: Side,
    ground: Services,
    workers: Sequence[Worker],
    meter: Meter,
    feeder: Feeder,
    *,
    began: float | None = None,
) -> Outcome:
    """Wait until everything is readable, then look at what is there. `began`: where not at the first send."""
    rows = Rows(ground.clickhouse)
    rows_at = ended = 0.0
    probes: dict[str, float] = {}
    watched = time.monotonic()
    last, changed = (0, 0), watched
    while not ended:
        for worker in workers:
            worker.check()
        fed = feeder.look()
        if feeder.probing:
            for name in rows.column("SELECT trace_id FROM traces_raw WHERE startsWith(app, 'probe-')"):
                probes.setdefault(name, time.time())
        written, requests = rows.written, 0
        if fed is not None and not rows_at and has_all(rows, written, fed.events):
            rows_at = time.time()
        if fed is not None and rows_at:
            requests = rows.in_windows if side == "pipeline" else fed.traces
            if requests >= fed.traces:
                ended = time.time()
        if (written, requests) != last:
            last, changed = (written, requests), time.monotonic()
        elif time.monotonic() - changed > STALLED_S:
            raise BenchmarkFailed(f"{side}: {written} rows, {requests} in windows, and no more; sent: {fed}")
        time.sleep(PROBE_POLL_S if feeder.probing else pause(written, feeder.shape.events, time.monotonic() - watched))
    cpu, machine, peaks = meter.used(), meter.machine(), meter.peaks()
    assert fed is not None
    if began is None:
        began = fed.began
        cpu["producer"], peaks["producer"] = round(fed.cpu_s, 2), round(fed.peak_rss_mb, 1)
    readable, distinct, requests = rows.readable, rows.distinct, rows.in_windows
    rows.close()
    return Outcome(
        events=fed.events,
        bytes=fed.bytes,
        seconds=ended - began,
        rows_s=rows_at - began,
        cpu_s=cpu,
        peak_rss_mb=peaks,
        other_cpu_s=max(0.0, machine - sum(cpu.values())),
        lost=fed.events - distinct,
        duplicated=readable - distinct,
        window_surplus=requests - fed.traces if side == "pipeline" else 0,
        delays_ms=[1000 * (probes[name] - at) for name, at in fed.probes.items()],
    )


def pause(written: int, expected: int, elapsed: float) -> float:
    """Until the next look: every look costs ClickHouse some milliseconds, so they are few until the end is near."""
    left_s = elapsed * (expected - written) / max(written, 1)
    return min(max(left_s / 4, POLL_S), 1.0)


def has_all(rows: Rows, written: int, expected: int) -> bool:
    """Copies of rows are counted once; counting so is expensive, and rarely needed."""
    return written == expected or (written > expected and rows.readable >= expected)


def summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Medians over the runs; what went wrong, in any of them."""
    rates = [outcome.per_s for outcome in outcomes]
    names = outcomes[0].cpu_s
    cpu = {name: statistics.median(o.cpu_s[name] / o.events * 1e6 for o in outcomes) for name in names}
    return {
        "events_per_s": round(statistics.median(rates)),
        "events_per_s_min": round(min(rates)),
        "events_per_s_max": round(max(rates)),
        "rows_events_per_s": round(statistics.median(o.events / o.rows_s for o in outcomes)),
        "cpu_us_per_event": {**rounded(cpu, 2), "total": round(sum(cpu.values()), 2)},
        "cpu_s": rounded({name: statistics.median(o.cpu_s[name] for o in outcomes) for name in names}, 2),
        "peak_rss_mb": rounded({name: max(o.peak_rss_mb[name] for o in outcomes) for name in names}, 1),
        "other_cpu_s": round(statistics.median(o.other_cpu_s for o in outcomes), 2),
        "lost": sum(o.lost for o in outcomes),
        "duplicated": sum(o.duplicated for o in outcomes),
        "window_surplus": sum(o.window_surplus for o in outcomes),
    }


def rounded(values: dict[str, float], digits: int) -> dict[str, float]:
    return {name: round(value, digits) for name, value in values.items()}


def compare(case: Case, runs: int, broker: BrokerName) -> dict[str, Any]:
    """Both sides in turn, so that a slow minute of the machine meets both; who begins changes with each run."""
    found: dict[Side, list[Outcome]] = {"pipeline": [], "bare": []}
    for number in range(runs):
        order: tuple[Side, Side] = ("pipeline", "bare") if number % 2 == 0 else ("bare", "pipeline")
        both = (
            run_prefilled(case, order[0], broker)
            if case.prefilled
            else {side: run_live(case, side, broker) for side in order}
        )
        for side, outcome in both.items():
            logger.info("%s, run %d, %s: %.0f events/s", case.name, number + 1, side, outcome.per_s)
            found[side].append(outcome)
    ratios = [mine.per_s / bare.per_s for mine, bare in zip(found["pipeline"], found["bare"], strict=True)]
    pipeline, bare = summary(found["pipeline"]), summary(found["bare"])
    one = found["pipeline"][0]
    return {
        "events": one.events,
        "events_per_record": case.per_record,
        "bytes_per_event": round(one.bytes / one.events),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "pipeline": pipeline,
        "bare": bare,
    }


def delays(case: Case, per_s: float, broker: BrokerName) -> dict[str, Any]:
    """From handing an event to the client to finding its row, while the pipeline carries `per_s`."""
    outcome = run_live(case, "pipeline", broker, Pace(per_s, probes=True))
    p50, p99 = np.quantile(outcome.delays_ms, [0.5, 0.99])
    return {
        "delay_at_events_per_s": round(per_s),
        "delay_samples": len(outcome.delays_ms),
        "delay_p50_ms": round(float(p50)),
        "delay_p99_ms": round(float(p99)),
        "delay_cpu_us_per_event": rounded({n: s / outcome.events * 1e6 for n, s in outcome.cpu_s.items()}, 2),
        "delay_lost": outcome.lost,
    }


def soak(traces: int, broker: BrokerName) -> dict[str, Any]:
    """Memory of every process, every few seconds, while one pipeline works through it all."""
    with all_ready(Case("soak", traces, 200), "pipeline", broker) as (ground, workers, feeder), ExitStack() as stack:
        meter = meter_of(ground, workers)
        sampler = Sampler(meter.pids, ground)
        stack.callback(sampler.stop)
        sampler.start()
        feeder.go()
        outcome = watch("pipeline", ground, workers, meter, feeder)
        return {
            "events": outcome.events,
            "events_per_s": round(outcome.per_s),
            "lost": outcome.lost,
            "duplicated": outcome.duplicated,
            "window_surplus": outcome.window_surplus,
            "cpu_us_per_event": rounded({n: s / outcome.events * 1e6 for n, s in outcome.cpu_s.items()}, 2),
            "peak_rss_mb": outcome.peak_rss_mb,
            **sampler.report(),
        }


class Sampler(threading.Thread):
    """Resident memory by role against rows written."""

    def __init__(self, pids: Mapping[str, int], ground: Services) -> None:
        super().__init__(daemon=True)
        self._pids = pids
        self._rows = Rows(ground.clickhouse)
        self._done = threading.Event()
        self._samples: list[tuple[int, dict[str, float]]] = []

    def run(self) -> None:
        while not self._done.wait(SAMPLE_S):
            self._samples.append((self._rows.written, {name: rss_mb(pid) for name, pid in self._pids.items()}))

    def stop(self) -> None:
        self._done.set()
        self.join()
        self._rows.close()

    def report(self) -> dict[str, Any]:
        """The slope is a least-squares line through the second half: the first fills caches."""
        samples = list(self._samples)
        half = [(n, rss) for n, rss in samples if n >= samples[-1][0] / 2] if samples else []
        if len({n for n, _ in half}) < MIN_POINTS:
            raise BenchmarkFailed("too few samples for a slope: soak longer")
        millions = np.array([n for n, _ in half]) / 1e6
        slope = {name: float(np.polyfit(millions, [rss[name] for _, rss in half], 1)[0]) for name in self._pids}
        return {
            "rss_slope_mb_per_million_events": rounded(slope, 2),
            "rss_mb": {
                name: [[round(n / 1e6, 2), round(rss[name])] for n, rss in samples[:: max(1, len(samples) // 20)]]
                for name in self._pids
            },
        }


def profile(traces: int, broker: BrokerName) -> str:
    """Where the time goes in one run at full speed."""
    with all_ready(Case("profile", traces, 200), "pipeline", broker) as (ground, workers, feeder):
        sampling = Profile(ground, {worker.name: worker.pid for worker in workers})
        meter = meter_of(ground, workers)
        feeder.go()
        outcome = watch("pipeline", ground, workers, meter, feeder)
        found = sampling.report()
    cpu = table("CPU microseconds per event", {n: s / outcome.events * 1e6 for n, s in outcome.cpu_s.items()})
    return f"{outcome.events} events\n\n{cpu}\n\n{found}"


def machine() -> dict[str, Any]:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return {"cpus": os.cpu_count(), "cpu": model, "python": platform.python_version()}


def measure(traces: int, runs: int, broker: BrokerName, quick: bool) -> dict[str, Any]:
    main_case = Case("arrays", traces, 200)
    cases = [main_case]
    if not quick:
        cases += [
            Case("singles", traces // 2, 1),
            Case("arrays, drained", traces, 200, prefilled=True),
            Case("singles, drained", traces // 2, 1, prefilled=True),
            Case("arrays, embedding", traces // 4, 200, embedding=True),
        ]
    found = {case.name: compare(case, runs, broker) for case in cases}
    head = found[main_case.name]
    pipeline, bare = head["pipeline"], head["bare"]
    half = pipeline["events_per_s"] / 2
    return {
        "benchmark": "throughput",
        "machine": machine(),
        "broker": broker,
        "runs": runs,
        "events": head["events"],
        "bytes_per_event": head["bytes_per_event"],
        "pipeline_events_per_s": pipeline["events_per_s"],
        "bare_events_per_s": bare["events_per_s"],
        "ratio": head["ratio"],
        "lost": sum(case["pipeline"]["lost"] for case in found.values()),
        "duplicated": sum(case["pipeline"]["duplicated"] for case in found.values()),
        "window_surplus": sum(case["pipeline"]["window_surplus"] for case in found.values()),
        **delays(Case("delay", min(traces, round(half * DELAY_S)), 200), half, broker),
        "cpu_us_per_event": {"pipeline": pipeline["cpu_us_per_event"], "bare": bare["cpu_us_per_event"]},
        "cpu_s": {"pipeline": pipeline["cpu_s"], "bare": bare["cpu_s"]},
        "peak_rss_mb": {"pipeline": pipeline["peak_rss_mb"], "bare": bare["peak_rss_mb"]},
        "cases": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--events", type=int, default=200_000, help="traces per run; for figures to keep, a million")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--broker", choices=("embedded", "apache"), default="embedded")
    parser.add_argument("--quick", action="store_true", help="arrays alone")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="where the time goes, as text, and nothing else")
    parser.add_argument("--soak", type=int, metavar="N", help="memory over N traces, and nothing else")
    arguments = parser.parse_args()
    clean_up_at_sigterm()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logger.setLevel(logging.INFO)
    if arguments.profile:
        arguments.profile.write_text(profile(arguments.events, arguments.broker), encoding="utf-8")
        return
    figures = (
        {"benchmark": "soak", "machine": machine(), **soak(arguments.soak, arguments.broker)}
        if arguments.soak
        else measure(arguments.events, arguments.runs, arguments.broker, arguments.quick)
    )
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
