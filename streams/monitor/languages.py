"""The languages of prompts and responses, as units for `detectors.categories`: the first text of each session whose
language is known."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Detector
from driftline.detectors.categories import Categories
from driftline.detectors.units import NO_SESSION, Numbers
from driftline.schemas.results import Embedding
from driftline.streams.monitor.watch import Units

RULE = "language"


def language(embedding: Embedding, component: str) -> str | None:
    known: str | None = getattr(embedding, f"{component}_language")
    return known


class FirstKnown:
    """Of one component. Remembers sessions by the numbers that `FirstSixteen` gives them, while they are open."""

    def __init__(self, counted: NDArray[np.int64] | None = None) -> None:
        self._counted = np.empty(0, np.int64) if counted is None else counted.copy()

    def units(
        self,
        detector: Detector[Any, Any],
        languages: Sequence[str | None],
        stream: Numbers,
        session: Numbers,
        learn: NDArray[np.bool_],
        open_from: int,
    ) -> Units:
        """A tick's events, all that `FirstSixteen` takes, and its `open_from` afterwards."""
        assert isinstance(detector, Categories)
        known = np.flatnonzero([name is not None for name in languages])
        _, first = np.unique(session[known], return_index=True)
        new = known[np.sort(first)]
        alone = known[session[known] == NO_SESSION]
        new = new[(session[new] != NO_SESSION) & ~np.isin(session[new], self._counted)]
        self._counted = np.concatenate([self._counted, session[new]])
        self._counted = self._counted[self._counted >= open_from]
        rows = np.sort(np.concatenate([new, alone]))
        value = detector.codes([name for row in rows.tolist() if (name := languages[row]) is not None])
        return Units(stream[rows], value, session[rows], learn[rows])

    def snapshot(self) -> NDArray[np.int64]:
        return self._counted.copy()
