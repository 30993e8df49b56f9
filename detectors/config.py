"""Settings of the detectors, each default with its reason. Durations are seconds of event time."""

import math
from typing import Literal

from pydantic import Field, model_validator

from driftline.schemas.config import Config


class BudgetConfig(Config):
    """How many false alarms the whole installation may expect. Every stream gets an equal share of them, so `streams`
    is what the installation holds: apps x releases in traffic x detectors, over all partitions. A partition takes no
    more than that; an installation whose partitions together hold more expects as many more false alarms."""

    false_alarms: float = Field(default=1, gt=0)  # one a month is what people keep reading
    per_days: float = Field(default=30, gt=0, le=36_500)
    tick_s: float = Field(default=1, ge=0.001, le=3600)  # the detectors' step: the unit of delay, and of the budget
    streams: int = Field(default=1000, gt=0)  # some 50 releases in traffic; ten times as many cost 10 % more delay
    idle_s: float = Field(default=86_400, gt=0)  # a stream that was silent for so long gives its place to a new one

    @property
    def alpha(self) -> float:
        """Expected false alarms of one stream in one tick."""
        return self.false_alarms / (86_400 * self.per_days / self.tick_s) / self.streams

    @property
    def threshold(self) -> float:
        """ln(1/alpha): where the log of an e-detector alarms."""
        return -math.log(self.alpha)

    def part(self, share: float) -> "BudgetConfig":
        """The budget of one of several detectors that watch the same streams."""
        return self.model_copy(update={"false_alarms": self.false_alarms * share})

    def ticks(self, seconds: float) -> int:
        """The number of ticks that cover a duration."""
        return math.ceil(seconds / self.tick_s)


class UnitsConfig(Config):
    """What one unit of evidence is: a session, because events of one session are not independent."""

    max_events: int = Field(default=16, gt=0)  # longer sessions hold up the tick they belong to, and weigh too much
    close_after_s: float = Field(default=60, gt=0)  # bounds the delay of a session's mean
    forget_after_s: float = Field(
        default=3600, gt=0, le=86_400
    )  # after its last event; a later one begins a new session
    max_sessions: int = Field(default=200_000, ge=1)  # remembered at once; each is 8 bytes of its partition's state

    @model_validator(mode="after")
    def _ordered(self) -> "UnitsConfig":
        if self.forget_after_s < self.close_after_s:
            raise ValueError("forget_after_s is below close_after_s: an open session would be forgotten")
        return self


class RecoveryConfig(Config):
    """When an incident ends: the mirrored test (null: still bad) is convinced, or it has been open for too long."""

    e_close: float = Field(default=100, gt=1)  # evidence that it is over
    ratio: float = Field(default=1.5, gt=1)  # a rate counts as recovered at its limit divided by this
    min_open_s: float = Field(default=120, ge=0)  # no flapping
    max_open_s: float = Field(default=86_400, gt=0)  # then the stream re-arms, and alarms again if it is still bad

    @model_validator(mode="after")
    def _ordered(self) -> "RecoveryConfig":
        if self.max_open_s < self.min_open_s:
            raise ValueError("max_open_s is below min_open_s")
        return self


class ErrorRateConfig(Config):
    """Alarm: the error rate is above `p0`."""

    p0: float = Field(default=0.01, gt=0, lt=1)  # an absolute limit, so a reference with errors can't hide them
    min_units: int = Field(default=200, ge=1)  # for the rate shown beside it only: the limit needs no reference
    recovery: RecoveryConfig = RecoveryConfig()


class ExceedanceConfig(Config):
    """Alarm: the 99th percentile is above `factor` times that of the reference."""

    factor: float = Field(default=2.0, ge=1)
    min_units: int = Field(default=2000, ge=688)  # below 688 the 99th percentile has no 99.9 % upper bound
    recovery: RecoveryConfig = RecoveryConfig()


