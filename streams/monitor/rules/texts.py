"""What the alerts of rules over windows say."""

from collections.abc import Callable, Mapping, Sequence

from driftline.detectors.base import Measurement
from driftline.detectors.burn import P_MAX, Burn, Pair
from driftline.streams.monitor.alerts import RULES, Wording, clock_time, where
from driftline.streams.monitor.amounts import usd
from driftline.streams.monitor.rules.config import CostBudgetConfig, CostSpikeConfig, Metric, RuleConfig, SloConfig
from driftline.streams.monitor.watch import Stream

LIKE: Mapping[Metric, str] = {  # the detector that looks at the same
    "error_rate": "error_rate",
    "latency_p50": "latency_p99",
    "latency_p95": "latency_p99",
    "latency_p99": "latency_p99",
    "ttft_p50": "ttft_p99",
    "ttft_p95": "ttft_p99",
    "ttft_p99": "ttft_p99",
    "quality": "quality",
    "cost_usd": "cost_p99",
    "cost_usd_per_request": "cost_p99",
}
_VOLUME = (
    "See which release and users the traffic is of in driftline.traces; check the callers, and whether events arrive."
)
_SPENDING = (
    "See who spends in driftline.traces, by user_id, release and response_model; cap prompt length or rate for them, "
    "or move traffic to a cheaper model."
)


def _ms(value: float) -> str:
    return f"{value:,.0f} ms"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def percent(value: float) -> str:
    return f"{value:.1%}" if value >= 0.001 else f"{value:.2%}"


def _number(value: float) -> str:
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= unit and seconds % unit == 0:
            return f"{seconds / unit:g} {name}"
    return f"{seconds:g} s"


def _subject(rule: RuleConfig) -> tuple[str, Callable[[float], str]]:
    metric = rule.metric
    if metric == "quality":
        return f"mean {rule.score} score", _number
    if metric.startswith("cost"):
        return "cost per request" if metric.endswith("request") else "cost", usd
    if metric.startswith(("latency", "ttft")):
        name, _, quantile = metric.partition("_")
        return f"{'latency' if name == 'latency' else 'time to first token'} {quantile}", _ms
    if metric == "error_rate":
        return "error rate", percent
    return metric.replace("_", " "), _count


def condition(rule: RuleConfig) -> str:
    """In words."""
    show = _subject(rule)[1]
    words = {
        "above": lambda: f"above {show(rule.limit)}",
        "below": lambda: f"below {show(rule.limit)}",
        "times_baseline": lambda: f"above {rule.limit:g} times the usual",
        "drop": lambda: f"more than {percent(rule.limit)} below the usual",
    }
    return f"{words[rule.condition]()} for {duration(rule.for_s)}"


def threshold(
    rule: RuleConfig, stream: Stream, m: Measurement, since: int, size_s: int, contributors: Sequence[str]
) -> Wording:
    subject, show = _subject(rule)
    value = m.value if m.value is not None else 0.0
    was = f", usually {show(m.baseline)}" if m.baseline is not None else ""
    each = f" in {duration(size_s)}" if rule.metric in ("cost_usd", "requests", "input_tokens", "output_tokens") else ""
    of = f" ({_count(m.n_events)} {'scores' if rule.metric == 'quality' else 'requests'})" if m.n_events else ""
    parts = [f"The last window had {show(value)}{of}; the limit is {show(m.threshold)}."]
    if contributors:
        parts.append("Carried by: " + "; ".join(contributors) + ".")
    return Wording(
        severity=rule.severity,
        summary=f"{where(stream)}: {subject} {show(value)}{each}{was} ({condition(rule)}), since {clock_time(since)}",
        description=" ".join(parts),
        action=rule.action or (RULES[like].action if (like := LIKE.get(rule.metric)) else _VOLUME),
        false_alarms="a threshold rule: no false-alarm rate is stated",
    )


def burning(pair: Pair, long: Burn, short: Burn) -> str:
    rates = [f"{burn.rate:.3g}" if burn.rate is not None else "nothing" for burn in (long, short)]
    spans = [duration(seconds) for seconds in (pair.long_s, pair.short_s)]
    return f"burn {rates[0]} in {spans[0]}, {rates[1]} in {spans[1]}; alarm above {pair.factor:g} in both"


