"""Running canaries of a partition: which requests belong to them, and the verdict of rollback.

Whoever can write an event can start canaries. So those judged at once are limited, of an app and of the partition; a
new one above takes the place of the one that has served nobody for the longest, if that is an hour at least, and is not
judged otherwise.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from driftline.detectors.base import State
from driftline.detectors.canary import ArmBatch, Canary, CanaryVerdict
from driftline.detectors.config import CanaryConfig
from driftline.detectors.units import NEVER
from driftline.schemas.events import MICROSECONDS, Release
from driftline.schemas.ids import stable_id
from driftline.schemas.results import RollbackSignal
from driftline.streams.monitor.columns import Bools, Integers, Scores, Traces, rows
from driftline.streams.monitor.config import LimitsConfig
from driftline.streams.monitor.names import ScoreSeries, TraceSeries
from driftline.streams.monitor.rollouts import Unproven

NANO = 1_000_000_000
_DEFAULTS = LimitsConfig()


@dataclass
class _Running:
    deployment_id: str
    app: str
    release: str
    stable: str
    share: float | None
    score: str  # the score that decides; "" until the first one arrives
    decided: bool
    served: int  # the end of the last tick with events of the canary; at first its start
    test: Canary


class Canaries:
    """`score`: the name of the score that decides on quality; empty: the first one to arrive during the canary."""

    def __init__(
        self, score: str, config: CanaryConfig, state: State | None = None, limits: LimitsConfig = _DEFAULTS
    ) -> None:
        state = state or {}
        self._score = score
        self._config = config
        self._limits = limits
        self._gives_way = round(config.units.forget_after_s * MICROSECONDS)  # all its sessions have ended by then
        self.over_limit: int = state.get("over_limit", 0)  # canaries not judged, or not to their end
        self._running: dict[tuple[str, str], _Running] = {  # two apps may name a deployment alike
            (r["app"], r["deployment_id"]): _Running(**{**r, "test": Canary.restored(config, r["test"])})
            for r in state.get("running", [])
        }
        self._unproven = Unproven(state.get("unproven", ()), limits)

    def snapshot(self) -> State:
        return {
            "running": [{**vars(r), "test": r.test.snapshot()} for _, r in sorted(self._running.items())],
            "unproven": self._unproven.snapshot(),
            "over_limit": self.over_limit,
        }

    def is_stable(self, app: str, release: str) -> bool:
        """Whether a release's traffic may serve as a reference: it is no canary, and none that was sent back."""
        return (app, release) not in self._unproven

    @property
    def sessions_forgotten(self) -> int:
        return sum(running.test.sessions_forgotten for running in self._running.values())

    @property
    def nbytes(self) -> int:
        """Of the snapshot, about."""
        return sum(running.test.nbytes for running in self._running.values())

    def shed(self, most: int) -> None:
        """Where what is remembered takes more bytes, the canary that has the most forgets half of its units."""
        while self._running and self.nbytes > most:
            _, largest = max(self._running.items(), key=lambda item: (item[1].test.nbytes, item[0]))
            before = largest.test.nbytes
            largest.test.forget_half()
            if largest.test.nbytes == before:
                return

    def release(self, event: Release) -> None:
        deployment = event.deployment_id or f"{event.app}/{event.release}"
        key = event.app, deployment
        running = self._running.get(key)
        if event.kind == "canary_start" and running is None:
            if self._has_room(event.app, event.ts):
                self._running[key] = _Running(
                    deployment, event.app, event.release, event.stable, event.share, self._score, False, event.ts,
                    Canary(self._config, event.ts),
                )  # fmt: skip
        elif event.kind == "canary_step" and running is not None:
            running.share = event.share
        elif event.kind == "canary_stop":
            self._running.pop(key, None)
        self._unproven.take(event)

    def _has_room(self, app: str, now: int) -> bool:
        """Whether one more of the app may run; made by giving up an idle one, if there is none."""
        mine = [running for running in self._running.values() if running.app == app]
        if len(mine) >= self._limits.canaries_of_app:
            return self._give_up(mine, now)
        if len(self._running) >= self._limits.canaries:
            return self._give_up(self._running.values(), now)
        return True

    def _give_up(self, candidates: Iterable[_Running], now: int) -> bool:
        self.over_limit += 1
        idle = min(candidates, key=lambda running: (running.served, running.app, running.deployment_id))
        if now - idle.served < self._gives_way:
            return False
        del self._running[idle.app, idle.deployment_id]
        return True

    @property
    def due(self) -> int:
        """When time alone changes the evidence on a canary."""
        return min((running.test.due for running in self._running.values() if not running.decided), default=NEVER)

    def step(
        self,
        traces: Traces,
        trace_names: Sequence[TraceSeries],
        scores: Scores,
        score_names: Sequence[ScoreSeries],
        now: int,
        revision: int,
    ) -> list[RollbackSignal]:
        """The events of the tick that ends at `now`."""
        if not self._running:
            return []
        signals = []
        of_traces, of_scores = _by_app(traces.series, trace_names), _by_app(scores.series, score_names)
        for _, running in sorted(self._running.items()):
            arms = (running.release, running.stable)
            of_arms = [n for n in of_traces.get(running.app, ()) if trace_names[n].release in arms]
            scored_arms = [n for n in of_scores.get(running.app, ()) if score_names[n].release in arms]
            if running.release in {trace_names[n].release for n in of_arms}:
                running.served = now
            if running.decided or not (of_arms or scored_arms or now >= running.test.due):
                continue
            mine = rows(traces, np.isin(traces.series, of_arms))
            scored = rows(scores, np.isin(scores.series, scored_arms))
            if len(scored.ts) and not running.score:
                running.score = score_names[scored.series[0]].name
            deciding = [n for n in scored_arms if score_names[n].name == running.score]
            scored = rows(scored, np.isin(scored.series, deciding))
            running.test.update(_batch(running, mine, trace_names, scored, score_names), now)
            verdict = running.test.verdict()
            if verdict.action == "rollback":
                running.decided = True
                signals.append(_signal(running, verdict, now, revision))
        return signals


