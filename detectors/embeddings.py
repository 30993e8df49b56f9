"""References and baselines of embedding drift: the mean of unit vectors, and the spectrum of the noise of window means.

Window means of texts are noisier than independent texts would make them, because a session stays on its topic. So the
covariance is that of whole sessions, Sigma = sum over sessions of s s' / n, with s the sum of (phi - mu) over one
session: without it the test alarms a hundred times too often. Everything is summed while it streams by; of some
sessions the sum is kept, from which splitting finds the thresholds.
"""

import math
from hashlib import blake2b
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.detectors.base import Floats, Insufficient, State
from driftline.detectors.config import BudgetConfig, EmbeddingDriftConfig
from driftline.detectors.features import make_features, median_distance
from driftline.detectors.limits import SADDLEPOINT, Noise, powers_of_two, split, unsplit
from driftline.detectors.saddlepoint import log_sf, positive, quantile
from driftline.detectors.samples import Thinned
from driftline.detectors.scalar import HORIZON
from driftline.detectors.seasons import DAY, Season, both, no_table, no_units, no_vectors
from driftline.detectors.splitting import Sample, Singles
from driftline.detectors.topics import Topics, find
from driftline.detectors.units import NO_SESSION
from driftline.schemas.ids import stable_id
from driftline.schemas.results import Guarantee

_BATCH = 64  # samples (sessions or blocks) that one matrix product adds: a product each would cost more
_DIRECTIONS = 64  # that get a design effect of their own when samples are few
_ROWS = 4096  # texts whose features are computed at once: 32 MB at 1,024 features
_WIDTH = 384  # features at which the sample is as large as the settings say; of more features, as many bytes
_HISTORY = 8  # a window is at most this fraction of the reference: else the reference's own error is in every window


def unit_vectors(value: Floats, dimensions: int | None) -> tuple[Floats, NDArray[np.bool_]]:
    """The valid rows at length one, and which they are: finite, not zero, of the right dimension."""
    if value.ndim != 2 or (dimensions is not None and value.shape[1] != dimensions):
        return np.empty((0, dimensions or 0)), np.zeros(len(value), np.bool_)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows or is NaN is invalid
        squared = np.einsum("ij,ij->i", value, value)
    valid = np.isfinite(squared) & (squared > 0)
    kept = value if valid.all() else value[valid]
    return kept / np.sqrt(squared[valid])[:, None], valid


class _Moments:
    """Sums over samples, each a group of l events with vectors that sum to S: of s s', l s, l^2 and l, with s = S - l o
    around the origin o, the first sample's mean. So moments lose no digits, and half of them are enough."""

    def __init__(self, d: int) -> None:
        self.outer = np.zeros((d, d), np.float32)  # the upper triangle counts
        self.origin = np.zeros(d)
        self.weighted = np.zeros(d)
        self.total = np.zeros(d)
        self.squares = 0
        self.events = 0
        self.samples = 0
        self._waiting: list[NDArray[np.float32]] = []

    @property
    def nbytes(self) -> int:
        d = len(self.total)
        return 2 * d * (d + 1) + 24 * d + 4 * d * len(self._waiting)

    def add(self, sums: Floats, lengths: NDArray[np.int64]) -> None:
        if not len(sums):
            return
        if not self.samples:
            self.origin = sums[0] / lengths[0]
        centred = sums - lengths[:, None] * self.origin
        self.weighted += lengths @ centred
        self.total += sums.sum(0)
        self.squares += int((lengths**2).sum())
        self.events += int(lengths.sum())
        self.samples += len(sums)
        self._waiting += list(centred.astype(np.float32))
        while len(self._waiting) >= _BATCH:
            self._flush(_BATCH)

    def _flush(self, n: int) -> None:
        rows = np.array(self._waiting[:n])
        del self._waiting[:n]
        if n:
            self.outer += rows.T @ rows

    def covariance(self, mu: Floats) -> Floats:
        """Sum over samples of (S - l mu)(S - l mu)', per event."""
        self._flush(len(self._waiting))
        mu = mu - self.origin
        outer = (np.triu(self.outer) + np.triu(self.outer, 1).T).astype(np.float64)
        cross = np.outer(mu, self.weighted)
        cov: Floats = (outer - cross - cross.T + np.outer(mu, mu) * self.squares) / self.events
        return cov

    def copy(self) -> "_Moments":
        other = _Moments(len(self.total))
        other.restore(self.snapshot())
        return other

    def snapshot(self) -> State:
        d = len(self.total)
        return {
            "outer": self.outer[np.triu_indices(d)],
            "origin": self.origin.copy(),
            "weighted": self.weighted.copy(),
            "total": self.total.copy(),
            "squares": self.squares,
            "events": self.events,
            "samples": self.samples,
            "waiting": np.array(self._waiting, np.float32).reshape(len(self._waiting), d),
        }

    def restore(self, state: State) -> None:
        d = len(state["total"])
        self.outer = np.zeros((d, d), np.float32)
        self.outer[np.triu_indices(d)] = state["outer"]
        self.origin = state["origin"].copy()
        self.weighted, self.total = state["weighted"].copy(), state["total"].copy()
        self.squares, self.events, self.samples = state["squares"], state["events"], state["samples"]
        self._waiting = list(state["waiting"].copy())


