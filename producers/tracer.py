"""What an LLM application installs.

    tracer = Tracer(app="support-bot", brokers="kafka:9092", release="2026-11-02")

    with tracer.trace(provider="openai", model="gpt-4o-mini", user_id=user, input_text=question) as call:
        answer = client.ask(question)
        call.output_text = answer.text
        call.usage(input_tokens=answer.prompt_tokens, output_tokens=answer.completion_tokens)

`async with` does the same. Nothing here blocks the application, and no failure of telemetry reaches it: what could not
be sent is counted in `tracer.stats()`.
"""

import asyncio
import functools
import inspect
import logging
import math
import uuid
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypedDict, TypeVar, Unpack, cast

import msgspec

from driftline.producers.buffer import Stats
from driftline.producers.config import ProducerConfig
from driftline.producers.routing import Route
from driftline.producers.sender import Sender
from driftline.schemas.clock import Clock, SystemClock
from driftline.schemas.codec import decode_events, encode_event
from driftline.schemas.events import Attribute, Release, Score, Trace

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


class CallFields(TypedDict, total=False):
    """What is known of a call before it is made; the names are those of `Trace`."""

    provider: str
    operation: str
    conversation_id: str
    user_id: str
    parent_span_id: str
    release: str
    canary_share: float | None
    environment: str
    prompt_name: str
    prompt_version: str
    stream: bool
    attributes: dict[str, Attribute]


class Call:
    """One call of a model in progress. `event` is the Trace as it will be sent: set any field of it that has no
    method here, until the block ends, which sets `ts` and `latency_ms`."""

    __slots__ = ("_started", "_tracer", "event")

    def __init__(self, tracer: "Tracer", event: Trace) -> None:
        self._tracer = tracer
        self._started = 0.0
        self.event = event

    @property
    def input_text(self) -> str:
        return self.event.input_text

    @input_text.setter
    def input_text(self, text: str) -> None:
        self.event.input_text = text

    @property
    def output_text(self) -> str:
        return self.event.output_text

    @output_text.setter
    def output_text(self, text: str) -> None:
        self.event.output_text = text

    def usage(
        self,
        *,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cache_read_input_tokens: int | None = None,
        cache_write_input_tokens: int | None = None,
        reasoning_output_tokens: int | None = None,
        cost_usd: float | None = None,
    ) -> None:
        """As the provider reported it; input includes cached tokens, output includes reasoning tokens."""
        event = self.event
        event.input_tokens = input_tokens
        event.output_tokens = output_tokens
        event.cache_read_input_tokens = cache_read_input_tokens
        event.cache_write_input_tokens = cache_write_input_tokens
        event.reasoning_output_tokens = reasoning_output_tokens
        event.cost_usd = cost_usd

    def first_token(self) -> None:
        """The first token of a streamed answer is here; later calls change nothing."""
        if self.event.ttft_ms is None:
            self.event.ttft_ms = self._elapsed_ms()
            self.event.stream = True

    def _elapsed_ms(self) -> float:
        return max(0.0, (self._tracer.clock.monotonic() - self._started) * 1000)

    def __enter__(self) -> Self:
        self._started = self._tracer.clock.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        event = self.event
        event.latency_ms = self._elapsed_ms()
        event.ts = self._tracer.clock.now()
        if kind is not None:
            event.status = "error"
            event.error_type = kind.__name__
        self._tracer.emit(event)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, tb)


