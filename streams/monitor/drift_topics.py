"""Which topics of an app's texts have grown or shrunk, for the text of drift alerts. Topics are those of the baseline;
their names are texts from the time at which it was made."""

from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats, State
from driftline.detectors.embeddings import EmbeddingBaseline, unit_vectors

_MOST = 3  # topics that a text names
_LEAST = 0.05  # change of share that is worth a name
_FEWEST = 16  # texts: shares of fewer are noise
_LONGEST = 80  # characters of a label
_NONE = "unlike all that was usual"


class _Named(NamedTuple):
    baseline: str  # its id
    topics: str  # a hash of them
    names: list[str]


class DriftTopics:
    def __init__(self, state: State | None = None) -> None:
        self._named: dict[tuple[str, str], _Named] = {  # by app and component
            (app, component): _Named(*named) for app, component, *named in (state or {}).get("named", [])
        }

    def snapshot(self) -> State:
        return {"named": [[*group, *named] for group, named in self._named.items()]}

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
        self._named[group] = _Named(baseline.id, _digest(baseline), names)

    def keeps(self, group: tuple[str, str], baseline: EmbeddingBaseline) -> bool:
        """Whether the topics of this baseline have names: they are its own, or those of the one before."""
        named = self._named.get(group)
        if named is None:
            return False
        if named.baseline != baseline.id and named.topics == _digest(baseline):
            self._named[group] = named._replace(baseline=baseline.id)
        return self._named[group].baseline == baseline.id

    def _names(self, group: tuple[str, str], baseline: EmbeddingBaseline) -> list[str]:
        """Empty for those without a name."""
        named = self._named.get(group)
        return named.names if named and named.baseline == baseline.id else [""] * len(baseline.centers)

    def labels(self, group: tuple[str, str], baseline: EmbeddingBaseline) -> list[str]:
        """A short name for each topic, and for none of them, all different."""
        labels: list[str] = []
        for topic, text in enumerate(self._names(group, baseline)):
            name = " ".join(text.split())[:_LONGEST]
            labels.append(name if name and name not in labels else f"{name} (topic {topic + 1})".strip())
        return [*labels, _NONE]

    def of(self, baseline: EmbeddingBaseline, vectors: Floats) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        """The topic of each valid vector, and which are."""
        phi, valid = unit_vectors(vectors, baseline.centers.shape[1])
        return baseline.topics.of(phi), valid

    def changes(self, group: tuple[str, str], baseline: EmbeddingBaseline, vectors: Floats) -> str:
        """The largest changes of share in these texts, as a sentence; empty if there is nothing to say."""
        if not self.keeps(group, baseline):
            return ""
        topics, names = baseline.topics, self._names(group, baseline)
        phi, _ = unit_vectors(vectors, topics.centers.shape[1])
        if len(phi) < _FEWEST:
            return ""
        now = np.bincount(topics.of(phi), minlength=len(topics.shares)) / len(phi)
        change = now - topics.shares
        labels = [*(f"like “{name}”" if name else "" for name in names), _NONE]
        order = np.argsort(-np.abs(change), kind="stable").tolist()
        told = [i for i in order if labels[i] and abs(change[i]) >= _LEAST][:_MOST]
        if not told:
            return ""
        return "Share of topics: " + "; ".join(f"{labels[i]} {topics.shares[i]:.0%} → {now[i]:.0%}" for i in told) + "."


def _digest(baseline: EmbeddingBaseline) -> str:
    return blake2b(baseline.centers.tobytes() + repr(baseline.near).encode(), digest_size=16).hexdigest()
