"""Who gets the canary, and which provider may be asked: decisions that an application takes per request, from what it
was configured with and the signals it obeyed. Deterministic, so that a user stays where they were put."""

import threading
from typing import Annotated, NamedTuple

from pydantic import Field

from driftline.schemas.config import Config
from driftline.schemas.ids import unit_interval
from driftline.schemas.results import BreakerSignal, RollbackSignal


class CanaryConfig(Config):
    """What serves one app."""

    stable: Annotated[str, Field(min_length=1, max_length=200)]
    canary: Annotated[str, Field(max_length=200)] = ""
    share: Annotated[float, Field(ge=0, le=1)] = 0.0  # of users; none until a canary is named
    deployment_id: Annotated[str, Field(max_length=200)] = ""


class Route(NamedTuple):
    release: str
    canary_share: float | None  # None: no canary is running
    is_canary: bool


class CanaryRouter:
    """Routes one app's users. A user on the canary stays there when its share grows. Thread-safe."""

    def __init__(self, config: CanaryConfig) -> None:
        self._lock = threading.Lock()
        self._stopped: set[str] = set()
        self._config = config

    @property
    def config(self) -> CanaryConfig:
        return self._config

    def route(self, user_id: str) -> Route:
        config = self._config
        if not config.canary or config.deployment_id in self._stopped:
            return Route(config.stable, None, False)
        on_canary = unit_interval(config.deployment_id, user_id) < config.share
        return Route(config.canary if on_canary else config.stable, config.share, on_canary)

    def update(self, config: CanaryConfig) -> None:
        """A new deployment, or another share. A deployment that was stopped stays stopped."""
        with self._lock:
            self._config = config

    def stop(self, deployment_id: str) -> bool:
        """All users to stable. True: this deployment was running here. One that has not begun will not begin."""
        with self._lock:
            running = self._config.deployment_id == deployment_id and deployment_id not in self._stopped
            self._stopped = self._stopped | {deployment_id}
            return running and bool(self._config.canary)

    def obey(self, signal: RollbackSignal) -> bool:
        return self.stop(signal.deployment_id)


class BreakerState:
    """What is known of the circuit breakers of one app's providers. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latest: dict[tuple[str, str], BreakerSignal] = {}

    def obey(self, signal: BreakerSignal) -> bool:
        """True: it is news. An older signal than the one known changes nothing."""
        with self._lock:
            known = self._latest.get((signal.provider, signal.model))
            if known is not None and (known.at, known.revision) >= (signal.at, signal.revision):
                return False
            self._latest[signal.provider, signal.model] = signal
            return True

    def state(self, provider: str, model: str) -> str:
        signal = self._latest.get((provider, model))
        return signal.state if signal else "closed"

    def allows(self, provider: str, model: str, request_id: str) -> bool:
        """May this request go to the provider? If not, use the fallback. Half open, a share of requests may."""
        signal = self._latest.get((provider, model))
        if signal is None or signal.state == "closed":
            return True
        return signal.state == "half_open" and unit_interval(signal.id, request_id) < signal.probe_share
