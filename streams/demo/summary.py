"""What the demo proves: every incident caught, no false alarm, nothing lost. Pure: from what was sent and what came
back, in event time."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from driftline.schemas.clock import utc
from driftline.schemas.events import MICROSECONDS
from driftline.schemas.results import Alert, BreakerSignal, RollbackSignal
from driftline.streams.demo.scenario import MINUTE, TAIL_MINUTES, Incident, Scenario


class IncidentReport(msgspec.Struct, kw_only=True):
    name: str
    began_at: str
    ended_at: str
    detected_at: str | None
    detected_by: str
    delay_events: int | None  # requests sent from its beginning to its detection
    delay_s: float | None
    resolved_at: str | None  # when the last of its alerts and breakers was back to normal


class QuietStretch(msgspec.Struct, kw_only=True):
    from_: str = msgspec.field(name="from")
    to: str
    alarms: int


class AlertReport(msgspec.Struct, kw_only=True):
    rule: str
    component: str
    release: str
    severity: str
    fired_at: str
    resolved_at: str | None
    incident: str  # "" is a false alarm
    summary: str


class RollbackReport(msgspec.Struct, kw_only=True):
    deployment_id: str
    release: str
    decided_at: str
    obeyed_at: str | None
    reason: str


class BreakerReport(msgspec.Struct, kw_only=True):
    provider: str
    model: str
    state: str
    at: str
    reason: str


class Summary(msgspec.Struct, kw_only=True):
    """All times are event time, RFC 3339."""

    events_sent: int  # traces and releases that the broker acknowledged
    events_stored: int
    events_dead_lettered: int
    lost: int
    duplicated: int
    false_alarms: int
    quiet_stretch: QuietStretch
    incidents: list[IncidentReport]
    alerts: list[AlertReport]
    rollbacks: list[RollbackReport]
    breakers: list[BreakerReport]
    wall_seconds: float
    seed: int

    def failures(self) -> list[str]:
        """Why the demo has failed; empty when it proved what it is to prove."""
        failures = [f"{incident.name} was missed" for incident in self.incidents if incident.detected_at is None]
        if self.lost:
            failures.append(f"{self.lost} events were lost")
        if self.quiet_stretch.alarms:
            failures.append(f"{self.quiet_stretch.alarms} alarms in the quiet stretch")
        return failures

    @property
    def exit_code(self) -> int:
        return 1 if self.failures() else 0


class Ledger:
    """Takes the results of the pipeline as they come; copies of one result count once."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._alerts: dict[str, Alert] = {}  # the newest transition of each episode
        self._rollbacks: dict[str, RollbackSignal] = {}
        self._breakers: dict[str, BreakerSignal] = {}

    def add(self, result: Alert | RollbackSignal | BreakerSignal) -> None:
        if isinstance(result, Alert):
            known = self._alerts.get(result.id)
            if known is None or known.resolved_at is None:
                self._alerts[result.id] = result
        elif isinstance(result, RollbackSignal):
            self._rollbacks.setdefault(result.id, result)
        else:
            self._breakers.setdefault(result.id, result)

    def summarize(
        self,
        *,
        canary_ended_at: int | None,
        requests: Callable[[int, int], int],
        sent: int,
        stored: int,
        dead_lettered: int,
        wall_seconds: float,
        seed: int,
    ) -> Summary:
        """`requests` counts those sent in a stretch of event time."""
        ends = {incident.name: incident.ended_at for incident in self._scenario.incidents}
        if canary_ended_at is not None:
            ends[self._scenario.bad_canary.name] = canary_ended_at
        alerts = sorted(self._alerts.values(), key=lambda alert: (alert.fired_at, alert.id))
        owners = {alert.id: self._owner(alert.fired_at, ends) for alert in alerts}
        quiet = self._scenario.quiet
        return Summary(
            events_sent=sent,
            events_stored=stored,
            events_dead_lettered=dead_lettered,
            lost=max(0, sent - stored - dead_lettered),
            duplicated=max(0, stored + dead_lettered - sent),
            false_alarms=sum(not owner for owner in owners.values()),
            quiet_stretch=QuietStretch(
                from_=rfc3339(quiet.began_at),
                to=rfc3339(quiet.ended_at),
                alarms=sum(quiet.began_at <= alert.fired_at < quiet.ended_at for alert in alerts),
            ),
            incidents=[
                self._report(
                    incident,
                    ends[incident.name],
                    [alert for alert in alerts if owners[alert.id] == incident.name],
                    requests,
                )
                for incident in self._scenario.incidents
            ],
            alerts=[_alert_report(alert, owners[alert.id]) for alert in alerts],
            rollbacks=[
                RollbackReport(
                    deployment_id=signal.deployment_id,
                    release=signal.release,
                    decided_at=rfc3339(signal.decided_at),
                    obeyed_at=_optional(canary_ended_at),
                    reason=signal.reason,
                )
                for signal in self._rollbacks.values()
            ],
            breakers=[
                BreakerReport(
                    provider=signal.provider,
                    model=signal.model,
                    state=signal.state,
                    at=rfc3339(signal.at),
                    reason=signal.reason,
                )
                for signal in sorted(self._breakers.values(), key=lambda signal: signal.at)
            ],
            wall_seconds=round(wall_seconds, 1),
            seed=seed,
        )

    def _owner(self, ts: int, ends: dict[str, int]) -> str:
        """The incident in whose effect the moment lies."""
        for incident in self._scenario.incidents:
            if incident.began_at <= ts < ends[incident.name] + TAIL_MINUTES * MINUTE:
                return incident.name
        return ""

    def _report(
        self, incident: Incident, ended_at: int, alerts: Sequence[Alert], requests: Callable[[int, int], int]
    ) -> IncidentReport:
        tail = ended_at + TAIL_MINUTES * MINUTE
        breakers = [s for s in self._breakers.values() if incident.began_at <= s.at]
        detections = [(alert.fired_at, alert.rule) for alert in alerts]
        detections += [(s.decided_at, "rollback") for s in self._rollbacks.values()]
        detections += [(s.at, "breaker") for s in breakers if s.state == "open"]
        detected = min(
            ((at, by) for at, by in detections if by in incident.caught_by and incident.began_at <= at < tail),
            default=None,
        )
        return IncidentReport(
            name=incident.name,
            began_at=rfc3339(incident.began_at),
            ended_at=rfc3339(ended_at),
            detected_at=detected and rfc3339(detected[0]),
            detected_by=detected[1] if detected else "",
            delay_events=detected and requests(incident.began_at, detected[0]),
            delay_s=detected and (detected[0] - incident.began_at) / MICROSECONDS,
            resolved_at=_optional(_resolved_at(alerts, breakers if "breaker" in incident.caught_by else [], ended_at)),
        )


def _resolved_at(alerts: Iterable[Alert], breakers: Sequence[BreakerSignal], ended_at: int) -> int | None:
    """Not before the incident itself has ended; None while anything is still open."""
    moments = [ended_at]
    for alert in alerts:
        if alert.resolved_at is None:
            return None
        moments.append(alert.resolved_at)
    latest = max(breakers, key=lambda signal: signal.at, default=None)
    if latest is not None:
        if latest.state != "closed":
            return None
        moments.append(latest.at)
    return max(moments)


def _alert_report(alert: Alert, incident: str) -> AlertReport:
    return AlertReport(
        rule=alert.rule,
        component=alert.component,
        release=alert.release,
        severity=alert.severity,
        fired_at=rfc3339(alert.fired_at),
        resolved_at=_optional(alert.resolved_at),
        incident=incident,
        summary=alert.summary,
    )


def _optional(ts: int | None) -> str | None:
    return None if ts is None else rfc3339(ts)


def rfc3339(ts: int) -> str:
    return utc(ts).isoformat().replace("+00:00", "Z")
