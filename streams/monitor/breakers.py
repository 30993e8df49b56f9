"""Circuit breakers per app, provider and model, fed with every request."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from driftline.detectors.base import State
from driftline.detectors.breaker import BreakerKey, Breakers
from driftline.detectors.config import BreakerConfig
from driftline.schemas.ids import stable_id
from driftline.schemas.results import BreakerSignal
from driftline.streams.monitor.columns import Traces
from driftline.streams.monitor.names import OTHER, TraceSeries


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

    @property
    def due(self) -> int:
        """When time alone changes a breaker."""
        return self._breakers.due

    def update(self, traces: Traces, names: Sequence[TraceSeries], now: int, revision: int) -> list[BreakerSignal]:
        """The traces of the tick that ends at `now`."""
        requests: Counter[BreakerKey] = Counter()
        errors: Counter[BreakerKey] = Counter()
        failed = np.flatnonzero(traces.failed)
        kinds = Counter(zip(traces.series[failed].tolist(), traces.error_type[failed].tolist(), strict=True))
        for number, count in enumerate(np.bincount(traces.series).tolist()):
            if count and _has_breaker(names[number]):
                requests[_key(names[number])] += count
        for (number, error_type), count in kinds.items():
            if _has_breaker(names[number]):
                (requests.subtract if is_client_error(error_type) else errors.update)({_key(names[number]): count})
        counts = {key: (n, errors[key]) for key, n in requests.items() if n}
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


def _has_breaker(series: TraceSeries) -> bool:
    """Many providers that count together are none that could be left out of traffic."""
    return series.provider not in ("", OTHER)


def _key(series: TraceSeries) -> BreakerKey:
    return BreakerKey(series.app, series.provider, series.request_model)