class QualityConfig(Config):
    """Alarm: the mean score is more than `allowed_drop` below the reference's."""

    low: float = 0.0  # the scores' range
    high: float = 1.0
    allowed_drop: float = Field(default=0.05, gt=0, lt=1)  # relative to the mean
    target_drop: float = Field(default=0.10, gt=0, lt=1)  # what the reference must be large enough to find
    min_units: int = Field(default=200, ge=2)  # below, the standard deviation itself is a guess
    bets: tuple[float, ...] = (
        0.02,
        0.05,
        0.1,
        0.2,
        0.35,
        0.5,
        0.7,
        0.9,
    )  # small drops win small bets, large ones large
    recovery: RecoveryConfig = RecoveryConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "QualityConfig":
        if self.high <= self.low:
            raise ValueError("high is not above low")
        if self.target_drop <= self.allowed_drop:
            raise ValueError("target_drop is not above allowed_drop: such a drop is allowed")
        if not self.bets or not all(0 < bet < 1 for bet in self.bets):
            raise ValueError("bets lie between 0 and 1")
        return self


class CategoriesConfig(Config):
    """Alarm: the share of a category has left that of the reference, or a category is new."""

    top: int = Field(default=20, ge=1, le=100)  # told apart; each costs a release 1 kB of state
    min_units: int = Field(default=2000, ge=200)  # bounds a share of 5 % to about 1.8 % on either side
    recovery: RecoveryConfig = RecoveryConfig()


class QueryTypeConfig(CategoriesConfig):
    top: int = Field(default=21, ge=1, le=100)  # all topics of a baseline of embeddings, and what is on none of them


class InvalidRateConfig(Config):
    """Alarm: more units lack a valid value than in the reference."""

    min_units: int = Field(default=2000, ge=200)  # without one invalid unit among them, up to 0.35 % may be
    floor: float = Field(default=1e-4, gt=0, lt=1)  # less is nobody's concern, however large the reference
    recovery: RecoveryConfig = RecoveryConfig()


class PitConfig(Config):
    """Alarm: the distribution has left that of the reference."""

    min_units: int = Field(default=5000, ge=500)  # finds 25 % more in 1,700 units; 2,000: in 3,200
    recovery: RecoveryConfig = RecoveryConfig()


class EmbeddingDriftConfig(Config):
    """Alarm: the mean direction of a window of texts has left that of the reference.

    Floors: with fewer sessions or units a window the null law is wrong by orders of magnitude at the level in use.

    The kernel `rff` sees changes that leave the mean direction where it is, for three to four times the work. Its
    2 x frequencies x bandwidths features cost state: while an app's component learns, 4 bytes times their square
    (4.2 MB at 1,024; twice that without session ids), then 0.2 MB a stream. All of a partition has to fit into 16 MiB:
    1,024 let one app at a time learn prompts and responses by sessions; half as many features, four apps. Alerts name
    no topics with it.
    """

    kernel: Literal["linear", "rff"] = "linear"  # finds new topics within 13 % as soon, at a third of the work
    frequencies: int = Field(default=512, ge=32, le=512)  # rff, of each bandwidth: the kernel within 0.03
    bandwidths: tuple[float, ...] = (1.0,)  # rff: times the median distance; one, since several share the features
    bandwidth_texts: int = Field(default=1000, ge=100, le=4000)  # rff: the first, for the median; 1.5 MB until then
    # rff: where there is a CUDA device, use it. Not of what baselines hang on, so left out where settings are written.
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", exclude=True)
    min_events: int = Field(default=20_000, ge=4_000)  # the spectrum, and windows of an eighth of it
    min_sessions: int = Field(default=500, ge=500)  # samples of the session covariance, and for splitting
    units_min: int = Field(default=64, ge=64)  # units a window, with thresholds by splitting
    units_split: int = Field(default=256, ge=128)  # from here on the least window's correction serves: it fades with n
    chains: int = Field(
        default=1000, ge=200, le=100_000
    )  # of splitting: seconds of work per baseline, and p within a factor of 3
    sample: int = Field(default=10_000, ge=1000)  # sessions kept by all references that learn: 4 MB at 384 dimensions
    units_unsplit: int = Field(default=128, ge=128)  # units a window without splitting: below, its mean is too lumpy
    units_safe: int = Field(default=512, ge=512)  # without splitting: below, alpha is divided by `small_divisor`
    small_divisor: float = Field(default=20, ge=20)  # measured excess of the tail at 128 units
    witness_share: float = Field(default=0.5, gt=0, lt=1)  # of the stream's budget is `embedding_witness`'s: run both
    max_window: int = Field(default=4096, ge=128)  # events; drift stays in the longest window for so long after its end
    block_events: int = Field(default=256, ge=256)  # without sessions: consecutive events whose sum is one sample
    min_blocks: int = Field(default=50, ge=50)  # without sessions: of such samples
    spectrum_blocks: int = Field(default=500, ge=500)  # of samples to trust their whole covariance
    recovery: RecoveryConfig = RecoveryConfig()

    @model_validator(mode="after")
    def _ordered(self) -> "EmbeddingDriftConfig":
        if self.units_split < 2 * self.units_min:
            raise ValueError("units_split is below twice units_min: no window might be split")
        return self

    @model_validator(mode="after")
    def _bounded(self) -> "EmbeddingDriftConfig":
        if not self.bandwidths or not all(0.01 <= factor <= 100 for factor in self.bandwidths):
            raise ValueError("bandwidths are one or more numbers between 0.01 and 100")
        if 2 * self.frequencies * len(self.bandwidths) > 1024:
            raise ValueError("2 x frequencies x bandwidths is over 1,024: references would not fit into the state")
        return self


