"""Running canaries of a partition: which requests belong to them, and the verdict of rollback."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from driftline.detectors.base import State
from driftline.detectors.canary import ArmBatch, Canary, CanaryVerdict
from driftline.detectors.config import CanaryConfig
from driftline.detectors.units import NEVER
from driftline.schemas.events import Release
from driftline.schemas.ids import stable_id
from driftline.schemas.results import RollbackSignal
from driftline.streams.monitor.columns import Bools, Integers, Scores, Traces, rows
from driftline.streams.monitor.names import ScoreSeries, TraceSeries
from driftline.streams.monitor.rollouts import Unproven

NANO = 1_000_000_000


@dataclass
class _Running:
    deployment_id: str
    app: str
    release: str
    stable: str
    share: float | None
    score: str  # the score that decides; "" until the first one arrives
    decided: bool
    test: Canary


class Canaries:
    """`score`: the name of the score that decides on quality; empty: the first one to arrive during the canary."""

    def __init__(self, score: str, config: CanaryConfig, state: State | None = None) -> None:
        state = state or {}
        self._score = score
        self._config = config
        self._running: dict[str, _Running] = {
            r["deployment_id"]: _Running(**{**r, "test": Canary.restored(config, r["test"])})
            for r in state.get("running", [])
        }
        self._unproven = Unproven(state.get("unproven", ()))

    def snapshot(self) -> State:
        return {
            "running": [{**vars(r), "test": r.test.snapshot()} for _, r in sorted(self._running.items())],
            "unproven": self._unproven.snapshot(),
        }

    def is_stable(self, app: str, release: str) -> bool:
        """Whether a release's traffic may serve as a reference: it is no canary, and none that was sent back."""
        return (app, release) not in self._unproven

    @property
    def sessions_forgotten(self) -> int:
        return sum(running.test.sessions_forgotten for running in self._running.values())

    def release(self, event: Release) -> None:
        deployment = event.deployment_id or f"{event.app}/{event.release}"
        running = self._running.get(deployment)
        if event.kind == "canary_start" and running is None:
            self._running[deployment] = _Running(
                deployment, event.app, event.release, event.stable, event.share, self._score, False,
                Canary(self._config, event.ts),
            )  # fmt: skip
        elif event.kind == "canary_step" and running is not None:
            running.share = event.share
        elif event.kind == "canary_stop":
            self._running.pop(deployment, None)
        self._unproven.take(event)

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
        signals = []
        for _, running in sorted(self._running.items()):
            if running.decided:
                continue
            mine = rows(traces, _of_arms(running, traces.series, trace_names))
            scored = rows(scores, _of_arms(running, scores.series, score_names))
            if len(scored.ts) and not running.score:
                running.score = score_names[scored.series[0]].name
            deciding = np.array([name.name == running.score for name in score_names], np.bool_)
            scored = rows(scored, deciding[scored.series])
            running.test.update(_batch(running, mine, trace_names, scored, score_names), now)
            verdict = running.test.verdict()
            if verdict.action == "rollback":
                running.decided = True
                signals.append(_signal(running, verdict, now, revision))
        return signals


def _of_arms(running: _Running, series: Integers, names: Sequence[TraceSeries] | Sequence[ScoreSeries]) -> Bools:
    arms = (running.release, running.stable)
    member: Bools = np.array([name.app == running.app and name.release in arms for name in names], np.bool_)[series]
    return member


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
    served: Bools = np.array([name.release == running.release for name in names], np.bool_)[series]
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
