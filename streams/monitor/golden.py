"""The golden set: fixed answers that are scored again and again, to see whether the judge has changed.

Their scores carry the release of `golden_release`, and the conversation of their answer. Each answer is compared with
its own first score, for its order in the set and its difficulty would hide the rest. While the differences drift, it is
the judge that moves: alarms of quality on its scores are not told.
"""

from collections.abc import Sequence

import numpy as np

from driftline.detectors.base import State
from driftline.detectors.digests import MISSING, NONE, DigestTable, digests, firsts
from driftline.schemas.ids import joined
from driftline.streams.monitor.columns import Integers, Scores
from driftline.streams.monitor.watch import Stream, Units

RULE = "judge_drift"
SUPPRESSES = ("quality", "quality_pit")
SUPPRESSED = "Not told: the judge has changed (judge_drift is firing)."
MAX_ANSWERS = 10_000  # of a partition; 16 bytes each
_UNIT = 2.0**31  # steps in a score of 1: the largest scores, 1e9, fit
_APART = np.uint64(0x9E3779B97F4A7C15)  # times a stream's digest: equal answers of different scores are different


class Golden:
    def __init__(self, state: State | None = None) -> None:
        self._first = DigestTable((state or {}).get("first"))  # the first score of each answer, in units

    def snapshot(self) -> State:
        return {"first": self._first.snapshot()}

    def units(self, scores: Scores, stream: Integers, names: Sequence[Stream]) -> Units:
        """Differences to the first scores. Scores without a conversation are of no known answer. names: of streams, by
        their numbers, which are given to others after a silent day."""
        named = scores.session != NONE
        stream = stream[named]
        apart = digests(joined(*names[number]) for number in stream.tolist())
        keys = scores.session[named] + apart * _APART
        value = np.rint(scores.value[named] * _UNIT).astype(np.int64)
        new = (self._first.get(keys) == MISSING) & firsts(keys)
        if new.any() and len(self._first) + int(new.sum()) <= MAX_ANSWERS:
            self._first.put(keys[new], value[new])
        first = self._first.get(keys)
        known = ~new & (first != MISSING)
        n = int(known.sum())
        difference = (value[known] - first[known]) / _UNIT
        return Units(stream[known], difference, np.arange(n), np.ones(n, np.bool_))
