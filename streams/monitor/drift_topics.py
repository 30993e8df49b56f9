"""Which topics of an app's texts have grown or shrunk, for the text of drift alerts. Topics are those of the baseline;
their names are texts from the time at which it was made."""

from collections.abc import Sequence

import numpy as np

from driftline.detectors.base import Floats, State
from driftline.detectors.embeddings import EmbeddingBaseline, unit_vectors

_MOST = 3  # topics that a text names
_LEAST = 0.05  # change of share that is worth a name
_FEWEST = 16  # texts: shares of fewer are noise


class DriftTopics:
    def __init__(self, state: State | None = None) -> None:
        self._names: dict[tuple[str, str], tuple[str, list[str]]] = {  # app, component -> baseline, names
            (app, component): (baseline, names) for app, component, baseline, names in (state or {}).get("names", [])
        }

    def snapshot(self) -> State:
        return {"names": [[*group, *named] for group, named in self._names.items()]}

    def name(self, group: tuple[str, str], baseline: EmbeddingBaseline, vectors: Floats, texts: Sequence[str]) -> None:
        """Name each topic by the one of these texts that is most central to it; some stay without a name."""
        topics = baseline.topics
        phi, valid = unit_vectors(vectors, topics.centers.shape[1])
        known = [text for text, ok in zip(texts, valid.tolist(), strict=True) if ok]
        mine = topics.of(phi)
        cosines = phi @ topics.centers.T
        names = [""] * len(topics.centers)
        for topic in range(len(topics.centers)):
            own = np.flatnonzero(mine == topic)
            if len(own):
                names[topic] = known[own[cosines[own, topic].argmax()]]
        self._names[group] = baseline.id, names

    def changes(self, group: tuple[str, str], baseline: EmbeddingBaseline, vectors: Floats) -> str:
        """The largest changes of share in these texts, as a sentence; empty if there is nothing to say."""
        (named, names), topics = self._names.get(group, ("", [])), baseline.topics
        phi, _ = unit_vectors(vectors, topics.centers.shape[1])
        if named != baseline.id or len(phi) < _FEWEST:
            return ""
        now = np.bincount(topics.of(phi), minlength=len(topics.shares)) / len(phi)
        change = now - topics.shares
        labels = [*(f"like “{name}”" if name else "" for name in names), "unlike all that was usual"]
        order = np.argsort(-np.abs(change), kind="stable").tolist()
        told = [i for i in order if labels[i] and abs(change[i]) >= _LEAST][:_MOST]
        if not told:
            return ""
        return "Share of topics: " + "; ".join(f"{labels[i]} {topics.shares[i]:.0%} → {now[i]:.0%}" for i in told) + "."
