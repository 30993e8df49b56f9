"""Closed windows put together: an app's or a release's window over all its models."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from driftline.detectors.ddsketch import DDSketch
from driftline.streams.monitor.rules.config import Metric
from driftline.streams.monitor.windows import NANO, SCORE_UNIT, Closed

_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


@dataclass
class Totals:
    """Sums of windows of one start. Exact, so the order in which they are added does not matter."""

    counts: Counter[str] = field(default_factory=Counter)
    latency: DDSketch = field(default_factory=DDSketch)
    ttft: DDSketch = field(default_factory=DDSketch)
    scores: dict[str, list[int]] = field(default_factory=dict)

    def add(self, part: "Closed | Totals") -> None:
        self.counts.update(part.counts)
        self.latency.merge(part.latency)
        self.ttft.merge(part.ttft)
        for name, (count, total) in part.scores.items():
            sums = self.scores.setdefault(name, [0, 0])
            sums[0] += count
            sums[1] += total

    def value(self, metric: Metric, score: str) -> tuple[float | None, int]:
        """The metric, and from how many requests or scores. None: there is none to tell it by."""
        counts = self.counts
        requests, priced = counts["requests"], counts["priced"]
        if metric == "error_rate":
            return (counts["errors"] / requests if requests else None), requests
        if metric == "quality":
            n, total = self.scores.get(score, (0, 0))
            return (total / SCORE_UNIT / n if n else None), n
        if metric == "cost_usd_per_request":
            return (counts["nanousd"] / NANO / priced if priced else None), priced
        if metric == "cost_usd":
            return (None if requests and not priced else counts["nanousd"] / NANO), requests
        if metric in ("requests", "input_tokens", "output_tokens"):
            return float(counts[metric]), requests
        name, quantile = metric.split("_")
        sketch = self.latency if name == "latency" else self.ttft
        return (sketch.quantile(_QUANTILES[quantile]) if sketch.count else None), sketch.count


def by_release(windows: Iterable[Closed]) -> Mapping[tuple[str, str], Totals]:
    """Windows of one start: (app, release) -> totals, in order."""
    totals: dict[tuple[str, str], Totals] = {}
    for window in windows:
        totals.setdefault((window.app, window.release), Totals()).add(window)
    return dict(sorted(totals.items()))


def together(parts: Iterable[Totals]) -> Totals:
    whole = Totals()
    for part in parts:
        whole.add(part)
    return whole
