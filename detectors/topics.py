"""What a reference's texts are about, coarsely, so that an alert can say which topics grew: spherical k-means on the
mean directions of sessions (Dhillon and Modha 2001). For people to read; no decision hangs on it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats

TOPICS = 20  # as many as people read
_ROUNDS = 15
_STRANGE = 0.01  # share of the reference that counts as on none of its topics


@dataclass(frozen=True)
class Topics:
    """Topic number `len(centers)` is "none of them"."""

    centers: NDArray[np.float32]  # [k, d] at length one
    shares: Floats  # [k + 1] of the reference
    near: float  # the least cosine to the nearest center that makes a text one of its topic

    @classmethod
    def none(cls, d: int) -> "Topics":
        return cls(np.empty((0, d), np.float32), np.ones(1), 1.0)

    def of(self, phi: Floats) -> NDArray[np.intp]:
        """[n] the topic of each unit vector."""
        if not len(self.centers):
            return np.zeros(len(phi), np.intp)
        cosines = phi @ self.centers.T
        nearest: NDArray[np.intp] = cosines.argmax(1)
        nearest[cosines.max(1) < self.near] = len(self.centers)
        return nearest


def find(phi: Floats, seed: int) -> Topics:
    """The topics of unit vectors, at least one. Deterministic."""
    rng = np.random.default_rng(seed)
    centers = _spread_out(phi, min(TOPICS, len(phi)), rng)
    for _ in range(_ROUNDS):
        nearest = (phi @ centers.T).argmax(1)
        sums = np.eye(len(centers))[:, nearest] @ phi
        lengths = np.linalg.norm(sums, axis=1)
        kept = lengths > 0
        centers = sums[kept] / lengths[kept, None]
    near = float(np.quantile((phi @ centers.T).max(1), _STRANGE))
    found = Topics(centers.astype(np.float32), np.zeros(0), near)
    counts = np.bincount(found.of(phi), minlength=len(centers) + 1)
    return Topics(found.centers, counts / len(phi), near)


def _spread_out(phi: Floats, k: int, rng: np.random.Generator) -> Floats:
    """k-means++: each next center a row, the likelier the farther it is from those before."""
    chosen = [int(rng.integers(len(phi)))]
    distance = np.full(len(phi), np.inf)
    while len(chosen) < k:
        distance = np.minimum(distance, 2 - 2 * phi @ phi[chosen[-1]])
        weights = np.cumsum(np.maximum(distance, 0))
        if weights[-1] <= 0:
            break
        chosen.append(int(np.searchsorted(weights, rng.random() * weights[-1], side="right")))
    centers: Floats = phi[chosen].copy()
    return centers
