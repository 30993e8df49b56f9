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
from driftline.streams.monitor.scalars import published
from driftline.streams.monitor.watch import Reading, Stream, Transition

_MOST_COUNTED = 5_000  # streams whose episodes are numbered 1, 2, 3, …: five times what is watched at once
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

    def open_alerts(self) -> list[tuple[str, Stream]]:
        """The rule and stream of every alert that is firing, in order."""
        return [(rule, Stream(*stream)) for rule, *stream in sorted(self._open)]

    def since(self, transition: Transition) -> int:
        """When the change began, in microseconds."""
        tick = transition.measurement.since_tick
        return (transition.tick if tick is None else min(tick, transition.tick)) * self._tick

    def apply(
        self, rule: str, transition: Transition, revision: int, contributors: Sequence[str], *, detector: str = ""
    ) -> list[Evidence | Alert]:
        """detector: whose evidence it is, if the rule is another's too."""
        stream, at, m = transition.stream, (transition.tick + 1) * self._tick, transition.measurement
        if transition.kind == "recovered":
            reason = "back at the reference"
            return self.resolve(rule, stream, at, revision, m, transition.baseline_id, reason, detector=detector)
        since = self.since(transition)
        wording = alerts.wording(rule, stream, m, since, self._budget, contributors)
        baseline_id = transition.baseline_id
        return self.fire(rule, stream, at, since, revision, m, baseline_id, wording, contributors, detector=detector)

    def evidence(self, detector: str, transition: Transition, revision: int) -> Evidence:
        """Of a detector that found, or lost, what is another's alert already."""
        at, m = (transition.tick + 1) * self._tick, transition.measurement
        since = self.since(transition) if transition.kind == "fired" else None
        state: EvidenceState = "ok" if since is None else "alarm"
        baseline_id = transition.baseline_id
        return self._evidence("change", detector, transition.stream, at, revision, state, m, baseline_id, since)

    def fire(
        self,
        rule: str,
        stream: Stream,
        at: int,
        since: int,
        revision: int,
        measurement: Measurement,
        baseline_id: str,
        wording: alerts.Wording,
        contributors: Sequence[str],
        *,
        state: EvidenceState = "alarm",
        episode: int | None = None,
        detector: str = "",
    ) -> list[Evidence | Alert]:
        """A new episode. Times are microseconds. episode: its number, if not the next one; for streams that are too
        many to be counted for ever."""
        key = (rule, *stream)
        by = detector or rule
        evidence = self._evidence("change", by, stream, at, revision, state, measurement, baseline_id, since)
        if episode is None:
            episode = self._next_episode(key, at)
        told, of = published(rule, stream)
        alert = self._open[key] = alerts.firing(
            rule=told,
            stream=of,
            episode=episode,
            at=at,
            since=since,
            revision=revision,
            measurement=measurement,
            wording=wording,
            contributors=contributors,
            evidence_id=evidence.id,
        )
        return [evidence, alert]

    def _next_episode(self, key: tuple[str, ...], at: int) -> int:
        """Never the number of an earlier one: of streams above what is counted, the second in which it begins."""
        if key not in self._episodes and len(self._episodes) >= _MOST_COUNTED:
            return at // MICROSECONDS
        self._episodes[key] = self._episodes.get(key, 0) + 1
        return self._episodes[key]

    def resolve(
        self,
        rule: str,
        stream: Stream,
        at: int,
        revision: int,
        measurement: Measurement,
        baseline_id: str,
        reason: str,
        *,
        detector: str = "",
    ) -> list[Evidence | Alert]:
        by = detector or rule
        evidence = self._evidence("change", by, stream, at, revision, "ok", measurement, baseline_id, None)
        return [evidence, alerts.resolved(self._open.pop((rule, *stream)), at, revision, reason)]

    def abandon(self, rule: str, streams: Sequence[Stream], at: int, revision: int, reason: str) -> list[Alert]:
        """Resolve the alerts of streams that have left traffic."""
        return [alerts.resolved(self._open.pop((rule, *stream)), at, revision, reason) for stream in streams]

    def suppress(self, rule: str, transition: Transition, revision: int, reason: str) -> list[Evidence]:
        """An alarm that is not told, but on record."""
        at = (transition.tick + 1) * self._tick
        measured = msgspec.structs.replace(transition.measurement, note=f"{reason} {transition.measurement.note}")
        since, baseline = self.since(transition), transition.baseline_id
        return [self._evidence("change", rule, transition.stream, at, revision, "alarm", measured, baseline, since)]

    def is_firing(self, rule: str, stream: Stream) -> bool:
        return (rule, *stream) in self._open

    def is_open(self, app: str) -> bool:
        """Whether anything is wrong with an app. What is only different, warnings and less, may be the new normal."""
        return any(alert.app == app and alert.severity in ("critical", "error") for alert in self._open.values())

    def readings(
        self, rule: str, readings: Sequence[Reading], at: int, revision: int, *, detector: str = ""
    ) -> list[Evidence]:
        """The regular report on where streams stand."""
        results = []
        for r in readings:
            open_alert = self._open.get((rule, *r.stream))
            state: EvidenceState = "insufficient_reference" if r.measurement is None else "alarm" if r.alarm else "ok"
            measurement = r.measurement or msgspec.structs.replace(_NOTHING, note=r.note)
            since = open_alert.since if open_alert and r.alarm else None
            by = detector or rule
            results.append(
                self._evidence("report", by, r.stream, at, revision, state, measurement, r.baseline_id, since)
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
        rule, stream = published(rule, stream)
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