class EmbeddingReference:
    """Streams over healthy texts. The first tick decides by majority whether sessions are known; if they are, events
    without one are left out, else blocks of consecutive events stand for sessions."""

    def __init__(self, config: EmbeddingDriftConfig, state: State | None = None) -> None:
        self._config = config
        self._features = make_features(config)
        self._block = config.block_events
        self.d = 0  # dimensions of vectors; known from the first valid one on
        self.bandwidth: float | None = None if self._features.texts else 0.0  # None: not before that many texts
        self._first = np.empty((0, 0), np.float32)  # unit vectors until then
        self._first_sessions = np.empty(0, np.int64)
        self.mode: Literal["sessions", "events"] | None = None
        self.invalid = 0
        self.skipped = 0
        self.groups = _Moments(0)  # sessions, or blocks
        self.singles = _Moments(0)  # events; without sessions only
        self.sample = Thinned(0)  # sums of sessions, with their events
        self._limit = config.sample
        self._digest = b""
        self._open: dict[int, tuple[Floats, int]] = {}  # session or block number -> (sum, events), ascending
        self._blocks = 0
        if state is not None:
            self._restore(state)

    @property
    def n(self) -> int:
        return self.groups.events + sum(length for _, length in self._open.values()) + len(self._first)

    @property
    def nbytes(self) -> int:
        open_ = len(self._open) * (8 * len(self.groups.total) + 8)
        singles = self.singles.nbytes if self.mode == "events" else 0
        return self.groups.nbytes + singles + self.sample.nbytes + self._first.nbytes + open_ + 300

    def add(self, value: Floats, session: NDArray[np.int64]) -> None:
        """A tick's events, taken by `FirstSixteen`."""
        x, valid = unit_vectors(value, self.d or None)
        self.invalid += len(value) - len(x)
        session = session[valid]
        if not len(x):
            return
        if self.mode is None:
            self.mode = "sessions" if 2 * int((session != NO_SESSION).sum()) > len(session) else "events"
            self.d = x.shape[1]
            size = self._features.size(self.d)
            self.groups, self.singles, self.sample = _Moments(size), _Moments(size), Thinned(size)
            self._first = np.empty((0, self.d), np.float32)
        if self.mode == "sessions":
            known = session != NO_SESSION
            self.skipped += len(x) - int(known.sum())
            x, session = x[known], session[known]
        else:
            session = (self.n + np.arange(len(x))) // self._block
        self._digest = blake2b(self._digest + x.tobytes() + session.tobytes(), digest_size=16).digest()
        if self.bandwidth is None:
            self._first = np.concatenate([self._first, x.astype(np.float32)])
            self._first_sessions = np.concatenate([self._first_sessions, session])
            if len(self._first) < self._features.texts:
                return
            x, session = self._first.astype(np.float64), self._first_sessions
            self.bandwidth = median_distance(x[: self._features.texts])
            self._first, self._first_sessions = self._first[:0], session[:0]
        for start in range(0, len(x), _ROWS):
            part = slice(start, start + _ROWS)
            self._learn(self._features.of(x[part], self.bandwidth), session[part])

    def _learn(self, phi: Floats, session: NDArray[np.int64]) -> None:
        self._collect(phi, session)
        if self.mode == "events":
            self.singles.add(phi, np.ones(len(phi), np.int64))
            self._close(self.n // self._block)

    def _collect(self, phi: Floats, session: NDArray[np.int64]) -> None:
        if not len(phi):
            return
        order = np.argsort(session, kind="stable")
        numbers, starts, lengths = np.unique(session[order], return_index=True, return_counts=True)
        sums = np.add.reduceat(phi[order], starts, axis=0)
        for number, total, length in zip(numbers.tolist(), sums, lengths.tolist(), strict=True):
            known = self._open.get(number)
            self._open[number] = (total, length) if known is None else (known[0] + total, known[1] + length)

    def close(self, before: int) -> None:
        """Sessions with smaller numbers are complete (`FirstSixteen.open_from`). Without this call the reference is as
        good, but holds every session until `fit`."""
        if self.mode == "sessions":
            self._close(before)

    def _close(self, before: int) -> None:
        done = sorted(number for number in self._open if number < before)
        if done:
            sums, lengths = zip(*(self._open.pop(number) for number in done), strict=True)
            self.groups.add(np.array(sums), np.array(lengths, np.int64))
            if self.mode == "sessions":
                self.sample.add(np.array(sums), np.array(lengths, np.int64))
                self._thin(self.sample)

    def share(self, references: int) -> None:
        """That many references learn side by side: keep no more than this one's share of the sample."""
        self._limit = self._config.sample // max(1, references)
        self._thin(self.sample)

    def _thin(self, sample: Thinned) -> None:
        sample.thin(self._limit * _WIDTH // max(_WIDTH, self._features.size(self.d)))

    def digest(self) -> str:
        return self._digest.hex()

    def complete(self) -> tuple[_Moments, Thinned]:
        """Moments and sample so far, with open sessions as they stand; an open block is left out."""
        groups, sample = self.groups.copy(), self.sample.copy()
        if self._open and self.mode == "sessions":
            sums, lengths = zip(*(self._open[number] for number in sorted(self._open)), strict=True)
            groups.add(np.array(sums), np.array(lengths, np.int64))
            sample.add(np.array(sums), np.array(lengths, np.int64))
            self._thin(sample)
        return groups, sample

    def snapshot(self) -> State:
        size = len(self.groups.total)
        return {
            "mode": self.mode,
            "d": self.d,
            "bandwidth": self.bandwidth,
            "first": self._first.copy(),
            "first_sessions": self._first_sessions.copy(),
            "invalid": self.invalid,
            "skipped": self.skipped,
            "groups": self.groups.snapshot(),
            "singles": self.singles.snapshot() if self.mode == "events" else None,
            "sample": self.sample.snapshot(),
            "limit": self._limit,
            "digest": self._digest,
            "open": [list(self._open), [length for _, length in self._open.values()]],
            "open_sums": np.array([total for total, _ in self._open.values()]).reshape(len(self._open), size),
        }

    def _restore(self, state: State) -> None:
        self.mode = state["mode"]
        self.d, self.bandwidth = state["d"], state["bandwidth"]
        self._first, self._first_sessions = state["first"].copy(), state["first_sessions"].copy()
        self.invalid, self.skipped = state["invalid"], state["skipped"]
        self.groups.restore(state["groups"])
        self.singles = _Moments(len(self.groups.total))
        if state["singles"] is not None:
            self.singles.restore(state["singles"])
        self.sample = Thinned(len(self.groups.total))
        self.sample.restore(state["sample"])
        self._limit = state["limit"]
        self._digest = state["digest"]
        numbers, lengths = state["open"]
        self._open = {
            number: (total.copy(), length)
            for number, total, length in zip(numbers, state["open_sums"], lengths, strict=True)
        }


class EmbeddingBaseline(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    n: int  # events in the reference
    guarantee: Guarantee
    sessions: bool  # whether events without a session are left out
    d: int  # dimensions of vectors
    bandwidth: float  # of the features; 0 with the linear kernel
    mu: Floats  # [features]
    spectrum: Floats  # eigenvalues of Sigma, positive
    events_per_unit: float  # sum of squared lengths / sum of lengths: long sessions are worth fewer units
    scales: NDArray[np.int64]  # [s] window lengths in events, ascending
    log_alpha: Floats  # [s] ln of the level of each
    limit: Floats  # [s] the statistic's value at that level
    tail: Floats  # [m, 3] index of the scale, value and its ln p, upwards, from p = 1e-4: what window means really do
    quiet: float  # the statistic's value at p = 0.2
    note: str  # about the thresholds
    centers: NDArray[np.float32]  # [k, d] of the reference's topics; none without sessions, or with the kernel rff
    shares: Floats  # [k + 1] of them
    near: float
    hours: NDArray[np.float32] = msgspec.field(default_factory=no_vectors)  # [24, features] means; empty: not known
    hour_units: Floats = msgspec.field(default_factory=no_units)  # [24] events that would know them as well
    hour_apart: Floats = msgspec.field(default_factory=no_units)  # [24] variance by what days are of their own accord
    hour_factors: Floats = msgspec.field(default_factory=no_table)  # [24, s] by which this stretches T

    def mean(self, hour: int) -> Floats:
        """[features] in an hour since the epoch."""
        return self.hours[hour % DAY].astype(np.float64) if len(self.hours) else self.mu

    def statistics(self, sums: Floats, n: NDArray[np.int64], hour: int) -> Floats:
        """T of windows of n events over which phi less its mean adds up to `sums`; the last of them in that hour."""
        if not len(self.hours):
            return _statistics(sums, n, self.n)
        scale = np.minimum(self.scales.searchsorted(n, side="right"), len(self.scales)) - 1
        factor = self.hour_factors[hour % DAY, np.maximum(scale, 0)]
        t: Floats = _statistics(sums, n, self.hour_units[hour % DAY]) / factor
        return t

    @property
    def detectable(self) -> str:
        """The shift that a window of about a thousand texts finds in half of the cases."""
        scale = max(0, int(self.scales.searchsorted(HORIZON, side="right")) - 1)
        n = int(self.scales[scale])
        excess = max(0.0, float(self.limit[scale] - self.spectrum.sum()))
        return f"Detectable within {n:,} texts: a mean that lies {math.sqrt(excess / effective(n, self.n)):.2g} off."

    @property
    def topics(self) -> Topics:
        return Topics(self.centers, self.shares, self.near)

    def log_p(self, scale: int, statistic: float) -> float:
        """ln P(T >= statistic) of a scale; beyond the end of its tail, an upper bound."""
        log_p = log_sf(statistic, self.spectrum)
        if log_p > SADDLEPOINT:
            return log_p
        _, values, levels = self.tail[self.tail[:, 0] == scale].T
        return float(np.interp(statistic, values, levels))


def fit(
    name: str, config: EmbeddingDriftConfig, budget: BudgetConfig, reference: EmbeddingReference
) -> EmbeddingBaseline | Insufficient:
    """Takes seconds: thresholds are sampled where sessions are known."""
    if reference.bandwidth is None:
        return Insufficient("too few texts", reference.n, config.min_events)
    groups, sample = reference.complete()
    if reference.mode == "sessions":
        for note, have, need in (
            ("too few texts", groups.events, config.min_events),
            ("too few sessions", groups.samples, config.min_sessions),
        ):
            if have < need:
                return Insufficient(note, have, need)
        mu = groups.total / groups.events
        noise = Noise(_eigenvalues(groups.covariance(mu)), groups.squares / groups.events)
        n = groups.events
    else:
        have, need = groups.samples * config.block_events, config.min_blocks * config.block_events
        if have < need:
            return Insufficient("too few texts (without session ids)", have, need)
        mu = reference.singles.total / reference.singles.events
        noise = _noise_of_blocks(config, groups, reference.singles.copy(), mu)
        n = reference.singles.events
    if not len(noise.spectrum):
        return Insufficient("all texts have the same embedding", n, n + 1)
    units_min = config.units_min if reference.mode == "sessions" else config.units_unsplit
    scales = powers_of_two(units_min * noise.events_per_unit, min(config.max_window, n // _HISTORY))
    if not len(scales):
        smallest = 1 << int(np.ceil(np.log2(units_min * noise.events_per_unit)))
        if smallest > config.max_window:
            note = f"sessions are too long: the least window, {smallest} texts, is over max_window"
            return Insufficient(note, n, n + 1)
        return Insufficient("too few texts for the least window", n, smallest * _HISTORY)
    baseline_id = stable_id(name, config.model_dump_json(), budget.model_dump_json(), reference.digest())
    if reference.mode == "sessions":
        limits = split(config, budget, noise, scales, _centred(sample, mu), int(baseline_id, 16))
        if not len(limits.scales):
            return Insufficient("sessions are too few or too much alike for a threshold", n, 2 * n)
    else:
        limits = unsplit(config, budget, noise, scales)
    sums, _ = sample.rows()
    directions = len(sums) and config.kernel == "linear"  # topics are of texts as they are, not of their features
    topics = find(unit_vectors(sums, None)[0], int(baseline_id, 16)) if directions else Topics.none(reference.d)
    return EmbeddingBaseline(
        id=baseline_id,
        n=n,
        guarantee="stated" if reference.mode == "sessions" else "approximate",
        sessions=reference.mode == "sessions",
        d=reference.d,
        bandwidth=reference.bandwidth,
        mu=mu,
        spectrum=noise.spectrum,
        events_per_unit=noise.events_per_unit,
        scales=limits.scales,
        log_alpha=limits.log_alpha,
        limit=limits.limit,
        tail=limits.tail,
        quiet=quantile(float(np.log(0.2)), noise.spectrum),
        note=limits.note,
        centers=topics.centers,
        shares=topics.shares,
        near=topics.near,
    )


def season(
    config: EmbeddingDriftConfig, budget: BudgetConfig, baseline: EmbeddingBaseline, state: State | None
) -> Season:
    """What learns the mean of texts in each hour of the day."""
    features = make_features(config)

    def phi(value: Floats, session: NDArray[np.int64]) -> Floats:
        x, _ = unit_vectors(value[session != NO_SESSION] if baseline.sessions else value, baseline.d)
        return features.of(x, baseline.bandwidth)

    return Season(phi, len(baseline.mu), budget, hours=DAY, together=True, state=state)


def seasoned(baseline: EmbeddingBaseline, learned: Season) -> EmbeddingBaseline:
    hours = learned.fit(baseline.spectrum.sum(keepdims=True))
    return _with_hours(baseline, hours.digest(), hours.mean, hours.noise_units[:, 0], hours.apart[:, 0])


def carried(baseline: EmbeddingBaseline, before: EmbeddingBaseline) -> EmbeddingBaseline:
    if not len(before.hours) or baseline.bandwidth != before.bandwidth:  # features of another bandwidth are others
        return baseline
    mean = baseline.mu + before.hours.astype(np.float64) - before.hours.mean(0)
    return _with_hours(baseline, before.id, mean, both(before.hour_units, baseline.n), before.hour_apart)


def _with_hours(
    baseline: EmbeddingBaseline, source: str, mean: Floats, units: Floats, apart: Floats
) -> EmbeddingBaseline:
    """Days differ in unknown directions: their variance counts as if it were all along the largest of the noise, which
    stretches the tail most (a sum of two matrices' eigenvalues is majorised by the sums of their eigenvalues)."""
    factors = np.ones((len(units), len(baseline.scales)))
    largest = np.arange(len(baseline.spectrum)) == baseline.spectrum.argmax()
    for (hour, scale), _ in np.ndenumerate(factors):
        if apart[hour] > 0:
            stretched = baseline.spectrum + effective(baseline.scales[scale], units[hour]) * apart[hour] * largest
            level = float(baseline.log_alpha[scale])
            factors[hour, scale] = max(1.0, quantile(level, stretched) / quantile(level, baseline.spectrum))
    return msgspec.structs.replace(
        baseline,
        id=stable_id(baseline.id, source),
        hours=mean.astype(np.float32),
        hour_units=units,
        hour_apart=apart,
        hour_factors=factors,
    )


def effective(n: Any, n_ref: Any) -> Any:
    """The size of a window that compares as well with mu as the window does with a reference of n_ref."""
    return n * n_ref / (n + n_ref)


def _statistics(sums: Floats, n: NDArray[np.int64], n_ref: float) -> Floats:
    t: Floats = effective(n, n_ref) / n**2 * np.einsum("sd,sd->s", sums, sums)
    return t


def _centred(sample: Thinned, mu: Floats) -> Sample:
    sums, lengths = sample.rows()
    centred: Singles = (sums - lengths[:, None] * mu).astype(np.float32)
    return Sample(centred, lengths.astype(np.float64))


def _noise_of_blocks(config: EmbeddingDriftConfig, blocks: _Moments, singles: _Moments, mu: Floats) -> Noise:
    """Without sessions. With 500 blocks or more the long-run covariance, its eigenvalues enlarged for their own
    error; else the covariance of events with a design effect per direction."""
    long_run, c = blocks.covariance(mu), singles.covariance(mu)
    values, vectors = np.linalg.eigh(c)
    top = np.argsort(values)[::-1][:_DIRECTIONS]
    along = np.einsum("di,de,ei->i", vectors[:, top], long_run, vectors[:, top])
    deff = float(along.sum() / values[top].sum())
    events_per_unit = 1.0 if deff <= 1.2 else float(np.ceil(4 * deff))
    if blocks.samples >= config.spectrum_blocks:
        return Noise(_eigenvalues(long_run) * (1 + 1 / np.sqrt(blocks.samples)), events_per_unit)
    left, left_long_run = np.trace(c) - values[top].sum(), np.trace(long_run) - along.sum()
    rest = np.delete(values, top) * (max(1.0, left_long_run / left) if left > 0 else 1.0)
    return Noise(positive(np.concatenate([np.maximum(values[top], along), rest])), events_per_unit)


def _eigenvalues(covariance: Floats) -> Floats:
    return positive(np.linalg.eigvalsh(covariance).astype(np.float64))
