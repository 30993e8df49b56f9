"""What an alert says: what moved, by how much, since when, how often it is expected to be false, and what to do."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from driftline.detectors.base import Measurement
from driftline.detectors.config import BudgetConfig
from driftline.schemas.clock import utc
from driftline.schemas.ids import stable_id
from driftline.schemas.results import Alert, Severity
from driftline.streams.monitor.amounts import usd
from driftline.streams.monitor.scalars import published
from driftline.streams.monitor.watch import Stream


@dataclass(frozen=True)
class Rule:
    severity: Severity
    subject: str  # with {component}
    show: Callable[[float], str]
    action: str
    margin: float = 0.0  # of the effect: an alarm whose interval comes nearer to no change is only told as `info`


@dataclass(frozen=True)
class Wording:
    """The whole text of an alert."""

    severity: Severity
    summary: str
    description: str
    action: str
    false_alarms: str


def _percent(value: float) -> str:
    return f"{value:.1%}" if value >= 0.001 else f"{value:.2%}"


def _number(value: float) -> str:
    return f"{value:.3g}"


def _milliseconds(value: float) -> str:
    return f"{value:.3g} ms" if value < 1000 else f"{value / 1000:.3g} s"


def _relative(value: float) -> str:
    return f"{value:+.0%}" if abs(value) < 10 else f"x{1 + value:.0f}"


RULES: dict[str, Rule] = {
    "error_rate": Rule(
        "critical",
        "error rate",
        _percent,
        "Look at errors by type in driftline.windows; check the provider's status page; if one model fails, send its "
        "traffic to the fallback.",
    ),
    "latency_p99": Rule(
        "error",
        "share of slow answers (over twice the reference p99)",
        _percent,
        "Compare latency by model in driftline.windows; check the provider's status, prompt lengths and retries.",
    ),
    "ttft_p99": Rule(
        "error",
        "share of late first tokens (over twice the reference p99)",
        _percent,
        "Check the provider's status and queueing; streaming may be blocked by a proxy.",
    ),
    "cost_p99": Rule(
        "warning",
        "share of expensive requests (over twice the reference p99)",
        _percent,
        "See who spends: the contributors below, or driftline.traces by user_id; cap prompt length or rate for them.",
    ),
    "quality": Rule(
        "error",
        "mean {component} score",
        _number,
        "Read the lowest-scored answers since then in driftline.traces joined with driftline.scores; if a release or "
        "prompt changed, roll it back.",
    ),
    "quality_pit": Rule(
        "error",
        "{component} scores",
        _number,
        "Read the lowest-scored answers since then in driftline.traces joined with driftline.scores; if a release or "
        "prompt changed, roll it back.",
    ),
    "judge_drift": Rule(
        "warning",
        "{component} scores of fixed answers (golden set) against their first scores",
        _number,
        "The judge itself has changed, so alarms of quality on its scores are held back: look at the judge's model, "
        "prompt and rubric; when the change was meant, fit new baselines.",
    ),
    "latency_drift": Rule(
        "warning",
        "typical latency",
        _milliseconds,
        "Compare latency by model in driftline.windows, and with output_tokens_drift: longer answers take longer.",
        margin=0.1,
    ),
    "ttft_drift": Rule(
        "warning",
        "typical time to the first token",
        _milliseconds,
        "Check the provider's status and queueing, and prompt lengths.",
        margin=0.1,
    ),
    "input_tokens_drift": Rule(
        "info",
        "typical number of input tokens",
        _number,
        "Users, retrieval or the prompt have changed: compare driftline.traces by prompt_version before and after.",
    ),
    "output_tokens_drift": Rule(
        "info",
        "typical number of output tokens",
        _number,
        "Answers have changed in length: compare driftline.traces by prompt_version and model before and after.",
    ),
    "cost_drift": Rule(
        "warning",
        "typical cost of a request",
        usd,
        "See which of tokens, model and price moved: input_tokens_drift, output_tokens_drift, and driftline.windows by "
        "model.",
        margin=0.1,
    ),
    "finish_reason": Rule(
        "warning",
        "share of answers that finish with “{part}”",
        _percent,
        "Compare driftline.traces by finish_reasons before and after: “length” is cut off (raise the limit of output "
        "tokens, or look at prompts that grew), “content_filter” refused; a new reason may be a new model version.",
    ),
    "error_type": Rule(
        "warning",
        "share of requests with “{part}”",
        _percent,
        "Read the failed requests in driftline.traces by error_type, provider and model; a code that is new comes from "
        "a new version of the app, its SDK or the provider.",
    ),
    "query_type": Rule(
        "info",
        "share of sessions of the query type “{part}”",
        _percent,
        "Users ask for other things than they did: read the prompts below, and see that prompts, documents and "
        "evaluations cover them; when it is here to stay, fit a new baseline of embedding_drift.",
    ),
    "language": Rule(
        "warning",
        "share of sessions whose {component}s are in “{part}”",
        _percent,
        "Prompts: users come from elsewhere; see that prompts, documents and evaluations cover their language. "
        "Responses: compare driftline.traces by release, model and prompt_version before and after.",
    ),
    "invalid_rate": Rule(
        "warning",
        "share of requests without valid {component}",
        _percent,
        "Detectors no longer see these requests: look at the last release of the app and its SDK; read the requests "
        "without it in driftline.traces.",
    ),
    "embedding_drift": Rule(
        "warning",
        "distribution of {component}s",
        _number,
        "Read the texts below that carry the drift: new topics or languages may need a prompt, a model or evaluations.",
    ),
}


def false_alarms(budget: BudgetConfig) -> str:
    alarms = f"{budget.false_alarms:g} false alarm{'' if budget.false_alarms == 1 else 's'}"
    return f"at most {alarms} in {budget.per_days:g} days over an installation of {budget.streams:,} streams"


def wording(
    rule: str, stream: Stream, measurement: Measurement, since: int, budget: BudgetConfig, contributors: Sequence[str]
) -> Wording:
    """Of a detector's alert."""
    rule, stream = published(rule, stream)
    return Wording(
        severity=_severity(RULES[rule], measurement),
        summary=_summary(rule, stream, measurement, since),
        description=_description(rule, measurement, contributors),
        action=RULES[rule].action,
        false_alarms=false_alarms(budget)
        if measurement.guarantee == "stated"
        else f"not guaranteed ({measurement.guarantee})",
    )


