"""Limits that a role has reached since it started, for its health: what counts under `(other)`, or is not watched."""

from driftline.streams import metrics
from driftline.streams.health import Note

_NAMES = (
    "find with `driftline apps` who sends so many names (a request's id in a release, model or score), or raise "
    "monitor.limits where they are right"
)
CAPS = {  # reasons of driftline_dropped: what happened to so many, and what to do
    "series_overflow": ("events are counted under (other): more names than monitor.limits knows apart", _NAMES),
    "error_types_overflow": ("failed requests have an error type counted under (other)", _NAMES),
    "windows_overflow": ("windows are counted under (other): more of them at once than a partition holds", _NAMES),
    "streams_over_limit": (
        "units of evidence are of streams that no detector watches",
        "raise detectors.budget.streams",
    ),
    "canaries_over_limit": ("canaries are not judged", "stop those that are over, or raise monitor.limits.canaries"),
    "rules_over_limit": (
        "rules, objectives or budgets are not held against an app",
        "write fewer, or name apps in them",
    ),
    "pending_overflow": (
        "events are in their windows and missed by detectors",
        "find out whose clock is minutes ahead",
    ),
    "dedup_overflow": (
        "events were forgotten early, so a copy of them may count twice",
        "raise monitor.dedup.max_keys",
    ),
}


def notes() -> list[Note]:
    """One for each limit, of all consumers of this process."""
    counted: dict[str, int] = {}
    for metric in metrics.DROPPED.collect():
        for sample in metric.samples:
            if sample.name.endswith("_total") and sample.value:
                reason = sample.labels["reason"]
                counted[reason] = counted.get(reason, 0) + round(sample.value)
    return [Note(f"Since the start {counted[cap]:,} {what}", do) for cap, (what, do) in CAPS.items() if cap in counted]