def slo_burn(slo: SloConfig, pair: Pair, app: str, long: Burn, short: Burn, since: int) -> Wording:
    budget = 1 - slo.objective
    bad = "failed" if slo.latency_ms is None else f"took over {_ms(slo.latency_ms)}"
    detector = "error_rate" if slo.latency_ms is None else "latency_p99"
    left = 30 * 86_400 / (long.rate or 1)
    return Wording(
        severity="critical" if pair.page else "warning",
        summary=(
            f"{app}: {percent(long.spent / long.total)} of requests {bad} in {duration(pair.long_s)}, "
            f"{long.rate or 0:.1f} times what {slo.name} allows ({percent(budget)}), since {clock_time(since)}"
        ),
        description=(
            f"{long.spent:,} of {long.total:,} requests in {duration(pair.long_s)}, "
            f"{short.spent:,} of {short.total:,} in {duration(pair.short_s)}: "
            f"in both, over {pair.factor:g} times the budget. At this rate a budget for 30 days lasts {_lasts(left)}."
        ),
        action=RULES[detector].action,
        false_alarms=(
            f"no rate is stated; requests that fail by chance at the allowed rate reach this in fewer than one window "
            f"of {1 / P_MAX:,.0f}"
        ),
    )


def _lasts(seconds: float) -> str:
    return f"{seconds / 86_400:.1f} d" if seconds >= 86_400 else f"{seconds / 3_600:.1f} h"


def cost_burn(budget: CostBudgetConfig, pair: Pair, app: str, long: Burn, since: int, why: str) -> Wording:
    return Wording(
        severity="error" if pair.page else "warning",
        summary=(
            f"{app}: {usd(long.spent / 1e9)} in {duration(pair.long_s)}, {long.rate or 0:.1f} times what the budget "
            f"{budget.name} of {usd(budget.monthly_usd)} a month allows, since {clock_time(since)}"
        ),
        description=_sentences(
            f"The last {duration(pair.long_s)} and the last {duration(pair.short_s)} cost more than {pair.factor:g} "
            "times their share of the month's budget.",
            why,
        ),
        action=_SPENDING,
        false_alarms=_MONEY,
    )


def cost_budget(
    budget: CostBudgetConfig, level: float, app: str, spent: float, projected: float | None, unpriced: int, why: str
) -> Wording:
    whole = usd(budget.monthly_usd)
    if spent >= level * budget.monthly_usd:
        moved = f"{usd(spent)} spent this month, {spent / budget.monthly_usd:.0%} of the budget {budget.name} ({whole})"
    else:
        moved = (
            f"the month will end at {usd(projected or 0)}, {(projected or 0) / budget.monthly_usd:.0%} of the budget "
            f"{budget.name} ({whole}), if spending goes on as lately"
        )
    return Wording(
        severity="error" if level >= 1 else "warning",
        summary=f"{app}: {moved}",
        description=_sentences(
            f"{usd(spent)} spent since the month began (UTC).",
            f"{unpriced:,} requests without a known price are not in it." if unpriced else "",
            f"At the rate of the last seven days the month ends at {usd(projected)}." if projected is not None else "",
            why,
        ),
        action=_SPENDING,
        false_alarms=_MONEY,
    )


def cost_spike(config: CostSpikeConfig, app: str, m: Measurement, since: int, why: str) -> Wording:
    value, usual = m.value or 0.0, m.baseline or 0.0
    return Wording(
        severity="warning",
        summary=(
            f"{app}: {usd(value)} in {duration(config.span_s)}, usually {usd(usual)} at this time of the day "
            f"({(m.effect or 0) + 1:.1f} times), since {clock_time(since)}"
        ),
        description=_sentences(
            f"Above {usd(m.threshold)}: {config.z:g} robust standard deviations of this app's spending at this time of "
            f"the day, and {config.least_ratio:g} times the usual.",
            why,
        ),
        action=_SPENDING,
        false_alarms=_MONEY,
    )


_MONEY = "a rule on money: no false-alarm rate is stated"


def _sentences(*parts: str) -> str:
    return " ".join(part for part in parts if part)
