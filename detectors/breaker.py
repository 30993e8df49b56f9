"""Circuit breakers per provider: stop sending to one that fails for a minute, probe it, return when it is well.

closed ─(failing)→ open ─(pause)→ half open ─(90 clean probes)→ closed
                    ↑                 └─(still failing: pause doubled)
                    └──────────────────┘
A control, outside the false-alarm budget: it counts every request, not first events of sessions. The caller leaves out
errors that are the client's own (4xx), and feeds one count per key and tick.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from driftline.detectors.base import Floats, State
from driftline.detectors.bernoulli import clopper_pearson, log_ratios, worse
from driftline.detectors.config import BreakerConfig
from driftline.detectors.units import NEVER
from driftline.schemas.events import MICROSECONDS

BreakerState: TypeAlias = Literal["closed", "open", "half_open"]


class BreakerKey(NamedTuple):
    app: str
    provider: str
    model: str


@dataclass(frozen=True)
class BreakerTransition:
    key: BreakerKey
    state: BreakerState  # the new one
    reason: str
    requests: int  # in the window, or of the probes, that decided
    errors: int
    probe_share: float


@dataclass
class _Breaker:
    state: BreakerState = "closed"
    last: int = 0  # tick of the last requests
    buckets: list[list[int]] = field(default_factory=list)  # [number, requests, errors], ascending
    e: list[float] = field(default_factory=list)  # that the rate is above the limit; per alternative
    log_clean: float = 0.0  # ln e that the rate is below the limit: clean probes in a row
    requests: int = 0  # of the probes
    errors: int = 0
    pause: int = 0  # of the last opening, microseconds
    until: int = 0


class Breakers:
    """All breakers of a partition. State is a function of the counts alone."""

    def __init__(self, config: BreakerConfig) -> None:
        self._config = config
        self._bad, self._good = log_ratios(config.rate, worse(config.rate))
        self._clean = -math.log1p(-config.rate)
        self._bucket = round(config.bucket_s * MICROSECONDS)
        self._window = self._bucket * config.buckets
        self._breakers: dict[BreakerKey, _Breaker] = {}

    def update(self, counts: Mapping[BreakerKey, tuple[int, int]], now: int) -> list[BreakerTransition]:
        """The (requests, errors) that the tick at `now` (microseconds) closes, of keys that had any. Call it with
        nothing at the first tick from `due` on, too: pauses end by time. Transitions are in order of key."""
        transitions = []
        waiting = {key for key, breaker in self._breakers.items() if breaker.state == "open"}
        for key in sorted(waiting | set(counts)):
            breaker = self._breakers.setdefault(key, _Breaker())
            requests, errors = counts.get(key, (0, 0))
            if breaker.state == "closed":
                changed = self._watch(breaker, requests, errors, now)
            elif breaker.state == "open":
                changed = self._wait(breaker, now)
            else:
                changed = self._probe(breaker, requests, errors, now)
            if changed:
                reason, n, k = changed
                transitions.append(BreakerTransition(key, breaker.state, reason, n, k, self._config.probe_share))
        self._forget(now)
        return transitions

    @property
    def due(self) -> int:
        """When the first pause ends."""
        return min((b.until for b in self._breakers.values() if b.state == "open"), default=NEVER)

    def state(self, key: BreakerKey) -> BreakerState:
        breaker = self._breakers.get(key)
        return breaker.state if breaker else "closed"

    def _watch(self, breaker: _Breaker, requests: int, errors: int, now: int) -> tuple[str, int, int] | None:
        config = self._config
        if now - breaker.last > self._window:
            breaker.e = []
        breaker.last = now
        number = now // self._bucket
        if not breaker.buckets or breaker.buckets[-1][0] != number:
            breaker.buckets.append([number, 0, 0])
        breaker.buckets[-1][1] += requests
        breaker.buckets[-1][2] += errors
        breaker.buckets = [bucket for bucket in breaker.buckets if bucket[0] > number - config.buckets]
        n, k = sum(bucket[1] for bucket in breaker.buckets), sum(bucket[2] for bucket in breaker.buckets)

        evidence = self._grow(breaker, requests, errors)
        seconds = f"{config.buckets * config.bucket_s:g} s"
        if evidence >= config.e_open:
            return self._open(breaker, now, f"failing now: {k} of the last {n} requests (e = {evidence:.3g})", n, k)
        if n < config.min_requests or k <= config.rate * n:
            return None
        lower, _ = clopper_pearson(k, n, 0.05)
        telling = [bucket for bucket in breaker.buckets if bucket[1] >= config.min_bucket_requests]
        if len(telling) < config.min_telling:
            failing = lower > config.rate
        else:
            bad = sum(bucket[2] > config.rate * bucket[1] for bucket in telling)
            failing = bad >= config.bad_share * len(telling) and lower > config.lower_bound
        if not failing:
            return None
        return self._open(breaker, now, f"{k} of {n} requests failed in {seconds}: over {config.rate:.0%}", n, k)

    def _wait(self, breaker: _Breaker, now: int) -> tuple[str, int, int] | None:
        if now < breaker.until:
            return None
        breaker.state = "half_open"
        breaker.e, breaker.log_clean, breaker.requests, breaker.errors = [], 0.0, 0, 0
        return f"probing after {breaker.pause / MICROSECONDS:g} s", 0, 0

    def _probe(self, breaker: _Breaker, requests: int, errors: int, now: int) -> tuple[str, int, int] | None:
        config = self._config
        breaker.requests += requests
        breaker.errors += errors
        n, k = breaker.requests, breaker.errors
        if self._grow(breaker, requests, errors) >= config.e_reopen:
            return self._open(breaker, now, f"still failing: {k} of {n} probes", n, k)
        # A failed probe has likelihood ratio 0 against "no errors": the row of clean probes starts again.
        breaker.log_clean = 0.0 if errors else breaker.log_clean + requests * self._clean
        if breaker.log_clean < math.log(config.e_close):
            return None
        self._reset(breaker)
        breaker.pause = 0
        return f"well again: {k} of {n} probes failed, none of the last", n, k

    def _grow(self, breaker: _Breaker, requests: int, errors: int) -> float:
        """The e-CUSUM that the rate is above the limit, which unlike the e-SR does not grow by silence."""
        e: Floats = np.maximum(breaker.e or [1.0] * len(self._bad), 1)
        e = e * np.exp(np.clip(errors * self._bad + (requests - errors) * self._good, -600, 600))
        breaker.e = e.tolist()
        return float(e.mean())

    def _open(self, breaker: _Breaker, now: int, reason: str, n: int, k: int) -> tuple[str, int, int]:
        config = self._config
        first, longest = round(config.open_s * MICROSECONDS), round(config.max_open_s * MICROSECONDS)
        pause = min(longest, round(breaker.pause * config.backoff) or first)
        self._reset(breaker)
        breaker.state, breaker.pause, breaker.until = "open", pause, now + pause
        return reason, n, k

    def _reset(self, breaker: _Breaker) -> None:
        """Closed, with nothing held against it but the length of its last pause."""
        vars(breaker).update(vars(_Breaker(pause=breaker.pause)))

    def _forget(self, now: int) -> None:
        """Drop closed breakers whose window has emptied: they are as good as new."""
        idle = [
            key
            for key, breaker in self._breakers.items()
            if breaker.state == "closed" and now - breaker.last > self._window
        ]
        for key in idle:
            del self._breakers[key]

    def snapshot(self) -> State:
        return {"breakers": [[list(key), asdict(breaker)] for key, breaker in self._breakers.items()]}

    def restore(self, state: State) -> None:
        def load(fields: dict[str, Any]) -> _Breaker:
            return _Breaker(**{**fields, "buckets": [list(bucket) for bucket in fields["buckets"]]})

        self._breakers = {BreakerKey(*key): load(fields) for key, fields in state["breakers"]}
