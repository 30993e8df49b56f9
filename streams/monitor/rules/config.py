"""Settings of what is judged by closed windows. All of it is off until it is written down."""

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from math import inf
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from driftline.schemas.config import Config
from driftline.schemas.results import Severity

Metric: TypeAlias = Literal[
    "error_rate",
    "latency_p50",
    "latency_p95",
    "latency_p99",
    "ttft_p50",
    "ttft_p95",
    "ttft_p99",
    "quality",
    "cost_usd_per_request",
    "cost_usd",
    "requests",
    "input_tokens",
    "output_tokens",
]
TOTALS: tuple[Metric, ...] = ("cost_usd", "requests", "input_tokens", "output_tokens")  # of a window, whatever is in it
CONDITIONS = ("above", "below", "times_baseline", "drop")

Name: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,100}$")]  # goes into ids and labels


def _levels(levels: tuple[float, ...]) -> tuple[float, ...]:
    if not levels or any(level <= 0 for level in levels) or list(levels) != sorted(set(levels)):
        raise ValueError("shares of the budget, positive and ascending")
    return levels


class RuleConfig(Config):
    """Alarm: `metric` meets the condition in every window for `for_s`. Exactly one condition: `above` and `below` are
    in the metric's unit, `times_baseline` and `drop` against what the app has been like (reference.py)."""

    name: Name
    app: str = "*"  # shell pattern
    release: str = "*"  # shell pattern
    per: Literal["release", "app"] = "release"  # judge each release by itself, or all that match together
    metric: Metric
    score: str = ""  # which score `quality` is the mean of
    above: float | None = Field(default=None, ge=-1e15, le=1e15)
    below: float | None = Field(default=None, ge=-1e15, le=1e15)
    times_baseline: float | None = Field(default=None, gt=1)  # above so many times the baseline
    drop: float | None = Field(default=None, gt=0, lt=1)  # below the baseline by this share of it
    for_s: float = Field(default=60, ge=0)  # rounded up to whole windows; one window at least
    clear: float | None = Field(
        default=None, ge=-1e15, le=1e15
    )  # ends at this value of the condition, milder than it; None: at the same
    clear_for_s: float = Field(default=120, ge=0)  # no flapping: as long as an incident of the detectors stays open
    min_requests: int | None = Field(default=None, ge=1)  # (or scores) a window with fewer says nothing; None: 20
    severity: Severity = "error"
    action: str = ""  # what to do; empty: the advice of the detector of the same metric

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        given = [name for name in CONDITIONS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"rule {self.name}: give one of {', '.join(CONDITIONS)}"
                + (f", not both {' and '.join(given)}" if given else "")
            )
        if (self.metric == "quality") != bool(self.score):
            raise ValueError(f"rule {self.name}: score says which score the metric quality is of: it needs one, alone")
        if self.metric in TOTALS and self.min_requests is not None:
            raise ValueError(f"rule {self.name}: min_requests does not go with {self.metric}, a total of its window")
        low, high, words = {
            "above": (-inf, self.limit, f"at most {self.limit:g}"),
            "below": (self.limit, inf, f"at least {self.limit:g}"),
            "times_baseline": (1, self.limit, f"1 to {self.limit:g}"),
            "drop": (0, self.limit, f"0 to {self.limit:g}"),
        }[self.condition]
        if self.clear is not None and not low <= self.clear <= high:
            raise ValueError(f"rule {self.name}: clear is not milder than {self.condition}: it must be {words}")
        return self

    @property
    def condition(self) -> str:
        if self.above is not None:
            return "above"
        if self.below is not None:
            return "below"
        return "drop" if self.times_baseline is None else "times_baseline"

    @property
    def limit(self) -> float:
        value: float = getattr(self, self.condition)
        return value

    @property
    def relative(self) -> bool:
        return self.times_baseline is not None or self.drop is not None

    @property
    def floor(self) -> int:
        """How many requests or scores a telling window has."""
        return 0 if self.metric in TOTALS else self.min_requests or 20


class SloConfig(Config):
    """An objective whose error budget must not burn too fast: `objective` of requests do not fail, or, with
    `latency_ms`, of those with a latency answer within it."""

    name: Name
    app: str = "*"  # shell pattern; each app that matches has a budget of its own
    objective: float = Field(gt=0, lt=1)
    latency_ms: float | None = Field(default=None, gt=0)  # within 1 %


class CostBudgetConfig(Config):
    """What an app may cost in a calendar month (UTC)."""

    name: Name
    app: str = "*"  # shell pattern; each app that matches has a budget of its own
    monthly_usd: float = Field(gt=0)
    levels: Annotated[tuple[float, ...], AfterValidator(_levels)] = (0.8, 1.0)  # of the budget, for the month's end
    clear: float = Field(default=0.95, gt=0, le=1)  # an alert ends below this share of its level: projections waver
    burn: bool = True  # also tell when money goes much faster than the budget allows


class CostSpikeConfig(Config):
    """Alarm: what an app spent in the last `span_s` is far above what is usual at this time of the day."""

    app: str = "*"  # shell pattern
    span_s: int = Field(default=900, ge=60)  # divides a day; a minute of spending is mostly noise
    z: float = Field(default=6, gt=0)  # robust standard deviations: days differ, and no guarantee is stated
    least_ratio: float = Field(default=1.5, gt=1)  # a certain change that nobody would act on is none
    clear_for_s: float = Field(default=600, ge=0)  # no flapping
    history_days: float = Field(default=7, gt=0, le=7)  # known before anything is said: a week, weekends included

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if 86_400 % self.span_s:
            raise ValueError(f"span_s = {self.span_s} does not divide a day")
        return self


def match(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern)


def refuse_repeated(key: str, names: Sequence[str]) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise ValueError(f"{key}: the name {repeated[0]!r} is taken: give each one its own")
