"""What a role counts and measures, for Prometheus; `/metrics` (`streams/health.py`) serves it.

The label `consumer` says who reads: a fold (`monitor`, `drift`, `embed`, `judge`), `archive`, or a notifier
(`notify.slack`). Counters count what this process did, repeats after a crash included: for what is exact ask the
tables. Everything is counted per batch, never per event, so the cost does not show. `infra/metrics.md` documents
each metric with an alert worth having.
"""

import collections
from collections.abc import Iterable, Mapping

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter that no rule uses

RECORDS_IN = Counter("driftline_records_in", "Kafka records taken in; one may hold many events.", ["consumer", "topic"])
EVENTS_IN = Counter(
    "driftline_events_in",
    "Events (or results) found in the records, those that could not be decoded included.",
    ["consumer", "topic"],
)
ARRIVED = Counter(
    "driftline_events_arrived",
    "Events by where the monitor met them: at their app's home, or elsewhere, from where they are sent there.",
    ["partition", "where"],
)
RESULTS_OUT = Counter("driftline_results_out", "Records published and acknowledged.", ["consumer", "topic"])
ROWS_OUT = Counter("driftline_rows_out", "Rows that ClickHouse acknowledged.", ["table"])
NOTICES_DELIVERED = Counter("driftline_notices_delivered", "Notices that a receiver took.", ["consumer"])
DROPPED = Counter(
    "driftline_dropped",
    "Events or notices that went no further here, by reason.",
    ["consumer", "reason"],
)
ERRORS = Counter("driftline_errors", "Errors met, by their type.", ["consumer", "kind"])
RETRIES = Counter("driftline_retries", "Attempts repeated after a passing failure.", ["consumer", "what"])
LAG_RECORDS = Gauge("driftline_lag_records", "Records written and not yet taken.", ["consumer", "topic", "partition"])
HELD_BACK = Gauge(
    "driftline_held_back_records",
    "Records behind a transaction that is still open; nobody can take them yet.",
    ["consumer", "topic", "partition"],
)
LAG_SECONDS = Gauge(
    "driftline_lag_seconds",
    "Age of the newest record taken while more wait; 0 when none waits.",
    ["consumer", "topic", "partition"],
)
DELAY_SECONDS = Histogram(
    "driftline_delay_seconds",
    "From the record's Kafka timestamp until it is done with: results acknowledged, rows stored, notice delivered. "
    "One observation per batch, of its oldest record.",
    ["consumer", "topic"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200),
)
REJECTED_IN_A_ROW = Gauge(
    "driftline_rejected_in_a_row",
    "Elements that could not be taken since the partition's last good event.",
    ["consumer", "topic", "partition"],
)
STATE_BYTES = Gauge("driftline_state_bytes", "Size of the newest state record.", ["consumer", "partition"])
CHECKPOINT_SECONDS = Histogram(
    "driftline_checkpoint_seconds",
    "From the beginning of a snapshot until its state record is acknowledged.",
    ["consumer", "partition"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
HEALTHY = Gauge("driftline_healthy", "1 while /healthz answers 200, else 0.", ["role"])
READY = Gauge("driftline_ready", "1 while /readyz answers 200, else 0.", ["role"])


def took(consumer: str, topic: str, records: int, events: int | None = None) -> None:
    """Count a batch in. `events`: where they are known, as in the archive."""
    RECORDS_IN.labels(consumer, topic).inc(records)
    if events is not None:
        EVENTS_IN.labels(consumer, topic).inc(events)


def put_out(consumer: str, topics: Iterable[str]) -> None:
    """Count published records; `topics`: the topic of each."""
    for topic, count in collections.Counter(topics).items():
        RESULTS_OUT.labels(consumer, topic).inc(count)


def dropped(consumer: str, counts: Mapping[str, int]) -> None:
    """Add `counts` by reason. Zeros count too: Prometheus sees an increase only of a series that was there before."""
    for reason, count in counts.items():
        DROPPED.labels(consumer, reason).inc(count)


def delayed(consumer: str, topic: str, oldest_us: int | None, now_us: int) -> None:
    """Observe a finished batch whose oldest record was sent at `oldest_us`, as `sent_at` has it; both microseconds
    since the Unix epoch. Clocks of two machines may differ, so below zero is zero; None says nothing."""
    if oldest_us is not None:
        DELAY_SECONDS.labels(consumer, topic).observe(max(0, now_us - oldest_us) / 1_000_000)


def erred(consumer: str, error: BaseException) -> None:
    ERRORS.labels(consumer, type(error).__name__).inc()


def forget(consumer: str, topic: str, partition: int) -> None:
    """A partition that is another member's now: it reports it."""
    for gauge in (LAG_RECORDS, LAG_SECONDS, HELD_BACK, REJECTED_IN_A_ROW):
        gauge.remove_by_labels({"consumer": consumer, "topic": topic, "partition": str(partition)})
    STATE_BYTES.remove_by_labels({"consumer": consumer, "partition": str(partition)})
