"""The detectors by name."""

from collections.abc import Callable
from typing import Any

from driftline.detectors.base import Detector
from driftline.detectors.bernoulli import ErrorRate, Exceedance
from driftline.detectors.bounded_mean import Quality
from driftline.detectors.config import DetectorsConfig
from driftline.detectors.tscan import EmbeddingDrift

AnyDetector = Detector[Any, Any]

FACTORIES: dict[str, Callable[[DetectorsConfig], AnyDetector]] = {
    "error_rate": lambda config: ErrorRate(config.error_rate, config.budget),
    "latency_p99": lambda config: Exceedance("latency_p99", config.latency_p99, config.budget),
    "ttft_p99": lambda config: Exceedance("ttft_p99", config.ttft_p99, config.budget),
    "cost_p99": lambda config: Exceedance("cost_p99", config.cost_p99, config.budget),
    "quality": lambda config: Quality(config.quality, config.budget),
    "embedding_drift": lambda config: EmbeddingDrift(config.embedding_drift, config.budget),
}


def make(name: str, config: DetectorsConfig) -> AnyDetector:
    """ValueError names the known detectors."""
    if name not in FACTORIES:
        raise ValueError(f"unknown detector {name!r}; known: {', '.join(FACTORIES)}")
    return FACTORIES[name](config)