class Tracer:
    """Thread-safe; one per process and app. The thread and the connection start with the first event, also anew in a
    forked child. Settings are those of `ProducerConfig`; what is not given comes from `DRIFTLINE_*`.

    Raises ConfigError at construction, and nothing afterwards."""

    def __init__(self, app: str | None = None, *, clock: Clock | None = None, **settings: Any) -> None:
        if app is not None:
            settings["app"] = app
        self.config = ProducerConfig.load(**settings)
        self.clock: Clock = clock or SystemClock()
        self._sender = Sender(self.config)
        self._warned: set[str] = set()

    def trace(
        self,
        model: str = "",
        *,
        input_text: str = "",
        trace_id: str = "",
        route: Route | None = None,
        **fields: Unpack[CallFields],
    ) -> Call:
        """A context manager, sync and async, round one call of a model. `trace_id` names the request that the call is a
        part of, a new one if absent; `route` sets release and canary share."""
        config = self.config
        event = Trace(app=config.app, ts=0, trace_id=trace_id or uuid.uuid4().hex, input_text=input_text, **fields)
        event.span_id = uuid.uuid4().hex[:16]
        event.request_model = model
        if route is not None:
            event.release = route.release
            event.canary_share = route.canary_share
        event.release = event.release or config.release
        event.environment = event.environment or config.environment
        return Call(self, event)

    def observe(
        self,
        model: str = "",
        *,
        input_text: Callable[..., str] | None = None,
        record: Callable[[Call, Any], None] | None = None,
        **fields: Unpack[CallFields],
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorates a function, sync or async, that makes one call of a model. `input_text` gets the function's
        arguments; `record` gets the call and the function's result, to set output and usage. No other text is sent."""

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
                raise TypeError(f"{function.__qualname__} is a generator: use `with tracer.trace(...)` inside it")

            def start(*args: P.args, **kwargs: P.kwargs) -> Call:
                call = self.trace(model, **fields)
                if input_text is not None:
                    self._guarded(lambda: setattr(call, "input_text", input_text(*args, **kwargs)))
                return call

            def finish(call: Call, result: Any) -> None:
                if record is not None:
                    self._guarded(lambda: record(call, result))

            if inspect.iscoroutinefunction(function):

                @functools.wraps(function)
                async def async_wrapper(*args: P.args, **kwargs: P.kwargs) -> Any:
                    with start(*args, **kwargs) as call:
                        result = await function(*args, **kwargs)
                        finish(call, result)
                        return result

                return cast(Callable[P, R], async_wrapper)

            @functools.wraps(function)
            def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
                with start(*args, **kwargs) as call:
                    result = function(*args, **kwargs)
                    finish(call, result)
                    return result

            return wrapper

        return decorate

    def score(
        self,
        of: Call | Trace,
        name: str,
        value: float,
        *,
        label: str = "",
        explanation: str = "",
        source: Literal["judge", "evaluator", "user"] = "user",
        id: str = "",
        ts: int | None = None,
        attributes: dict[str, Attribute] | None = None,
    ) -> None:
        """Feedback on a call. Give an `id` to make a repeat of the same feedback count once."""
        trace = of.event if isinstance(of, Call) else of
        score = Score(
            app=trace.app,
            ts=self.clock.now() if ts is None else ts,
            id=id or uuid.uuid4().hex,
            trace_id=trace.trace_id,
            span_id=trace.span_id,
            name=name,
            value=value,
            label=label,
            explanation=explanation,
            source=source,
            conversation_id=trace.conversation_id,
            user_id=trace.user_id,
            environment=trace.environment,
            release=trace.release,
            canary_share=trace.canary_share,
            model=trace.model,
            attributes=attributes or {},
        )
        self.emit(score)

    def release(
        self,
        kind: Literal["deploy", "canary_start", "canary_step", "canary_stop"],
        release: str,
        *,
        stable: str = "",
        deployment_id: str = "",
        share: float | None = None,
        outcome: Literal["", "promoted", "rolled_back", "aborted"] = "",
        description: str = "",
        id: str = "",
    ) -> None:
        """A change of what serves the app. Give an `id` when several processes announce the same change."""
        marker = Release(
            app=self.config.app,
            ts=self.clock.now(),
            id=id or uuid.uuid4().hex,
            kind=kind,
            release=release,
            stable=stable,
            deployment_id=deployment_id,
            share=share,
            outcome=outcome,
            environment=self.config.environment,
            description=description,
        )
        self.emit(marker)

    def emit(self, event: Trace | Score | Release) -> None:
        """Send a ready event. Never blocks and never raises; the event is not changed and may be reused."""
        if not self.config.enabled:
            self._sender.drop("disabled")
            return
        try:
            encoded = self._encode(event)
        except (ValueError, TypeError, RecursionError) as error:  # what msgspec raises for what JSON cannot hold
            self._sender.drop("invalid")
            self._warn_once(f"a {type(event).__name__} was dropped: {error}")
            return
        if len(encoded) > self.config.max_event_bytes:
            self._sender.drop("too_large")
            self._warn_once(f"a {type(event).__name__} was dropped: larger than {self.config.max_event_bytes} bytes")
            return
        self._sender.send(event.app, encoded)

    def emit_many(self, events: Iterable[Trace | Score | Release]) -> None:
        for event in events:
            self.emit(event)

    def stats(self) -> Stats:
        """emitted = sent + dropped + pending, at any time."""
        return self._sender.stats()

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until everything emitted so far has been acknowledged or dropped; False when time ran out."""
        return self._sender.flush(timeout)

    async def aflush(self, timeout: float = 10.0) -> bool:
        return await asyncio.to_thread(self.flush, timeout)

    def close(self, timeout: float | None = None) -> bool:
        """Flush and stop; False when events were left undelivered. Happens by itself at the interpreter's exit, except
        where a process ends by `os._exit`, as children of `multiprocessing` do."""
        return self._sender.close(self.config.close_timeout_s if timeout is None else timeout)

    async def aclose(self, timeout: float | None = None) -> bool:
        return await asyncio.to_thread(self.close, timeout)

    def _encode(self, event: Trace | Score | Release) -> bytes:
        """Raises ValueError for what the pipeline would refuse, by the pipeline's own decoder."""
        event = self._within_limits(event)
        try:
            encoded = encode_event(event)
        except UnicodeEncodeError:  # half a surrogate pair, as models stream them now and then
            event = _repaired(event)
            encoded = encode_event(event)
        decoded = decode_events(encoded)
        if decoded.rejects:
            raise ValueError(decoded.rejects[0].reason)
        if b"null" in encoded:  # what JSON makes of NaN
            name = _not_finite(event)
            if name:
                raise ValueError(f"{name} is NaN or infinite: leave out what was not measured")
        return encoded

    def _within_limits(self, event: Trace | Score | Release) -> Trace | Score | Release:
        limit = self.config.max_text_chars
        if isinstance(event, Trace):
            if len(event.input_text) > limit or len(event.output_text) > limit:
                return msgspec.structs.replace(
                    event,
                    input_text=truncated(event.input_text, limit),
                    output_text=truncated(event.output_text, limit),
                )
        elif isinstance(event, Score) and len(event.explanation) > limit:
            return msgspec.structs.replace(event, explanation=truncated(event.explanation, limit))
        return event

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001  the application's extractor is telemetry too, and must not fail the call
            self._warn_once(f"a function given to observe() failed: {error!r}")

    def _warn_once(self, message: str) -> None:
        if message not in self._warned and len(self._warned) < 100:  # messages may quote values
            self._warned.add(message)
            logger.warning("%s (logged once)", message)


def truncated(text: str, limit: int) -> str:
    """The first `limit` characters, and a marker that says how many there were."""
    return text if len(text) <= limit else f"{text[:limit]}…[truncated, {len(text)} characters]"


def _repaired(event: Trace | Score | Release) -> Trace | Score | Release:
    texts = {
        name: value.encode(errors="replace").decode()
        for name, value in msgspec.structs.asdict(event).items()
        if isinstance(value, str)
    }
    return msgspec.structs.replace(event, **texts)


def _not_finite(event: Trace | Score | Release) -> str:
    for name, value in {**msgspec.structs.asdict(event), **event.attributes}.items():
        if isinstance(value, float) and not math.isfinite(value):
            return name
    return ""
