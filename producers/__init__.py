"""What an LLM application installs: a tracer for its calls, and the signals that come back."""

from driftline.producers.buffer import Stats
from driftline.producers.config import ProducerConfig
from driftline.producers.listener import SignalListener
from driftline.producers.routing import BreakerState, CanaryConfig, CanaryRouter, Route
from driftline.producers.tracer import Call, Tracer

__all__ = [
    "BreakerState",
    "Call",
    "CanaryConfig",
    "CanaryRouter",
    "ProducerConfig",
    "Route",
    "SignalListener",
    "Stats",
    "Tracer",
]
