from typing import Self

from pydantic import Field, model_validator

from driftline.schemas.config import Config
from driftline.streams.monitor.rules.config import (
    CostBudgetConfig,
    CostSpikeConfig,
    RuleConfig,
    SloConfig,
    refuse_repeated,
)


class WindowConfig(Config):
    size_s: int = Field(
        60, ge=1, le=86_400
    )  # a minute: the resolution of most dashboards, and enough requests for a p99
    grace_s: int = Field(
        5, ge=0, le=86_400
    )  # how far behind the tick a window closes: producers batch for up to a second
    lateness_s: int = Field(
        600, ge=0, le=30 * 86_400
    )  # how long a closed window still takes corrections: judges answer in minutes
    ahead_s: int = Field(
        3600, ge=1, le=30 * 86_400
    )  # an event further ahead of the tick than this is a wrong clock, and left out


class DedupConfig(Config):
    """A key is remembered while its event's window still takes events (size, grace and lateness); see RecentKeys."""

    horizon_s: int = Field(
        300, ge=1, le=30 * 86_400
    )  # and at least so long: producers retry for less (aiokafka 40 s, ours 120)
    max_keys: int = Field(1_000_000, ge=2, le=1_200_000)  # per partition: 1,500 events/s; 7 bytes each in its state


class LimitsConfig(Config):
    """How many names of a kind are known apart; what comes above counts under `(other)`. Ordinary installations are far
    below: the limits are there for whoever writes a request's id where a name belongs. A window with as many names as
    these fits its record ten times over, and a partition's state its record."""

    apps: int = Field(1000, ge=1, le=2000)  # of a partition; 2,000 is what is watched for silence
    releases: int = Field(50, ge=1)  # of an app: two deployments an hour for a whole day
    models: int = Field(50, ge=1)  # of an app: provider, requested and answering model
    scores: int = Field(50, ge=1, le=250)  # names, of an app: all in one window's record
    error_types: int = Field(50, ge=1, le=250)  # of an app: all in one window's record
    series: int = Field(2000, ge=1)  # of a partition: app x release x model, and error types of all apps
    canaries: int = Field(100, ge=1)  # judged at once in a partition: one in every tenth app
    canaries_of_app: int = Field(5, ge=1)  # of an app: teams that share it, and one that was forgotten
    # Of a partition's state, before compression; a record takes 16 MiB, and what follows is rather too much than too
    # little: when it is full nothing more is learned, and what began last begins anew later.
    state_bytes: int = Field(14 * 2**20, ge=2**18, le=15 * 2**20)
    idle_s: int = Field(86_400, ge=7200)  # a name gives its place away after a day without events: nights are shorter


class SilenceConfig(Config):
    """When an app that sends nothing is stale. False pages are worse than late ones."""

    factor: float = Field(10, ge=1)  # times the 99.9 % quantile of the time between requests
    least_s: float = Field(60, gt=0)  # at least; shorter gaps are a restart
    least_rhythm_s: float = Field(1800, gt=0)  # at least, for apps with nights: they don't open on the minute
    min_requests: int = Field(1000, ge=1000)  # with fewer there is no 99.9 % quantile
    forget_days: int = Field(7, ge=1, le=3650)  # a retired app's alert ends


class NewCodesConfig(Config):
    dedup_s: float = Field(86_400, gt=0)  # a code is said again after a day without it
    open_s: float = Field(600, gt=0)  # what was said is no state that could end; so its alert ends soon
    most: int = Field(200, ge=1)  # of an app in that time: with more, its codes have ids in them


class MonitorConfig(Config):
    windows: WindowConfig = WindowConfig()
    dedup: DedupConfig = DedupConfig()
    limits: LimitsConfig = LimitsConfig()
    evidence_s: int = Field(60, ge=1)  # each live stream's evidence is published this often, and at every change
    relearn_after_s: int = Field(86_400, ge=0)  # a promoted canary is held against the old baseline for a whole day
    golden_release: str = "golden"  # scores of this release are of fixed answers, and say whether the judge has changed
    quality_score: str = ""  # the score that decides on canaries; empty: the first one that arrives during the canary
    top_contributors: int = Field(5, ge=0)
    silence: SilenceConfig = SilenceConfig()
    new_codes: NewCodesConfig = NewCodesConfig()
    rules: tuple[RuleConfig, ...] = ()
    slo: tuple[SloConfig, ...] = ()
    cost_budget: tuple[CostBudgetConfig, ...] = ()
    cost_spike: CostSpikeConfig | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        refuse_repeated("rules", [rule.name for rule in self.rules])
        refuse_repeated("slo", [slo.name for slo in self.slo])
        refuse_repeated("cost_budget", [budget.name for budget in self.cost_budget])
        burning = ["slo"] * bool(self.slo) + ["cost_budget"] * any(budget.burn for budget in self.cost_budget)
        if burning and 300 % self.windows.size_s:
            raise ValueError(f"windows.size_s must divide 300: {burning[0]} looks at the last five minutes")
        if self.cost_spike is not None and self.cost_spike.span_s % self.windows.size_s:
            raise ValueError("windows.size_s must divide cost_spike.span_s")
        if self.limits.idle_s <= self.windows.ahead_s + self.windows.grace_s:
            raise ValueError("limits.idle_s must be above windows.ahead_s: events wait that long for their tick")
        return self