class EmbeddingWitnessConfig(Config):
    """Alarm: the mean of sessions has left that of the reference, with a proven rate of false alarms."""

    min_units: int = Field(default=4000, ge=1000)  # sessions: a shift of 0.11 standard deviations is their own error
    half_life: float = Field(default=128, ge=8)  # units: of the mean that shows where texts go
    bets: tuple[float, ...] = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7)  # of the largest useful; small shifts win small bets
    max_open: int = Field(default=1024, ge=64)  # sessions whose mean is being formed: 1.5 kB each at 384 dimensions
    recovery: RecoveryConfig = RecoveryConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "EmbeddingWitnessConfig":
        if not self.bets or not all(0 < bet < 1 for bet in self.bets):
            raise ValueError("bets lie between 0 and 1")
        return self


class BreakerConfig(Config):
    """A control, outside the false-alarm budget: it reacts to a provider that fails now."""

    rate: float = Field(default=0.05, gt=0, lt=1)  # errors per request that a provider may have
    bucket_s: float = Field(default=5, ge=0.001, le=3600)
    buckets: int = Field(default=12, ge=1, le=1000)  # a minute: shorter failures are what retries are for
    min_requests: int = Field(default=20, ge=1)  # in the window
    min_bucket_requests: int = Field(default=5, ge=1)  # a bucket with fewer says nothing
    bad_share: float = Field(default=10 / 12, gt=0, le=1)  # of the telling buckets: "for the whole minute"
    min_telling: int = Field(default=6, ge=1)  # telling buckets; with fewer the window's rate must be certain
    lower_bound: float = Field(default=0.03, ge=0, lt=1)  # the rate is at least this with 95 % confidence
    e_open: float = Field(default=1e4, gt=1)  # opens at once: 50 % errors at 100 requests a second take one second
    open_s: float = Field(default=30, gt=0)
    backoff: float = Field(default=2, ge=1)  # longer pauses for a provider that failed its probes
    max_open_s: float = Field(default=600, gt=0)
    probe_share: float = Field(default=0.05, gt=0, le=1)  # of requests while half open
    e_close: float = Field(default=100, gt=1)  # 90 clean probes in a row at a rate of 5 %
    e_reopen: float = Field(default=100, gt=1)


