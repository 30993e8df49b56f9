"""What applications publish to the events topic: a tagged union of `trace`, `score` and `release`; and what Driftline
itself writes there, signed (`schemas/controls.py`): `tick`, `baseline_set` and `forwarded`.

A record's value is one JSON object or an array of them, keyed by the app. Names follow the OpenTelemetry GenAI
conventions with the `gen_ai.` prefix dropped and dots turned into underscores. Unknown fields are ignored, so a newer
producer can talk to an older pipeline; what is specific to an app belongs under `attributes`.

All times are integers: microseconds since the Unix epoch, UTC.
"""

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from driftline.schemas.baselines import Baseline

MICROSECONDS = 1_000_000
EARLIEST_TS = 1_577_836_800 * MICROSECONDS  # 2020-01-01: anything earlier is a unit mix-up, not an LLM call
LATEST_TS = 4_102_444_800 * MICROSECONDS  # 2100-01-01

Name: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]
Id: TypeAlias = Annotated[str, Meta(min_length=1, max_length=200)]
Ref: TypeAlias = Annotated[str, Meta(max_length=200)]
Timestamp: TypeAlias = Annotated[int, Meta(ge=EARLIEST_TS, le=LATEST_TS)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**40)]
Milliseconds: TypeAlias = Annotated[float, Meta(ge=0, le=1e9)]
Share: TypeAlias = Annotated[float, Meta(ge=0, le=1)]
Attribute: TypeAlias = str | int | float | bool | None
# An event with more is refused, and its dead letter has all of it: cutting would store what nobody sent.
Attributes: TypeAlias = Annotated[
    dict[Annotated[str, Meta(max_length=200)], Attribute],
    Meta(max_length=256, description="At most 256, of names of at most 200 characters. Values are of any length."),
]
FinishReasons: TypeAlias = Annotated[
    list[Ref], Meta(max_length=128, description="One for each choice; providers give at most 128.")
]


class Trace(msgspec.Struct, tag="trace", tag_field="type", kw_only=True, omit_defaults=True, gc=False):
    """One call of a model. `trace_id` and `span_id` together name it: the same pair sent again counts once."""

    app: Name
    ts: Timestamp  # event time: when the call completed
    trace_id: Id
    span_id: Ref = ""
    parent_span_id: Ref = ""
    conversation_id: Ref = ""  # the session: the unit of evidence in every detector
    user_id: Ref = ""
    environment: Ref = ""
    release: Ref = ""  # what served the request: a version of the service, prompt or model
    canary_share: Share | None = None  # probability with which this request was sent to the canary
    operation: Ref = "chat"
    provider: Ref = ""
    request_model: Ref = ""
    response_model: Ref = ""
    prompt_name: Ref = ""
    prompt_version: Ref = ""
    input_tokens: Count | None = None  # includes cached tokens
    output_tokens: Count | None = None  # includes reasoning tokens
    cache_read_input_tokens: Count | None = None
    cache_write_input_tokens: Count | None = None
    reasoning_output_tokens: Count | None = None
    latency_ms: Milliseconds | None = None
    ttft_ms: Milliseconds | None = None
    cost_usd: Annotated[float, Meta(ge=0, le=1e6)] | None = None  # as the app reports it; else priced from tokens
    stream: bool | None = None
    status: Literal["ok", "error"] = "ok"
    error_type: Ref = ""
    finish_reasons: FinishReasons = []
    input_text: str = ""
    output_text: str = ""
    attributes: Attributes = {}

    @property
    def key(self) -> tuple[str, ...]:
        return self.trace_id, self.span_id

    @property
    def model(self) -> str:
        return self.response_model or self.request_model


class Score(msgspec.Struct, tag="score", tag_field="type", kw_only=True, omit_defaults=True, gc=False):
    """A judge's score, an evaluator's result or a user's feedback on a trace. It repeats the trace's release,
    conversation and canary share, because scores are evaluated where they arrive, without a join."""

    app: Name
    ts: Timestamp  # the completion time of the scored call, or of the feedback
    id: Id
    trace_id: Id
    name: Name
    value: Annotated[float, Meta(ge=-1e9, le=1e9)]
    span_id: Ref = ""
    label: Ref = ""
    explanation: str = ""
    source: Literal["judge", "evaluator", "user"] = "judge"
    judge_model: Ref = ""
    rubric_version: Ref = ""
    conversation_id: Ref = ""
    user_id: Ref = ""
    environment: Ref = ""
    release: Ref = ""
    canary_share: Share | None = None
    model: Ref = ""
    attributes: Attributes = {}

    @property
    def key(self) -> tuple[str, ...]:
        return (self.id,)


class Release(msgspec.Struct, tag="release", tag_field="type", kw_only=True, omit_defaults=True, gc=False):
    """A change of what serves an app: a deployment, or a step in the life of a canary."""

    app: Name
    ts: Timestamp
    id: Id
    kind: Literal["deploy", "canary_start", "canary_step", "canary_stop"]
    release: Id  # the new release
    stable: Ref = ""  # the release it is compared with
    deployment_id: Ref = ""  # names one canary from start to stop
    share: Share | None = None  # of traffic that goes to the canary from now on
    outcome: Literal["", "promoted", "rolled_back", "aborted"] = ""  # of a canary_stop
    environment: Ref = ""
    description: str = ""
    attributes: Attributes = {}

    @property
    def key(self) -> tuple[str, ...]:
        return (self.id,)


CLOCK = "clock"  # source of ticks that say what time it is now; simulations and replays say what time they play


class Tick(msgspec.Struct, tag="tick", tag_field="type", kw_only=True, omit_defaults=True, gc=False):
    """Time as a record of the log: everything of this partition up to `ts` has been sent. Windows close and detectors
    step at ticks alone, so a replay of the log sees the same time as the first run. Written by Driftline."""

    ts: Timestamp
    source: Ref = ""
    signature: Ref = ""


class BaselineSet(msgspec.Struct, tag="baseline_set", tag_field="type", kw_only=True, omit_defaults=True, gc=False):
    """From `ts` on the detector holds the app's component against this baseline. A record of the log, so a replay
    changes baselines at the same place. Written by `driftline baseline fit`."""

    app: Name
    ts: Timestamp
    id: Id
    baseline: Baseline
    signature: Ref = ""

    @property
    def key(self) -> tuple[str, ...]:
        return (self.id,)


class Forwarded(msgspec.Struct, tag="forwarded", tag_field="type", kw_only=True, omit_defaults=True, gc=False):
    """Events of apps whose home is this partition, which came in another one: their producer keys otherwise, or not
    at all. Written by Driftline; the record that they came in stays what is archived."""

    partition: Annotated[int, Meta(ge=0)]  # where they came
    offset: Annotated[int, Meta(ge=0)]
    part: Annotated[int, Meta(ge=0)] = 0  # of one record's events for one home, those that do not fit into one
    events: list[Trace | Score | Release]
    signature: Ref = ""


Event: TypeAlias = Trace | Score | Release | Tick | BaselineSet
Logged: TypeAlias = Event | Forwarded  # all that stands on the events topic
EVENT_TYPES: tuple[type, ...] = (Trace, Score, Release, Tick, BaselineSet, Forwarded)
CONTROLS = (
    Tick,
    BaselineSet,
    Forwarded,
)  # what is said to Driftline, not about an app: neither stored as events nor counted
