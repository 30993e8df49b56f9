"""The support bot: turns planned requests into the events that it would emit, given what it knows of canary and
breakers. Deterministic: the same plan and the same signals at the same times give the same events, byte for byte."""

import math

from driftline.producers import BreakerState, CanaryConfig, CanaryRouter, Route
from driftline.schemas.events import Release, Trace
from driftline.schemas.ids import stable_id
from driftline.streams.demo.corpus import Corpus
from driftline.streams.demo.plan import Plan, Request, make_plan
from driftline.streams.demo.scenario import (
    CANARY,
    CANARY_SHARE,
    DEPLOYMENT,
    ERROR_RATE,
    FALLBACK,
    PRIMARY,
    STABLE,
    Scenario,
)

TTFT_SIGMA = 0.35  # of the logarithm
TOKEN_SIGMA = 0.25
TIMEOUT_SHARE = 0.4  # of the errors; the others are refusals by the server
TIMEOUT_MS = 30_000.0
REFUSAL_MS = 150.0


class SupportBot:
    """`step` is called with consecutive slices of event time, after the signals up to the slice's start were given to
    router and breakers. A canary starts and ends with a slice."""

    def __init__(
        self, scenario: Scenario, corpus: Corpus, seed: int, router: CanaryRouter, breakers: BreakerState
    ) -> None:
        self._scenario = scenario
        self._seed = seed
        self._router = router
        self._breakers = breakers
        self._routes: dict[str, Route] = {}
        self.plan: Plan = make_plan(scenario, corpus, seed)
        self.canary_ended_at: int | None = None
        self._canary_began = False

    def step(self, began: int, ended: int) -> list[Trace | Release]:
        """What completes in began <= ts < ended, in order."""
        self._routes = {}
        events: list[Trace | Release] = list(self._releases(began))
        breakers, primary = self._breakers, (PRIMARY.provider, PRIMARY.request_model)
        closed = breakers.state(*primary) == "closed"
        for request in self.plan.between(began, ended):
            trace_id = stable_id("demo", self._seed, request.number)
            events.append(self._trace(request, trace_id, closed or breakers.allows(*primary, trace_id)))
        return events

    def _trace(self, request: Request, trace_id: str, primary: bool) -> Trace:
        scenario, luck, ts = self._scenario, request.luck, request.ts
        route = self._routes.get(request.user_id) or self._route(request.user_id)
        model = PRIMARY if primary else FALLBACK
        trace = Trace(
            app=scenario.app,
            ts=ts,
            trace_id=trace_id,
            conversation_id=request.conversation_id,
            user_id=request.user_id,
            environment=scenario.environment,
            release=route.release,
            canary_share=route.canary_share,
            provider=model.provider,
            request_model=model.request_model,
            prompt_name="support",
            prompt_version=route.release,
            input_text=request.input_text,
            attributes={"tenant": request.tenant},
        )
        error_rate, slowness = (scenario.error_rate(ts), scenario.slowness(ts)) if primary else (ERROR_RATE, 1.0)
        if luck.failure < error_rate:
            trace.status = "error"
            timeout = luck.timeout < TIMEOUT_SHARE
            trace.error_type = "timeout" if timeout else "503"
            trace.latency_ms = TIMEOUT_MS if timeout else REFUSAL_MS * math.exp(TTFT_SIGMA * luck.ttft)
            return trace
        answer = request.misfit if route.is_canary else request.pair
        trace.response_model = model.response_model
        trace.output_text = answer.answer
        trace.input_tokens = request.input_tokens
        trace.output_tokens = answer.answer_tokens
        trace.ttft_ms = slowness * model.ttft_ms * math.exp(TTFT_SIGMA * luck.ttft)
        per_token = slowness * model.token_ms * math.exp(TOKEN_SIGMA * luck.speed)
        trace.latency_ms = trace.ttft_ms + per_token * answer.answer_tokens
        trace.stream = True
        trace.finish_reasons = ["stop"]
        return trace

    def _route(self, user_id: str) -> Route:
        route = self._routes[user_id] = self._router.route(user_id)
        return route

    def _releases(self, ts: int) -> list[Release]:
        scenario = self._scenario
        if ts == scenario.start:
            return [self._release(ts, "deploy", STABLE)]
        if not self._canary_began and ts >= scenario.bad_canary.began_at:
            self._canary_began = True
            self._router.update(canary_config(CANARY_SHARE))
            return [self._release(ts, "canary_start", CANARY)]
        if self._canary_began and self.canary_ended_at is None:
            rolled_back = self._router.route("anyone").canary_share is None
            if rolled_back or ts >= scenario.bad_canary.ended_at:
                self.canary_ended_at = ts
                self._router.stop(DEPLOYMENT)
                return [self._release(ts, "canary_stop", CANARY, "rolled_back" if rolled_back else "aborted")]
        return []

    def _release(self, ts: int, kind: str, release: str, outcome: str = "") -> Release:
        canary = kind != "deploy"
        return Release(
            app=self._scenario.app,
            ts=ts,
            id=stable_id("demo", self._seed, kind),
            kind=kind,  # type: ignore[arg-type]  # one of the literals, from the calls above
            release=release,
            stable=STABLE if canary else "",
            deployment_id=DEPLOYMENT if canary else "",
            share=CANARY_SHARE if kind == "canary_start" else None,
            outcome=outcome,  # type: ignore[arg-type]
            environment=self._scenario.environment,
            description="prompt v2: shorter answers" if canary else "prompt v1",
        )


def canary_config(share: float) -> CanaryConfig:
    return CanaryConfig(stable=STABLE, canary=CANARY, share=share, deployment_id=DEPLOYMENT)


def stable_only() -> CanaryConfig:
    return CanaryConfig(stable=STABLE)