class CanaryConfig(Config):
    """How a canary is judged against the stable release that serves beside it."""

    alpha_rollback: float = Field(default=0.05, gt=0, lt=1)  # probability of rolling back a canary that is not worse
    alpha_promote: float = Field(default=0.05, gt=0, lt=1)  # probability of promoting one that is worse by the margin
    srm_alpha: float = Field(default=0.001, gt=0, lt=1)  # traffic that is split otherwise than stated
    min_units: int = Field(default=500, ge=1)  # of the canary, before promotion
    min_s: float = Field(default=600, ge=0)  # before promotion: caches warm, judges answer
    max_s: float = Field(default=21_600, gt=0)  # then a human decides
    score_low: float = 0.0  # the scores' range
    score_high: float = 1.0
    weights: dict[str, float] = Field(  # shares of alpha_rollback: what users notice first weighs most
        default={
            "errors": 0.3,
            "latency": 0.2,
            "quality_mean": 0.15,
            "quality_pit": 0.15,
            "cost": 0.1,
            "guardrails": 0.1,
        }
    )
    ratio_margin: float = Field(default=1.5, gt=1)  # errors, guardrails: a promoted canary has at most this many times
    rank_tolerance: float = Field(default=0.05, ge=0, lt=0.5)  # latency, cost: slower by this mean rank is not harm
    rank_margin: float = Field(default=0.10, gt=0, lt=0.5)  # latency, cost: not promoted if worse by this mean rank
    quality_margin: float = Field(default=0.03, gt=0, lt=0.5)  # at most, and a tenth of the stable mean
    guard_rate: float = Field(default=0.2, gt=0, lt=1)  # of errors: certain and above stable's, rollback at once
    guard_requests: int = Field(default=20, ge=1)
    units: UnitsConfig = UnitsConfig(max_sessions=50_000)  # per metric

    @model_validator(mode="after")
    def _consistent(self) -> "CanaryConfig":
        if self.score_high <= self.score_low:
            raise ValueError("score_high is not above score_low")
        if unknown := set(self.weights) - set(METRICS):
            raise ValueError(f"unknown metrics in weights: {', '.join(sorted(unknown))}; known: {', '.join(METRICS)}")
        if any(weight <= 0 for weight in self.weights.values()) or not math.isclose(sum(self.weights.values()), 1):
            raise ValueError("weights are positive and sum to 1")
        if self.rank_margin <= self.rank_tolerance:
            raise ValueError("rank_margin is not above rank_tolerance: no canary could be both fine and promoted")
        return self


METRICS = ("errors", "latency", "quality_mean", "quality_pit", "cost", "guardrails")


class DetectorsConfig(Config):
    budget: BudgetConfig = BudgetConfig()
    units: UnitsConfig = UnitsConfig()
    error_rate: ErrorRateConfig = ErrorRateConfig()
    latency_p99: ExceedanceConfig = ExceedanceConfig()
    ttft_p99: ExceedanceConfig = ExceedanceConfig()
    cost_p99: ExceedanceConfig = ExceedanceConfig()
    quality: QualityConfig = QualityConfig()
    finish_reason: CategoriesConfig = CategoriesConfig()
    error_type: CategoriesConfig = CategoriesConfig()
    query_type: QueryTypeConfig = QueryTypeConfig()
    language: CategoriesConfig = CategoriesConfig()
    invalid_rate: InvalidRateConfig = InvalidRateConfig()
    quality_pit: PitConfig = PitConfig(min_units=1000)  # scores are fewer
    scalar_drift: PitConfig = PitConfig()
    judge_drift: PitConfig = PitConfig(min_units=500)  # five rounds of a golden set of 100
    embedding_drift: EmbeddingDriftConfig = EmbeddingDriftConfig()
    embedding_witness: EmbeddingWitnessConfig = EmbeddingWitnessConfig()
    breaker: BreakerConfig = BreakerConfig()
    canary: CanaryConfig = CanaryConfig()
