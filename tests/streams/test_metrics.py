"""What is counted, and that the documents and the alert rules speak of what there is."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from driftline.streams import metrics

INFRA = Path(__file__).parents[2] / "infra"
OURS = [metric for metric in vars(metrics).values() if isinstance(metric, Counter | Gauge | Histogram)]
RULES: list[dict[str, Any]] = yaml.safe_load((INFRA / "prometheus" / "driftline.rules.yml").read_text())["groups"][0][
    "rules"
]


def name(metric: Counter | Gauge | Histogram) -> str:
    (family,) = metric.describe()
    return f"{family.name}_total" if isinstance(metric, Counter) else family.name


def value(sample: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(sample, labels)


def test_a_reason_is_there_before_it_is_met() -> None:
    metrics.dropped("m1", {"too_late": 0})
    assert value("driftline_dropped_total", consumer="m1", reason="too_late") == 0
    metrics.dropped("m1", {"too_late": 3})
    assert value("driftline_dropped_total", consumer="m1", reason="too_late") == 3


def test_batches_are_counted() -> None:
    metrics.took("m2", "t", 5)
    assert value("driftline_events_in_total", consumer="m2", topic="t") is None, "not known, so not claimed"
    metrics.took("m2", "t", 5, events=500)
    metrics.put_out("m2", ["a", "b", "a"])
    metrics.erred("m2", TimeoutError())
    assert value("driftline_records_in_total", consumer="m2", topic="t") == 10
    assert value("driftline_events_in_total", consumer="m2", topic="t") == 500
    assert [value("driftline_results_out_total", consumer="m2", topic=topic) for topic in "ab"] == [2, 1]
    assert value("driftline_errors_total", consumer="m2", kind="TimeoutError") == 1


@pytest.mark.parametrize(("oldest_us", "count", "seconds"), [(1_000_000, 1, 4), (9_000_000, 1, 0), (None, None, None)])
def test_a_delay_is_never_negative_and_never_made_up(
    oldest_us: int | None, count: int | None, seconds: float | None
) -> None:
    topic = f"t{oldest_us}"
    metrics.delayed("m3", topic, oldest_us, now_us=5_000_000)
    assert value("driftline_delay_seconds_count", consumer="m3", topic=topic) == count
    assert value("driftline_delay_seconds_sum", consumer="m3", topic=topic) == seconds


def test_what_is_forgotten_is_of_one_partition() -> None:
    for partition in (1, 11):
        metrics.LAG_RECORDS.labels("m4", "t", partition).set(1)
        metrics.STATE_BYTES.labels("m4", partition).set(1)
    metrics.forget("m4", "t", 1)
    metrics.forget("m4", "never seen", 1)
    found = [value("driftline_lag_records", consumer="m4", topic="t", partition=p) for p in ("1", "11")]
    assert found == [None, 1]
    assert [value("driftline_state_bytes", consumer="m4", partition=p) for p in ("1", "11")] == [None, 1]


def test_the_document_has_every_metric_with_its_type_and_labels_and_no_other() -> None:
    rows = re.findall(r"^\| `(driftline_\w+)` \| (\w+) \| ([^|]*) \|", (INFRA / "metrics.md").read_text(), re.M)
    kinds = {Counter: "counter", Gauge: "gauge", Histogram: "histogram"}
    assert {row[0]: (row[1], row[2]) for row in rows} == {
        name(metric): (kinds[type(metric)], ", ".join(metric._labelnames)) for metric in OURS
    }


def test_alert_rules_ask_for_metrics_and_labels_that_there_are() -> None:
    known = {name(metric): metric._labelnames for metric in OURS}
    for rule in RULES:
        for asked, selector in re.findall(r"(driftline_\w+?)(?:_bucket)?\b(?:\{([^}]*)\})?", rule["expr"]):
            assert asked in known, rule["alert"]
            labels = re.findall(r"(\w+)\s*[=!]~?", selector)
            assert set(labels) <= set(known[asked]), rule["alert"]


def test_each_alert_of_the_document_is_a_rule_and_says_whether_to_wake_somebody() -> None:
    named = set(re.findall(r"Driftline[A-Z]\w+", (INFRA / "metrics.md").read_text()))
    alerts = {rule["alert"] for rule in RULES}
    assert named <= alerts
    assert alerts - named == {"DriftlineDown", "DriftlineRestarts"}
    assert {rule["labels"]["severity"] for rule in RULES} == {"page", "ticket"}
    assert all(rule["annotations"]["summary"] for rule in RULES)
