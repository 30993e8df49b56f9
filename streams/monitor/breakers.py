"""Circuit breakers per app, provider and model, fed with every request."""

from collections.abc import Sequence

from driftline.detectors.base import State
from driftline.detectors.breaker import BreakerKey, Breakers
from driftline.detectors.config import BreakerConfig
from driftline.schemas.events import Trace
from driftline.schemas.ids import stable_id
from driftline.schemas.results import BreakerSignal


def is_client_error(error_type: str) -> bool:
    """Whether the request itself was at fault (4xx but for 408 and 429), which says nothing about the provider."""
    return len(error_type) == 3 and error_type.isdigit() and error_type[0] == "4" and error_type not in ("408", "429")


class ProviderBreakers:
    def __init__(self, config: BreakerConfig, state: State | None = None) -> None:
        self._breakers = Breakers(config)
        if state:
            self._breakers.restore(state)

    def snapshot(self) -> State:
        return self._breakers.snapshot()

    def update(self, traces: Sequence[Trace], now: int, revision: int) -> list[BreakerSignal]:
        """The traces of the tick that ends at `now`."""
        counts: dict[BreakerKey, tuple[int, int]] = {}
        for t in traces:
            if not t.provider:
                continue
            failed = t.status == "error"
            if failed and is_client_error(t.error_type):
                continue
            key = BreakerKey(t.app, t.provider, t.request_model)
            requests, errors = counts.get(key, (0, 0))
            counts[key] = (requests + 1, errors + failed)
        return [
            BreakerSignal(
                id=stable_id("breaker", *change.key, change.state, now),
                app=change.key.app,
                provider=change.key.provider,
                model=change.key.model,
                state=change.state,
                at=now,
                revision=revision,
                reason=change.reason,
                probe_share=change.probe_share,
                requests=change.requests,
                errors=change.errors,
            )
            for change in self._breakers.update(counts, now)
        ]
