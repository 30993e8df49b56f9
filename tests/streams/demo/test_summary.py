import msgspec
import pytest

from driftline.schemas.results import Alert, BreakerSignal, RollbackSignal
from driftline.streams.demo.scenario import DEPLOYMENT, MINUTE, TAIL_MINUTES, Scenario
from driftline.streams.demo.summary import Ledger, Summary

SCENARIO = Scenario()


def alert(rule: str, fired_at: int, resolved_at: int | None = None, id: str = "") -> Alert:
    return Alert(
        id=id or f"{rule}-{fired_at}", dedup_key="k", app="support-bot", release="v1", rule=rule, component="",
        state="resolved" if resolved_at else "firing", severity="error", episode=1, ts=resolved_at or fired_at,
        since=fired_at, fired_at=fired_at, resolved_at=resolved_at, revision=1, summary="s", description="",
        action="", value=None, baseline=None, effect=None, effect_low=None, effect_high=None, n_events=1,
        false_alarms="", contributors=[], labels={}, evidence_id="e",
    )  # fmt: skip


def rollback(at: int) -> RollbackSignal:
    return RollbackSignal(
        id="r", deployment_id=DEPLOYMENT, app="support-bot", release="v2", stable="v1", decided_at=at, revision=1,
        reason="", log_e={}, weights={}, log_e_total=5.0, threshold=4.0, alpha=0.01, counts={}, effects={}, share=0.1,
    )  # fmt: skip


def breaker(state: str, at: int) -> BreakerSignal:
    return BreakerSignal(
        id=f"b{at}", app="support-bot", provider="p", model="m", state=state, at=at,  # type: ignore[arg-type]
        revision=0, reason="", probe_share=0.05, requests=0, errors=0,
    )  # fmt: skip


def summarize(ledger: Ledger, canary_ended_at: int | None = None, sent: int = 10, stored: int = 10) -> Summary:
    return ledger.summarize(
        canary_ended_at=canary_ended_at,
        requests=lambda began, ended: (ended - began) // 1_000_000 * 5,
        sent=sent,
        stored=stored,
        dead_lettered=0,
        wall_seconds=1.23,
        seed=7,
    )


