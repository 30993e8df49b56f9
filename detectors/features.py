"""The space in which embedding drift compares texts: phi of unit vectors, all of length one. Where mean phi moves,
texts have drifted; which drifts move it is up to the kernel <phi(x), phi(y)>.

Linear: phi(x) = x. Mean phi moves with the mean direction of texts, and with nothing else.
RFF: random Fourier features (Rahimi and Recht 2007) of the Gaussian kernel, which moves with any change of the texts'
distribution, say when they scatter more around the same mean.
"""

from typing import Protocol

import numpy as np

from driftline.detectors.base import Floats, Slots
from driftline.detectors.config import EmbeddingDriftConfig

_IDENTICAL = 1e-9  # squared distance below which two texts are one and the same
_UNRELATED = float(np.sqrt(2))  # distance of texts that have nothing in common


class Features(Protocol):
    """x: [n, d] unit vectors. bandwidth: sigma of the kernel, of the same reference for all that is compared."""

    @property
    def texts(self) -> int:
        """How many of a reference `median_distance` needs for a bandwidth; 0: the kernel has none."""

    def size(self, d: int) -> int:
        """Features of a vector of d dimensions."""

    def of(self, x: Floats, bandwidth: float) -> Floats:
        """[n, size] phi."""

    def sums(self, x: Floats, starts: Slots, bandwidth: float) -> Floats:
        """[len(starts), size] sums of phi from each start to the next, the last to the end. Starts ascend from 0, each
        before the next."""


class Linear:
    """phi(x) = x"""

    texts = 0

    def size(self, d: int) -> int:
        return d

    def of(self, x: Floats, bandwidth: float) -> Floats:
        return x

    def sums(self, x: Floats, starts: Slots, bandwidth: float) -> Floats:
        total: Floats = np.add.reduceat(x, starts, axis=0)
        return total


def make_features(config: EmbeddingDriftConfig) -> Features:
    """:raises ConfigError: the device is not there."""
    if config.kernel == "linear":
        return Linear()
    from driftline.detectors.fourier import Fourier  # torch takes seconds and half a gigabyte: only where it is used

    return Fourier(config.frequencies, config.bandwidths, config.bandwidth_texts, config.device)


def median_distance(x: Floats) -> float:
    """Of all pairs of unit vectors [n, d] but the identical ones: the bandwidth that suits them. That of unrelated
    texts if all are identical."""
    left, right = np.triu_indices(len(x), 1)
    squared = 2 - 2 * (x @ x.T)[left, right]
    squared = squared[squared > _IDENTICAL]
    return float(np.sqrt(np.median(squared))) if len(squared) else _UNRELATED
