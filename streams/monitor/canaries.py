"""Running canaries of a partition: which requests belong to them, and the verdict of rollback."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from driftline.detectors.base import State
from driftline.detectors.canary import ArmBatch, Canary, CanaryVerdict
from driftline.detectors.config import CanaryConfig
from driftline.schemas.events import Release, Score, Trace
from driftline.schemas.ids import stable_id
from driftline.schemas.results import RollbackSignal

_NAN = float("nan")


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
        self._unproven: set[tuple[str, str]] = {tuple(pair) for pair in state.get("unproven", [])}

    def snapshot(self) -> State:
        return {
            "running": [{**vars(r), "test": r.test.snapshot()} for _, r in sorted(self._running.items())],
            "unproven": sorted(map(list, self._unproven)),
        }

    def is_stable(self, app: str, release: str) -> bool:
        """Whether a release's traffic may serve as a reference: it is no canary, and none that was sent back."""
        return (app, release) not in self._unproven

    def release(self, event: Release) -> None:
        deployment = event.deployment_id or f"{event.app}/{event.release}"
        running = self._running.get(deployment)
        if event.kind == "canary_start" and running is None:
            self._running[deployment] = _Running(
                deployment, event.app, event.release, event.stable, event.share, self._score, False,
                Canary(self._config, event.ts),
            )  # fmt: skip
            self._unproven.add((event.app, event.release))
        elif event.kind == "canary_step" and running is not None:
            running.share = event.share
        elif event.kind == "canary_stop":
            self._running.pop(deployment, None)
        if event.kind == "deploy" or event.outcome == "promoted":
            self._unproven.discard((event.app, event.release))

    def step(self, traces: Sequence[Trace], scores: Sequence[Score], now: int, revision: int) -> list[RollbackSignal]:
        """The events of the tick that ends at `now`."""
        signals = []
        for _, running in sorted(self._running.items()):
            if running.decided:
                continue
            running.test.update(_batch(running, traces, scores), now)
            verdict = running.test.verdict()
            if verdict.action == "rollback":
                running.decided = True
                signals.append(_signal(running, verdict, now, revision))
        return signals


def _batch(running: _Running, traces: Sequence[Trace], scores: Sequence[Score]) -> ArmBatch:
    arms = (running.release, running.stable)
    mine = [t for t in traces if t.app == running.app and t.release in arms]
    scored = [s for s in scores if s.app == running.app and s.release in arms]
    if scored and not running.score:
        running.score = scored[0].name
    scored = [s for s in scored if s.name == running.score]
    events: list[Trace | Score] = [*mine, *scored]
    declared = _NAN if running.share is None else running.share
    missing = [_NAN] * len(scored)
    return ArmBatch(
        unit=[event.user_id or event.conversation_id for event in events],
        canary=np.array([event.release == running.release for event in events], dtype=np.bool_),
        share=_floats([declared if event.canary_share is None else event.canary_share for event in events]),
        values={
            "error": _floats([float(t.status == "error") for t in mine] + missing),
            "latency": _floats([_value(t.latency_ms) for t in mine] + missing),
            "cost": _floats([_value(t.cost_usd) for t in mine] + missing),
            "quality": _floats([_NAN] * len(mine) + [s.value for s in scored]),
        },
    )


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


def _value(value: float | None) -> float:
    return _NAN if value is None else value


def _floats(values: Sequence[float]) -> Any:
    return np.array(values, dtype=np.float64)