def _severity(rule: Rule, m: Measurement) -> Severity:
    bounds = [bound for bound in (m.effect_low, m.effect_high) if bound is not None] or [m.effect or 0.0]
    large = min(bounds) >= rule.margin or max(bounds) <= -rule.margin
    return rule.severity if large or not rule.margin else "info"


def firing(
    *,
    rule: str,
    stream: Stream,
    episode: int,
    at: int,
    since: int,
    revision: int,
    measurement: Measurement,
    wording: Wording,
    contributors: Sequence[str],
    evidence_id: str,
) -> Alert:
    # By when it fired: numbers of episodes begin anew with a state, and an id that comes again is no news to anybody.
    alert_id = stable_id("alert", rule, *stream, at)
    return Alert(
        id=alert_id,
        dedup_key=alert_id,
        app=stream.app,
        release=stream.release,
        rule=rule,
        component=stream.component,
        state="firing",
        severity=wording.severity,
        episode=episode,
        ts=at,
        since=since,
        fired_at=at,
        resolved_at=None,
        revision=revision,
        summary=wording.summary,
        description=wording.description,
        action=wording.action,
        value=measurement.value,
        baseline=measurement.baseline,
        effect=measurement.effect,
        effect_low=measurement.effect_low,
        effect_high=measurement.effect_high,
        n_events=measurement.n_events,
        false_alarms=wording.false_alarms,
        contributors=list(contributors),
        labels={"app": stream.app, "release": stream.release, "rule": rule, "component": stream.component},
        evidence_id=evidence_id,
    )


def resolved(alert: Alert, at: int, revision: int, reason: str) -> Alert:
    """The end of the episode that `alert` began."""
    minutes = (at - alert.fired_at) / 60_000_000
    return Alert(
        **{
            **{name: getattr(alert, name) for name in alert.__struct_fields__},
            "state": "resolved",
            "ts": at,
            "resolved_at": at,
            "revision": revision,
            "description": f"Resolved after {minutes:.0f} min: {reason}. It was: {alert.summary}",
        }
    )


def clock_time(micros: int) -> str:
    return utc(micros).strftime("%Y-%m-%d %H:%M:%S UTC")


def where(stream: Stream) -> str:
    return f"{stream.app} {stream.release}".strip()


def _summary(rule: str, stream: Stream, m: Measurement, since: int) -> str:
    show = RULES[rule].show
    subject = RULES[rule].subject.format(component=stream.component or "overall", part=m.part)
    if rule == "embedding_drift":
        moved = "moved away from the reference"
    elif m.value is not None and m.baseline is not None:
        moved = f"{show(m.value)}, was {show(m.baseline)}"
    elif m.value is not None:
        moved = show(m.value)
    else:
        moved = "changed"
    return f"{where(stream)}: {subject} {moved}, since {clock_time(since)}"


def _description(rule: str, m: Measurement, contributors: Sequence[str]) -> str:
    parts = []
    if m.effect is not None and rule != "embedding_drift":
        interval = ""
        if m.effect_low is not None and m.effect_high is not None:
            interval = f" (95 % interval {_relative(m.effect_low)} to {_relative(m.effect_high)})"
        parts.append(f"Change against the reference: {_relative(m.effect)}{interval}.")
    if m.log_e is not None:
        parts.append(
            f"Evidence: log e = {m.log_e:.1f}, threshold {m.threshold:.1f}, "
            f"from {m.n_units} units ({m.n_events} events)."
        )
    elif m.log_p is not None:
        parts.append(f"Evidence: log p = {m.log_p:.1f}, threshold {m.threshold:.1f}, from {m.n_events} events.")
    if contributors:
        parts.append("Carried by: " + "; ".join(contributors) + ".")
    if m.note:
        parts.append(m.note)
    return " ".join(parts)
