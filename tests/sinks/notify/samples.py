"""Things to report, ordinary and odd."""

import msgspec

from driftline.schemas.results import Alert, BreakerSignal, RollbackSignal
from driftline.sinks.notify.base import Notice

TS = 1_795_248_000_000_000  # 2026-11-21 08:00:00 UTC
MINUTE = 60_000_000
LONG = "Fehlerrate 🔥 <!channel> & «ganz» schlecht " * 250  # more than 10,000 characters, with an emoji in each piece


def alert(**changes: object) -> Alert:
    return msgspec.structs.replace(
        Alert(
            id="a1",
            dedup_key="support-bot/error_rate/1",
            app="support-bot",
            release="v2",
            rule="error_rate",
            component="",
            state="firing",
            severity="critical",
            episode=1,
            ts=TS,
            since=TS - 15 * MINUTE,
            fired_at=TS,
            resolved_at=None,
            revision=7,
            summary="Errors of support-bot rose from 2.1 % to 8.4 %",
            description="All of it comes from release v2.",
            action="Roll back v2.",
            value=0.084,
            baseline=0.021,
            effect=3.0,
            effect_low=1.8,
            effect_high=4.5,
            n_events=1234,
            false_alarms="1 per 30 days",
            contributors=["timeout", "rate_limit"],
            labels={"team": "support"},
            evidence_id="e1",
        ),
        **changes,
    )


def resolved(**changes: object) -> Alert:
    return alert(state="resolved", ts=TS + 150 * MINUTE, resolved_at=TS + 150 * MINUTE, **changes)


def rollback(**changes: object) -> RollbackSignal:
    return msgspec.structs.replace(
        RollbackSignal(
            id="r1",
            deployment_id="d1",
            app="support-bot",
            release="v2",
            stable="v1",
            decided_at=TS,
            revision=7,
            reason="errors and latency are worse",
            log_e={"errors": 12.3, "latency": 1.5},
            weights={"errors": 0.5, "latency": 0.5},
            log_e_total=11.6,
            threshold=6.9,
            alpha=0.001,
            counts={"canary": 120, "stable": 4000},
            effects={"errors": 0.04, "latency": 312.0},
            share=0.05,
        ),
        **changes,
    )


def breaker(**changes: object) -> BreakerSignal:
    return msgspec.structs.replace(
        BreakerSignal(
            id="b1",
            app="support-bot",
            provider="openai",
            model="gpt-5",
            state="open",
            at=TS,
            revision=7,
            reason="20 of 40 requests failed",
            probe_share=0.1,
            requests=40,
            errors=20,
        ),
        **changes,
    )


ORDINARY: dict[str, Notice] = {
    "firing": alert(),
    "resolved": resolved(),
    "rollback": rollback(),
    "open": breaker(),
    "half-open": breaker(id="b2", state="half_open"),
    "closed": breaker(id="b3", state="closed"),
}

ODD: dict[str, Notice] = {
    "nothing-known": alert(
        release="",
        value=None,
        baseline=None,
        effect=None,
        effect_low=None,
        effect_high=None,
        summary="",
        description="",
        action="",
        false_alarms="",
        contributors=[],
        labels={},
    ),
    "huge": alert(
        app="ä" * 200,
        release="🔥" * 200,
        rule="error_rate",
        component=LONG,
        dedup_key="k" * 5000,
        summary=LONG,
        description=LONG,
        action=LONG,
        false_alarms=LONG,
        contributors=[LONG] * 20,
    ),
    "beyond-half-a-megabyte": alert(description=LONG * 60),
    "control-characters": alert(summary="a\x00b\nc\x1b[31m", description="\x00\n\t ", action="\r\n"),
    "only-escapes": alert(summary="&" * 3000, description="<>" * 3000, action=">" * 3000),
    "extreme-numbers": alert(value=-1e-12, baseline=1e300, effect=-0.9999, effect_low=-1.0, effect_high=1e12),
    "bare-rollback": rollback(deployment_id="", stable="", reason="", log_e={}, weights={}, counts={}, effects={}),
    "huge-rollback": rollback(reason=LONG, log_e={f"m{i} {LONG}": 1.0 for i in range(60)}, effects={LONG: 1.0}),
    "bare-breaker": breaker(model="", reason=""),
    "joined-emoji": alert(summary="👩‍👩‍👧‍👦" * 400, app="👩‍👩‍👧‍👦"),
}
