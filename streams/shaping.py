"""Which settings shape a fold's state: what it counts time in, where its events are at home, how long arrays are, in
what unit its sums are. Under others the same state says something else, so they are kept with it, and a role whose
settings differ stops (`runtime/state.py`).

What may change under a state is not among them: limits, thresholds, texts, grace and lateness, how often something is
said. Rules, objectives and budgets begin anew by themselves when theirs change, drift when the embedding model does.
"""

import json
from collections.abc import Mapping
from functools import reduce

from driftline.streams.settings import Settings

_HOMES = "kafka.homes"  # where apps are counted
_TIME_AND_PLACE = (_HOMES, "detectors.budget.tick_s")  # ticks are numbers

SHAPING: Mapping[str, tuple[str, ...]] = {  # by fold
    "monitor": (
        *_TIME_AND_PLACE,
        "monitor.windows.size_s",
        "detectors.quality.low",  # of baselines of scores, which are shares of their range
        "detectors.quality.high",
        "detectors.quality.bets",  # each has its own evidence
        "detectors.breaker.bucket_s",  # buckets are numbers
        "detectors.canary.score_low",
        "detectors.canary.score_high",
        "detectors.canary.weights",  # which metrics there are
    ),
    "drift": (
        *_TIME_AND_PLACE,
        "detectors.embedding_drift.kernel",
        "detectors.embedding_drift.frequencies",
        "detectors.embedding_drift.bandwidths",
        "detectors.embedding_drift.block_events",  # whose sums are samples
        "detectors.embedding_witness.bets",
    ),
    "embed": (_HOMES, "embed.sample.window_s"),  # budgets are of numbered windows
    "judge": (),
}


def shaping(fold: str, settings: Settings) -> dict[str, str]:
    """Key -> value, as people write it."""
    return {key: _value(key, settings) for key in SHAPING[fold]}


def _value(key: str, settings: Settings) -> str:
    value: object = settings.kafka.home_partitions if key == _HOMES else reduce(getattr, key.split("."), settings)
    return json.dumps(sorted(value) if isinstance(value, dict) else value)
