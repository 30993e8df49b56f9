"""Objectives on requests: how many may fail, or be slow."""

import math
from collections.abc import Sequence

from driftline.detectors.base import Measurement
from driftline.detectors.burn import P_MAX, PAIRS, Burn, Pair, p_by_chance
from driftline.streams.monitor.alerts import Wording
from driftline.streams.monitor.rules import texts
from driftline.streams.monitor.rules.config import SloConfig
from driftline.streams.monitor.windows import Closed

RULE = "slo_burn"


class RequestObjective:
    pairs: Sequence[Pair] = PAIRS

    def __init__(self, slo: SloConfig) -> None:
        self._slo = slo
        self._budget = 1 - slo.objective
        self.name, self.app, self.fingerprint = slo.name, slo.app, slo.model_dump_json()

    def spent(self, window: Closed) -> tuple[int, int]:
        if self._slo.latency_ms is None:
            return window.counts["errors"], window.counts["requests"]
        return window.latency.above(self._slo.latency_ms), window.latency.count

    def allowed(self, total: int, seconds: float) -> float:
        return self._budget * total

    def certain(self, long: Burn) -> bool:
        return p_by_chance(long.spent, long.total, self._budget) < P_MAX

    def measure(self, pair: Pair, long: Burn, short: Burn) -> Measurement:
        value = long.spent / long.total if long.total else None
        p = max(p_by_chance(long.spent, long.total, self._budget), 1e-300)
        return Measurement(
            log_p=math.log(p),
            threshold=math.log(P_MAX),
            value=value,
            baseline=self._budget,
            effect=None if value is None else value / self._budget - 1,
            n_events=long.total,
            guarantee="none",
            note=texts.burning(pair, long, short),
        )

    def wording(self, pair: Pair, app: str, long: Burn, short: Burn, since: int) -> Wording:
        return texts.slo_burn(self._slo, pair, app, long, short, since)
