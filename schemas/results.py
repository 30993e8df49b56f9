"""What the stream processors publish. Every result is a pure function of the log and has a deterministic id, so a
copy made after a crash is identical and every consumer may drop repeats: of two with one id, the higher `revision`
(the source offset up to which it was computed) wins.

Times are microseconds since the Unix epoch, UTC.
"""

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from driftline.schemas.baselines import Baseline as Baseline
from driftline.schemas.baselines import Guarantee as Guarantee
from driftline.schemas.columns import Count, Revision, Time, Unsigned32
from driftline.schemas.events import BaselineSet, Release, Tick
from driftline.schemas.topics import Topics

Severity: TypeAlias = Literal["critical", "error", "warning", "info"]


class Quantiles(msgspec.Struct, frozen=True, gc=False):
    """Quantiles within 1 % relative error (DDSketch), with the count and exact sum they summarise."""

    count: Count
    sum: float
    p50: float
    p95: float
    p99: float


class ScoreStats(msgspec.Struct, frozen=True, gc=False):
    count: Count
    mean: float


class WindowStats(msgspec.Struct, tag="window", tag_field="type", kw_only=True, gc=False):
    """One tumbling event-time window of one app x release x model."""

    id: str
    app: str
    release: str
    model: str
    start: Time
    size_s: Unsigned32
    revision: Revision
    requests: Count
    errors: Count
    errors_by_type: dict[str, Count]
    latency_ms: Quantiles | None  # None: no event of the window carried it
    ttft_ms: Quantiles | None
    input_tokens: Count
    output_tokens: Count
    cache_read_input_tokens: Count
    cost_usd: float | None  # None: not one request could be priced
    unpriced: Count  # requests without a cost: unknown model, or no token counts
    scores: dict[str, ScoreStats]
    late: Count  # events that corrected the window after it had closed


LeftOutReason: TypeAlias = Literal["too_late", "ahead_of_time", "incomplete"]


class LeftOut(msgspec.Struct, tag="left_out", tag_field="type", kw_only=True, gc=False):
    """Events that a tick found stored and in no window: they came after the allowed lateness, or with a time far ahead
    of the clock; or the monitor had no state, and their window began before the log does, so that it would be published
    with a part of its events (`incomplete`). Sums over ticks: per app and window start, distinct traces = requests of
    the windows + events here; an incomplete window may have been published whole before."""

    id: str
    app: str
    kind: Literal["trace", "score"]
    reason: LeftOutReason
    start: Time  # of the window they belong to
    size_s: Unsigned32
    tick: Time  # the tick that says so
    revision: Revision
    events: Count


EvidenceState: TypeAlias = Literal["ok", "alarm", "recovering", "insufficient_reference", "stale"]


class Evidence(msgspec.Struct, tag="evidence", tag_field="type", kw_only=True, gc=False):
    """What one detector knows of one stream at one moment. `log_e` against `threshold` decides; the effect and its
    interval say how much moved."""

    id: str
    app: str
    release: str
    detector: str  # such as error_rate, latency_p99, finish_reason, quality, embedding_drift
    component: str  # what of the stream: a score's name, "prompt" or "response", "" where there is one only
    ts: Time
    revision: Revision
    state: EvidenceState
    log_e: float | None  # natural log of the e-process; None for tests that are not e-processes
    log_p: float | None
    threshold: float  # of log_e (alarm at or above), of log_p (at or below), or of a rule's value (beyond)
    value: float | None  # the statistic now, in the stream's own unit
    baseline: float | None  # the same of the reference
    effect: float | None  # value relative to baseline: 0.1 is 10 % above
    effect_low: float | None
    effect_high: float | None
    n_events: Count
    n_units: Count
    n_not_scored: Count
    guarantee: Guarantee
    baseline_id: str
    since: Time | None  # when the change began, for alarms
    note: str = ""


class Alert(msgspec.Struct, tag="alert", tag_field="type", kw_only=True, gc=False):
    """One transition of one episode of one rule. All transitions of an episode share `id` and `dedup_key`."""

    id: str
    dedup_key: str
    app: str
    release: str
    rule: str
    component: str
    state: Literal["firing", "resolved"]
    severity: Severity
    episode: Count
    ts: Time  # of this transition
    since: Time  # when the change began
    fired_at: Time
    resolved_at: Time | None
    revision: Revision
    summary: str  # one line: what moved and by how much
    description: str
    action: str  # what to do
    value: float | None
    baseline: float | None
    effect: float | None
    effect_low: float | None
    effect_high: float | None
    n_events: Count
    false_alarms: str  # how often such an alert is expected without a cause
    contributors: list[str]
    labels: dict[str, str]
    evidence_id: str


