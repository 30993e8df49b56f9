"""How far apart two samples of texts are: effect sizes for reports, never alarms. Sequential detectors alarm.

Sessions are the unit wherever dependence matters: pairs of one session are left out, permutations and the jackknife
move whole sessions, folds cut none.
"""

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats

LIMIT = 1000  # texts of a sample: the kernel matrix of both has 32 MB
PERMUTATIONS = 999
_BANDWIDTHS = (0.5, 1.0, 2.0)  # times the median distance
_PROJECTIONS = 128
_FOLDS = 5
_RIDGE = 0.1  # of the mean variance: more directions than a fold may have texts
_SEED = 0x5EED


@dataclass(frozen=True)
class Texts:
    """vectors: [n, d]. session: [n] equal for texts of one session."""

    vectors: Floats
    session: NDArray[np.uint64]

    def thinned(self) -> "Texts":
        """At most `LIMIT` texts, in whole sessions, the same at every call."""
        known, number, sizes = np.unique(self.session, return_inverse=True, return_counts=True)
        order = np.random.Generator(np.random.Philox(_SEED)).permutation(len(known))
        taken = order[np.cumsum(sizes[order]) <= LIMIT]
        kept = np.isin(number, taken)
        return Texts(self.vectors[kept], self.session[kept])


class Effects(msgspec.Struct, frozen=True):
    """Of a current sample against a reference.

    mmd2: unbiased squared maximum mean discrepancy under a mean of three Gaussian kernels, over pairs of different
        sessions (Gretton et al. 2012, JMLR 13, eq. 3), with its 95 % interval by the jackknife.
    p: of `mmd2` among 999 permutations of sessions; its least value is 0.001.
    auc: with which a linear classifier, on sessions that it has not seen, tells a current text from a reference one:
        0.5 is chance.
    cosine: between the mean texts.
    sliced_w1: the mean Wasserstein distance along 128 directions.
    frechet: squared distance between the normal laws with the same means and covariances; of equally many texts, and
        None if these are fewer than twice their dimensions (it is biased).
    """

    current_texts: int
    reference_texts: int
    mmd2: float
    mmd2_low: float
    mmd2_high: float
    p: float
    auc: float
    cosine: float
    sliced_w1: float
    frechet: float | None


def compare(current: Texts, reference: Texts) -> Effects:
    """:raises ValueError: fewer than ten sessions in one of them."""
    current, reference = current.thinned(), reference.thinned()
    for name, texts in (("current", current), ("reference", reference)):
        if len(np.unique(texts.session)) < 2 * _FOLDS:
            raise ValueError(f"the {name} period has fewer than {2 * _FOLDS} sessions with texts")
    sums, sizes, ours = _by_session(current, reference)
    value, low, high = _jackknife(sums, sizes, ours)
    return Effects(
        current_texts=len(current.vectors),
        reference_texts=len(reference.vectors),
        mmd2=value,
        mmd2_low=low,
        mmd2_high=high,
        p=_p(sums, sizes, ours, value),
        auc=_auc(current, reference),
        cosine=_cosine(current.vectors.mean(0), reference.vectors.mean(0)),
        sliced_w1=sliced_w1(current.vectors, reference.vectors),
        frechet=frechet(current.vectors, reference.vectors),
    )


def _by_session(current: Texts, reference: Texts) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """[s, s] sums of the kernel over the pairs of two sessions, 0 within one; [s] their texts, and whether they are of
    the current sample."""
    x = np.concatenate([current.vectors, reference.vectors])
    squared = np.einsum("ij,ij->i", x, x)
    distance = np.maximum(squared[:, None] + squared - 2 * x @ x.T, 0)
    apart = distance[np.triu_indices(len(x), 1)]
    median = float(np.median(apart[apart > 1e-12])) if (apart > 1e-12).any() else 1.0
    kernel = np.zeros_like(distance)
    for factor in _BANDWIDTHS:
        kernel += np.exp(-distance / (2 * factor**2 * median)) / len(_BANDWIDTHS)
    sums, sizes, ours = kernel, [], []
    order = []
    start = 0
    for texts, is_ours in ((current, True), (reference, False)):
        by = np.argsort(texts.session, kind="stable")
        counts = np.unique(texts.session, return_counts=True)[1]
        order.append(start + by)
        sizes.append(counts)
        ours.append(np.full(len(counts), is_ours))
        start += len(by)
    rows, size = np.concatenate(order), np.concatenate(sizes)
    begins = np.concatenate([[0], np.cumsum(size)[:-1]])
    sums = np.add.reduceat(np.add.reduceat(kernel[np.ix_(rows, rows)], begins, axis=0), begins, axis=1)
    np.fill_diagonal(sums, 0)
    return sums, size.astype(np.float64), np.concatenate(ours)


