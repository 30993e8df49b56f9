"""Embedding drift: has the mean direction of the latest texts left that of the reference?

For windows of several lengths n at once, T_n = n_e ||mean over the window of (phi - mu)||^2 with
n_e = n n_ref / (n + n_ref): without drift a weighted sum of chi-squares, whatever the texts, for windows that are long
enough. phi are unit vectors: the texts' own (the linear kernel: sees shifts of the mean), or features of them. Unlike
the e-detectors its false-alarm rate is calibrated, not proven.
"""

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftline.detectors import embeddings
from driftline.detectors.base import Floats, Insufficient, Measurement, State, TickBatch, Transitions
from driftline.detectors.config import BudgetConfig, EmbeddingDriftConfig
from driftline.detectors.embeddings import EmbeddingBaseline, EmbeddingReference, effective, unit_vectors
from driftline.detectors.engine import NEVER
from driftline.detectors.features import Features, make_features
from driftline.detectors.seasons import DAY, Clock, Season, confidence
from driftline.detectors.units import NO_SESSION

_BLOCK = 16  # events whose sum is kept as one: windows end now and begin at a block
_BLOCKS = 48  # before some become one: 75 kB at 384 dimensions
_SHARE = 4  # two blocks become one when the events after them are this many times theirs


@dataclass
class _Windows:
    """The sums of phi - mu of one stream over blocks of its last events, longer ones the older they are: an
    exponential histogram. A window of at least n events has fewer than 1.25 n, and 4,096 events fit in 42 blocks."""

    sums: NDArray[np.float32]  # [b, d] closed blocks, oldest first
    counts: NDArray[np.int64]  # [b] events of each
    began: NDArray[np.int64]  # [b] tick of the first event of each
    open_sum: Floats  # [d] of phi - mu, of the block not yet full
    open_n: int
    open_began: int

    @classmethod
    def empty(cls, baseline: EmbeddingBaseline) -> "_Windows":
        d, none = len(baseline.mu), np.empty(0, np.int64)
        return cls(np.empty((0, d), np.float32), none, none, np.zeros(d), 0, NEVER)

    def push(self, x: Floats, features: Features, baseline: EmbeddingBaseline, tick: int, hour: int) -> None:
        """Unit vectors."""
        n = len(x)
        if self.open_n == 0:
            self.open_began = tick
        starts = np.concatenate([[0], np.arange(_BLOCK - self.open_n, n, _BLOCK)])
        sums = features.sums(x, starts, baseline.bandwidth)
        sums -= np.diff(starts, append=n)[:, None] * baseline.mean(hour)
        sums[0] += self.open_sum
        filled, self.open_n = divmod(self.open_n + n, _BLOCK)
        if filled:
            began = np.full(filled, tick)
            began[0] = self.open_began
            self.open_began = tick
            self.sums = np.concatenate([self.sums, sums[:filled].astype(np.float32)])
            self.counts = np.concatenate([self.counts, np.full(filled, _BLOCK)])
            self.began = np.concatenate([self.began, began])
            if len(self.counts) > _BLOCKS:
                self._merge(int(baseline.scales[-1]))
        self.open_sum = sums[filled] if self.open_n else np.zeros_like(baseline.mu)

    def _merge(self, longest: int) -> None:
        """Leave out what no window needs, and make one block of neighbours that are old enough."""
        after = np.concatenate([np.cumsum(self.counts[::-1])[::-1], [0]])  # events from each block on
        first = max(0, int(np.searchsorted(-after, -longest, side="right")) - 1)
        starts, held = [first], 0
        for i, (count, later) in enumerate(zip(self.counts.tolist(), after[1:].tolist(), strict=True)):
            if i < first:
                continue
            if held and _SHARE * (held + count) > later:
                starts.append(i)
                held = 0
            held += count
        self.sums = np.add.reduceat(self.sums, starts, axis=0)
        self.counts = np.add.reduceat(self.counts, starts)
        self.began = self.began[starts]

    def deviations(self, baseline: EmbeddingBaseline) -> tuple[Floats, NDArray[np.int64]]:
        """The sums of phi - mu over the windows that history is long enough for, and their lengths. [<=s, d], [<=s]"""
        lengths = self.open_n + np.cumsum(self.counts[::-1])
        last = np.searchsorted(lengths, baseline.scales)
        last = last[last < len(lengths)]
        return self._over(last + 1), lengths[last]

    def _over(self, blocks: NDArray[np.intp]) -> Floats:
        """[n, d] the sums over so many last blocks, each with the open one."""
        chosen = np.arange(len(self.counts), 0, -1) <= blocks[:, None]
        sums: Floats = chosen.astype(np.float32) @ self.sums + self.open_sum
        return sums

    def change(self, baseline: EmbeddingBaseline, hour: int) -> int:
        """The tick in which the drift most likely began: that of the block from which on T is largest."""
        lengths = self.open_n + np.cumsum(self.counts[::-1])
        sums = self._over(np.arange(1, len(lengths) + 1))
        return int(self.began[::-1][baseline.statistics(sums, lengths, hour).argmax()])


