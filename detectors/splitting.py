"""The far tail of a window's statistic by multilevel splitting (subset simulation: Au and Beck 2001).

A window holds k units, say sessions, drawn from a reference: S sums their vectors, L their events, T = ||S||^2 / L. By
the central limit theorem T is nearly a weighted sum of chi-squares, but not in the tail that matters: at p = 5e-11 a
window of 64 sessions exceeds that law's threshold 5 to 30 times as often as the law says. So the tail is
sampled: thousands of windows (chains), of which the highest tenth survives and is copied; copies are told apart by
resampling some of their units while they stay above the level; the highest tenth of these survives, and so on, a
factor of ten in p each time.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats
from driftline.detectors.saddlepoint import positive, quantile

Singles: TypeAlias = NDArray[np.float32]

_KEPT = 0.1  # share of the chains that a level keeps
_MOVES = 20  # resamplings of each chain a level: fewer leave the copies alike
_LEVELS = 60
_FRACTION = 16  # at most this part of a window is resampled at once: more is slower, and rarely accepted far out
_WORST = math.log(2)  # a third run may find at most twice the p asked for


@dataclass(frozen=True)
class Sample:
    """The units of a reference."""

    sums: Singles  # [u, d] of phi - mu over each unit
    lengths: Floats  # [u] events of each

    def window(self, n: int) -> int:
        """How many units make a window of n events."""
        return max(1, round(n / float(self.lengths.mean())))

    def spectrum(self) -> Floats:
        """The eigenvalues of sum s s' / sum l."""
        s = self.sums.astype(np.float64)
        return positive(np.linalg.eigvalsh(s.T @ s / self.lengths.sum()))


class Tail(NamedTuple):
    """The upper tail of T. `levels`: [m, 2] values and their ln P(T >= value), upwards."""

    value: float  # at the p that was asked for
    levels: Floats


class Stuck(ArithmeticError):
    """The chains rise no further: there are too few different units for so small a p."""


def threshold(
    sample: Sample, k: int, spectrum: Floats, log_p: float, seed: tuple[int, ...], chains: int
) -> Tail | None:
    """The value that windows of k units reach with a probability of at most e^log_p, for the population that the
    sample comes from. `spectrum`: of the whole reference, whose own law the threshold never goes below.

    The higher of two runs, plus 3 / sqrt(units) because the sample is itself one of many; a third run must agree
    within a factor of two in p, else all is done again with twice the chains. None: still not, or stuck.
    """
    law = quantile(log_p, spectrum)
    wider = max(1.0, law / quantile(log_p, sample.spectrum()))
    for n in (chains, 2 * chains):
        try:
            highest = max((tail(sample, k, log_p, (*seed, run), n) for run in (0, 1)), key=lambda each: each.value)
        except Stuck:
            return None
        value = max(wider * highest.value, law) * (1 + 3 / math.sqrt(len(sample.lengths)))
        if log_sf(sample, k, value / wider, (*seed, 2), n) <= log_p + _WORST:
            return Tail(value, highest.levels * (value / highest.value, 1.0))
    return None


def tail(sample: Sample, k: int, log_p: float, seed: tuple[int, ...], chains: int) -> Tail:
    """The threshold of windows of k units at ln p. One run is off by a factor of up to 3 in p.

    :raises Stuck:
    """
    levels: list[tuple[float, float]] = []
    for step in _climb(sample, k, seed, chains):
        if step.log_p + math.log(step.share) <= log_p:
            value = step.sorted[math.ceil(chains * math.exp(log_p - step.log_p)) - 1]
            return Tail(float(value), np.array(levels).reshape(-1, 2))
        levels.append((step.level, step.log_p + math.log(step.share)))
    raise Stuck(f"{len(sample.lengths)} units are too few for ln p = {log_p:.1f}")