def _mmd2(sums: Floats, sizes: Floats, ours: NDArray[np.bool_]) -> Floats:
    """[k] for labels [k, s]."""
    mine, theirs = ours.astype(np.float64), (~ours).astype(np.float64)
    to_mine = mine @ sums
    within = _pairs_mean((to_mine * mine).sum(1), mine, sizes)
    within += _pairs_mean(((theirs @ sums) * theirs).sum(1), theirs, sizes)
    value: Floats = within - 2 * (to_mine * theirs).sum(1) / ((mine @ sizes) * (theirs @ sizes))
    return value


def _pairs_mean(total: Floats, labels: Floats, sizes: Floats) -> Floats:
    mean: Floats = total / ((labels @ sizes) ** 2 - labels @ sizes**2)
    return mean


def _jackknife(sums: Floats, sizes: Floats, ours: NDArray[np.bool_]) -> tuple[float, float, float]:
    """The value and its 95 % interval, leaving out one session at a time."""
    value = float(_mmd2(sums, sizes, ours[None])[0])
    without = []
    for left in range(len(sizes)):
        kept = np.arange(len(sizes)) != left
        without.append(float(_mmd2(sums[np.ix_(kept, kept)], sizes[kept], ours[None, kept])[0]))
    n = len(sizes)
    half = 1.96 * float(np.sqrt((n - 1) / n * ((np.array(without) - np.mean(without)) ** 2).sum()))
    return value, value - half, value + half


def _p(sums: Floats, sizes: Floats, ours: NDArray[np.bool_], value: float) -> float:
    rng = np.random.Generator(np.random.Philox(_SEED))
    labels = np.stack([rng.permutation(ours) for _ in range(PERMUTATIONS)])
    return float(1 + (_mmd2(sums, sizes, labels) >= value).sum()) / (1 + PERMUTATIONS)


def _auc(current: Texts, reference: Texts) -> float:
    """Linear discriminants of the other four fifths of sessions, ranks over all."""
    x = np.concatenate([current.vectors, reference.vectors])
    ours = np.arange(len(x)) < len(current.vectors)
    fold = np.empty(len(x), np.intp)
    for side, texts in ((ours, current), (~ours, reference)):
        fold[side] = np.unique(texts.session, return_inverse=True)[1] % _FOLDS
    areas = []
    for left in range(_FOLDS):
        seen, unseen = fold != left, fold == left
        means = x[seen & ours].mean(0), x[seen & ~ours].mean(0)
        centred = x[seen] - np.where(ours[seen, None], *means)
        covariance = centred.T @ centred / len(centred)
        ridge = _RIDGE * np.trace(covariance) / len(covariance) + 1e-12
        w = np.linalg.solve(covariance + ridge * np.eye(len(covariance)), means[0] - means[1])
        areas.append(auc(x[unseen & ours] @ w, x[unseen & ~ours] @ w))
    return float(np.mean(areas))


def auc(above: Floats, below: Floats) -> float:
    """The probability that one of `above` is larger than one of `below`; ties count half."""
    ordered = np.sort(below)
    smaller = ordered.searchsorted(above, "left") + ordered.searchsorted(above, "right")
    return float(smaller.mean() / (2 * len(below)))


def _cosine(a: Floats, b: Floats) -> float:
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), np.finfo(np.float64).tiny))


def sliced_w1(a: Floats, b: Floats) -> float:
    directions = np.random.Generator(np.random.Philox(_SEED)).normal(size=(a.shape[1], _PROJECTIONS))
    directions /= np.linalg.norm(directions, axis=0)
    distances = [_w1(x, y) for x, y in zip((a @ directions).T, (b @ directions).T, strict=True)]
    return float(np.mean(distances))


def _w1(a: Floats, b: Floats) -> float:
    """The area between two empirical distribution functions."""
    values = np.sort(np.concatenate([a, b]))
    at = values[:-1]
    apart = np.sort(a).searchsorted(at, "right") / len(a) - np.sort(b).searchsorted(at, "right") / len(b)
    return float(np.abs(apart) @ np.diff(values))


def frechet(a: Floats, b: Floats) -> float | None:
    """||m1 - m2||^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson and Landau 1982)."""
    n = min(len(a), len(b))
    if n < 2 * a.shape[1]:
        return None
    means, covariances = zip(*((x[:n].mean(0), np.cov(x[:n], rowvar=False)) for x in (a, b)), strict=True)
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    common = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariances[1] @ root), 0)).sum()
    apart = means[0] - means[1]
    return float(apart @ apart + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * common)
