"""From a detector's transitions to published evidence and alerts: one alert id per episode, from firing to resolved."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from driftline.detectors.base import Measurement, State
from driftline.detectors.config import BudgetConfig
from driftline.schemas.events import MICROSECONDS
from driftline.schemas.ids import stable_id
from driftline.schemas.results import Alert, Evidence, EvidenceState
from driftline.streams.monitor import alerts
from driftline.streams.monitor.watch import Reading, Stream, Transition

_NOTHING = Measurement(threshold=0.0, guarantee="none")


class Incidents:
    def __init__(self, budget: BudgetConfig, state: State | None = None) -> None:
        state = state or {}
        self._budget = budget
        self._tick = round(budget.tick_s * MICROSECONDS)
        self._episodes: dict[tuple[str, ...], int] = {tuple(k): n for k, n in state.get("episodes", [])}
        self._open: dict[tuple[str, ...], Alert] = {
            tuple(k): msgspec.convert(alert, Alert) for k, alert in state.get("open", [])
        }

    def snapshot(self) -> State:
        return {
            "episodes": [[list(k), n] for k, n in sorted(self._episodes.items())],
            "open": [[list(k), msgspec.to_builtins(alert)] for k, alert in sorted(self._open.items())],
        }

    def since(self, transition: Transition) -> int:
        """When the change began, in microseconds."""
        tick = transition.measurement.since_tick
        return (transition.tick if tick is None else min(tick, transition.tick)) * self._tick

    def apply(
        self, rule: str, transition: Transition, revision: int, contributors: Sequence[str]
    ) -> list[Evidence | Alert]:
        stream, at, measurement = transition.stream, (transition.tick + 1) * self._tick, transition.measurement
        key = (rule, *stream)
        fired = transition.kind == "fired"
        since = self.since(transition) if fired else None
        state: EvidenceState = "alarm" if fired else "ok"
        evidence = self._evidence(
            "change", rule, stream, at, revision, state, measurement, transition.baseline_id, since
        )
        if since is None:
            return [evidence, alerts.resolved(self._open.pop(key), at, revision, "back at the reference")]
        episode = self._episodes[key] = self._episodes.get(key, 0) + 1
        alert = self._open[key] = alerts.firing(
            rule=rule,
            stream=stream,
            episode=episode,
            at=at,
            since=since,
            revision=revision,
            measurement=measurement,
            budget=self._budget,
            contributors=contributors,
            evidence_id=evidence.id,
        )
        return [evidence, alert]

    def abandon(self, rule: str, streams: Sequence[Stream], at: int, revision: int, reason: str) -> list[Alert]:
        """Resolve the alerts of streams that have left traffic."""
        return [alerts.resolved(self._open.pop((rule, *stream)), at, revision, reason) for stream in streams]

    def readings(self, rule: str, readings: Sequence[Reading], at: int, revision: int) -> list[Evidence]:
        """The regular report on where streams stand."""
        results = []
        for r in readings:
            open_alert = self._open.get((rule, *r.stream))
            state: EvidenceState = "insufficient_reference" if r.measurement is None else "alarm" if r.alarm else "ok"
            measurement = r.measurement or msgspec.structs.replace(_NOTHING, note=r.note)
            since = open_alert.since if open_alert else None
            results.append(
                self._evidence("report", rule, r.stream, at, revision, state, measurement, r.baseline_id, since)
            )
        return results

    def _evidence(
        self,
        kind: Literal["change", "report"],
        rule: str,
        stream: Stream,
        at: int,
        revision: int,
        state: EvidenceState,
        m: Measurement,
        baseline_id: str,
        since: int | None,
    ) -> Evidence:
        return Evidence(
            id=stable_id("evidence", kind, rule, *stream, at),
            app=stream.app,
            release=stream.release,
            detector=rule,
            component=stream.component,
            ts=at,
            revision=revision,
            state=state,
            log_e=m.log_e,
            log_p=m.log_p,
            threshold=m.threshold,
            value=m.value,
            baseline=m.baseline,
            effect=m.effect,
            effect_low=m.effect_low,
            effect_high=m.effect_high,
            n_events=m.n_events,
            n_units=m.n_units,
            n_not_scored=m.n_not_scored,
            guarantee=m.guarantee,
            baseline_id=baseline_id,
            since=since,
            note=m.note,
        )