class RollbackSignal(msgspec.Struct, tag="rollback", tag_field="type", kw_only=True, gc=False):
    """The verdict that a canary must go. A second one for the same deployment is the same decision."""

    id: str
    deployment_id: str
    app: str
    release: str  # the canary to take out of traffic
    stable: str  # the release to return to
    decided_at: Time
    revision: Revision
    reason: str
    log_e: dict[str, float]  # natural log of each metric's e-process for harm
    weights: dict[str, float]
    log_e_total: float
    threshold: float  # of log_e_total
    alpha: float  # the probability of rolling back a canary that is not worse
    counts: dict[str, Count]
    effects: dict[str, float]  # canary minus stable, per metric, in the metric's unit
    share: float


class BreakerSignal(msgspec.Struct, tag="breaker", tag_field="type", kw_only=True, gc=False):
    """A provider's circuit breaker changed state. Open: send nothing. Half open: send `probe_share`, to find out."""

    id: str
    app: str
    provider: str
    model: str
    state: Literal["open", "half_open", "closed"]
    at: Time
    revision: Revision
    reason: str
    probe_share: float
    requests: Count
    errors: Count


class Progress(msgspec.Struct, tag="progress", tag_field="type", kw_only=True, gc=False):
    """How far a role has come with one source partition. Everything up to `offset` has been absorbed, and its
    results are acknowledged by the broker, at latest at the offsets in `published`."""

    role: str
    topic: str
    partition: int
    offset: int
    watermark: int | None
    published: dict[str, int]  # topic -> offset of the last result written to this partition of it


class Embedding(msgspec.Struct, tag="embedding", tag_field="type", kw_only=True, gc=False):
    """Unit-length vectors of a sampled trace's texts: little-endian float16, `None` where there was no text."""

    app: str
    ts: int
    trace_id: str
    span_id: str
    conversation_id: str
    user_id: str
    environment: str
    release: str
    canary_share: float | None
    model: str  # the LLM
    embed_model: str
    prompt: bytes | None
    response: bytes | None
    excerpt: str  # the beginning of the prompt, for explanations
    prompt_language: str | None = None  # ISO 639; None: no text, undecided, or not asked for
    response_language: str | None = None

    def __post_init__(self) -> None:
        if any(vector and len(vector) % 2 for vector in (self.prompt, self.response)):
            raise ValueError("a vector of float16 numbers has an even number of bytes")

    @property
    def key(self) -> tuple[str, ...]:
        return self.trace_id, self.span_id


class DeadLetter(msgspec.Struct, tag="dead_letter", tag_field="type", kw_only=True, gc=False):
    """A record, or one element of a record's array, that could not be taken, with the reason and its raw bytes."""

    id: str
    topic: str
    partition: Unsigned32
    offset: Count
    index: Annotated[int, Meta(ge=-1, le=2**31 - 1)]  # within the record's array; -1: the whole record
    reason: str
    raw: bytes  # base64 in JSON; of several elements an array of them
    key: bytes | None = None
    count: Count = 1  # elements that it stands for: a record with very many has one letter for all after the first ones
    role: str = ""  # the role that goes on without it; empty: it could not be stored, and so is nowhere else
    until: Count = 0  # what retention deleted before the role had read it: the records from `offset` to before this one


Result: TypeAlias = WindowStats | LeftOut | Evidence | Alert | RollbackSignal | BreakerSignal | Baseline
RESULT_TYPES: tuple[type, ...] = (
    *(WindowStats, LeftOut, Evidence, Alert, RollbackSignal, BreakerSignal, Baseline),
    *(Progress, DeadLetter),
)
EmbeddingEvent: TypeAlias = Embedding | Release | Tick | BaselineSet


def result_types(topics: Topics) -> dict[str, Any]:
    """What `schemas.codec.decode` makes of the records of each topic of results."""
    return {
        topics.windows: WindowStats | LeftOut,
        topics.evidence: Evidence,
        topics.alerts: Alert,
        topics.rollbacks: RollbackSignal,
        topics.breakers: BreakerSignal,
        topics.baselines: Baseline,
        topics.dlq: DeadLetter,
    }
