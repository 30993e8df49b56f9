"""The detectors by name."""

from collections.abc import Callable
from typing import Any

from driftline.detectors.base import Detector
from driftline.detectors.bernoulli import ErrorRate, Exceedance, InvalidRate
from driftline.detectors.bounded_mean import Quality
from driftline.detectors.categories import Categories
from driftline.detectors.config import DetectorsConfig
from driftline.detectors.pit import Pit
from driftline.detectors.tscan import EmbeddingDrift
from driftline.detectors.witness import EmbeddingWitness

AnyDetector = Detector[Any, Any]

FACTORIES: dict[str, Callable[[DetectorsConfig], AnyDetector]] = {
    "error_rate": lambda config: ErrorRate(config.error_rate, config.budget),
    "latency_p99": lambda config: Exceedance("latency_p99", config.latency_p99, config.budget),
    "ttft_p99": lambda config: Exceedance("ttft_p99", config.ttft_p99, config.budget),
    "cost_p99": lambda config: Exceedance("cost_p99", config.cost_p99, config.budget),
    "quality": lambda config: Quality(config.quality, config.budget),
    "finish_reason": lambda config: Categories("finish_reason", config.finish_reason, config.budget),
    "error_type": lambda config: Categories("error_type", config.error_type, config.budget),
    "query_type": lambda config: Categories("query_type", config.query_type, config.budget),
    "language": lambda config: Categories("language", config.language, config.budget),
    "invalid_rate": lambda config: InvalidRate(config.invalid_rate, config.budget),
    "quality_pit": lambda config: Pit(
        *("quality_pit", config.quality_pit, config.budget),
        scale="difference",
        low=config.quality.low,
        high=config.quality.high,
        falls=True,
    ),
    "scalar_drift": lambda config: Pit("scalar_drift", config.scalar_drift, config.budget, scale="ratio"),
    "judge_drift": lambda config: Pit(
        *("judge_drift", config.judge_drift, config.budget),
        scale="difference",
        low=config.quality.low - config.quality.high,
        high=config.quality.high - config.quality.low,
    ),
    "embedding_drift": lambda config: EmbeddingDrift(
        config.embedding_drift, config.budget.part(1 - config.embedding_drift.witness_share)
    ),
    "embedding_witness": lambda config: EmbeddingWitness(
        config.embedding_witness, config.budget.part(config.embedding_drift.witness_share)
    ),
}


def make(name: str, config: DetectorsConfig) -> AnyDetector:
    """ValueError names the known detectors."""
    if name not in FACTORIES:
        raise ValueError(f"unknown detector {name!r}; known: {', '.join(FACTORIES)}")
    return FACTORIES[name](config)
