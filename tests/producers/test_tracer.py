import asyncio
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from driftline.producers import Call, CanaryConfig, CanaryRouter, Tracer
from driftline.schemas.clock import ManualClock
from driftline.schemas.errors import ConfigError
from driftline.schemas.events import Release, Score, Trace
from tests.producers.conftest import FakeCluster

NOON = 1_793_620_800_000_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def tracer(cluster: FakeCluster, clock: ManualClock) -> Iterator[Tracer]:
    tracer = Tracer("support-bot", release="v1", environment="test", clock=clock, linger_ms=1)
    yield tracer
    tracer.close()


def only(cluster: FakeCluster, tracer: Tracer) -> Any:
    assert tracer.flush()
    (event,) = cluster.events()
    return event


def test_a_call_becomes_a_trace(tracer: Tracer, cluster: FakeCluster, clock: ManualClock) -> None:
    with tracer.trace(
        "gpt-4o-mini", provider="openai", conversation_id="c", user_id="u", input_text="why?", attributes={"tier": 2}
    ) as call:
        clock.advance(0.25)
        call.first_token()
        clock.advance(0.75)
        call.first_token()
        call.output_text = "because"
        call.usage(input_tokens=10, output_tokens=20, cache_read_input_tokens=4)
        call.event.response_model = "gpt-4o-mini-2024-07-18"
    trace = only(cluster, tracer)
    assert isinstance(trace, Trace)
    assert (trace.ts, trace.latency_ms, trace.ttft_ms) == (NOON + 1_000_000, 1000.0, 250.0)
    assert (trace.app, trace.release, trace.environment) == ("support-bot", "v1", "test")
    assert (trace.request_model, trace.model, trace.provider) == ("gpt-4o-mini", "gpt-4o-mini-2024-07-18", "openai")
    assert (trace.input_text, trace.output_text, trace.attributes) == ("why?", "because", {"tier": 2})
    assert (trace.input_tokens, trace.output_tokens, trace.cache_read_input_tokens) == (10, 20, 4)
    assert (trace.status, trace.error_type, trace.stream) == ("ok", "", True)
    assert len(trace.trace_id) == 32
    assert len(trace.span_id) == 16
    assert cluster.records[0][0] == b"support-bot"


def test_the_applications_exception_is_recorded_and_unchanged(tracer: Tracer, cluster: FakeCluster) -> None:
    class RateLimited(Exception):
        pass

    error = RateLimited("secret detail")
    with pytest.raises(RateLimited) as caught, tracer.trace("m"):
        raise error
    assert caught.value is error
    trace = only(cluster, tracer)
    assert (trace.status, trace.error_type) == ("error", "RateLimited")
    assert b"secret" not in cluster.records[0][1]


async def test_async_calls(tracer: Tracer, cluster: FakeCluster) -> None:
    async def ask(i: int) -> None:
        async with tracer.trace("m", trace_id="request") as call:
            await asyncio.sleep(0)
            call.output_text = str(i)

    await asyncio.gather(*(ask(i) for i in range(50)))
    assert await tracer.aflush()
    traces = [event for event in cluster.events() if isinstance(event, Trace)]
    assert sorted(int(trace.output_text) for trace in traces) == list(range(50))
    assert {trace.trace_id for trace in traces} == {"request"}
    assert len({trace.span_id for trace in traces}) == 50


async def test_cancellation_is_an_error_too(tracer: Tracer, cluster: FakeCluster) -> None:
    async def ask() -> None:
        async with tracer.trace("m"):
            await asyncio.Event().wait()

    task = asyncio.create_task(ask())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await tracer.aflush()
    (trace,) = cluster.events()
    assert isinstance(trace, Trace)
    assert trace.error_type == "CancelledError"


def answered(call: Call, result: str) -> None:
    call.output_text = result


def test_observe_a_function(tracer: Tracer, cluster: FakeCluster) -> None:
    @tracer.observe("m", input_text=lambda question, **_: question, record=answered, provider="p")
    def answer(question: str, *, shout: bool = False) -> str:
        """Doc."""
        return question.upper() if shout else question

    assert answer("a", shout=True) == "A"
    assert answer.__doc__ == "Doc."
    trace = only(cluster, tracer)
    assert (trace.input_text, trace.output_text, trace.provider) == ("a", "A", "p")


async def test_observe_a_coroutine(tracer: Tracer, cluster: FakeCluster) -> None:
    @tracer.observe("m", record=answered)
    async def answer() -> str:
        return "yes"

    assert asyncio.iscoroutinefunction(answer)
    assert await answer() == "yes"
    assert await tracer.aflush()
    (trace,) = cluster.events()
    assert isinstance(trace, Trace)
    assert trace.output_text == "yes"


def test_observe_survives_its_own_hooks(tracer: Tracer, cluster: FakeCluster) -> None:
    def broken(*_: object) -> Any:
        raise LookupError("oops")

    @tracer.observe("m", input_text=broken, record=broken)
    def answer() -> int:
        return 42

    assert answer() == 42
    assert only(cluster, tracer).status == "ok"


def test_observe_refuses_generators(tracer: Tracer) -> None:
    with pytest.raises(TypeError, match="generator"):

        @tracer.observe("m")
        def answer() -> Iterator[str]:
            yield "a"


