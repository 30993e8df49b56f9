"""The true false-alarm rate of `embedding_drift` at the level in use, by multilevel splitting on the population that
references are drawn from: checks at 1/500 do not see that tail."""

import math
from typing import Any

import numpy as np

from benchmarks.detection.streams import Scenario, reference
from benchmarks.detection.suite import OPERATING, Baselines
from driftline.detectors.splitting import Sample, log_sf

CHAINS = 1000
POPULATION = 80_000  # texts; all of them where they are independent


def tail_ratio(baselines: Baselines, session: int) -> dict[str, Any]:
    """Estimated over stated probability that a window of the smallest scale alarms."""
    table = baselines.tables["embedding"]
    scenario = Scenario("tail", "embedding", session=session)
    baseline = baselines.of("embedding_drift", scenario, OPERATING)
    n, limit, log_alpha = int(baseline.scales[0]), float(baseline.limit[0]), float(baseline.log_alpha[0])
    if session == 1:
        vectors, lengths = table.values[: table.sizes["healthy"]].astype(np.float64), 1
        sums = vectors - vectors.mean(0)
    else:
        drawn = reference(table, scenario, POPULATION, 1)
        vectors, lengths = table.values[drawn.index[0]].astype(np.float64), session
        sums = (vectors - vectors.mean(0)).reshape(-1, session, vectors.shape[1]).sum(1)
    sample = Sample(sums.astype(np.float32), np.full(len(sums), float(lengths)))
    log_p = log_sf(sample, sample.window(n), limit, (77,), CHAINS)
    return {
        "session": session,
        "window_events": n,
        "alpha_of_scale": math.exp(log_alpha),
        "estimated": math.exp(log_p),
        "ratio": math.exp(log_p - log_alpha),
        "scales": baseline.scales.tolist(),
    }
