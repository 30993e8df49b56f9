"""What people are told, in words, once for every receiver: what moved, by how much, since when, in which release,
how often such an alarm is false, and what to do. Pure."""

from dataclasses import dataclass, replace

from driftline.schemas.results import Alert, BreakerSignal, RollbackSignal, Severity
from driftline.sinks.notify.base import Notice
from driftline.sinks.notify.text import clean, lasting, number, one_line, percent, when

MOST_CONTRIBUTORS = 5  # more than a phone's screen shows helps nobody at three in the morning


@dataclass(frozen=True)
class Message:
    title: str  # a few words, one line
    summary: str  # one line
    severity: Severity
    facts: dict[str, str]
    description: str = ""
    action: str = ""


def message(notice: Notice) -> Message:
    """Its texts hold nothing that a receiver would obey."""
    told = _told(notice)
    facts = {label: one_line(text) for label, text in told.facts.items()}
    return replace(
        told,
        title=one_line(told.title),
        summary=one_line(told.summary),
        facts={label: text for label, text in facts.items() if text},  # an empty line says nothing
        description=clean(told.description),
        action=clean(told.action),
    )


def _told(notice: Notice) -> Message:
    match notice:
        case Alert():
            return _alert(notice)
        case RollbackSignal():
            return _rollback(notice)
        case BreakerSignal():
            return _breaker(notice)


def _alert(alert: Alert) -> Message:
    resolved = alert.state == "resolved"
    what = f"{alert.rule} ({alert.component})" if alert.component else alert.rule
    facts = {
        "App": alert.app,
        "Release": alert.release,
        "What": what,
        "Change": change(alert),
        "Since": when(alert.since),
        "Evidence": f"{alert.n_events:,} events",
        "False alarms": alert.false_alarms,
        "Contributors": "; ".join(alert.contributors[:MOST_CONTRIBUTORS]),
    }
    if resolved:
        ended = alert.ts if alert.resolved_at is None else alert.resolved_at
        facts["Resolved"] = f"{when(ended)}, after {lasting(ended - alert.fired_at)}"
    else:
        facts["Fired"] = when(alert.fired_at)
    return Message(
        title=f"{'Resolved' if resolved else 'Firing'}: {what} of {alert.app}",
        summary=one_line(alert.summary) or f"{what} of {alert.app} is {alert.state}",
        severity=alert.severity,
        facts=facts,
        description=alert.description,
        action="" if resolved else alert.action,
    )


def change(alert: Alert) -> str:
    """What moved, by how much, and how sure that is; as much of it as is known."""
    parts = []
    if alert.value is not None:
        before = "" if alert.baseline is None else f"{number(alert.baseline)} → "
        parts.append(before + number(alert.value))
    if alert.effect is not None:
        parts.append(percent(alert.effect))
    if alert.effect_low is not None and alert.effect_high is not None:
        parts.append(f"between {percent(alert.effect_low)} and {percent(alert.effect_high)}")
    return ", ".join(parts)


def _rollback(signal: RollbackSignal) -> Message:
    evidence = [
        f"{name} {number(value)} (weight {number(signal.weights.get(name, 1.0))})"
        for name, value in signal.log_e.items()
    ]
    facts = {
        "App": signal.app,
        "Canary": signal.release,
        "Stable": signal.stable,
        "Deployment": signal.deployment_id,
        "Decided": when(signal.decided_at),
        "Traffic to the canary": f"{number(100 * signal.share)} %",
        "Canary minus stable": ", ".join(f"{name} {value:+.3g}" for name, value in signal.effects.items()),
        "Evidence of harm": f"log e {number(signal.log_e_total)} of {number(signal.threshold)}: {', '.join(evidence)}",
        "Seen": ", ".join(f"{name} {count:,}" for name, count in signal.counts.items()),
        "False alarms": f"a canary that is not worse is rolled back with probability at most {number(signal.alpha)}",
    }
    return Message(
        title=f"Roll back {signal.release} of {signal.app}",
        summary=f"Roll back {signal.release} of {signal.app} to {signal.stable}: {signal.reason}",
        severity="critical",
        facts=facts,
        action=f"Take {signal.release} out of traffic and return to {signal.stable}, unless that has happened already.",
    )


def _breaker(signal: BreakerSignal) -> Message:
    target = f"{signal.provider} {signal.model}".strip()
    title = {"open": "Circuit open", "half_open": "Circuit half open", "closed": "Circuit closed"}[signal.state]
    action = {
        "open": f"Send {signal.app}'s requests elsewhere, or let them fail fast, until {target} recovers.",
        "half_open": f"Send {number(100 * signal.probe_share)} % of {signal.app}'s requests to {target}, to find out.",
        "closed": "",
    }[signal.state]
    facts = {
        "App": signal.app,
        "Provider": signal.provider,
        "Model": signal.model,
        "At": when(signal.at),
        "Errors": f"{signal.errors:,} of {signal.requests:,} requests",
    }
    return Message(
        title=f"{title}: {target} for {signal.app}",
        summary=f"{title} for {signal.app} at {target}: {signal.reason}",
        severity="error" if signal.state == "open" else "info",
        facts=facts,
        action=action,
    )