def log_sf(sample: Sample, k: int, q: float, seed: tuple[int, ...], chains: int) -> float:
    """ln P(T >= q) for windows of k units; an upper bound if the chains get stuck below q."""
    log_p = 0.0
    for step in _climb(sample, k, seed, chains):
        if step.level >= q:
            return step.log_p + math.log(float(np.mean(step.sorted >= q)))
        log_p = step.log_p + math.log(step.share)
    return log_p


class _Step(NamedTuple):
    log_p: float  # of the level that all chains are above
    sorted: Floats  # [chains] T, downwards
    level: float  # the next one
    share: float  # of the chains at or above it


def _climb(sample: Sample, k: int, seed: tuple[int, ...], chains: int) -> Iterator[_Step]:
    """Ends when no chain rises any more."""
    rng = np.random.default_rng((*seed, k))
    windows = _Windows.draw(sample, k, chains, rng)
    log_p, last = 0.0, -math.inf
    for _ in range(_LEVELS):
        descending = np.sort(windows.t)[::-1]
        level = float(descending[math.ceil(_KEPT * chains) - 1])
        if level <= last:
            return
        share = float(np.mean(windows.t >= level))
        yield _Step(log_p, descending, level, share)
        last, log_p = level, log_p + math.log(share)
        windows.refill(level, rng)
        for _ in range(_MOVES):
            windows.resample(level, rng)


@dataclass
class _Windows:
    """Many windows of k units, side by side."""

    sample: Sample
    index: NDArray[np.int32]  # [chains, k] the units of each
    s: Singles  # [chains, d]
    events: Floats  # [chains]
    t: Floats  # [chains]

    @classmethod
    def draw(cls, sample: Sample, k: int, chains: int, rng: np.random.Generator) -> "_Windows":
        index = rng.integers(0, len(sample.lengths), (chains, k), dtype=np.int32)
        s = _added(sample.sums, index, np.ones(k, np.float32))
        lengths = sample.lengths[index].sum(1)
        return cls(sample, index, s, lengths, _statistic(s, lengths))

    def refill(self, level: float, rng: np.random.Generator) -> None:
        """Copies of those above the level take the places of the others."""
        above = rng.permutation(np.flatnonzero(self.t >= level))
        source = np.resize(above, len(self.t))
        self.index, self.events = self.index[source], self.events[source]
        self.s, self.t = self.s[source], self.t[source]

    def resample(self, level: float, rng: np.random.Generator) -> None:
        """Fresh units in r places of every window, kept where the window stays above the level. Places are alike, so
        that the same r neighbours serve all windows."""
        k = self.index.shape[1]
        r = 1 << int(rng.integers(0, max(1, k // _FRACTION).bit_length()))
        places = (rng.integers(0, k) + np.arange(r)) % k
        old = self.index[:, places]
        new = rng.integers(0, len(self.sample.lengths), old.shape, dtype=np.int32)
        signs = np.repeat(np.array([1, -1], np.float32), r)
        s = self.s + _added(self.sample.sums, np.concatenate([new, old], axis=1), signs)
        lengths = self.events + self.sample.lengths[new].sum(1) - self.sample.lengths[old].sum(1)
        t = _statistic(s, lengths)
        kept = np.flatnonzero(t >= level)
        self.s[kept], self.events[kept], self.t[kept] = s[kept], lengths[kept], t[kept]
        self.index[kept[:, None], places] = new[kept]


def _added(sums: Singles, index: NDArray[np.int32], weights: Singles) -> Singles:
    """[n, d] weighted sums of the rows that `index` [n, r] names. A sparse product reads each row once and in order,
    several times as fast as gathering them."""
    from scipy.sparse import csr_array  # a tenth of a second, and a role fits nothing when it starts

    n, r = index.shape
    rows = np.arange(n + 1, dtype=np.int32) * r
    added: Singles = csr_array((np.tile(weights, n), index.ravel(), rows), shape=(n, len(sums))) @ sums
    return added


def _statistic(s: Singles, lengths: Floats) -> Floats:
    t: Floats = np.einsum("nd,nd->n", s, s) / lengths
    return t