def good_day() -> Ledger:
    ledger = Ledger(SCENARIO)
    drift, canary, outage, spike = SCENARIO.incidents
    ledger.add(alert("latency_p99", drift.began_at + MINUTE, drift.ended_at + MINUTE))
    ledger.add(alert("embedding_drift", drift.began_at + 2 * MINUTE, drift.ended_at + 5 * MINUTE))
    ledger.add(rollback(canary.began_at + 4 * MINUTE))
    ledger.add(breaker("open", outage.began_at + MINUTE // 2))
    ledger.add(alert("error_rate", outage.began_at + MINUTE, outage.ended_at + 12 * MINUTE))
    ledger.add(breaker("closed", outage.ended_at + 20 * MINUTE))
    ledger.add(alert("cost_p99", spike.began_at + 3 * MINUTE, spike.ended_at + 14 * MINUTE))
    return ledger


def test_a_good_day() -> None:
    canary = SCENARIO.bad_canary
    summary = summarize(good_day(), canary_ended_at=canary.began_at + 5 * MINUTE)
    assert summary.exit_code == 0
    assert summary.false_alarms == summary.lost == summary.duplicated == summary.quiet_stretch.alarms == 0
    assert [incident.detected_by for incident in summary.incidents] == [
        "embedding_drift",
        "rollback",
        "breaker",
        "cost_p99",
    ]
    assert [incident.delay_s for incident in summary.incidents] == [120.0, 240.0, 30.0, 180.0]
    assert summary.incidents[0].delay_events == 600
    assert summary.incidents[1].ended_at == "2026-11-02T11:15:00Z"
    assert summary.incidents[1].resolved_at == "2026-11-02T11:15:00Z"
    assert summary.incidents[2].resolved_at == "2026-11-02T12:23:00Z"  # the breaker's close, after the last alert
    assert [report.incident for report in summary.alerts] == [
        "topic_drift",
        "topic_drift",
        "provider_outage",
        "cost_spike",
    ]


def test_the_json_is_what_was_agreed() -> None:
    document = msgspec.json.decode(msgspec.json.encode(summarize(good_day())))
    assert list(document) == [
        "events_sent", "events_stored", "events_dead_lettered", "lost", "duplicated", "false_alarms", "quiet_stretch",
        "incidents", "alerts", "rollbacks", "breakers", "wall_seconds", "seed",
    ]  # fmt: skip
    assert document["quiet_stretch"] == {"from": "2026-11-02T09:20:00Z", "to": "2026-11-02T10:00:00Z", "alarms": 0}
    assert list(document["incidents"][0]) == [
        "name", "began_at", "ended_at", "detected_at", "detected_by", "delay_events", "delay_s", "resolved_at",
    ]  # fmt: skip


def test_an_alarm_in_the_quiet_stretch_is_false_and_fails() -> None:
    ledger = good_day()
    ledger.add(alert("quality", SCENARIO.quiet.began_at + MINUTE))
    summary = summarize(ledger)
    assert (summary.false_alarms, summary.quiet_stretch.alarms, summary.exit_code) == (1, 1, 1)


@pytest.mark.parametrize(("minutes", "false_alarms"), [(-1, 1), (0, 0), (TAIL_MINUTES - 1, 0), (TAIL_MINUTES + 1, 1)])
def test_effects_end_with_the_longest_window(minutes: int, false_alarms: int) -> None:
    ledger = good_day()
    spike = SCENARIO.cost_spike
    edge = spike.began_at if minutes <= 0 else spike.ended_at
    ledger.add(alert("quality", edge + minutes * MINUTE))
    assert summarize(ledger).false_alarms == false_alarms


def test_a_rollback_ends_the_effect_of_the_canary_sooner() -> None:
    ledger = good_day()
    late = SCENARIO.bad_canary.began_at + (6 + TAIL_MINUTES) * MINUTE
    ledger.add(alert("quality", late))
    assert summarize(ledger).false_alarms == 0
    assert summarize(ledger, canary_ended_at=SCENARIO.bad_canary.began_at + 5 * MINUTE).false_alarms == 1


def test_the_wrong_alert_does_not_catch_an_incident() -> None:
    ledger = Ledger(SCENARIO)
    ledger.add(alert("latency_p99", SCENARIO.topic_drift.began_at + MINUTE))
    summary = summarize(ledger)
    assert summary.false_alarms == 0
    assert summary.incidents[0].detected_at is None
    assert summary.incidents[0].delay_s is None
    assert "topic_drift was missed" in summary.failures()


def test_an_open_alert_or_breaker_is_not_resolved() -> None:
    ledger = Ledger(SCENARIO)
    spike, outage = SCENARIO.cost_spike, SCENARIO.outage
    ledger.add(alert("cost_p99", spike.began_at + MINUTE))
    ledger.add(breaker("open", outage.began_at + MINUTE))
    summary = summarize(ledger)
    assert summary.incidents[3].resolved_at is None
    assert summary.incidents[2].resolved_at is None


def test_copies_count_once_and_the_resolution_stays() -> None:
    ledger = Ledger(SCENARIO)
    at = SCENARIO.cost_spike.began_at + MINUTE
    ledger.add(alert("cost_p99", at, id="a"))
    ledger.add(alert("cost_p99", at, at + MINUTE, id="a"))
    ledger.add(alert("cost_p99", at, id="a"))
    ledger.add(breaker("open", at))
    ledger.add(breaker("open", at))
    summary = summarize(ledger)
    assert len(summary.alerts) == len(summary.breakers) == 1
    assert summary.alerts[0].resolved_at is not None


@pytest.mark.parametrize(("stored", "lost", "duplicated"), [(9, 1, 0), (10, 0, 0), (11, 0, 1)])
def test_accounting(stored: int, lost: int, duplicated: int) -> None:
    summary = summarize(good_day(), stored=stored)
    assert (summary.lost, summary.duplicated) == (lost, duplicated)
    assert summary.exit_code == (1 if lost else 0)
