"""Sessions by what their prompts are about, as units for `detectors.categories`.

Query types are the topics of `embedding_drift`'s baseline, which were found on the means of whole sessions: a session
is of the type that its mean is nearest to. Another baseline has other topics, so its types are learned anew.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from driftline.detectors.base import Detector, Floats
from driftline.detectors.categories import Categories
from driftline.detectors.embeddings import EmbeddingBaseline
from driftline.streams.monitor.drift_topics import DriftTopics

RULE = "query_type"
COMPONENT = "prompt"
NEW_TOPICS = "embedding_drift has a new baseline: query types are new, too, and learned anew"


def lack(baseline: EmbeddingBaseline | None) -> str:
    """Why there are no query types."""
    if baseline is None:
        return "query types are topics of embedding_drift's baseline, and there is none yet"
    if not baseline.sessions:
        return "query types are topics of whole sessions, and there are no session ids"
    return "embedding_drift finds no topics under these settings"


def labels(topics: DriftTopics, app: str, baseline: EmbeddingBaseline, means: Floats) -> list[str | None]:
    """The names of the query types of an app's sessions, by the means of their prompts; None where it has no
    direction."""
    names = topics.labels((app, COMPONENT), baseline)
    found: list[str | None] = [None] * len(means)
    topic, valid = topics.of(baseline, means)
    for row, number in zip(np.flatnonzero(valid).tolist(), topic.tolist(), strict=True):
        found[row] = names[number]
    return found


def units(detector: Detector[Any, Any], told: Sequence[str | None]) -> Floats:
    """NaN for None."""
    assert isinstance(detector, Categories)
    value = np.full(len(told), np.nan)
    known = [i for i, name in enumerate(told) if name is not None]
    value[known] = detector.codes([name for name in told if name is not None])
    return value