def _by_app(series: Integers, names: Sequence[TraceSeries] | Sequence[ScoreSeries]) -> dict[str, list[int]]:
    """The numbers of the series that have events, by their apps."""
    numbers: dict[str, list[int]] = {}
    for number in np.unique(series).tolist():
        numbers.setdefault(names[number].app, []).append(number)
    return numbers


def _batch(
    running: _Running,
    traces: Traces,
    trace_names: Sequence[TraceSeries],
    scores: Scores,
    score_names: Sequence[ScoreSeries],
) -> ArmBatch:
    share = np.concatenate([traces.share, scores.share])
    if running.share is not None:
        share[np.isnan(share)] = running.share
    of_traces, of_scores = (np.full(len(columns.ts), np.nan) for columns in (traces, scores))
    return ArmBatch(
        unit=[*_units(traces), *_units(scores)],
        canary=np.concatenate(
            [_of_canary(running, traces.series, trace_names), _of_canary(running, scores.series, score_names)]
        ),
        share=share,
        values={
            "error": np.concatenate([traces.failed.astype(np.float64), of_scores]),
            "latency": np.concatenate([traces.latency, of_scores]),
            "cost": np.concatenate([np.where(traces.nanousd >= 0, traces.nanousd / NANO, np.nan), of_scores]),
            "quality": np.concatenate([of_traces, scores.value]),
        },
    )


def _of_canary(running: _Running, series: Integers, names: Sequence[TraceSeries] | Sequence[ScoreSeries]) -> Bools:
    numbers = [number for number in np.unique(series).tolist() if names[number].release == running.release]
    served: Bools = np.isin(series, numbers)
    return served


def _units(columns: Traces | Scores) -> list[str]:
    """The user, or else the session."""
    pairs = zip(columns.user.tolist(), columns.session.tolist(), strict=True)
    return [user or (f"{session:016x}" if session else "") for user, session in pairs]


def _signal(running: _Running, verdict: CanaryVerdict, now: int, revision: int) -> RollbackSignal:
    return RollbackSignal(
        id=stable_id("rollback", running.app, running.deployment_id),
        deployment_id=running.deployment_id,
        app=running.app,
        release=running.release,
        stable=running.stable,
        decided_at=now,
        revision=revision,
        reason=verdict.reason,
        log_e=verdict.log_e,
        weights=verdict.weights,
        log_e_total=verdict.log_e_total,
        threshold=verdict.threshold,
        alpha=verdict.alpha,
        counts=verdict.counts,
        effects=verdict.effects,
        share=running.share or 0.0,
    )