@dataclass
class _Stream:
    windows: _Windows
    statistic: Floats  # [<=s] T of the windows in force, as of the last tick with events
    events: int = 0
    not_scored: int = 0
    fired: int = NEVER  # tick of the alarm, while in alarm
    since: int = NEVER
    scale: int = 0  # index of the smallest that alarmed, in the tick of the alarm
    alarming: int = 0  # how many scales, from the smallest, have to be quiet again (all up to the largest that alarmed)


class EmbeddingDrift:
    """Alarms when the mean of the latest texts' embeddings has left the reference's, at any window length. Units:
    vectors of all events that `FirstSixteen` takes, with its session numbers.

    An incident ends when every scale that alarmed is back below its p = 0.2 quantile, so when the windows have let go
    of the drifted texts, and after 120 s at the earliest. Then the windows start empty: what remains of the drift in
    longer ones can't alarm again.
    """

    name = "embedding_drift"
    baseline_type = EmbeddingBaseline

    def __init__(self, config: EmbeddingDriftConfig, budget: BudgetConfig) -> None:
        self._config = config
        self._budget = budget
        self._features = make_features(config)
        self._clock = Clock(budget)
        self._min_open = budget.ticks(config.recovery.min_open_s)
        self._max_open = budget.ticks(config.recovery.max_open_s)
        self._baselines: list[EmbeddingBaseline] = []
        self._streams: list[_Stream] = []

    def reference(self, state: State | None = None) -> EmbeddingReference:
        return EmbeddingReference(self._config, state)

    def fit(self, reference: EmbeddingReference) -> EmbeddingBaseline | Insufficient:
        return embeddings.fit(self.name, self._config, self._budget, reference)

    def slot_bytes(self, baseline: EmbeddingBaseline) -> int:
        return (_BLOCKS + 2) * (4 * len(baseline.mu) + 24) + 400

    def season(self, baseline: EmbeddingBaseline, state: State | None = None) -> Season:
        return embeddings.season(self._config, self._budget, baseline, state)

    def seasoned(self, baseline: EmbeddingBaseline, season: Season) -> EmbeddingBaseline:
        return embeddings.seasoned(baseline, season)

    def carried(self, baseline: EmbeddingBaseline, before: EmbeddingBaseline) -> EmbeddingBaseline:
        return embeddings.carried(baseline, before)

    def open(self, baseline: EmbeddingBaseline, slot: int | None = None) -> int:
        stream = self._fresh(baseline)
        if slot is None:
            self._baselines.append(baseline)
            self._streams.append(stream)
            return len(self._streams) - 1
        self._baselines[slot], self._streams[slot] = baseline, stream
        return slot

    def _fresh(self, baseline: EmbeddingBaseline) -> _Stream:
        return _Stream(_Windows.empty(baseline), np.empty(0))

    def update(self, batch: TickBatch, tick: int) -> Transitions:
        self._clock.strike(tick)
        fired, recovered = [], []
        order = np.argsort(batch.slot, kind="stable")
        slots, starts = np.unique(batch.slot[order], return_index=True)
        bounds = [*starts.tolist(), len(order)]
        for i, slot in enumerate(slots.tolist()):
            rows = order[bounds[i] : bounds[i + 1]] if len(slots) > 1 else slice(None)
            if self._absorb(slot, batch.value[rows], batch.session[rows], tick):
                fired.append(slot)
        for slot, stream in enumerate(self._streams):
            if stream.fired != NEVER and self._over(slot, tick):
                self.reset(slot)
                recovered.append(slot)
        return Transitions(fired, recovered)

    def _absorb(self, slot: int, value: Floats, session: NDArray[np.int64], tick: int) -> bool:
        """Whether the stream begins to alarm."""
        baseline, stream = self._baselines[slot], self._streams[slot]
        if baseline.sessions and (session == NO_SESSION).any():
            value = value[session != NO_SESSION]
        x, _ = unit_vectors(value, baseline.d)
        stream.not_scored += len(session) - len(x)
        if not len(x):
            return False
        stream.events += len(x)
        hour = self._clock.hour
        stream.windows.push(x, self._features, baseline, tick, hour)
        sums, n = stream.windows.deviations(baseline)
        stream.statistic = baseline.statistics(sums, n, hour)
        over = np.flatnonzero(stream.statistic >= baseline.limit[: len(n)])
        if not len(over):
            return False
        stream.alarming = max(stream.alarming, int(over[-1]) + 1)
        if stream.fired != NEVER:
            return False
        stream.fired = tick
        stream.scale = int(over[0])
        stream.since = stream.windows.change(baseline, hour)
        return True

    def _over(self, slot: int, tick: int) -> bool:
        stream, baseline = self._streams[slot], self._baselines[slot]
        age = tick - stream.fired
        quiet = bool((stream.statistic[: stream.alarming] < baseline.quiet).all())
        return (age >= self._min_open and quiet) or age >= self._max_open

    def reset(self, slot: int) -> None:
        self._streams[slot] = self._fresh(self._baselines[slot])

    def _leading(self, slot: int) -> tuple[int, float] | None:
        """Index and ln p of the scale with the most evidence against its level; in alarm, the smallest that alarmed.
        None while history is too short for any."""
        stream, baseline = self._streams[slot], self._baselines[slot]
        if not len(stream.statistic):
            return None
        log_p = np.array([baseline.log_p(scale, t) for scale, t in enumerate(stream.statistic.tolist())])
        scale = stream.scale if stream.fired != NEVER else int((log_p - baseline.log_alpha[: len(log_p)]).argmin())
        return scale, float(log_p[scale])

    def measure(self, slot: int) -> Measurement:
        """value: the distance ||mean phi - mu||; baseline: what it would be by chance, without drift."""
        stream, baseline = self._streams[slot], self._baselines[slot]
        shown: dict[str, Any] = {"threshold": float(baseline.log_alpha[0]), "n_events": stream.events}
        leading = self._leading(slot)
        if leading is not None:
            scale, log_p = leading
            sums, n = stream.windows.deviations(baseline)
            value = float(np.linalg.norm(sums[scale]) / n[scale])
            chance = float(np.sqrt(baseline.spectrum.sum() / effective(n[scale], baseline.n)))
            shown = {
                "threshold": float(baseline.log_alpha[scale]),
                "log_p": log_p,
                "value": value,
                "baseline": chance,
                "effect": value / chance - 1,
                "n_events": int(n[scale]),
                "n_units": int(n[scale] / baseline.events_per_unit),
            }
        said = (
            f"{baseline.detectable} {baseline.note}".strip()
            if leading
            else f"Fewer than {int(baseline.scales[0])} texts so far."
        )
        return Measurement(
            **shown,
            n_not_scored=stream.not_scored,
            guarantee=baseline.guarantee,
            since_tick=stream.since if stream.fired != NEVER else None,
            note=" ".join(filter(None, [said, confidence(len(baseline.hours), DAY)])),
        )

    def witness_scores(self, slot: int, vectors: Floats) -> Floats:
        """<phi(x), mean - mu> for each vector: the highest carry the drift. The mean is that of the window with the
        most evidence. NaN for invalid vectors, and for all while there is no window."""
        baseline, leading = self._baselines[slot], self._leading(slot)
        scores = np.full(len(vectors), np.nan)
        if leading is not None:
            sums, n = self._streams[slot].windows.deviations(baseline)
            x, valid = unit_vectors(vectors, baseline.d)
            scores[valid] = self._features.of(x, baseline.bandwidth) @ (sums[leading[0]] / n[leading[0]])
        return scores

    def baseline(self, slot: int) -> EmbeddingBaseline:
        return self._baselines[slot]

    def snapshot(self) -> State:
        known = {baseline.id: msgspec.structs.asdict(baseline) for baseline in self._baselines}
        return {
            "known": known,
            "hour": self._clock.hour,
            "slots": [baseline.id for baseline in self._baselines],
            "streams": [_dump(stream) for stream in self._streams],
        }

    def restore(self, state: State) -> None:
        known = {key: EmbeddingBaseline(**fields) for key, fields in state["known"].items()}
        self._clock.hour = state["hour"]
        self._baselines = [known[key] for key in state["slots"]]
        self._streams = [_load(fields) for fields in state["streams"]]


def _dump(stream: _Stream) -> dict[str, Any]:
    windows = {key: _copy(value) for key, value in vars(stream.windows).items()}
    return {**{key: _copy(value) for key, value in vars(stream).items()}, "windows": windows}


def _load(fields: dict[str, Any]) -> _Stream:
    windows = _Windows(**{key: _copy(value) for key, value in fields["windows"].items()})
    return _Stream(**{**{key: _copy(value) for key, value in fields.items() if key != "windows"}, "windows": windows})


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value