def test_score_copies_what_detectors_need(tracer: Tracer, cluster: FakeCluster) -> None:
    router = CanaryRouter(CanaryConfig(stable="v1", canary="v2", share=1.0, deployment_id="d"))
    with tracer.trace("m", route=router.route("u"), conversation_id="c", user_id="u") as call:
        pass
    tracer.score(call, "thumbs", 1, label="up", id="feedback-1")
    assert tracer.flush()
    trace, score = cluster.events()
    assert isinstance(trace, Trace)
    assert isinstance(score, Score)
    assert (score.trace_id, score.span_id) == (trace.trace_id, trace.span_id)
    assert (score.release, score.canary_share, score.conversation_id, score.model) == ("v2", 1.0, "c", "m")
    assert (score.id, score.value, score.label, score.source) == ("feedback-1", 1.0, "up", "user")


def test_release_marker(tracer: Tracer, cluster: FakeCluster) -> None:
    tracer.release("canary_start", "v2", stable="v1", deployment_id="d", share=0.1)
    marker = only(cluster, tracer)
    assert isinstance(marker, Release)
    assert (marker.kind, marker.release, marker.stable, marker.share, marker.ts) == (
        "canary_start",
        "v2",
        "v1",
        0.1,
        NOON,
    )


def trace(**fields: Any) -> Trace:
    return Trace(**{"app": "support-bot", "ts": NOON, "trace_id": "t", **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"latency_ms": math.nan},
        {"latency_ms": -1.0},
        {"attributes": {"x": math.inf}},
        {"trace_id": ""},
        {"user_id": "u" * 201},
        {"input_tokens": -1},
        {"ts": 1_793_620_800},
        {"input_tokens": 2**80},
        {"attributes": {"x": object()}},
    ],
)
def test_what_the_pipeline_would_refuse_is_dropped_counted_and_logged_once(
    fields: dict[str, Any], tracer: Tracer, cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "driftline"):
        tracer.emit(trace(**fields))
        tracer.emit(trace(**fields))
    tracer.emit(trace(trace_id="good", input_text="null", attributes={"nothing": None}))
    assert only(cluster, tracer).trace_id == "good"
    assert tracer.stats().dropped == {"invalid": 2}
    assert len(caplog.records) == 1


def test_half_surrogates_are_repaired(tracer: Tracer, cluster: FakeCluster) -> None:
    tracer.emit(trace(output_text="smile \ud83d"))
    assert only(cluster, tracer).output_text == "smile ?"


def test_long_texts_are_cut_visibly(cluster: FakeCluster) -> None:
    tracer = Tracer("support-bot", max_text_chars=10)
    event = trace(input_text="x" * 5_242_880, output_text="y" * 10)
    tracer.emit(event)
    sent = only(cluster, tracer)
    assert sent.input_text == "x" * 10 + "…[truncated, 5242880 characters]"
    assert sent.output_text == "y" * 10
    assert len(event.input_text) == 5_242_880
    tracer.close()


def test_too_large(cluster: FakeCluster) -> None:
    tracer = Tracer("support-bot", max_event_bytes=1000)
    tracer.emit(trace(attributes={"blob": "x" * 1000}))
    assert tracer.stats().dropped == {"too_large": 1}


def test_disabled_contacts_nobody(cluster: FakeCluster) -> None:
    tracer = Tracer("support-bot", enabled=False)
    tracer.emit(trace())
    assert tracer.close()
    assert cluster.producers == 0
    assert tracer.stats().dropped == {"disabled": 1}


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLINE_APP", "from-environment")
    monkeypatch.setenv("DRIFTLINE_BROKERS", "kafka:9092")
    monkeypatch.setenv("DRIFTLINE_LINGER_MS", "7")
    monkeypatch.setenv("DRIFTLINE_RELEASE", "ignored")
    config = Tracer(release="given").config
    assert (config.app, config.brokers, config.linger_ms, config.release) == (
        "from-environment",
        "kafka:9092",
        7,
        "given",
    )


@pytest.mark.parametrize(
    ("settings", "named"),
    [({}, "app"), ({"app": "a", "linger_ms": -1}, "linger_ms"), ({"app": "a", "brokers": "kafka"}, "brokers")],
)
def test_a_bad_setting_is_named(settings: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRIFTLINE_APP", raising=False)
    with pytest.raises(ConfigError, match=f"{named} or DRIFTLINE_{named.upper()}"):
        Tracer(**settings)


def test_threads_share_a_tracer(tracer: Tracer, cluster: FakeCluster, until: Callable[..., None]) -> None:
    async def hammer() -> None:
        await asyncio.gather(
            *(asyncio.to_thread(tracer.emit_many, [trace(trace_id=f"{i}-{j}") for j in range(200)]) for i in range(8))
        )

    asyncio.run(hammer())
    assert tracer.flush()
    traces = [event.trace_id for event in cluster.events() if isinstance(event, Trace)]
    assert len(set(traces)) == len(traces) == 1600
    for i in range(8):  # what one thread emitted stays in its order
        mine = [int(name.split("-")[1]) for name in traces if name.startswith(f"{i}-")]
        assert mine == list(range(200))
